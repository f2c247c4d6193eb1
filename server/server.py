"""The server: ports, certificate, guest, sessions."""

import asyncio
import contextlib
import dataclasses
import ipaddress
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import rusb.server.guests
from rusb import plugins
from rusb.aio.protocols import load_protocol
from rusb.errors import Hint, ListenError, PluginError, RusbError, SettingsError
from rusb.filters.model import Filter
from rusb.rdp.error_info import STOPPED
from rusb.usb.text import LineQuota

from . import events
from .auth import choose
from .client_usb import ClientUsb
from .config import ServerConfig
from .display.base import ScreenAccess
from .display.screens import Screens
from .elsewhere import Elsewhere
from .event_log import EventLog
from .guests.base import GuestBackend
from .host import SessionHost
from .listeners import Listeners
from .moving import MovedClient
from .quotas import Terminal
from .release_log import ReleaseLog
from .remote_devices import RemoteDevices
from .security import Security
from .session import ServerSession
from .sessions import Sessions
from .state import DeviceState, DisplayState
from .vbox.ports import parse_ports

__all__ = ["Server", "load_guest"]

log = logging.getLogger(__name__)

MAX_TOLD, TOLD_PER_SECOND = 500, 2.0
"""Lines at the terminal that all clients may cause at once, and in the long run."""

