"""Guests that record and watch, and tell what of the known signal is missing."""

import struct
from collections.abc import Callable

from rusb.client.backends.emulated import Camera, Microphone
from rusb.server.guests.base import AttachedDevice
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus

__all__ = ["Recorder", "Watcher"]


class _Reader:
    """Keeps isochronous transfers of an endpoint in flight, as drivers do."""

    def __init__(
        self, device: AttachedDevice, endpoint: int, packets: tuple[int, ...]
    ) -> None:
        self.packets = self.bad = 0
        self.statuses: set[UrbStatus] = set()
        self.is_stopped = False
        self._device, self._endpoint, self._lengths = device, endpoint, packets
        self._last_id = 1 << 20

    def start(self, count: int) -> None:
        """Submit so many transfers; each is submitted again."""
        for _ in range(count):
            self._submit()

    def _submit(self) -> None:
        self._last_id += 1
        urb = Urb(
            *(self._last_id, TransferType.ISOCHRONOUS, self._endpoint),
            sum(self._lengths),
            packets=self._lengths,
        )
        self._device.submit(urb, self._completed)

    def _completed(self, result: UrbResult) -> None:
        self.statuses.add(result.status)
        start = 0
        for packet in result.packets:
            self.packets += 1
            self.bad += packet.status is not UrbStatus.OK
            self.take(bytes(result.data[start : start + packet.length]))
            start += packet.length
        if result.status is UrbStatus.OK and not self.is_stopped:
            self._submit()

    def take(self, data: bytes) -> None:
        """A packet."""
        raise NotImplementedError


class Recorder(_Reader):
    """Records from a :class:`Microphone`, ten packets a transfer."""

    def __init__(self, device: AttachedDevice) -> None:
        super().__init__(device, Microphone.STREAM, (196,) * 10)
        self.frames = self.lost = self.wrong = 0
        self._next: int | None = None

    def take(self, data: bytes) -> None:
        """Sample frames are numbered."""
        for (number,) in struct.iter_unpack("<I", data):
            if self._next is not None and number != self._next:
                if number > self._next:
                    self.lost += number - self._next
                else:
                    self.wrong += 1
            self._next = number + 1
            self.frames += 1


class Watcher(_Reader):
    """Puts the pictures of a :class:`Camera` together, 32 packets a transfer."""

    def __init__(self, device: AttachedDevice, frame: Callable[[int], bytes]) -> None:
        super().__init__(device, Camera.STREAM, (1024,) * 32)
        self.pictures = self.wrong = self.missing = 0
        self._frame = frame
        self._parts = b""
        self._last: int | None = None

    def take(self, data: bytes) -> None:
        """A payload: its header, and a part of a picture."""
        if not data:
            return
        self._parts += data[data[0] :]
        if not data[1] & 0x02:
            return
        picture, self._parts = self._parts, b""
        number = int.from_bytes(picture[6:10], "big")
        if picture != self._frame(number):
            self.wrong += 1
            return
        self.pictures += 1
        if self._last is not None:
            self.missing += number - self._last - 1
        self._last = number
