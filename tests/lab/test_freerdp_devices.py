"""Devices of FreeRDP, as Debian packages it: over MS-RDPEUSB into a real guest.

The client is unmodified; the USB bus that it finds is simulated (tools/fakeusb).
"""

import asyncio
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.server.guests.loopback import LoopbackDevice
from rusb.server.vbox.settings import RemoteDisplay
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbStatus
from tests.support.lab.fatimage import fat_image
from tests.support.lab.freerdp import build, bus, freerdp
from tests.support.lab.peers import Display
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import RusbServer
from tests.support.whole_path import Lab, machine

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


@pytest.fixture(scope="module", autouse=True)
def _simulated() -> None:
    build()


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
        with freerdp(server.port, display, disk.parent, "1209:0001"):
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
            bus(disk.parent, "unplug", "1-1")
            guest.wait("dmesg | grep -q 'USB disconnect'")
            server.wait_log("VUSB: Detached")
            server.wait_log("is gone")
        # the simulated bus does not say that it is there again: so the client is anew
        bus(disk.parent, "plug", "1-1")
        with freerdp(server.port, display, disk.parent, "1209:0001"):
            server.wait_log("VUSB: Attached", 2)
            guest.wait("test -b /dev/sda")
    finally:
        server.stop()


TALK = (
    "stty -F /dev/ttyACM0 raw -echo; exec 4<>/dev/ttyACM0; echo hello >&4; head -n1 <&4"
)


def test_a_mouse_and_a_serial_port_work_beside_the_disk_of_another_client(
    guest: Guest, display: Display, tmp_path: Path
) -> None:
    settings = MACHINE.replace('productId="0001" ', "").replace(
        "<Hardware>",
        '<Hardware><RemoteDisplay enabled="true" allowMultiConnection="true"/>',
    )
    server = RusbServer(tmp_path, settings, "--guest", f"qemu:{guest.monitor}")
    try:
        server.wait_log("TCP server listening")
        both = "1209:0002", "1209:0004"
        with freerdp(server.port, display, tmp_path / "a", *both):
            server.wait_log("VUSB: Attached", 2)
            guest.wait("test -c /dev/ttyACM0")
            assert guest.sh(TALK).strip() == "hello"
            find = "sed -n '/FakeUSB Mouse/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p'"
            find += " /proc/bus/input/devices"
            guest.wait(f'test -n "$({find})"')
            name = guest.sh(find).strip()
            moves = f"dd if=/dev/input/{name} bs=24 count=6 2>/dev/null | wc -c"
            assert guest.sh(moves).strip() == "144"  # it moves all the time
            with freerdp(server.port, display, tmp_path / "b", "1209:0001"):
                server.wait_log("VUSB: Attached", 3)
                guest.wait("test -b /dev/sda")
                assert guest.sh(TALK).strip() == "hello"
            server.wait_log("VUSB: Detached")
            guest.wait("! test -b /dev/sda")
            bus(tmp_path / "a", "unplug", "1-2")
            server.wait_log("VUSB: Detached", 2)
            guest.wait(f'test -z "$({find})"')
            assert guest.sh(TALK).strip() == "hello"
    finally:
        server.stop()


async def test_all_types_of_transfers_of_several_clients(
    display: Display, tmp_path: Path
) -> None:
    settings = machine(remote_display=RemoteDisplay(allow_multi_connection=True))
    lab = Lab(tmp_path, settings, ("vrdpusb", "rdpeusb"))
    async with asyncio.timeout(60), lab.server:
        one = freerdp(lab.server.port, display, tmp_path / "a", "1209:0001")
        names = "1209:0002", "1209:0003"
        two = freerdp(lab.server.port, display, tmp_path / "b", *names)
        with one, two:
            found = await lab.guest.wait_for(3)
            disk, mouse, other = sorted(found, key=lambda d: d.attached.info.product_id)
            result = await disk.control(SetupPacket(0xC0, 1, 0, 0, 64))
            assert bytes(result.data).startswith(b"FAKEUSB1")
            result = await disk.control(SetupPacket(0xC0, 0x55, 0, 0, 64))
            assert result.status is UrbStatus.STALL
            await moves(disk, 0x04, 0x83)
            await moves(other, 0x02, 0x81)
            for device, endpoint in ((disk, 0x85), (mouse, 0x81)):
                urb = Urb(900, TransferType.INTERRUPT, endpoint, 8)
                result = await device.run(urb)
                assert result.status is UrbStatus.OK
            await disk.control(SetupPacket.set_interface(1, 1))
            urb = Urb(901, TransferType.ISOCHRONOUS, 0x86, 8 * 192, packets=(192,) * 8)
            result = await disk.run(urb)
            assert [p.length for p in result.packets] == [192] * 8
            bus(tmp_path / "a", "unplug", "1-1")
            await lab.guest.wait_for(2)
            await moves(other, 0x02, 0x81)


async def moves(device: LoopbackDevice, out: int, back: int) -> None:
    """What is written comes back."""
    assert (await device.write(out, b"hello")).length == 5
    assert bytes((await device.read(back, 512)).data) == b"hello"
