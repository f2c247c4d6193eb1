"""The guest's screen in real viewers: a Linux console in QEMU (display.md 12)."""

import asyncio
import io
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rusb.rdp.graphics.pixels import Frame, frame_of
from rusb.server.config import ServerConfig
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.lab.assets import GUEST
from tests.support.lab.peers import HEIGHT, WIDTH, Display, Program, wait
from tests.support.lab.usblab import Guest
from tests.support.whole_path import ALL

Make = Callable[[int, int], list[str]]
"""Makes the command of a viewer, of a port and a depth."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
]


class ScreenGuest(Guest):
    """A guest with a console on its screen, and a shell there."""

    modules = (*GUEST, "bochs", "atkbd")

    def __init__(self) -> None:
        size = f"xres={WIDTH},yres={HEIGHT}"
        super().__init__(
            *("-vnc", "none", "-device", f"VGA,id=video0,edid=on,{size}"),
            *("-device", "usb-tablet,bus=xhci.0"),
        )
        self.sh("printf '\\033[?25l' >/dev/tty1")  # no cursor that blinks
        self.sh("setsid -c sh -c 'PS1=\"# \" sh -i <>/dev/tty1 >&0 2>&1' &")

    def picture(self) -> Frame:
        """What QEMU itself says is to be seen."""
        path = self.dir / "screen.ppm"
        self.qmp("screendump", filename=str(path))
        image = Image.open(io.BytesIO(path.read_bytes()))
        frame = frame_of(*image.size, image.tobytes())
        return frame[: image.height, : image.width]


@pytest.fixture(scope="module")
def screen(lab: None) -> Iterator[ScreenGuest]:
    with ScreenGuest() as guest:
        yield guest


@pytest.fixture
async def server(screen: ScreenGuest, tmp_path: Path) -> AsyncIterator[Server]:
    display = RemoteDisplay(
        enabled=True,
        allow_multi_connection=True,
        properties={"TCP/Address": "127.0.0.1"},
    )
    machine = Machine(name="Screen", filters=ALL, remote_display=display)
    config = ServerConfig(
        machine,
        ports=[0],
        guest=f"qemu:{screen.monitor}",
        log=str(tmp_path / "VBox.log"),
        state=tmp_path,
    )
    async with Server(config) as server:
        yield server


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


def rdesktop(port: int, depth: int) -> list[str]:
    size = f"{WIDTH}x{HEIGHT}"
    return ["rdesktop", "-a", str(depth), "-g", size, f"127.0.0.1:{port}"]


def xfreerdp(port: int, depth: int) -> list[str]:
    options = [f"/size:{WIDTH}x{HEIGHT}", f"/bpp:{depth}", "/cert:ignore"]
    return ["xfreerdp", f"/v:127.0.0.1:{port}", *options]


def type_text(display: Display, text: str) -> None:
    env = {"DISPLAY": display.name, "PATH": "/usr/bin:/bin"}
    for command in (["type", "--delay", "60", text], ["key", "Return"]):
        subprocess.run(["xdotool", *command], env=env, check=True, timeout=60)


def check(
    make: Make,
    server: Server,
    guest: ScreenGuest,
    display: Display,
    folder: Path,
    depth: int,
) -> None:
    folder.mkdir()
    with Program(make(server.port, depth), folder, display.name, b"yes\n") as program:
        wait(
            lambda: display.shows(guest.picture(), depth),
            "the guest's screen",
            program.said,
        )
        before = guest.picture()
        type_text(display, f"echo Shift Is HERE | tee /tmp/{depth}")
        wait(
            lambda: not np.array_equal(before, guest.picture()),
            "typed text",
            program.said,
        )
        wait(
            lambda: display.shows(guest.picture(), depth),
            "the typed text",
            program.said,
        )
        guest.wait(f'test "$(cat /tmp/{depth})" = "Shift Is HERE"', 10)
        guest.sh("dmesg >/dev/tty1")
        wait(
            lambda: display.shows(guest.picture(), depth),
            "the scrolled text",
            program.said,
        )
        assert program.process.poll() is None, program.said()


@pytest.mark.parametrize(
    ("make", "depth"),
    [
        *((rdesktop, depth) for depth in (8, 15, 16, 24)),
        *((xfreerdp, depth) for depth in (16, 24)),
    ],
)
async def test_a_viewer_shows_what_qemu_shows(
    make: Make,
    depth: int,
    screen: ScreenGuest,
    server: Server,
    display: Display,
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(
        check, make, server, screen, display, tmp_path / "viewer", depth
    )
