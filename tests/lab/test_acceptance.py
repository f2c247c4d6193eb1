"""The acceptance checks of vrdp-server.md B.3 with real viewers, by their numbers.

Numbers 2, 3 and 4 are cells of the matrix in ``test_real_peers.py``; number 9 is in
``tests/server``, for it needs no viewer.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rusb.server.auth.hashes import hash_legacy
from rusb.server.config import ServerConfig
from rusb.server.display.status import status_picture
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.listener import Server
from rusb.server.machine.settings import Machine, RemoteDisplay
from tests.lab.peers import HEIGHT, WIDTH, Display, Program, wait
from tests.lab.rusbserver import RusbServer
from tests.lab.test_real_peers import _programs  # noqa: F401 - a fixture
from tests.test_whole_path import ALL

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

NAME = "Accepted"
MACHINE = f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a707}}" name="{NAME}">
    <ExtraData>
      <ExtraDataItem name="VBoxAuthSimple/users/vera" value="{hash_legacy("secret")}"/>
      EXTRA
    </ExtraData>
    <Hardware>
      <Display monitorCount="MONITORS"/>
      <RemoteDisplay enabled="true" DISPLAY>
        <VRDEProperties>
          <Property name="Security/Method" value="Negotiate"/>
        </VRDEProperties>
      </RemoteDisplay>
    </Hardware>
  </Machine>
</VirtualBox>
"""

