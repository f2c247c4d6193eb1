"""Devices of the server's own machine, plugged into its guest by hand.

``controlvm VM usbattach`` does it: no client, no filter and no wire is in between.
Where such devices come from is the command's business: it names the backends.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Self
from uuid import UUID, uuid5

from rusb.aio.tasks import TaskSet
from rusb.errors import BackendError, DeviceGone, GuestError
from rusb.filters.model import Filter
from rusb.usb.backend import DeviceBackend, DeviceCalls, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.queue import DeviceQueue, status_of
from rusb.usb.urb import Urb, UrbResult, UrbStatus

from .. import events
from ..attachments import Attachment, why_failed
from ..event_log import EventLog
from ..guests.base import AttachedDevice, GuestBackend
from ..policy import SHOWS_ELSE, Policy
from ..release_log import ReleaseLog, report
from ..state import DeviceState

__all__ = ["HostDevice", "HostDevices", "HostPlugs"]

log = logging.getLogger(__name__)

ATTACH_TIMEOUT = 60.0
"""Seconds for opening, reading descriptors and plugging into the guest."""

CLOSE_TIMEOUT = 10.0
"""Seconds for giving a device back to its drivers."""

MAX_WAITING = 1024
"""Requests to a device that wait; a guest that is told to wait sends no more. What one
sends beyond it is dropped: such a guest is not serious."""

MAX_ATTACHED = 64

_NAMESPACE = UUID("6c1c0d9e-6f0e-4b52-9d0a-1f6f0b0a7c11")

_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_GONE = UrbResult(UrbStatus.NO_DEVICE)
_FAILED = UrbResult(UrbStatus.IO_ERROR)


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device that is plugged in here.

    Attributes:
        uuid: what commands call it by, besides its address.
        address: bus and device number, ``001/004``.
    """

    uuid: str
    address: str
    info: DeviceInfo

    @classmethod
    def of(cls, device: LocalDevice) -> Self:
        """Return what commands call a device; the same as long as it is plugged in."""
        info = device.info
        identity = f"{info.bus}/{info.address}/{device.key}/{info.vendor_id}"
        number = str(uuid5(_NAMESPACE, identity))
        return cls(number, f"{info.bus:03}/{info.address:03}", info)


class HostDevices:
    """The USB devices of this machine.

    Args:
        backends: where they are; closed by :meth:`aclose`.
    """

    def __init__(self, backends: Iterable[DeviceBackend]) -> None:
        self._backends = tuple(backends)
        self._tasks = TaskSet()
        self._known: set[str] = set()

    async def list(self) -> list[tuple[LocalDevice, DeviceBackend]]:
        """What is plugged in now, and where it is."""
        return [(d, b) for b in self._backends for d in await b.list_devices()]

    async def find(self, text: str) -> HostDevice:
        """Return the device with a UUID or address.

        Raises:
            BackendError: there is none, or it cannot be used; the message says why.
        """
        for device, _ in await self.list():
            found = HostDevice.of(device)
            if text.strip("{}").lower() in (found.uuid, found.address):
                if device.problem is not None:
                    raise BackendError(f"{found.info}: {device.problem}")
                return found
        raise BackendError(
            f"this machine has no USB device {text}; 'list usbhost' shows UUIDs and"
            " addresses"
        )

    async def open(self, device: HostDevice) -> OpenDevice:
        """Open it.

        Raises:
            BackendError: see ``DeviceBackend.open``.
        """
        for known, backend in await self.list():
            if HostDevice.of(known) == device:
                opened = await backend.open(known)
                self._known.add(device.uuid)
                return opened
        raise DeviceGone(f"{device.info} was unplugged")

    def watch(self, unplugged: Callable[[str], None]) -> None:
        """Call *unplugged* with the UUID of each device that was opened and goes."""

        async def look() -> None:
            here = {HostDevice.of(device).uuid for device, _ in await self.list()}
            gone, self._known = self._known - here, self._known & here
            for number in gone:
                unplugged(number)

        def changed() -> None:
            self._tasks.start(look(), "look at this machine's devices")

        for backend in self._backends:
            backend.watch(changed)

    async def aclose(self) -> None:
        """Stop watching, close every open device. Idempotent."""
        await self._tasks.aclose()
        for backend in self._backends:
            await backend.aclose()


