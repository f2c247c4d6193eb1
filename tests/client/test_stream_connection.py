"""The connection behind devices of USB/IP servers and usbredir programs, by itself."""

import asyncio

import pytest

from rusb.client.backends import _stream
from rusb.errors import DeviceGone
from rusb.wire.usbredir import UsbredirGuestSide
from tests.support.transports import Noting


async def test_it_ends_once_and_what_is_asked_then_is_refused_at_once() -> None:
    """What it says last is nonsense, and then it hangs up."""
    lost, transport = list[None](), Noting()
    core = UsbredirGuestSide()
    connection = _stream.Connection(core, "peer", on_lost=lambda: lost.append(None))
    connection.connection_made(transport)
    connection.data_received(b"\xff" * 128)
    assert transport.is_over
    assert len(lost) == 1
    connection.connection_lost(None)
    assert len(lost) == 1
    async with asyncio.timeout(_stream.REQUEST_TIMEOUT / 2):
        with pytest.raises(DeviceGone):
            await connection.ask("reset the device", core.reset_device)
