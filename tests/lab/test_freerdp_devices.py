"""Devices of FreeRDP, as Debian packages it: over MS-RDPEUSB into a real guest.

The client is unmodified; the USB bus that it finds is simulated (tools/fakeusb).
"""

import contextlib
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.fatimage import fat_image
from tests.support.lab.peers import Display, Program
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
    pytest.mark.skipif(
        os.getuid() != 0, reason="simulated USB needs root for a mount namespace"
    ),
]

MIB = 1 << 20
CONTENT = random.Random(5).randbytes(16 * MIB)
FAKEUSB = CHECKOUT / "tools" / "fakeusb"

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{8a4c8f10-7a44-4e0b-9c1d-5f2a9be6a7f1}" name="FreeRDP">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="disks" active="true" vendorId="1209"
                        productId="0001" remote="yes"/>
        </DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@contextlib.contextmanager
def freerdp(
    server: RusbServer, display: Display, folder: Path, *devices: str
) -> Iterator[Program]:
    """FreeRDP with devices of the simulated bus, until the block ends."""
    names = {"1209:0001": "1-1", "1209:0002": "1-2"}
    folder.mkdir(exist_ok=True)
    command = [
        *(str(FAKEUSB / "fakeusb-run"), "-r", str(folder / "usb")),
        *("-d", ",".join(names[one] for one in devices)),
        *("-D", str(folder / "disk.img"), "xfreerdp"),
        *(f"/v:127.0.0.1:{server.port}", "/u:u", "/p:p", "/cert:ignore"),
        *("/size:640x480", "/bpp:16", f"/usb:id:{'#'.join(devices)}"),
    ]
    with Program(command, folder, display.name) as program:
        yield program


@pytest.fixture(scope="module", autouse=True)
def _simulated() -> None:
    subprocess.run(["make", "-s", "-C", FAKEUSB], check=True, capture_output=True)


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


def test_the_guest_mounts_the_disk_reads_and_writes(
    guest: Guest, display: Display, tmp_path: Path
) -> None:
    server = RusbServer(tmp_path, MACHINE, "--guest", f"qemu:{guest.monitor}")
    try:
        server.wait_log("TCP server listening")
        disk = tmp_path / "client" / "disk.img"
        disk.parent.mkdir()
        disk.write_bytes(fat_image(64 * MIB, {"DATA.BIN": CONTENT}))
        with freerdp(server, display, disk.parent, "1209:0001"):
            server.wait_log("VUSB: Attached")
            guest.wait("test -b /dev/sda")
            guest.sh("mount -t vfat /dev/sda /mnt")
            digest = hashlib.sha256(CONTENT).hexdigest()
            assert guest.sh("sha256sum /mnt/DATA.BIN").split()[0] == digest
            written = random.Random(6).randbytes(MIB)
            guest.put("/tmp/new", written)
            guest.sh("cp /tmp/new /mnt/NEW.BIN && umount /mnt")
            assert written in disk.read_bytes()
            guest.sh("dmesg -c >/dev/null")
        guest.wait("dmesg | grep -q 'USB disconnect'")
        server.wait_log("VUSB: Detached")
        with freerdp(server, display, disk.parent, "1209:0001"):
            server.wait_log("VUSB: Attached", 2)
            guest.wait("test -b /dev/sda")
    finally:
        server.stop()
