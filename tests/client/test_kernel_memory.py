"""Transfers that wait for the memory of usbfs, and large ones that are cut."""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest

from rusb.client.backends import _kernel_memory as kernel_memory
from rusb.client.backends._kernel_memory import MIN_PIECE, KernelMemory
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

BULK, INTERRUPT = TransferType.BULK, TransferType.INTERRUPT
MIB = 1 << 20


class Device:
    """A device and its kernel.

    Attributes:
        room: tells whether the kernel has room for so many bytes.
        kernel: what it has.
        done: results by id of the URB, in the order of completion.
    """

    def __init__(self, limit: int = 16 * MIB) -> None:
        self.memory = KernelMemory(limit)
        self.room: Callable[[int], bool] = lambda length: True
        self.kernel = deque[tuple[Urb, Completion]]()
        self.done: dict[int, UrbResult] = {}

    def submit(self, id: int, endpoint: int, length: int, data: bytes = b"") -> None:
        def complete(result: UrbResult) -> None:
            assert id not in self.done
            self.done[id] = result

        urb = Urb(id, BULK, endpoint, length, data)
        self.memory.submit(self, urb, complete)

    def start(self, urb: Urb, complete: Completion) -> bool:
        if not self.room(urb.length):
            return False
        self.kernel.append((urb, complete))
        self.memory.took(urb)
        return True

    def is_idle(self, endpoint: int) -> bool:
        return all(urb.endpoint != endpoint for urb, _ in self.kernel)

    def finish(
        self, data: bytes | None = None, status: UrbStatus = UrbStatus.OK
    ) -> Urb:
        """Complete what the kernel has had longest, by default whole."""
        urb, complete = self.kernel.popleft()
        found = bytes(urb.length) if data is None else data
        moved = found if urb.is_in else b""
        complete(UrbResult(status, moved, len(found)))
        self.memory.gave_back(self, urb)
        return urb

    def cancel(self, id: int) -> None:
        self.memory.cancel(self, id)

    def sizes(self) -> list[int]:
        return [urb.length for urb, _ in self.kernel]


def test_what_fits_into_a_piece_is_not_cut() -> None:
    device = Device()
    device.submit(1, 0x81, MIB)
    device.submit(2, 0x02, 3, b"abc")
    assert device.sizes() == [MIB, 3]


def test_a_quarter_is_for_endpoints_with_nothing_in_flight() -> None:
    device = Device()
    for number in range(1, 20):
        device.submit(number, 0x81, 3 << 18)
    assert len(device.kernel) == 15  # three quarters of what there is
    device.submit(30, 0x82, 3 << 18)
    device.submit(31, 0x82, 3 << 18)
    device.submit(32, 0x00, 0)
    assert [urb.id for urb, _ in device.kernel][15:] == [30, 32]


def test_a_large_read_comes_in_pieces_one_after_another() -> None:
    device = Device()
    device.submit(1, 0x81, 2 * MIB + 100)
    device.submit(2, 0x81, 512)  # waits for all of them
    device.submit(3, 0x02, 4, b"else")  # does not
    assert device.sizes() == [MIB, 4]
    device.finish(b"a" * MIB)
    device.finish()
    assert device.sizes() == [MIB]
    device.finish(b"b" * MIB)
    assert (device.sizes(), list(device.done)) == ([100], [3])
    device.finish(b"c" * 100)
    assert device.sizes() == [512]
    device.finish(b"next")
    whole = b"a" * MIB + b"b" * MIB + b"c" * 100
    assert device.done[1] == UrbResult(UrbStatus.OK, whole, len(whole))
    assert device.done[2].data == b"next"


def test_a_short_packet_ends_a_large_read() -> None:
    device = Device()
    device.submit(1, 0x81, 3 * MIB)
    device.submit(2, 0x81, 512)
    device.finish(b"a" * MIB)
    device.finish(b"short")
    assert device.done[1].status is UrbStatus.OK
    assert device.done[1].length == len(device.done[1].data) == MIB + 5
    assert device.sizes() == [512]


