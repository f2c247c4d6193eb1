"""The devices of a client that speaks RDP: which channels carry them, and who else has
had them, or may have them when the connection breaks."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from rusb.aio.stream import RdpStream
from rusb.errors import ConnectionLost
from rusb.rdp import rusbext
from rusb.rdp.channels import ChannelHandler, ChannelRegistry
from rusb.rdp.lane import Lane
from rusb.rdp.notices import Notice, UsbUnreachable
from rusb.rdp.rusbext import RUSBEXT, Staying
from rusb.rdp.server import ServerConnection
from rusb.wire.base import ChannelKind, WireProtocol, carries_more

from . import events
from .elsewhere import Elsewhere, Reason
from .extension import Extension
from .host import SessionHost
from .moving import MovedClient
from .parking import Ticket
from .remote_devices import RemoteDevices
from .sessions import Owner, Session
from .state import ClientState

__all__ = ["ClientUsb"]

PROOF_SECONDS = 10.0
"""For a client that was let in to replace a connection to show that it may
(docs/spec/resume.md 9)."""


RECALL_PERIOD = 0.005
"""Seconds between two looks whether all is back that was recalled."""


class _Client(Protocol):
    """What it asks of the session."""

    number: int
    network: str
    address: str
    is_usb_only: bool

    @property
    def owner(self) -> Owner:
        """Who logged on."""

    def state(self) -> ClientState:
        """Who it is."""

    def drop(self, reason: str) -> None:
        """End the connection at once; the log says why."""

    def teller(self) -> Callable[[events.Event], None]:
        """Return what reports."""

    def lacks_wire(self, name: str) -> None:
        """The client has no channel of this name for USB, and nothing else for it."""

    def note(self, notice: Notice) -> None:
        """Log a fact."""


class ClientUsb:
    """One client's; holds what its :class:`~.parking.Ticket` is for.

    Args:
        host: the server.
        client: its session.

    Attributes:
        devices: for each wire that the client has.
        extension: serves rusb's own channel; None: the client has none.
        is_off: it may have no devices.
    """

    def __init__(self, host: SessionHost, client: _Client) -> None:
        self.number = client.number
        self.devices: list[RemoteDevices] = []
        self.extension: Extension | None = None
        self.is_off = False
        self._host = host
        self._client = client
        self._rdp: ServerConnection
        self._stream: RdpStream
        self._channels: ChannelRegistry
        self._waiting_wire: tuple[WireProtocol, int] | None = None
        self._to_resume: Ticket | None = None  # or it has to go
        self._recalled: Ticket | None = None  # goes to another server
        self._proof_timer: asyncio.TimerHandle | None = None
        self._is_dynamic = False  # it has dynamic channels, too

    def use(
        self, rdp: ServerConnection, stream: RdpStream, channels: ChannelRegistry
    ) -> None:
        """Say what the connection is; before any channel opens."""
        self._rdp, self._stream, self._channels = rdp, stream, channels

    # ------------------------------------------------------ begin, and end ----

    def find_former(self, cookie: bytes) -> Session | None:
        """Return the connection that the client says it is to replace, and which seems
        to be alive; it may do nothing but prove that."""
        client, host = self._client, self._host
        if not client.is_usb_only or self._rdp.find_channel(RUSBEXT) is None:
            return None
        ticket = host.parking.find_shown(cookie, client.owner)
        number = ticket.holder.number if ticket is not None else 0
        former = next((one for one in host.sessions if one.number == number), None)
        if former is None or not former.is_logged_on:
            return None
        loop = asyncio.get_running_loop()
        self._to_resume = ticket
        self._proof_timer = loop.call_later(PROOF_SECONDS, self._on_no_proof)
        return former

    def _on_no_proof(self) -> None:
        why = f"it did not go on with its session within {PROOF_SECONDS:g} s"
        self._client.drop(why)

    def needs_no_proof(self) -> None:
        """It has shown what it had to, or is gone."""
        self._to_resume = None
        if self._proof_timer is not None:
            self._proof_timer.cancel()

    def keep(self, *, may_return: bool) -> Sequence[RemoteDevices]:
        """The connection is over; return what stays in the guest, because the client
        may come back to it, or somebody may offer it again.

        Args:
            may_return: neither of us meant to end it, and no rule was broken.
        """
        ticket = self.extension.ticket if self.extension is not None else None
        if not may_return:
            if ticket is not None and ticket.holder is self:
                self._host.parking.forget(ticket)
            return ()
        kept = []
        parking, client = self._host.parking, self._client
        for devices in list(self.devices):
            is_parked = ticket is not None and devices is ticket.devices
            if is_parked and ticket is not None and parking.grace and devices.in_use:
                parking.park(ticket, client.state(), client.network, self.heard)
            elif ticket or not parking.hold(
                devices, client.owner, client.state(), client.network
            ):
                if is_parked and ticket is not None:
                    parking.forget(ticket)
                continue
            kept.append(devices)
            self.devices.remove(devices)
        return kept

    def end(self) -> None:
        """The connection is over: let go of it, and of the session, so that neither
        waits for the garbage collector."""
        self.extension = None
        del self._client, self._rdp, self._stream, self._channels

    def give_up(self, why: str) -> None:
        """Another connection of the client has its devices now."""
        assert self.extension is not None
        assert self.extension.ticket is not None
        self.devices.remove(self.extension.ticket.devices)
        self._client.drop(why)

    # -------------------------------------------------- to another server ----

    def invite(self, to: Elsewhere, ready: Callable[["ClientUsb"], None]) -> None:
        """Have the client get ready to go on elsewhere, if it knows how.

        Args:
            to: where.
            ready: called once it is, with this.
        """

        def answered(is_there: bool) -> None:
            if is_there:
                ready(self)
            elif self.extension is not None:
                self._tell_stays(Reason("it cannot be reached from there"))

        attached = [one for one in self.devices if one.attached]
        if not attached:
            return
        reasons = (_why_not_there(to), *(one.why_they_stay for one in attached))
        why = next(filter(None, reasons), None)
        if why is None:
            if (
                self._ticket is not None
                and self.extension is not None
                and self.extension.invite(to, answered)
            ):
                return
            why = Reason("its client does not know how")
        self._tell_stays(why)
        control = self._rdp.find_channel(RUSBEXT)
        if control is not None:  # it is one of ours, and says it to its user
            name = to.host.encode("ascii", "replace")
            message = rusbext.Stay(why.code, why.device, to.port, name)
            self._rdp.send_channel(control, message.serialize(), is_urgent=True)
            self._stream.flush()

    async def recall(self, seconds: float) -> bool:
        """Have what is in flight come back; False: in vain, and all is as it was."""
        ticket = self._ticket
        if ticket is None or ticket.devices.why_they_stay:
            return False
        devices = ticket.devices
        devices.recall()
        try:
            async with asyncio.timeout(seconds):
                # it has many parts
                while self._ticket is ticket and not devices.is_back:  # noqa: ASYNC110
                    await asyncio.sleep(RECALL_PERIOD)
        except BaseException as error:
            devices.stay()
            if not isinstance(error, TimeoutError):
                raise
            if self._ticket is ticket:
                self._tell_stays(Reason(f"it was not quiet within {seconds:g} s"))
            return False
        if self._ticket is not ticket:  # its connection broke
            devices.stay()
            return False
        self._recalled = ticket
        return True

    @property
    def places(self) -> list[str]:
        """What the client's devices are called in the machine."""
        return [] if self._ticket is None else self._ticket.devices.places

    async def gather(self) -> MovedClient:
        """Return all that another server needs, once the guest has said all; the
        client's messages are not taken any more.

        Raises:
            ConnectionLost: the client has gone meanwhile.
        """
        ticket = self._ticket
        if ticket is None or not ticket.devices.is_back:
            raise ConnectionLost("the client has gone")
        self._host.parking.forget(ticket)
        client = self._client
        before, network, owner = client.state(), client.network, client.owner
        lane = ticket.lane
        lane.unbind()
        ticket.devices.link.suspend()
        wire, found = await ticket.devices.gather()
        return MovedClient(
            *(ticket.id, ticket.key, ticket.features, ticket.cookie),
            *(owner, before, network),
            lane.channel,
            lane.state(),
            wire,
            found,
        )

    def leave(self, to: Elsewhere) -> None:
        """What the client has can go on elsewhere only, after :meth:`recall`, or this
        server ends; so it goes there, or begins anew there."""
        ticket, self._recalled = self._recalled or self._ticket, None
        if ticket is None:
            return  # its connection broke, and it goes there by itself
        self._host.parking.forget(ticket)
        ticket.devices.leave_for_good()
        if ticket.holder is not self:  # its connection broke meanwhile
            ticket.holder.give_up(f"its machine runs at {to} now")
            return
        if self.extension is None:
            return  # its connection was ended, and nothing here is waited for
        self.devices.remove(ticket.devices)
        self.extension.tell_moved()
        self._host.tell(events.ClientSentOn(self.number, str(to), True))
        self._host.client_moved()  # its viewer has nothing to stay for

    @property
    def _ticket(self) -> Ticket | None:
        """What the client may come back with, while it is here."""
        ticket = self.extension.ticket if self.extension is not None else None
        return ticket if ticket is not None and ticket.holder is self else None

    def _tell_stays(self, why: Reason) -> None:
        self._client.teller()(events.ClientStays(self.number, why.text))

    # ---------------------------------------------------------- channels ----

    def open_channel(
        self, protocol: WireProtocol, channel: int, name: str
    ) -> ChannelHandler | None:
        """Serve a channel of a wire, if the client's devices travel over it."""
        if self._may_wait(protocol, name):
            control = self._rdp.find_channel(RUSBEXT)
            assert control is not None
            self._waiting_wire = protocol, channel
            self.extension = Extension(
                *(
                    self,
                    self._rdp,
                    self._stream,
                    self._host.parking,
                    self._client.owner,
                ),
                wire=channel,
                name=name,
                control=control,
                serve=partial(self._channels.open.__setitem__, channel),
                only=self._to_resume,
            )
            self._channels.open[control] = self.extension  # in any order
            return self.extension
        devices = self._devices_over(protocol)
        if devices is None:
            if name.lower() != protocol.channel.name.lower() or not self._wants(
                protocol
            ):
                return None
            devices = self._take_wire(protocol)
        devices.link.opened(channel, name)
        return devices.link

    def _wants(self, protocol: WireProtocol) -> bool:
        """Is this the client's first wire, or does it carry what the others do not?"""
        found = [devices.protocol for devices in self.devices]
        may_begin = not self.is_off and self._to_resume is None
        return may_begin and carries_more(protocol, found)

    def _devices_over(self, protocol: WireProtocol) -> RemoteDevices | None:
        found = (devices for devices in self.devices if devices.protocol is protocol)
        return next(found, None)

    def _may_wait(self, protocol: WireProtocol, name: str) -> bool:
        """Is it a client that may come back, and whose USB waits for what it wants?"""
        return (
            protocol.channel.kind is ChannelKind.STATIC
            and name.lower() == protocol.channel.name.lower()
            and self._rdp.find_channel(RUSBEXT) is not None
            and self._host.parking.grace > 0
            and self._stream.is_tls
            and self.extension is None
            and not self.is_off
        )

    def begin_usb(self, lane: Lane | None) -> RemoteDevices:
        """The client begins: return its devices, which it reaches over *lane*."""
        assert self._waiting_wire is not None
        protocol, channel = self._waiting_wire
        devices = self._take_wire(protocol, lane)
        if lane is None:
            self._channels.open[channel] = devices.link
        self._usb_has_begun()
        return devices

    def go_on(self, ticket: Ticket) -> None:
        """The client goes on with the devices that it had."""
        self.needs_no_proof()
        before, ticket.holder = ticket.holder, self
        devices = ticket.devices
        self._host.client_came_back(devices, self.number)
        before.give_up(f"taken over from {self._client.address}")
        self.devices.append(devices)
        devices.come_back(
            self.number, tell=self._client.teller(), fail=self._stream.fail
        )
        self._usb_has_begun()

    def _usb_has_begun(self) -> None:
        self._waiting_wire = None
        if self._is_dynamic:
            self._open_dynamic()

    def tell_resumed(self, outage: float, messages: int) -> None:
        """It does, after so many seconds, with so many messages sent again."""
        self._client.teller()(
            events.ClientResumed(self.number, round(outage, 1), messages)
        )
        self._host.client_resumed(self.number)

    @property
    def heard(self) -> float:
        """When the last byte of a client that may come back came."""
        assert self.extension is not None
        return self.extension.look()

    def tell_refused(self, why: str) -> None:
        """The client wanted to go on, and may not."""
        self._client.teller()(events.ResumeRefused(self.number, why))

    def _take_wire(
        self, protocol: WireProtocol, lane: Lane | None = None
    ) -> RemoteDevices:
        devices = self._host.devices_of(self.number, protocol)
        self.devices.append(devices)
        tell, fail, owner = self._client.teller(), self._stream.fail, self._client.owner
        if lane is not None:  # what it is given outlives this connection
            devices.lend(
                tell=tell, send=lane.send, flush=lane.flush, fail=fail, owner=owner
            )
            return devices
        devices.lend(
            tell=tell,
            send=self._rdp.send_channel,
            flush=self._stream.flush,
            open_channel=self._rdp.open_channel,
            close_channel=partial(_close_channel, self._rdp, self._channels),
            fail=fail,
            owner=owner,
        )
        return devices

    def dynamic_ready(self) -> None:
        """The client has dynamic channels."""
        self._is_dynamic = True
        self._open_dynamic()

    def _open_dynamic(self) -> None:
        """Ask the client for wires over dynamic channels; static ones are open."""
        if self._waiting_wire is not None:
            return
        kinds = {protocol.channel.kind for protocol in self._host.wires}
        if not self.devices and ChannelKind.DYNAMIC not in kinds:
            self._client.note(UsbUnreachable())
        for protocol in self._host.wires:
            is_dynamic = protocol.channel.kind is ChannelKind.DYNAMIC
            if is_dynamic and self._wants(protocol):
                self._rdp.open_channel(protocol.channel.name)

    def refused(self, protocol: WireProtocol, name: str) -> None:
        """The client does not open a dynamic channel."""
        devices = self._devices_over(protocol)
        if devices is not None:
            devices.link.refused(name)
        elif not self.devices:
            self._client.lacks_wire(name)


def _close_channel(
    rdp: ServerConnection, channels: ChannelRegistry, channel: int
) -> None:
    channels.forget(channel)
    rdp.close_channel(channel)


def _why_not_there(to: Elsewhere) -> Reason | None:
    """Why no client can go on there; None: those of ours can."""
    if not to.port:
        return Reason("the machine has no remote display there", Staying.NO_DISPLAY)
    if not to.certificate:
        why = "the remote display there has no TLS, or keeps nothing for clients"
        return Reason(why, Staying.NO_TLS)
    return None
