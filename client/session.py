"""One connection of a client: the wire's device side joined to opened devices."""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TypeGuard

from rusb.aio.link import WireLink
from rusb.aio.stream import RdpStream
from rusb.aio.tasks import TaskSet
from rusb.aio.tls import KnownServers
from rusb.errors import (
    AuthenticationError,
    BackendError,
    CertificateError,
    ConnectionLost,
    Hint,
    NegotiationError,
    RusbError,
    ServerBusy,
)
from rusb.rdp import events as rdp
from rusb.rdp.client import ClientConnection
from rusb.rdp.error_info import SLOT_IS_TAKEN, explain
from rusb.usb.backend import DeviceBackend, LocalDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.wire import base as wire

from .config import ClientConfig
from .devices import DeviceCatalog, KnownDevice, Standing, load_backend
from .dial import dial, rdp_settings
from .events import (
    DeviceLeftOut,
    DeviceLost,
    DeviceNotOpened,
    DeviceOffered,
    DeviceWithdrawn,
    SecurityLowered,
    SessionEvent,
)
from .slots import DeviceSlots
from .wires import WireChoice

__all__ = ["ClientSession", "SessionDevice", "connect"]

log = logging.getLogger(__name__)

OPEN_SECONDS = 15.0
"""After it was offered, a device that the server has not opened is named."""

FURTHER_SECONDS = 2.0
"""How long isochronous devices wait for a wire that carries them, once another one is
there: it begins later, and a device that has been offered stays on its wire."""


@contextlib.asynccontextmanager
async def connect(
    config: ClientConfig,
    *,
    backends: Sequence[DeviceBackend] | None = None,
    on_event: Callable[[SessionEvent], None] = log.info,
) -> AsyncIterator["ClientSession"]:
    """Offer devices to a server while the ``async with`` block runs.

    Args:
        config: which server, and which devices to offer.
        backends: where devices come from, closed at the end; None: those that
            ``config.backends`` names.
        on_event: gets every event; ``str()`` of one is a line for people.

    Raises:
        NoPermission, DeviceBusy: none of the devices can be used; it says why.
        RusbError: what :meth:`ClientSession.start` raises.
    """
    if backends is None:
        names = config.backends if config.usb else ()
        backends = [load_backend(name, force=config.force) for name in names]
    catalog = DeviceCatalog(
        backends,
        config.filters,
        excluded=config.excluded,
        wants_all=config.wants_all,
    )
    try:
        await catalog.refresh()
        if (problem := catalog.why_nothing()) is not None:
            raise problem
        session = await _start(config, catalog, on_event)
        try:
            yield session
        finally:
            await session.aclose()
    finally:
        await catalog.aclose()


async def _start(
    config: ClientConfig,
    catalog: DeviceCatalog,
    on_event: Callable[[SessionEvent], None],
) -> "ClientSession":
    """Start a session with the first kind of security that the server takes."""
    _refuse_less(config)
    while True:
        session = ClientSession(config, catalog, on_event=on_event)
        try:
            await session.start()
            return session
        except BaseException as error:
            await session.aclose()
            if not _may_do_with_less(error, config):
                raise
            config = dataclasses.replace(config, security=config.security[1:])
            _refuse_less(config)
            on_event(SecurityLowered(error, config.security[0]))


def _refuse_less(config: ClientConfig) -> None:
    """Who is known by a certificate can do TLS; anybody may say it cannot.

    Raises:
        CertificateError: it is less than TLS that is next, and the server is known.
    """
    if config.security[0] == "tls":
        return
    known = KnownServers(config.known_servers)
    if config.ca is not None or known.knows(config.server):
        text = (
            f"{config.server} is known by its certificate, so nothing weaker than TLS"
            " is tried: someone between you and the server could read the password"
        )
        if config.ca is not None:
            raise CertificateError(text).hinting(Hint.DROP_AUTHORITY)
        raise CertificateError(
            f"{text}. If the server's owner has really switched TLS off, remove the"
            f" line for {config.server} from {known.path} and connect again"
        )


def _may_do_with_less(
    error: BaseException, config: ClientConfig
) -> TypeGuard[NegotiationError]:
    """Is it TLS that failed, other than by a wrong certificate?"""
    return (
        isinstance(error, NegotiationError)
        and error.stage == "tls"
        and not isinstance(error, CertificateError)
        and len(config.security) > 1
    )


@dataclasses.dataclass(frozen=True, slots=True)
class SessionDevice:
    """A device that is plugged in here, as a session sees it.

    Attributes:
        info: its identity; ``id`` is what :meth:`ClientSession.offer` takes.
        standing: is it offered, and if not, why not.
        is_open: the server has it in use.
        problem: why it cannot be used at present; None if it can.
        kept: what this machine itself uses it for; None if it does not.
    """

    info: DeviceInfo
    standing: Standing
    is_open: bool
    problem: BackendError | None
    kept: str | None