def test_a_large_write_goes_in_pieces() -> None:
    device = Device()
    data = bytes(range(256)) * (9 << 10)
    device.submit(1, 0x02, len(data), data)
    sent = b""
    while device.kernel:
        sent += bytes(device.finish().data)
    assert sent == data
    assert device.done[1] == UrbResult(UrbStatus.OK, b"", len(data))


@pytest.mark.parametrize("status", [UrbStatus.STALL, UrbStatus.NO_DEVICE])
def test_a_failure_ends_a_large_transfer_with_what_was_moved(status: UrbStatus) -> None:
    device = Device()
    device.submit(1, 0x81, 3 * MIB)
    device.submit(2, 0x81, 512)
    device.finish(b"a" * MIB)
    device.finish(b"b" * 512, status)
    assert device.done[1] == UrbResult(status, b"a" * MIB + b"b" * 512, MIB + 512)
    assert device.sizes() == [512]


@pytest.mark.parametrize("status", [UrbStatus.OK, UrbStatus.CANCELLED])
def test_a_cancelled_read_begins_no_further_piece(status: UrbStatus) -> None:
    """Also if the piece under way was whole when the cancel came."""
    device = Device()
    device.submit(1, 0x81, 3 * MIB)
    device.submit(2, 0x81, 512)
    device.finish()
    device.cancel(1)
    device.finish(status=status)
    assert device.done[1].status is UrbStatus.CANCELLED
    assert device.done[1].length == 2 * MIB
    assert device.sizes() == [512]


async def test_pieces_wait_for_room_and_can_be_cancelled_there() -> None:
    device = Device()
    device.submit(1, 0x81, 3 * MIB)
    for number in range(2, 20):
        device.submit(number, 0x82, MIB)
    device.room = lambda length: length < MIB and len(device.kernel) < 11
    device.finish()  # the second piece is refused
    waiting = len(device.kernel)
    device.cancel(1)
    assert device.done[1].status is UrbStatus.CANCELLED
    assert device.done[1].length == MIB
    device.submit(30, 0x81, 512)
    device.room = lambda length: True
    device.finish()
    assert len(device.kernel) > waiting
    assert 512 in device.sizes()


def test_pieces_are_a_quarter_of_little_memory() -> None:
    device = Device(1 * MIB)
    device.submit(1, 0x81, 900_000)
    assert device.sizes() == [245_760 - 245_760 % MIN_PIECE]
    device = Device(64 << 10)
    device.submit(1, 0x81, 900_000)
    assert device.sizes() == [MIN_PIECE]


def test_what_the_kernel_refuses_is_cut_smaller() -> None:
    """As where it has no stretch of a megabyte left (no scatter-gather)."""
    device = Device(0)
    device.room = lambda length: length <= 200 << 10
    device.submit(1, 0x81, MIB)
    device.submit(2, 0x81, 512)
    pieces = []
    while device.kernel:
        pieces.append(device.finish().length)
    assert pieces[-1] == 512
    assert max(pieces) <= 200 << 10
    assert sum(pieces[:-1]) == MIB
    assert (device.done[1].length, list(device.done)) == (MIB, [1, 2])


async def test_a_transfer_waits_for_other_programs_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_memory, "RETRY_SECONDS", 0.001)
    device = Device()
    device.room = lambda length: False
    device.submit(1, 0x81, 2 * MIB)
    await asyncio.sleep(0.02)
    assert device.done == {}
    device.room = lambda length: length <= MIN_PIECE
    async with asyncio.timeout(20):
        while not device.kernel:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        device.room = lambda length: False
        device.finish()
        while not device.done:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert device.done[1].status is UrbStatus.IO_ERROR
    assert device.done[1].length == MIN_PIECE
    assert "the kernel has no memory for it" in caplog.text
