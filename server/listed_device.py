"""One device that a client lists: its way into the guest, and out of it."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Protocol

from rusb.aio.link import WireLink
from rusb.errors import GuestError
from rusb.filters.engine import Interfaces, decide
from rusb.filters.explain import admitting
from rusb.rdp.rusbext import Staying
from rusb.usb.device import DeviceInfo
from rusb.usb.polling import RoundTrip
from rusb.usb.types import TransferType
from rusb.wire import base as wire
from rusb.wire._commands import Commands, DeviceCommands

from . import events
from .attachments import Attachment, why_failed
from .elsewhere import Reason
from .guests._stream import DeviceStream, MovableGuest
from .guests.base import AttachedDevice, GuestBackend
from .iso import IsoStreams
from .moving import MovedDevice
from .policy import SHOWS_ELSE, Policy
from .posted import PostedReads, is_read_ahead
from .sessions import Owner
from .state import StreamState, Verdict
from .storage import PipelinedStorage, ReadAhead, StorageTarget, is_storage
from .vbox.settings import Machine
from .vbox.storage_mode import StorageMode

__all__ = ["ATTACH_TIMEOUT", "DeviceHost", "DeviceList", "ListedDevice"]

log = logging.getLogger(__name__)

ATTACH_TIMEOUT = 60.0
"""Seconds for reading descriptors and plugging into the guest."""

LET_GO = (
    "the client let go of it when it was refused; to try again after a change of"
    " filters, unplug the device or reconnect"
)
"""Of a wire that offers no device twice (rdpeusb.md 4)."""

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
    ) -> "tuple[DeviceList, ListedDevice] | None":
        """Return the same device of the same owner, which the guest keeps."""

    def lacks_room(self, number: int) -> str:
        """Say why a client can have no further device; empty: it can."""


class DeviceList(Protocol):
    """The list that a device is in, and its way to the client: what may change.

    Attributes:
        host: the server.
        number: of the client.
        owner: whose devices they are.
        protocol, core, link: the wire to the client.
        commands: what the client runs by itself; None: it does not.
        tell: gets what happens.
        way: how long it is to the client.
        most_bytes: that the guest may have in flight at a device.
        away_until: nothing reaches the client now, at most so long; None: it does.
        attachments: what of the list is on its way into the guest, in it, or on its
            way out, by the number that the client gave it.
    """

    host: DeviceHost
    number: int
    owner: Owner
    protocol: wire.WireProtocol
    core: wire.GuestSide
    link: WireLink
    commands: Commands | None
    tell: Callable[[events.Event], None]
    way: RoundTrip
    most_bytes: int
    away_until: float | None
    attachments: dict[int, Attachment]

    def forget(self, device: "ListedDevice") -> None:
        """Its life is over."""

    def hand_over(self, device: "ListedDevice") -> None:
        """Somebody else has it from now on."""


class ListedDevice:
    """A device that the client lists now.

    Args:
        info: what the client says of it.
        list_: where it is listed.
        moved: what another server had of it; None: it was in no guest.

    Attributes:
        info: see above.
        uuid: by which people name it.
        plugged: what the guest has; None: it has not.
        streams: its isochronous endpoints, if it has any.
        over: it is unlisted, has failed, or was dropped by the guest; why is in *why*.
        done: it is detached; its number may be used again.
        verdict: of the filters, the last time.
        commands: storage commands of it that its client runs by itself.
        interfaces: as they were read last.
    """

    def __init__(
        self, info: DeviceInfo, list_: DeviceList, moved: MovedDevice | None = None
    ) -> None:
        self.info = info
        self._moved = moved
        self._posted: PostedReads | None = None  # what it is below what is shown
        self._storage: PipelinedStorage | None = None
        self._loop = asyncio.get_running_loop()
        self.uuid = str(uuid.uuid4())
        self.plugged: Attachment | None = None
        self.streams: IsoStreams | None = None
        self.over = asyncio.Event()
        self.why = ""
        self.done = asyncio.Event()
        self.verdict: Verdict | None = None
        self.commands: DeviceCommands | None = None
        self.interfaces: Interfaces | None = None
        self._list = list_
        self._shown: AttachedDevice | None = None  # what the guest has, or is to have
        self._unlisted = asyncio.Event()
        self._wake = asyncio.Event()  # one of these, or the filters changed
        self._is_retried = False  # the filters changed: it may be tried again
        self._is_logged_gone = False
        self._is_let_go = False  # by the client, for it was refused
        self._is_handed_over = False  # somebody else has it, and the guest goes on
        self._timer: asyncio.TimerHandle | None = None
        self._recalling: asyncio.Handle | None = None

    @property
    def subject(self) -> events.Subject:
        """What events name."""
        return events.Subject(self._list.number, self.uuid, self.info)

    def end(self, why: str) -> None:
        """It is not to be in the guest any more, until filters change."""
        if not self.over.is_set():
            self.why = why
        self.over.set()
        self._wake.set()

    def unlist(self, why: str) -> None:
        """The client has it no more."""
        self._unlisted.set()
        self.end(why)

    def unlist_after(self, seconds: float, why: str) -> None:
        """The same, unless it has been handed over by then."""
        self._timer = self._loop.call_later(seconds, self.unlist, why)

    def retry(self) -> None:
        """Look at it again, also if it had failed."""
        self._is_retried = True
        self._wake.set()

    def hand_over(self) -> None:
        """Somebody else has it from now on, and the guest goes on with it."""
        self._is_handed_over = True
        self.unlist("it is offered again")

    def is_shown_as(self, device: AttachedDevice) -> bool:
        """Is it what the guest knows as *device*?"""
        return self.plugged is not None and self._shown is device

    def is_same(self, info: DeviceInfo) -> bool:
        """Is an entry of a list the same device?"""
        mine = self.info
        return (
            *(mine.vendor_id, mine.product_id, mine.bcd_device),
            *(mine.serial, mine.port),
        ) == (
            *(info.vendor_id, info.product_id, info.bcd_device),
            *(info.serial, info.port),
        )

    @property
    def hold_seconds(self) -> float:
        """For how long the guest keeps it without a client."""
        if self.commands is not None or self.streams is not None:
            return 0.0  # the client may have done some; packets do not wait
        return self._list.host.machine.hold_seconds(self._filter_name())

    async def live(self, before: "ListedDevice | None") -> None:
        """Announce, decide, attach, wait, detach, forget.

        Args:
            before: a device of the same number that is still being detached.
        """
        try:
            if before is not None:
                await before.done.wait()
            self._list.tell(events.DeviceListed(self.subject))
            await self._list.host.displace(self._list.owner, self.info)
            while not self._unlisted.is_set():
                self._wake.clear()
                if self._is_retried:
                    self._is_retried = False
                    self.over.clear()
                is_admitted = self._admits()
                if is_admitted and not self.over.is_set():
                    await self._attach_until_over()
                elif not self._unlisted.is_set():
                    if not is_admitted:
                        await self._refuse_moved()
                        self._let_go()
                    await self._wake.wait()
            if not self._is_handed_over:
                self._log_gone()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._list.forget(self)
            self.done.set()

    # ---------------------------------------------------------- decisions ----

    def _admits(self) -> bool:
        """Do the machine's filters want it now? The log has every change."""
        machine = self._list.host.machine
        decision = decide(machine.filters, self.info, interfaces=self.interfaces)
        verdict = Verdict(decision.matched, str(decision), decision.index)
        if not machine.usb_controllers:
            verdict = Verdict(False, "the machine has no USB controller")
        if verdict != self.verdict:
            self.verdict = verdict
            if verdict.admitted:
                reason = verdict.reason
                self._list.tell(
                    events.DeviceAdmitted(self.subject, verdict.filter, reason)
                )
            else:
                self._list.tell(events.DeviceRefused(self.subject, verdict.reason))
                self._say_cure()
        return verdict.admitted

    def _let_go(self) -> None:
        """The filters do not want it: the client may have it back."""
        if not self._is_let_go and self._list.core.refuse_device(self.info.id):
            self._is_let_go = True
            self._list.link.flush()
            self._list.tell(events.DeviceNoted(self.subject, LET_GO))

    @property
    def _is_isochronous_carried(self) -> bool:
        return TransferType.ISOCHRONOUS in self._list.protocol.transfer_types

    def _policy(self) -> Policy:
        host = self._list.host
        return Policy(
            tuple(host.machine.filters),
            carries_streams=host.guest.carries_streams,
            carries_isochronous=self._is_isochronous_carried,
        )

    def _say_cure(self) -> None:
        """Tell a user what to do if the filters should not refuse it."""
        host, machine = self._list.host, self._list.host.machine
        commands = [f"modifyvm {machine.operand} --usb-xhci on"]
        if machine.usb_controllers:
            commands = list(admitting(machine.name, self.info, machine.filters))
        if commands:
            self._list.tell(events.Cure(self.subject, commands[-1], host.is_bare))

    def _filter_name(self) -> str:
        """The name of the filter that admits it."""
        filters = self._list.host.machine.filters
        chosen = decide(filters, self.info, interfaces=self.interfaces).filter
        return chosen.name if chosen else ""

    # ---------------------------------------------------- into the guest ----

    async def _attach_until_over(self) -> None:
        self.why = ""
        host, info = self._list.host, self.info
        why = LET_GO if self._is_let_go else host.lacks_room(self._list.number)
        if why:
            self._list.tell(events.DeviceUnfit(self.subject, why))
            self.end(why)
            return
        number = host.next_number()
        attachment = Attachment(
            info,
            name=f"usb-{number}",
            number=number,
            core=self._list.core,
            flush=self._list.link.flush,
            now=self._list.link.now,
            way=self._list.way,
        )
        attachment.allow(self._list.most_bytes)
        if self._list.away_until is not None:
            attachment.leave()
        attachment.watch_changed(self.end)
        self._list.attachments[info.id] = attachment
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT):
                moved, self._moved = self._moved, None
                if moved is None:
                    attachment = await self._enter(attachment)
                else:
                    attachment = await self._arrive(attachment, moved)
            host.devices_changed()
            while self._admits() and not self.over.is_set():
                self._is_retried = False
                self._wake.clear()
                if not await attachment.fits(self._policy()):
                    self.why = self.why or SHOWS_ELSE
                    break
                await self._wake.wait()
        except Exception as error:  # noqa: BLE001 - said, and tried again later
            self.end(why_failed(error, ATTACH_TIMEOUT))
            if self.plugged is None:
                self._list.tell(
                    events.DeviceFailed(self.subject, attachment.name, self.why)
                )
        finally:
            await self._detach(attachment)

    async def _enter(self, attachment: Attachment) -> Attachment:
        """Read the device, show the guest what it may see of it.

        Returns:
            The attachment that the guest has.
        """
        host = self._list.host
        try:
            await attachment.open(self._policy())
        finally:
            if attachment.reading is not None:
                self.interfaces = attachment.reading.interfaces
        for note in attachment.view.notes:
            self._list.tell(events.DeviceNoted(self.subject, note))
        if (found := host.find_held(self._list.owner, self.info)) is not None:
            holder, held = found
            if held.plugged is not None and held.plugged.is_like(attachment):
                return self._go_on(attachment, holder, held)
            held.unlist("another device is offered in its place")
            await held.done.wait()
        self._shown = self._pipelined(attachment, self._buffered(attachment))
        return self._is_in(attachment, await host.guest.attach(self._shown))

    def _go_on(
        self, fresh: Attachment, holder: DeviceList, held: "ListedDevice"
    ) -> Attachment:
        """The guest has it already, since before its client was gone."""
        attachment = held.plugged
        assert attachment is not None
        self._shown, self.plugged = held._shown, attachment
        holder.hand_over(held)
        self._list.attachments[self.info.id] = attachment
        attachment.watch_changed(self.end)
        attachment.come_back()
        core, link = self._list.core, self._list.link
        attachment.rebind(
            *(fresh.wire_id, core, link.flush),
            now=link.now,
            way=self._list.way,
            is_open=True,
            has_waited=True,
        )
        attachment.allow(self._list.most_bytes)
        text = "its client is back; the guest goes on with it"
        self._list.tell(events.DeviceNoted(self.subject, text))
        return attachment

    def _buffered(self, attachment: Attachment) -> Attachment | IsoStreams:
        """Return it with a buffer for what it streams, if it does."""
        self.streams = None
        if not (
            self._is_isochronous_carried and attachment.descriptors.has_isochronous
        ):
            return attachment

        def ended(state: StreamState) -> None:
            subject, name = self.subject, attachment.name
            self._list.tell(events.StreamEnded.of(subject, name, state))

        loop = asyncio.get_running_loop()
        self.streams = IsoStreams(
            attachment, now=loop.time, later=loop.call_later, ended=ended
        )
        return self.streams

    def _pipelined(
        self, attachment: Attachment, below: Attachment | IsoStreams
    ) -> AttachedDevice:
        """Return what the guest gets: storage is pipelined, if that is wanted."""
        host, info = self._list.host, self.info
        storage = host.machine.storage_of(self._filter_name())
        identity = info.vendor_id, info.product_id, info.bcd_device
        odd = host.odd_storage
        mode = min(storage.mode, odd.get(identity, storage.mode))
        ahead: ReadAhead | None = None

        def degraded(lesser: StorageMode, why: str) -> None:
            if ahead is not None:
                ahead.stop()
            if len(odd) < MAX_ODD:
                odd[identity] = lesser
            text = f"storage: {why}; from now on its commands are {_TELLS[lesser]}"
            self._list.tell(events.DeviceNoted(self.subject, text))

        loop = asyncio.get_running_loop()
        now, later = loop.time, loop.call_later
        shown: StorageTarget = below
        self._posted = self._storage = None
        if is_read_ahead(attachment.descriptors):
            clock = time.monotonic  # uvloop's counts whole milliseconds
            shown = self._posted = PostedReads(below, now=clock, later=later)
        if not mode or not is_storage(attachment.descriptors):
            return shown
        pipelined = self._storage = PipelinedStorage(
            shown,
            min(mode, StorageMode.EARLY),
            now=now,
            later=later,
            degraded=degraded,
        )
        if mode < StorageMode.AHEAD or self._list.commands is None:
            return pipelined
        commands = self.commands = self._list.commands.of(info.id)

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

    # -------------------------------------------------- to another server ----

    @property
    def why_it_stays(self) -> Reason | None:
        """Why another server could not go on with it; None: it could."""
        found = self._stream()
        if self.commands is not None:
            why, code = "its client reads it ahead", Staying.AHEAD
        elif self.streams is not None:
            why, code = "it streams", Staying.STREAM
        elif self.plugged is None or self.over.is_set() or found is None:
            why, code = "it is being plugged in or out", Staying.BUSY
        elif not found[1].may_move:
            why, code = "the guest's transfers do not stop", Staying.BUSY
        else:
            return None
        return Reason(f"{self.info} cannot move: {why}", code, self.info.id)

    def recall(self) -> None:
        """Have what waits at the device come back, once it is between two commands."""
        found, storage = self._stream(), self._storage

        def is_quiet() -> bool:
            if storage is not None and not storage.is_between:
                return False
            self._recalling = self._loop.call_soon(self._recall_ours)
            return True

        if found is not None:
            found[1].recall(is_quiet)

    def _recall_ours(self) -> None:
        if self._posted is not None:
            self._posted.recall()

    @property
    def is_back(self) -> bool:
        """Is nothing in flight any more, since :meth:`recall`?"""
        found, attachment = self._stream(), self.plugged
        is_back = self._posted is None or self._posted.is_back
        is_idle = attachment is not None and attachment.is_idle
        return found is not None and found[1].is_back and is_back and is_idle

    def go_on(self) -> None:
        """It stays here: serve the guest again."""
        if self._recalling is not None:
            self._recalling.cancel()
        if self._posted is not None:
            self._posted.go_on()
        if (found := self._stream()) is not None:
            found[1].go_on()

    @property
    def place(self) -> str:
        """What it is called in the machine."""
        found = self._stream()
        return "" if found is None else found[0]

    async def gather(self) -> MovedDevice:
        """Return all of it, once :attr:`is_back` is true and the guest has said all."""
        found, attachment = self._stream(), self.plugged
        assert found is not None
        assert attachment is not None
        stream = await found[1].gather()
        brought = {} if self._posted is None else self._posted.brought()
        number = self.info.id
        return MovedDevice(number, found[0], attachment.state(), stream, b"", brought)

    def leave(self) -> None:
        """Another server goes on with it."""
        guest = self._list.host.guest
        if self._shown is not None and isinstance(guest, MovableGuest):
            guest.forget(self._shown)
        self.hand_over()

    def _stream(self) -> tuple[str, DeviceStream] | None:
        guest = self._list.host.guest
        if self._shown is None or not isinstance(guest, MovableGuest):
            return None
        return guest.stream_of(self._shown)

    async def _arrive(self, attachment: Attachment, moved: MovedDevice) -> Attachment:
        """Go on with what another server had in the guest."""
        guest = self._list.host.guest
        if not isinstance(guest, MovableGuest):
            raise GuestError("the guest is not one that devices move with")
        try:
            attachment.adopt(moved.of, self._policy())
            assert attachment.reading is not None
            self.interfaces = attachment.reading.interfaces
            self._shown = self._pipelined(attachment, self._buffered(attachment))
            if self._posted is not None:
                self._posted.adopt(moved.brought)
            where = await guest.adopt(
                self._shown, moved.place, moved.stream, moved.unsent
            )
        except BaseException:
            await guest.refuse(moved.place)
            raise
        return self._is_in(attachment, where)

    async def _refuse_moved(self) -> None:
        """The filters do not want here what another server had in the guest."""
        moved, self._moved = self._moved, None
        guest = self._list.host.guest
        if moved is not None and isinstance(guest, MovableGuest):
            await guest.refuse(moved.place)
            self._list.core.close_device(self.info.id)
            self._list.link.flush()

    def _is_in(self, attachment: Attachment, where: str) -> Attachment:
        """The guest has it."""
        self.plugged = attachment
        assert self.verdict is not None
        reason = self.verdict.reason
        self._list.tell(
            events.DeviceAttached(self.subject, attachment.name, where, reason)
        )
        return attachment

    # ----------------------------------------------------- and out of it ----

    async def _detach(self, attachment: Attachment) -> None:
        attachments = self._list.attachments
        if self._is_handed_over:
            attachments.pop(self.info.id, None)
            self.plugged = None
            return
        if self._unlisted.is_set():
            self._log_gone()
        try:
            attachment.close()
            if self.commands is not None:
                self.commands.close()
            await self._list.host.guest.detach(self._shown or attachment)
        except Exception:
            log.exception("%s: the guest failed to detach it", attachment)
        attachments.pop(self.info.id, None)
        if self.plugged is not None:
            self.plugged = None
            assert self.verdict is not None
            why = self.why or self.verdict.reason
            self._list.tell(events.DeviceDetached(self.subject, attachment.name, why))
            self._list.host.devices_changed()

    def _log_gone(self) -> None:
        """Log once that it is no longer listed."""
        if not self._is_logged_gone:
            self._is_logged_gone = True
            self._list.tell(events.DeviceGone(self.subject))