END_TIMEOUT = 30.0
"""Seconds that sessions get to detach their devices when the server stops."""


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
        screens: how the machine's screens are reached; None: through *guest*.
        log: the machine's log, which stays open; None: the one that *config* names.
        happened: gets what happens; None: a list of the server's own.
        report: gets lines for the user at the terminal. What it raises is logged.

    Attributes:
        machine, guest, log, happened: its parts, to look at.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        guest: GuestBackend | None = None,
        screens: ScreenAccess | None = None,
        log: ReleaseLog | None = None,
        happened: EventLog | None = None,
        report: Callable[[str], None] = log.warning,
    ) -> None:
        self.config = config
        self.machine = config.machine
        wires = [load_protocol(name) for name in config.wires]
        self.guest = guest or load_guest(config.guest)
        self.log = log or ReleaseLog(config.log)
        self._owns_log = log is None
        self.happened = happened or EventLog(self.machine.name)
        self.authenticator = choose(
            self.machine,
            library=config.auth_library,
            pam_service=config.pam_service,
        )
        self._security: Security
        self._sessions = Sessions()
        self._listeners = Listeners()
        self._screens = Screens(
            screens or self.guest,
            self.machine.name,
            self.machine.monitors,
            self._plugged,
            lambda: self.machine.remote_display.video_quality(),
        )
        self._host = SessionHost(
            machine=self.machine,
            guest=self.guest,
            wires=wires,
            authenticator=self.authenticator,
            log=self.log,
            happened=self.happened,
            terminal=Terminal(report, self.log.now),
            told=LineQuota(MAX_TOLD, TOLD_PER_SECOND),
            sessions=self._sessions,
            screens=self._screens,
            is_bare=config.is_bare,
        )
        self._client_numbers = itertools.count(1)
        self._is_closed = False

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
            ListenError: no port of the list is free.
        """
        try:
            self._security = Security(self.config, log=self.log.write, warn=self._warn)
            await self.guest.start()
            self.guest.watch_lost(self._sessions.lost_by_guest)
            self.guest.watch_guest(self._guest_ended, self._guest_returned)
            self._screens.start()
            await self._listen()
            if problem := self.authenticator.problem():
                self._warn(problem)
        except RusbError as error:
            self._host.tell(events.ServerFailed(str(error)))
            await self.aclose()
            raise
        except BaseException:
            await self.aclose()
            raise

    @property
    def port(self) -> int:
        """The port it listens on; 0: it does not yet."""
        return self._listeners.port

    @property
    def fingerprint(self) -> str:
        """The certificate's fingerprint, as clients show it; may be empty."""
        return self._security.fingerprint

    async def aclose(self) -> None:
        """Disconnect all clients, detach all devices, stop. Idempotent.

        Cancelled, it does not wait for clients; the rest is done.
        """
        if self._is_closed:
            return
        self._is_closed = True
        was_open = self._listeners.close()
        if was_open:
            self._host.tell(events.ServerStopping())
        sessions = list(self._sessions)
        for session in sessions:
            session.disconnect(STOPPED)
        ends = [asyncio.ensure_future(s.wait_ended()) for s in sessions]
        async with contextlib.AsyncExitStack() as rest:
            if self._owns_log:
                rest.callback(self.log.close)
            if was_open:
                rest.callback(self._host.tell, events.ServerStopped())
            rest.push_async_callback(self.guest.aclose)
            rest.push_async_callback(self._screens.aclose)
            rest.callback(self._host.media.aclose)
            for end in ends:
                rest.callback(end.cancel)
            if ends:
                await asyncio.wait(ends, timeout=END_TIMEOUT)

    def state(self) -> DisplayState:
        """Who is connected: what ``showvminfo`` shows (filters.md 3.7)."""
        state = self._sessions.state(self.machine.remote_display, self.port)
        return dataclasses.replace(state, screens=self._screens.sizes())

    def devices(self) -> tuple[DeviceState, ...]:
        """The devices that clients offer, attached or not."""
        return self._sessions.devices()

    def send_on(self, to: Elsewhere) -> None:
        """The machine runs elsewhere: viewers are sent there, or disconnected.

        Those that have devices in the guest stay, also if another connection of theirs
        brings them, as that of ``rdesktop-vrdp``: it ends with its viewer.
        """
        self._host.client_moved = partial(self.send_on, to)
        for session in self._sessions:
            if not self._host.admission.brings_devices(session):
                session.send_on(to, has_same_port=to.port == self.port)

    def invite(self, to: Elsewhere, ready: Callable[[ClientUsb], None]) -> None:
        """The machine runs elsewhere: clients of ours may go on there.

        Args:
            to: where.
            ready: called with the devices of each that is ready, be it one that comes
                back later.
        """

        def invite(number: int | None = None) -> None:
            for session in self._sessions:
                if number in (None, session.number):
                    if isinstance(session, ServerSession):
                        session.usb.invite(to, ready)

        self._host.client_resumed = invite
        invite()

    def came_home(self) -> None:
        """The machine runs here again: clients stay."""
        self._host.machine_is_here()

    def arrive(self, moved: MovedClient) -> None:
        """A client of the server that the machine comes from may go on here.

        Raises:
            ParseError: what came contradicts itself.
        """
        number = next(self._client_numbers)
        devices = RemoteDevices(self._host, number, load_protocol("vrdpusb"))
        self._host.parking.arrive(moved, devices, number)
        self._host.client_came_back(devices, number)

    def detach(self, text: str) -> bool:
        """Take a device out of the guest whose client's connection broke.

        Args:
            text: its UUID or its address.

        Returns:
            There is such a device.
        """
        return self._host.parking.detach(text)

    async def listen_on(self, ports: Sequence[int]) -> None:
        """Listen on other ports; connected clients stay connected.

        Raises:
            ListenError: none of them is free; it keeps its old port.
        """
        before = self.config.ports, self._listeners
        self.config.ports, self._listeners = ports, Listeners()
        try:
            await self._listen()
        except RusbError:
            self.config.ports, self._listeners = before
            raise
        before[1].close()

    def set_filters(self, filters: Sequence[Filter]) -> None:
        """Use other filters from now on, also for devices that are already offered."""
        self.machine.filters = tuple(filters)
        self._host.tell(events.FiltersChanged(len(filters)))
        self._sessions.reconsider()

    def renew_certificate(self) -> str:
        """Read its files again, for connections from now on; return the fingerprint.

        Files that cannot be used are reported; the previous certificate stays.
        """
        self._security.renew()
        return self.fingerprint

    def settings_changed(self) -> None:
        """Obey the switches of the machine as they are now, in every session."""
        self._host.media.reconsider()
        self._sessions.reconsider()

    # ------------------------------------------------------------- our own ----

    def _warn_of_open_door(self, addresses: Iterable[str]) -> None:
        """Say it where everybody who reaches us is let in."""
        method = self.authenticator
        is_open = "null" in (method.name.lower(), method.library.lower())
        outside = [a for a in addresses if not ipaddress.ip_address(a).is_loopback]
        if is_open and outside:
            self._warn(
                f"nobody is asked for a password, and port {self.port} is open to"
                f" other machines ({', '.join(outside)}): anyone who can reach it can"
                " use the guest's USB. Set the authentication (once the machine is off:"
                f" modifyvm {self.machine.operand} --vrdeauthtype external; with"
                " rusb serve --name: --auth external), or listen on 127.0.0.1 only"
                " (--address, or the property TCP/Address)"
            )

    def _guest_ended(self, why: str) -> None:
        self._host.tell(events.GuestEnded(why))

    def _guest_returned(self) -> None:
        """Its devices are attached again."""
        self._host.tell(events.GuestReturned())
        self._sessions.reconsider()

    def _plugged(self) -> list[str]:
        return [str(d.info) for d in self._sessions.devices() if d.attached]

    def _warn(self, text: str) -> None:
        """Say in the log and at the terminal what its owner should fix."""
        self._host.tell(events.Warned(text))

    async def _listen(self) -> None:
        display = self.machine.remote_display
        address = self.config.address or display.property("TCP/Address") or None
        text = display.property("TCP/Ports") or "3389"
        ports = self.config.ports
        if ports is None:
            ports = parse_ports(text)
        elif wrong := [port for port in ports if not 0 <= port <= 0xFFFF]:
            raise SettingsError(f"{wrong[0]} is not a port (1 to 65535, or 0 for any)")
        try:
            await self._listeners.open(address, ports, self._accept)
        except ListenError as error:
            if self.config.ports is not None:
                text = ",".join(map(str, ports))
            raise ListenError(
                f"can't bind to the port(s) {text}: {error}; the property TCP/Ports"
                " lists the ports to try"
            ).hinting(Hint.OTHER_PORT) from None
        self._warn_of_open_door(self._listeners.addresses)
        self._host.tell(events.ServerStarted(self.port, self._listeners.families))

    def _accept(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        security = self._security
        session = ServerSession(
            self._host, next(self._client_numbers), security.settings, security.tls
        )
        return session.stream
