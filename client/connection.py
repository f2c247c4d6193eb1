"""One connection to a server: dialled, logged on, active, over."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

from rusb.aio.stream import RdpStream
from rusb.errors import (
    AuthenticationError,
    ConnectionLost,
    Hint,
    NegotiationError,
    RemoteProtocolError,
    RusbError,
    ServerBusy,
)
from rusb.rdp import events as rdp
from rusb.rdp.channels import ChannelRegistry
from rusb.rdp.client import ClientConnection
from rusb.rdp.cookie import Cookie
from rusb.rdp.error_info import DENIALS, SLOT_IS_TAKEN, explain

from .config import ClientConfig
from .dial import dial, rdp_settings
from .events import CertificateTrusted

__all__ = ["Connection"]

log = logging.getLogger(__name__)

_OF_THE_SERVER = (ConnectionLost, NegotiationError, RemoteProtocolError)
"""Errors that say what a server did."""

GOODBYE = 1.0
"""Seconds that a server has to close the connection after our goodbye."""


class Connection:
    """A connection that serves channels.

    Args:
        config: which server to connect to.
        channels: who serves which channel.
        on_active: called once it may be used.
        on_lost: called once it is over, after it was active, with why; None: in order.
        on_pressure: called with True when the server reads too slowly, then False.
        on_trust: called when a certificate is trusted for the first time.
        cookie: of the connection that this one is to replace.
        tells_why: the server is known to say why it refuses a logon; if it closes
            without a word, it was cut off.

    Attributes:
        rdp: its core.
        stream: its bytes; None until it is dialled.
        reason: the code that the server gave for the end, if it did.
        was_active: it could be used.
        has_goodbye: the server ended it in order.
        is_over: it is.
    """

    def __init__(
        self,
        config: ClientConfig,
        channels: ChannelRegistry,
        *,
        on_active: Callable[[], None] = lambda: None,
        on_lost: Callable[[RusbError | None], None],
        on_pressure: Callable[[bool], None] = lambda is_high: None,
        on_trust: Callable[[CertificateTrusted], None],
        cookie: Cookie | None = None,
        tells_why: bool = False,
    ) -> None:
        self.rdp = ClientConnection(
            rdp_settings(config, channels, cookie), random_bytes=secrets.token_bytes
        )
        self.stream: RdpStream | None = None
        self.reason: int | None = None
        self.sent_to = ""
        self.has_goodbye = self.was_active = self.is_over = False
        self._tells_why = tells_why
        self._config = config
        self._channels = channels
        self._on_active = on_active
        self._on_lost = on_lost
        self._on_pressure = on_pressure
        self._on_trust = on_trust
        loop = asyncio.get_running_loop()
        self._active: asyncio.Future[None] = loop.create_future()
        self._over = asyncio.Event()

    async def open(self, dialled: Callable[[RdpStream], None]) -> None:
        """Connect and return once the connection is active.

        Args:
            dialled: called with the stream, before any channel opens.

        Raises:
            RusbError: see :meth:`~rusb.client.session.ClientSession.start`.
        """
        self.stream = await dial(
            self._config,
            self.rdp,
            on_event=self._handle,
            channels=self._channels.open,
            on_lost=self._lost,
            on_pressure=self._on_pressure,
            on_trust=self._on_trust,
        )
        dialled(self.stream)
        await self._active

    @property
    def stage(self) -> str:
        """What the server last did, or not, before it was active."""
        if self.stream is None:
            return "nothing answers at that port"
        if not self.stream.bytes_received:
            return "it accepted the connection and then said nothing"
        if self.rdp.is_admitted:
            return "it accepted the logon and did not begin the session"
        if self.rdp.is_logged_on:
            return "it did not answer the logon"
        if self._config.security[0] == "tls" and self.certificate is None:
            return "it did not finish the start of TLS"
        return "it stopped answering before the logon"

    @property
    def certificate(self) -> bytes | None:
        """What the server showed and we have checked, DER; None without TLS."""
        transport = None if self.stream is None else self.stream.transport
        found = transport and transport.get_extra_info("ssl_object")
        return found.getpeercert(binary_form=True) if found else None

    @property
    def security(self) -> str:
        """What secures it: ``TLS 1.3``, ``RC4, 128 bit`` or little else."""
        transport = None if self.stream is None else self.stream.transport
        found = transport and transport.get_extra_info("ssl_object")
        if not found:
            return self.rdp.encryption
        name: str = found.version().replace("TLSv", "TLS ")
        return name if "." in name else f"{name}.0"

    def flush(self) -> None:
        """Send what the core has to send."""
        if self.stream is not None:
            self.stream.flush()

    def fail(self, error: RusbError) -> None:
        """End it because of *error*."""
        if self.stream is not None:
            self.stream.fail(error)

    def abort(self) -> None:
        """End it at once, without a word. Idempotent."""
        if self.stream is not None:
            self.stream.abort()

    async def aclose(self) -> None:
        """Say goodbye and wait for the end. Idempotent."""
        stream = self.stream
        if stream is None:
            return
        try:
            if not self.is_over:
                self.rdp.disconnect()
                # who closes with something unread resets the connection, and the server
                # may never read the goodbye: it is to close first
                stream.send_now()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE):
                        await self._over.wait()
            stream.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await self._over.wait()
        finally:
            stream.abort()  # nothing, if it is over

    def _handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.ChannelData():
                pass  # nobody serves the channel, or not any more
            case rdp.ChannelOpened() | rdp.ChannelClosed() | rdp.ChannelRefused():
                self._channels.handle(event, self.rdp.close_channel)
            case rdp.Activated():
                if not self._active.done():
                    self.was_active = True
                    self._on_active()
                    self._active.set_result(None)
            case rdp.Redirected() if self.certificate is not None:
                self.sent_to = event.host  # without TLS anybody could say so
            case rdp.Disconnected():
                self.has_goodbye = True
                self.reason = event.reason
                if self.stream is not None:
                    self.stream.close()
            case _:
                log.debug("= %s", event)

    def _lost(self, error: RusbError | None) -> None:
        self.is_over = True
        if not self._active.done():
            self._active.set_exception(self._naming_it(self._why_refused(error)))
            self._active.exception()  # nobody may be waiting any more
        self._over.set()
        self._on_lost(None if error is None else self._naming_it(error))

    def _naming_it(self, error: RusbError) -> RusbError:
        """Have an error name the server: cores and streams do not know who it is."""
        server = self._config.server
        if isinstance(error, _OF_THE_SERVER) and server not in str(error):
            what = " broke the protocol" if type(error) is RemoteProtocolError else ""
            error.subject = f"{server}{what}"
        return error

    def _why_refused(self, error: RusbError | None) -> RusbError:
        """Explain an end before the session began (vrdp-server.md 3.7)."""
        if error is not None and not isinstance(error, ConnectionLost):
            return error
        server, reason = self._config.server, self.rdp.reason
        if not self.rdp.is_logged_on:
            return error or ConnectionLost(
                f"{server} closed the connection before the logon; is it an RDP server"
                " that allows TLS?"
            )
        if reason == SLOT_IS_TAKEN:
            return ServerBusy(
                f"{server} already has as many clients as it accepts; try again when"
                " one has left"
            ).hinting(Hint.ALLOW_SEVERAL_CLIENTS)
        wrong = "the user name or password is wrong"
        if self._config.user and not self._config.password:
            wrong += " (no password was given)"
        if reason in DENIALS:
            return AuthenticationError(
                f"{server} refused the logon: {wrong}, or the screen does not exist."
                " The machine's VBox.log says which"
            )
        if reason:
            return ConnectionLost(f"{server} ended the connection: {explain(reason)}")
        if self.rdp.is_admitted:
            return error or ConnectionLost(
                f"the connection to {server} was lost after the logon, before the"
                " session began; see the machine's VBox.log"
            )
        if error is not None or self._tells_why:  # who refuses closes in order
            why = error or "it was closed without a word"
            return ConnectionLost(
                f"the connection to {server} broke during the logon: {why}"
            )
        return AuthenticationError(
            f"{server} closed the connection right after the logon and gave no reason:"
            f" {wrong}, the screen does not exist, the server only serves one client"
            " and another is connected, or it was killed at that moment. The machine's"
            " VBox.log says which"
        )
