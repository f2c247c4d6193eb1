"""The devices of a client over one wire: its guest side joined to attachments."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from rusb.aio.link import Sender, WireLink, no_channels
from rusb.aio.tasks import TaskSet
from rusb.errors import RemoteProtocolError, RusbError
from rusb.rdp.rusbext import Staying
from rusb.usb.device import DeviceInfo
from rusb.usb.polling import RoundTrip
from rusb.wire import base as wire
from rusb.wire._commands import Commands
from rusb.wire.vrdpusb import VrdpUsbGuestSide, WireState

from . import events
from .attachments import MAX_BYTES_BESIDE, MAX_BYTES_IN_FLIGHT, Attachment
from .elsewhere import Reason
from .guests.base import AttachedDevice
from .listed_device import ATTACH_TIMEOUT, DeviceHost, DeviceList, ListedDevice
from .moving import MovedDevice
from .sessions import Owner
from .state import DeviceState

__all__ = ["HELD_TOO_LONG", "RemoteDevices"]

log = logging.getLogger(__name__)

HELD_TOO_LONG = "nobody offered it again"
"""Why a device that was held leaves the guest."""

MAX_PLUGS, PLUG_PERIOD = 512, 10.0
"""Devices that one client may plug in within so many seconds: each costs a task and
lines in the log. A client that does more is not serious."""


class RemoteDevices(DeviceList):
    """What a client has plugged in over a wire, from the first list to the last detach.

    It belongs to the server; a connection lends it a link.

    Args:
        host: the server.
        number: of the client.
        protocol: the wire.

    Attributes:
        link: takes what the channels bring, once it is lent.
        is_closed: its client has left.
    """

    commands = None
    _fail: Callable[[RusbError], None]

    def __init__(
        self, host: DeviceHost, number: int, protocol: wire.WireProtocol
    ) -> None:
        self.protocol = protocol
        self.host = host
        self.number = number
        self._tasks = TaskSet()
        self._listed: dict[int, ListedDevice] = {}
        self._leaving: dict[int, ListedDevice] = {}  # unlisted, not yet detached
        self.attachments: dict[int, Attachment] = {}
        self.way = RoundTrip()
        self._is_slow = self._is_full = False
        self.most_bytes = MAX_BYTES_IN_FLIGHT
        self.is_closed = self._is_held = False
        self.away_until: float | None = None
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
        self.tell, self._fail, self.owner = tell, fail, owner
        self.core = core = self.protocol.guest_side()
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
        self.away_until = until
        self._fail = lambda error: None  # the connection is not to live as long as this
        self.link.suspend()
        self.set_slow(False)  # it was the connection
        for attachment in self.attachments.values():
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
            seconds = device.hold_seconds
            attachment = device.plugged
            if attachment is None or device.over.is_set() or not seconds:
                gone.append(number)
                continue
            longest = max(longest, seconds)
            attachment.hold()
            held[number] = self.attachments.pop(number)
            device.unlist_after(seconds, HELD_TOO_LONG)
            text = f"its client is gone; the guest keeps it for {seconds:g} s"
            self.tell(events.DeviceNoted(device.subject, text))
        self._is_held = bool(longest)
        self.away_until = self._loop.time() + longest
        self.link.close()  # what it tells of its end is not for those that are held
        self.attachments |= held
        self._fail = lambda error: None
        for number in gone:
            device = self._leaving[number] = self._listed.pop(number)
            device.unlist("the client's connection ended")
        return longest

    def find_held(self, info: DeviceInfo) -> ListedDevice | None:
        """Return the same device, which the guest keeps without a client."""
        if self._is_held:
            for device in self._listed.values():
                if device.is_same(info) and not device.over.is_set():
                    return device
        return None

    def hand_over(self, device: ListedDevice) -> None:
        """Somebody else has it from now on."""
        del self._listed[device.info.id]
        device.hand_over()

    def forget(self, device: ListedDevice) -> None:
        """It is detached, and listed no more."""
        number = device.info.id
        for known in (self._listed, self._leaving):
            if known.get(number) is device:
                del known[number]

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
        self.away_until = None
        self.number, self.tell, self._fail = number, tell, fail
        self.way.forget()
        for attachment in self.attachments.values():
            attachment.come_back()
        self.link.go_on()
        self.reconsider()

    # -------------------------------------------------- to another server ----

    @property
    def why_they_stay(self) -> Reason | None:
        """Why another server could not go on with what the guest has of these; None:
        it could."""
        if self.away_until is not None or self.is_closed:
            return Reason("it is not connected")
        if not isinstance(self.core, VrdpUsbGuestSide):
            why = "it has devices over another wire than vrdpusb"
            return Reason(why, Staying.WIRE)
        if self._leaving:
            return Reason("a device of it is being plugged out", Staying.BUSY)
        reasons = (device.why_it_stays for device in self._in_guest())
        return next(filter(None, reasons), None)

    @property
    def places(self) -> list[str]:
        """What its devices are called in the machine."""
        return [device.place for device in self._in_guest()]

    def recall(self) -> None:
        """Have what waits at the devices come back, and take nothing of the guest."""
        for device in self._in_guest():
            device.recall()

    @property
    def is_back(self) -> bool:
        """Is nothing in flight any more, since :meth:`recall`?"""
        found = self._in_guest()
        is_idle = isinstance(self.core, VrdpUsbGuestSide) and self.core.may_move
        is_all = len(found) == len(self.attachments) and not self._leaving
        return is_idle and is_all and all(device.is_back for device in found)

    def stay(self) -> None:
        """Serve the guest again."""
        for device in self._in_guest():
            device.go_on()

    async def gather(self) -> tuple[WireState, tuple[MovedDevice, ...]]:
        """Return all of them, once :attr:`is_back` is true and the guest has said all;
        what it has not been given is left to the caller."""
        assert isinstance(self.core, VrdpUsbGuestSide)
        found = await asyncio.gather(*(one.gather() for one in self._in_guest()))
        return self.core.state(), tuple(found)

    def leave_for_good(self) -> None:
        """Another server goes on with them."""
        self.is_closed = True
        for device in list(self._listed.values()):
            device.leave()
        self.attachments.clear()
        self.link.close()

    def arrive(
        self, channel: int, state: WireState, moved: Sequence[MovedDevice]
    ) -> None:
        """Go on with devices of another server; once a connection is lent.

        Raises:
            ParseError: *state* contradicts itself.
        """
        assert isinstance(self.core, VrdpUsbGuestSide)
        self.core.adopt(channel, state, now=self.link.now())
        self.link.adopt(channel)
        found = {device.number: device for device in moved}
        for info in state.listed:
            device = ListedDevice(info, self, found.get(info.id))
            self._listed[info.id] = device
            work = device.live(None)
            self._tasks.start(work, f"{info} of client {self.number}")

    def _in_guest(self) -> list[ListedDevice]:
        return [device for device in self._listed.values() if device.plugged]

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
        return len(self.attachments)

    def state(self) -> tuple[DeviceState, ...]:
        """The client's devices, attached or not."""
        grace = None
        if self.away_until is not None:
            grace = max(0.0, round(self.away_until - self._loop.time(), 1))
        return tuple(
            DeviceState.of(
                d.info,
                uuid=d.uuid,
                address=f"REMOTEUSB0x{d.info.id:08X}&0x{self.number:08X}",
                attached=d.plugged is not None,
                name=d.plugged.name if d.plugged else "",
                client=self.number,
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
        self._adapt()

    def set_full(self, is_full: bool) -> None:
        """Is all kept that may be kept for the client? Then the guest waits, also with
        nothing in flight: what it gives up is kept, too."""
        self._is_full = is_full
        self._adapt()

    def _adapt(self) -> None:
        """Let the guest have as much in flight as the client can take."""
        self.most_bytes = MAX_BYTES_BESIDE if self._is_slow else MAX_BYTES_IN_FLIGHT
        if self._is_full:
            self.most_bytes = 0
        for attachment in self.attachments.values():
            attachment.allow(self.most_bytes)

    def has_same(self, info: DeviceInfo) -> bool:
        """Is this a device that the guest has from here?"""
        return any(d.plugged and d.is_same(info) for d in self._listed.values())

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
            if known.is_shown_as(device):
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
                attachment = self.attachments.get(event.device)
                if attachment is not None:
                    attachment.completed(event.urb_id, event.result)
            case wire.RequestCompleted():
                attachment = self.attachments.get(event.device)
                if attachment is not None:
                    attachment.request_completed(event.request, event.status)
            case wire.DevicesListed():
                self._update(event.devices)
            case wire.DeviceFailed():
                device = self._listed.get(event.device)
                if device is not None:
                    why = "is gone" if event.removed else f"refused: {event.request}"
                    self.tell(events.DeviceLeft(device.subject, why))
                    device.end(f"the client says that it {why}")
            case wire.Negotiated():
                self.tell(
                    events.WireAgreed(
                        *(self.number, event.version, event.flags, event.error)
                    )
                )
            case wire.Ignored():
                log.debug("client %d: ! %s", self.number, event.reason)
            case _:
                raise AssertionError(f"not an event of the guest side: {event}")

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
            if info is None or not device.is_same(info):
                self._leaving[number] = self._listed.pop(number)
                device.unlist(why)
        for number in listed.keys() - self._listed.keys():
            if not self._may_plug():
                return
            device = self._listed[number] = ListedDevice(listed[number], self)
            work = device.live(self._leaving.get(number))
            self._tasks.start(work, f"{device.info} of client {self.number}")

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
