"""Which port a server takes, and what it says if there is none."""

import asyncio
import socket
from pathlib import Path

import pytest

from rusb.errors import ConnectionLost, SettingsError
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.listener import Server
from rusb.server.machine.settings import RemoteDisplay
from tests.lab.rusbserver import free_port
from tests.test_whole_path import machine


def make(folder: Path, ports: str, address: str = "127.0.0.1") -> Server:
    display = RemoteDisplay(properties={"TCP/Ports": ports, "TCP/Address": address})
    log = str(folder / "VBox.log")
    config = ServerConfig(machine(remote_display=display), log=log, state=folder)
    return Server(config, guest=LoopbackGuest())


async def test_the_second_port_when_the_first_is_busy(tmp_path: Path) -> None:
    """Acceptance check 9 of vrdp-server.md B.3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy, free = taken.getsockname()[1], free_port()
        async with asyncio.timeout(20), make(tmp_path, f"{busy},{free}") as server:
            assert server.port == free
    log = (tmp_path / "VBox.log").read_text()
    assert f"VRDP: TCP server listening on port {free} (IPv4)." in log


async def test_no_port_at_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        with pytest.raises(ConnectionLost, match=r"can't bind to the port\(s\)"):
            await make(tmp_path, str(busy)).start()


async def test_both_families_on_one_port(tmp_path: Path) -> None:
    port = free_port()
    async with asyncio.timeout(20), make(tmp_path, str(port), "") as server:
        assert server.port == port
        for host in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    log = (tmp_path / "VBox.log").read_text()
    assert f"listening on port {port} (IPv4 and IPv6)." in log


async def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        await make(tmp_path, "0", "192.0.2.1").start()
