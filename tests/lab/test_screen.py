"""The guest's screen in real viewers: a Linux console in QEMU (display.md 12)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rusb.client.config import ClientConfig
from rusb.client.screenshot import screenshot
from rusb.rdp.events import Button, PointerInput
from rusb.rdp.graphics.pixels import DEPTHS
from rusb.server.config import ServerConfig
from rusb.server.display.inputs import pass_on
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.lab.peers import HEIGHT, SEES, WIDTH, Display, Program, Record, wait
from tests.support.lab.screens import Records, ScreenGuest, TwoHeads
from tests.support.lab.vboxshell import Shell
from tests.support.rusbserver import free_port
from tests.support.whole_path import ALL, sessions_of

Make = Callable[[int, int], list[str]]
"""Makes the command of a viewer, of a port and a depth."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
]


PAUSES = (1, 1, 3, 10, 30)
"""Seconds to look on until a picture has come; the first are enough but for a crowd."""


@pytest.fixture(scope="module")
def screen(lab: None) -> Iterator[ScreenGuest]:
    with ScreenGuest() as guest:
        yield guest


@pytest.fixture
def method() -> str:
    return "Negotiate"


@pytest.fixture
async def server(
    screen: ScreenGuest, tmp_path: Path, method: str
) -> AsyncIterator[Server]:
    display = RemoteDisplay(
        enabled=True,
        allow_multi_connection=True,
        properties={"TCP/Address": "127.0.0.1", "Security/Method": method},
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


SECURITY = {"Negotiate": "TLS", "RDP": "RC4, 128 bit"}
"""Method of the machine: what its clients then get."""


def depths(server: Server) -> list[int]:
    """Of the viewers that were shown the screen."""
    found = server.happened.after(0)
    return [e["depth"] for e in found if e["event"] == "screen.shown"]


@pytest.mark.parametrize(
    ("make", "depth", "method"),
    [
        *((rdesktop, depth, "Negotiate") for depth in (8, 15, 16, 24)),
        *((xfreerdp, depth, "Negotiate") for depth in (16, 24, 32)),
        (xfreerdp, 24, "RDP"),
    ],
)
async def test_a_viewer_shows_what_qemu_shows(
    make: Make,
    depth: int,
    method: str,
    screen: ScreenGuest,
    server: Server,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    await asyncio.to_thread(
        check, make, server, screen, display, tmp_path / "viewer", depth
    )
    is_weak = "Using standard RDP security" in (tmp_path / "VBox.log").read_text()
    assert is_weak == (method == "RDP")
    assert set(depths(server)) == {min(depth, 24)}
    name, security = make(0, depth)[0], SECURITY[method]
    outcome = f"{SEES} in {min(depth, 24)} bit, every pixel"
    matrix(name, f"rusb {method}", security, outcome)


def check_all(server: Server, guest: ScreenGuest, display: Display) -> None:
    """One depth after the other: what was there, and what scrolls by."""
    for depth in DEPTHS:
        command = rdesktop(server.port, depth)
        folder = display.output.parent / str(depth)
        folder.mkdir()
        with Program(command, folder, display.name, b"yes\n") as program:
            for draw in ("true", f"dmesg >/dev/tty1; echo {depth} >/dev/tty1"):
                guest.sh(draw)
                wait(
                    lambda d=depth: display.shows(guest.picture(), d),  # type: ignore[misc]
                    f"the guest's screen of {depth} bit",
                    program.said,
                )


@pytest.mark.parametrize("method", ["RDP"])
async def test_rc4_carries_every_depth(
    screen: ScreenGuest,
    server: Server,
    display: Display,
    tmp_path: Path,
    matrix: Record,
) -> None:
    await asyncio.to_thread(check_all, server, screen, display)
    log = (tmp_path / "VBox.log").read_text()
    assert log.count("Using standard RDP security") == len(DEPTHS)
    assert depths(server) == list(DEPTHS)
    for depth in DEPTHS:
        outcome = f"{SEES} in {depth} bit, every pixel"
        matrix("rdesktop", "rusb RDP", SECURITY["RDP"], outcome)


NOISE = "head -c 1900000 /dev/urandom >/dev/fb0"
MOST_WAITING = 1 << 20
"""Bytes that wait in the server for a viewer that reads nothing."""


def watch_both(server: Server, guest: ScreenGuest, folder: Path) -> None:
    """Two viewers at once, of which one stops for a while.

    The other sees all that happens meanwhile, and little waits for the one.
    """
    port = server.port
    with contextlib.ExitStack() as stack:
        displays, programs = [], []
        for name, command in (
            ("rdesktop", rdesktop(port, 16)),
            ("xfreerdp", [*xfreerdp(port, 24), "/sec:rdp"]),  # RC4
        ):
            home = folder / name
            home.mkdir()
            display = stack.enter_context(Display(home))
            displays.append(display)
            program = Program(command, home, display.name, b"yes\n")
            programs.append(stack.enter_context(program))

        def all_show(count: int) -> bool:
            picture = guest.picture()
            pairs = zip(displays[:count], (16, 24), strict=False)
            return all(display.shows(picture, depth) for display, depth in pairs)

        wait(lambda: all_show(2), "the screen in both", programs[1].said)
        stopped = programs[1].process.pid
        os.kill(stopped, signal.SIGSTOP)
        try:
            end, waiting = time.monotonic() + 10, []
            while time.monotonic() < end:
                for draw in (NOISE, "dmesg >/dev/tty1; sleep 0.3"):
                    guest.sh(draw)
                    wait(lambda: all_show(1), "the screen in one", programs[0].said)
                    waiting += [s.stream.bytes_waiting for s in sessions_of(server)]
            assert max(waiting) < MOST_WAITING
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait(lambda: all_show(2), "the screen in both again", programs[1].said)


async def test_a_viewer_that_stops_holds_nobody_up(
    screen: ScreenGuest, server: Server, tmp_path: Path
) -> None:
    await asyncio.to_thread(watch_both, server, screen, tmp_path)


async def test_the_pointer_is_where_the_viewer_puts_it(
    screen: ScreenGuest, server: Server, display: Display, tmp_path: Path
) -> None:
    """The tablet has 32768 positions a side, the screen fewer."""
    (tablet,) = Records.of(screen, "Tablet")

    def is_at(*wanted: int) -> bool:
        found = [tablet.values(f"ABS_{axis}")[-1:] or [-1] for axis in "XY"]
        sides = zip(found, (WIDTH, HEIGHT), strict=True)
        return wanted == tuple(round(at * side / 0x7FFF) for (at,), side in sides)

    def point() -> None:
        with Program(rdesktop(server.port, 16), tmp_path, display.name, b"yes\n") as p:
            wait(lambda: display.shows(screen.picture(), 16), "the screen", p.said)
            env = {"DISPLAY": display.name, "PATH": "/usr/bin:/bin"}
            for x, y in ((123, 45), (799, 599), (400, 301)):
                tablet.clear()
                command = ["xdotool", "mousemove", str(x), str(y)]
                subprocess.run(command, env=env, check=True, timeout=60)
                wait(partial(is_at, x, y), f"the pointer at {x}, {y}", p.said)

    await asyncio.to_thread(point)


@pytest.mark.parametrize("method", ["Negotiate", "RDP"])
async def test_our_own_viewer_sees_the_same(
    screen: ScreenGuest, server: Server, tmp_path: Path, method: str
) -> None:
    config = ClientConfig("127.0.0.1", server.port, known_servers=tmp_path / "known")
    config.depth = 24
    config.security = ("rdp",) if method == "RDP" else ("tls",)
    screen.sh("dmesg | tail >/dev/tty1")
    for pause in PAUSES:
        seen = await screenshot(config, wait=pause)
        picture = await asyncio.to_thread(screen.picture)
        if np.array_equal(seen, picture):
            break
    assert np.array_equal(seen, picture)


def test_a_machine_of_ours_shows_its_screen(
    lab: None, tmp_path: Path, vboxmanage: Path
) -> None:
    """Its firmware's, for it has nothing to boot from; by RDP and by QEMU."""
    port = free_port()
    with Shell.open(tmp_path, vboxmanage) as shell:
        shell("VBoxManage createvm --name Small --register")
        shell(f"VBoxManage modifyvm Small --memory 32 --vrdeport {port}")
        shell("VBoxManage modifyvm Small --usb-xhci on")
        headless = shell.start("VBoxHeadless --startvm Small")
        try:

            def said() -> str:
                return shell.said("VBoxHeadless")

            wait(lambda: f"listening on port {port}" in said(), "the server", said)
            pictures: list[object] = []

            def are_equal() -> bool:
                shell("VBoxManage controlvm Small screenshotpng qemu.png")
                rusb = f"{sys.executable} -m rusb"
                shell(f"{rusb} screenshot 127.0.0.1:{port} rdp.png")
                pictures[:] = [
                    Image.open(shell.folder / name).convert("RGB")
                    for name in ("qemu.png", "rdp.png")
                ]
                first, second = (np.asarray(picture) for picture in pictures)
                return bool(first.any()) and np.array_equal(first, second)

            wait(are_equal, "equal pictures", said, 60)
        finally:
            headless.terminate()
            headless.wait()


async def test_each_of_two_screens_has_its_picture_and_its_pointer(
    lab: None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with TwoHeads(tmp_path_factory.mktemp("s")) as guest:
        tablets = Records.of(guest, "Tablet")
        machine = Machine(name="Two", monitors=2)
        config = ServerConfig(
            *(machine, "loopback"),
            ports=[0],
            address="127.0.0.1",
            log=str(tmp_path / "VBox.log"),
            state=tmp_path,
        )
        async with Server(config, screens=guest) as server:
            for head, tablet in enumerate(tablets):
                hub = server._screens[head]
                while hub.size != (1280, 800):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                viewer = ClientConfig(
                    "127.0.0.1", server.port, known_servers=tmp_path / "known"
                )
                viewer.domain, viewer.depth = f"@{head + 1}", 24
                for pause in PAUSES:
                    seen = await screenshot(viewer, wait=pause)
                    picture = await asyncio.to_thread(guest.picture, head)
                    if seen.any() and np.array_equal(seen, picture):
                        break
                assert seen.any()
                assert np.array_equal(seen, picture)
                assert seen.shape == (800, 1280)
                for x in range(200):
                    pass_on(PointerInput(x, 5, Button.LEFT, True), hub, "v")
                    pass_on(PointerInput(x, 5, Button.LEFT, False), hub, "v")
                    await asyncio.sleep(0.1)
                    if ("BTN_LEFT", 1) in tablet.keys():
                        break
                else:
                    pytest.fail(f"no click arrived at the tablet of screen {head}")
