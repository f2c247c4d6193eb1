"""Pump one socket through one RDP core: TLS upgrade, back-pressure, few writes."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Protocol, cast

from rusb.errors import (
    CertificateError,
    ConnectionLost,
    HandshakeError,
    Hint,
    NegotiationError,
    RusbError,
)
from rusb.oserrors import reason
from rusb.rdp.channels import ChannelHandler
from rusb.rdp.events import ChannelData, Event, TlsRequested

from .below_tls import BelowTls, Handshake
from .turns import Turns

__all__ = ["RdpCore", "RdpStream", "TlsUpgrade", "set_up_socket"]

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 30.0
"""Seconds that a TLS handshake may take."""

_RENEW = "; it has to be renewed at the server, or a clock is wrong"
_OTHER_NAME = "; connect with a name that is in the certificate"

_WHAT_TO_DO = {9: _RENEW, 10: _RENEW, 62: _OTHER_NAME, 64: _OTHER_NAME}
"""By OpenSSL's codes, where another authority would not help."""

CLOSE_TIMEOUT = 2.0
"""Seconds that a peer gets to read what is left when we close; and those that we get to
handle what it has typed, when it does."""

WRITE_HIGH = 4 << 20
"""Bytes waiting to be sent above which whoever feeds us is told to stop, many 64 KiB
URBs, yet little beside what a device may have in flight."""

ROOM, MARK = 64 << 10, 16 << 10
"""Bytes that a transport takes at once, if no more than so many wait in it. Whatever is
in there goes before a key; and a network of 1 Gbit/s needs half a millisecond for it,
in which we bring more."""

TURN = 64
"""Packets, or runs of them, of one connection that are handled in a turn of the loop: a
millisecond of small transfers. Then the others have their turn, whose keys wait."""

PRICE = 50e-6
"""Seconds that a connection has to wait for each packet beyond its turn, one connection
after another: a packet may have hundreds of keys or movements, of which each counts as
one. That is ten times what one of them takes; nobody types or points that fast."""

TURN_BYTES = 256 << 10
"""Bytes that it writes in a turn. An event loop reads as many at once."""

FULL_READ = 224 << 10
"""More bytes than these come with a read that is full (256 KiB, less what TLS adds and
a record that is not whole). The loop would read again at once, and so up to 32 times:
that ends the turn, too."""

UNSENT = 16 << 10
"""Bytes that the kernel takes beyond those that are under way. More gain nothing, at
none of 20 Mbit/s to 1 Gbit/s (docs/performance.md), and go before a key, too."""

_OPTIONS = (
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 2),
    # no probe is sent while data is unacknowledged, as our own keepalive soon is; a
    # viewer that is stopped for a while looks the same to the kernel
    ("TCP_USER_TIMEOUT", 30_000),
    ("TCP_NOTSENT_LOWAT", UNSENT),
)
"""Seconds, seconds, probes, milliseconds, bytes: who vanished is noticed in 30 s."""

IMPATIENCE = 10_000
"""Milliseconds in place of 30000, where another connection takes over."""

MAX_WAITING = 128 << 20
"""Bytes waiting to be sent above which the peer is dropped: it makes us answer and
reads nothing. Twice what a client lets be in flight."""


class RdpCore(Protocol):
    """What the two RDP cores have in common."""

    room: float  # bytes of messages that may leave
    turn: float  # packets that may be handled; below 0: how many were beyond that
    has_more: bool  # packets were not
    is_active: bool  # the session has begun
    bytes_received: int

    @property
    def bytes_waiting(self) -> int: ...
    def start(self) -> None: ...
    def receive_data(self, data: bytes) -> None: ...
    def events(self) -> list[Event]: ...
    def data_to_send(self) -> list[bytes]: ...
    def tls_started(self) -> None: ...


def _ignore(_: object) -> None:
    """Take what nobody wants any more."""


