"""One connection of a server: the wire's guest side joined to attachments."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from rusb.aio.link import WireLink
from rusb.aio.protocols import load_protocol
from rusb.aio.stream import RdpStream, TlsUpgrade
from rusb.aio.tasks import TaskSet
from rusb.errors import ConnectionLost, RemoteProtocolError, RusbError
from rusb.filters.engine import decide
from rusb.rdp import events as rdp
from rusb.rdp.bitmaps import Picture
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.usb.device import DeviceInfo
from rusb.wire import base as wire

from .attachments import Attachment
from .auth import Authenticator, Request, asked_lines, decision_line
from .control import describe_device
from .guests.base import AttachedDevice, GuestBackend
from .machine.release_log import ReleaseLog
from .machine.settings import FEATURES, Machine
from .network import network_of

__all__ = ["ServerSession", "SessionHost"]

log = logging.getLogger(__name__)

CHANNEL = "vrdpusb"

LOGON_TIMEOUT = 60.0
"""Seconds from the connection to the logon (vrdp-server.md 1.1), and again from there
until the session is active, however many bytes come meanwhile."""

IDLE_TIMEOUT = 30.0
"""Seconds without traffic after which a keepalive is sent (vrdp-server.md 1.1), and
without our data being taken, between one and two times that, after which a client is
dropped. The original gives up after 2 s, which a short network outage exceeds."""

ATTACH_TIMEOUT = 60.0
"""Seconds for reading descriptors and plugging into the guest."""

MAX_PLUGS, PLUG_PERIOD = 512, 10.0
"""Devices that one client may plug in within so many seconds: each costs a task and
lines in the log. A client that does more is not serious."""

MAX_ATTACHED = 64
"""Devices of one client that may be plugged in at once; the original allows 16."""


class SessionHost(Protocol):
    """What a session asks of the server it belongs to."""

    machine: Machine
    guest: GuestBackend
    log: ReleaseLog
    authenticator: Authenticator

    def next_number(self) -> int:
        """Return a number for a device, never used before."""

    def welcome(self, session: "ServerSession") -> bool:
        """May this new connection stay? (limits)"""

    def admit(self, session: "ServerSession") -> bool:
        """May this logged-on client stay? (single-connection rule)"""

    def devices_changed(self) -> None:
        """A device was attached or detached."""

    def screen_wanted(self, session: "ServerSession") -> None:
        """A session wants :meth:`~ServerSession.show_screen` to be called."""

    def session_ended(self, session: "ServerSession") -> None:
        """The connection is over and its devices are detached."""


class _Device:
    """A device that the client lists now, and its way into the guest and out."""

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.uuid = str(uuid.uuid4())
        self.plugged: Attachment | None = None
        self.over = asyncio.Event()  # unlisted, failed, dropped by the guest
        self.unlisted = asyncio.Event()
        self.wake = asyncio.Event()  # one of these, or the filters changed
        self.done = asyncio.Event()  # detached; its id may be used again
        self.verdict = ""
        self.is_logged_gone = False

    def end(self) -> None:
        """It is not to be in the guest any more, whatever filters say."""
        self.over.set()
        self.wake.set()

    def unlist(self) -> None:
        """The client has it no more."""
        self.unlisted.set()
        self.end()


def _is_same(one: DeviceInfo, other: DeviceInfo) -> bool:
    """Are these two entries of the list the same device?"""
    return ((one.vendor_id, one.product_id, one.bcd_device, one.serial, one.port)) == (
        other.vendor_id,
        other.product_id,
        other.bcd_device,
        other.serial,
        other.port,
    )


class ServerSession:
    """One client, from its first byte until its last device is detached.

    Args:
        host: the server.
        number: client id, from 1, never reused.
        settings: for the RDP core.
        tls: how to do TLS.

    Attributes:
        network: of the peer, once it is connected.
    """

    def __init__(
        self,
        host: SessionHost,
        number: int,
        settings: ServerSettings,
        tls: TlsUpgrade | None,
    ) -> None:
        self.number = number
        self.is_active = False
        self.name = f"client {number}"
        self.network = ""
        self._host = host
        self._log = host.log
        self._rdp = ServerConnection(settings, random_bytes=secrets.token_bytes)
        self.stream = RdpStream(
            self._rdp,
            on_event=self._handle,
            on_lost=self._lost,
            on_connected=self._connected,
            on_secured=self._secured,
            on_pressure=self._pressed,
            tls=tls,
        )
        self._tasks = TaskSet()
        self._link: WireLink | None = None
        self._core: wire.GuestSide | None = None
        self._devices: dict[int, _Device] = {}  # listed now
        self._leaving: dict[int, _Device] = {}  # unlisted, not yet detached
        self._attached: dict[int, Attachment] = {}
        self._client: rdp.ClientDescription | None = None
        self._user = rdp.Credentials("", "", "", 0)
        self._since, self._address, self._is_tls = 0.0, "", False
        self._is_welcome = False
        self._is_granted = False
        self._inputs = 0  # keys and mouse events; the status screen has no use for them
        self._disabled: set[str] = set()
        self._is_ending = False
        self._is_pressed = False  # the client reads too slowly
        self._is_screen_due = False  # and has an old picture
        self._ended = asyncio.Event()
        loop = self._loop = asyncio.get_running_loop()
        self._logon_timer = loop.call_later(LOGON_TIMEOUT, self._is_late)
        self._idle_timer = loop.call_later(IDLE_TIMEOUT, self._keep_alive)
        self._traffic = (0, 0)
        self._taken = 0
        self._plugs, self._plugs_since = 0, loop.time()

    # --------------------------------------------------------- life cycle ----

    @property
    def is_logged_on(self) -> bool:
        """Did the client pass logon, and is it still there?"""
        return self._client is not None and not self._is_ending

    @property
    def is_waiting(self) -> bool:
        """Is the client there, and has yet to pass logon?"""
        return self._client is None and not self._is_ending

    @property
    def was_logged_on(self) -> bool:
        """Did the client pass logon?"""
        return self._client is not None

    @property
    def attached(self) -> list[Attachment]:
        """What of this client's is plugged into the guest now."""
        return [d.plugged for d in self._devices.values() if d.plugged]

    def disconnect(self, reason: int) -> None:
        """End the connection in order: reason 1 is ours, 0 the client's wish."""
        if not self._is_ending:
            self._rdp.disconnect(reason)
            self._end(reason)

    def _end(self, reason: int | None) -> None:
        """Close; None: the client just leaves, which is no logoff (7.4)."""
        if self._client is not None and reason is not None:
            self._log.write(f"VRDP: Logoff: {self.name} Reason 0x{reason:04X}.")
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

    def show_screen(self, make: Callable[[int, int, int], Picture]) -> None:
        """Send the picture that *make* returns for (width, height, depth).

        A client that still has a lot to read gets it when it has done so.
        """
        core = self._rdp
        if "Display" in self._disabled:
            return
        self._is_screen_due = self._is_pressed
        if self._is_pressed:
            return
        if self.is_active and not core.output_suppressed:
            core.show_screen(make(core.width, core.height, core.depth))
            self.stream.flush()

    def describe(self) -> dict[str, object]:
        """Who it is: what ``showvminfo`` shows of a client (filters.md 3.7)."""
        assert self._client is not None
        return {
            "user": self._user.user,
            "domain": self._user.domain,
            "name": self._client.name,
            "address": self._address,
            "build": self._client.build,
            "is_tls": self._is_tls,
            "since": self._since,
            "sent": self.stream.bytes_sent,
            "received": self.stream.bytes_received,
            "inputs": self._inputs,
        }

    def describe_devices(self) -> list[dict[str, object]]:
        """The client's devices; ``attached`` says whether the guest has each."""
        return [
            describe_device(d.info)
            | {
                "uuid": d.uuid,
                "address": f"REMOTEUSB0x{d.info.id:08X}&0x{self.number:08X}",
                "attached": d.plugged is not None,
                "verdict": d.verdict,
            }
            for d in self._devices.values()
        ]

    def reconsider(self) -> None:
        """The machine's filters have changed: look at every device again."""
        for device in self._devices.values():
            device.wake.set()

    def resize(self, width: int, height: int) -> None:
        """Give the client's screen another size (1.17); it shows the status again."""
        self._rdp.resize(width, height)
        self.stream.flush()

    def lost_by_guest(self, device: AttachedDevice) -> bool:
        """The guest dropped a device: is it one of ours? Then it is detached."""
        for known in self._devices.values():
            if known.plugged is device:
                known.end()
                return True
        return False

    def _lost(self, error: RusbError | None) -> None:
        self._is_ending = True
        self.is_active = False
        if self._is_granted:
            self._host.authenticator.disconnected(self.number)
        self._logon_timer.cancel()
        self._idle_timer.cancel()
        if error is not None:
            self._log.write(f"VRDP: {self.name}: {error}")
        if self._link is not None:
            self._link.closed(0)
        self._listed(())
        if self._is_welcome:
            self._log.write(f"VRDP: Connection closed: {self.number}")
        self._tasks.start(self._finish(), f"end of {self.name}")

    async def _finish(self) -> None:
        await self._tasks.drain(ATTACH_TIMEOUT)
        self._ended.set()
        self._host.session_ended(self)

    def _connected(self) -> None:
        self.network = network_of(self.stream.peer)
        self._is_welcome = self._host.welcome(self)
        if not self._is_welcome:
            self.stream.close()

    def _secured(self, version: str) -> None:
        assert self.stream.tls is not None
        issuer = self.stream.tls.issuer
        self._log.write(f"VRDP: {version}. Issuer of the certificate: [{issuer}].")

    def _is_late(self) -> None:
        what = "logon" if self._client is None else "activation"
        self.drop(f"no {what} within {LOGON_TIMEOUT:g} s")

    def _keep_alive(self) -> None:
        """Send a sign of life after a time without traffic; drop who takes nothing."""
        stream = self.stream
        taken = stream.bytes_sent - stream.bytes_waiting
        if stream.bytes_waiting and taken == self._taken:
            self.drop(f"the client has read nothing for {IDLE_TIMEOUT:g} s")
            return
        traffic = stream.bytes_received, stream.bytes_sent
        if traffic == self._traffic and self.is_active:
            self._rdp.keepalive()
            stream.flush()
        self._traffic, self._taken = traffic, taken
        self._idle_timer = self._loop.call_later(IDLE_TIMEOUT, self._keep_alive)

    def _pressed(self, is_high: bool) -> None:
        """The client reads too slowly: hold the guest until it has caught up."""
        self._is_pressed = is_high
        for attachment in self._attached.values():
            attachment.hold(is_high)
        if self._is_screen_due and not is_high:
            self._host.screen_wanted(self)

    # ------------------------------------------------- from the connection ----

    def _handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.ChannelData():
                if self._link is not None:
                    self._link.received(event.channel, event.data)
            case rdp.LogonRequested():
                self._logon(event)
            case rdp.Noted():
                self._log.write(f"VRDP: {event.text}")
            case rdp.Activated():
                self._logon_timer.cancel()
                self.is_active = True
                self._host.screen_wanted(self)
            case rdp.InputReceived():
                self._inputs += "Input" not in self._disabled
            case rdp.RefreshRequested():
                self._host.screen_wanted(self)
            case rdp.ChannelOpened():
                if event.name.lower() == CHANNEL:
                    self._open_channel(event)
            case rdp.Disconnected():
                self._end(event.reason)
            case _:
                log.debug("= %s", event)

    def _logon(self, event: rdp.LogonRequested) -> None:
        """Decide on a logon, in the order of vrdp-server.md 3.6."""
        self._logon_timer.cancel()
        who, client = event.credentials, event.client
        self.name = f"{client.name} ({client.address}) build {client.build}."
        self._log.write(
            f"VRDP: Logon: {self.name} User: [{who.user}] Domain: [{who.domain}]"
            f" Screen: {who.screen}"
        )
        if who.screen >= self._host.machine.monitors:
            self._log.write(f"VRDP: There is no screen {who.screen}.")
            self._refuse()
        else:
            self._tasks.start(self._authenticate(event), f"logon of {self.name}")

    async def _authenticate(self, event: rdp.LogonRequested) -> None:
        """Ask the machine's method; who is refused sees the connection end (3.7)."""
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
            self._log.write(line)
        decision = await method.check(request)
        if decision.reason:
            self._log.write(decision.reason)
        self._log.write(decision_line(decision))
        self._is_granted = decision.granted
        if self._is_ending:  # nobody hides the answer by hanging up
            method.disconnected(self.number)
            return
        if not (decision.granted and self._host.admit(self)):
            self._refuse()
            return
        self._client, self._user = event.client, event.credentials
        self._since = time.time()
        self._address, self._is_tls = self.stream.peer, self.stream.is_tls
        self._log_switches()
        self._logon_timer = self._loop.call_later(LOGON_TIMEOUT, self._is_late)
        self._rdp.accept_logon()
        self.stream.flush()

    def _refuse(self) -> None:
        """Hang up on a client after its logon.

        Without a goodbye of TLS, in which rdesktop 1.9 would wait for ever.
        """
        self.stream.abort()

    def _log_switches(self) -> None:
        """Note the features that are switched off for this client (4.4)."""
        machine = self._host.machine
        self._disabled = {f for f in FEATURES if machine.feature_disabled(f)}
        for feature in FEATURES:
            if feature in self._disabled:
                self._log.write(f"VRDP: feature: Client/Disable{feature}")

    def _open_channel(self, event: rdp.ChannelOpened) -> None:
        if self._link is None and "USB" not in self._disabled:
            core = load_protocol(CHANNEL).guest_side()
            self._core = core
            self._link = WireLink(
                core,
                send=self._rdp.send_channel,
                flush=self.stream.flush,
                on_event=self._dispatch,
            )
            self._link.opened(event.channel, event.name)

    # ------------------------------------------------------- from the wire ----

    def _dispatch(self, event: wire.Event) -> None:
        match event:
            case wire.UrbCompleted():
                attachment = self._attached.get(event.device)
                if attachment is not None:
                    attachment.completed(event.urb_id, event.result)
            case wire.DevicesListed():
                self._listed(event.devices)
            case wire.DeviceFailed():
                device = self._devices.get(event.device)
                if device is not None:
                    why = "is gone" if event.removed else f"refused: {event.request}"
                    self._log.write(f"Remote USB: {device.info} {why}")
                    device.end()
            case wire.Negotiated():
                self._negotiated(event)
            case wire.Ignored():
                log.debug("%s: ! %s", self.name, event.reason)
            case _:
                raise AssertionError(f"not an event of the guest side: {event}")

    def _negotiated(self, event: wire.Negotiated) -> None:
        self._log.write(
            f"Remote USB: Received negotiate response. Flags 0x{event.flags:02X}."
        )
        if event.error is not None:
            self._log.write(f"VRDP: ERROR: {event.error}")
        else:
            self._log.write(f"VRDP: remote USB protocol version {event.version}.")

    def _listed(self, devices: tuple[DeviceInfo, ...]) -> None:
        """Start what is new on its way into the guest, end what is gone.

        Only this client's devices are looked at (vrdpusb.md S5).
        """
        listed = {info.id: info for info in devices}
        for number, device in list(self._devices.items()):
            info = listed.get(number)
            # S7: an id may be used again for what is in the same port now
            if info is None or not _is_same(info, device.info):
                self._leaving[number] = self._devices.pop(number)
                device.unlist()
        for number in listed.keys() - self._devices.keys():
            if not self._may_plug():
                return
            device = self._devices[number] = _Device(listed[number])
            work = self._live(device, self._leaving.get(number))
            self._tasks.start(work, f"{device.info} of {self.name}")

    def _may_plug(self) -> bool:
        """Count a device that was plugged in; too many end the connection."""
        now = self._loop.time()
        if now - self._plugs_since > PLUG_PERIOD:
            self._plugs, self._plugs_since = 0, now
        self._plugs += 1
        if self._plugs == MAX_PLUGS + 1:
            self.stream.fail(
                RemoteProtocolError(
                    f"the client plugged in more than {MAX_PLUGS} devices within"
                    f" {PLUG_PERIOD:g} s"
                )
            )
        return self._plugs <= MAX_PLUGS

    # -------------------------------------------------- one device's life ----

    async def _live(self, device: _Device, before: _Device | None) -> None:
        """Announce, decide, attach, wait, detach, forget.

        Args:
            device: the one whose life this is.
            before: a device of the same id that is still being detached.
        """
        info = device.info
        if before is not None:
            await before.done.wait()
        self._log_plug("++++", info)
        while True:
            device.wake.clear()
            if self._admits(device) and not device.over.is_set():
                await self._attach_until_over(device)
            if device.unlisted.is_set():
                break
            if device.over.is_set() or not self._admits(device):
                await device.wake.wait()
        self._log_gone(device)
        if self._leaving.get(info.id) is device:
            del self._leaving[info.id]
        device.done.set()

    def _admits(self, device: _Device) -> bool:
        """Do the machine's filters want the device now? The log has every change."""
        machine = self._host.machine
        decision = decide(machine.filters, device.info)
        verdict = str(decision)
        if not machine.usb_controllers:
            verdict = "the machine has no USB controller"
        if verdict != device.verdict:
            device.verdict = verdict
            self._log.write(f"Remote USB: {device.info}: {verdict}")
        return decision.matched and bool(machine.usb_controllers)

    async def _attach_until_over(self, device: _Device) -> None:
        info = device.info
        assert self._core is not None
        assert self._link is not None
        if len(self._attached) >= MAX_ATTACHED:
            self._log.write(f"Remote USB: {info}: {MAX_ATTACHED} devices are in use")
            device.end()
            return
        number = self._host.next_number()
        attachment = Attachment(
            info,
            name=f"usb-{number}",
            number=number,
            core=self._core,
            move=self._link.move,
            now=self._loop.time,
        )
        self._attached[info.id] = attachment
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT):
                await attachment.open()
                where = await self._host.guest.attach(attachment)
        except (RusbError, TimeoutError) as error:
            why = str(error) or f"not done within {ATTACH_TIMEOUT:g} s"
            self._log.write(f"VUSB: Failed to attach '{attachment}': {why}")
            device.end()
        else:
            device.plugged = attachment
            self._log.write(
                f"VUSB: Attached '{attachment}' to {where} ({info.speed.label}Speed)"
            )
            self._host.devices_changed()
            while self._admits(device) and not device.over.is_set():
                device.wake.clear()
                await device.wake.wait()
        finally:
            await self._detach(device, attachment)

    async def _detach(self, device: _Device, attachment: Attachment) -> None:
        if device.unlisted.is_set():
            self._log_gone(device)
        attachment.close()
        await self._host.guest.detach(attachment)
        self._attached.pop(device.info.id, None)
        if device.plugged is not None:
            device.plugged = None
            self._log.write(f"VUSB: Detached '{attachment}'")
            self._host.devices_changed()

    def _log_gone(self, device: _Device) -> None:
        """Log once that a device is no longer listed."""
        if not device.is_logged_gone:
            device.is_logged_gone = True
            self._log_plug("----", device.info)

    def _log_plug(self, mark: str, info: DeviceInfo) -> None:
        self._log.write(
            f"Remote USB: {mark} Vendor {info.vendor_id:04X}."
            f" Product {info.product_id:04X}. Name = [{info.product or ''}]."
        )
