"""What a stream asks of the kernel, and what it counts as waiting."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from rusb.aio.stream import WRITE_HIGH, WRITE_LOW, RdpStream, TlsUpgrade
from rusb.aio.tls import make_self_signed, server_context
from rusb.rdp.events import Event, TlsRequested
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


SIZE = 2 * WRITE_HIGH


class Feeder:
    """A core that wants TLS at the first byte, and sends what a test gives it."""

    def __init__(self) -> None:
        self.is_secured = False
        self.outputs: list[bytes] = []
        self._events: list[Event] = []

    def start(self) -> None: ...

    def receive_data(self, data: bytes) -> None:
        if not self.is_secured:
            self._events.append(TlsRequested())
            self.outputs.append(b"y")

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> list[bytes]:
        outputs, self.outputs = self.outputs, []
        return outputs

    def tls_started(self) -> None:
        self.is_secured = True


def read_when_told(port: int, told: threading.Event, over: threading.Event) -> None:
    """Be a peer that does TLS, and reads nothing before it is told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"x")
        sock.recv(1)
        with context.wrap_socket(sock) as secured:
            told.wait(20)
            left = SIZE
            while left > 0:
                left -= len(secured.recv(1 << 16))
            over.wait(20)


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_tls_has_taken_waits_all_the_same(
    tmp_path: Path, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Its transport counts as sent what it gave to the one below."""

    async def work() -> None:
        core, told, over = Feeder(), threading.Event(), threading.Event()
        pressed: list[bool] = []
        stream = RdpStream(
            core,
            on_event=lambda event: None,
            on_lost=lambda error: None,
            on_pressure=pressed.append,
            tls=TlsUpgrade(server_context(*make_self_signed(tmp_path), None)),
        )
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: stream, "127.0.0.1", 0)
        async with asyncio.timeout(20), server:
            port = server.sockets[0].getsockname()[1]
            peer = asyncio.ensure_future(
                asyncio.to_thread(read_when_told, port, told, over)
            )
            while not core.is_secured:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert stream.transport is not None
            sock = stream.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            core.outputs.append(bytes(SIZE))
            stream.flush()
            await asyncio.sleep(0.2)
            assert WRITE_HIGH < stream.bytes_waiting < SIZE * 1.01
            assert pressed == [True]
            told.set()
            while pressed != [True, False]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert stream.bytes_waiting <= WRITE_LOW
            over.set()
            await peer
            stream.abort()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(work())
