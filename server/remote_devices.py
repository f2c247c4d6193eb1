"""The devices of a client over one wire: its guest side joined to attachments."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Protocol

from rusb.aio.link import Sender, WireLink, no_channels
from rusb.aio.tasks import TaskSet
from rusb.errors import RemoteProtocolError, RusbError
from rusb.filters.engine import Interfaces, decide
from rusb.filters.explain import admitting
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.wire import base as wire
from rusb.wire._commands import Commands, DeviceCommands

from . import events
from .attachments import Attachment, why_failed
from .guests.base import AttachedDevice, GuestBackend
from .iso import IsoStreams
from .policy import SHOWS_ELSE, Policy
from .posted import PostedReads, is_read_ahead
from .sessions import Owner
from .state import DeviceState, StreamState, Verdict
from .storage import PipelinedStorage, ReadAhead, StorageTarget, is_storage
from .vbox.settings import Machine
from .vbox.storage_mode import StorageMode

__all__ = ["HELD_TOO_LONG", "DeviceHost", "HeldDevice", "RemoteDevices"]

log = logging.getLogger(__name__)

ATTACH_TIMEOUT = 60.0
"""Seconds for reading descriptors and plugging into the guest."""

LET_GO = (
    "the client let go of it when it was refused; to try again after a change of"
    " filters, unplug the device or reconnect"
)
"""Of a wire that offers no device twice (rdpeusb.md 4)."""

HELD_TOO_LONG = "nobody offered it again"
"""Why a device that was held leaves the guest."""

MAX_PLUGS, PLUG_PERIOD = 512, 10.0
"""Devices that one client may plug in within so many seconds: each costs a task and
lines in the log. A client that does more is not serious."""

VERDICT = 5.0
"""Seconds that a device has to have been there after a command failed that was read
ahead, or the device was leaving: a client looks every two seconds what it has."""

MAX_ODD = 1024
"""Kinds of storage devices that are remembered to be odd."""

_TELLS = {
    StorageMode.EARLY: "not read ahead",
    StorageMode.STRICT: "pipelined strictly",
    StorageMode.OFF: "not pipelined",
}


class DeviceHost(Protocol):
    """What the devices of a client ask of the server."""

    machine: Machine
    guest: GuestBackend
    is_bare: bool
    odd_storage: dict[tuple[int, int, int], StorageMode]

    def next_number(self) -> int:
        """Return a number for a device, never used before."""

    def devices_changed(self) -> None:
        """A device was attached or detached."""

    async def displace(self, owner: Owner, info: DeviceInfo) -> None:
        """A client has a device that may be kept for it since its connection broke:
        wait until the guest has lost that one."""

    def find_held(
        self, owner: Owner, info: DeviceInfo
    ) -> "tuple[RemoteDevices, _Device] | None":
        """Return the same device of the same owner, which the guest keeps."""

    def lacks_room(self, number: int) -> str:
        """Say why a client can have no further device; empty: it can."""


class _Device:
    """A device that the client lists now, and its way into the guest and out."""

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.uuid = str(uuid.uuid4())
        self.plugged: Attachment | None = None
        self.shown: AttachedDevice | None = None  # what the guest has, or is to have
        self.commands: DeviceCommands | None = None  # that its client runs by itself
        self.streams: IsoStreams | None = None  # of it, if it is isochronous
        self.over = asyncio.Event()  # unlisted, failed, dropped by the guest
        self.unlisted = asyncio.Event()
        self.wake = asyncio.Event()  # one of these, or the filters changed
        self.done = asyncio.Event()  # detached; its id may be used again
        self.verdict: Verdict | None = None
        self.why = ""  # it is over
        self.is_retried = False  # the filters changed: it may be tried again
        self.is_logged_gone = False
        self.is_let_go = False  # by the client, for it was refused
        self.is_handed_over = False  # somebody else has it now, and the guest goes on
        self.interfaces: Interfaces | None = None  # as it was read last

    def end(self, why: str) -> None:
        """It is not to be in the guest any more, until filters change."""
        if not self.over.is_set():
            self.why = why
        self.over.set()
        self.wake.set()

    def unlist(self, why: str) -> None:
        """The client has it no more."""
        self.unlisted.set()
        self.end(why)

    def retry(self) -> None:
        """Look at it again, also if it had failed."""
        self.is_retried = True
        self.wake.set()


def _is_same(one: DeviceInfo, other: DeviceInfo) -> bool:
    """Are these two entries of the list the same device?"""
    return ((one.vendor_id, one.product_id, one.bcd_device, one.serial, one.port)) == (
        other.vendor_id,
        other.product_id,
        other.bcd_device,
        other.serial,
        other.port,
    )


HeldDevice = _Device
"""What a guest keeps: see :meth:`RemoteDevices.find_held`."""


class RemoteDevices:
    """What a client has plugged in over a wire, from the first list to the last detach.

    It belongs to the server; a connection lends it a link.

    Args:
        host: the server.
        number: of the client.
        protocol: the wire.

    Attributes:
        link: takes what the channels bring, once it is lent.
        commands: what the client runs by itself; None: it does not.
    """

    link: WireLink
    commands: Commands | None = None
    _tell: Callable[[events.Event], None]
    _core: wire.GuestSide
    _fail: Callable[[RusbError], None]
    _owner: Owner

    def __init__(
        self, host: DeviceHost, number: int, protocol: wire.WireProtocol
    ) -> None:
        self.protocol = protocol
        self._host = host
        self._number = number
        self._tasks = TaskSet()
        self._listed: dict[int, _Device] = {}
        self._leaving: dict[int, _Device] = {}  # unlisted, not yet detached
        self._attached: dict[int, Attachment] = {}
        self._is_slow = self._is_full = self._is_paused = False
        self.is_closed = self._is_held = False
        self._away_until: float | None = None
        self._loop = asyncio.get_running_loop()
        self._plugs, self._plugs_since = 0, self._loop.time()

    def lend(
        self,
        *,
        tell: Callable[[events.Event], None],
        send: Sender,
        flush: Callable[[], None],
        fail: Callable[[RusbError], None],
        owner: Owner,
        open_channel: Callable[[str], bool] = no_channels,
        close_channel: Callable[[int], None] = no_channels,
    ) -> None:
        """Reach the client over a connection, until :meth:`close`.

        Args:
            tell: gets what happens.
            send, flush, open_channel, close_channel: see
                :class:`~rusb.aio.link.WireLink`.
            fail: ends the connection.
            owner: whose devices they are.
        """
        self._tell, self._fail, self._owner = tell, fail, owner
        self._core = core = self.protocol.guest_side()
        self.link = WireLink(
            core,
            send=send,
            flush=flush,
            on_event=self._dispatch,
            open_channel=open_channel,
            close_channel=close_channel,
        )

    def leave(self, until: float) -> None:
        """The connection broke; whatever happens, the guest keeps what it has.

        Args:
            until: when it is to be :meth:`close`, by the loop's clock.
        """
        self._away_until = until
        self._fail = lambda error: None  # the connection is not to live as long as this
        self.link.suspend()
        self.set_slow(False)  # it was the connection
        for attachment in self._attached.values():
            attachment.leave()

    def hold(self) -> float:
        """The client has gone without a word, and cannot come back by itself: the guest
        keeps what the settings say, until somebody offers the same device.

        Returns:
            For how many seconds at most; 0: it keeps nothing.
        """
        longest, gone = 0.0, []
        held: dict[int, Attachment] = {}
        for number, device in self._listed.items():
            seconds = self._hold_seconds(device)
            attachment = device.plugged
            if attachment is None or device.over.is_set() or not seconds:
                gone.append(number)
                continue
            longest = max(longest, seconds)
            attachment.hold()
            held[number] = self._attached.pop(number)
            self._loop.call_later(seconds, device.unlist, HELD_TOO_LONG)
            text = f"its client is gone; the guest keeps it for {seconds:g} s"
            self._tell(events.DeviceNoted(self._subject(device), text))
        self._is_held = bool(longest)
        self._away_until = self._loop.time() + longest
        self.link.close()  # what it tells of its end is not for those that are held
        self._attached |= held
        self._fail = lambda error: None
        for number in gone:
            device = self._leaving[number] = self._listed.pop(number)
            device.unlist("the client's connection ended")
        return longest

    def _hold_seconds(self, device: _Device) -> float:
        machine = self._host.machine
        if device.commands is not None or device.streams is not None:
            return 0.0  # the client may have done some; packets do not wait
        chosen = decide(
            machine.filters, device.info, interfaces=device.interfaces
        ).filter
        return machine.hold_seconds(chosen.name if chosen else "")

    def find_held(self, info: DeviceInfo) -> _Device | None:
        """Return the same device, which the guest keeps without a client."""
        if self._is_held:
            for device in self._listed.values():
                if _is_same(device.info, info) and not device.over.is_set():
                    return device
        return None

    def hand_over(self, device: _Device) -> None:
        """Somebody else has it from now on."""
        device.is_handed_over = True
        del self._listed[device.info.id]
        device.unlist("it is offered again")

    def come_back(
        self,
        number: int,
        *,
        tell: Callable[[events.Event], None],
        fail: Callable[[RusbError], None],
    ) -> None:
        """Another connection of the client goes on.

        Args:
            number: of the client, by now.
            tell: gets what happens.
            fail: ends the connection.
        """
        self._away_until = None
        self._number, self._tell, self._fail = number, tell, fail
        for attachment in self._attached.values():
            attachment.come_back()
        self.link.go_on()
        self.reconsider()

    def have_commands_run(self) -> None:
        """The client runs storage commands by itself."""
        self.commands = Commands(self.link.send_beside)
        self.link.beside = self.commands.received

    @property
    def attached(self) -> list[Attachment]:
        """What of this client's is plugged into the guest now."""
        return [d.plugged for d in self._listed.values() if d.plugged]

    @property
    def in_use(self) -> int:
        """Devices on their way into the guest, in it, or on their way out."""
        return len(self._attached)

    def state(self) -> tuple[DeviceState, ...]:
        """The client's devices, attached or not."""
        grace = None
        if self._away_until is not None:
            grace = max(0.0, round(self._away_until - self._loop.time(), 1))
        return tuple(
            DeviceState.of(
                d.info,
                uuid=d.uuid,
                address=f"REMOTEUSB0x{d.info.id:08X}&0x{self._number:08X}",
                attached=d.plugged is not None,
                name=d.plugged.name if d.plugged else "",
                client=self._number,
                verdict=d.verdict,
                problem=d.why if d.over.is_set() else "",
                interfaces=d.interfaces,
                grace=grace,
                streams=d.streams.streams() if d.plugged and d.streams else (),
            )
            for d in self._listed.values()
        )

    def reconsider(self) -> None:
        """The machine's filters have changed: look at every device again."""
        for device in self._listed.values():
            device.retry()

    def set_slow(self, is_slow: bool) -> None:
        """Does the client read too slowly? Then the guest waits."""
        self._is_slow = is_slow
        self._pause_or_resume()

    def set_full(self, is_full: bool) -> None:
        """Is all kept that may be kept for the client? Then the guest waits."""
        self._is_full = is_full
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        want = self._is_slow or self._is_full
        if want != self._is_paused:
            self._is_paused = want
            for attachment in self._attached.values():
                (attachment.pause if want else attachment.resume)()

    def has_same(self, info: DeviceInfo) -> bool:
        """Is this a device that the guest has from here?"""
        return any(d.plugged and _is_same(d.info, info) for d in self._listed.values())

    @property
    def is_needed(self) -> bool:
        """Does the guest have a device of these, which is to stay?"""
        return any(d.plugged and not d.over.is_set() for d in self._listed.values())

    def detach(self, text: str) -> bool:
        """Take a device out of the guest; is it one of these?

        Args:
            text: its UUID or its address.
        """
        for device, state in zip(self._listed.values(), self.state(), strict=True):
            if text.lower() in (state.uuid.lower(), state.address.lower()):
                device.end("detached with controlvm")
                return True
        return False

    def lost_by_guest(self, device: AttachedDevice, why: str) -> bool:
        """The guest dropped a device: is it one of ours? Then it is detached."""
        for known in self._listed.values():
            if known.plugged is not None and known.shown is device:
                known.end(why)
                return True
        return False

    def close(self, why: str = "the client's connection ended") -> None:
        """The client has left: everything begins to be detached."""
        self.is_closed = True
        self.link.close()
        self._fail = lambda error: None  # the connection is not to live as long as this
        self._update((), why)

    async def wait_detached(self) -> None:
        """Wait for what :meth:`close` began."""
        await self._tasks.drain(ATTACH_TIMEOUT)

    # ------------------------------------------------------- from the wire ----

    def _dispatch(self, event: wire.Event) -> None:
        match event:
            case wire.UrbCompleted():
                attachment = self._attached.get(event.device)
                if attachment is not None:
                    attachment.completed(event.urb_id, event.result)
            case wire.RequestCompleted():
                attachment = self._attached.get(event.device)
                if attachment is not None:
                    attachment.request_completed(event.request, event.status)
            case wire.DevicesListed():
                self._update(event.devices)
            case wire.DeviceFailed():
                device = self._listed.get(event.device)
                if device is not None:
                    why = "is gone" if event.removed else f"refused: {event.request}"
                    self._tell(events.DeviceLeft(self._subject(device), why))
                    device.end(f"the client says that it {why}")
            case wire.Negotiated():
                self._tell(
                    events.WireAgreed(
                        *(self._number, event.version, event.flags, event.error)
                    )
                )
            case wire.Ignored():
                log.debug("client %d: ! %s", self._number, event.reason)
            case _:
                raise AssertionError(f"not an event of the guest side: {event}")

    def _subject(self, device: _Device) -> events.Subject:
        return events.Subject(self._number, device.uuid, device.info)

    def _update(
        self,
        devices: tuple[DeviceInfo, ...],
        why: str = "the client no longer offers it",
    ) -> None:
        """Start what is new on its way into the guest, end what is gone.

        Only this client's devices are looked at (vrdpusb.md S5).
        """
        listed = {info.id: info for info in devices}
        for number, device in list(self._listed.items()):
            info = listed.get(number)
            # S7: an id may be used again for what is in the same port now
            if info is None or not _is_same(info, device.info):
                self._leaving[number] = self._listed.pop(number)
                device.unlist(why)
        for number in listed.keys() - self._listed.keys():
            if not self._may_plug():
                return
            device = self._listed[number] = _Device(listed[number])
            work = self._live(device, self._leaving.get(number))
            self._tasks.start(work, f"{device.info} of client {self._number}")

    def _may_plug(self) -> bool:
        """Count a device that was plugged in; too many end the connection."""
        now = self._loop.time()
        if now - self._plugs_since > PLUG_PERIOD:
            self._plugs, self._plugs_since = 0, now
        self._plugs += 1
        if self._plugs == MAX_PLUGS + 1:
            self._fail(
                RemoteProtocolError(
                    f"the client plugged in more than {MAX_PLUGS} devices within"
                    f" {PLUG_PERIOD:g} s"
                )
            )
        return self._plugs <= MAX_PLUGS

    # -------------------------------------------------- one device's life ----

    async def _live(self, device: _Device, before: _Device | None) -> None:
        """Announce, decide, attach, wait, detach, forget.

        Args:
            device: the one whose life this is.
            before: a device of the same id that is still being detached.
        """
        info = device.info
        try:
            if before is not None:
                await before.done.wait()
            self._tell(events.DeviceListed(self._subject(device)))
            await self._host.displace(self._owner, info)
            while not device.unlisted.is_set():
                device.wake.clear()
                if device.is_retried:
                    device.is_retried = False
                    device.over.clear()
                is_admitted = self._admits(device)
                if is_admitted and not device.over.is_set():
                    await self._attach_until_over(device)
                elif not device.unlisted.is_set():
                    if not is_admitted:
                        self._let_go(device)
                    await device.wake.wait()
            if not device.is_handed_over:
                self._log_gone(device)
        finally:
            if self._listed.get(info.id) is device:
                del self._listed[info.id]
            if self._leaving.get(info.id) is device:
                del self._leaving[info.id]
            device.done.set()

    def _admits(self, device: _Device) -> bool:
        """Do the machine's filters want the device now? The log has every change."""
        machine = self._host.machine
        decision = decide(machine.filters, device.info, interfaces=device.interfaces)
        verdict = Verdict(decision.matched, str(decision), decision.index)
        if not machine.usb_controllers:
            verdict = Verdict(False, "the machine has no USB controller")
        if verdict != device.verdict:
            device.verdict = verdict
            subject = self._subject(device)
            if verdict.admitted:
                reason = verdict.reason
                self._tell(events.DeviceAdmitted(subject, verdict.filter, reason))
            else:
                self._tell(events.DeviceRefused(subject, verdict.reason))
                self._say_cure(device)
        return verdict.admitted

    def _let_go(self, device: _Device) -> None:
        """The filters do not want it: the client may have it back."""
        if not device.is_let_go and self._core.refuse_device(device.info.id):
            device.is_let_go = True
            self.link.flush()
            self._tell(events.DeviceNoted(self._subject(device), LET_GO))

    def _policy(self) -> Policy:
        guest = self._host.guest
        filters = tuple(self._host.machine.filters)
        return Policy(
            filters,
            carries_streams=guest.carries_streams,
            carries_isochronous=TransferType.ISOCHRONOUS
            in self.protocol.transfer_types,
        )

    def _say_cure(self, device: _Device) -> None:
        """Tell a user what to do if the filters should not refuse a device."""
        machine = self._host.machine
        commands = [f"modifyvm {machine.operand} --usb-xhci on"]
        if machine.usb_controllers:
            commands = list(admitting(machine.name, device.info, machine.filters))
        if commands:
            is_bare = self._host.is_bare
            self._tell(events.Cure(self._subject(device), commands[-1], is_bare))

    async def _attach_until_over(self, device: _Device) -> None:
        info, device.why = device.info, ""
        why = LET_GO if device.is_let_go else self._host.lacks_room(self._number)
        if why:
            self._tell(events.DeviceUnfit(self._subject(device), why))
            device.end(why)
            return
        number = self._host.next_number()
        attachment = Attachment(
            info,
            name=f"usb-{number}",
            number=number,
            core=self._core,
            flush=self.link.flush,
            now=self.link.now,
        )
        if self._is_paused:
            attachment.pause()
        if self._away_until is not None:
            attachment.leave()
        attachment.watch_changed(device.end)
        self._attached[info.id] = attachment
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT):
                attachment = await self._enter(device, attachment)
            self._host.devices_changed()
            while self._admits(device) and not device.over.is_set():
                device.is_retried = False
                device.wake.clear()
                if not await attachment.fits(self._policy()):
                    device.why = device.why or SHOWS_ELSE
                    break
                await device.wake.wait()
        except Exception as error:  # noqa: BLE001 - said, and tried again later
            device.end(why_failed(error, ATTACH_TIMEOUT))
            if device.plugged is None:
                subject, name = self._subject(device), attachment.name
                self._tell(events.DeviceFailed(subject, name, device.why))
        finally:
            await self._detach(device, attachment)

    async def _enter(self, device: _Device, attachment: Attachment) -> Attachment:
        """Read the device, show the guest what it may see of it.

        Returns:
            The attachment that the guest has.
        """
        subject = self._subject(device)
        try:
            await attachment.open(self._policy())
        finally:
            if attachment.reading is not None:
                device.interfaces = attachment.reading.interfaces
        for note in attachment.view.notes:
            self._tell(events.DeviceNoted(subject, note))
        if (found := self._host.find_held(self._owner, device.info)) is not None:
            holder, held = found
            if held.plugged is not None and held.plugged.is_like(attachment):
                return self._go_on(device, attachment, holder, held)
            held.unlist("another device is offered in its place")
            await held.done.wait()
        device.shown = self._shown(
            device, attachment, self._buffered(device, attachment)
        )
        where = await self._host.guest.attach(device.shown)
        device.plugged = attachment
        assert device.verdict is not None
        reason = device.verdict.reason
        self._tell(events.DeviceAttached(subject, attachment.name, where, reason))
        return attachment

    def _go_on(
        self,
        device: _Device,
        fresh: Attachment,
        holder: "RemoteDevices",
        held: _Device,
    ) -> Attachment:
        """The guest has it already, since before its client was gone."""
        attachment = held.plugged
        assert attachment is not None
        device.shown, device.plugged = held.shown, attachment
        holder.hand_over(held)
        self._attached[device.info.id] = attachment
        attachment.watch_changed(device.end)
        attachment.come_back()
        attachment.rebind(
            fresh.wire_id, self._core, self.link.flush, is_open=True, has_waited=True
        )
        if self._is_paused:
            attachment.pause()
        text = "its client is back; the guest goes on with it"
        self._tell(events.DeviceNoted(self._subject(device), text))
        return attachment

    def _buffered(
        self, device: _Device, attachment: Attachment
    ) -> Attachment | IsoStreams:
        """Return it with a buffer for what it streams, if it does."""
        is_carried = TransferType.ISOCHRONOUS in self.protocol.transfer_types
        device.streams = None
        if not (is_carried and attachment.descriptors.has_isochronous):
            return attachment

        def ended(state: StreamState) -> None:
            subject, name = self._subject(device), attachment.name
            self._tell(events.StreamEnded.of(subject, name, state))

        loop = self._loop
        device.streams = IsoStreams(
            attachment, now=loop.time, later=loop.call_later, ended=ended
        )
        return device.streams

    def _shown(
        self, device: _Device, attachment: Attachment, below: Attachment | IsoStreams
    ) -> AttachedDevice:
        """Return what the guest gets: storage is pipelined, if that is wanted."""
        machine, odd, info = self._host.machine, self._host.odd_storage, device.info
        chosen = decide(machine.filters, info, interfaces=device.interfaces).filter
        storage = machine.storage_of(chosen.name if chosen else "")
        identity = info.vendor_id, info.product_id, info.bcd_device
        mode = min(storage.mode, odd.get(identity, storage.mode))
        ahead: ReadAhead | None = None

        def degraded(lesser: StorageMode, why: str) -> None:
            if ahead is not None:
                ahead.stop()
            if len(odd) < MAX_ODD:
                odd[identity] = lesser
            text = f"storage: {why}; from now on its commands are {_TELLS[lesser]}"
            self._tell(events.DeviceNoted(self._subject(device), text))

        now, later = self._loop.time, self._loop.call_later
        shown: StorageTarget = below
        if is_read_ahead(attachment.descriptors):
            shown = PostedReads(below, now=now, later=later)
        if not mode or not is_storage(attachment.descriptors):
            return shown
        pipelined = PipelinedStorage(
            shown,
            min(mode, StorageMode.EARLY),
            now=now,
            later=later,
            degraded=degraded,
        )
        if mode < StorageMode.AHEAD or self.commands is None:
            return pipelined
        commands = device.commands = self.commands.of(info.id)

        def judge(why: str) -> None:
            if commands.is_open:
                degraded(StorageMode.EARLY, why)

        ahead = ReadAhead(
            pipelined,
            commands,
            storage.ahead,
            now=now,
            later=later,
            degraded=lambda why: later(VERDICT, partial(judge, why)),
        )
        return ahead

    async def _detach(self, device: _Device, attachment: Attachment) -> None:
        if device.is_handed_over:
            self._attached.pop(device.info.id, None)
            device.plugged = None
            return
        if device.unlisted.is_set():
            self._log_gone(device)
        try:
            attachment.close()
            if device.commands is not None:
                device.commands.close()
            await self._host.guest.detach(device.shown or attachment)
        except Exception:
            log.exception("%s: the guest failed to detach it", attachment)
        self._attached.pop(device.info.id, None)
        if device.plugged is not None:
            device.plugged = None
            assert device.verdict is not None
            why = device.why or device.verdict.reason
            subject = self._subject(device)
            self._tell(events.DeviceDetached(subject, attachment.name, why))
            self._host.devices_changed()

    def _log_gone(self, device: _Device) -> None:
        """Log once that a device is no longer listed."""
        if not device.is_logged_gone:
            device.is_logged_gone = True
            self._tell(events.DeviceGone(self._subject(device)))
