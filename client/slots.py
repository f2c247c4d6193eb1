"""The devices that a server has opened: its requests in order, one answer for each."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from functools import partial

from rusb.aio.tasks import TaskSet
from rusb.errors import BackendError, DeviceGone, ParseError, RemoteProtocolError
from rusb.oserrors import reason
from rusb.usb.backend import OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.queue import DeviceQueue
from rusb.usb.text import LineQuota
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire._commands import (
    CancelCommands,
    CommandResult,
    RunCommand,
    Stage,
    parse_request,
)

from .commands import CommandRunner
from .devices import DeviceCatalog
from .events import (
    DeviceClosed,
    DeviceLost,
    DeviceOpened,
    DeviceRefused,
    SessionEvent,
)

__all__ = ["DeviceSlots"]

log = logging.getLogger(__name__)

MAX_BYTES_IN_FLIGHT = 64 << 20
"""Buffers of all URBs that have no answer yet; above it we stop reading requests."""

MAX_REQUESTS_WAITING = 4096
"""Requests waiting behind one that blocks (a reset takes a second on real devices);
a server that sends more is not serious."""

OPENINGS_AT_ONCE, OPENING_SECONDS = 8, 1.0
"""How often a device is opened: so many times at once, then once in so many seconds.
What a server opens and closes more often than that is not worth a line each."""

MAX_LINES, LINES_PER_SECOND = 20, 1.0
"""Requests that failed and have a line each: of what a server asks again and again, so
many at once and so many in the long run."""

_GONE = UrbResult(UrbStatus.NO_DEVICE)
_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_BUG = UrbResult(UrbStatus.IO_ERROR)


class _Slot:
    """One device that the server has opened at least once.

    Opening it and giving it back are requests, too: what comes meanwhile waits.
    """

    __slots__ = (
        *("device", "info", "is_lost", "is_wanted", "next_opening", "number", "ours"),
        *("pending", "queue", "runner", "turn"),
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.info = DeviceInfo(number, 0, 0)  # until it is opened
        self.device: OpenDevice | None = None
        self.is_wanted = False  # the server has it open
        self.is_lost = False  # it is gone, and that was told
        self.turn = 0  # counts how often the server opened and closed it
        self.queue: DeviceQueue
        self.pending: dict[int, Urb] = {}  # without an answer, those that wait too
        self.runner: CommandRunner | None = None
        self.ours: dict[int, Completion] = {}  # of those, the runner's
        self.next_opening = 0.0


class DeviceSlots:
    """What a server asks of the devices of a catalog, until it closes them.

    Args:
        catalog: opens devices.
        core: what the answers go to.
        flush: sends what the core has to send.
        send_beside: says something about a device beside the wire.
        on_full: called with True to stop reading requests, then with False.
        on_event: gets what happens to devices.
        server: its name, for messages.
    """

    def __init__(
        self,
        catalog: DeviceCatalog,
        core: wire.DeviceSide,
        flush: Callable[[], None],
        *,
        send_beside: Callable[[int, bytes], None],
        on_full: Callable[[bool], None],
        on_event: Callable[[SessionEvent], None],
        server: str,
    ) -> None:
        self._catalog = catalog
        self._core = core
        self._flush = flush
        self._send_beside = send_beside
        self._tasks = TaskSet()
        self._on_full = on_full
        self._on_event = on_event
        self._server = server
        self._slots: dict[int, _Slot] = {}
        self._bytes = 0
        self._is_full = False
        self._own_ids = itertools.count(-1, -1)
        self._quota = LineQuota(MAX_LINES, LINES_PER_SECOND)
        self._left_out = 0  # lines

    def was_opened(self, number: int) -> bool:
        """Did the server ever open this device?"""
        return number in self._slots

    def is_open(self, number: int) -> bool:
        """Does the server have it in use now?"""
        slot = self._slots.get(number)
        return slot is not None and slot.is_wanted and slot.device is not None

    def lose(self, info: DeviceInfo) -> None:
        """Tell that a device is gone, unless that was told."""
        slot = self._slots.get(info.id)
        if slot is None or not slot.is_lost:
            self._on_event(DeviceLost(info))
        if slot is not None:
            slot.is_lost = True

    def withdraw(self, number: int) -> None:
        """Take a device from the server: what is open completes, then it is closed."""
        slot = self._slots.get(number)
        if slot is not None and slot.is_wanted:
            for urb in list(slot.pending.values()):
                self._complete(slot, urb, _GONE)
            self._close(slot)

    # ------------------------------------------------------- from the wire ----

    def handle(self, event: wire.Event) -> None:
        """Take an event of the core that is about one device."""
        match event:
            case wire.UrbSubmitted():
                self.start(event)
            case wire.CancelRequested():
                self._cancel(event)
            case wire.OpenRequested():
                self._open(event.device)
            case wire.CloseRequested():
                if event.device in self._slots:
                    self._close(self._slots[event.device])
            case (
                wire.DevicesListed()
                | wire.DeviceFailed()
                | wire.UrbCompleted()
                | wire.RequestCompleted()
                | wire.DevicesRequested()
                | wire.Negotiated()
                | wire.Ignored()
            ):
                raise AssertionError(f"not a request to a device: {event}")
            case _:
                self._request(event)

    def _open(self, number: int) -> None:
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = _Slot(number)
            name = f"requests to device {number}"
            slot.queue = DeviceQueue(
                partial(self._tasks.start, name=name), partial(self._submit_late, slot)
            )
        if not slot.is_wanted:
            slot.is_wanted = True
            slot.turn += 1
            turn = slot.turn
            slot.queue.call(
                partial(self._take, slot, turn), partial(self._taken, slot, turn)
            )

    def _close(self, slot: _Slot) -> None:
        slot.is_wanted = False
        slot.turn += 1
        slot.queue.clear()
        self._forget(slot, list(slot.pending))
        slot.pending, slot.ours = {}, {}  # what comes late is of no interest
        slot.runner = None
        slot.queue.call(partial(self._give_back, slot))

    def _request(self, event: wire.DeviceRequest) -> None:
        slot = self._slots.get(event.device)
        if slot is None or not slot.is_wanted:
            return
        if slot.runner is not None:
            slot.runner.cancel(is_abort=True)
        if len(slot.queue.waiting) < MAX_REQUESTS_WAITING:
            slot.queue.call(
                partial(_execute, slot, event), partial(self._executed, slot, event)
            )

    def start(self, event: wire.UrbSubmitted) -> None:
        """Start a transfer that the core has taken; as :meth:`handle` does, sooner."""
        slot, urb = self._slots.get(event.device), event.urb
        if slot is None or len(slot.queue.waiting) >= MAX_REQUESTS_WAITING:
            self._core.complete_urb(event.device, urb.id, _GONE)
            self._flush()
            return
        if urb.id in slot.pending:  # cancelled: the server waits for it no more
            slot.queue.withdraw(urb.id)
            self._forget(slot, [urb.id])
        self._start(slot, urb)

    def _start(self, slot: _Slot, urb: Urb) -> None:
        slot.pending[urb.id] = urb
        self._bytes += urb.length
        if self._bytes >= MAX_BYTES_IN_FLIGHT:
            self._look()
        if slot.queue.is_busy:
            slot.queue.wait(urb)
        else:
            self._submit(slot, urb)

    def _cancel(self, event: wire.CancelRequested) -> None:
        slot = self._slots.get(event.device)
        if slot is not None and event.urb_id in slot.pending:
            self._abort(slot, event.urb_id)

    def _abort(self, slot: _Slot, urb_id: int) -> None:
        urb = slot.queue.withdraw(urb_id)
        if urb is not None:
            self._complete(slot, urb, _CANCELLED)
        elif slot.device is not None:
            try:
                slot.device.cancel(urb_id)
            except Exception:
                log.exception("%s: bug while cancelling a transfer", slot.info)

    # ------------------------------------------------------------ URB path ----

    def _submit(self, slot: _Slot, urb: Urb) -> None:
        complete = partial(self._complete, slot, urb)
        try:
            assert slot.device is not None
            slot.device.submit(urb, complete)
        except Exception:
            log.exception("%s: bug while starting a transfer", slot.info)
            complete(_BUG)

    def _submit_late(self, slot: _Slot, urb: Urb) -> None:
        if slot.device is not None and slot.device.drops(urb):
            self._complete(slot, urb, UrbResult.dropped(urb))
        else:
            self._submit(slot, urb)

    def _complete(self, slot: _Slot, urb: Urb, result: UrbResult) -> None:
        """Answer a URB, unless it has its answer or the device was closed."""
        number = urb.id
        if slot.pending.get(number) is urb:
            del slot.pending[number]
            self._bytes -= urb.length
            if self._is_full:
                self._look()
            if number in slot.ours:
                slot.ours.pop(number)(result)
            else:
                self._core.complete_urb(slot.number, number, result)
                self._flush()

    def _forget(self, slot: _Slot, ids: Iterable[int]) -> None:
        self._bytes -= sum(slot.pending.pop(number).length for number in ids)
        self._look()

    def _look(self) -> None:
        """Stop reading requests while the server asks too much."""
        if (self._bytes >= MAX_BYTES_IN_FLIGHT) != self._is_full:
            self._is_full = not self._is_full
            self._on_full(self._is_full)

    # ------------------------------------------ commands that we run ourselves ----

    def take_beside(self, message: memoryview) -> None:
        """Do what the server asks beside the wire.

        Raises:
            RemoteProtocolError: it is no message.
        """
        try:
            request = parse_request(message)
        except ParseError as error:
            raise RemoteProtocolError(f"a command to run: {error}") from error
        if request is not None:
            answer = partial(self._send_beside, request.device)
            self._run(request, answer)

    def _run(
        self, request: RunCommand | CancelCommands, answer: Callable[[bytes], None]
    ) -> None:
        slot = self._slots.get(request.device)
        if isinstance(request, CancelCommands):
            if slot is not None and slot.runner is not None:
                slot.runner.cancel(is_abort=request.is_abort)
            return
        if slot is None or not slot.is_wanted:
            nothing = CommandResult(request.device, request.handle, Stage.NOT_BEGUN)
            answer(nothing.serialize())
            return
        if slot.runner is None:
            slot.runner = CommandRunner(
                submit=partial(self._submit_ours, slot),
                cancel=partial(self._abort_ours, slot),
                clear_halt=partial(self._clear_halt, slot),
                answer=lambda result: answer(result.serialize()),
            )
        slot.runner.run(request)

    def _submit_ours(
        self,
        slot: _Slot,
        endpoint: int,
        length: int,
        data: bytes,
        complete: Completion,
    ) -> None:
        urb = Urb(next(self._own_ids), TransferType.BULK, endpoint, length, data)
        slot.ours[urb.id] = complete
        self._start(slot, urb)

    def _abort_ours(self, slot: _Slot) -> None:
        for urb_id in list(slot.ours):
            self._abort(slot, urb_id)

    def _clear_halt(self, slot: _Slot, endpoint: int, done: Callable[[], None]) -> None:
        device, runner = slot.device, slot.runner
        assert device is not None

        def cleared(error: Exception | None) -> None:
            if slot.runner is runner:  # else the server has closed it
                done()

        slot.queue.call(partial(device.clear_halt, endpoint), cleared)

    # ---------------------------------------------------- what may block ----

    async def _take(self, slot: _Slot, turn: int) -> None:
        """Open it, unless the server closes it before its turn comes."""
        now = asyncio.get_running_loop().time()
        early = slot.next_opening - (OPENINGS_AT_ONCE - 1) * OPENING_SECONDS - now
        if early > 0:
            await asyncio.sleep(early)
        if slot.turn != turn:
            return
        slot.next_opening = max(slot.next_opening, now) + OPENING_SECONDS
        offer = self._catalog.offers.get(slot.number)
        if offer is not None:
            slot.info = offer.info
        slot.device = await self._catalog.open(slot.number)

    def _taken(self, slot: _Slot, turn: int, error: Exception | None) -> None:
        """A refusal goes out at once: the guest waits for it (S20)."""
        if error is not None:
            self._on_event(DeviceRefused(slot.info, _tell(error), error))
        if slot.turn != turn:
            return
        if error is None:
            self._on_event(DeviceOpened(slot.info, self._server))
            return
        slot.is_wanted = False
        slot.queue.clear()
        slot.runner = None
        self._core.open_failed(slot.number)
        for urb in list(slot.pending.values()):
            self._complete(slot, urb, _GONE)
        self._flush()

    def _executed(
        self, slot: _Slot, event: wire.DeviceRequest, error: Exception | None
    ) -> None:
        if isinstance(error, DeviceGone):
            if not slot.is_lost:
                self._on_event(DeviceLost(slot.info, str(error)))
            slot.is_lost = True
            self._core.device_lost(slot.number)
            self._flush()
        elif error is not None:
            # vrdpusb.md C2: an answer would end the device for the session
            self._complain(slot, event, error)

    def _complain(
        self, slot: _Slot, event: wire.DeviceRequest, error: Exception
    ) -> None:
        """Say that a request failed, unless too many do."""
        log.debug("! %s: %s", event, error)
        if not self._quota.take(asyncio.get_running_loop().time()):
            self._left_out += 1
            return
        more, self._left_out = self._left_out, 0
        log.warning(
            "%s: a request of %s failed: %s%s",
            *(slot.info, self._server, _tell(error)),
            f" ({more} others failed, too)" if more else "",
        )

    async def _give_back(self, slot: _Slot) -> None:
        if slot.device is None:
            return
        try:
            await self._catalog.give_back(slot.number)
        except Exception as error:  # noqa: BLE001 - a bug of a backend, too, is told
            self._on_event(DeviceClosed(slot.info, _tell(error)))
        else:
            if not slot.is_lost:
                self._on_event(DeviceClosed(slot.info))
        finally:
            slot.device = None

    async def aclose(self) -> None:
        """The session is over: what it has in use is given back at once. Idempotent.

        Whoever wants a device to outlive its session lets it stay here, open in the
        catalog, and gives it back later.
        """
        for slot in self._slots.values():
            if slot.is_wanted or slot.device is not None:
                self._close(slot)
        await self._tasks.drain(10)
        for slot in self._slots.values():  # those that took too long
            await self._give_back(slot)


async def _execute(slot: _Slot, event: wire.DeviceRequest) -> None:
    device = slot.device
    assert device is not None
    match event:
        case wire.ResetRequested():
            await device.reset()
        case wire.ConfigurationRequested():
            await device.set_configuration(event.value)
        case wire.ClaimRequested():
            await device.claim_interface(event.interface)
        case wire.ReleaseRequested():
            await device.release_interface(event.interface)
        case wire.AlternateRequested():
            await device.set_interface(event.interface, event.alternate)
        case wire.ClearHaltRequested():
            await device.clear_halt(event.endpoint)


def _tell(error: Exception) -> str:
    """Say what happened; log what only a bug explains."""
    if isinstance(error, BackendError):
        return str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{reason(error)}{where}"
    log.error("bug of a device backend", exc_info=error)
    return f"internal error: {error!r}"
