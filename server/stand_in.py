"""What stands for a device whose client has gone, while the guest keeps it
(docs/spec/resume.md 8)."""

from collections.abc import Callable

from rusb.usb.backend import DeviceCalls
from rusb.usb.urb import Urb, UrbResult, UrbStatus

__all__ = ["StandIn"]


class StandIn(DeviceCalls):
    """Lets transfers wait, and settings succeed: they are made when it is back.

    Args:
        completed: gets the outcome of a transfer.
        request_completed: gets that of a request.
    """

    def __init__(
        self,
        completed: Callable[[int, UrbResult], None],
        request_completed: Callable[[int, UrbStatus], None],
    ) -> None:
        self._completed = completed
        self._request_completed = request_completed
        self._waiting: dict[int, Urb] = {}

    def open_device(self, device: int) -> None:
        """It is open."""

    def close_device(self, device: int) -> None:
        """What waits ends."""
        self._end_all(UrbStatus.NO_DEVICE)

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        """What waits is cancelled, as by any reset."""
        self._end_all(UrbStatus.CANCELLED)
        self._done(request)

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        self._done(request)

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        self._done(request)

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        self._done(request)

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        self._done(request)

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        """A device that is opened anew has no halt."""
        self._done(request)

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """It waits."""
        self._waiting[urb.id] = urb

    def cancel_urb(self, device: int, urb_id: int) -> None:
        """It ends at once."""
        if self._waiting.pop(urb_id, None) is not None:
            self._completed(urb_id, UrbResult(UrbStatus.CANCELLED))

    def _end_all(self, status: UrbStatus) -> None:
        waiting, self._waiting = self._waiting, {}
        for urb_id in waiting:
            self._completed(urb_id, UrbResult(status))

    def _done(self, request: int | None) -> None:
        if request is not None:
            self._request_completed(request, UrbStatus.OK)