class _Calls(DeviceCalls):
    """An opened device behind the calls of an :class:`Attachment`."""

    def __init__(self, device: OpenDevice) -> None:
        self.attachment: Attachment | None = None
        self._device = device
        self._tasks = TaskSet()
        name = "requests to a device of this machine"
        self._queue = DeviceQueue(
            partial(self._tasks.start, name=name), self._submit_late
        )
        self._drops = False

    async def wait_closed(self) -> None:
        """Wait until a closed device is given back."""
        await self._tasks.drain(CLOSE_TIMEOUT)

    def open_device(self, device: int) -> None:
        """Nothing to do: it is open."""

    def close_device(self, device: int) -> None:
        """Give it back after the request that runs; what waits completes."""
        for entry in self._queue.clear():
            if isinstance(entry, Urb):
                self._completed(entry.id, _GONE)
            else:
                entry.done(DeviceGone("it was closed"))
        self._queue.call(self._device.aclose, partial(self._done, None))

    def reset_device(self, device: int, *, request: int | None = None) -> None:
        self._call(request, self._device.reset)

    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        self._call(request, partial(self._device.set_configuration, value))

    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        self._call(request, partial(self._device.claim_interface, interface))

    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        self._call(request, partial(self._device.release_interface, interface))

    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        self._call(request, partial(self._device.set_interface, interface, alternate))

    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        self._call(request, partial(self._device.clear_halt, endpoint))

    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        if self._queue.is_busy:
            self._queue.wait(urb)  # as many as the attachment lets through
        else:
            self._submit(urb)

    def cancel_urb(self, device: int, urb_id: int) -> None:
        if self._queue.withdraw(urb_id) is not None:
            self._completed(urb_id, _CANCELLED)
        else:
            self._device.cancel(urb_id)

    def _submit(self, urb: Urb) -> None:
        try:
            self._device.submit(urb, partial(self._completed, urb.id))
        except Exception:
            log.exception("bug of a backend in submit")
            self._completed(urb.id, _FAILED)

    def _submit_late(self, urb: Urb) -> None:
        if self._device.drops(urb):
            self._completed(urb.id, UrbResult.dropped(urb))
        else:
            self._submit(urb)

    def _completed(self, urb_id: int, result: UrbResult) -> None:
        assert self.attachment is not None
        self.attachment.completed(urb_id, result)

    def _call(self, request: int | None, run: Callable[[], Awaitable[object]]) -> None:
        """Queue a request; too many are not done, for a guest that waits has few."""
        if len(self._queue.waiting) < MAX_WAITING:
            self._drops = self._drops and self._queue.is_busy
            self._queue.call(run, partial(self._done, request))
            return
        if not self._drops:
            self._drops = True
            log.warning(
                "the guest sends too many requests: those beyond %d to %s are dropped",
                *(MAX_WAITING, self.attachment),
            )
        if request is not None and self.attachment is not None:
            self.attachment.request_completed(request, UrbStatus.IO_ERROR)

    def _done(self, request: int | None, error: Exception | None) -> None:
        if isinstance(error, BackendError):
            log.warning("%s", error)
        elif error is not None:
            log.error("bug in a request to a device of this machine", exc_info=error)
        if request is not None and self.attachment is not None:
            self.attachment.request_completed(request, status_of(error))


def _subject(device: HostDevice) -> events.Subject:
    return events.Subject(None, device.uuid, device.info)


