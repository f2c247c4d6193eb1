"""A machine moves to another host, and those who look at it go with it.

The guest is a BIOS; both hosts are in this process, at addresses of their own.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Keyboard
from rusb.client.config import ClientConfig
from rusb.client.screenshot import screenshot
from rusb.client.session import connect
from rusb.rdp.graphics.canvas import Canvas
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.breaking import until
from tests.support.lab.peers import HEIGHT, WIDTH, Display, Program
from tests.support.rusbserver import free_port
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Host,
    hardware,
    move,
    state,
    teleport,
)

BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("teleporting"),
    pytest.mark.usefixtures("runtime", "programs"),
]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Control sockets in a directory of their own, with a short path."""
    monkeypatch.setenv("RUSB_ACCEL", "tcg")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RUSB_RUNTIME", folder)
        yield


def display(address: str, port: int) -> RemoteDisplay:
    properties = {
        "TCP/Ports": str(port),
        "TCP/Address": address,
        "Security/Method": "Negotiate",
    }
    return RemoteDisplay(
        enabled=True, allow_multi_connection=True, properties=properties
    )


@contextlib.asynccontextmanager
async def hosts(folder: Path, near: int, far: int) -> AsyncIterator[tuple[Host, Host]]:
    """A machine that runs at 127.0.0.1, and 127.0.0.2 where it is awaited; with the
    ports of its display."""
    source = Host(folder / "source", SOURCE, hardware(folder))
    source.machine.remote_display = display("127.0.0.1", near)
    target = Host.waiting(folder / "target", hardware(folder))
    target.machine.remote_display = display("127.0.0.2", far)
    async with asyncio.timeout(60), source, target:
        yield source, target


async def viewers(uuid: str) -> int:
    """How many see a whole picture of the machine."""
    clients = (await state(uuid)).display.clients
    return sum(bool(client.view and client.view.frames) for client in clients)


async def wait_viewers(uuid: str, program: Program) -> None:
    while not await viewers(uuid):
        assert program.process.poll() is None, program.said()
        await asyncio.sleep(0.1)


def viewer(folder: Path, where: Display, port: int) -> Program:
    command = ["xfreerdp", f"/v:127.0.0.1:{port}", f"/size:{WIDTH}x{HEIGHT}"]
    return Program([*command, "/bpp:24", "/cert:ignore"], folder, where.name)


async def test_xfreerdp_goes_where_the_machine_goes(tmp_path: Path) -> None:
    port = free_port()
    with Display(tmp_path) as where:
        async with hosts(tmp_path, port, port) as (source, target):
            with viewer(tmp_path, where, port) as program:
                await wait_viewers(SOURCE, program)
                await move(target.port)
                await wait_viewers(TARGET, program)
                known = tmp_path / "known"
                config = ClientConfig("127.0.0.2", port, depth=24, known_servers=known)
                while True:  # a cursor may blink
                    picture = await screenshot(config)
                    if await asyncio.to_thread(where.shows, picture, 24):
                        break
                assert f"client 1: sent on to 127.0.0.2:{port}" in source.log


@pytest.mark.parametrize("viewer", ["xfreerdp", "rdesktop"])
async def test_our_window_goes_where_the_machine_goes(
    tmp_path: Path, viewer: str
) -> None:
    """A viewer behind a port of ours cannot go there by itself."""
    port = free_port()
    with Display(tmp_path) as where:
        async with hosts(tmp_path, port, port) as (source, target):
            size = f"{WIDTH}x{HEIGHT}"
            words = [str(BIN / "rdesktop-vrdp"), "-a", "24", "-g", size]
            command = ["env", f"RUSB_VIEWER={viewer}", *words, f"127.0.0.1:{port}"]
            with Program(command, tmp_path, where.name) as program:
                await wait_viewers(SOURCE, program)
                await move(target.port)
                await wait_viewers(TARGET, program)
                moved = f"has moved from 127.0.0.1:{port} to 127.0.0.2:{port}"
                await until(lambda: moved in program.said())
                assert "Traceback" not in program.said()
            await source.wait_ended()


@pytest.mark.parametrize("viewer", ["xfreerdp", "rdesktop"])
async def test_our_window_says_how_to_go_on_where_it_cannot_go(
    tmp_path: Path, viewer: str
) -> None:
    """The target's display has another port."""
    port, other = free_port(), free_port()
    with Display(tmp_path) as where:
        async with hosts(tmp_path, port, other) as (source, target):
            words = [str(BIN / "rdesktop-vrdp"), f"127.0.0.1:{port}"]
            command = ["env", f"RUSB_VIEWER={viewer}", *words]
            with Program(command, tmp_path, where.name) as program:
                await wait_viewers(SOURCE, program)
                assert (await teleport(target.port))["error"] == ""
                await until(lambda: program.process.poll() is not None)
                assert "connect there; the server's log says" in program.said()
            assert f"since the machine runs at 127.0.0.2:{other} now" in source.log


async def test_a_viewer_with_devices_stays(tmp_path: Path) -> None:
    """They go on over the source, so it has to."""
    port = free_port()
    async with hosts(tmp_path, port, port) as (source, target):
        config = ClientConfig(
            "127.0.0.1", port, screen=Canvas(), known_servers=tmp_path / "known"
        )
        backend = EmulatedBackend(devices=[Keyboard()])
        async with connect(config, backends=[backend]) as session:
            await until(lambda: "VUSB: Attached" in source.log)
            await move(target.port)
            await until(lambda: "listening on port" in target.log)
            await asyncio.sleep(0.2)  # if it were sent on, it would be by now
            assert session.is_connected
            assert "sent on" not in source.log
            assert "runs at" not in source.log.partition("was paused")[2]
        await source.wait_ended()


async def test_at_another_port_a_viewer_is_only_told(tmp_path: Path) -> None:
    """The packet has no field for it."""
    port, other = free_port(), free_port()
    with Display(tmp_path) as where:
        async with hosts(tmp_path, port, other) as (source, target):
            with viewer(tmp_path, where, port) as program:
                await wait_viewers(SOURCE, program)
                assert (await teleport(target.port))["error"] == ""
                await until(lambda: program.process.poll() is not None)
                said = f"since the machine runs at 127.0.0.2:{other} now"
                assert said in source.log
                assert any(said in line for line in source.said)
                assert "VRDP: Connection opened" not in target.log
