"""Which port a server takes, and what it says if there is none."""

import asyncio
import socket
from pathlib import Path

import pytest

from rusb.errors import Hint, ListenError, SettingsError
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.rusbserver import free_port
from tests.support.whole_path import machine


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
        with pytest.raises(ListenError, match=rf"the port\(s\) {busy}: all are"):
            await make(tmp_path, str(busy)).start()
    log = (tmp_path / "VBox.log").read_text()
    assert f" VRDP: can't bind to the port(s) {busy}: all are in use" in log


async def test_a_range_without_a_free_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        server = make(tmp_path, "1")
        server.config.ports = [busy, busy]
        with pytest.raises(ListenError, match=rf"port\(s\) {busy},{busy}: all"):
            await server.start()


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
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1.*TCP/Address") as caught:
        await make(tmp_path, "0", "192.0.2.1").start()
    assert caught.value.hint is Hint.OTHER_ADDRESS
    assert " VRDP: cannot listen on 192.0.2.1" in (tmp_path / "VBox.log").read_text()


@pytest.mark.parametrize("other", ["192.0.2.1", "2001:db8::1"])
async def test_a_name_of_which_one_address_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """vrdp-server.md 5.2: one socket is enough."""

    def resolve(name: str, port: int, **hints: int) -> list[object]:
        assert name == "two.example"
        both = (known(address, port, **hints) for address in (other, "127.0.0.1"))
        return [entry for found in both for entry in found]

    known = socket.getaddrinfo
    monkeypatch.setattr("rusb.server.network.socket.getaddrinfo", resolve)
    port = free_port()
    async with asyncio.timeout(20), make(tmp_path, str(port), "two.example") as server:
        assert server.port == port
    log = (tmp_path / "VBox.log").read_text()
    assert f"listening on port {port} (IPv4)." in log


@pytest.mark.parametrize("port", [-1, 65536, 70000])
async def test_a_port_that_is_none_is_no_other(tmp_path: Path, port: int) -> None:
    server = make(tmp_path, "5000")
    server.config.ports = [0, port]
    with pytest.raises(SettingsError, match=f"^{port} is not a port"):
        await server.start()
    assert server.port == 0


async def test_no_port_is_not_the_usual_one(tmp_path: Path) -> None:
    server = make(tmp_path, "0")
    server.config.ports = []
    with pytest.raises(ListenError):
        await server.start()
    assert server.port == 0
