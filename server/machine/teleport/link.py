"""The connection between two hosts: first lines, TLS, messages, signs of life."""

import asyncio
import contextlib
import hashlib
import hmac
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from rusb.aio.tasks import TaskSet
from rusb.errors import ConnectionLost, ControlError, RemoteProtocolError, RusbError
from rusb.oserrors import reason
from rusb.usb.text import clean_text

from .core import GREETING, MAX_GREETING, TeleportCore, check_greeting
from .messages import (
    MAX_REASON,
    MAX_REFUSED,
    Alive,
    Answer,
    Client,
    Display,
    Failed,
    Message,
    NotTaken,
    Take,
    Taken,
)

__all__ = ["Link", "PeerFailed", "accept", "dial", "proof"]

GREETING_TIMEOUT: Final = 10.0
"""Seconds for the first lines, and again for the handshake of TLS (2.3)."""

ALIVE_PERIOD: Final = 2.0
SILENCE: Final = 10.0
"""Seconds after which we say something, and after which a silent peer is lost (4.3)."""

ANSWER_TIMEOUT: Final = 60.0
"""Seconds for an answer of a peer that is alive (4.3)."""

INBOX: Final = 16
"""Messages that wait for whoever takes them; then nothing is read any more."""

PIECE: Final = 256 << 10
"""Bytes that are read at once, and that one DATA has at most."""

M = TypeVar("M", bound=Message)


class PeerFailed(ControlError):
    """The other host said FAILED; *refused* names what differs."""

    def __init__(self, message: str, refused: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.refused = refused


def proof(key: bytes, who: str, nonces: tuple[bytes, bytes], shown: bytes) -> bytes:
    """Return what only somebody with the password can say over this connection (3.2).

    Args:
        key: made of the password.
        who: ``source`` or ``target``.
        nonces: of the target, of the source.
        shown: the target's certificate, DER.
    """
    said = who.encode() + b"".join(nonces) + hashlib.sha256(shown).digest()
    return hmac.digest(key, said, "sha256")


async def dial(host: str, port: int) -> tuple["Link", bytes]:
    """Connect to a target; return the link and the certificate that it shows (DER).

    Nothing is trusted yet: the caller compares the certificate with a pin.

    Raises:
        ConnectionLost: nobody is there.
        RemoteProtocolError: somebody is, who does not speak this.
    """
    place = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(GREETING_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            sock = await _connect(found)
    except TimeoutError:
        raise ConnectionLost(f"{place} does not answer") from None
    except (OSError, UnicodeError) as error:
        raise ConnectionLost(f"cannot connect to {place}: {reason(error)}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(GREETING_TIMEOUT):
            check_greeting(await _read_line(sock))
            await loop.sock_sendall(sock, GREETING)
        reader, writer = await asyncio.open_connection(
            sock=sock,
            ssl=context,
            server_hostname="",
            ssl_handshake_timeout=GREETING_TIMEOUT,
        )
    except RemoteProtocolError as error:
        sock.close()
        raise RemoteProtocolError(f"{place}: {error}") from None
    except TimeoutError:
        sock.close()
        raise RemoteProtocolError(
            f"{place} accepts connections but says nothing: it is not a port on which"
            " rusb waits for a machine"
        ) from None
    except OSError as error:  # ssl.SSLError is one
        sock.close()
        raise ConnectionLost(f"{place} hung up: {reason(error)}") from error
    except BaseException:
        sock.close()
        raise
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True) or b""
    return Link(reader, writer, place, is_source=True), shown


async def _connect(
    found: Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]],
) -> socket.socket:
    """Connect to the first address that takes it.

    Raises:
        OSError: none does.
    """
    problem: OSError | None = None
    for family, kind, protocol, _, where in found:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, where)
            return sock
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
    assert problem is not None
    raise problem


async def accept(sock: socket.socket, peer: str, context: ssl.SSLContext) -> "Link":
    """Serve a connection that a source has made; it is closed if that fails.

    Raises:
        RemoteProtocolError: it does not speak this.
        ConnectionLost: it went.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(GREETING_TIMEOUT):
            await loop.sock_sendall(sock, GREETING)
            check_greeting(await _read_line(sock))
        reader = asyncio.StreamReader(limit=PIECE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=context,
            ssl_handshake_timeout=GREETING_TIMEOUT,
        )
    except RemoteProtocolError:
        sock.close()
        raise
    except (OSError, TimeoutError) as error:
        sock.close()
        why = reason(error) if isinstance(error, OSError) and error.errno else error
        raise ConnectionLost(f"{peer} went: {why}") from error
    except BaseException:
        sock.close()
        raise
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    return Link(reader, writer, peer, is_source=False)


async def _read_line(sock: socket.socket) -> bytes:
    """Read a line and not a byte more: what follows is TLS."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_GREETING:
        piece = await asyncio.get_running_loop().sock_recv(sock, 1)
        if not piece:
            break
        line += piece
    return line


