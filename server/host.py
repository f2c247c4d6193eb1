"""What the parts of a server share; its users see :class:`~.server.Server`."""

import itertools
from collections.abc import Callable, Sequence

from rusb.aio.turns import Turns
from rusb.usb.device import DeviceInfo
from rusb.usb.text import LineQuota
from rusb.wire.base import WireProtocol

from .admission import Admission
from .auth import Authenticator
from .channels.media import Media
from .display.screens import Screens
from .event_log import EventLog
from .events import Event
from .guests.base import GuestBackend
from .listed_device import ListedDevice
from .parking import Parking
from .quotas import NetworkQuotas, Terminal
from .release_log import ReleaseLog, report
from .remote_devices import RemoteDevices
from .sessions import Owner, Sessions
from .vbox.settings import Machine
from .vbox.storage_mode import StorageMode

__all__ = ["SessionHost"]


class SessionHost:
    """What sessions and the devices of clients ask of their server.

    Attributes:
        wires: what clients may bring their devices over.
        is_bare: see :class:`~rusb.server.config.ServerConfig`.
        told: lines at the terminal that all clients may cause.
        lines: lines in the log that each network may cause.
        screens: what viewers see.
        media: what they hear, and the clipboard that they share.
        parking: where clients that may come back are waited for.
        turns: of their connections.
        odd_storage: how much may be done ahead for devices that could not stand more,
            by vendor, product and revision.
        client_moved: called when a client has gone where its machine is.
        client_resumed: called with the number of a client that has come back.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        guest: GuestBackend,
        wires: list[WireProtocol],
        authenticator: Authenticator,
        log: ReleaseLog,
        happened: EventLog,
        terminal: Terminal,
        told: LineQuota,
        sessions: Sessions,
        screens: Screens,
        is_bare: bool = False,
    ) -> None:
        self.machine = machine
        self.guest = guest
        self.is_bare = is_bare
        self.wires = wires
        self.authenticator = authenticator
        self.log = log
        self.happened = happened
        self.terminal = terminal
        self.told = told
        self.lines = NetworkQuotas()
        self.sessions = sessions
        self.admission = Admission(machine, sessions, self.tell)
        self.screens = screens
        self.media = Media(screens.first, machine)
        screens.first.heard = self.media.handle
        self.turns = Turns()
        self.odd_storage: dict[tuple[int, int, int], StorageMode] = {}
        self.parking = Parking(self, lambda: machine.resume_seconds)
        self.client_moved: Callable[[], None]
        self.client_resumed: Callable[[int], None]
        self.machine_is_here()
        self._numbers = itertools.count(1)
        self._devices: dict[int, list[RemoteDevices]] = {}  # one for each wire

    def machine_is_here(self) -> None:
        """Nobody is to go elsewhere."""
        self.client_moved = lambda: None
        self.client_resumed = lambda number: None

    def devices_of(self, client: int, protocol: WireProtocol) -> RemoteDevices:
        """Return the devices that a client has over a wire; they belong to the server.

        Args:
            client: its key. Each connection is a client of its own so far, and its
                number is the key.
            protocol: the wire.
        """
        known = self._devices.setdefault(client, [])
        found = next((one for one in known if one.protocol is protocol), None)
        if found is None:
            found = RemoteDevices(self, client, protocol)
            known.append(found)
        return found

    def client_left(
        self,
        client: int,
        why: str = "the client's connection ended",
        *,
        but: Sequence[RemoteDevices] = (),
    ) -> None:
        """The connection that lent its links is over: the devices leave the guest.

        Args:
            client: its key.
            why: for the log.
            but: what stays, because the client may come back to it.
        """
        for devices in self._devices.get(client, ()):
            if devices not in but:
                devices.close(why)

    def client_came_back(self, devices: RemoteDevices, client: int) -> None:
        """A client goes on over another connection: its devices have another key."""
        for key, known in list(self._devices.items()):
            if devices in known:
                known.remove(devices)
                if not known:  # each time a client comes back it has another key
                    del self._devices[key]
        self._devices.setdefault(client, []).append(devices)

    async def displace(self, owner: Owner, info: DeviceInfo) -> None:
        """A client has a device; wait until no former session of its user has it."""
        await self.parking.displace(owner, info)

    def find_held(
        self, owner: Owner, info: DeviceInfo
    ) -> tuple[RemoteDevices, ListedDevice] | None:
        """Return the same device of the same owner, which the guest keeps."""
        return self.parking.find_held(owner, info)

    async def wait_detached(self, client: int) -> None:
        """Wait until the devices of a client that left have left the guest, too."""
        known = self._devices.get(client, [])
        for devices in [one for one in known if one.is_closed]:
            await devices.wait_detached()
            known.remove(devices)
        if not known:
            self._devices.pop(client, None)

    def tell(self, event: Event) -> None:
        """Report what no client alone causes; for that there are quotas."""
        report(event, self.happened, self.log, self.terminal)

    def next_number(self) -> int:
        """Return a number for a device, never used before."""
        return next(self._numbers)

    def devices_changed(self) -> None:
        """A device was attached or detached."""
        self.screens.status_changed()

    def lacks_room(self, number: int) -> str:
        """Say why a client can have no further device; empty: it can."""
        return self.admission.lacks_room(number)
