"""Hostile servers: the client ends with a clear error, in time and in little memory."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from rusb.client import dial, slots
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import (
    ConnectionLost,
    NegotiationError,
    RemoteProtocolError,
    RusbError,
)
from rusb.rdp import mcs
from rusb.rdp.x224 import ConnectionConfirm
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.memory import memory_below
from tests.support.whole_path import Lab, machine, sessions_of, stream_of

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONFIRM = ConnectionConfirm(selected=1).serialize()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a peer sends is never a bug of ours."""
    yield
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@contextlib.asynccontextmanager
async def serving(
    peer: Peer, folder: Path, seconds: float = 8.0
) -> AsyncIterator[ClientConfig]:
    """Let a server of bytes answer; the client waits so long for what it wants."""
    over: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(asyncio.Event())
        with contextlib.suppress(ConnectionError):
            await peer(reader, writer)
        writer.transport.abort()
        over[-1].set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(20), server:
        yield ClientConfig(
            "127.0.0.1", port, known_servers=folder / "known", timeout=seconds
        )
        await over[0].wait()  # the client has hung up
        await asyncio.sleep(0)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def now_and_then(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    for byte in CONFIRM[:-1] * 9:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.1)
        await writer.drain()
    await reader.read()


async def silent_in_tls(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(CONFIRM)
    await reader.read()


@pytest.mark.parametrize(
    ("peer", "stage"),
    [
        (silent, "it accepted the connection and then said nothing"),
        (now_and_then, "it did not finish the start of TLS"),
        (silent_in_tls, "it did not finish the start of TLS"),
    ],
)
async def test_t08_a_server_that_says_little_is_given_up(
    peer: Peer, stage: str, tmp_path: Path
) -> None:
    async with serving(peer, tmp_path, 1.0) as config:
        begin = time.monotonic()
        said = f"{config.server} did not finish the connection within 1 s: {stage}"
        with pytest.raises(ConnectionLost, match=re.escape(said)):
            async with connect(config, backends=[]):
                pass
        assert time.monotonic() - begin < 5
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)


async def no_rdp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(4000):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n" * 100)
        await writer.drain()


async def half_a_packet(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"\x03\0\xff\xff" + bytes(60000))
    writer.write_eof()
    await reader.read()


async def clear_with_the_confirm(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(CONFIRM + mcs.attach_confirm(1))
    await reader.read()


async def clear_after_the_confirm(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """STARTTLS injection in a segment of its own, where the TLS hello should be."""
    writer.write(CONFIRM)
    await asyncio.sleep(0.1)
    writer.write(mcs.attach_confirm(1) * 100)
    await reader.read()


@pytest.mark.parametrize(
    ("peer", "kind"),
    [
        (hang_up, ConnectionLost),
        (no_rdp, RusbError),
        (half_a_packet, ConnectionLost),
        (clear_with_the_confirm, RusbError),  # T02
        (clear_after_the_confirm, NegotiationError),
    ],
)
async def test_t02_what_is_no_rdp_and_no_tls_is_a_clear_error(
    peer: Peer, kind: type[RusbError], tmp_path: Path
) -> None:
    async with serving(peer, tmp_path) as config:
        with memory_below(8 << 20), pytest.raises(kind) as caught:
            async with connect(config, backends=[]):
                pass
        assert "did not finish" not in str(caught.value)
        assert str(caught.value).count(config.server) == 1
        assert "_ssl.c" not in str(caught.value)
        is_rule = isinstance(caught.value, RemoteProtocolError)
        assert is_rule == (f"{config.server} broke the protocol: " in str(caught.value))
        assert is_rule == (peer in (no_rdp, clear_with_the_confirm))
        assert not (tmp_path / "known").exists()


async def test_t08_a_server_that_reads_nothing_while_urbs_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2021-3700: what waits is bounded, and comes when the server reads again."""
    monkeypatch.setattr(slots, "MAX_BYTES_IN_FLIGHT", 8 << 20)
    monkeypatch.setattr(dial, "RESULTS", 4 << 20)
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        async with lab.client(EmulatedBackend(devices=[Loopback()])) as client:
            (device,) = await lab.guest.wait_for(1)
            (deaf,) = sessions_of(lab.server)
            assert deaf.stream.transport is not None
            deaf.stream.transport.pause_reading()
            reads: list[asyncio.Future[UrbResult]] = []
            most = 0
            while len(reads) < 60 or not stream_of(client)._is_paused:
                reads.append(
                    asyncio.ensure_future(device.read(Loopback.SOURCE, 1 << 20))
                )
                await asyncio.sleep(0.01)
                most = max(most, stream_of(client).bytes_waiting)
            assert most < (8 << 20) + dial.RESULTS
            deaf.stream.transport.resume_reading()
            results = await asyncio.gather(*reads)
            assert {(r.status, r.length) for r in results} == {(UrbStatus.OK, 1 << 20)}
            assert not stream_of(client)._is_paused
