"""A network with a round trip and a rate, between client and server of ``rusb bench``.

``python -m rusb.cli._bench.relay PORT MILLISECONDS [BYTES_A_SECOND]`` listens on a port
of 127.0.0.1, prints its number, and passes on what comes to PORT and back, each way
half of the time later. It ends with its standard input.
"""

import asyncio
import socket
import sys
from collections import deque
from typing import cast

from rusb.aio.tasks import TaskSet

from .._common import run_async

__all__: list[str] = []

MAX_HELD = 4 << 20
"""Bytes under way in one direction: about what TCP has windows and buffers for."""

PIECE = 1400
"""With a rate, what leaves at once: about a packet, or what passes in a millisecond,
more often than which no timer ends."""

QUEUE = 32 << 10
"""With a rate, bytes that wait for their turn, and half of what the kernel keeps
unread: a router that keeps delays short. A longer queue is the network's affair."""


class _Way(asyncio.Protocol):
    """One side of a connection; what it receives leaves at the other, later.

    Args:
        delay: seconds.
        rate: bytes a second; 0: without a limit.
    """

    def __init__(self, delay: float, rate: float) -> None:
        self.other: _Way | None = None
        self.transport: asyncio.Transport | None = None
        self._delay = delay
        self._rate = rate
        self._free = 0.0  # when what came before has left
        self._most = QUEUE + int(delay * rate) if rate else MAX_HELD
        self._held: deque[tuple[float, bytes]] = deque()
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.other is None:  # until there is somewhere to send it
            self.transport.pause_reading()

    def join(self, other: "_Way") -> None:
        """Pass on to *other* from now on."""
        assert self.transport is not None
        self.other = other
        if self.transport.is_closing():  # it has left meanwhile
            assert other.transport is not None
            other.transport.close()
            return
        self.transport.resume_reading()
        if self._held:  # uvloop reads once all the same
            self._pass_on()

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        size = max(PIECE, int(self._rate / 1000)) if self._rate else len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if self._rate:
                self._free = max(self._free, now) + len(piece) / self._rate
            self._held.append((max(self._free, now) + self._delay, piece))
        self._count += len(data)
        if self._count > self._most:
            assert self.transport is not None
            self.transport.pause_reading()
        if self._timer is None and self.other is not None:
            self._timer = loop.call_at(self._held[0][0], self._pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def _pass_on(self) -> None:
        assert self.transport is not None
        assert self.other is not None
        assert self.other.transport is not None
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = []
        while self._held and self._held[0][0] <= now:
            due.append(self._held.popleft()[1])
        if due:
            data = b"".join(due)
            self._count -= len(data)
            self.other.transport.write(data)
        if self._held:
            self._timer = loop.call_at(self._held[0][0], self._pass_on)
        if self._count <= self._most and not self.transport.is_closing():
            self.transport.resume_reading()


def _socket(rate: float) -> socket.socket:
    """Return a socket whose kernel keeps little unread if there is a rate."""
    sock = socket.socket()
    if rate:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
    return sock


async def _join(near: _Way, port: int, far: _Way, rate: float) -> None:
    loop = asyncio.get_running_loop()
    far.other = near
    sock = _socket(rate)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.create_connection(lambda: far, sock=sock)
    except OSError:
        assert near.transport is not None
        near.transport.abort()
    else:
        near.join(far)


async def main(port: int, rtt_ms: float, rate: float = 0) -> None:
    """Listen until standard input ends."""
    loop = asyncio.get_running_loop()
    delay = rtt_ms / 2000
    joins = TaskSet()

    def accept() -> _Way:
        way = _Way(delay, rate)
        joins.start(_join(way, port, _Way(delay, rate), rate), "join")
        return way

    sock = _socket(rate)
    sock.bind(("127.0.0.1", 0))
    server = await loop.create_server(accept, sock=sock)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    server.close()
    await joins.aclose()


if __name__ == "__main__":
    run_async(main(int(sys.argv[1]), *map(float, sys.argv[2:])))
