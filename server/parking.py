"""Clients that may come back: their devices stay in the guest while a connection is
lost, for as long as the grace lasts (docs/spec/resume.md)."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rusb.errors import ParseError
from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import Lane
from rusb.rdp.rusbext import Feature
from rusb.usb.device import DeviceInfo

from . import events
from .elsewhere import Elsewhere
from .guests.base import AttachedDevice
from .listed_device import ListedDevice
from .moving import MovedClient
from .remote_devices import HELD_TOO_LONG, RemoteDevices
from .sessions import Owner, Session, Sessions
from .state import ClientState, DeviceState

__all__ = ["WINDOW", "Holder", "Parking", "Ticket"]

WINDOW = 16 << 20
"""Bytes of messages that are kept for a client. Above it the guest waits."""

MAX_PARKED, MAX_PARKED_PER_NETWORK = 16, 4
"""Clients that are waited for at once; one more, and the oldest makes room."""

DETACH_TIMEOUT = 30.0
"""Seconds for which a device of a client waits until its former self has left."""


class Holder(Protocol):
    """What has the devices of a client: its connection, or the parking."""

    number: int

    @property
    def heard(self) -> float:
        """When the last byte of the client came, by the loop's clock."""

    def give_up(self, why: str) -> None:
        """Another connection of the client has them now."""


class Ticket:
    """What a client may come back with; nothing in it can be used by anybody else.

    Attributes:
        id: of the session, 16 bytes.
        key: of the client, public.
        features: bits of :class:`~rusb.rdp.rusbext.Feature` that both ends have.
        owner: whose it is.
        lane: the channel of the wire, with what is kept.
        devices: what is in the guest.
        holder: who has the devices now.
        cookie: what the client shows at the logon when it comes back.
    """

    def __init__(
        self,
        session: bytes,
        key: bytes,
        owner: Owner,
        *,
        cookie: Cookie,
        lane: Lane,
        devices: RemoteDevices,
        holder: Holder,
    ) -> None:
        self.id = session
        self.owner = owner
        self.lane = lane
        self.devices = devices
        self.holder = holder
        self.cookie = cookie
        self.key = key
        self.features = 0
        self._key = Ed25519PublicKey.from_public_bytes(key)

    def is_signed(self, signature: bytes, text: bytes) -> bool:
        """Is the signature that of the client that was given the ticket?"""
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


class _Nobody(Holder):
    """Has the devices of a client that is about to be parked."""

    def __init__(self, number: int, heard: float) -> None:
        self.number = number
        self._heard = heard

    @property
    def heard(self) -> float:
        return self._heard

    def give_up(self, why: str) -> None: ...


class ParkedSession(Session):
    """A client that is waited for.

    Args:
        parking: where it is.
        devices: of the client.
        owner: who it is.
        ticket: what it may come back with; None: somebody may offer them again.
        before: its state when the connection broke.
        network: of that connection.
        heard: when the last byte of it came, by the loop's clock.
        until: when the grace is over, by the same.
    """

    def __init__(
        self,
        parking: "Parking",
        devices: RemoteDevices,
        owner: Owner,
        ticket: Ticket | None,
        before: ClientState,
        network: str,
        heard: float,
        until: float,
    ) -> None:
        self.number = before.number
        self.network, self.address = network, before.address
        self.user = before.user, before.domain
        self.devices, self.owner, self.ticket = devices, owner, ticket
        self.heard = heard
        self._is_ended = False
        self._before = before
        self._parking = parking
        self._over = asyncio.Event()
        self._timer = asyncio.get_running_loop().call_at(until, self._on_late)

    @property
    def is_waiting(self) -> bool:
        """It has passed its logon."""
        return False

    @property
    def is_logged_on(self) -> bool:
        """It is not there."""
        return False

    @property
    def was_logged_on(self) -> bool:
        """Its connection has been counted."""
        return False

    @property
    def in_use(self) -> int:
        """Devices that the guest has."""
        return self.devices.in_use

    def state(self, *, ended: float | None = None) -> ClientState:
        """As it was when the connection broke."""
        return self._before

    def device_states(self) -> tuple[DeviceState, ...]:
        """The client's devices, attached or not."""
        return self.devices.state()

    def reconsider(self) -> None:
        """The machine's settings have changed."""
        self.devices.reconsider()

    def lost_by_guest(self, device: AttachedDevice, why: str) -> bool:
        """The guest dropped a device: is it one of these?"""
        is_ours = self.devices.lost_by_guest(device, why)
        if is_ours and not self.devices.is_needed:
            self.end("the guest gave its devices up")
        return is_ours

    def disconnect(self, reason: int) -> None:
        """Wait no longer."""
        self.end("the server stopped waiting for the client")

    def send_on(self, to: Elsewhere, *, has_same_port: bool) -> None:
        """Nothing: its devices go on over here."""

    def drop(self, reason: str) -> None:
        """Wait no longer."""
        self.end(reason)

    async def wait_ended(self) -> None:
        """Wait until its devices are detached."""
        await self._over.wait()

    def give_up(self, why: str) -> None:
        """The client has come back."""
        self._timer.cancel()
        self._is_ended = True
        self._parking.left(self)
        self._over.set()

    def end(self, why: str) -> None:
        """Its devices leave the guest. Idempotent."""
        self._timer.cancel()
        if not self._is_ended:
            self._is_ended = True
            self._parking.end(self, why)

    def ended(self) -> None:
        """Its devices have left the guest."""
        self._over.set()

    def _on_late(self) -> None:
        why = "its client did not come back in time"
        self.end(why if self.ticket is not None else HELD_TOO_LONG)


