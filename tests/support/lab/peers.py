"""RDP programs of others, as Debian packages them, on a display of their own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import ImageGrab

from rusb.rdp.graphics.pixels import PALETTE, Frame, from_depth, to_depth
from tests.support.lab.assets import LabError
from tests.support.rusbserver import free_port

WIDTH, HEIGHT = 800, 600

ROUNDING = 9
"""In each colour: how viewers widen five or six bits (display.md, at its top)."""

MERGED = 60
"""Of so many colours of 16 bit two may be one: xfreerdp shows two of 64 greens so."""

PATIENCE = 60.0
"""Seconds for what takes one or two on a machine with nothing else to do."""

PACKAGES = {
    "Xvfb": "xvfb",
    "rdesktop": "rdesktop",
    "xfreerdp": "freerdp2-x11",
    "xrdp": "xrdp",
    "freerdp-shadow-cli": "freerdp2-shadow-x11",
    "xdotool": "xdotool",
    "xclip": "xclip",
    "spice-vdagent": "spice-vdagent",
    "evtest": "evtest",
}
"""Programs, and the packages that have them."""


def missing() -> list[str]:
    """Packages that have to be installed first."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [p for name, p in PACKAGES.items() if not shutil.which(name, path=path)]


class Program:
    """A process that ends with the block it is used in.

    Args:
        command: program and arguments.
        folder: its home; ``NAME.out`` there gets what it prints.
        display: of X; None: it needs none.
        stdin: what it reads.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        display: str | None = None,
        stdin: bytes = b"",
    ) -> None:
        self.output = folder / f"{Path(command[0]).name}.out"
        env = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "HOME": str(folder)}
        env |= {"LANG": "C.UTF-8", "DISPLAY": display or ""}
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,
                start_new_session=True,  # with whatever it starts
            )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.write(stdin)
            self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._signal(signal.SIGKILL)  # a viewer's own processes
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def said(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace")

    def wait_end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabError(f"it still runs: {self.said()}") from None


class Display(Program):
    """An X server without a screen to look at."""

    def __init__(self, folder: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
        size = f"{width}x{height}x24"
        command = [
            "Xvfb",
            "-displayfd",
            "1",
            "-screen",
            "0",
            size,
            "-nolisten",
            "tcp",
            "-noreset",
            "-r",  # a key that is released late, on a busy machine, is pressed once
        ]
        super().__init__(command, folder)
        try:
            wait(lambda: self._number() is not None, "Xvfb", self.said)
        except LabError:
            self.__exit__(None, None, None)
            raise
        self.name = f":{self._number()}"

    def _number(self) -> int | None:
        """Of the display; complaints about numbers that others have come before it."""
        found = re.search(r"^(\d+)\n", self.said(), re.MULTILINE)
        return int(found[1]) if found else None

    def shows(self, picture: Frame, depth: int = 16) -> bool:
        """Is a picture at the top left, equal as display.md defines it at its top?

        At 15 and 16 bit each colour is one and the same everywhere, and different ones
        are different, but for a few in a photograph: xfreerdp's own rounding.
        """
        height, width = picture.shape
        grabbed = np.asarray(ImageGrab.grab(xdisplay=self.name).convert("RGB"))
        found = grabbed[:height, :width].astype(np.int32)
        depth = min(depth, 24)  # the server grants no more
        pixels = to_depth(picture, depth)
        wide = from_depth(pixels, depth, PALETTE)
        expected = np.stack([wide >> 16, wide >> 8 & 0xFF, wide & 0xFF], 2)
        if found.shape != expected.shape:
            return False
        if depth in (8, 24):
            return bool(np.array_equal(found, expected))
        if abs(found - expected.astype(np.int32)).max() > ROUNDING:
            return False
        seen = found[:, :, 0] << 16 | found[:, :, 1] << 8 | found[:, :, 2]
        pairs = np.unique(pixels.astype(np.int64) << 24 | seen)
        colours, shown = len(np.unique(pairs >> 24)), len(np.unique(pairs & 0xFFFFFF))
        return len(pairs) == colours and shown >= colours - colours // MERGED

    def is_blank(self) -> bool:
        """Is there nothing to be seen?"""
        colours = ImageGrab.grab(xdisplay=self.name).convert("RGB").getcolors()
        return colours is not None and len(colours) == 1


def wait(
    held: Callable[[], bool],
    what: str,
    said: Callable[[], str] = str,
    seconds: float = PATIENCE,
) -> None:
    """Wait until something holds.

    Raises:
        LabError: it did not in time; *said* tells what happened instead.
    """
    end = time.monotonic() + seconds
    while not held():
        if time.monotonic() > end:
            raise LabError(f"waited for {what} in vain: {said()}")
        time.sleep(0.1)


class Xrdp(Program):
    """xrdp, which listens on ``port``.

    Args:
        folder: of its configuration.
        layer: its ``security_layer``: tls, rdp or negotiate.
        level: its ``crypt_level``: none, low, medium, high or fips.
    """

    def __init__(self, folder: Path, layer: str, level: str = "high") -> None:
        self.port = free_port()
        text = Path("/etc/xrdp/xrdp.ini").read_text()
        for name, value in (
            ("port", f"tcp://127.0.0.1:{self.port}"),
            ("security_layer", layer),
            ("crypt_level", level),
            ("fork", "false"),
            ("LogFile", str(folder / "xrdp.log")),
        ):
            text = re.sub(rf"(?m)^{name}=.*", f"{name}={value}", text, count=1)
        config = folder / "xrdp.ini"
        config.write_text(text)
        super().__init__(["xrdp", "--nodaemon", "-c", str(config)], folder)
        wait(lambda: listens(self.port), "xrdp", self.said)


class Shadow(Program):
    """FreeRDP's server on ``port``: shows *display*; *security* is as in ``/sec``."""

    def __init__(self, folder: Path, display: Display, security: str) -> None:
        self.port = free_port()
        command = ["freerdp-shadow-cli", f"/port:{self.port}", "-auth"]
        command += ["/bind-address:127.0.0.1", f"/sec:{security}"]
        super().__init__(command, folder, display.name)
        wait(lambda: listens(self.port), "the shadow server", self.said)


def listens(port: int) -> bool:
    """Does anybody listen on a port of 127.0.0.1? Asked without connecting."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()


NAME = "Peers"
MACHINE = f"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a703}}" name="{NAME}">
    <Hardware>
      <RemoteDisplay enabled="true" allowMultiConnection="true">
        <VRDEProperties>
          PROPERTIES
        </VRDEProperties>
      </RemoteDisplay>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="all" active="true" remote="yes"/>
        </DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""
Record = Callable[[str, str, str, str], None]
"""Writes a line of the matrix: client, server, security, outcome."""

SEES = "sees the guest"
"""Outcome of a viewer that shows the screen of a virtual machine."""
