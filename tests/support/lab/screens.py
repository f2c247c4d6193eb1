"""A guest with a screen, and windows on a display that nobody looks at."""

import ctypes
import io
import os
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from rusb.rdp.graphics.pixels import Frame, frame_of
from rusb.server.machine.command_line import _screens, _tablets
from tests.support.lab.assets import GUEST
from tests.support.lab.peers import HEIGHT, WIDTH, Display, wait
from tests.support.lab.usblab import Guest

__all__ = ["ManagedDisplay", "Records", "ScreenGuest", "TwoHeads"]


class ScreenGuest(Guest):
    """A guest with a console on its screen, and a shell there."""

    modules: ClassVar[tuple[str, ...]] = (*GUEST, "bochs", "atkbd")
    programs = ("evtest",)
    has_shell = True
    tablet = "usb-tablet,bus=xhci.0"

    def __init__(self) -> None:
        size = f"xres={WIDTH},yres={HEIGHT}"
        super().__init__(
            *("-vnc", "none", "-device", f"VGA,id=video0,edid=on,{size}"),
            *("-device", self.tablet),
        )
        self.sh("printf '\\033[?25l' >/dev/tty1")  # no cursor that blinks
        if self.has_shell:
            self.sh("setsid -c sh -c 'PS1=\"# \" sh -i <>/dev/tty1 >&0 2>&1' &")

    def picture(self, head: int = 0) -> Frame:
        """What QEMU itself says is to be seen."""
        path = self.dir / "screen.ppm"
        self.qmp("screendump", filename=str(path), device="video0", head=head)
        image = Image.open(io.BytesIO(path.read_bytes()))
        frame = frame_of(*image.size, image.tobytes())
        return frame[: image.height, : image.width]


class TwoHeads(ScreenGuest):
    """A guest with two screens and their tablets, as our machines have them."""

    modules = (*GUEST, "virtio_gpu", "atkbd")
    has_tablets = True

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "0", folder / "1"]
        tablets = [word.replace("usb0.0", "xhci.0") for word in _tablets(2)]
        Guest.__init__(self, *_screens(self.paths), *tablets)
        # no cursor that blinks, but something to see: the console is empty
        self.sh("printf '\\033[?25lTwo heads' >/dev/tty1")

    async def open_screen(self, head: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(str(self.paths[head]))
        return sock

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        place = {"device": "video0", "head": head}
        self.qmp("input-send-event", events=list(events), **place)


class Records:
    """What a guest's input device reports, as ``evtest`` there says it.

    Args:
        guest: the machine.
        device: of ``/dev/input``, such as ``event0``.
    """

    def __init__(self, guest: Guest, device: str) -> None:
        self._guest, self._path = guest, f"/tmp/{device}"
        if not guest.ok(f"[ -e {self._path} ]"):  # once for all
            guest.sh(f"evtest /dev/input/{device} >>{self._path} 2>&1 &")
            guest.wait(f"grep -q ^Testing {self._path}", 30)
        self.clear()

    @classmethod
    def of(cls, guest: Guest, name: str, count: int = 1) -> list["Records"]:
        """Those of the devices with a word in their names, of which there are some."""
        list_them = f"grep -l '{name}' /sys/class/input/event*/device/name"
        guest.wait(f"[ $({list_them} | wc -l) -ge {count} ]", 30)
        found = guest.sh(list_them)
        return [cls(guest, line.split("/")[4]) for line in found.split()]

    def clear(self) -> None:
        """Forget what has come."""
        self._guest.sh(f"true >{self._path}")

    def said(self) -> str:
        """What it said since."""
        return self._guest.sh(f"cat {self._path}")

    def keys(self) -> list[tuple[str, int]]:
        """Names and values of the keys and buttons that came since."""
        return self._read(r"(?:KEY|BTN)_\w+")

    def values(self, name: str) -> list[int]:
        """Values of one axis or wheel that came since."""
        return [value for _, value in self._read(name)]

    def _read(self, names: str) -> list[tuple[str, int]]:
        pattern = rf"code \d+ \(({names})\), value (-?\d+)\n"
        return [(name, int(value)) for name, value in re.findall(pattern, self.said())]


class _ClientMessage(ctypes.Structure):
    """XClientMessageEvent, in the size of any event."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("padding", ctypes.c_long * 12),
    )


class ManagedDisplay(Display):
    """A display that has what window managers bring: a way to close windows.

    rdesktop only looks whether there is the atom for it when it starts.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = ctypes.c_void_p
        x11.XInternAtom.restype = ctypes.c_ulong
        x11.XInternAtom.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
        x11.XSendEvent.argtypes = (
            *(ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long),
            ctypes.c_void_p,
        )
        x11.XSync.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._x11 = x11
        self._display = x11.XOpenDisplay(self.name.encode())
        assert self._display
        self._atoms = [
            x11.XInternAtom(self._display, name, 0)
            for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW")
        ]
        x11.XSync(self._display, 0)

    def windows(self, name: str) -> list[int]:
        """The windows with a word in their titles."""
        found = self.xdotool("search", "--onlyvisible", "--name", name, check=False)
        return [int(line) for line in found.split()]

    def close_window(self, name: str) -> None:
        """Do as who clicks on the cross of a window."""
        wait(lambda: bool(self.windows(name)), f"a window {name}", self.said)
        (window,) = self.windows(name)
        protocols, delete = self._atoms
        event = _ClientMessage(33, 0, 1, self._display, window, protocols, 32)
        event.data[0] = delete
        self._x11.XSendEvent(self._display, window, 0, 0, ctypes.byref(event))
        self._x11.XSync(self._display, 0)

    def xdotool(self, *words: str, check: bool = True) -> str:
        """Do something as a user; return what it says."""
        return self.run("xdotool", *words, check=check)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program on the display; return what it says."""
        done = subprocess.run(
            command,
            env={**os.environ, "DISPLAY": self.name},
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout
