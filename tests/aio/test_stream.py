"""What a stream asks of the kernel."""

import asyncio
import socket

import pytest

from rusb.aio.stream import RdpStream
from rusb.rdp.security import Method
from rusb.rdp.server import ServerConnection, ServerSettings

MINUTE = [
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),
]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_peer_that_vanished_is_noticed_within_a_minute(host: str) -> None:
    """With data under way, too: then no keepalive probe is ever sent."""
    found: list[int] = []

    def look() -> None:
        assert stream.transport is not None
        sock = stream.transport.get_extra_info("socket")
        for level, option, _ in MINUTE:
            found.append(sock.getsockopt(level, getattr(socket, option)))

    settings = ServerSettings(frozenset({Method.RDP}))
    stream = RdpStream(
        ServerConnection(settings, random_bytes=bytes),
        on_event=lambda event: None,
        on_lost=lambda error: None,
        on_connected=look,
        tls=None,
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: stream, host, 0)
    async with asyncio.timeout(5), server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        while not found:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.close()
    assert found == [value for _, _, value in MINUTE]