Serve = Callable[..., RusbServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers with attributes of RemoteDisplay, extra data, several monitors."""
    running: list[RusbServer] = []

    def start(display: str = "", extra: str = "", monitors: int = 1) -> RusbServer:
        text = MACHINE.replace("DISPLAY", display).replace("EXTRA", extra)
        text = text.replace("MONITORS", str(monitors))
        folder = tmp_path / f"server{len(running)}"
        folder.mkdir()
        server = RusbServer(folder, text, "--guest", "loopback")
        running.append(server)
        server.wait_log("TCP server listening")
        return server

    yield start
    for server in running:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


SCREEN = status_picture(WIDTH, HEIGHT, 16, NAME, [])


def rdesktop(port: int, folder: Path, display: Display, *options: str) -> Program:
    folder.mkdir(exist_ok=True)
    size = f"{WIDTH}x{HEIGHT}"
    command = ["rdesktop", "-a", "16", "-g", size, *options, f"127.0.0.1:{port}"]
    return Program(command, folder, display.name, b"yes\n")


def xfreerdp(port: int, folder: Path, display: Display, *options: str) -> Program:
    folder.mkdir(exist_ok=True)
    size = f"/size:{WIDTH}x{HEIGHT}"
    command = ["xfreerdp", f"/v:127.0.0.1:{port}", size, "/bpp:16", "/cert:ignore"]
    return Program([*command, *options], folder, display.name)


def shows(display: Display, program: Program) -> None:
    wait(lambda: display.shows(SCREEN), "the status screen", program.said)


def test_1_freerdp_with_standard_security(
    serve: Serve, display: Display, tmp_path: Path
) -> None:
    server = serve()
    with xfreerdp(server.port, tmp_path, display, "/sec:rdp") as program:
        shows(display, program)
    assert "Client requested standard RDP security" in server.log()
    assert "Methods 0x0000001b" in server.log()


EXTERNAL = 'authType="External" authLibrary="VBoxAuthSimple"'


def test_5_a_wrong_password(serve: Serve, display: Display, tmp_path: Path) -> None:
    server = serve(EXTERNAL)
    options = ("-u", "vera", "-p", "wrong")
    with rdesktop(server.port, tmp_path, display, *options) as program:
        assert program.wait_end() == 76
    assert "AUTH: Access denied." in server.log()
    with xfreerdp(server.port, tmp_path, display, "/u:vera", "/p:wrong") as program:
        assert program.wait_end() != 0
    assert server.log().count("AUTH: Access denied.") >= 2  # FreeRDP tries again
    options = ("-u", "vera", "-p", "secret")
    with rdesktop(server.port, tmp_path, display, *options) as program:
        shows(display, program)
    assert "AUTH: Access granted." in server.log()


def test_6_a_second_client(serve: Serve, display: Display, tmp_path: Path) -> None:
    server = serve()
    with rdesktop(server.port, tmp_path / "a", display) as first:
        shows(display, first)
        with rdesktop(server.port, tmp_path / "b", display) as second:
            assert second.wait_end() == 76
        assert first.process.poll() is None
    assert "Multiple connections are not enabled. Access denied." in server.log()

    server = serve('reuseSingleConnection="true"')
    with rdesktop(server.port, tmp_path / "c", display) as first:
        shows(display, first)
        with rdesktop(server.port, tmp_path / "d", display) as second:
            assert first.wait_end() == 1
            server.wait_log("Reason 0x0001")
            shows(display, second)

    server = serve('allowMultiConnection="true"')
    with rdesktop(server.port, tmp_path / "e", display) as first:
        shows(display, first)
        with xfreerdp(server.port, tmp_path / "f", display) as second:
            server.wait_log("AUTH: Access granted.", 2)
            time.sleep(1)
            assert first.process.poll() is None
            assert second.process.poll() is None


def test_7_the_second_screen(serve: Serve, display: Display, tmp_path: Path) -> None:
    server = serve()
    with rdesktop(server.port, tmp_path / "a", display, "-d", "@2") as program:
        assert program.wait_end() == 76
    with xfreerdp(server.port, tmp_path / "b", display, "/d:@2") as program:
        assert program.wait_end() != 0
    assert server.log().count("VRDP: There is no screen 1.") >= 2

    server = serve(monitors=2)
    with rdesktop(server.port, tmp_path / "c", display, "-d", "@2") as program:
        shows(display, program)
    assert "Screen: 1" in server.log()


def test_8_input_switched_off(serve: Serve, display: Display, tmp_path: Path) -> None:
    key = "VRDP/Feature/Client/DisableInput"
    server = serve(extra=f'<ExtraDataItem name="{key}" value="1"/>')
    with rdesktop(server.port, tmp_path, display) as program:
        shows(display, program)
        move_mouse(display, 20)
        assert program.process.poll() is None
    assert "VRDP: feature: Client/DisableInput" in server.log()


def move_mouse(display: Display, times: int) -> None:
    script = "".join(f"mousemove {n % 700 + 20} {n % 500 + 20}\n" for n in range(times))
    subprocess.run(
        ["xdotool", "-"],
        input=script,
        text=True,
        env={"PATH": "/usr/bin", "DISPLAY": display.name},
        check=True,
        timeout=60,
    )


# ------------------------------------------------ a server in this process ----


@contextlib.asynccontextmanager
async def server_here(folder: Path) -> AsyncIterator[Server]:
    """A server whose inside can be looked at."""
    properties = {"Security/Method": "Negotiate"}
    remote = RemoteDisplay(allow_multi_connection=True, properties=properties)
    machine = Machine(
        name=NAME, filters=ALL, usb_controllers=("XHCI",), remote_display=remote
    )
    config = ServerConfig(
        machine,
        ports=[0],
        address="127.0.0.1",
        log=str(folder / "VBox.log"),
        state=folder,
    )
    async with asyncio.timeout(150), Server(config, guest=LoopbackGuest()) as server:
        yield server


async def test_10_more_than_4096_packets_each_way_under_rc4(
    display: Display, tmp_path: Path
) -> None:
    """A picture is some 60 packets, a movement of the mouse one."""
    async with server_here(tmp_path) as server:
        with xfreerdp(server.port, tmp_path, display, "/sec:rdp") as program:
            await asyncio.to_thread(shows, display, program)
            (session,) = server._sessions
            security = session._rdp._security
            down, up = security._sending, security._receiving  # type: ignore[union-attr]
            while down.count <= 4096:
                sent = down.count
                server.devices_changed()
                while down.count == sent:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            while up.count <= 4096:
                await asyncio.to_thread(move_mouse, display, 1000)
                await asyncio.sleep(0.2)
            await asyncio.to_thread(shows, display, program)
            assert program.process.poll() is None


@pytest.mark.parametrize("viewer", [rdesktop, xfreerdp])
async def test_11_another_size(
    viewer: Callable[..., Program], display: Display, tmp_path: Path
) -> None:
    width, height = 640, 400
    smaller = status_picture(width, height, 16, NAME, [])
    async with server_here(tmp_path) as server:
        with viewer(server.port, tmp_path, display) as program:
            await asyncio.to_thread(shows, display, program)
            server.resize(width, height)
            await asyncio.to_thread(
                wait,
                lambda: display.shows(smaller),
                "the smaller screen",
                program.said,
            )
            assert program.process.poll() is None


def test_12_the_server_stops(serve: Serve, display: Display, tmp_path: Path) -> None:
    server = serve()
    with rdesktop(server.port, tmp_path, display) as program:
        shows(display, program)
        server.stop()
        assert program.wait_end() == 1
        assert "disconnect" in program.said()
    assert "VRDP: TCP server closed." in server.log()
