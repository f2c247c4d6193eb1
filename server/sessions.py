"""The contract of a session, and all the sessions of a server."""

import abc
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .elsewhere import Elsewhere
from .guests.base import AttachedDevice
from .state import ClientState, DeviceState, DisplayState
from .vbox.settings import RemoteDisplay

__all__ = ["Owner", "Session", "Sessions"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose devices they are: nobody else may go on with them.

    Attributes:
        name: of the client, as it says.
        network: it counts only where nobody is asked for a password; else empty.
    """

    user: str
    domain: str
    screen: int
    name: str
    network: str

    def may_resume(self, other: "Owner") -> bool:
        """May it go on with what the other had? A signature proves the rest."""
        mine, theirs = (self.user, self.domain), (other.user, other.domain)
        return (*mine, self.screen) == (*theirs, other.screen)

    def may_displace(self, other: "Owner") -> bool:
        """May it have its own device taken from the other, without any proof?"""
        mine = self.user, self.domain, self.name, self.network
        return mine == (other.user, other.domain, other.name, other.network)


class Session(abc.ABC):
    """One client, from its first byte until its last device is detached.

    Limits, the single-connection rule, filters and state know no more of a client than
    this, however it speaks to the server.

    Attributes:
        number: of the client, from 1, never used again.
        network: of the peer: what limits count as one.
        address: of the peer.
        user: name and domain, once the client asked to log on.
        is_usb_only: the client neither shows the screen nor types.
    """

    number: int
    network: str
    address: str
    user: tuple[str, str] = ("", "")
    is_usb_only: bool = False

    @property
    @abc.abstractmethod
    def is_waiting(self) -> bool:
        """Is the client there, and has yet to pass logon?"""

    @property
    @abc.abstractmethod
    def is_logged_on(self) -> bool:
        """Did the client pass logon, and is it still there?"""

    @property
    @abc.abstractmethod
    def was_logged_on(self) -> bool:
        """Did the client pass logon, be it there or not?"""

    @property
    @abc.abstractmethod
    def in_use(self) -> int:
        """Devices on their way into the guest, in it, or on their way out."""

    @abc.abstractmethod
    def state(self, *, ended: float | None = None) -> ClientState:
        """Who it is: what ``showvminfo`` shows of a client (filters.md 3.7).

        Args:
            ended: when it left, in seconds since 1970.
        """

    @abc.abstractmethod
    def device_states(self) -> tuple[DeviceState, ...]:
        """The client's devices, attached or not."""

    @abc.abstractmethod
    def reconsider(self) -> None:
        """The machine's filters or switches have changed: look at them again."""

    @abc.abstractmethod
    def lost_by_guest(self, device: AttachedDevice, why: str) -> bool:
        """The guest dropped a device: is it one of ours? Then it is detached."""

    @abc.abstractmethod
    def disconnect(self, reason: int) -> None:
        """End the connection in order: reason 1 is ours, 0 the client's wish."""

    @abc.abstractmethod
    def send_on(self, to: Elsewhere, *, has_same_port: bool) -> None:
        """The machine has left this host: a viewer has nothing more to see here.

        Args:
            to: where it runs.
            has_same_port: its display is on the port of ours; a viewer can be sent to
                no other.
        """

    @abc.abstractmethod
    def drop(self, reason: str) -> None:
        """End the connection at once; the log says why."""

    @abc.abstractmethod
    async def wait_ended(self) -> None:
        """Wait until the connection is over and its devices are detached."""


class Sessions:
    """All the sessions of a server, and what is left of those that ended."""

    def __init__(self) -> None:
        self._all: set[Session] = set()
        self._logons = 0
        self._last: ClientState | None = None
        self._sent = self._received = 0  # by clients that are gone

    def __iter__(self) -> Iterator[Session]:
        return iter(sorted(self._all, key=lambda session: session.number))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, session: Session) -> None:
        """A connection may stay."""
        self._all.add(session)

    def logged_on(self) -> None:
        """Another client passed its logon."""
        self._logons += 1

    def ended(self, session: Session) -> None:
        """Forget it, but for what showvminfo tells of the last one."""
        self._all.discard(session)
        if session.was_logged_on:
            self._last = session.state(ended=time.time())
            self._sent += self._last.sent
            self._received += self._last.received

    def state(self, settings: RemoteDisplay, port: int) -> DisplayState:
        """Who is connected to a remote display."""
        clients = tuple(s.state() for s in self if s.is_logged_on)
        return DisplayState(
            settings,
            port,
            clients=clients,
            clients_so_far=self._logons,
            last=self._last,
            sent_total=self._sent + sum(c.sent for c in clients),
            received_total=self._received + sum(c.received for c in clients),
        )

    def devices(self) -> tuple[DeviceState, ...]:
        """What clients offer, attached or not."""
        return tuple(device for s in self for device in s.device_states())

    def reconsider(self) -> None:
        """The machine's filters or switches have changed."""
        for session in self:
            session.reconsider()

    def lost_by_guest(self, device: AttachedDevice, why: str) -> None:
        """The guest dropped a device."""
        for session in self:
            if session.lost_by_guest(device, why):
                return