@dataclasses.dataclass(slots=True, eq=False)
class _Wire:
    """A wire that is taken, and what the server has opened over it."""

    protocol: wire.WireProtocol
    core: wire.DeviceSide
    link: WireLink
    slots: DeviceSlots
    is_full: bool = False  # the server asks too much of it

    @property
    def is_isochronous(self) -> bool:
        return TransferType.ISOCHRONOUS in self.protocol.transfer_types


class ClientSession:
    """Offers the devices of a catalog to one server until the connection ends.

    Args:
        config: which server to connect to.
        catalog: the devices; it is watched, and not closed.
        on_event: gets every event; ``str()`` of one is a line for people.
    """

    def __init__(
        self,
        config: ClientConfig,
        catalog: DeviceCatalog,
        *,
        on_event: Callable[[SessionEvent], None] = log.info,
    ) -> None:
        self.config = config
        self.reason: int | None = None
        self._catalog = catalog
        self._on_event = on_event
        self._tasks = TaskSet()
        self._taken: list[_Wire] = []
        self._way: dict[int, _Wire] = {}  # of each device that is offered
        self._may_wait = True  # for a wire that carries isochronous devices
        self._known: dict[int, KnownDevice] = {}  # as the server knows of them
        self._reminders: set[asyncio.TimerHandle] = set()
        self._further: asyncio.TimerHandle | None = None
        self._is_server_slow = False  # the server reads too slowly
        self._refresh_due = asyncio.Event()
        self._list_task: asyncio.Task[None] | None = None
        self._has_goodbye = False
        loop = asyncio.get_running_loop()
        self._silence: asyncio.TimerHandle | None = None
        self._active: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[RusbError | None] = loop.create_future()
        self._wires = WireChoice(
            config.wires if config.usb else (),
            taken=self._take_wire,
        )
        self._channels = self._wires.channels
        self._rdp = ClientConnection(
            rdp_settings(config, self._channels), random_bytes=secrets.token_bytes
        )
        self._stream: RdpStream | None = None

    # --------------------------------------------------------- life cycle ----

    async def start(self) -> None:
        """Connect and return once the connection is active.

        Raises:
            ConnectionLost: the connection failed or broke.
            NegotiationError: nothing in common; CertificateError: wrong certificate.
            AuthenticationError: the server closed the connection after the logon.
            ServerBusy: it already has as many clients as it accepts.
            SettingsError: the file of known servers cannot be used.
        """
        try:
            async with asyncio.timeout(self.config.timeout):
                self._stream = await dial(
                    self.config,
                    self._rdp,
                    on_event=self._handle,
                    on_lost=self._lost,
                    on_pressure=self._on_pressure,
                    on_trust=self._on_event,
                )
                self._wires.connect(self._rdp, self._stream.flush)
                await self._active
        except TimeoutError:
            raise ConnectionLost(
                f"{self.config.server} did not finish the connection within"
                f" {self.config.timeout:g} s"
            ) from None
        if self.config.usb and not self._wires.is_possible:
            names = " or ".join(self._channels.static)
            raise self._no_usb(f"it does not open the channel {names}")
        self._catalog.know_peer(self._stream.peer)
        self._catalog.watch(self._refresh_due.set)
        self._list_task = self._tasks.start(self._keep_list(), "device list")

    @property
    def security(self) -> str:
        """What secures the connection: ``TLS 1.3``, ``RC4, 128 bit`` or little else."""
        transport = None if self._stream is None else self._stream.transport
        found = transport and transport.get_extra_info("ssl_object")
        if not found:
            return self._rdp.encryption
        name: str = found.version().replace("TLSv", "TLS ")
        return name if "." in name else f"{name}.0"

    @property
    def peer(self) -> str:
        """The address of the server; empty if there is no connection."""
        return "" if self._stream is None else self._stream.peer

    @property
    def certificate(self) -> bytes | None:
        """What the server showed and we have checked, DER; None without TLS."""
        transport = None if self._stream is None else self._stream.transport
        found = transport and transport.get_extra_info("ssl_object")
        return found.getpeercert(binary_form=True) if found else None

    @property
    def user(self) -> str:
        """The name that the server was told."""
        return self._rdp.settings.user

    @property
    def devices(self) -> list[SessionDevice]:
        """The devices that are plugged in here, offered or not, as last listed."""
        return [
            SessionDevice(
                known.info,
                known.standing,
                any(one.slots.is_open(known.info.id) for one in self._taken),
                known.device.problem,
                known.device.kept,
            )
            for known in self._catalog.known.values()
        ]

    def offer(self, device: int) -> None:
        """Offer a device regardless of filters; a :class:`DeviceOffered` follows.

        Args:
            device: its ``info.id`` in :attr:`devices`.

        Raises:
            DeviceGone: it is no longer plugged in.
        """
        self._catalog.choose(device, is_offered=True)
        self._refresh_due.set()

    def withdraw(self, device: int) -> None:
        """Stop offering a device; a :class:`DeviceWithdrawn` follows.

        If the server has it in use, the guest sees it unplugged, and this machine
        gets it back.

        Args:
            device: its ``info.id`` in :attr:`devices`.

        Raises:
            DeviceGone: it is no longer plugged in.
        """
        self._catalog.choose(device, is_offered=False)
        self._refresh_due.set()

    async def wait_closed(self) -> None:
        """Wait for the end of the connection.

        Raises:
            RusbError: why it ended, unless in an orderly way; ``reason`` then has
                the server's code (vrdp-server.md 8.5), if it gave one.
        """
        error = await asyncio.shield(self._over)
        if error is not None:
            raise error

    async def aclose(self) -> None:
        """Say goodbye, close every device and give it back. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is not None:
            if not self._over.done():
                self._rdp.disconnect()
            stream.close()
            try:
                async with asyncio.timeout(3):
                    await asyncio.shield(self._over)
            except TimeoutError:
                stream.abort()
        if self._list_task is not None:
            self._list_task.cancel()
        for reminder in self._reminders:
            reminder.cancel()
        if self._further is not None:
            self._further.cancel()
        for one in self._taken:
            await one.slots.aclose()
        await self._tasks.aclose()

    # ------------------------------------------------- from the connection ----

    def _handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.ChannelData():
                if event.channel in self._channels.open:
                    handler = self._channels.open[event.channel]
                    handler.received(event.channel, event.data)
            case rdp.ChannelOpened() | rdp.ChannelClosed() | rdp.ChannelRefused():
                self._channels.handle(event, self._rdp.close_channel)
            case rdp.Activated():
                if not self._active.done():
                    self._wait_for_usb()
                    self._active.set_result(None)
            case rdp.Disconnected():
                self._has_goodbye = True
                self.reason = event.reason
                if self._stream is not None:
                    self._stream.close()
            case _:
                log.debug("= %s", event)

    def _wait_for_usb(self) -> None:
        """The server should say something about USB soon, else it has none."""
        if self.config.usb:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(self.config.usb_timeout, self._on_silence)

    def _on_silence(self) -> None:
        if self._stream is not None and not self._wires.has_heard:
            seconds = f"{self.config.usb_timeout:g} s"
            self._stream.fail(self._no_usb(f"it sent nothing about USB for {seconds}"))

    def _no_usb(self, why: str) -> NegotiationError:
        return NegotiationError(
            f"{self.config.server} has no remote USB: {why}. Remote USB needs a VRDP"
            " server (rusb serve, or VirtualBox with its extension pack) whose"
            " property Client/DisableUSB is not set"
        )

    def _take_wire(
        self, protocol: wire.WireProtocol, core: wire.DeviceSide, link: WireLink
    ) -> Callable[[wire.Event], None]:
        """It is known that the server has this wire."""

        def on_full(is_full: bool) -> None:
            taken.is_full = is_full
            self._pause_or_resume()

        slots = DeviceSlots(
            self._catalog,
            core,
            link.flush,
            on_full=on_full,
            on_event=self._on_event,
            server=self.config.server,
        )
        taken = _Wire(protocol, core, link, slots)
        self._taken.append(taken)
        if self._further is None:
            loop = asyncio.get_running_loop()
            self._further = loop.call_later(FURTHER_SECONDS, self._wait_no_more)
        return partial(self._dispatch, slots)

    def _wait_no_more(self) -> None:
        self._may_wait = False
        self._refresh_due.set()

    def _lost(self, error: RusbError | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        if not self._active.done():
            self._active.set_exception(self._why_refused(error))
        elif error is None and self._stream is not None:  # not our own doing
            error = self._why_ended()
        # nothing is given back before this: a grace period would begin here
        self._wires.close()
        if not self._over.done():
            self._over.set_result(error)

    def _why_ended(self) -> RusbError | None:
        """Explain the end of a session; None if the server said goodbye."""
        if self.config.usb and self.reason is None and not self._wires.has_heard:
            # FreeRDP's server does so when we answer what it never asked
            return self._no_usb("it closed the connection without offering it")
        if self._has_goodbye:
            return None
        return ConnectionLost(
            f"the connection to {self.config.server} was lost: the server was killed,"
            " or the network in between closed it"
        )

    def _why_refused(self, error: RusbError | None) -> RusbError:
        """Explain an end before the session began (vrdp-server.md 3.7)."""
        if error is not None and not isinstance(error, ConnectionLost):
            return error
        server, reason = self.config.server, self._rdp.reason
        if not self._rdp.is_logged_on:
            return error or ConnectionLost(
                f"{server} closed the connection before the logon; is it an RDP server"
                " that allows TLS?"
            )
        if reason == SLOT_IS_TAKEN:
            return ServerBusy(
                f"{server} already has as many clients as it accepts; try again when"
                " one has left"
            ).hinting(Hint.ALLOW_SEVERAL_CLIENTS)
        if reason:
            return ConnectionLost(f"{server} ended the connection: {explain(reason)}")
        if self._rdp.is_admitted:
            return error or ConnectionLost(
                f"the connection to {server} was lost after the logon, before the"
                " session began; see the machine's VBox.log"
            )
        return AuthenticationError(
            f"{server} closed the connection right after the logon and gave no reason:"
            " the user name or password is wrong, the screen does not exist, the server"
            " only serves one client and another is connected, or it was killed at that"
            " moment. The machine's VBox.log says which"
        )

    def _on_pressure(self, is_high: bool) -> None:
        self._is_server_slow = is_high
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Stop reading requests while the server reads slowly or asks too much."""
        if self._stream is not None:
            is_full = any(one.is_full for one in self._taken)
            self._stream.hold(is_held=self._is_server_slow or is_full)

    # --------------------------------------------------------- device list ----

    async def _keep_list(self) -> None:
        """Announce the list when the server asks and when something changes."""
        try:
            while True:
                await self._refresh_due.wait()
                self._refresh_due.clear()
                await self._announce()
        except Exception as error:
            log.exception("bug in the list of devices")
            if self._stream is not None:  # no hot-plug without a word
                self._stream.fail(ConnectionLost(f"internal error: {error!r}"))

    async def _announce(self) -> None:
        if not self._taken:
            return  # the wire asks for the list as soon as there is one
        before = self._known
        offered = await self._catalog.refresh()
        after = self._known = self._catalog.known
        new = self._choose_ways(offered)
        for number, known in after.items():
            was = before.get(number)
            if known.standing is Standing.LEFT_OUT and not (
                was is not None and was.standing is Standing.LEFT_OUT
            ):
                self._on_event(DeviceLeftOut(known.info, known.device.kept or ""))
        for number, way in list(self._way.items()):
            if not _is_offered(after.get(number)):
                del self._way[number]
                self._take_back(before[number].info, way, is_there=number in after)
        for taken in self._taken:
            taken.core.announce([i for i in offered if self._way.get(i.id) is taken])
            taken.link.flush()
        if new:
            loop = asyncio.get_running_loop()
            self._reminders = {r for r in self._reminders if r.when() > loop.time()}
            later = loop.call_later(OPEN_SECONDS, self._remind, new)
            self._reminders.add(later)

    def _choose_ways(self, offered: Sequence[DeviceInfo]) -> list[DeviceInfo]:
        """Give each device a wire, on which it stays; return those that are new."""
        new = [info for info in offered if info.id not in self._way]
        for info in list(new):
            device = self._known[info.id].device
            way = self._way_of(device)
            if way is None:
                new.remove(info)
                continue
            self._way[info.id] = way
            lacks = device.has_isochronous and not way.is_isochronous
            self._on_event(DeviceOffered(info, device.problem, lacks))
        return new

    def _way_of(self, device: LocalDevice) -> _Wire | None:
        """Return the wire for a device, None while a better one may come."""
        if device.has_isochronous:
            for one in self._taken:
                if one.is_isochronous:
                    return one
            if self._may_wait and self._wires.may_take_more:
                return None
        return self._taken[0]

    def _take_back(self, info: DeviceInfo, way: _Wire, *, is_there: bool) -> None:
        """The server has had a device that is no longer offered."""
        if is_there:
            way.slots.withdraw(info.id)
        self._on_event(DeviceWithdrawn(info) if is_there else DeviceLost(info))
        way.core.device_lost(info.id)

    def _remind(self, offered: Sequence[DeviceInfo]) -> None:
        """Name what the server did not open: it has no message that says why."""
        for info in offered:
            way = self._way.get(info.id)
            opened = way is not None and way.slots.was_opened(info.id)
            is_there = info.id in self._catalog.offers
            if not opened and is_there and not self._over.done():
                self._on_event(DeviceNotOpened(info, self.config.server))

    # ------------------------------------------------------- from the wire ----

    def _dispatch(self, slots: DeviceSlots, event: wire.Event) -> None:
        match event:
            case wire.DevicesRequested():
                self._refresh_due.set()
            case wire.Negotiated():
                log.info("remote USB protocol version %d", event.version)
            case wire.Ignored():
                log.debug("! %s", event.reason)
            case _:
                slots.handle(event)


def _is_offered(known: KnownDevice | None) -> bool:
    return known is not None and known.standing is Standing.OFFERED
