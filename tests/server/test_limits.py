"""Many connections, and slow ones: the server stays what it was."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.rdp.x224 import ConnectionRequest
from rusb.server import admission, session
from rusb.usb.urb import UrbStatus
from tests.support.rusbserver import RusbServer
from tests.support.whole_path import Lab, machine, transport_of

HELD, MORE = admission.MAX_WAITING_PER_NETWORK, 100

SETTINGS = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a706}" name="Crowd">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


def resident(pid: int) -> int:
    """Kilobytes that a process has in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = (s for s in text.splitlines() if s.startswith("VmRSS:"))
    return int(line.split()[1])


async def crowd(server: RusbServer) -> None:
    """Hold as many connections as one address may; more are closed at once."""
    pairs = []
    for _ in range(HELD + MORE):
        pairs.append(await asyncio.open_connection("127.0.0.1", server.port))
    closed = 0
    for reader, _ in pairs[HELD:]:
        closed += await reader.read() == b""
    assert closed == MORE
    _, asking = pairs[0]
    asking.write(ConnectionRequest(protocols=1).serialize())
    assert (await pairs[0][0].readexactly(4))[:1] == b"\x03"  # those inside are served
    for _, writer in pairs:
        writer.close()
    await asyncio.sleep(0.5)


async def test_two_hundred_are_held_and_a_hundred_more_refused(tmp_path: Path) -> None:
    server = await asyncio.to_thread(
        RusbServer, tmp_path, SETTINGS, "--guest", "loopback"
    )
    try:
        await asyncio.to_thread(server.wait_log, "TCP server listening")
        async with asyncio.timeout(60):
            await crowd(server)  # the first time imports and caches are filled
            before = resident(server.process.pid)
            for _ in range(3):
                await crowd(server)
            after = resident(server.process.pid)
            config = ClientConfig(
                "127.0.0.1", server.port, known_servers=tmp_path / "known"
            )
            backend = EmulatedBackend(devices=[Loopback()])
            async with connect(config, backends=[backend]):
                await asyncio.to_thread(server.wait_log, "VUSB: Attached")
        log = server.log()
    finally:
        await asyncio.to_thread(server.stop)
    assert after - before < 6144, f"{before} kB, then {after} kB"  # of 900 connections
    assert log.count("a new one from there was closed") == admission.MAX_COMPLAINTS


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """A server that waits two seconds for what it waits a minute otherwise."""
    monkeypatch.setattr(session, "LOGON_TIMEOUT", 2.0)
    found = Lab(tmp_path, machine())
    async with asyncio.timeout(20), found.server:
        yield found


async def test_a_byte_now_and_then_keeps_nobody_in(lab: Lab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
    start = asyncio.get_running_loop().time()
    request = ConnectionRequest(b"Cookie: mstshash=" + b"x" * 80, 1).serialize()
    with contextlib.suppress(ConnectionError):
        for byte in request:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
            if reader.at_eof():
                break
    with contextlib.suppress(ConnectionError):
        await reader.read()
    assert asyncio.get_running_loop().time() - start < 5
    writer.close()
    await lab.wait_log("no logon within 2 s")
    await lab.wait_log("Connection closed: 1")


async def test_nothing_is_left_of_connections_that_ended(lab: Lab) -> None:
    request = ConnectionRequest(protocols=1).serialize()
    for number in range(60):
        _, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
        writer.write(request[: number % (len(request) + 1)])  # every phase, TLS too
        await writer.drain()
        writer.close()
    await lab.wait_log("Connection closed: 60")
    while lab.server._sessions:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        while any(type(o) is session.ServerSession for o in gc.get_objects()):
            await asyncio.sleep(0.1)
            gc.collect()


async def test_a_handshake_that_stops_keeps_nobody_in(lab: Lab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
    writer.write(ConnectionRequest(protocols=1).serialize())
    assert await reader.readexactly(19)  # it wants TLS now
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    await lab.wait_log("Connection closed: 1")


async def test_clients_beyond_the_limit_are_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_CLIENTS", 1)
    lab.server.machine.remote_display.allow_multi_connection = True
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
        with pytest.raises(Exception, match="has as many clients as it accepts"):
            async with lab.client(EmulatedBackend(devices=[Loopback()])):
                pass
    assert "AUTH: 1 clients are connected. Access denied." in lab.log()


async def test_a_client_that_does_not_read_is_dropped_and_the_others_go_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T08: the send queue fills while URBs go on."""
    monkeypatch.setattr(session, "IDLE_TIMEOUT", 1.0)
    lab.server.machine.remote_display.allow_multi_connection = True
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as deaf:
        (first,) = await lab.guest.wait_for(1)
        async with lab.client(EmulatedBackend(devices=[Loopback()])):
            devices = await lab.guest.wait_for(2)
            (second,) = (d for d in devices if d is not first)
            transport_of(deaf).pause_reading()
            writes = [
                asyncio.ensure_future(first.write(Loopback.SINK, bytes(1 << 20)))
                for _ in range(32)
            ]
            while not (await lab.guest.wait_for(1) == [second]):
                result = await second.write(Loopback.SINK, bytes(65536))
                assert result.length == 65536
            results = await asyncio.gather(*writes)
            assert len(results) == 32  # each completed, once
            assert UrbStatus.NO_DEVICE in {result.status for result in results}
            await lab.wait_log("the client has read nothing for 1 s")
            result = await second.read(Loopback.SOURCE, 65536)
            assert result.length == 65536
