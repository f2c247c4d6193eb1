"""What is asked of one device: requests one at a time and in order, URBs behind them.

It does no I/O and starts no task: :meth:`DeviceQueue.call` hands a coroutine to whoever
runs such things (``TaskSet.start`` of rusb.aio), which awaits one request after the
other.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rusb.errors import BackendError, DeviceGone

from .urb import Urb, UrbStatus

__all__ = ["DeviceQueue", "Request", "status_of"]


@dataclass(slots=True)
class Request:
    """Something that may block.

    Attributes:
        run: does it.
        done: called once with what *run* raised, or None; it must not raise.
    """

    run: Callable[[], Awaitable[object]]
    done: Callable[[Exception | None], None]


class DeviceQueue:
    """Requests to one device, and the URBs that wait behind them.

    While ``is_busy`` a URB goes into :meth:`wait`, otherwise straight to the device.

    Attributes:
        is_busy: a request runs or waits.
        waiting: what waits, oldest first.

    Args:
        start: runs a coroutine to its end.
        submit: starts a URB that has waited.
    """

    __slots__ = ("_start", "_submit", "is_busy", "waiting")

    def __init__(
        self,
        start: Callable[[Coroutine[Any, Any, None]], object],
        submit: Callable[[Urb], None],
    ) -> None:
        self.is_busy = False
        self.waiting: deque[Request | Urb] = deque()
        self._start = start
        self._submit = submit

    def call(
        self,
        run: Callable[[], Awaitable[object]],
        done: Callable[[Exception | None], None] = lambda error: None,
    ) -> None:
        """Run a request when its turn comes, see :class:`Request`."""
        self.waiting.append(Request(run, done))
        if not self.is_busy:
            self.is_busy = True
            self._start(self._work())

    def wait(self, urb: Urb) -> None:
        """Submit a URB when its turn comes."""
        self.waiting.append(urb)

    def withdraw(self, urb_id: int) -> Urb | None:
        """Take a URB out that waits; None: none of that number does."""
        for entry in self.waiting:
            if isinstance(entry, Urb) and entry.id == urb_id:
                self.waiting.remove(entry)
                return entry
        return None

    def clear(self) -> list[Request | Urb]:
        """Take out everything that waits; the request that runs goes on."""
        taken = list(self.waiting)
        self.waiting.clear()
        return taken

    async def _work(self) -> None:
        try:
            while self.waiting:
                entry = self.waiting.popleft()
                if isinstance(entry, Urb):
                    self._submit(entry)
                    continue
                error: Exception | None = BackendError("the request was abandoned")
                try:
                    await entry.run()
                    error = None
                except Exception as caught:  # noqa: BLE001 - whoever waits is told
                    error = caught
                finally:
                    entry.done(error)
        finally:
            self.is_busy = False


def status_of(error: BaseException | None) -> UrbStatus:
    """Return what a control transfer reports of a request that ended so."""
    match error:
        case None:
            return UrbStatus.OK
        case DeviceGone():
            return UrbStatus.NO_DEVICE
        case BackendError():
            return UrbStatus.STALL
    return UrbStatus.IO_ERROR
