"""The way of a viewer to its server: nobody talks it out of TLS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from rusb.client.doorman import LOOPBACK, MAX_CONNECTIONS, Doorman
from rusb.rdp.x224 import ConnectionConfirm, ConnectionRequest, Protocol

REQUEST = ConnectionRequest(b"", Protocol.TLS).serialize()
TLS = ConnectionConfirm(selected=Protocol.TLS).serialize()


class Server:
    """Answers what comes first with bytes of its own, then echoes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.port = 0
        self.served = 0

    async def came(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.served += 1
        with contextlib.suppress(OSError, EOFError):
            await reader.readexactly(len(REQUEST))
            for byte in self.answer:  # in pieces, as networks may
                writer.write(bytes([byte]))
                await writer.drain()
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def joined(
    answer: bytes, *, needs_tls: bool = True
) -> AsyncIterator[tuple[Server, Doorman]]:
    server = Server(answer)
    listener = await asyncio.start_server(server.came, LOOPBACK, 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with asyncio.timeout(20), listener:
        door = Doorman(LOOPBACK, server.port, needs_tls=needs_tls)
        async with door:
            yield server, door


async def call(door: Doorman) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(LOOPBACK, door.port)
    writer.write(REQUEST)
    return reader, writer


@pytest.mark.parametrize("chosen", [Protocol.TLS, Protocol.CREDSSP])
async def test_what_begins_with_tls_passes_both_ways(chosen: Protocol) -> None:
    confirm = ConnectionConfirm(selected=chosen).serialize()
    async with joined(confirm) as (_, door):
        reader, writer = await call(door)
        assert await reader.readexactly(len(confirm)) == confirm
        much = bytes(range(256)) * 8192
        writer.write(much)
        assert await reader.readexactly(len(much)) == much
        writer.write_eof()
        assert await reader.read() == b""
        assert door.refusals == 0
        writer.close()


@pytest.mark.parametrize(
    ("answer", "refusals"),
    [
        (ConnectionConfirm(selected=Protocol.RDP).serialize(), 1),
        (ConnectionConfirm(selected=4).serialize(), 1),
        (ConnectionConfirm().serialize(), 1),  # it does not negotiate at all
        (b"\x03\x00\x00\x0b\x06\xe0" + bytes(5), 0),  # no confirm
        (b"\x03\x00\xff\xff" + bytes(600), 0),  # longer than any
        (b"\x03\x00\x00\x04" + bytes(600), 0),
        (b"\x16\x03\x01" + bytes(600), 0),
    ],
)
async def test_a_server_without_tls_is_not_heard(answer: bytes, refusals: int) -> None:
    async with joined(answer + b"more") as (_, door):
        reader, writer = await call(door)
        assert await reader.read() == b""
        assert door.refusals == refusals
        writer.close()


async def test_a_refusal_reaches_the_viewer() -> None:
    answer = ConnectionConfirm(failure=2).serialize()
    async with joined(answer) as (_, door):
        reader, writer = await call(door)
        assert await reader.readexactly(len(answer)) == answer
        assert door.refusals == 0
        writer.close()


async def test_a_session_without_tls_has_a_way_without_it() -> None:
    answer = ConnectionConfirm(selected=Protocol.RDP).serialize()
    async with joined(answer, needs_tls=False) as (_, door):
        reader, writer = await call(door)
        assert await reader.readexactly(len(answer)) == answer
        writer.close()


async def test_the_end_of_the_server_is_the_viewers() -> None:
    async with joined(TLS) as (_, door):
        reader, writer = await call(door)
        await reader.readexactly(len(TLS))
        await door.__aexit__()
        assert await reader.read() == b""
        writer.close()


async def test_a_viewer_that_is_gone_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An event loop may refuse to write where there is nobody any more."""
    async with joined(TLS) as (_, door):
        for _ in range(10):
            reader, writer = await call(door)
            await reader.readexactly(len(TLS))
            writer.write(bytes(1 << 20))
            await asyncio.sleep(0)
            writer.transport.abort()
            while door._open:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert caplog.records == []


async def test_only_a_few_are_let_in() -> None:
    async with joined(TLS) as (server, door):
        open_ones = [await call(door) for _ in range(MAX_CONNECTIONS)]
        for reader, _ in open_ones:
            await reader.readexactly(len(TLS))
        reader, writer = await call(door)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert server.served == MAX_CONNECTIONS
        for _, one in [*open_ones, (reader, writer)]:
            one.close()
        while door._open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reader, writer = await call(door)
        assert await reader.readexactly(len(TLS)) == TLS
        writer.close()