class TlsUpgrade:
    """How to do TLS when the core asks for it.

    Attributes:
        context: the TLS context.
        server_hostname: the name to verify; None on the server.
        check: called with the peer's DER certificate on the client; it raises
            CertificateError to refuse it.
        issuer: who issued the server's own certificate, for its log.
        fingerprint: of the server's own certificate.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
        check: Callable[[bytes], None] | None = None,
        *,
        issuer: str = "",
        fingerprint: str = "",
    ) -> None:
        self.context = context
        self.server_hostname = server_hostname
        self.check = check
        self.issuer = issuer
        self.fingerprint = fingerprint


def set_up_socket(transport: asyncio.BaseTransport) -> None:
    """Let the kernel notice a peer that vanished, within 30 s, and keep little."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _OPTIONS:
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class RdpStream(asyncio.Protocol):
    """One connection: a transport and an RDP core.

    Args:
        core: the RDP core; nobody else feeds it.
        on_event: called for each event but :class:`TlsRequested`, and messages of
            *channels*.
        on_lost: called once when the connection is over, with why; None for an
            orderly end.
        channels: who serves which channel, by now; they get its messages.
        on_connected: called when the transport is there, before anything else.
        on_secured: called with the version of TLS once TLS is up.
        on_pressure: called with True when the peer reads too slowly, then False.
        tls: what to do when the core asks for TLS; None: it will not.
        high: bytes waiting to be sent that are pressure, until three quarters are gone.
        max_waiting: bytes waiting to be sent above which the peer is dropped.
        turns: shared with others, of which one goes on in a turn of the loop, and does
            each step until its session begins; None: it is the only one.
    """

    def __init__(
        self,
        core: RdpCore,
        *,
        on_event: Callable[[Event], None],
        on_lost: Callable[[RusbError | None], None],
        channels: Mapping[int, ChannelHandler] = MappingProxyType({}),
        on_connected: Callable[[], None] = lambda: None,
        on_secured: Callable[[str], None] = lambda version: None,
        on_pressure: Callable[[bool], None] = lambda is_high: None,
        tls: TlsUpgrade | None,
        high: int = WRITE_HIGH,
        max_waiting: int = MAX_WAITING,
        turns: Turns | None = None,
    ) -> None:
        self.core = core
        self._turns = turns or Turns()
        self._is_new = turns is not None  # nobody has logged on yet
        self._high = high
        self._max_waiting = max_waiting
        self.tls = tls
        self.transport: asyncio.Transport | None = None
        self.bytes_sent = 0
        self._on_event = on_event
        self._channels = channels
        self._on_lost = on_lost
        self._on_connected = on_connected
        self._on_secured = on_secured
        self._on_pressure = on_pressure
        self._error: RusbError | None = None
        self._is_over = False
        self._is_receiving = False
        self._is_flush_due = False
        self._upgrade: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._plain: asyncio.Transport | None = None  # below the one of TLS
        self._is_high = self._is_full = self._is_full_below = False
        self._room = ROOM  # 0 while one of these two is full
        self._is_held = self._had_turn = self._is_paused = False
        self._closing: asyncio.TimerHandle | None = None
        self._late = 0.0  # when what has come is no longer handled
        self._loop: asyncio.AbstractEventLoop

    @property
    def bytes_received(self) -> int:
        """What has come from the peer."""
        return self.core.bytes_received

    @property
    def bytes_waiting(self) -> int:
        """What waits to be sent: here, and what the peer's window has not let out.

        What TLS has encrypted waits in the transport below it, and counts too.
        """
        if self.transport is None or self._is_over:
            return 0
        return self.core.bytes_waiting + self._bytes_in_transport

    @property
    def bytes_taken(self) -> int:
        """What of ``bytes_sent`` the peer's window has let out."""
        return self.bytes_sent - self._bytes_in_transport

    @property
    def _bytes_in_transport(self) -> int:
        waiting = self.transport.get_write_buffer_size() if self.transport else 0
        if self._plain is not None:
            waiting += self._plain.get_write_buffer_size()
        return waiting

    @property
    def is_tls(self) -> bool:
        """Does TLS secure it now?"""
        found = self.transport and self.transport.get_extra_info("ssl_object")
        return found is not None

    @property
    def peer(self) -> str:
        """Address of the other end; empty before and after."""
        found = self.transport and self.transport.get_extra_info("peername")
        return str(found[0]) if found else ""

    # ------------------------------------------- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the client's core speaks first."""
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()  # to ask takes a system call
        self.transport.set_write_buffer_limits(high=MARK, low=MARK)
        set_up_socket(transport)
        self.core.room = ROOM
        self._on_connected()
        self.core.start()
        self._write()

    def data_received(self, data: bytes) -> None:
        """Feed the core, hand out its events, write what they led to."""
        if self._upgrade is not None:  # TLS is up, our task does not know it yet
            self._early.append(data)
        elif self._is_new:
            self._early.append(data)
            self._rest()
        elif not self._is_over:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        core = self.core
        core.turn = TURN
        self._is_receiving = True
        try:
            try:
                core.receive_data(data)
            finally:
                self._hand_out()  # also what came before an error
        except RusbError as error:
            self._write(is_all=True)  # a refusal that the peer is to read
            self.fail(error)
            return
        except Exception as error:  # noqa: BLE001 - the top of this connection
            log.exception("bug while handling a peer's message")
            self.fail(ConnectionLost(f"internal error: {error!r}"))
            return
        finally:
            self._is_receiving = False
        self._write()
        if self._is_new:
            self._is_new = not core.is_active
        if core.has_more or core.turn <= 0 or len(data) > FULL_READ:
            self._rest()

    def _rest(self) -> None:
        """Read nothing until it is our turn again."""
        if not self._had_turn:
            self._had_turn = True
            self._pause_or_read()
            if self.transport is not None and not self.transport.is_closing():
                self._wait_for_turn(self._next_turn)

    def _take_early(self) -> bytes:
        early, self._early = self._early, []
        return b"".join(early)

    def _wait_for_turn(self, turn: Callable[[], None]) -> None:
        """Have *turn* called when it is ours again."""
        self._turns.wait(turn, max(-self.core.turn, 0) * PRICE)

    def eof_received(self) -> bool:
        """The peer closed: so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once: when all that came before is handled, in turns.

        What a peer typed without end is not, when it takes too long.
        """
        now = self._loop.time()
        self._late = self._late or now + CLOSE_TIMEOUT
        is_late = self.core.turn < 0 and now > self._late
        is_right = not (self._is_over or self._error or is_late)
        if (self.core.has_more or self._early) and is_right:
            self._receive(self._take_early())
            self._wait_for_turn(partial(self.connection_lost, exc))
            return
        if exc is not None and self._error is None:
            why = reason(exc) if isinstance(exc, OSError) and exc.errno else exc
            self._error = ConnectionLost(f"the connection broke: {why}")
            self._error.__cause__ = exc
        self._end()

    def pause_writing(self) -> None:
        """The transport is full, be it one of TLS or the only one."""
        self._is_full = True
        self._room = 0

    def resume_writing(self) -> None:
        """It has room again."""
        self._is_full = False
        self._go_on()

    def _below_has_room(self, has_room: bool) -> None:
        """The same of the transport below the one of TLS."""
        self._is_full_below = not has_room
        if has_room:
            self._go_on()
        else:
            self._room = 0

    # ------------------------------------------------- called by the owner ----

    def flush(self) -> None:
        """Send what the core has to send, with whatever else this turn brings."""
        if not (self._is_receiving or self._is_flush_due or self._is_over):
            self._is_flush_due = True
            self._loop.call_soon(self._write)

    def hold(self, *, is_held: bool) -> None:
        """Read nothing more from the peer, or go on."""
        self._is_held = is_held
        self._pause_or_read()

    def be_impatient(self) -> None:
        """Let the kernel give the connection up soon: another one will follow."""
        sock = None
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, IMPATIENCE)

    def send_now(self) -> None:
        """Send all that the core has to send: the connection is about to end."""
        self._write(is_all=True)

    def fail(self, error: RusbError) -> None:
        """End the connection because of *error*."""
        if self._error is None:
            self._error = error
        self.close()

    def close(self) -> None:
        """Send what is left and close; ``on_lost`` follows. Idempotent."""
        if self._is_over or self.transport is None:
            return
        self._write(is_all=True)
        self.transport.close()
        if self._closing is None:
            # a peer that does not read must not keep us
            self._closing = self._loop.call_later(CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        """Close at once. Idempotent."""
        if self.transport is not None and not self._is_over:
            self.transport.abort()

    # ------------------------------------------------------------ our own ----

    def _hand_out(self) -> None:
        serving = self._channels.get
        last: ChannelHandler | None = None
        try:
            for event in self.core.events():
                if isinstance(event, ChannelData):
                    handler = serving(event.channel)
                    if handler is not None:
                        if handler is not last:
                            if last is not None:
                                last.finished()
                            last = handler
                        handler.received(event.channel, event.data)
                        continue
                if last is not None:
                    last.finished()
                    last = None
                if isinstance(event, TlsRequested):
                    self._start_tls()
                else:
                    self._on_event(event)
        finally:
            if last is not None:
                last.finished()

    def _next_turn(self) -> None:
        self._had_turn = False
        if self.transport is None or self.transport.is_closing():
            return
        if self.core.has_more or self._early:
            self._receive(self._take_early())
        self._pause_or_read()

    def _pause_or_read(self) -> None:
        want, transport = self._is_held or self._had_turn, self.transport
        if want == self._is_paused or transport is None or transport.is_closing():
            return
        if self._upgrade is not None:  # what comes next is for TLS alone
            return
        self._is_paused = want
        (transport.pause_reading if want else transport.resume_reading)()

    def _go_on(self) -> None:
        is_full = self._is_full or self._is_full_below
        self._room = self.core.room = 0 if is_full else ROOM
        self._write()

    def _write(self, *, is_all: bool = False) -> None:
        """Send what there is room for in this turn, or all of it."""
        self._is_flush_due = False
        transport, core = self.transport, self.core
        if transport is None:
            return
        left = TURN_BYTES
        if is_all:
            core.room = inf
        while pieces := core.data_to_send():
            data = b"".join(pieces)
            size = len(data)
            self.bytes_sent += size
            transport.write(data)
            left -= size
            core.room = self._room
            waiting = core.bytes_waiting
            if left <= 0 or not waiting:
                break
        else:
            waiting = core.bytes_waiting
        if waiting:
            if core.room > 0:
                self.flush()
            self._look()
        elif self._is_high or not self._room:
            self._look()

    def _look(self) -> None:
        """Compare what waits with the marks."""
        waiting = self.bytes_waiting
        if waiting > self._max_waiting:
            if self._error is None:
                self._error = ConnectionLost(f"{waiting} bytes wait to be read")
            self.abort()
            return
        is_high = waiting > (self._high >> 2 if self._is_high else self._high)
        if is_high != self._is_high:
            self._is_high = is_high
            self._on_pressure(is_high)

    def _start_tls(self) -> None:
        assert self.transport is not None
        self.transport.pause_reading()  # what comes next is for TLS alone
        self._write()
        self._upgrade = self._loop.create_task(self._do_upgrade())

    async def _do_upgrade(self) -> None:
        try:
            await self._handshake()
            self.core.tls_started()
        except RusbError as error:
            self._give_up(error)
            return
        except Exception as error:
            log.exception("bug while starting TLS")
            self._give_up(ConnectionLost(f"internal error: {error!r}"))
            return
        self._upgrade = None
        self.data_received(self._take_early())

    def _give_up(self, error: RusbError) -> None:
        self._upgrade = None
        self.fail(error)
        self.abort()
        self._end()  # while TLS starts, nobody tells us of the transport's end

    def _take_turns(self, plain: asyncio.Transport) -> None:
        """Let a handshake have its steps in turn."""
        tls = cast(asyncio.BufferedProtocol, plain.get_protocol())
        plain.set_protocol(Handshake(plain, tls, self._turns))

    async def _handshake(self) -> None:
        plain = self.transport
        if self.tls is None or plain is None:
            raise NegotiationError(
                "the peer wants TLS, which is not set up here", "tls"
            )
        # when TLS is there, and before it reads
        self._loop.call_soon(self._take_turns, plain)
        try:
            transport = await self._loop.start_tls(
                plain,
                self,
                self.tls.context,
                server_side=self.tls.server_hostname is None,
                server_hostname=self.tls.server_hostname,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            )
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message.rstrip(".")  # some end in one
            what_to_do = _WHAT_TO_DO.get(error.verify_code, "")
            found = CertificateError(
                f"the server's certificate is not trusted: {why}{what_to_do}"
            )
            if not what_to_do:
                found.hinting(Hint.OTHER_AUTHORITY)
            raise found from error
        except ConnectionResetError as error:
            raise HandshakeError("the peer hung up during the TLS handshake") from error
        except OSError as error:
            said = getattr(error, "reason", None) or ""
            raise HandshakeError(
                f"TLS handshake failed: {reason(error)}", said
            ) from error
        if transport is None or self._is_over or plain.is_closing():
            raise ConnectionLost("the connection ended during the TLS handshake")
        self.transport, self._plain = transport, plain
        transport.set_write_buffer_limits(high=MARK, low=MARK)
        handshake = cast(Handshake, plain.get_protocol())
        plain.set_protocol(BelowTls(handshake.tls, self._below_has_room))
        self._is_full = self._is_paused = False  # the other one was
        self._room = self.core.room = ROOM
        connection = transport.get_extra_info("ssl_object")
        self._on_secured(connection.version())
        if self.tls.check is not None:
            self.tls.check(connection.getpeercert(binary_form=True))

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            if self._closing is not None:
                self._closing.cancel()
            on_lost = self._on_lost
            # what was never sent, and half a message, would wait in circles for the
            # garbage collector
            self.transport = self._plain = None
            self._on_event = self._on_lost = self._on_secured = _ignore
            self._channels = {}
            self._on_pressure, self._on_connected = _ignore, lambda: None
            if self._is_new:  # hundreds may end together: one in a turn of the loop
                self._turns.wait(partial(on_lost, self._error))
            else:
                on_lost(self._error)
