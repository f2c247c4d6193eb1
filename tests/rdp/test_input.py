"""Keyboard and mouse of viewers (1.15, MS-RDPBCGR 2.2.8.1)."""

import struct

import pytest

from rusb.errors import ParseError
from rusb.rdp.events import InputKind, InputReceived
from rusb.rdp.input import parse_fast_input, parse_slow_input
from rusb.rdp.security import PlainSecurity
from rusb.rdp.share import DataType
from tests.support.rdp.raw import RawClient

KEY, MOUSE, SYNC = InputKind.KEY, InputKind.MOUSE, InputKind.SYNCHRONIZE


def slow(*events: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<IHHHH", 0, *event) for event in events)
    return struct.pack("<HH", len(events), 0) + body


def fast(*events: bytes) -> bytes:
    body = b"".join(events)
    return bytes([len(events) << 2, len(body) + 2]) + body


def parse(packet: bytes) -> list[InputReceived]:
    return parse_fast_input(*PlainSecurity().unwrap_fast(packet))


def test_slow_path() -> None:
    body = slow((4, 0x8100, 0x1C, 0), (0x8001, 0x0800, 10, 20), (0, 0, 2, 0))
    assert parse_slow_input(body) == [
        InputReceived(KEY, 0x8100, 0x1C),
        InputReceived(MOUSE, 0x0800, 10, 20),
        InputReceived(SYNC, 0, 2),
    ]


def test_kinds_that_vrdp_ignores_are_left_out() -> None:
    assert parse_slow_input(slow((5, 0, 65, 0), (2, 0, 1, 0), (0x8002, 1, 2, 3))) == []
    events = [b"\x40" + bytes(6), b"\x80A\0", b"\xc0" + bytes(4)]
    assert parse(fast(*events)) == []


def test_fast_path() -> None:
    mouse = b"\x20" + struct.pack("<HHH", 0x9000, 300, 200)
    packet = fast(b"\x00\x1e", b"\x01\x1e", b"\x03\x1d", b"\x05\x45", mouse, b"\x62")
    assert parse(packet) == [
        InputReceived(KEY, 0, 0x1E),
        InputReceived(KEY, 0x8000, 0x1E),
        InputReceived(KEY, 0x8100, 0x1D),
        InputReceived(KEY, 0x8200, 0x45),
        InputReceived(MOUSE, 0x9000, 300, 200),
        InputReceived(SYNC, 0, 2),
    ]


def test_fast_path_with_a_count_of_its_own_and_a_long_length() -> None:
    keys = b"\x00\x1e" * 60
    packet = bytes([0, 0x80, 4 + len(keys), 60]) + keys
    assert parse(packet) == [InputReceived(KEY, 0, 0x1E)] * 60


@pytest.mark.parametrize(
    "packet",
    [b"\x04\x02", b"\x04\x04\x20\x00", b"\x04\x03\xa0", b"\x04\x05\x62\x62\x62"],
)
def test_malformed_fast_path(packet: bytes) -> None:
    with pytest.raises(ParseError):
        parse(packet)


def test_input_reaches_the_shell_both_ways() -> None:
    raw = RawClient().until_active()
    raw.seen.clear()
    raw.feed(raw.data(DataType.INPUT, slow((4, 0, 0x1E, 0))), fast(b"\x01\x1e"))
    assert raw.seen == [InputReceived(KEY, 0, 0x1E), InputReceived(KEY, 0x8000, 0x1E)]
