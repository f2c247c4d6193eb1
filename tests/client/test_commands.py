"""Storage commands that the client runs by itself."""

import struct
from collections.abc import Callable

import pytest

from rusb.client.commands import MAX_WAITING, CommandRunner
from rusb.usb.urb import Completion, UrbResult, UrbStatus
from rusb.wire._commands import CommandResult, RunCommand, Stage

IN, OUT = 0x81, 0x02
OK, STALL = UrbStatus.OK, UrbStatus.STALL


class ByHand:
    """A device whose transfers a test completes."""

    def __init__(self) -> None:
        self.open: list[tuple[int, int, Completion]] = []
        self.cleared: list[Callable[[], None]] = []
        self.cancels = 0
        self.answers: list[CommandResult] = []
        self.runner = CommandRunner(
            submit=lambda end, size, data, done: self.open.append((end, size, done)),
            cancel=self._cancel,
            clear_halt=lambda endpoint, done: self.cleared.append(done),
            answer=self.answers.append,
        )
        self._last = 0

    def _cancel(self) -> None:
        self.cancels += 1

    def run(
        self,
        length: int = 512,
        *,
        is_first: bool = False,
        flags: int = 0x80,
        ends: tuple[int, int] = (OUT, IN),
    ) -> None:
        self._last += 1
        head = b"USBC", self._last, length, flags, 0, 6
        wrapper = struct.pack("<4sIIBBB16x", *head)
        self.runner.run(RunCommand(1, self._last, *ends, is_first, wrapper))

    def end(self, status: UrbStatus = OK, data: bytes = b"") -> None:
        endpoint, size, done = self.open.pop(0)
        length = size if endpoint == OUT and status is OK else len(data)
        done(UrbResult(status, data, length))

    def status(self, tag: int, code: int = 0) -> bytes:
        return struct.pack("<4sIIB", b"USBS", tag, 0, code)

    def stages(self) -> list[tuple[int, Stage, int]]:
        return [(a.handle, a.stage, a.moved) for a in self.answers]


def test_stage_by_stage_one_after_the_other() -> None:
    device = ByHand()
    device.run()
    device.run(0)
    shapes = []
    for data in (b"", bytes(512), device.status(1), b"", device.status(2)):
        shapes.append([entry[:2] for entry in device.open])
        device.end(OK, data)
    assert shapes == [[(OUT, 31)], [(IN, 512)], [(IN, 13)], [(OUT, 31)], [(IN, 13)]]
    assert device.stages() == [(1, Stage.DONE, 512), (2, Stage.DONE, 0)]
    assert device.answers[0].status == device.status(1)
    assert not device.open


def test_a_data_stage_that_stalls_has_a_status_behind_it() -> None:
    device = ByHand()
    device.run()
    device.end()
    device.end(STALL, bytes(100))
    assert not device.open
    device.cleared.pop()()
    device.end(OK, device.status(1, 1))
    assert device.stages() == [(1, Stage.DONE, 100)]
    assert device.answers[0].status[-1] == 1


@pytest.mark.parametrize("ends", [1, 2, 3])
def test_after_one_that_fails_none_begins_until_the_server_knows(ends: int) -> None:
    device = ByHand()
    for _ in range(3):
        device.run()
    for _ in range(ends - 1):
        device.end()
    device.end(UrbStatus.IO_ERROR)
    device.run()  # it was on its way
    stages = [Stage.COMMAND, Stage.DATA, Stage.STATUS]
    nothing = Stage.NOT_BEGUN
    assert device.stages() == [
        *((1, stages[ends - 1], 0), (2, nothing, 0), (3, nothing, 0), (4, nothing, 0))
    ]
    device.run(is_first=True)
    assert [entry[:2] for entry in device.open] == [(OUT, 31)]


def test_one_that_has_a_bad_status_ends_those_behind_it() -> None:
    device = ByHand()
    device.run(0)
    device.run(0)
    device.end()
    device.end(OK, device.status(1, 1))
    assert device.stages() == [(1, Stage.DONE, 0), (2, Stage.NOT_BEGUN, 0)]


def test_a_short_command_or_status_is_a_failure() -> None:
    device = ByHand()
    device.run(0)
    device.end()
    device.end(OK, b"USBS")
    assert device.stages() == [(1, Stage.STATUS, 0)]


def test_what_waits_does_not_begin_when_it_is_cancelled() -> None:
    device = ByHand()
    for _ in range(3):
        device.run(0)
    device.runner.cancel(is_abort=False)
    assert [a.handle for a in device.answers] == [2, 3]
    device.end()
    device.end(OK, device.status(1))
    assert device.answers[-1].stage is Stage.DONE
    assert not device.cancels


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("ends", [1, 2])
def test_an_abort_begins_no_further_stage(ends: int, is_quick: bool) -> None:
    device = ByHand()
    device.run()
    for _ in range(ends - 1):
        device.end()
    device.runner.cancel(is_abort=True)
    assert device.cancels == 1
    if is_quick:  # it was done before the abort came
        device.end(OK, bytes(512) if ends == 2 else b"")
    else:
        device.end(UrbStatus.CANCELLED)
    assert not device.open
    assert len(device.answers) == 1
    assert device.answers[0].stage is not Stage.DONE


def test_an_abort_while_a_halt_is_cleared() -> None:
    device = ByHand()
    device.run()
    device.end()
    device.end(STALL)
    device.runner.cancel(is_abort=True)
    device.cleared.pop()()
    assert not device.open
    assert device.stages() == [(1, Stage.STATUS, 0)]


@pytest.mark.parametrize(
    ("length", "flags", "ends"),
    [
        ((1 << 20) + 1, 0x80, (OUT, IN)),
        (512, 0, (OUT, IN)),  # data to the device
        (512, 0x81, (OUT, IN)),
        (512, 0x80, (IN, IN)),
        (512, 0x80, (OUT, OUT)),
    ],
)
def test_what_this_is_not_for_is_not_begun(
    length: int, flags: int, ends: tuple[int, int]
) -> None:
    device = ByHand()
    device.run(length, flags=flags, ends=ends)
    assert device.stages() == [(1, Stage.NOT_BEGUN, 0)]
    assert not device.open


def test_so_many_may_wait_and_no_more() -> None:
    device = ByHand()
    for _ in range(MAX_WAITING + 2):
        device.run(0)
    assert [a.handle for a in device.answers] == [MAX_WAITING + 2]
    many = ByHand()
    for _ in range(20):
        many.run(1 << 20)
    assert [a.handle for a in many.answers] == [18, 19, 20]
