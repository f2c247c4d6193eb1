"""A network that takes its time, and not always the same."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

__all__ = ["late_network"]


class _Way(asyncio.Protocol):
    """One side of a connection; what it takes leaves at the other later, in order."""

    def __init__(self, delay: float, jitter: float, seed: int) -> None:
        self.other: _Way | None = None
        self.transport: asyncio.Transport | None = None
        self._delay, self._jitter = delay, jitter
        self._random = random.Random(seed)
        self._last = 0.0
        self._held: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.other is not None and self.other.transport is None:
            self.transport.pause_reading()  # until there is somewhere to send it
        elif self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        late = max(0.0, self._random.gauss(self._delay, self._jitter))
        self._last = max(self._last, loop.time() + late)
        self._held.append(data)
        loop.call_at(self._last, self._pass_on)

    def _pass_on(self) -> None:
        data = self._held.popleft()
        assert self.other is not None
        assert self.other.transport is not None
        self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


@contextlib.asynccontextmanager
async def late_network(
    port: int, delay: float, jitter: float, seed: int = 1
) -> AsyncIterator[int]:
    """A port of 127.0.0.1 that leads to another one.

    Args:
        port: where it leads to.
        delay, jitter: seconds each way: mean and standard deviation of each read.
        seed: makes it the same network again.
    """
    loop = asyncio.get_running_loop()
    joins: set[asyncio.Task[object]] = set()

    def accept() -> _Way:
        near, far = (_Way(delay, jitter, seed + n) for n in (0, 1))
        near.other, far.other = far, near
        joins.add(
            loop.create_task(loop.create_connection(lambda: far, "127.0.0.1", port))
        )
        return near

    async with await loop.create_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
