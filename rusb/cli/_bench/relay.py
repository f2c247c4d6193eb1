"""A network with a round trip, between client and server of ``rusb bench``.

``python -m rusb.cli._bench.relay PORT MILLISECONDS`` listens on a port of 127.0.0.1,
prints its number, and passes on what comes to PORT and back, each way half of the time
later. It ends with its standard input.
"""

import asyncio
import sys
from collections import deque
from typing import cast

from .._common import run_async

__all__: list[str] = []

MAX_HELD = 4 << 20
"""Bytes under way in one direction: about what TCP has windows and buffers for."""


class _Way(asyncio.Protocol):
    """One side of a connection; what it receives leaves at the other, later."""

    def __init__(self, delay: float) -> None:
        self.other: _Way | None = None
        self.transport: asyncio.Transport | None = None
        self._delay = delay
        self._held: deque[tuple[float, bytes]] = deque()
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.other is None:  # until there is somewhere to send it
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._held.append((loop.time() + self._delay, data))
        self._count += len(data)
        if self._count > MAX_HELD:
            assert self.transport is not None
            self.transport.pause_reading()
        if self._timer is None:
            self._timer = loop.call_later(self._delay, self._pass_on)

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
        while self._held and self._held[0][0] <= now:
            _, data = self._held.popleft()
            self._count -= len(data)
            self.other.transport.write(data)
        if self._held:
            self._timer = loop.call_at(self._held[0][0], self._pass_on)
        if self._count <= MAX_HELD and not self.transport.is_closing():
            self.transport.resume_reading()


async def _join(near: _Way, port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    far = _Way(delay)
    far.other = near
    await loop.create_connection(lambda: far, "127.0.0.1", port)
    near.other = far
    assert near.transport is not None
    near.transport.resume_reading()


async def main(port: int, rtt_ms: float) -> None:
    """Listen until standard input ends."""
    loop = asyncio.get_running_loop()
    delay = rtt_ms / 2000
    joins: set[asyncio.Task[None]] = set()

    def accept() -> _Way:
        way = _Way(delay)
        joins.add(loop.create_task(_join(way, port, delay)))
        return way

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    server.close()


if __name__ == "__main__":
    run_async(main(int(sys.argv[1]), float(sys.argv[2])))
