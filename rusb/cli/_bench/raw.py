"""The yardstick of ``rusb bench``: nothing but TLS over asyncio, the same transport
that the RDP connection runs on. One connection, kept for the whole run."""

import asyncio
from typing import Any, cast

from .plan import PING, RAW_IN, RAW_OUT, Job

__all__ = ["RawPeer", "order_for", "run_raw"]


class RawPeer(asyncio.Protocol):
    """One end of the raw stream: counts or echoes, writes with back-pressure.

    Attributes:
        is_echoing: what comes goes back.
        connected: the connection is made.
    """

    def __init__(self) -> None:
        self.is_echoing = False
        self.connected = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._missing = 0
        self._reached = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast(asyncio.Transport, transport)
        # as little as the product's: a megabyte on its way falls out of caches or not
        self._transport.set_write_buffer_limits(high=64 << 10)
        self.connected.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over; nobody waits for ever."""
        self._may_write.set()
        self._reached.set()

    def data_received(self, data: bytes) -> None:
        """Echo or count."""
        if self.is_echoing:
            self.write(data)
            return
        self._missing -= len(data)
        if self._missing <= 0:
            self._reached.set()

    def pause_writing(self) -> None:
        """Stop pouring."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Go on pouring."""
        self._may_write.set()

    def write(self, data: bytes) -> None:
        """Write at once."""
        assert self._transport is not None
        self._transport.write(data)

    def expect(self, total: int) -> None:
        """Count down from *total* bytes; before they can come."""
        self.is_echoing = False
        self._missing = total
        self._reached.clear()

    async def all_expected(self) -> None:
        """Wait for them."""
        await self._reached.wait()

    async def pour(self, total: int) -> None:
        """Write *total* bytes as fast as the transport takes them."""
        piece = bytes(RAW_OUT.size)  # as large as the URBs it is compared with
        for _ in range(total // len(piece)):
            self.write(piece)
            if not self._may_write.is_set():
                await self._may_write.wait()

    async def ping(self, rounds: int) -> None:
        """Send a small message and wait for its echo, *rounds* times."""
        message = bytes(PING.size)
        for _ in range(rounds):
            self.expect(len(message))
            self.write(message)
            await self.all_expected()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


def order_for(job: Job, count: int) -> dict[str, Any]:
    """What the far process is told before a job, and before anything is measured."""
    total = job.size * count
    if job == RAW_IN:
        return {"do": "pour", "total": total}
    if job == RAW_OUT:
        return {"do": "swallow", "total": total}
    return {"do": "echo" if job == PING else "nothing"}


async def run_raw(job: Job, peer: RawPeer, count: int) -> None:
    """Move *count* pieces, or send so many pings; the other end has its order."""
    total = job.size * count
    if job == RAW_IN:
        peer.expect(total)
        peer.write(b"G")
        await peer.all_expected()
    elif job == RAW_OUT:
        peer.expect(1)
        await peer.pour(total)
        await peer.all_expected()
    else:
        await peer.ping(count)
