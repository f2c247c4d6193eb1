"""A way to a server on loopback that lets nobody lower the security of a viewer."""

import asyncio
import contextlib
from typing import Self

from rusb.aio.tasks import TaskSet
from rusb.errors import ParseError
from rusb.rdp.x224 import ConnectionConfirm, Protocol

__all__ = ["LOOPBACK", "Doorman"]

LOOPBACK = "127.0.0.1"

MAX_CONNECTIONS = 4
"""At once: rdesktop has a second one for a moment, where it tries network level
authentication first."""

MAX_CONFIRM = 512
"""Bytes of the server's answer; it has 11 or 19."""

HANDSHAKE_SECONDS = 30.0

_PIECE = 64 << 10

_BY_TLS = (Protocol.TLS, Protocol.CREDSSP)
"""Both begin with the server's certificate."""


class Doorman:
    """Listens on a port of loopback, and passes on what is said to one server.

    A viewer that is to use TLS could be talked out of it: rdesktop then goes on with
    RC4, whose key anybody may hand to it. So the server's answer is read first. All
    else, TLS included, is between the viewer and the server. And no certificate that an
    authority signed, or that the viewer's user once accepted, is for this address and
    port, so that it knows no other than the one that it is given.

    Args:
        host, port: of the server, as the client reached it.
        needs_tls: let nothing else pass.

    Attributes:
        port: where it listens, once it is started.
        refusals: times that the server did not want TLS.
    """

    def __init__(self, host: str, port: int, *, needs_tls: bool) -> None:
        self._server = host, port
        self._needs_tls = needs_tls
        self._listener: asyncio.Server | None = None
        self._tasks = TaskSet()
        self._open = 0
        self.port = 0
        self.refusals = 0

    async def __aenter__(self) -> Self:
        """Start to listen."""
        self._listener = await asyncio.start_server(self._came, LOOPBACK, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is open."""
        assert self._listener is not None
        self._listener.close()
        await self._tasks.aclose()

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        self._tasks.start(self._serve(reader, writer), "viewer's connection")

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(OSError, EOFError, TimeoutError, ParseError):
                await self._join(reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            from_server, to_server = await asyncio.open_connection(*self._server)
        try:
            upwards = self._tasks.start(_pump(reader, to_server), "viewer to server")
            try:
                if self._needs_tls:
                    async with asyncio.timeout(HANDSHAKE_SECONDS):
                        writer.write(await self._confirm(from_server))
                await _pump(from_server, writer)
            finally:
                upwards.cancel()
        finally:
            to_server.transport.abort()

    async def _confirm(self, reader: asyncio.StreamReader) -> bytes:
        """Read the server's answer.

        Raises:
            ParseError: it is none, or it is not TLS that it chose.
        """
        head = await reader.readexactly(4)
        size = int.from_bytes(head[2:])
        if head[0] != 3 or not 11 <= size <= MAX_CONFIRM:
            raise ParseError(f"not a connection confirm: {head.hex()}")
        body = await reader.readexactly(size - 4)
        confirm = ConnectionConfirm.parse(body)
        if confirm.failure is None and confirm.selected not in _BY_TLS:
            self.refusals += 1
            raise ParseError(f"the server chose protocol {confirm.selected}, not TLS")
        return head + body


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until the end of either."""
    with contextlib.suppress(OSError):
        while (data := await reader.read(_PIECE)) and not writer.is_closing():
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()