class Link:
    """An open connection. Use as an async context manager.

    Args:
        reader, writer: of the connection.
        peer: what it is called in messages.
        is_source: which end this is.

    Attributes:
        core: where the connection is.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: str,
        *,
        is_source: bool,
    ) -> None:
        self.core = TeleportCore(is_source=is_source)
        self.peer = peer
        self._reader, self._writer = reader, writer
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(INBOX)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks = TaskSet()
        self._is_silent = True
        self._handovers: asyncio.Queue[Message] = asyncio.Queue(INBOX)
        self._display: asyncio.Future[Display]
        self._display = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> "Link":
        self._tasks.start(self._read(), "teleport: read")
        self._tasks.start(self._keep_alive(), "teleport: signs of life")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        if not self._over.done():
            self._over.set_result(None)
        try:
            await self._tasks.aclose()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):  # for the last words
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()
            await asyncio.sleep(0)  # it is closed in the next turn of the loop

    @property
    def failure(self) -> RusbError | None:
        """Why the connection is over; None: it is not."""
        error = self._over.exception() if self._over.done() else None
        assert error is None or isinstance(error, RusbError)
        return error

    async def send(self, message: Message) -> None:
        """Say something; return when there is room for more.

        Raises:
            ConnectionLost, RemoteProtocolError, PeerFailed: the connection is over.
        """
        self._check()
        self._put(message)
        try:
            await self._writer.drain()
        except OSError:
            self._end(self._lost("the connection was closed"))
        self._check()

    def say(self, message: Message) -> None:
        """Say something short, even if there is no room; nothing once it is over."""
        if not self._over.done():
            with contextlib.suppress(RusbError):
                self._put(message)

    async def fail(self, why: str, refused: tuple[str, ...] = ()) -> None:
        """Say that it is over, if the other end still listens."""
        with contextlib.suppress(RusbError, TimeoutError):
            async with asyncio.timeout(ALIVE_PERIOD):
                await self.send(Failed(why[:MAX_REASON], refused[:MAX_REFUSED]))

    async def receive(self, kind: type[M], seconds: float = ANSWER_TIMEOUT) -> M:
        """Wait for a message of a kind; the core lets no other come.

        Raises:
            ConnectionLost: the connection is over, or it takes too long.
            PeerFailed: the other end gave up.
            RemoteProtocolError: it said what it must not.
        """
        message = await self.receive_any(seconds)
        assert isinstance(message, kind)
        return message

    async def receive_any(self, seconds: float | None = None) -> Message:
        """Wait for the next message; raises as :meth:`receive` does."""
        return await self._next_of(self._inbox, seconds)

    async def receive_handover(self, seconds: float | None = None) -> Message:
        """Wait for the next message about a client that changes over; likewise."""
        return await self._next_of(self._handovers, seconds)

    async def _next_of(
        self, queue: asyncio.Queue[Message], seconds: float | None
    ) -> Message:
        taken = asyncio.ensure_future(queue.get())
        try:
            first: set[asyncio.Future[Any]] = {taken, self._over}
            await asyncio.wait(
                first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if taken.done():
                return taken.result()
            self._check()
            raise self._lost(f"no answer within {seconds:g} s")
        finally:
            taken.cancel()

    async def wait_over(self) -> None:
        """Wait until the connection is over, and raise why."""
        await asyncio.shield(self._over)

    async def wait_display(self) -> Display:
        """Wait until the target says where it serves the machine's display."""
        return await asyncio.shield(self._display)

    # ------------------------------------------------------------- our own ----

    def _check(self) -> None:
        if self._over.done():
            self._over.result()
            raise self._lost("it is closed")

    def _lost(self, why: str) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self.peer} was lost: {why}")

    def _put(self, message: Message) -> None:
        self.core.send(message)
        self._is_silent = False
        self._writer.write(self.core.outputs())

    async def _keep_alive(self) -> None:
        while True:
            self._is_silent = True
            await asyncio.sleep(ALIVE_PERIOD)
            if self._is_silent:
                self.say(Alive())

    async def _read(self) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(SILENCE):
                        data = await self._reader.read(PIECE)
                except TimeoutError:
                    raise self._lost(f"it was silent for {SILENCE:g} s") from None
                if not data:
                    raise self._lost("the other host closed it")
                self.core.receive_data(data)
                for message in self.core.events():
                    await self._take(message)
        except RusbError as error:
            self._end(error)
        except OSError as error:
            self._end(self._lost(reason(error)))

    async def _take(self, message: Message) -> None:
        match message:
            case Alive():
                pass
            case Failed(why, refused):
                lines = tuple(clean_text(line) for line in refused)
                raise PeerFailed(clean_text(why), lines)
            case Display():
                if not self._display.done():
                    self._display.set_result(message)
            case NotTaken(why):
                await self._handovers.put(NotTaken(clean_text(why)))
            case Answer(why):
                await self._inbox.put(Answer(clean_text(why)))
            case Take() | Client() | Taken():
                await self._handovers.put(message)
            case _:
                await self._inbox.put(message)

    def _end(self, error: RusbError) -> None:
        """It is over; who waits for room is let go, too."""
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # perhaps nobody asks
        if not isinstance(error, PeerFailed):
            self._writer.transport.abort()
