"""A session of a client: its devices at a server, until it ends and says why."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Sequence
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
from rusb.usb.backend import DeviceBackend
from rusb.usb.device import DeviceInfo

from .config import ClientConfig
from .connections import Connections
from .devices import DeviceCatalog, Standing, load_backend
from .dial import user_of
from .events import SecurityLowered, SessionEvent
from .offers import Offers

__all__ = ["ClientSession", "SessionDevice", "connect"]

log = logging.getLogger(__name__)


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
        on_event: gets every event; ``str()`` of one is a line for people. What it
            raises is logged.

    Raises:
        NoPermission, DeviceBusy: none of the devices can be used; it says why.
        RusbError: what :meth:`ClientSession.start` raises.
    """
    config.check()
    on_event = _logging_errors(on_event)
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


def _logging_errors(
    on_event: Callable[[SessionEvent], None],
) -> Callable[[SessionEvent], None]:
    """A program's own mistake leaves no device half open."""

    def tell(event: SessionEvent) -> None:
        try:
            on_event(event)
        except Exception:
            log.exception("on_event failed: %s", event)

    return tell


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
    """

    def __init__(
        self,
        config: ClientConfig,
        catalog: DeviceCatalog,
        *,
        on_event: Callable[[SessionEvent], None] = log.info,
    ) -> None:
        self._catalog = catalog
        self._tasks = TaskSet()
        self._over: asyncio.Future[RusbError | None]
        self._over = asyncio.get_running_loop().create_future()
        self._offers = Offers(
            catalog,
            server=config.server,
            on_event=on_event,
            on_full=lambda: self._connections.pause_or_resume(),
            may_take_more=lambda: self._connections.may_take_more,
        )
        self._connections = Connections(
            config,
            self._offers,
            know_peer=catalog.know_peer,
            on_event=on_event,
            on_over=self._finish,
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
        await self._connections.begin(self.config.timeout)
        self._tasks.start(self._keep_list(), "device list")
        if self.config.reconnect:
            self._connections.watch_network()

    @property
    def config(self) -> ClientConfig:
        """How the server is connected to."""
        return self._connections.config

    @property
    def reason(self) -> int | None:
        """The code that the server gave for the end, if it did."""
        return self._connections.reason

    @property
    def connections(self) -> int:
        """How many there have been so far."""
        return self._connections.count

    @property
    def security(self) -> str:
        """What secures the connection: ``TLS 1.3``, ``RC4, 128 bit`` or little else;
        empty while there is none."""
        current = self._connections.current
        return "" if current is None else current.security

    @property
    def is_connected(self) -> bool:
        """Is there a connection that works? False while the session tries to come
        back."""
        return self._connections.is_connected

    @property
    def peer(self) -> str:
        """The address of the server; empty if there is no connection."""
        current = self._connections.current
        stream = current.stream if current is not None else None
        return "" if stream is None else stream.peer

    @property
    def certificate(self) -> bytes | None:
        """What the server showed and we have checked, DER; None without TLS."""
        current = self._connections.current
        return current.certificate if current is not None else None

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
        """Say goodbye, close every device and give it back. Idempotent.

        Cancelled, it says no goodbye and waits for nobody; the rest is done.
        """
        async with contextlib.AsyncExitStack() as rest:
            rest.push_async_callback(self._tasks.aclose)
            rest.push_async_callback(self._offers.aclose)
            rest.callback(self._finish, None)
            await self._connections.aclose()

    def _finish(self, error: RusbError | None) -> None:
        """The session is over. Idempotent."""
        self._connections.end()
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
            self._connections.fail(lost)
