"""Requests one at a time and in order, URBs behind them; no loop is needed for that."""

from collections.abc import Coroutine
from typing import Any

import pytest

from rusb.errors import BackendError, DeviceGone
from rusb.usb.queue import DeviceQueue, Request, status_of
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus


class Gate:
    """Something that a request waits for."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __await__(self) -> Any:
        yield
        if self.error is not None:
            raise self.error


class Bench:
    """A queue; ``said`` is what happened, in order."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.running: list[Coroutine[Any, Any, None]] = []
        self.queue = DeviceQueue(self.start, lambda u: self.said.append(u.id))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.running.append(work)

    def call(self, name: str) -> Gate:
        gate = Gate()

        async def run() -> None:
            self.said.append(f"{name} begins")
            await gate

        def done(error: Exception | None) -> None:
            self.said.append(f"{name}: {status_of(error).name}")

        self.queue.call(run, done)
        return gate

    def step(self) -> None:
        """Let what waits for a gate go on."""
        try:
            self.running[-1].send(None)
        except StopIteration:
            del self.running[-1]


def urb(number: int) -> Urb:
    return Urb(number, TransferType.BULK, 0x81, 8)


def test_one_request_at_a_time_and_urbs_in_their_place() -> None:
    bench = Bench()
    assert not bench.queue.is_busy
    bench.call("reset")
    assert bench.queue.is_busy
    bench.queue.wait(urb(1))
    bench.call("claim")
    bench.queue.wait(urb(2))
    assert (len(bench.running), bench.said) == (1, [])
    bench.step()
    assert bench.said == ["reset begins"]
    bench.step()
    assert bench.said[1:] == ["reset: OK", 1, "claim begins"]
    bench.step()
    assert bench.said[4:] == ["claim: OK", 2]
    assert (bench.queue.is_busy, bench.running) == (False, [])
    bench.call("again")
    assert len(bench.running) == 1
    bench.running.pop().close()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendError("no"), UrbStatus.STALL),
        (DeviceGone("gone"), UrbStatus.NO_DEVICE),
        (ValueError("a bug"), UrbStatus.IO_ERROR),
    ],
)
def test_a_request_that_fails_holds_nothing_up(
    error: Exception, status: UrbStatus
) -> None:
    bench = Bench()
    bench.call("reset").error = error
    bench.queue.wait(urb(1))
    bench.step()
    bench.step()
    assert bench.said == ["reset begins", f"reset: {status.name}", 1]


def test_what_waits_can_be_withdrawn_or_all_be_taken_out() -> None:
    bench = Bench()
    bench.call("reset")
    bench.step()
    for number in (1, 2, 3):
        bench.queue.wait(urb(number))
    bench.call("claim")
    assert bench.queue.withdraw(2) == urb(2)
    assert bench.queue.withdraw(2) is None
    first, third, claim = bench.queue.clear()
    assert (first, third) == (urb(1), urb(3))
    assert isinstance(claim, Request)
    claim.done(DeviceGone("it was closed"))
    bench.step()
    assert bench.said == ["reset begins", "claim: NO_DEVICE", "reset: OK"]
    assert not bench.queue.is_busy


def test_a_request_that_is_cancelled_is_answered() -> None:
    bench = Bench()
    bench.call("reset")
    bench.step()
    bench.running.pop().close()
    assert bench.said == ["reset begins", "reset: STALL"]
    assert not bench.queue.is_busy


def test_what_is_dropped_says_so_for_each_packet() -> None:
    sound = Urb(1, TransferType.ISOCHRONOUS, 0x02, 6, b"123456", packets=(2, 2, 2))
    assert sound.start_frame is None  # as soon as possible
    lost = UrbResult.dropped(sound)
    assert (lost.status, lost.length, lost.error_count) == (UrbStatus.OK, 0, 3)
    assert [p.length for p in lost.packets] == [0, 0, 0]
