"""The yardstick of ``rusb bench``: nothing but TLS over asyncio, the same transport
that the RDP connection runs on."""

import asyncio
import ssl
import time
from typing import cast

__all__ = ["PIECE", "RawPeer", "answer", "echo_time", "pour_in", "pour_out"]

PIECE = 65536
"""Bytes of one write, as large as the large URBs."""

ECHO_SIZE = 64
"""About a control URB's message."""


class RawPeer(asyncio.Protocol):
    """One end of a raw stream: counts what comes, writes with back-pressure."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.count = 0
        self.is_echoing = False
        self.connected = asyncio.Event()
        self.closed = asyncio.Event()
        self._target = 0
        self._reached = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=1 << 20)
        self.connected.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        self.closed.set()
        self._may_write.set()
        self._reached.set()

    def data_received(self, data: bytes) -> None:
        """Echo or count."""
        if self.is_echoing:
            self.write(data)
            return
        self.count += len(data)
        if self.count >= self._target:
            self._reached.set()

    def pause_writing(self) -> None:
        """Stop pouring."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Go on pouring."""
        self._may_write.set()

    def write(self, data: bytes) -> None:
        """Write at once."""
        assert self.transport is not None
        self.transport.write(data)

    async def wait_count(self, target: int) -> None:
        """Wait until *target* bytes have come in all."""
        self._target = target
        self._reached.clear()
        if self.count < target:
            await self._reached.wait()

    async def pour(self, total: int) -> None:
        """Write *total* bytes as fast as the transport takes them."""
        piece = bytes(PIECE)
        for _ in range(total // PIECE):
            self.write(piece)
            if not self._may_write.is_set():
                await self._may_write.wait()


async def answer(port: int, context: ssl.SSLContext, order: str, total: int) -> None:
    """The far end: connect and do one of ``"in"``, ``"out"``, ``"echo"``."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(RawPeer, "127.0.0.1", port, ssl=context)
    if order == "echo":
        peer.is_echoing = True
    elif order == "out":
        await peer.wait_count(total)
        peer.write(b"D")
    else:
        await peer.wait_count(1)
        await peer.pour(total)
    await peer.closed.wait()


async def pour_in(peer: RawPeer, total: int) -> float:
    """Return the seconds that *total* bytes from the far end take."""
    start = time.perf_counter()
    peer.write(b"G")
    await peer.wait_count(total)
    return time.perf_counter() - start


async def pour_out(peer: RawPeer, total: int) -> float:
    """Return the seconds that *total* bytes to the far end take."""
    start = time.perf_counter()
    await peer.pour(total)
    await peer.wait_count(1)
    return time.perf_counter() - start


async def echo_time(peer: RawPeer, rounds: int) -> float:
    """Return the seconds of one round trip, the mean of *rounds*."""
    message = bytes(ECHO_SIZE)
    start = time.perf_counter()
    for n in range(1, rounds + 1):
        peer.write(message)
        await peer.wait_count(n * ECHO_SIZE)
    return (time.perf_counter() - start) / rounds
