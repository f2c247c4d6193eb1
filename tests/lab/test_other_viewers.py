"""Viewers that ask to be clicked, and clients in other languages, against our server.

They start side by side, for most of their time goes by waiting. Each logs on with a
name of its own, and has to show the colour of the guest's screen.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import ImageGrab

from tests.support.lab.peers import (
    MACHINE,
    SEES,
    Display,
    Program,
    Record,
    wait,
)
from tests.support.lab.screens import ScreenGuest
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("viewers"),
]

HERE = Path(__file__).parent / "viewers"
NODE = CHECKOUT / ".make" / "node"
"""Where the Makefile puts node-rdpjs-2."""

PACKAGES = {
    "remmina": "remmina-plugin-rdp",
    "krdc": "krdc",
    "gnome-connections": "gnome-connections",
    "vinagre": "vinagre",
    "dbus-run-session": "dbus-daemon",
}

REMMINA = """[remmina]
name=rusb
protocol=RDP
server=127.0.0.1:PORT
username=remmina
password=
colordepth=16
security=tls
cert_ignore=1
resolution_mode=1
"""
KRDC = """[hostpreferences][rdp://krdc@127.0.0.1:PORT]
showConfigAgain=false
walletSupport=false
resolution=1
width=800
height=600
"""
CONNECTIONS = "[org/gnome/Connections]\nfirst-run=false\n"

STARTS = 80.0
"""Seconds for all of them on two processors that have other work, too."""

DIALOG, AGAIN = 4.0, 15.0
"""Seconds that a window has for its dialog, and for what it makes of the keys: those
that come once its dialog is gone may press a button, such as the one back."""

TOLERANCE = 10
"""In each colour: the pictures have 16 bit, and GNOME Connections scales them."""


BACKGROUND = (0, 0, 170)
"""The colour that the guest's console is filled with: Linux' blue."""


def is_background(colour: object) -> bool:
    assert isinstance(colour, tuple)
    pairs = zip(colour[:3], BACKGROUND, strict=True)
    return all(abs(int(a) - b) <= TOLERANCE for a, b in pairs)


class Viewer:
    """One that runs; :meth:`sees` tells whether it has the guest's screen."""

    def __init__(self, program: Program, display: Display | None, keys: str) -> None:
        self.program = program
        self._display = display
        self._keys = keys.split()
        self._typed = 0.0
        self._patience = DIALOG

    def sees(self) -> bool:
        if self._display is None:
            said = re.findall(r"^colour (\d+) (\d+) (\d+)", self.program.said(), re.M)
            return any(is_background(tuple(map(int, rgb))) for rgb in said)
        picture = ImageGrab.grab(xdisplay=self._display.name).convert("RGB")
        counts = picture.getcolors(1 << 20) or []
        return sum(n for n, colour in counts if is_background(colour)) > 100_000

    def logs_on(self, log: Callable[[], str], name: str) -> bool:
        """Has it logged on? If not yet, type what its dialog asks for."""
        if f"User: [{'' if name in NAMELESS else name}]" in log():
            return True
        if self._display is None or not self._keys or self._display.is_blank():
            self._typed = time.monotonic()
        elif time.monotonic() - self._typed > self._patience:
            subprocess.run(
                ["xdotool", "key", "--delay", "50", *self._keys],
                env={**os.environ, "DISPLAY": self._display.name},
                check=False,
            )
            self._typed, self._patience = time.monotonic(), AGAIN
        return False


def put(path: Path, text: str, port: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("PORT", str(port)))
    return path


def in_session(folder: Path, *command: str) -> list[str]:
    """A command with a D-Bus of its own, whose settings are files."""
    run = folder / "run"
    run.mkdir(mode=0o700)
    names = [f"XDG_RUNTIME_DIR={run}", "GSETTINGS_BACKEND=keyfile", "NO_AT_BRIDGE=1"]
    return ["env", *names, "dbus-run-session", "--", *command]


def command_of(name: str, folder: Path, port: int) -> list[str]:
    """How a viewer is started, with the files that spare it questions."""
    config = folder / ".config"
    match name:
        case "aardwolf":
            return [sys.executable, str(HERE / "aardwolf_peer.py"), str(port)]
        case "rdpjs":
            node = str(Path(sys.executable).parent / "node")
            return [node, str(HERE / "rdpjs_peer.js"), str(NODE), str(port)]
        case "remmina":
            profile = put(folder / "one.remmina", REMMINA, port)
            return in_session(folder, "remmina", "-c", str(profile))
        case "krdc":
            put(config / "krdcrc", KRDC, port)
            return in_session(folder, "krdc", f"rdp://krdc@127.0.0.1:{port}")
        case "vinagre":
            return in_session(folder, "vinagre", f"rdp://127.0.0.1:{port}")
        case _:
            put(config / "glib-2.0" / "settings" / "keyfile", CONNECTIONS, port)
            return in_session(folder, "gnome-connections", f"rdp://127.0.0.1:{port}")


KEYS = {  # what a dialog asks for: a password, a name and a password, or consent
    "aardwolf": "",
    "rdpjs": "",
    "remmina": "",
    "krdc": "p Return",
    "connections": "ctrl+a c o n n e c t i o n s Tab p Return",
    "vinagre": "Return",
}
WINDOWS = ("remmina", "krdc", "connections", "vinagre")

NAMELESS = ("vinagre",)
"""Those that log on without a name; of these there is one."""


@pytest.fixture(scope="module")
def guest(lab: None) -> Iterator[ScreenGuest]:
    with ScreenGuest() as guest:
        guest.sh("printf '\\033[44m\\033[2J' >/dev/tty1")
        yield guest


@pytest.fixture(scope="module")
def server(
    guest: ScreenGuest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RusbServer]:
    missing = [p for name, p in PACKAGES.items() if not shutil.which(name)]
    if not (NODE / "node_modules" / "node-rdpjs-2").is_dir():
        missing.append(str(NODE))
    if missing:
        reason = f"missing: {' '.join(missing)}; make system .make/node installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    method = '<Property name="Security/Method" value="Negotiate"/>'
    machine = MACHINE.replace("PROPERTIES", method)
    folder = tmp_path_factory.mktemp("s")
    server = RusbServer(folder, machine, "--guest", f"qemu:{guest.monitor}")
    try:
        server.wait_log("TCP server listening")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def viewers(
    server: RusbServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Viewer]]:
    """All of them, started."""
    with ExitStack() as stack:
        found = {}
        for name, keys in KEYS.items():
            folder = tmp_path_factory.mktemp(name)
            display = None
            if name in WINDOWS:
                display = stack.enter_context(Display(folder))
            command = command_of(name, folder, server.port)
            shown = display.name if display else None
            program = stack.enter_context(Program(command, folder, shown))
            found[name] = Viewer(program, display, keys)
        yield found


@pytest.mark.parametrize("name", KEYS)
def test_a_viewer_of_others_shows_the_guest(
    name: str, viewers: dict[str, Viewer], server: RusbServer, matrix: Record
) -> None:
    viewer = viewers[name]

    def logs_on() -> bool:  # the others answer their dialogs meanwhile
        done = [n for n, one in viewers.items() if one.logs_on(server.log, n)]
        return name in done

    def said() -> str:
        return f"{viewer.program.said()}\n{server.log()[-4000:]}"

    wait(logs_on, name, said, STARTS)
    wait(viewer.sees, f"the guest's screen in {name}", said, STARTS)
    log = server.log()
    assert "Using standard RDP security" not in log
    matrix(name, "rusb Negotiate", "TLS", SEES)
