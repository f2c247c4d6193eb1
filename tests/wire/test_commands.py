"""Messages about storage commands that the client runs by itself."""

import struct

import pytest

from rusb.errors import ParseError, RemoteProtocolError
from rusb.usb.bulk_only import BulkOnly
from rusb.wire._commands import (
    CancelCommands,
    CommandResult,
    Commands,
    RunCommand,
    Stage,
    parse_request,
)

WRAPPER = bytes.fromhex(  # READ(10) of 120 KiB at block 2048
    "55534243 44332211 00e00100 80 00 0a 28 00 00000800 00 00f0 00 000000000000"
)
RUN = bytes.fromhex("10002f00 03020000 2a000000 02 81 0000") + WRAPPER
STATUS = bytes.fromhex("55534253 44332211 00000000 00")
RESULT = bytes.fromhex("11002400 03020000 2a000000 00 00 0000 03000000") + STATUS
PIPES = BulkOnly(0, 0x81, 0x02, 512)


def test_the_example_of_the_specification() -> None:
    """docs/spec/storage.md, 6.1."""
    request = RunCommand(0x203, 42, 0x02, 0x81, is_first=False, wrapper=WRAPPER)
    assert request.serialize() == RUN
    assert parse_request(RUN) == request
    first = bytearray(RUN)
    first[14] = 2
    assert parse_request(bytes(first)) == RunCommand(
        0x203, 42, 0x02, 0x81, is_first=True, wrapper=WRAPPER
    )


def test_a_result_both_ways() -> None:
    result = CommandResult(0x203, 42, Stage.DONE, 0, 3, STATUS, b"abc")
    assert result.serialize() == RESULT + b"abc"
    found = CommandResult.parse(RESULT + b"abc")
    assert (found.handle, found.status, bytes(found.data)) == (42, STATUS, b"abc")


def test_a_large_result_has_no_size() -> None:
    data = bytes(120 << 10)
    message = CommandResult(1, 2, Stage.DONE, 0, len(data), STATUS, data).serialize()
    assert message[2:4] == b"\0\0"
    assert CommandResult.parse(message).moved == len(data)


@pytest.mark.parametrize("is_abort", [True, False])
def test_cancelling_both_ways(is_abort: bool) -> None:
    message = bytes.fromhex("12000a00 03020000") + bytes((is_abort, 0))
    assert CancelCommands(0x203, is_abort).serialize() == message
    assert parse_request(message) == CancelCommands(0x203, is_abort)


def test_what_is_of_a_later_version_is_left_alone() -> None:
    assert parse_request(b"\x13\0\x04\0") is None


@pytest.mark.parametrize("message", [RUN, bytes.fromhex("12000a00030200000000")])
def test_a_request_that_is_cut_is_refused(message: bytes) -> None:
    for size in range(len(message)):
        with pytest.raises(ParseError):
            parse_request(message[:size])


def test_each_command_has_one_outcome() -> None:
    sent: list[bytes] = []
    found: list[CommandResult] = []
    commands = Commands(lambda device, message: sent.append(message))
    device = commands.of(7)
    for _ in range(3):
        device.run(PIPES, WRAPPER, found.append)
    requests = [RunCommand.parse(message) for message in sent]
    assert [r.is_first for r in requests] == [True, False, False]
    assert len({r.handle for r in requests}) == 3
    answer = CommandResult(7, requests[1].handle, Stage.NOT_BEGUN)
    commands.received(answer.serialize())
    commands.received(answer.serialize())  # again
    commands.received(CommandResult(8, 1, Stage.NOT_BEGUN).serialize())
    assert [r.handle for r in found] == [requests[1].handle]
    device.cancel(is_abort=False)
    assert parse_request(sent[-1]) == CancelCommands(7, is_abort=False)
    device.close()
    assert [r.stage for r in found[1:]] == [Stage.GONE] * 2
    device.run(PIPES, WRAPPER, found.append)
    assert found[-1].stage is Stage.GONE
    assert len(sent) == 4


def test_a_device_that_is_opened_again_hears_nothing_of_before() -> None:
    found: list[CommandResult] = []
    commands = Commands(lambda device, message: None)
    before, after = commands.of(7), commands.of(7)
    before.close()
    after.run(PIPES, WRAPPER, found.append)
    commands.received(CommandResult(7, 1, Stage.NOT_BEGUN).serialize())
    assert [r.stage for r in found] == [Stage.NOT_BEGUN]
    commands.close()
    assert not after.is_open


def test_an_outcome_of_a_later_version_is_left_alone() -> None:
    commands = Commands(lambda device, message: None)
    commands.received(b"\x13\0\4\0")
    commands.of(7).cancel(is_abort=True)  # there is nothing to cancel


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x11\0\0",
        RESULT,  # three bytes of data are missing
        RESULT + b"abcd",
        RESULT[:12] + b"\x05" + RESULT[13:] + b"abc",  # a stage that is none
        RESULT[:16] + b"\x04" + RESULT[17:] + b"abc",  # four bytes, it says
        struct.pack("<BBH", 17, 0, 4),
    ],
)
def test_an_outcome_that_is_none_ends_the_connection(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Commands(lambda device, message: None).received(message)
