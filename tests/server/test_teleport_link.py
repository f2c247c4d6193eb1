"""The connection between two hosts, without machines (teleport.md 4)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from rusb.server.machine.teleport.core import Step
from rusb.server.machine.teleport.link import Link, PeerFailed
from rusb.server.machine.teleport.messages import (
    DeviceBytes,
    Display,
    Failed,
    NotTaken,
)
from rusb.server.machine.teleport.relay import Relay
from rusb.server.machine.teleport.seam import Stream


@contextlib.asynccontextmanager
async def links() -> AsyncIterator[tuple[Link, Link]]:
    """Source and target; the machine has moved."""
    async with asyncio.timeout(5), contextlib.AsyncExitStack() as stack:
        found = []
        for sock, is_source in zip(socket.socketpair(), (True, False), strict=True):
            ends = await asyncio.open_connection(sock=sock)
            link = Link(*ends, "there", is_source=is_source)
            link.core.step = Step.MOVED
            found.append(await stack.enter_async_context(link))
        yield found[0], found[1]


async def test_what_a_peer_gives_as_a_reason_is_cleaned() -> None:
    async with links() as (source, target):
        await target.send(NotTaken("no\x1b[2J"))
        assert await source.receive_handover() == NotTaken("no[2J")
        await target.send(Failed("over\x1b", ("why\n\x07",)))
        with pytest.raises(PeerFailed, match="^over$") as failed:
            await source.receive_any()
        assert failed.value.refused == ("why",)


async def test_the_first_word_on_where_the_display_is_counts() -> None:
    async with links() as (source, target):
        first = Display("10.0.0.2", 3389, b"")
        await target.send(first)
        await target.send(Display("", 1, b""))
        await target.send(NotTaken("both have come"))
        await source.receive_handover()
        assert await source.wait_display() == first


async def test_a_stream_that_is_taken_home_when_nobody_wants_it_is_closed() -> None:
    async def leave(number: int) -> None:
        raise AssertionError("it did not end")

    near, far = socket.socketpair()
    async with links() as (source, target):
        relay = Relay(source, {1: Stream(near)}, leave)
        run = asyncio.ensure_future(relay.run())
        taking = asyncio.ensure_future(relay.take_home(1))
        assert await target.receive_any() == DeviceBytes(1, b"")  # its mark
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await target.send(DeviceBytes(1, b""))
        far.setblocking(False)
        with far:
            assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
        assert near.fileno() < 0
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
