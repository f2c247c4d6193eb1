"""What real viewers type and point at, as the guest sees it."""

import asyncio
import base64
import itertools
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from rusb.server.config import ServerConfig
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine
from tests.support.lab.peers import MACHINE, Program, wait
from tests.support.lab.screens import ManagedDisplay, Records, ScreenGuest, TwoHeads
from tests.support.rusbserver import RusbServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
    pytest.mark.xdist_group("typing"),
]

VIEWERS = ("rdesktop", "xfreerdp")

# Of X (eight more than Linux has) and of Linux: physical keys, whatever is on them.
Q, ACUTE, NUM_7 = 24, 21, 79
CAPS_LOCK, NUM_LOCK, ALTGR, SHIFT = 66, 77, 108, 50


class TypingGuest(ScreenGuest):
    """A guest that keeps what is typed, with a keyboard that has some German keys.

    Its tablet has five buttons; the USB one of QEMU 7.2 has three.
    """

    modules = (*ScreenGuest.modules, "virtio_input")
    tablet = "virtio-tablet-pci"
    has_shell = False

    def __init__(self) -> None:
        super().__init__()
        self.sh("dumpkmap >/tmp/keys")
        keys = bytearray(base64.b64decode(self.sh("base64 /tmp/keys")))
        _change(keys, table=0, key=ACUTE - 8, value=0x0401)  # KT_DEAD, acute
        _change(keys, table=2, key=Q - 8, value=ord("@"))  # with AltGr
        text = base64.b64encode(keys).decode()
        for at in range(0, len(text), 1000):
            self.sh(f"echo {text[at : at + 1000]} >>/tmp/keys64")
        self.sh("base64 -d /tmp/keys64 | loadkmap")
        self.sh("cat </dev/tty1 >>/tmp/typed &")


def _change(keys: bytearray, *, table: int, key: int, value: int) -> None:
    """Put something on a key in busybox' binary form of a keymap."""
    assert keys[:7] == b"bkeymap"
    assert keys[7 + table]
    number = sum(keys[7 : 7 + table])  # tables that come before
    struct.pack_into("<H", keys, 7 + 256 + number * 256 + key * 2, value)


@pytest.fixture(scope="module")
def guest(lab: None) -> Iterator[TypingGuest]:
    with TypingGuest() as guest:
        yield guest


@pytest.fixture(scope="module")
def server(
    guest: TypingGuest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RusbServer]:
    text = MACHINE.replace("PROPERTIES", "")
    folder = tmp_path_factory.mktemp("server")
    server = RusbServer(folder, text, "--guest", f"qemu:{guest.monitor}")
    try:
        server.wait_log("TCP server listening")
        yield server
    finally:
        server.stop()


@pytest.fixture
def display(tmp_path: Path) -> Iterator[ManagedDisplay]:
    folder = tmp_path / "display"
    folder.mkdir()
    with ManagedDisplay(folder) as display:
        display.run("setxkbmap", "de")
        yield display


def run_viewer(
    viewer: str, port: int, folder: Path, display: ManagedDisplay, *options: str
) -> Program:
    """Start one with a German keyboard."""
    folder.mkdir(exist_ok=True)
    place = f"127.0.0.1:{port}"
    command = ["rdesktop", "-a", "16", "-N", "-k", "de", *options, place]
    if viewer == "xfreerdp":
        command = ["xfreerdp", f"/v:{place}", "/bpp:16", "/cert:ignore", *options]
    return Program(command, folder, display.name, b"yes\n")


def is_shown(display: ManagedDisplay, guest: ScreenGuest, program: Program) -> None:
    wait(
        lambda: display.shows(guest.picture(), 16),
        "the guest's screen",
        program.said,
        60,
    )


def press(display: ManagedDisplay, *keys: int) -> None:
    """Press keys one upon the other, and let go of them."""
    for key in keys:
        display.xdotool("keydown", str(key))
    for key in reversed(keys):
        display.xdotool("keyup", str(key))


@pytest.mark.parametrize("viewer", VIEWERS)
def test_what_is_typed(
    viewer: str,
    guest: TypingGuest,
    server: RusbServer,
    display: ManagedDisplay,
    tmp_path: Path,
) -> None:
    """Shift, AltGr, a dead key, and lock keys."""
    guest.sh("true >/tmp/typed")
    (keyboard,) = Records.of(guest, "^AT ")
    with run_viewer(viewer, server.port, tmp_path / "viewer", display) as program:
        is_shown(display, guest, program)
        wait(partial(takes_keys, display, keyboard), "a key", program.said)
        display.xdotool("type", "--delay", "50", "Shift And HERE ")
        press(display, ALTGR, Q)
        press(display, ACUTE)
        display.xdotool("type", "e ")
        press(display, CAPS_LOCK)
        press(display, Q)
        press(display, SHIFT, Q)
        press(display, CAPS_LOCK)
        press(display, Q)
        press(display, NUM_LOCK)
        press(display, NUM_7)
        press(display, NUM_LOCK)
        display.xdotool("key", "Return")
        guest.wait("grep -q HERE /tmp/typed", 20)
        text = base64.b64decode(guest.sh("base64 /tmp/typed")).decode()
        assert text.endswith("Shift And HERE @é Qqq7\n"), text


