"""One connection of a server: RDP, logon, screen, and the client's devices."""

import asyncio
import dataclasses
import enum
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

from rusb.aio.protocols import listeners
from rusb.aio.stream import RdpStream, TlsUpgrade
from rusb.aio.tasks import TaskSet
from rusb.errors import (
    ConnectionLost,
    HandshakeError,
    RemoteProtocolError,
    RusbError,
)
from rusb.rdp import events as rdp
from rusb.rdp.channels import ChannelListener, ChannelRegistry
from rusb.rdp.error_info import DENIED, SLOT_IS_TAKEN, STOPPED
from rusb.rdp.notices import Notice
from rusb.rdp.rusbext import RUSBEXT
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.usb.text import LineQuota

from . import events
from .auth import Request, asked_lines, decision_line
from .channels.base import Line
from .channels.media import ClientMedia
from .channels.screen import ScreenChannels
from .client_usb import ClientUsb
from .display.inputs import pass_on
from .display.viewer import Viewer
from .elsewhere import Elsewhere
from .guests.base import AttachedDevice
from .handshakes import explain_handshake
from .host import SessionHost
from .network import network_of
from .quotas import RemoteLog
from .rdp_log import notice_lines
from .release_log import report
from .sessions import Owner, Session
from .state import ClientState, DeviceState, ViewState
from .vbox.settings import FEATURES

__all__ = ["Phase", "ServerSession"]

log = logging.getLogger(__name__)

LOGON_TIMEOUT = 60.0
"""Seconds from the connection to the logon (vrdp-server.md 1.1), and again from there
until the session is active, however many bytes come meanwhile."""

IDLE_TIMEOUT = 30.0
"""Seconds without traffic after which a keepalive is sent (vrdp-server.md 1.1), and
without our data being taken, between one and two times that, after which a client is
dropped. The original gives up after 2 s, which a short network outage exceeds."""


MAX_LINES, LINES_PER_SECOND = 500, 2.0
"""Lines in the log that a connection may cause at once, more than 64 devices that come
and go, and those that it may cause in the long run."""

MAX_TOLD, TOLD_PER_SECOND = 200, 1.0
"""The same of lines at the terminal."""

MAX_WAITING = 32 << 20
"""Bytes waiting to be sent above which a client is dropped: it makes us answer and
reads nothing. Guests and pictures stop long before."""

HELD_PERIOD = 10.0
"""Seconds in which it is told once that the guest waits for a client that reads too
slowly: it may change many times in a second."""


class Phase(enum.IntEnum):
    """How far a connection has come."""

    UNKNOWN = 0  # not yet welcome
    WAITING = 1  # for its logon, or for the answer to it
    ADMITTED = 2  # it passed its logon, and is not active yet
    ACTIVE = 3
    REFUSED = 4  # its logon was not right, or there was no place


