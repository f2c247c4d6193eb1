"""The acceptance checks of vrdp-server.md B.3 with real viewers, by their numbers.

Numbers 2, 3 and 4 are cells of the matrix in ``test_real_peers.py``; number 9 is in
``test_manual.py``, for it needs no viewer.
"""

import asyncio
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.server import ServerConnection
from rusb.server.auth.hashes import hash_legacy
from rusb.server.display.status import status_frame
from rusb.server.machine.control import call, control_path
from tests.support.lab.peers import (
    HEIGHT,
    WIDTH,
    Display,
    Program,
    wait,
)
from tests.support.lab.vboxshell import Shell
from tests.support.lab.viewing import rdesktop, server_here, xfreerdp
from tests.support.rdp.pictures import noise
from tests.support.rusbserver import RusbServer, free_port
from tests.support.whole_path import resize, sessions_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("programs"),
]

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


SCREEN = status_frame(WIDTH, HEIGHT, NAME, [])[:HEIGHT, :WIDTH]


def shows(display: Display, program: Program, picture: Frame = SCREEN) -> None:
    wait(lambda: display.shows(picture), "the status screen", program.said)


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


def test_8_input_switched_off_and_on_again(
    lab: None,
    display: Display,
    tmp_path: Path,
    vboxmanage: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine runs all the time: the next connection counts."""
    key = "VRDP/Feature/Client/DisableInput"
    with Shell.open(tmp_path, vboxmanage) as shell:
        monkeypatch.setenv("RUSB_RUNTIME", shell.env["RUSB_RUNTIME"])
        shell(f"VBoxManage createvm --name {NAME} --register")
        port = free_port()
        shell(f"VBoxManage modifyvm {NAME} --memory 32 --vrde on --vrdeport {port}")
        shell(f"VBoxManage modifyvm {NAME} --vrdeaddress 127.0.0.1")
        shell(f"VBoxManage setextradata {NAME} {key} 1")
        shell(f"VBoxManage startvm {NAME} --type headless")
        info = shell(f"VBoxManage showvminfo {NAME} --machinereadable")
        assert f"vrdeport={port}\n" in info
        (uuid,) = re.findall(r'UUID="([^"]+)"', info)

        def inputs() -> int:
            """Events of the client that is connected now."""
            found = asyncio.run(call(control_path(uuid), "info"))
            (client,) = found["display"]["clients"]
            return int(client["inputs"])

        with rdesktop(port, tmp_path / "a", display) as program:
            wait(lambda: not display.is_blank(), "the machine's screen", program.said)
            move_mouse(display, 20)
            time.sleep(1)
            assert program.process.poll() is None
            assert inputs() == 0
        shell(f"VBoxManage setextradata {NAME} {key}")
        with rdesktop(port, tmp_path / "b", display) as program:
            wait(lambda: not display.is_blank(), "the machine's screen", program.said)

            def is_heard() -> bool:
                move_mouse(display, 20)  # X may make one movement of several
                return inputs() >= 20

            wait(is_heard, "the mouse's movements", program.said)
        log = tmp_path / f"data/rusb/VirtualBox VMs/{NAME}/Logs/VBox.log"
        assert log.read_text().count("VRDP: feature: Client/DisableInput") == 1


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


async def test_10_more_than_4096_packets_each_way_under_rc4(
    display: Display, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This picture is some 60 packets, a movement of the mouse one."""
    frame = noise(WIDTH, HEIGHT)
    picture = frame[:HEIGHT, :WIDTH]
    monkeypatch.setattr("rusb.server.display.status.status_frame", lambda *_: frame)
    async with server_here(tmp_path) as server:
        with xfreerdp(server.port, tmp_path, display, "/sec:rdp") as program:
            await asyncio.to_thread(shows, display, program, picture)
            (session,) = sessions_of(server)
            security = session._rdp._security
            down, up = security._sending, security._receiving  # type: ignore[union-attr]
            while down.count <= 4096:
                sent = down.count
                server._host.devices_changed()
                while down.count == sent:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            while up.count <= 4096:
                await asyncio.to_thread(move_mouse, display, 1000)
                await asyncio.sleep(0.2)
            await asyncio.to_thread(shows, display, program, picture)
            assert program.process.poll() is None


@pytest.mark.parametrize("viewer", [rdesktop, xfreerdp])
async def test_11_another_size(
    viewer: Callable[..., Program], display: Display, tmp_path: Path
) -> None:
    width, height = 640, 400
    smaller = status_frame(width, height, NAME, [])[:height, :width]
    async with server_here(tmp_path) as server:
        with viewer(server.port, tmp_path, display) as program:
            await asyncio.to_thread(shows, display, program)
            resize(server, width, height)
            await asyncio.to_thread(
                wait,
                lambda: display.shows(smaller),
                "the smaller screen",
                program.said,
            )
            assert program.process.poll() is None


# ----------------------------------------------------- beyond the list: 1.1, 1.14 ----


@pytest.mark.parametrize(
    ("viewer", "options"),
    [
        (rdesktop, ()),
        (rdesktop, ("-4",)),
        (xfreerdp, ("/sec:tls",)),
        (xfreerdp, ("/sec:rdp",)),
    ],
)
async def test_the_keepalive_disturbs_nobody(
    viewer: Callable[..., Program],
    options: tuple[str, ...],
    display: Display,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rusb.server.session.IDLE_TIMEOUT", 0.3)
    sent = 0
    send = ServerConnection.keepalive

    def count(core: ServerConnection) -> None:
        nonlocal sent
        sent += 1
        send(core)

    monkeypatch.setattr(ServerConnection, "keepalive", count)
    async with server_here(tmp_path) as server:
        with viewer(server.port, tmp_path, display, *options) as program:
            await asyncio.to_thread(shows, display, program)
            sent = 0
            while sent < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            assert program.process.poll() is None, program.said()
            assert display.shows(SCREEN)
            (session,) = sessions_of(server)
            assert session.is_active


@pytest.mark.parametrize("viewer", [rdesktop, xfreerdp])
async def test_viewers_see_devices_come_and_go(
    viewer: Callable[..., Program], display: Display, tmp_path: Path
) -> None:
    line = "1209:0004 rusb Loopback"
    with_device = status_frame(WIDTH, HEIGHT, NAME, [line])[:HEIGHT, :WIDTH]
    backend, device = EmulatedBackend(devices=[]), Loopback()
    async with server_here(tmp_path) as server:
        config = ClientConfig(
            "127.0.0.1", server.port, known_servers=tmp_path / "known"
        )
        with viewer(server.port, tmp_path, display) as program:
            await asyncio.to_thread(shows, display, program)
            async with connect(config, backends=[backend]):
                for _ in range(2):
                    backend.plug(device)
                    await asyncio.to_thread(shows, display, program, with_device)
                    backend.unplug(device)
                    await asyncio.to_thread(shows, display, program)
                backend.plug(device)
                await asyncio.to_thread(shows, display, program, with_device)
            await asyncio.to_thread(shows, display, program)  # the client has left
            assert program.process.poll() is None


def test_12_the_server_stops(serve: Serve, display: Display, tmp_path: Path) -> None:
    server = serve()
    with rdesktop(server.port, tmp_path, display) as program:
        shows(display, program)
        server.stop()
        assert program.wait_end() == 1
        assert program.said().endswith(
            "disconnect: Administrator initiated disconnect.\n"
        )
    assert "VRDP: TCP server closed." in server.log()
