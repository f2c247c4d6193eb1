"""The libvirt guest backend, and a real libvirt with a domain that runs."""

import asyncio
import contextlib
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.errors import GuestError
from rusb.server.guests.libvirt import LibvirtGuest
from rusb.server.machine.libvirt_domain import LibvirtDomain
from rusb.server.vbox.model import Hardware
from rusb.server.vbox.settings import Machine
from tests.support.lab.fatimage import fat_image
from tests.support.lab.libvirtlab import Domain, Libvirt
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("libvirt"),
]

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(2 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ALL = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a715}" name="Domain">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@pytest.fixture(scope="module")
def domain(libvirt: Libvirt) -> Iterator[Domain]:
    domain = Domain(libvirt, "lab")
    with contextlib.closing(domain):
        yield domain


@contextlib.contextmanager
def client(port: int, folder: Path) -> Iterator[None]:
    """``rusb connect`` with a flash drive."""
    image = folder / "disk.img"
    if not image.exists():
        image.write_bytes(fat_image(24 * MIB, {"DATA.BIN": CONTENT}))
    process = subprocess.Popen(
        [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{port}"]
        + ["--backend", f"emulated:flash-drive={image}"],
        cwd=CHECKOUT,
        env={**os.environ, "RUSB_STATE": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def check_disk(domain: Domain) -> None:
    domain.wait("test -b /dev/sda")
    domain.sh("mount -t vfat /dev/sda /mnt")
    assert domain.sh("sha256sum /mnt/DATA.BIN").split()[0] == SHA256
    domain.sh("umount /mnt")


def test_a_disk_comes_and_goes_and_comes_back_with_its_domain(
    domain: Domain, tmp_path: Path
) -> None:
    domain.start()
    before = domain.kept()
    guest = f"libvirt:{domain.libvirt.uri},{domain.name}"
    server = RusbServer(tmp_path, ALL, "--guest", guest)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.wait_log("TCP server listening")
        with client(server.port, tmp_path):
            server.wait_log("port 1 of USB controller 0")
            check_disk(domain)
            domain.libvirt.virsh("destroy", domain.name)
            server.wait_log("'lab' has ended; its devices are attached again when it")
            domain.start()
            server.wait_log("VUSB: Attached 'usb-", 2)
            check_disk(domain)
            assert "the guest is back: its devices are attached again" in server.said()
        server.wait_log("VUSB: Detached 'usb-2")
        domain.wait("! test -b /dev/sda")
        domain.wait_free()
        assert domain.kept() == before


async def test_what_a_killed_server_left_is_removed(
    domain: Domain, tmp_path: Path
) -> None:
    guest = f"{domain.libvirt.uri},{domain.name}"
    server = RusbServer(tmp_path, ALL, "--guest", f"libvirt:{guest}")
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.wait_log("TCP server listening")
        with client(server.port, tmp_path):
            server.wait_log("VUSB: Attached 'usb-")
            other = LibvirtGuest(guest)
            await other.start()
            await other.aclose()
            assert len(domain.aliases()) == 1  # it is in use
            server.process.kill()
            server.process.wait()
    assert len(domain.aliases()) == 1
    again = LibvirtGuest(guest)
    await again.start()
    await again.aclose()
    domain.wait("! test -b /dev/sda")
    domain.wait_free()


async def test_a_domain_that_is_off(domain: Domain) -> None:
    domain.libvirt.virsh("destroy", domain.name)
    guest = LibvirtGuest(f"{domain.libvirt.uri},{domain.name}")
    with pytest.raises(GuestError, match="'lab' is off: start it with 'virsh -c"):
        await guest.start()


async def test_a_domain_takes_over_the_state_of_another(
    libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the contract of hypervisors calls incoming; without a screen, for QEMU 7.2
    cannot migrate what gives spice-vdagent the clipboard."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt.uri)
    monkeypatch.setenv("RUSB_RUNTIME", str(libvirt.dir))
    monkeypatch.setenv("RUSB_ACCEL", "tcg")
    hardware = Hardware(memory=32, usb=("XHCI",))
    old, new = (
        LibvirtDomain(
            Machine(name, f"3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a7{number}", monitors=0),
            hardware,
            lambda line: None,
            lambda: None,
        )
        for number, name in enumerate(("Old", "New"), 17)
    )
    place = f"unix:{libvirt.dir}/state"
    try:
        async with asyncio.timeout(60):
            await old.start()
            await new.start(incoming=place)
            assert await new.status() == "inmigrate"
            await old.execute("migrate", {"uri": place})
            while await new.status() != "running":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert await old.status() == "postmigrate"
    finally:
        await old.stop()
        await new.stop()
    names = libvirt.virsh("list", "--all", "--name").split()
    assert not {"Old", "New"} & set(names)
