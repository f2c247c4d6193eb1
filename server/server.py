"""The server: ports, certificate, guest, sessions."""

import asyncio
import ipaddress
import itertools
import logging
import resource
import shlex
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import rusb.server.guests
from rusb import plugins
from rusb.errors import ConnectionLost, PluginError, RusbError
from rusb.filters.model import Filter

from . import events
from .auth import choose
from .config import ServerConfig
from .display.status import Picture, status_picture
from .guests.base import AttachedDevice, GuestBackend
from .network import BACKLOG, bind
from .quotas import LineQuota, Terminal
from .release_log import ReleaseLog, report
from .security import Security
from .session import ServerSession
from .state import ClientState, DeviceState, DisplayState
from .vbox.ports import parse_ports

__all__ = ["Server", "load_guest"]

log = logging.getLogger(__name__)

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

MAX_LINES, LINES_PER_SECOND = 2000, 5.0
"""Lines in the log that a network may cause at once, and those that it may cause in the
long run: 50 MB a day, of which the log keeps the latest 64. Before the logon and after
it they are counted apart."""

MAX_TOLD, TOLD_PER_SECOND = 500, 2.0
"""Lines at the terminal that all clients may cause at once, and in the long run."""

MAX_NETWORKS = 1024
"""Networks whose lines are counted at once."""

END_TIMEOUT = 30.0
"""Seconds that sessions get to detach their devices when the server stops."""

MAX_PICTURES = 16 << 20
"""Bytes of pictures on their way to clients, above which no further one is made."""

SCREEN_PERIOD = 0.25
"""Seconds from one round of pictures to the next, and at least four times what the last
one took: whatever clients ask for, drawing leaves the rest of the time to USB."""

_STOPPED = 1  # error-info code: server stop (vrdp-server.md 1.19)


def load_guest(text: str) -> GuestBackend:
    """Make a guest backend from ``KIND`` or ``KIND:ADDRESS``.

    Raises:
        PluginError: there is no such kind.
        GuestError: the kind does not understand the address.
    """
    name, _, address = text.partition(":")
    plugin = plugins.load(rusb.server.guests, name)
    if not (isinstance(plugin, type) and issubclass(plugin, GuestBackend)):
        raise PluginError(f"guest kind {name!r} is broken: PLUGIN is {plugin!r}")
    return plugin(address or None)


