"""An interrupt device whose reports say when they were due."""

import asyncio
import struct
import time
from collections import deque

from rusb.client.backends.emulated import Data, EmulatedDevice, describe, interrupt
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.types import ClassCode, Speed

__all__ = ["Clock", "due_time"]

_REPORT = struct.Struct("<d")


def due_time(report: Data) -> float:
    """When the report was due: monotonic seconds, the same in every process."""
    due: float = _REPORT.unpack(report)[0]
    return due


class Clock(EmulatedDevice):
    """Makes reports at regular times, as many as it is told to.

    They carry the time at which they were due, not the one at which this process came
    to make them: what keeps the loop busy counts.
    """

    IN = 0x81
    """Its endpoint; each report has 8 bytes."""

    def __init__(self) -> None:
        endpoints = (interrupt(self.IN, Speed.HIGH, _REPORT.size),)
        interface = InterfaceDescriptor(
            0, 0, ClassCode.VENDOR_SPECIFIC, 0, 0, endpoints=endpoints
        )
        descriptors = describe(Speed.HIGH, 0x0010, interface)
        super().__init__(descriptors, ("rusb", "Clock", "525553420010"))
        self._reports: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._due = self._interval = 0.0

    def start(self, count: int, interval: float) -> None:
        """Make *count* reports, the first one *interval* seconds from now."""
        self.stop()
        self._left, self._interval = count, interval
        self._due = time.monotonic() + interval
        self._tick()

    def stop(self) -> None:
        """Make no more, and forget those that nobody has read."""
        self._reports.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = time.monotonic()
        while self._left and self._due <= now:
            self._reports.append(_REPORT.pack(self._due))
            self._due += self._interval
            self._left -= 1
        self.kick(self.IN)
        if self._left:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(self._due - now, 0.0), self._tick)

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Give the oldest report."""
        return self._reports.popleft() if self._reports else None

    def detached(self) -> None:
        """Stop."""
        self.stop()