@pytest.mark.parametrize("viewer", VIEWERS)
def test_a_key_and_a_button_do_not_stay_down(
    viewer: str,
    guest: TypingGuest,
    server: RusbServer,
    display: ManagedDisplay,
    tmp_path: Path,
) -> None:
    """The viewer is killed while they are held."""
    (keyboard,) = Records.of(guest, "^AT ")
    (tablet,) = Records.of(guest, "Tablet")
    with run_viewer(viewer, server.port, tmp_path / "viewer", display) as program:
        is_shown(display, guest, program)
        display.xdotool("mousemove", "100", "100", "keydown", str(Q), "mousedown", "1")
        wait(lambda: ("KEY_Q", 1) in keyboard.keys(), "the key", program.said)
        wait(lambda: ("BTN_LEFT", 1) in tablet.keys(), "the button", program.said)
        assert ("KEY_Q", 0) not in keyboard.keys()
        program.process.kill()
        wait(lambda: ("KEY_Q", 0) in keyboard.keys(), "its release", server.log)
        wait(lambda: ("BTN_LEFT", 0) in tablet.keys(), "its release", server.log)
    display.xdotool("keyup", str(Q), "mouseup", "1")


@pytest.mark.parametrize("viewer", VIEWERS)
def test_buttons_and_wheels(
    viewer: str,
    guest: TypingGuest,
    server: RusbServer,
    display: ManagedDisplay,
    tmp_path: Path,
) -> None:
    (tablet,) = Records.of(guest, "Tablet")
    # of X: left, middle, right; 8 and 9 are the ones at the side
    buttons = {1: "BTN_LEFT", 2: "BTN_MIDDLE", 3: "BTN_RIGHT"}
    if viewer == "xfreerdp":  # rdesktop has no more
        buttons |= {8: "BTN_SIDE", 9: "BTN_EXTRA"}
    with run_viewer(viewer, server.port, tmp_path / "viewer", display) as program:
        is_shown(display, guest, program)
        display.xdotool("mousemove", "100", "100")
        wait(partial(takes_clicks, display, tablet), "a click", program.said)
        settle(tablet)
        for number, name in buttons.items():
            click(display, tablet, number)
            expected = [(name, 1), (name, 0)]
            wait(partial(is_pressed, tablet, expected), f"{number}", tablet.said)
        for number, notch in ((4, 1), (5, -1)):
            click(display, tablet, number, times=3)
            wait(partial(is_turned, tablet, [notch] * 3), f"{number}", tablet.said)


def click(
    display: ManagedDisplay, tablet: Records, number: int, times: int = 1
) -> None:
    tablet.clear()
    for _ in range(times):
        display.xdotool("click", str(number))


def takes_keys(display: ManagedDisplay, keyboard: Records) -> bool:
    """Press shift once more; a viewer that just started may not have the focus."""
    press(display, SHIFT)
    return bool(keyboard.keys())


def settle(records: Records) -> None:
    """Wait until what was done has come."""
    before = ""
    while before != (before := records.said()):
        time.sleep(0.5)


def takes_clicks(display: ManagedDisplay, tablet: Records) -> bool:
    """Click once more; xfreerdp takes the first one for a wish to have the focus."""
    display.xdotool("click", "1")
    return bool(tablet.keys())


def is_pressed(tablet: Records, expected: list[tuple[str, int]]) -> bool:
    return tablet.keys() == expected


def is_turned(tablet: Records, notches: list[int]) -> bool:
    return tablet.values("REL_WHEEL") == notches


async def test_the_pointer_and_keys_on_each_of_two_screens(
    lab: None,
    display: ManagedDisplay,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with TwoHeads(tmp_path_factory.mktemp("s")) as guest:
        tablets = Records.of(guest, "Tablet", 2)
        (keyboard,) = Records.of(guest, "^AT ")
        config = ServerConfig(
            *(Machine(name="Two", monitors=2), "loopback"),
            ports=[0],
            address="127.0.0.1",
            log=str(tmp_path / "VBox.log"),
            state=tmp_path,
        )
        async with Server(config, screens=guest) as server:
            for viewer, head in itertools.product(VIEWERS, (0, 1)):
                while server._screens[head].size != (1280, 800):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                domain = "/d:" if viewer == "xfreerdp" else "-d"
                home = tmp_path / f"{viewer}{head}"
                options = (home, display, f"{domain}@{head + 1}")
                with run_viewer(viewer, server.port, *options) as program:
                    await asyncio.to_thread(
                        check_places, tablets[head], display, program
                    )
                    await asyncio.to_thread(check_key, keyboard, display, program)
                assert not tablets[1 - head].values("ABS_X")
                tablets[head].clear()


def check_key(keyboard: Records, display: ManagedDisplay, program: Program) -> None:
    wait(partial(takes_keys, display, keyboard), "a key", program.said)
    settle(keyboard)
    keyboard.clear()
    display.xdotool("key", "F5")
    expected = [("KEY_F5", 1), ("KEY_F5", 0)]
    wait(lambda: keyboard.keys() == expected, "F5", keyboard.said)


def check_places(tablet: Records, display: ManagedDisplay, program: Program) -> None:
    wait(lambda: not display.is_blank(), "the screen", program.said, 60)
    for x, y in ((123, 45), (799, 599), (400, 301), (0, 0)):
        display.xdotool("mousemove", str(x), str(y))

        # what libinput makes of it
        def is_there(x: int = x, y: int = y) -> bool:
            found = [tablet.values(f"ABS_{axis}")[-1:] for axis in "XY"]
            pairs = zip(found, (x, y), (1280, 800), strict=True)
            return all(v and v[0] * side // 0x8000 == at for v, at, side in pairs)

        wait(is_there, f"the pointer at {x}, {y}", tablet.said)