class Server:
    """A VRDP server for one machine. Use as an async context manager.

    Args:
        config: what to serve, and where.
        guest: None: the one that *config* names.
        log: the machine's log, which stays open; None: the one that *config* names.
        happened: gets what happens; None: a list of the server's own.
        report: gets what a user at the terminal has to know.

    Attributes:
        port: the port it listens on, once started.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        guest: GuestBackend | None = None,
        log: ReleaseLog | None = None,
        happened: events.EventLog | None = None,
        report: Callable[[str], None] = log.warning,
    ) -> None:
        self.config = config
        self.machine = config.machine
        self.guest = guest or load_guest(config.guest)
        self.log = log or ReleaseLog(config.log)
        self._owns_log = log is None
        self.happened = happened or events.EventLog(self.machine.name)
        self.report = report
        self.terminal = Terminal(report, self.log.now)
        self.told = LineQuota(MAX_TOLD, TOLD_PER_SECOND)
        self.port = 0
        self.authenticator = choose(
            self.machine,
            library=config.auth_library,
            pam_service=config.pam_service,
        )
        self._security: Security
        self._listeners: list[asyncio.Server] = []
        self._sessions: set[ServerSession] = set()
        self._numbers = itertools.count(1)
        self._client_numbers = itertools.count(1)
        self._complaints = 0
        self._lines: dict[tuple[str, bool], LineQuota] = {}
        self._logons = 0
        self._last: ClientState | None = None
        self._sent = self._received = 0  # by clients that are gone
        self._is_closed = False
        self._stale: set[ServerSession] = set()  # their picture is old
        self._draw_due: asyncio.Handle | None = None
        self._draw_after = 0.0
        self._draw_time = 0.0  # of this round

    async def __aenter__(self) -> "Server":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Load the certificate, get the guest ready, listen.

        Raises:
            SettingsError: the address or the port list cannot be used.
            GuestError: the guest cannot be reached.
            ConnectionLost: no port of the list is free.
        """
        try:
            self._security = Security(self.config, log=self.log.write, warn=self._warn)
            await self.guest.start()
            self.guest.watch_lost(self._guest_lost)
            await self._listen()
        except RusbError as error:
            self.log.write(f"VRDP: {error}")
            await self.aclose()
            raise
        except BaseException:
            await self.aclose()
            raise

    @property
    def fingerprint(self) -> str:
        """The certificate's, in the form in which a client shows it; may be empty."""
        return self._security.fingerprint

    async def aclose(self) -> None:
        """Disconnect everybody, detach everything, stop. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._listeners:
            self._tell(events.ServerStopping())
        for listener in self._listeners:
            listener.close()
        sessions = list(self._sessions)
        for session in sessions:
            session.disconnect(_STOPPED)
        if sessions:
            ends = [asyncio.ensure_future(s.wait_ended()) for s in sessions]
            await asyncio.wait(ends, timeout=END_TIMEOUT)
        await self.guest.aclose()
        if self._listeners:
            self.log.write("VRDP: TCP server closed.")
        if self._owns_log:
            self.log.close()

    def state(self) -> DisplayState:
        """Who is connected: what ``showvminfo`` shows (filters.md 3.7)."""
        clients = tuple(s.state() for s in self._in_order() if s.is_logged_on)
        return DisplayState(
            self.machine.remote_display,
            self.port,
            clients=clients,
            clients_so_far=self._logons,
            last=self._last,
            sent_total=self._sent + sum(c.sent for c in clients),
            received_total=self._received + sum(c.received for c in clients),
        )

    def devices(self) -> tuple[DeviceState, ...]:
        """What clients offer, attached or not."""
        return tuple(
            d for s in self._in_order() if s.devices for d in s.devices.state()
        )

    def _in_order(self) -> list[ServerSession]:
        return sorted(self._sessions, key=lambda session: session.number)

    def set_filters(self, filters: Sequence[Filter]) -> None:
        """Use other filters from now on, also for devices that are here already."""
        self.machine.filters = tuple(filters)
        self._tell(events.FiltersChanged(len(filters)))
        for session in self._sessions:
            if session.devices is not None:
                session.devices.reconsider()

    def resize(self, width: int, height: int) -> None:
        """Give every client's screen the size of the guest's (1.17)."""
        for session in self._sessions:
            session.resize(width, height)

    # -------------------------------------------------------- SessionHost ----

    def next_number(self) -> int:
        """Return a number for a device, never used before."""
        return next(self._numbers)

    def lines_of(self, network: str, *, is_logged_on: bool) -> LineQuota:
        """Return how many lines in the log a network may still cause."""
        key = network, is_logged_on
        found = self._lines.pop(key, None)
        if found is None and len(self._lines) >= MAX_NETWORKS:
            now = self.log.now()
            used = {n: q for n, q in self._lines.items() if not q.is_full(now)}
            if len(used) >= MAX_NETWORKS:  # forget the one that was here longest ago
                del used[next(iter(used))]
            self._lines = used
        quota = found or LineQuota(MAX_LINES, LINES_PER_SECOND)
        self._lines[key] = quota
        return quota

    def welcome(self, session: ServerSession) -> bool:
        """Take a new connection, unless there are too many."""
        waiting = [s for s in self._sessions if s.is_waiting]
        waiting.sort(key=lambda one: one.number)
        crowds = Counter(one.network for one in waiting)
        if crowds[session.network] >= MAX_WAITING_PER_NETWORK:
            self._complaints += 1
            if self._complaints <= MAX_COMPLAINTS:
                self.log.write(
                    f"VRDP: {crowds[session.network]} connections from"
                    f" {session.network} wait for their logon: a new one from there"
                    " was closed."
                )
            return False
        if len(waiting) >= MAX_WAITING:
            most = max(crowds, key=crowds.__getitem__)
            oldest = next(one for one in waiting if one.network == most)
            oldest.drop(
                f"it made room for another: {len(waiting)} connections wait for their"
                f" logon, {crowds[most]} of them from {most}"
            )
        self._sessions.add(session)
        return True

    def admit(self, session: ServerSession) -> str:
        """Apply the single-connection rule (vrdp-server.md 4.1), and limits."""
        problem = self._crowding(session)
        if problem:
            self.log.write(f"AUTH: {problem} Access denied.")
        else:
            self._logons += 1
        return problem

    def _crowding(self, session: ServerSession) -> str:
        display = self.machine.remote_display
        others = [s for s in self._sessions if s is not session and s.is_logged_on]
        same = sum(1 for one in others if one.network == session.network)
        if len(others) >= MAX_CLIENTS:
            return f"{MAX_CLIENTS} clients are connected."
        if same >= MAX_CLIENTS_PER_NETWORK:
            return f"{same} clients from {session.network} are connected."
        if display.allow_multi_connection or not others:
            return ""
        if not display.reuse_single_connection:
            return "Multiple connections are not enabled."
        self.log.write(
            "AUTH: Multiple connections are not enabled. Disconnecting the others."
        )
        for other in others:
            other.disconnect(_STOPPED)
        return ""

    def lacks_room(self, number: int) -> str:
        """Say why a client can have no further device; empty: it can."""
        counts = {s: s.devices.in_use for s in self._sessions if s.devices is not None}
        (asking,) = (s for s in counts if s.number == number)
        near = sum(n for s, n in counts.items() if s.network == asking.network)
        if counts[asking] >= MAX_DEVICES_PER_CLIENT:
            return f"{MAX_DEVICES_PER_CLIENT} devices of the client are in use"
        if near >= MAX_DEVICES_PER_NETWORK:
            return f"{near} devices of clients at {asking.network} are in use"
        most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - KEPT_FILES) // 3
        if (total := sum(counts.values())) >= most:
            return (
                f"{total} devices are in use, all that the limit of open files allows;"
                " raise it (ulimit -n, or LimitNOFILE of systemd)"
            )
        return ""

    def devices_changed(self) -> None:
        """Show every viewer the new state, once for all changes that come together."""
        self._draw_soon(self._sessions)

    def screen_wanted(self, session: ServerSession) -> None:
        """One viewer wants its picture again."""
        self._draw_soon((session,))

    def session_ended(self, session: ServerSession) -> None:
        """Forget it, but for what showvminfo tells of the last one."""
        self._sessions.discard(session)
        self._stale.discard(session)
        if session.was_logged_on:
            self._last = session.state(ended=time.time())
            self._sent += self._last.sent
            self._received += self._last.received

    # ------------------------------------------------------------- our own ----

    def _draw_soon(self, sessions: Iterable[ServerSession]) -> None:
        self._stale.update(sessions)
        if self._stale and self._draw_due is None:
            loop = asyncio.get_running_loop()
            self._draw_time = 0.0
            when = max(self._draw_after, loop.time())
            self._draw_due = loop.call_at(when, self._draw_next)

    def _draw_next(self) -> None:
        """Draw for one viewer, then let others do something."""
        loop = asyncio.get_running_loop()
        self._draw_due = None
        if self._is_closed or not self._stale:
            return
        begin = loop.time()
        if sum(one.picture_size for one in self._sessions) > MAX_PICTURES:
            self._draw_due = loop.call_at(begin + SCREEN_PERIOD, self._draw_next)
            return
        self._stale.pop().show_screen(self._status_picture)
        end = loop.time()
        self._draw_time += end - begin
        if self._stale:
            self._draw_due = loop.call_soon(self._draw_next)
        else:
            self._draw_after = end + max(SCREEN_PERIOD, 4 * self._draw_time)

    def _status_picture(self, width: int, height: int, depth: int) -> Picture:
        devices = [str(a.info) for s in self._sessions for a in s.attached]
        return status_picture(width, height, depth, self.machine.name, devices)

    def _guest_lost(self, device: AttachedDevice, why: str) -> None:
        for session in self._sessions:
            if session.devices and session.devices.lost_by_guest(device, why):
                return

    def _warn_of_open_door(self, addresses: Iterable[str]) -> None:
        """Say it where everybody who reaches us is let in."""
        method = self.authenticator
        is_open = "null" in (method.name.lower(), method.library.lower())
        outside = [a for a in addresses if not ipaddress.ip_address(a).is_loopback]
        if is_open and outside:
            self._warn(
                f"nobody is asked for a password, and port {self.port} is open to"
                f" other machines ({', '.join(outside)}): whoever reaches it can use"
                " the guest's USB. Set the authentication (modifyvm"
                f" {shlex.quote(self.machine.name)} --vrdeauthtype external; with rusb"
                " serve --name: --auth external), or listen on 127.0.0.1 only"
                " (--address, or the property TCP/Address)"
            )

    def _tell(self, event: events.Event) -> None:
        report(event, self.happened, self.log)

    def _warn(self, text: str) -> None:
        """Say in the log and at the terminal what its owner should fix."""
        self.log.write(f"VRDP: WARNING: {text}")
        self.report(f"WARNING: {text}")

    async def _listen(self) -> None:
        display = self.machine.remote_display
        address = self.config.address or display.property("TCP/Address") or None
        text = display.property("TCP/Ports") or "3389"
        ports = self.config.ports or parse_ports(text)
        for port in ports:
            sockets = bind(address, port)
            if sockets:
                break
        else:
            if self.config.ports:
                text = ",".join(map(str, ports))
            raise ConnectionLost(
                f"can't bind to the port(s) {text}: all are in use, or not for this"
                " user; choose others with the property TCP/Ports (--vrdeport, or"
                " --port of rusb serve)"
            )
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._listeners.append(
                await loop.create_server(self._accept, sock=sock, backlog=BACKLOG)
            )
        self.port = sockets[0].getsockname()[1]
        self._warn_of_open_door(str(s.getsockname()[0]) for s in sockets)
        families = {s.family for s in sockets}
        names = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
        kinds = [name for family, name in names.items() if family in families]
        self._tell(events.ServerStarted(self.port, " and ".join(kinds)))

    def _accept(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        security = self._security
        session = ServerSession(
            self, next(self._client_numbers), security.settings, security.tls
        )
        return session.stream