class ServerSession(Session):
    """A client that speaks RDP.

    Args:
        host: the server.
        number: client id, from 1, never reused.
        settings: for the RDP core.
        tls: how to do TLS.

    Attributes:
        phase: how far it has come; it stays when the connection ends.
        network, address: of the peer, once it is connected.
        viewer: its screen, once it is logged on, unless it wants none.
        usb: its devices.
    """

    def __init__(
        self,
        host: SessionHost,
        number: int,
        settings: ServerSettings,
        tls: TlsUpgrade | None,
    ) -> None:
        self.number = number
        self.phase = Phase.UNKNOWN
        self.name = f"client {number}"
        self.network = ""
        self._host = host
        self._log = RemoteLog(host.log, self.name)
        self._terminal = RemoteLog(host.terminal, self.name)
        self._media = ClientMedia(
            host.media,
            Line(
                send=self._send_media,
                waiting=lambda: self.stream.bytes_waiting,
                note=lambda *about: self._tell(events.ChannelNoted(number, *about)),
                agreed=lambda rate: self._tell(events.SoundAgreed(number, rate)),
            ),
        )
        self._screen_channels = ScreenChannels(
            viewer=lambda: self.viewer,
            size=self._wanted_size,
            quality=lambda: host.machine.remote_display.video_quality(),
            open=lambda name: self._rdp.open_channel(name),
            send=lambda channel, message: self._rdp.send_channel(channel, message),
            close=self._close_channel,
            note=lambda text: self._log.write(text),
            changed=self._tell_screen,
        )
        self.usb = ClientUsb(host, self)
        wires = (
            listener
            for protocol in host.wires
            for listener in listeners(protocol, self.usb.open_channel, self.usb.refused)
        )
        media, screen = self._media.listeners(), self._screen_channels.listeners
        ext = ChannelListener(RUSBEXT, lambda channel, name: self.usb.extension)
        self._channels = ChannelRegistry([*wires, ext, *media, *screen])
        settings = dataclasses.replace(
            settings,
            channels=self._channels.static,
            dynamic=self._channels.dynamic,
            limits=self._channels.limits,
        )
        self._rdp = ServerConnection(settings, random_bytes=secrets.token_bytes)
        self.stream = RdpStream(
            self._rdp,
            on_event=self._handle,
            channels=self._channels.open,
            on_lost=self._lost,
            on_connected=self._connected,
            on_secured=self._secured,
            on_pressure=self._on_pressure,
            tls=tls,
            max_waiting=MAX_WAITING,
            turns=host.turns,
        )
        self.viewer: Viewer | None = None
        self._tasks = TaskSet()
        self.usb.use(self._rdp, self.stream, self._channels)
        self._screen = 0
        self._client: rdp.ClientDescription | None = None
        self._since, self.address, self._is_tls = 0.0, "", False
        self._held_after = 0.0
        self._inputs = 0  # keys and mouse events
        self._disabled: set[str] = set()
        self._told_view: ViewState | None = None
        self._is_ending = False
        self._ended = asyncio.Event()
        loop = self._loop = asyncio.get_running_loop()
        self._logon_timer = loop.call_later(LOGON_TIMEOUT, self._on_late)
        self._idle_timer = loop.call_later(IDLE_TIMEOUT, self._on_idle)
        self._traffic = (0, 0)
        self._taken = 0

    # --------------------------------------------------------- life cycle ----

    @property
    def is_waiting(self) -> bool:
        """Is the client there, and has yet to pass logon?"""
        return self.phase <= Phase.WAITING and not self._is_ending

    @property
    def is_logged_on(self) -> bool:
        """Did the client pass logon, and is it still there?"""
        return self.was_logged_on and not self._is_ending

    @property
    def was_logged_on(self) -> bool:
        """Did the client pass logon, be it there or not?"""
        return self.phase in (Phase.ADMITTED, Phase.ACTIVE)

    @property
    def is_active(self) -> bool:
        """Is the connection usable?"""
        return self.phase is Phase.ACTIVE and not self._is_ending

    @property
    def in_use(self) -> int:
        """Devices on their way into the guest, in it, or on their way out."""
        return sum(devices.in_use for devices in self.usb.devices)

    def device_states(self) -> tuple[DeviceState, ...]:
        """The client's devices, attached or not."""
        return tuple(state for devices in self.usb.devices for state in devices.state())

    def reconsider(self) -> None:
        if self.is_logged_on:
            self._read_switches()
        for devices in self.usb.devices:
            devices.reconsider()

    def lost_by_guest(self, device: AttachedDevice, why: str) -> bool:
        """The guest dropped a device: is it one of ours? Then it is detached."""
        return any(devices.lost_by_guest(device, why) for devices in self.usb.devices)

    def disconnect(self, reason: int) -> None:
        """End the connection in order: reason 1 is ours, 0 the client's wish."""
        if not self._is_ending:
            self._rdp.disconnect(reason)
            self._end(reason)

    def send_on(self, to: Elsewhere, *, has_same_port: bool) -> None:
        if self.in_use or not self.is_logged_on:
            return  # its devices go on over here
        is_told = has_same_port and self._rdp.may_be_sent_to(to.host)
        if self.viewer is None and not is_told:
            return  # it sees nothing anyway
        self._host.tell(events.ClientSentOn(self.number, str(to), is_told))
        if is_told:
            self._rdp.send_on(to.host)
            self._end(STOPPED)
        else:
            self.disconnect(STOPPED)

    def _end(self, reason: int | None) -> None:
        """Close; None: the client just leaves, which is no logoff (7.4)."""
        if self.was_logged_on and reason is not None:
            self._tell_always(events.LoggedOff(self.name, reason))
        self._is_ending = True
        self.stream.close()

    def drop(self, reason: str) -> None:
        """End the connection at once; the log says why."""
        self._is_ending = True
        self.stream.fail(ConnectionLost(reason))
        self.stream.abort()

    async def wait_ended(self) -> None:
        """Wait until the connection is over and its devices are detached."""
        await self._ended.wait()

    def state(self, *, ended: float | None = None) -> ClientState:
        """Who it is: what ``showvminfo`` shows of a client (filters.md 3.7)."""
        assert self._client is not None
        return ClientState(
            number=self.number,
            user=self.user[0],
            domain=self.user[1],
            name=self._client.name,
            address=self.address,
            build=self._client.build,
            is_tls=self._is_tls,
            since=self._since,
            sent=self.stream.bytes_sent,
            received=self.stream.bytes_received,
            inputs=self._inputs,
            view=self.viewer.state() if self.viewer else None,
            sound=self._media.audio.state(),
            clipboard=self._media.clipboard.state(),
            ended=ended,
        )

    def _lost(self, error: RusbError | None) -> None:
        is_ending, self._is_ending = self._is_ending, True
        if self.was_logged_on:
            self._host.authenticator.disconnected(self.number)
        self._logon_timer.cancel()
        self._idle_timer.cancel()
        self.usb.needs_no_proof()
        if self.viewer is not None:
            self.viewer.close()
        why = self._explain(error)
        may_return = not is_ending and not isinstance(error, RemoteProtocolError)
        kept = self.usb.keep(may_return=may_return)
        self._host.client_left(self.number, but=kept)
        self._channels.end()
        self.usb.end()
        self._media.end()
        self._screen_channels.end()
        if self.phase is not Phase.UNKNOWN:
            self._tell_end(why)
        self._tasks.start(self._finish(), f"end of {self.name}")

    def _explain(self, error: RusbError | None) -> str:
        """Say why the connection ended, and what helps: a client whose handshake fails
        learns little."""
        help_ = ""
        if isinstance(error, HandshakeError):
            core = self._rdp
            help_ = explain_handshake(error, core.requested, core.settings.methods)
        return "; ".join(filter(None, [str(error or ""), help_]))

    async def _finish(self) -> None:
        await self._host.wait_detached(self.number)
        await self._tasks.drain(LOGON_TIMEOUT)
        self._ended.set()
        self._host.sessions.ended(self)

    def _connected(self) -> None:
        self.address = self.stream.peer
        self.network = network_of(self.address)
        self._log = self._new_log(is_logged_on=False)
        own = LineQuota(MAX_TOLD, TOLD_PER_SECOND)
        name = f"client {self.number}"
        self._terminal = RemoteLog(self._host.terminal, name, own, self._host.told)
        if not self._host.admission.welcome(self):
            self.stream.close()
            return
        self.phase = Phase.WAITING
        self._tell(events.ClientConnected(self.number, self.address))

    def _new_log(self, *, is_logged_on: bool) -> RemoteLog:
        own = LineQuota(MAX_LINES, LINES_PER_SECOND)
        now = self._host.log.now()
        shared = self._host.lines.of(self.network, now, is_logged_on=is_logged_on)
        return RemoteLog(self._host.log, f"VRDP: client {self.number}", own, shared)

    def _secured(self, version: str) -> None:
        assert self.stream.tls is not None
        issuer = self.stream.tls.issuer
        self._tell(events.TlsAgreed(version, issuer))

    def _on_late(self) -> None:
        what = "activation" if self.phase is Phase.ADMITTED else "logon"
        self.drop(f"no {what} within {LOGON_TIMEOUT:g} s")

    def _on_idle(self) -> None:
        """Send a sign of life after a time without traffic; drop who takes nothing."""
        stream = self.stream
        taken = stream.bytes_taken
        if stream.bytes_waiting and taken == self._taken:
            self.drop(f"the client has read nothing for {IDLE_TIMEOUT:g} s")
            return
        traffic = stream.bytes_received, stream.bytes_sent
        if traffic == self._traffic and self.is_active:
            self._rdp.keepalive()
            stream.flush()
        self._traffic, self._taken = traffic, taken
        self._idle_timer = self._loop.call_later(IDLE_TIMEOUT, self._on_idle)

    def _on_pressure(self, is_high: bool) -> None:
        """The client reads too slowly: the guest waits until it has caught up."""
        if is_high and (now := self._loop.time()) >= self._held_after:
            self._held_after = now + HELD_PERIOD
            self._tell(events.LinkHeld(self.number))
        for devices in self.usb.devices:
            devices.set_slow(is_high)

    # ------------------------------------------------- from the connection ----

    def _handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.ChannelData():
                pass  # nobody serves the channel, or not any more
            case rdp.LogonRequested():
                self._logon(event)
            case Notice():
                self.note(event)
            case rdp.Activated():
                self._logon_timer.cancel()
                if not self.is_active:  # its static channels open now
                    self._loop.call_soon(self._tell_without_usb)
                self.phase = Phase.ACTIVE
                if self.viewer is not None and "Display" not in self._disabled:
                    self.viewer.open()
                self._tell_screen()
            case rdp.Input():
                self._take_input(event)
            case rdp.RefreshRequested():
                if self.viewer is not None:
                    self.viewer.refresh(event.area)
            case (
                rdp.ChannelOpened()
                | rdp.ChannelClosed()
                | rdp.ChannelRefused()
                | rdp.MessageTooLong()
            ):
                self._channels.handle(event, self._rdp.close_channel)
            case rdp.DynamicReady():
                self.usb.dynamic_ready()
                self._screen_channels.ready()
            case rdp.Disconnected():
                self._end(event.reason)
            case _:
                log.debug("= %s", event)

    def _take_input(self, event: rdp.Input) -> None:
        if self.viewer is not None and "Input" not in self._disabled:
            self._inputs += 1
            pass_on(event, self.viewer.hub, self.viewer)

    def _logon(self, event: rdp.LogonRequested) -> None:
        """Decide on a logon, in the order of vrdp-server.md 3.6.

        What is logged of it counts in no quota: nobody hides a logon behind noise.
        """
        self._logon_timer.cancel()
        who, client = event.credentials, event.client
        self.name = f"{client.name} ({client.address}) build {client.build}."
        self._tell_always(
            events.LogonAsked(
                self.number,
                self.name,
                user=who.user,
                domain=who.domain,
                screen=who.screen,
                address=self.stream.peer,
                claimed=client.address,
            )
        )
        if who.screen >= self._host.machine.monitors:
            self._tell_always(events.ScreenMissing(who.screen))
            self._refuse(event, f"there is no screen {who.screen}")
        else:
            self._tasks.start(self._decide(event), f"logon of {self.name}")

    async def _decide(self, event: rdp.LogonRequested) -> None:
        try:
            await self._authenticate(event)
        except Exception as error:  # a client must not wait for ever
            log.exception("%s: a bug in the logon", self.name)
            self._refuse(event, f"internal error: {error!r}", STOPPED)

    async def _authenticate(self, event: rdp.LogonRequested) -> None:
        """Ask the machine's method; a refused client sees the connection end (3.7)."""
        who, method = event.credentials, self._host.authenticator
        request = Request(
            who.user,
            who.domain,
            who.password,
            client_name=event.client.name,
            address=self.stream.peer,
            client_id=self.number,
        )
        for line in asked_lines(method, request):
            self._host.log.write(line)
        decision = await method.check(request)
        if decision.reason:
            self._host.log.write(decision.reason)
        self._host.log.write(decision_line(decision))
        if self._is_ending:  # nobody hides the answer by hanging up
            method.disconnected(self.number)
            return
        if not decision.granted:
            self._refuse(event, decision.reason or "access denied")
            return
        self._client = event.client
        self.user = event.credentials.user, event.credentials.domain
        self._screen = event.credentials.screen
        self.is_usb_only = event.client.is_usb_only
        former = self.usb.find_former(event.cookie)
        if problem := self._host.admission.admit(self, former):
            method.disconnected(self.number)
            self._refuse(event, problem, SLOT_IS_TAKEN)
            return
        self.phase = Phase.ADMITTED
        self._since = time.time()
        self._is_tls = self.stream.is_tls
        self._tell(
            events.ClientAdmitted(
                *(self.number, self.address, self.user[0], self._client.name)
            )
        )
        self._log.tell_left_out()
        self._log = self._new_log(is_logged_on=True)
        self._read_switches()
        self._logon_timer = self._loop.call_later(LOGON_TIMEOUT, self._on_late)
        if not self.is_usb_only:  # so nobody gets around the single connection
            self._show(event.credentials.screen)
        self._rdp.accept_logon()
        self.stream.flush()

    def _show(self, head: int) -> None:
        """Let the client see a head, in its size."""
        hub = self._host.screens[head]
        self.viewer = Viewer(self._rdp, self.stream, hub)
        if hub.size is not None:
            self._rdp.resize(*hub.size)

    def _send_media(
        self, channel: int, messages: Sequence[bytes], *, is_urgent: bool
    ) -> None:
        for message in messages:
            self._rdp.send_channel(channel, message, is_urgent=is_urgent)
        self.stream.flush()

    def _wanted_size(self) -> tuple[int, int] | None:
        """The size that the client begins with, if it should be the guest's (9.3)."""
        client = self._client
        if client is None or client.kind == "rdesktop":
            return None
        return client.width, client.height

    def _refuse(
        self, event: rdp.LogonRequested, reason: str, code: int = DENIED
    ) -> None:
        """Hang up on a client after its logon.

        Without a goodbye of TLS, in which rdesktop 1.9 would wait for ever. Why, it is
        told by an error-info code; that is the same for all that may be wrong with a
        logon, so that nobody learns which names exist.
        """
        self._rdp.refuse_logon(code)
        self.stream.send_now()
        self.phase = Phase.REFUSED
        user, name = event.credentials.user, event.client.name
        self._tell(events.ClientRefused(self.number, self.address, user, name, reason))
        self.stream.abort()

    def _tell(self, event: events.Event) -> None:
        """Report what the client causes, within its quotas of lines."""
        report(event, self._host.happened, self._log, self._terminal)

    def _tell_always(self, event: events.Event) -> None:
        """Report what nobody is to hide behind noise."""
        report(event, self._host.happened, self._host.log)

    def _tell_end(self, why: str) -> None:
        stage = "silent"
        if self.was_logged_on:
            stage = "admitted"
        elif self.phase is Phase.REFUSED:
            stage = "refused"
        elif why or self.stream.bytes_received:
            stage = "waiting"
        self._tell(
            events.ClientLeft(
                self.number,
                self.address,
                why,
                seconds=round(time.time() - self._since, 3) if self._since else 0.0,
                bytes=self.stream.bytes_sent + self.stream.bytes_received,
                frames=self.viewer.frames if self.viewer else 0,
                picture_bytes=self.viewer.bytes_sent if self.viewer else 0,
                title=self.name,
                stage=stage,
            )
        )
        self._log.tell_left_out()
        self._terminal.tell_left_out()

    def _tell_screen(self) -> None:
        """Tell what the client sees, when that is something else."""
        if self.viewer is None or self._is_ending:
            return
        view = dataclasses.replace(self.viewer.state(), frames=0, bytes=0)
        if view != self._told_view and view.form:
            self._told_view = view
            self._tell(events.ScreenShown.of(self.number, view))

    def _read_switches(self) -> None:
        """Look which features are switched off for this client, and obey (4.4)."""
        machine, before = self._host.machine, self._disabled
        self._disabled = {f for f in FEATURES if machine.feature_disabled(f)}
        self.usb.is_off = "USB" in self._disabled
        self._screen_channels.settings_changed()
        for feature in FEATURES:
            is_off = feature in self._disabled
            if is_off != (feature in before):
                self._tell(events.FeatureSwitched(feature, is_off))
                self._media.switch(self._disabled)
                if self.viewer is not None:
                    self._switch(feature, self.viewer, is_off=is_off)

    def _switch(self, feature: str, viewer: Viewer, *, is_off: bool) -> None:
        """Switch a feature in a session that runs."""
        match feature:
            case "Display" if is_off:
                viewer.close()
            case "Display" if self.is_active:
                viewer.open()
            case "Input" if is_off:
                viewer.hub.release(viewer)

    @property
    def owner(self) -> Owner:
        """Who logged on; where nobody was asked for a password, from where."""
        assert self._client is not None
        method = self._host.authenticator
        is_open = "null" in (method.name.lower(), method.library.lower())
        where = self.network if is_open else ""
        return Owner(*self.user, self._screen, self._client.name, where)

    def teller(self) -> Callable[[events.Event], None]:
        """Return what reports; not self._tell, which would keep this session."""
        return partial(
            report,
            happened=self._host.happened,
            log=self._log,
            terminal=self._terminal,
        )

    def _tell_without_usb(self) -> None:
        """A viewer without any channel for USB learns how to bring devices."""
        usb = self.usb  # with an extension its channel waits for what the client wants
        has_none = not (usb.devices or usb.extension or self._rdp.has_dynamic)
        if self.is_active and has_none and not (self.is_usb_only or self.usb.is_off):
            self.lacks_wire("vrdpusb")

    def lacks_wire(self, name: str) -> None:
        """The client has no channel of this name for USB, and nothing else for it."""
        if not self._host.admission.has_other_half(self):
            self._tell(events.WireMissing(self.number, name))

    def note(self, notice: Notice) -> None:
        """Log a fact."""
        for line in notice_lines(notice):
            self._log.write(line)

    def _close_channel(self, channel: int) -> None:
        self._channels.forget(channel)
        self._rdp.close_channel(channel)
