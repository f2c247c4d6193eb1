"""A serial port whose transfers a test completes, with reads kept at it."""

from rusb.client.backends.emulated import Keyboard, SerialLoopback
from rusb.server.posted import PostedReads
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.byhand import ByHand
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


class Device(ByHand):
    """A serial port with reads kept at it.

    Attributes:
        is_gone: everything fails at once.
        is_away: what is cancelled completes at once, as while a client is away.
    """

    round_trip: float | None = 0.02

    def __init__(self, drive: SerialLoopback | Keyboard | None = None) -> None:
        super().__init__(drive or SerialLoopback())
        self.is_gone = self.is_away = False
        self.clock = Clock()
        self.reads = PostedReads(
            self,
            now=lambda: self.clock.now,
            later=lambda s, what: self.clock.at(self.clock.now + s, what),
        )

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self.is_gone:
            complete(UrbResult(GONE))
        else:
            super().submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        super().cancel(urb_id)
        if self.is_away:
            self.open.pop(urb_id)[1](UrbResult(CANCELLED))

    def sizes(self, endpoint: int = IN) -> list[int]:
        return [u.length for u, _ in self.open.values() if u.endpoint == endpoint]

    def end(
        self, data: bytes = b"", status: UrbStatus = OK, endpoint: int = IN
    ) -> None:
        """Complete the oldest transfer."""
        self.end_at(endpoint, status, data)

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
