"""Take the pictures of the guides: a real viewer, a guest, and its USB disk.

Usage: python tools/screenshots.py [FOLDER]

On a display that nobody looks at, ``rdesktop-vrdp`` shows a small Linux (see
``small_linux.py``) that a flash drive is plugged into, once with xfreerdp, then the
status page of a machine without a screen. It needs what the lab of the tests needs.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageGrab

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.lab.peers import MACHINE, Program, wait
from tests.support.lab.screens import ManagedDisplay, ScreenGuest
from tests.support.rusbserver import CHECKOUT, RusbServer

COMMANDS = (
    "clear",
    "dmesg | grep 'usb [0-9]' | tail -5",
    "mount -t vfat /dev/sda /mnt",
    "df -h /mnt; ls -l /mnt",
    "cat /mnt/README.TXT",
)

MAX_SIZE = 150_000


def take(display: ManagedDisplay, path: Path) -> None:
    """Save what is on a display, with few colours, for it is text."""
    picture = ImageGrab.grab(xdisplay=display.name).convert("RGB")
    small = picture.quantize(64, method=Image.Quantize.MEDIANCUT)
    small.save(path, optimize=True)
    size = path.stat().st_size
    assert size < MAX_SIZE, f"{path} has {size} bytes"
    print(f"{path}: {size} bytes")


def show(folder: Path, target: Path, guest: ScreenGuest | None) -> None:
    """Start a server and a viewer, bring a disk, and take a picture."""
    kind = f"qemu:{guest.monitor}" if guest else "loopback"
    for name in ("server", "display", "client"):
        (folder / name).mkdir(parents=True)
    server = RusbServer(
        folder / "server", MACHINE.replace("PROPERTIES", ""), "--guest", kind
    )
    try:
        server.wait_log("TCP server listening")
        command = [sys.executable, "-m", "rusb", "connect", "--view"]
        command += ["--backend", "emulated:flash-drive", f"127.0.0.1:{server.port}"]
        words = ["env", f"PYTHONPATH={CHECKOUT}", *command]
        with (
            ManagedDisplay(folder / "display") as display,
            Program(words, folder / "client", display.name) as program,
        ):
            server.wait_log("Attached")
            wait(lambda: not display.is_blank(), "the window", program.said, 60)
            if guest is not None:
                guest.wait("[ -b /dev/sda ]", 60)
                for line in COMMANDS:
                    display.xdotool("type", "--delay", "30", line)
                    display.xdotool("key", "Return")
                    time.sleep(2)
                guest.wait("[ -f /mnt/README.TXT ]", 20)  # it was typed right
                wait(
                    lambda: display.shows(guest.picture(), 24),
                    "what the guest shows",
                    program.said,
                )
            time.sleep(2)
            take(display, target)
    finally:
        server.stop()


def main() -> None:
    """Take both pictures."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "docs/guide/images")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show(folder / "status", target / "status-page.png", None)
        with ScreenGuest() as guest:
            show(folder / "guest", target / "guest-and-disk.png", guest)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
