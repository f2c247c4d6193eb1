"""A device whose transfers a test completes."""

import itertools
from collections.abc import Callable, Iterator

from rusb.client.backends.emulated import FlashDrive, Keyboard, SerialLoopback
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

__all__ = ["ByHand"]


class ByHand:
    """What storage and posted reads take for an attachment.

    Args:
        drive: which device it describes itself as.

    Attributes:
        open: what is under way, by number, in order: the URB and who waits.
        cancelled: numbers, in order.
    """

    name = "usb-1"
    round_trip: float | None = None

    def __init__(self, drive: FlashDrive | Keyboard | SerialLoopback) -> None:
        self.info = drive.info(1, 1)
        self.descriptors = drive.descriptors
        self.interfaces: tuple[InterfaceDescriptor, ...] = (
            drive.descriptors.configurations[0].interfaces
        )
        self.own_ids: Iterator[int] = itertools.count(-1, -1)
        self.open: dict[int, tuple[Urb, Completion]] = {}
        self.cancelled: list[int] = []
        self.resets = 0
        self._ids = itertools.count(1)

    def submit(self, urb: Urb, complete: Completion) -> None:
        self.open[urb.id] = urb, complete

    def cancel(self, urb_id: int) -> None:
        self.cancelled.append(urb_id)

    def reset(self) -> None:
        self.resets += 1

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """There is none."""

    def end_at(
        self, endpoint: int, status: UrbStatus = UrbStatus.OK, data: bytes = b""
    ) -> None:
        """Complete the oldest transfer of an endpoint."""
        number = next(n for n, (u, _) in self.open.items() if u.endpoint == endpoint)
        urb, complete = self.open.pop(number)
        is_sent = status is UrbStatus.OK and not urb.is_in
        complete(UrbResult(status, data, urb.length if is_sent else len(data)))