class HostPlugs:
    """What of this machine is plugged into the guest.

    Args:
        usb: where devices come from; closed by :meth:`aclose`.
        guest: where they go; started at the first attach, closed by :meth:`aclose`.
        log: the machine's.
        happened: the machine's events.
        filters: returns the machine's as they are now; the mask of one that would
            admit the device applies.
    """

    def __init__(
        self,
        usb: HostDevices,
        guest: GuestBackend,
        log: ReleaseLog,
        happened: EventLog,
        filters: Callable[[], Iterable[Filter]] = lambda: (),
    ) -> None:
        self._usb = usb
        self._guest = guest
        self._log = log
        self._happened = happened
        self._filters = filters
        self._ends = TaskSet()
        self._plugged: dict[str, tuple[HostDevice, Attachment, _Calls]] = {}
        self._number = 0
        self._changing = asyncio.Lock()
        self._is_ready = False

    def devices(self) -> tuple[DeviceState, ...]:
        """What is plugged in, in the order of attaching."""
        return tuple(
            DeviceState.of(
                device.info,
                uuid=device.uuid,
                address=device.address,
                attached=True,
                name=attachment.name,
            )
            for device, attachment, _ in self._plugged.values()
        )

    async def attach(self, text: str) -> HostDevice:
        """Plug the device with a UUID or address into the guest.

        Raises:
            BackendError: there is none such, or it cannot be opened.
            GuestError: it is there already, or the guest does not take it.
        """
        async with self._changing:
            if len(self._plugged) >= MAX_ATTACHED:
                raise GuestError(f"{MAX_ATTACHED} devices are attached, the maximum")
            device = await self._usb.find(text)
            if device.uuid in self._plugged:
                raise GuestError(f"{device.info} is attached already")
            if not self._is_ready:
                await self._guest.start()
                self._guest.watch_lost(self._lost)
                self._usb.watch(self._unplugged)
                self._is_ready = True
            await self._attach(device)
            return device

    def reconsider(self) -> None:
        """The machine's filters have changed: the guest sees what their masks leave."""
        self._ends.start(self._reconsider(), "filters for devices of this machine")

    async def _reconsider(self) -> None:
        async with self._changing:
            for uuid, (device, attachment, _) in list(self._plugged.items()):
                if not await attachment.fits(self._policy()):
                    await self._detach(uuid, SHOWS_ELSE)
                    try:
                        await self._attach(device)
                    except BackendError as error:
                        subject = _subject(device)
                        self._tell(events.DeviceNoted(subject, str(error)))
                    except GuestError:
                        continue  # the log has it

    def _policy(self) -> Policy:
        return Policy(
            tuple(self._filters()),
            is_by_hand=True,
            carries_streams=self._guest.carries_streams,
        )

    async def _attach(self, device: HostDevice) -> None:
        self._number += 1
        core = _Calls(await self._usb.open(device))
        attachment = core.attachment = Attachment(
            device.info,
            name=f"host-{self._number}",
            number=self._number,
            core=core,
            flush=lambda: None,
            now=time.monotonic,  # uvloop's counts whole milliseconds
        )
        attachment.watch_changed(partial(self._unplugged, device.uuid))
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT):
                await attachment.open(self._policy())
                for note in attachment.view.notes:
                    self._tell(events.DeviceNoted(_subject(device), note))
                where = await self._guest.attach(attachment)
        except BaseException as error:
            await self._give_back(attachment, core)
            if not isinstance(error, Exception):
                raise
            why = why_failed(error, ATTACH_TIMEOUT)
            self._tell(events.DeviceFailed(_subject(device), attachment.name, why))
            raise GuestError(f"{device.info}: {why}") from error
        self._plugged[device.uuid] = device, attachment, core
        self._tell(events.DeviceAttached(_subject(device), attachment.name, where))

    async def detach(self, text: str) -> None:
        """Unplug the device with a UUID or address and give it back.

        Raises:
            GuestError: it is not attached.
        """
        async with self._changing:
            for uuid, (device, _, _) in self._plugged.items():
                if text in (device.address, uuid):
                    await self._detach(uuid, "removed by hand")
                    return
            raise GuestError(f"no device {text} of this machine is attached")

    async def _detach(self, uuid: str, why: str) -> None:
        device, attachment, core = self._plugged.pop(uuid)
        await self._give_back(attachment, core)
        self._tell(events.DeviceDetached(_subject(device), attachment.name, why))

    def _tell(self, event: events.Event) -> None:
        report(event, self._happened, self._log)

    async def _give_back(self, attachment: Attachment, core: _Calls) -> None:
        """Unplug a device and give it back, whatever fails meanwhile."""
        try:
            attachment.close()
            await self._guest.detach(attachment)
        except Exception:
            log.exception("%s: the guest failed to detach it", attachment)
        await core.wait_closed()

    async def aclose(self) -> None:
        """Unplug everything and let go of guest and devices. Idempotent."""
        async with self._changing:
            for uuid in list(self._plugged):
                await self._detach(uuid, "the machine powers off")
        await self._guest.aclose()
        await self._usb.aclose()
        await self._ends.aclose()

    def _lost(self, device: AttachedDevice, why: str) -> None:
        """The guest dropped a device by itself."""
        for uuid, (_, attachment, _) in self._plugged.items():
            if attachment is device:
                self._unplugged(uuid, why)

    def _unplugged(self, uuid: str, why: str = "unplugged from this machine") -> None:
        """A device went."""

        async def end() -> None:
            async with self._changing:
                if uuid in self._plugged:
                    await self._detach(uuid, why)

        self._ends.start(end(), f"end of {uuid}")