class _Host(Protocol):
    """What the parking asks of the server."""

    sessions: Sessions

    def tell(self, event: events.Event) -> None: ...
    def client_left(self, client: int, why: str) -> None: ...
    async def wait_detached(self, client: int) -> None: ...


class Parking:
    """All tickets of a server.

    Args:
        host: the server.
        grace: gives the seconds for which a client is waited for; 0: for none.
    """

    def __init__(self, host: _Host, grace: Callable[[], float]) -> None:
        self._host = host
        self._grace = grace
        self._tickets: dict[bytes, Ticket] = {}
        self._parked: dict[int, ParkedSession] = {}  # by client, the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def grace(self) -> float:
        """Seconds for which a client is waited for."""
        return self._grace()

    def add(self, ticket: Ticket) -> None:
        """A client may come back with it."""
        self._tickets[ticket.id] = ticket

    def find(self, session: bytes) -> Ticket | None:
        """Return a ticket that is good."""
        return self._tickets.get(session)

    def find_shown(self, packet: bytes, owner: Owner) -> Ticket | None:
        """Return the ticket of an owner whose cookie a client shows; that is a hint,
        and proves nothing."""
        for ticket in self._tickets.values() if packet else ():
            if owner.may_resume(ticket.owner) and ticket.cookie.is_shown_by(packet):
                return ticket
        return None

    def arrive(self, moved: MovedClient, devices: RemoteDevices, number: int) -> None:
        """A client of another server may come back to its devices here.

        Args:
            moved: what that server had.
            devices: of the client, without a connection so far.
            number: of the client.

        Raises:
            ParseError: what came contradicts itself.
        """
        try:
            loop = asyncio.get_running_loop()
            lane = Lane(window=WINDOW, later=loop.call_later, on_full=devices.set_full)
            devices.lend(
                tell=self._host.tell,
                send=lane.send,
                flush=lane.flush,
                fail=lambda error: None,
                owner=moved.owner,
            )
            lane.serve(devices.link)
            lane.adopt(moved.channel, moved.lane)
            before = dataclasses.replace(moved.before, number=number)
            now = loop.time()
            ticket = Ticket(
                *(moved.session, moved.key, moved.owner),
                cookie=moved.cookie,
                lane=lane,
                devices=devices,
                holder=_Nobody(number, now),
            )
        except ValueError as error:
            raise ParseError(f"a client that cannot be: {error}") from error
        ticket.features = moved.features
        if moved.features & Feature.COMMANDS:
            devices.have_commands_run()
        devices.arrive(moved.channel, moved.wire, moved.devices)
        self.add(ticket)
        self._wait_for(ticket, before, moved.network, now)
        count, grace = len(moved.devices), round(self.grace, 3)
        self._host.tell(events.ClientArrived(number, count, grace))

    def forget(self, ticket: Ticket) -> bool:
        """Nobody may come back with it any more; could anybody?"""
        return self._tickets.pop(ticket.id, None) is not None

    def detach(self, text: str) -> bool:
        """Take a device of a client that is waited for out of the guest; is there one
        of that UUID or address? With its last one, the client is given up."""
        for parked in list(self._parked.values()):
            devices = parked.devices
            if devices.detach(text):
                if not devices.is_needed:
                    parked.end("its last device was detached with controlvm")
                return True
        return False

    def give_up(self, ticket: Ticket, why: str) -> None:
        """Nobody can come back with it any more."""
        parked = self._parked.get(ticket.holder.number)
        if parked is not None:
            parked.end(why)

    def park(
        self, ticket: Ticket, before: ClientState, network: str, heard: float
    ) -> None:
        """The connection of a client broke; see :meth:`_wait_for`."""
        self._wait_for(ticket, before, network, heard)
        count = len(ticket.devices.attached)
        grace = round(self.grace, 3)
        self._host.tell(events.ClientParked(before.number, count, grace))

    def _wait_for(
        self, ticket: Ticket, before: ClientState, network: str, heard: float
    ) -> None:
        """Wait for a client.

        Args:
            ticket: of the client.
            before: its state.
            network: where it was.
            heard: when the last byte of it came, by the loop's clock.
        """
        grace = self.grace
        until = heard + grace
        ticket.lane.unbind()
        ticket.devices.leave(until)
        parked = ParkedSession(
            *(self, ticket.devices, ticket.owner, ticket, before, network),
            heard,
            until,
        )
        ticket.holder = parked
        self._add(parked)

    def hold(
        self, devices: RemoteDevices, owner: Owner, before: ClientState, network: str
    ) -> bool:
        """The connection of a client broke that cannot come back to its devices.

        Returns:
            The guest keeps some of them, in case somebody offers the same.
        """
        seconds = devices.hold()
        if seconds:
            now = asyncio.get_running_loop().time()
            until = now + seconds + 1  # each device has its own time
            self._add(
                ParkedSession(self, devices, owner, None, before, network, now, until)
            )
        return bool(seconds)

    def find_held(
        self, owner: Owner, info: DeviceInfo
    ) -> tuple[RemoteDevices, ListedDevice] | None:
        """Return the same device of the same owner, which the guest keeps."""
        for parked in self._parked.values():
            if parked.ticket is None and owner.may_displace(parked.owner):
                if (found := parked.devices.find_held(info)) is not None:
                    return parked.devices, found
        return None

    def _add(self, parked: ParkedSession) -> None:
        """Wait for a client; too many make room."""
        network = parked.network
        near = [one for one in self._parked.values() if one.network == network]
        all_ = list(self._parked.values())
        if len(near) >= MAX_PARKED_PER_NETWORK:
            near[0].end("too many clients of its network are waited for")
        elif len(all_) >= MAX_PARKED:
            all_[0].end("too many clients are waited for")
        self._parked[parked.number] = parked
        self._host.sessions.add(parked)

    def left(self, parked: ParkedSession) -> None:
        """A client is not waited for any more."""
        self._parked.pop(parked.number, None)
        self._host.sessions.ended(parked)

    def end(self, parked: ParkedSession, why: str) -> None:
        """Detach the devices of a client that does not come back."""
        self._parked.pop(parked.number, None)
        if parked.ticket is not None:
            self.forget(parked.ticket)
            self._host.tell(events.ClientGivenUp(parked.number, why))
        self._host.client_left(parked.number, why)
        task = asyncio.get_running_loop().create_task(self._finish(parked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, parked: ParkedSession) -> None:
        try:
            await self._host.wait_detached(parked.number)
        finally:
            self._host.sessions.ended(parked)
            parked.ended()

    async def displace(self, owner: Owner, info: DeviceInfo) -> None:
        """A new session of an owner has a device that is still in the guest for an
        earlier one: that one is given up, and its end waited for."""
        for parked in list(self._parked.values()):
            is_mine = owner.may_displace(parked.owner)
            if parked.ticket and is_mine and parked.devices.has_same(info):
                parked.end("the client has come back without it")
                async with asyncio.timeout(DETACH_TIMEOUT):
                    await parked.wait_ended()
