"""The memory that usbfs lends: transfers wait for it, and large ones are cut."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeAlias

from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

__all__ = ["KernelMemory", "MemoryUser", "usable"]

log = logging.getLogger(__name__)

RETRY_SECONDS, MAX_RETRIES = 0.05, 100
"""How often to ask for memory of the kernel that other programs have."""

MAX_PIECE, MIN_PIECE = 1 << 20, 16 << 10
"""Bytes of a bulk transfer that go to the kernel at once. It may want them in one
stretch, which it hardly finds for more; 16 KiB it always had, and they are a multiple
of every packet, so that the device sees no difference."""


class MemoryUser(Protocol):
    """A device whose transfers need the memory."""

    def start(self, urb: Urb, complete: Completion) -> bool:
        """Submit to the kernel; False: it has no room now, nothing was done."""

    def is_idle(self, endpoint: int) -> bool:
        """Has the kernel nothing of an endpoint?"""


_Place: TypeAlias = tuple[MemoryUser, int]
"""An endpoint of a device."""


def usable(limit: int) -> int:
    """Bytes for transfers: the kernel counts its own structures, too."""
    return limit - limit // 16


@dataclass(slots=True, eq=False)
class _Waiting:
    """A transfer, or a piece of one, that is not in the kernel."""

    device: MemoryUser
    urb: Urb
    complete: Completion
    cut: "_Cut | None" = None

    @property
    def place(self) -> _Place:
        return self.device, self.urb.endpoint


class _Cut:
    """A bulk transfer that goes to the kernel piece by piece, one after another."""

    def __init__(self, whole: _Waiting, size: int) -> None:
        self.whole = whole
        self.size = size
        self.is_cancelled = False
        self.is_done = False
        self._moved = 0
        self._parts: list[bytes | memoryview] = []
        self._length = 0

    def next_piece(self) -> _Waiting:
        """What is to be moved next."""
        whole = self.whole.urb
        self._length = min(self.size, whole.length - self._moved)
        data = memoryview(whole.data)[self._moved : self._moved + self._length]
        piece = Urb(whole.id, whole.type, whole.endpoint, self._length, data)
        return _Waiting(self.whole.device, piece, self._completed, self)

    def _completed(self, result: UrbResult) -> None:
        self._parts.append(result.data)
        self._moved += result.length
        status = result.status
        is_full = status is UrbStatus.OK and result.length == self._length
        if is_full and self._moved < self.whole.urb.length:
            if not self.is_cancelled:
                return  # the next piece follows when this one's memory is free
            status = UrbStatus.CANCELLED
        self.is_done = True
        data = b"".join(self._parts)
        self.whole.complete(UrbResult(status, data, self._moved))


class KernelMemory:
    """Where transfers wait for what usbfs lets all programs have at once.

    The kernel refuses what is above it (ENOMEM). Per endpoint the order stays; a
    quarter is for endpoints that have nothing in flight yet, so that none waits for
    reads that wait for it.

    Args:
        limit: bytes, for this process; 0: none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = usable(limit)
        self._piece, self._easy = MAX_PIECE, inf
        if limit:
            self._easy = self._limit * 3 // 4  # up to here there is room for all
            self._piece = min(MAX_PIECE, _whole_pieces(self._limit // 4))
        self._used = 0
        self._waiting: deque[_Waiting] = deque()
        self._cuts: dict[_Place, _Cut] = {}  # begun, and not done
        self._retry: asyncio.TimerHandle | None = None
        self._retries = 0
        self._is_moving = False

    def submit(self, device: MemoryUser, urb: Urb, complete: Completion) -> None:
        """Start a transfer, now or when there is room."""
        is_large = urb.length > self._piece and urb.type is TransferType.BULK
        if (
            not (is_large or self._waiting)
            and (
                (self._used + urb.length <= self._easy and not self._cuts)
                or self._fits((device, urb.endpoint), urb.length)
            )
            and device.start(urb, complete)
        ):
            return
        entry = _Waiting(device, urb, complete)
        if is_large:
            entry = _Cut(entry, self._piece).next_piece()
        self._waiting.append(entry)
        self._move()

    def took(self, urb: Urb) -> None:
        """The kernel has a transfer."""
        self._used += urb.length

    def gave_back(self, device: MemoryUser, urb: Urb) -> None:
        """It gave it back, and the transfer has been completed."""
        self._used -= urb.length
        self._retries = 0
        if self._cuts:
            place = device, urb.endpoint
            cut = self._cuts.get(place)
            if cut is not None and cut.is_done:
                del self._cuts[place]
            elif cut is not None and cut.whole.urb.id == urb.id:
                self._waiting.appendleft(cut.next_piece())
        if self._waiting:
            self._move()

    def cancel(self, device: MemoryUser, urb_id: int | None = None) -> None:
        """Complete what of a device waits here: one transfer, or all."""
        for (user, _), cut in list(self._cuts.items()):
            if user is device and urb_id in (None, cut.whole.urb.id):
                cut.is_cancelled = True
        for entry in list(self._waiting):
            if entry.device is device and urb_id in (None, entry.urb.id):
                self._waiting.remove(entry)
                entry.complete(UrbResult(UrbStatus.CANCELLED))
                self._note(entry)
        if self._waiting:
            self._move()

    def _note(self, entry: _Waiting) -> None:
        """Others of the endpoint wait for a cut transfer that has begun."""
        if entry.cut is not None and not entry.cut.is_done:
            self._cuts[entry.place] = entry.cut
        elif entry.cut is not None:
            self._cuts.pop(entry.place, None)

    def _move(self) -> None:
        """Start what there is room for, in order."""
        if self._is_moving:
            return  # the call further out goes on with it
        self._is_moving = True
        try:
            while self._start_one():
                pass
        finally:
            self._is_moving = False

    def _fits(self, place: _Place, length: int, cut: _Cut | None = None) -> bool:
        """Is there room? A transfer that is larger than all of it goes alone."""
        if self._cuts and self._cuts.get(place, cut) is not cut:
            return False
        if not (self._limit and self._used):
            return True
        device, endpoint = place
        room = self._limit if device.is_idle(endpoint) else self._easy
        return self._used + length <= room

    def _start_one(self) -> bool:
        blocked: set[_Place] = set()
        for entry in self._waiting:
            place = entry.place
            if place in blocked or not self._fits(place, entry.urb.length, entry.cut):
                blocked.add(place)
                continue
            if not entry.device.start(entry.urb, entry.complete):
                return self._was_refused(entry)
            self._waiting.remove(entry)
            self._note(entry)
            return True
        return False

    def _was_refused(self, entry: _Waiting) -> bool:
        """Cut it smaller, or wait for other programs, but not for ever.

        Returns:
            Whether to go on with the next.
        """
        urb = entry.urb
        is_bulk = urb.type is TransferType.BULK
        if not self._used and is_bulk and urb.length > MIN_PIECE:
            cut = entry.cut or _Cut(entry, MAX_PIECE)
            cut.size = _whole_pieces(urb.length // 2)
            self._waiting.remove(entry)
            self._waiting.appendleft(cut.next_piece())
            return True
        if not self._used and self._retries >= MAX_RETRIES:
            self._retries = 0
            self._waiting.remove(entry)
            log.error(
                "a transfer of %d bytes failed: the kernel has no memory for it; write"
                " a larger number to /sys/module/usbcore/parameters/usbfs_memory_mb",
                urb.length,
            )
            entry.complete(UrbResult(UrbStatus.IO_ERROR))
            self._note(entry)
            return True
        if self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(RETRY_SECONDS, self._try_again)
        return False

    def _try_again(self) -> None:
        self._retry = None
        self._retries += 1
        self._move()


def _whole_pieces(size: int) -> int:
    """The largest size of a piece that is not above *size*."""
    return max(MIN_PIECE, size // MIN_PIECE * MIN_PIECE)
