"""A serial port whose transfers a test completes, with reads kept at it."""

import itertools
from collections.abc import Callable, Iterator

from rusb.client.backends.emulated import Keyboard, SerialLoopback
from rusb.server.posted import PostedReads
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.storage import Clock

__all__ = [
    "CANCELLED",
    "GONE",
    "IN",
    "NOTIFY",
    "OK",
    "PACKET",
    "STALL",
    "Device",
    "data_of",
]

IN, NOTIFY = SerialLoopback.IN, SerialLoopback.NOTIFY
PACKET = 512
OK, STALL, CANCELLED = UrbStatus.OK, UrbStatus.STALL, UrbStatus.CANCELLED
GONE = UrbStatus.NO_DEVICE


class Device:
    """A serial port whose transfers a test completes.

    Attributes:
        open: what is under way, by number, in order.
        is_gone: everything fails at once.
    """

    name = "usb-1"
    round_trip: float | None = 0.02

    def __init__(self, drive: SerialLoopback | Keyboard | None = None) -> None:
        drive = drive or SerialLoopback()
        self.info = drive.info(1, 1)
        self.descriptors = drive.descriptors
        self.interfaces: tuple[InterfaceDescriptor, ...] = (
            drive.descriptors.configurations[0].interfaces
        )
        self.own_ids: Iterator[int] = itertools.count(-1, -1)
        self.open: dict[int, tuple[Urb, Completion]] = {}
        self.cancelled: list[int] = []
        self.is_gone = False
        self.resets = 0
        self.clock = Clock()
        self._ids = itertools.count(1)
        self.reads = PostedReads(
            self,
            now=lambda: self.clock.now,
            later=lambda s, what: self.clock.at(self.clock.now + s, what),
        )

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self.is_gone:
            complete(UrbResult(GONE))
        else:
            self.open[urb.id] = urb, complete

    def cancel(self, urb_id: int) -> None:
        self.cancelled.append(urb_id)

    def reset(self) -> None:
        self.resets += 1

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """There is none."""

    def sizes(self, endpoint: int = IN) -> list[int]:
        return [u.length for u, _ in self.open.values() if u.endpoint == endpoint]

    def end(
        self, data: bytes = b"", status: UrbStatus = OK, endpoint: int = IN
    ) -> None:
        """Complete the oldest transfer."""
        number = next(n for n, (u, _) in self.open.items() if u.endpoint == endpoint)
        _, complete = self.open.pop(number)
        complete(UrbResult(status, data, len(data)))

    def end_cancelled(self, first: bytes = b"") -> None:
        """Complete what was cancelled; the first had moved something."""
        for number in list(self.open):
            if number in self.cancelled:
                _, complete = self.open.pop(number)
                complete(UrbResult(CANCELLED, first, len(first)))
                first = b""

    def read(
        self,
        length: int = PACKET,
        endpoint: int = IN,
        kind: TransferType = TransferType.BULK,
    ) -> tuple[int, list[UrbResult]]:
        found: list[UrbResult] = []
        urb = Urb(next(self._ids), kind, endpoint, length)
        self.reads.submit(urb, found.append)
        return urb.id, found

    def request(self, setup: SetupPacket) -> list[UrbResult]:
        found: list[UrbResult] = []
        self.reads.submit(Urb.control(next(self._ids), setup), found.append)
        return found

    def get_going(self) -> None:
        """The guest has read three times, and got something."""
        for n in range(3):
            _, found = self.read()
            self.end(bytes([n]))
            assert [bytes(r.data) for r in found] == [bytes([n])]


def data_of(found: tuple[int, list[UrbResult]]) -> list[bytes]:
    return [bytes(result.data) for result in found[1]]
