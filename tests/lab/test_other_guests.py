"""Guests beside QEMU of ours: Linux by USB/IP and vhci_hcd, chardevs of any QEMU."""

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.client import ClientConfig, connect
from rusb.client.backends.emulated import EmulatedBackend, FlashDrive
from tests.support.lab.fatimage import fat_image
from tests.support.lab.usblab import Client, Guest
from tests.support.rusbserver import WITH_USB, RusbServer, free_port

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

SYSFS = "/sys/devices/platform/vhci_hcd.0"

MIB = 1 << 20
CONTENT = random.Random(5).randbytes(3 * MIB)
SUM = hashlib.sha256(CONTENT).hexdigest()


def drive() -> FlashDrive:
    return FlashDrive(bytearray(fat_image(17 * MIB, {"DATA.BIN": CONTENT})))


@pytest.fixture(scope="module")
def kernel(client_vm: Client) -> Iterator[Client]:
    client_vm.modprobe("vhci_hcd", "cdc_acm", "vfat", "nls_cp437", "nls_ascii")
    yield client_vm
    assert "006" not in ports(client_vm)  # nothing is left in use


def ports(vm: Client) -> list[str]:
    """The states of all ports."""
    status = vm.sh(f"cat {SYSFS}/status*")
    return re.findall(r"^[hs]s +\d+ (\d+)", status, re.MULTILINE)


@pytest.fixture
async def exported(tmp_path: Path) -> AsyncIterator[int]:
    """The port at which a server exports what a client brings: a disk."""
    port = free_port()
    server = RusbServer(tmp_path, WITH_USB, "--guest", f"usbip:127.0.0.1:{port}")
    try:
        await asyncio.to_thread(server.wait_log, "TCP server listening")
        config = ClientConfig(
            "127.0.0.1", server.port, known_servers=tmp_path / "known"
        )
        async with connect(config, backends=[EmulatedBackend(devices=[drive()])]):
            await asyncio.to_thread(server.wait_log, "busid 1-1")
            yield port
    finally:
        server.stop()


async def test_linux_attaches_what_a_client_brought(
    kernel: Client, exported: int
) -> None:
    def run() -> None:
        usbip = f"/usr/sbin/usbip --tcp-port {exported}"
        listed = kernel.sh(f"{usbip} list -r 10.0.2.2")
        assert "1209:0001" in listed
        assert "08/06/50" in listed
        for _ in range(2):  # it can be had again
            kernel.sh(f"{usbip} attach -r 10.0.2.2 -b 1-1")
            kernel.wait("test -b /dev/sda1 -o -b /dev/sda")
            kernel.sh("mkdir -p /run/disk; mount -o ro /dev/sda /run/disk")
            assert SUM in kernel.sh("sha256sum /run/disk/DATA.BIN")
            assert "1-1" in kernel.sh("/usr/sbin/usbip port 2>/dev/null")
            refused = kernel.sh(f"{usbip} attach -r 10.0.2.2 -b 1-1 2>&1 || true")
            assert "error" in refused
            kernel.sh("umount /run/disk; /usr/sbin/usbip detach -p 0")
            kernel.wait("! test -b /dev/sda")

    await asyncio.to_thread(run)


def add_chardev(guest: Guest, path: Path, *, is_server: bool) -> None:
    """Add a usb-redir whose chardev is a socket of the file system."""
    address = {"type": "unix", "data": {"path": str(path)}}
    data = {"addr": address, "server": is_server}
    if is_server:
        data["wait"] = False
    guest.qmp("chardev-add", id="other", backend={"type": "socket", "data": data})
    guest.qmp(
        "device_add", driver="usb-redir", id="redir", chardev="other", bus="xhci.0"
    )


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_chardev_of_a_qemu_takes_a_device(
    guest: Guest, tmp_path: Path, is_server: bool
) -> None:
    path = tmp_path / "redir"
    if is_server:
        add_chardev(guest, path, is_server=True)
    place = f"usbredir:{path}" if is_server else f"usbredir:listen={path}"
    server = RusbServer(tmp_path, WITH_USB, "--guest", place)
    try:
        await asyncio.to_thread(server.wait_log, "TCP server listening")
        if not is_server:
            add_chardev(guest, path, is_server=False)
        config = ClientConfig(
            "127.0.0.1", server.port, known_servers=tmp_path / "known"
        )
        async with connect(config, backends=[EmulatedBackend(devices=[drive()])]):
            await asyncio.to_thread(guest.wait, "test -b /dev/sda")
            found = await asyncio.to_thread(
                guest.sh, "mount -t vfat /dev/sda /mnt && sha256sum /mnt/DATA.BIN"
            )
            assert found.split()[0] == SUM
            await asyncio.to_thread(guest.sh, "umount /mnt")
        await asyncio.to_thread(guest.wait, "! test -b /dev/sda")
    finally:
        server.stop()
