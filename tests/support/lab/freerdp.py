"""FreeRDP with devices of a simulated USB bus (tools/fakeusb)."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.lab.peers import Display, Program
from tests.support.rusbserver import CHECKOUT

__all__ = ["build", "bus", "freerdp"]

FAKEUSB = CHECKOUT / "tools" / "fakeusb"


def build() -> None:
    """Build the simulated bus."""
    subprocess.run(["make", "-s", "-C", FAKEUSB], check=True, capture_output=True)


@contextlib.contextmanager
def freerdp(
    port: int, display: Display, folder: Path, *devices: str, space: str = ""
) -> Iterator[Program]:
    """FreeRDP with devices of the simulated bus, until the block ends.

    Args:
        port: of 127.0.0.1.
        display: where its window is.
        folder: its home; ``disk.img`` in it is the disk.
        devices: vendor and product.
        space: a network namespace; empty: ours.
    """
    names = {"1209:0001": "1-1", "1209:0002": "1-2", "1209:0003": "2-1.4"}
    names |= {"1209:0004": "1-3"}
    folder.mkdir(exist_ok=True)
    command = [
        *(("ip", "netns", "exec", space) if space else ()),
        *(str(FAKEUSB / "fakeusb-run"), "-r", str(folder / "usb")),
        *("-d", ",".join(names[one] for one in devices)),
        *("-D", str(folder / "disk.img"), "xfreerdp"),
        *(f"/v:127.0.0.1:{port}", "/u:u", "/p:p", "/cert:ignore"),
        *("/size:640x480", "/bpp:16", f"/usb:id:{'#'.join(devices)}"),
    ]
    with Program(command, folder, display.name) as program:
        yield program


def bus(folder: Path, do: str, name: str) -> None:
    """Plug or unplug a device of the bus of the client with that folder."""
    command = [str(FAKEUSB / "fakeusb-ctl"), str(folder / "usb"), do, name]
    subprocess.run(command, check=True, capture_output=True)
