"""A client that leaves is heard, whatever is on its way."""

import asyncio
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.server.client_usb import ClientUsb
from tests.support.breaking import Net, Wire
from tests.support.whole_path import machine


async def test_a_goodbye_is_heard_amid_a_flood(tmp_path: Path) -> None:
    """Who closes before all is read resets the connection, and what waits in his
    kernel is lost, the goodbye too: the server would wait for him."""
    lab = Net(tmp_path, machine())
    async with asyncio.timeout(60), lab.server:
        lab.wire = Wire(lab.server.port)
        async with (
            lab.wire.up(),
            lab.client(EmulatedBackend(devices=[Loopback()])) as session,
        ):
            (device,) = await lab.guest.wait_for(1)
            reads = [
                asyncio.ensure_future(device.read(Loopback.SOURCE, 65536))
                for _ in range(300)
            ]
            await reads[0]
            lab.wire.hold()
            await asyncio.sleep(0.1)
            closing = asyncio.ensure_future(session.aclose())
            await asyncio.sleep(0.1)
            lab.wire.let_go()
            await closing
            await asyncio.gather(*reads)
            await lab.guest.wait_for(0)
    assert "keeping" not in lab.log()


async def test_a_goodbye_is_heard_while_a_session_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has resumed, and the client does not know it yet: it leaves."""
    lab = Net(tmp_path, machine())
    has_resumed = asyncio.Event()
    resumed = ClientUsb.tell_resumed

    def tell_resumed(usb: ClientUsb, outage: float, messages: int) -> None:
        lab.wire.hold_answers()  # before RESUMED leaves
        resumed(usb, outage, messages)
        has_resumed.set()

    monkeypatch.setattr(ClientUsb, "tell_resumed", tell_resumed)
    async with asyncio.timeout(60), lab.server:
        lab.wire = Wire(lab.server.port)
        async with (
            lab.wire.up(),
            lab.client(EmulatedBackend(devices=[Loopback()])) as session,
        ):
            await lab.guest.wait_for(1)
            lab.wire.cut()
            await has_resumed.wait()
            assert not session.is_connected
            await session.aclose()
            await lab.guest.wait_for(0)
    assert lab.log().count("Remote USB: link lost, keeping") == 1
    assert "not resumed" not in lab.log()
