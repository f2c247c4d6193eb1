"""One connection of a client: the wire's device side joined to opened devices."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeGuard

from rusb.aio.tasks import TaskSet
from rusb.aio.tls import KnownServers
from rusb.errors import (
    BackendError,
    CertificateError,
    ConnectionLost,
    Hint,
    NegotiationError,
    RusbError,
)
from rusb.rdp import rusbext
from rusb.rdp.cookie import Cookie
from rusb.usb.backend import DeviceBackend
from rusb.usb.device import DeviceInfo

from .config import ClientConfig
from .connection import Connection
from .devices import DeviceCatalog, Standing, load_backend
from .dial import user_of
from .events import SecurityLowered, SessionEvent
from .extension import Extension, Ticket, clock
from .follow import FOLLOW_SECONDS, Follow, first_of
from .offers import Offers
from .pulse import NetworkWatch, Pulse
from .redial import Redial
from .wires import WireChoice

__all__ = ["ClientSession", "SessionDevice", "connect"]

log = logging.getLogger(__name__)

_NEEDED = (
    "Remote USB needs a VRDP server (rusb serve, or VirtualBox with its extension pack)"
    " whose property Client/DisableUSB is not set"
)

_RESETS = (ConnectionResetError, BrokenPipeError)


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


class ClientSession:
    """Offers the devices of a catalog to one server.

    With ``config.reconnect`` it outlives its connections: it goes on with what the
    server kept for it, or offers the devices anew, until the server ends it in order or
    refuses it.

    Args:
        config: which server to connect to.
        catalog: the devices; it is watched, and not closed.
        on_event: gets every event; ``str()`` of one is a line for people.

    Attributes:
        reason: the code that the server gave for the end, if it did.
        connections: how many there have been so far.
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
        self.connections = 0
        self._catalog = catalog
        self._on_event = on_event
        self._tasks = TaskSet()
        self._is_server_slow = False  # the server reads too slowly
        self._is_closing = False
        self._silence: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._wires: WireChoice | None = None  # of the connection
        self._pulse: Pulse | None = None  # of it
        self._network: NetworkWatch | None = None
        self._is_ours = False  # the server is rusb
        self._redial = Redial(
            config.server,
            resume=self._resume,
            begin=self._begin,
            drop=self._drop,
            on_event=on_event,
            on_over=self._finish,
        )
        self._follow = Follow(
            resume=self._resume_at,
            go_to=self._go_to,
            lost=self._redial.start,
            on_event=on_event,
        )
        self._over: asyncio.Future[RusbError | None]
        self._over = asyncio.get_running_loop().create_future()
        self._offers = Offers(
            catalog,
            server=config.server,
            on_event=on_event,
            on_full=self._pause_or_resume,
            may_take_more=lambda: self._wires is None or self._wires.may_take_more,
        )

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
        await self._begin(self.config.timeout)
        self._tasks.start(self._keep_list(), "device list")
        if self.config.reconnect:
            self._network = NetworkWatch(self._on_network)

    @property
    def security(self) -> str:
        """What secures the connection: ``TLS 1.3``, ``RC4, 128 bit`` or little else;
        empty while there is none."""
        return "" if self._connection is None else self._connection.security

    @property
    def is_connected(self) -> bool:
        """Is there a connection that works? False while the session tries to come
        back."""
        return self._connection is not None and not self._redial.is_under_way

    @property
    def peer(self) -> str:
        """The address of the server; empty if there is no connection."""
        stream = self._connection.stream if self._connection is not None else None
        return "" if stream is None else stream.peer

    @property
    def certificate(self) -> bytes | None:
        """What the server showed and we have checked, DER; None without TLS."""
        return self._connection.certificate if self._connection is not None else None

    @property
    def user(self) -> str:
        """The name that the server was told."""
        return user_of(self.config)

    @property
    def devices(self) -> list[SessionDevice]:
        """The devices that are plugged in here, offered or not, as last listed."""
        return [
            SessionDevice(
                known.info,
                known.standing,
                self._offers.is_open(known.info.id),
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
        self._offers.refresh()

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
        self._offers.refresh()

    async def wait_closed(self) -> None:
        """Wait for the end of the session.

        Raises:
            RusbError: why it ended, unless in an orderly way; ``reason`` then has
                the server's code (vrdp-server.md 8.5), if it gave one.
        """
        error = await asyncio.shield(self._over)
        if error is not None:
            raise error

    async def aclose(self) -> None:
        """Say goodbye, close every device and give it back. Idempotent."""
        self._is_closing = True
        if self._network is not None:
            self._network.close()
        await self._redial.aclose()
        await self._follow.aclose()
        if self._connection is not None:
            await self._connection.aclose()
        self._finish(None)
        await self._offers.aclose()
        await self._tasks.aclose()

    def _finish(self, error: RusbError | None) -> None:
        """The session is over. Idempotent."""
        if self._silence is not None:
            self._silence.cancel()
        if self._pulse is not None:
            self._pulse.close()
        self._redial.forget()
        if self._wires is not None:
            self._wires.close()
        self._offers.end()
        if not self._over.done():
            self._over.set_result(error)

    async def _keep_list(self) -> None:
        try:
            await self._offers.keep()
        except Exception as error:
            log.exception("bug in the list of devices")
            lost = ConnectionLost(f"internal error: {error!r}")
            self._finish(lost)  # no hot-plug without a word
            if self._connection is not None:
                self._connection.fail(lost)

    # --------------------------------------------------------- connections ----

    async def _begin(self, seconds: float) -> str:
        """Connect, and begin anew with the server; return what secures it.

        Raises:
            RusbError: see :meth:`start`.
        """
        extension = None
        if self.config.reconnect and self.config.usb:
            extension = Extension(
                None,
                on_live=lambda ticket: self._begun(ticket, extension),
                on_resume=lambda: None,
                on_move=lambda move: self._on_move(extension, move),
            )
        wires = WireChoice(
            self.config.wires if self.config.usb else (),
            taken=self._offers.take,
            extension=extension,
        )
        connection = self._make(wires)
        self._become(connection, wires)
        try:
            limit = min(seconds, self.config.timeout)
            await self._open(connection, wires, extension, limit)
        except BaseException:
            connection.abort()
            wires.close()
            if self._connection is connection:
                self._connection = None
            raise
        if self.config.usb and not wires.is_possible:
            names = " or ".join(wires.channels.static)
            raise self._no_usb(f"it does not open the channel {names}")
        return connection.security

    async def _resume(
        self,
        ticket: Ticket,
        seconds: float,
        *,
        config: ClientConfig | None = None,
        may_ask: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Connect, and go on with what the server has kept for us.

        Args:
            ticket: what it knows us by.
            seconds: for each step.
            config: of the server; None: the session's.
            may_ask: returns once we may ask for it; None: we may.

        Raises:
            RusbError: it did not work out; of *ticket*, ``is_void`` says whether it
                ever may.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resumed(_: Ticket) -> None:
            self._become(connection, wires)
            self._watch(ticket, extension)
            if not done.done():
                done.set_result(None)

        def lost(error: RusbError | None) -> None:
            if self._connection is connection:
                self._lost(connection, wires, error)
            elif not done.done():
                done.set_exception(error or ConnectionLost("the server hung up"))

        greeted = asyncio.Event()
        extension = Extension(
            ticket,
            on_live=resumed,
            on_resume=self._let_go,
            on_move=lambda move: self._on_move(extension, move),
            on_hello=None if may_ask is None else greeted.set,
        )
        wires = WireChoice(
            self.config.wires,
            taken=self._offers.take,
            extension=extension,
            kept=ticket,
        )
        connection = self._make(wires, lost, ticket.cookie, config)
        try:
            async with asyncio.timeout(seconds):
                await self._open(connection, wires, extension, seconds)
                if may_ask is not None:
                    await first_of(greeted.wait(), done)
            if may_ask is not None:
                await first_of(may_ask(), done)
                extension.ask()
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError:
            if self._connection is not connection:
                raise ConnectionLost("the server did not resume in time") from None
        except asyncio.CancelledError:
            if connection.was_active and self._connection is not connection:
                await connection.aclose()  # the server may have resumed already
            raise
        finally:
            if not done.cancel() and not done.cancelled():
                done.exception()  # nobody may have asked
            if self._connection is not connection:
                connection.abort()
                wires.close()

    def _make(
        self,
        wires: WireChoice,
        lost: Callable[[RusbError | None], None] | None = None,
        cookie: Cookie | None = None,
        config: ClientConfig | None = None,
    ) -> Connection:
        found = Connection(
            config or self.config,
            wires.channels,
            on_active=lambda: self._wait_for_usb(found, wires),
            on_lost=lost or (lambda error: self._lost(found, wires, error)),
            on_pressure=lambda is_high: self._on_pressure(found, is_high),
            on_trust=self._on_event,
            cookie=cookie,
            tells_why=self._is_ours,
        )
        return found

    async def _open(
        self,
        connection: Connection,
        wires: WireChoice,
        extension: Extension | None,
        seconds: float,
    ) -> None:
        if extension is not None:
            extension.connection = connection
        try:
            async with asyncio.timeout(seconds):
                await connection.open(
                    lambda stream: wires.connect(connection.rdp, stream.flush)
                )
        except TimeoutError:
            raise ConnectionLost(
                f"{self.config.server} did not finish the connection within"
                f" {seconds:g} s"
            ) from None
        assert connection.stream is not None
        self._catalog.know_peer(connection.stream.peer)

    def _become(self, connection: Connection, wires: WireChoice) -> None:
        """This connection counts from now on."""
        self._connection, self._wires = connection, wires
        self.connections += 1
        self._redial.connected()
        self._pause_or_resume()

    def _let_go(self) -> None:
        """No connection counts from now on; what came over the last one, and is not
        kept, is over."""
        connection, self._connection = self._connection, None
        if self._silence is not None:
            self._silence.cancel()
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if self._redial.ticket is not None:
            self._redial.ticket.suspend()
        if self._wires is not None:
            self._wires.close()
        if connection is not None:
            connection.abort()
        self._is_server_slow = False

    def _lost(
        self, connection: Connection, wires: WireChoice, error: RusbError | None
    ) -> None:
        """A connection is over."""
        if connection is not self._connection or not connection.was_active:
            return  # whoever opened it knows
        self.reason = connection.reason
        is_reset = error and isinstance(error.__cause__, _RESETS)  # as by kill -9
        if (error is None or is_reset) and not self._is_closing:
            error = self._why_ended(connection, wires)
        is_end = self._is_closing or self._over.done() or not self.config.reconnect
        has_nothing = self.connections == 1 and not wires.has_heard
        if is_end or has_nothing or not isinstance(error, ConnectionLost):
            self._finish(error)
            return
        self._let_go()
        self._redial.start(error)

    async def _drop(self, ticket: Ticket | None) -> None:
        """Give back what the server does not keep for us, to offer it anew."""
        if ticket is None:
            self._let_go()
            await self._offers.drop()
        else:
            await self._offers.drop(but=ticket.link)

    def _why_ended(self, connection: Connection, wires: WireChoice) -> RusbError | None:
        """Explain the end of a session; None if the server said goodbye."""
        is_mute = self.config.usb and self.reason is None and not wires.has_heard
        if connection.has_goodbye:
            return self._no_usb("it ended the session at once") if is_mute else None
        if is_mute:  # FreeRDP's server does so when we answer what it never asked
            return ConnectionLost(
                f"{self.config.server} closed the connection without a goodbye, and had"
                " not offered remote USB: it has none, it was killed, or the network in"
                f" between closed the connection. {_NEEDED}"
            )
        return ConnectionLost(
            f"the connection to {self.config.server} was lost: the server was killed,"
            " or the network in between closed it"
        )

    # ------------------------------------------------------ to another server ----

    def _on_move(self, extension: Extension | None, move: rusbext.Move | None) -> None:
        """The machine runs at another host; only a server that we know may say so."""
        assert extension is not None
        if self.certificate is not None:
            self._follow.told(extension, move, self.config)

    async def _resume_at(
        self, config: ClientConfig, may_ask: Callable[[], Awaitable[None]]
    ) -> None:
        ticket = self._redial.ticket
        if ticket is None:
            raise ConnectionLost("there is nothing to go on with")
        await self._resume(ticket, FOLLOW_SECONDS, config=config, may_ask=may_ask)

    def _go_to(self, config: ClientConfig) -> None:
        self.config = config
        self._redial.go_to(config.server)
        self._let_go()

    # ------------------------------------------------------ silence, pressure ----

    def _wait_for_usb(self, connection: Connection, wires: WireChoice) -> None:
        """The server should say something about USB soon, else it has none."""

        def on_silence() -> None:
            if not wires.has_heard:
                seconds = f"{self.config.usb_timeout:g} s"
                why = f"it sent nothing about USB for {seconds}"
                connection.fail(self._no_usb(why))

        if self.config.usb:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(self.config.usb_timeout, on_silence)

    def _no_usb(self, why: str) -> NegotiationError:
        return NegotiationError(
            f"{self.config.server} has no remote USB: {why}. {_NEEDED}"
        )

    def _begun(self, ticket: Ticket, extension: Extension | None) -> None:
        """The server would wait for us."""
        assert self._wires is not None
        assert extension is not None
        self._wires.keep(ticket)
        self._redial.ticket, self._is_ours = ticket, True
        self._watch(ticket, extension)

    def _watch(self, ticket: Ticket, extension: Extension) -> None:
        """Notice when the server falls silent."""
        assert self._connection is not None
        assert self._connection.stream is not None
        self._connection.stream.be_impatient()
        ticket.heard = clock()
        self._pulse = Pulse(
            self._connection.stream,
            ping=extension.ping,
            is_deaf=lambda: self._is_held,
            heard=ticket.was_heard,
            on_silent=self._on_silent,
            on_back=self._redial.heard,
        )

    def _on_network(self) -> None:
        """Addresses, routes or links of this machine have changed."""
        self._redial.hurry()
        if self._pulse is not None:
            self._pulse.doubt()

    def _on_silent(self) -> None:
        """Nothing comes any more: another connection is tried beside this one, and
        whichever speaks first wins."""
        self._redial.start(ConnectionLost(f"{self.config.server} is silent"))

    def _on_pressure(self, connection: Connection, is_high: bool) -> None:
        if connection is self._connection:
            self._is_server_slow = is_high
            self._pause_or_resume()

    @property
    def _is_held(self) -> bool:
        return self._is_server_slow or self._offers.is_full

    def _pause_or_resume(self) -> None:
        """Stop reading requests while the server reads slowly or asks too much."""
        if self._connection is not None and self._connection.stream is not None:
            self._connection.stream.hold(is_held=self._is_held)
