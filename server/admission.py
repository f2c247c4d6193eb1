"""Which connections may stay: limits, and the single-connection rule."""

import resource
from collections import Counter
from collections.abc import Callable

from rusb.rdp.error_info import STOPPED

from . import events
from .sessions import Session, Sessions
from .vbox.settings import Machine

__all__ = ["Admission"]

MAX_WAITING = 320
"""Connections at once that have not logged on yet; one more, and the network that has
most of them loses its oldest: whoever fills the places keeps nobody else out."""

MAX_WAITING_PER_NETWORK = 200
"""Those of one network; more are closed at once."""

MAX_CLIENTS = 64
"""Clients that are logged on at once."""

MAX_CLIENTS_PER_NETWORK = 16
"""Those of one network, so that one user cannot keep all others out."""

MAX_DEVICES_PER_CLIENT = 64
"""Devices of one client in use at once; the original allows 16."""

MAX_DEVICES_PER_NETWORK = 128
"""Those of all clients of one network, so that one user does not take all the files
that may be open."""

KEPT_FILES = 512
"""Open files that are not for devices, of which each may take three: connections that
wait, clients, listeners, logs, libraries."""

MAX_COMPLAINTS = 8
"""Lines in the log about connections that were closed at once."""


class Admission:
    """Decides on connections, logons and devices of clients.

    Args:
        machine: its remote display says whether several clients may be connected.
        sessions: those that there are.
        tell: gets what happens.
    """

    def __init__(
        self,
        machine: Machine,
        sessions: Sessions,
        tell: Callable[[events.Event], None],
    ) -> None:
        self._machine = machine
        self._sessions = sessions
        self._tell = tell
        self._complaints = 0

    def welcome(self, session: Session) -> bool:
        """Take a new connection, unless there are too many."""
        waiting = [one for one in self._sessions if one.is_waiting]
        crowds = Counter(one.network for one in waiting)
        if crowds[session.network] >= MAX_WAITING_PER_NETWORK:
            self._complaints += 1
            if self._complaints <= MAX_COMPLAINTS:
                self._tell(events.Crowded(session.network, crowds[session.network]))
            return False
        if len(waiting) >= MAX_WAITING:
            most = max(crowds, key=crowds.__getitem__)
            oldest = next(one for one in waiting if one.network == most)
            oldest.drop(
                f"it was dropped to make room for another: {len(waiting)} connections"
                f" have not logged on yet, {crowds[most]} of them from {most}"
            )
        self._sessions.add(session)
        return True

    def admit(self, session: Session, former: Session | None = None) -> str:
        """Say why a client that passed its logon may not stay; empty: it may.

        Limits count, and the single-connection rule (vrdp-server.md 4.1).

        Args:
            session: its connection.
            former: the one that it is to replace, and which does not count.
        """
        problem = self._crowding(session, former)
        if problem:
            self._tell(events.PlaceDenied(problem))
        else:
            self._sessions.logged_on()
        return problem

    def _crowding(self, session: Session, former: Session | None) -> str:
        display = self._machine.remote_display
        own = session, former
        others = [s for s in self._sessions if s not in own and s.is_logged_on]
        same = sum(1 for one in others if one.network == session.network)
        if len(others) >= MAX_CLIENTS:
            return f"{MAX_CLIENTS} clients are connected."
        if same >= MAX_CLIENTS_PER_NETWORK:
            return f"{same} clients from {session.network} are connected."
        if display.allow_multi_connection:
            return ""
        place = former or session
        others = [one for one in others if not self._are_one(place, one)]
        if not others:
            return ""
        if not display.reuse_single_connection:
            return "Multiple connections are not enabled."
        self._tell(events.OthersDisconnected())
        for other in others:
            other.disconnect(STOPPED)
        return ""

    def has_other_half(self, session: Session) -> bool:
        """Is there a connection that brings USB devices beside a viewer, or one that
        shows the screen beside the devices?"""
        return any(
            other.is_logged_on and self._are_one(session, other)
            for other in self._sessions
        )

    def brings_devices(self, session: Session) -> bool:
        """Are there devices in the guest of the connection beside a viewer?"""
        return any(
            other.in_use and self._are_one(session, other) for other in self._sessions
        )

    def _are_one(self, session: Session, other: Session) -> bool:
        """Are they a viewer and the connection that brings USB devices beside it?

        They are of the same user and address; without a password anybody may use any
        name, so there the address counts alone.
        """
        named = self._machine.remote_display.auth_type.lower() != "null"
        return (
            session.is_usb_only != other.is_usb_only
            and session.address == other.address
            and (not named or session.user == other.user)
        )

    def lacks_room(self, number: int) -> str:
        """Say why a client can have no further device; empty: it can."""
        counts = {session: session.in_use for session in self._sessions}
        asking = next(s for s in counts if s.number == number)
        own = sum(n for s, n in counts.items() if s.number == number)
        near = sum(n for s, n in counts.items() if s.network == asking.network)
        if own >= MAX_DEVICES_PER_CLIENT:
            return (
                f"{MAX_DEVICES_PER_CLIENT} devices of the client are in use, the"
                " maximum"
            )
        if near >= MAX_DEVICES_PER_NETWORK:
            return f"{near} devices of clients at {asking.network} are in use"
        most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - KEPT_FILES) // 3
        if (total := sum(counts.values())) >= most:
            return (
                f"{total} devices are in use, the maximum for the limit of open files;"
                " raise that limit (ulimit -n, or LimitNOFILE of systemd)"
            )
        return ""
