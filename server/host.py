"""What the parts of a server share; its users see :class:`~.server.Server`."""

import itertools

from .admission import Admission
from .auth import Authenticator
from .display.pacing import Pacer
from .display.status import StatusDisplay
from .events import EventLog
from .guests.base import GuestBackend
from .quotas import LineQuota, NetworkQuotas, Terminal
from .release_log import ReleaseLog
from .sessions import Sessions
from .vbox.settings import Machine

__all__ = ["SessionHost"]


class SessionHost:
    """What sessions and the devices of clients ask of their server.

    Attributes:
        told: lines at the terminal that all clients may cause.
        lines: lines in the log that each network may cause.
        pacer: draws the screen.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        guest: GuestBackend,
        authenticator: Authenticator,
        log: ReleaseLog,
        happened: EventLog,
        terminal: Terminal,
        told: LineQuota,
        sessions: Sessions,
    ) -> None:
        self.machine = machine
        self.guest = guest
        self.authenticator = authenticator
        self.log = log
        self.happened = happened
        self.terminal = terminal
        self.told = told
        self.lines = NetworkQuotas()
        self.sessions = sessions
        self.admission = Admission(machine, sessions, log)
        self._display = StatusDisplay(machine.name, self._plugged)
        self.pacer = Pacer(self._display)
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        """Return a number for a device, never used before."""
        return next(self._numbers)

    def devices_changed(self) -> None:
        """A device was attached or detached."""
        self._display.changed()

    def lacks_room(self, number: int) -> str:
        """Say why a client can have no further device; empty: it can."""
        return self.admission.lacks_room(number)

    def _plugged(self) -> list[str]:
        return [str(d.info) for d in self.sessions.devices() if d.attached]
