"""Devices of other programs: Linux's usbipd, usbredirect of Debian."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.client import ClientConfig, connect
from rusb.client.devices import load_backend
from rusb.usb.types import Speed
from tests.support.lab.fatimage import fat_image
from tests.support.lab.usblab import Client, Guest
from tests.support.rusbserver import WITH_USB, RusbServer, free_port

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

MIB = 1 << 20
CONTENT = random.Random(6).randbytes(3 * MIB)
SUM = hashlib.sha256(CONTENT).hexdigest()
WRITTEN = b"written from afar\n"


class Owner:
    """A machine with a USB stick, which it gives away.

    Attributes:
        image: the stick's.
        port: of 127.0.0.1; it leads to the program that offers the stick.
    """

    def __init__(self, vm: Client, image: Path, inside: int) -> None:
        self.vm, self.image = vm, image
        self.port = free_port()
        forward = f"tcp:127.0.0.1:{self.port}-:{inside}"
        said = vm.qmp.hmp(f"hostfwd_add n0 {forward}")
        assert not said.strip(), said
        self._forward = forward.partition("-")[0]

    def close(self) -> None:
        self.vm.qmp.hmp(f"hostfwd_remove n0 {self._forward}")


@pytest.fixture
def stick(client_vm: Client, tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "stick"
    image.write_bytes(fat_image(17 * MIB, {"DATA.BIN": CONTENT}))
    client_vm.add_disk("source", image)
    client_vm.wait("test -b /dev/sda")
    yield image
    client_vm.remove_disk("source")


BUSID = "grep -l HARDDRIVE /sys/bus/usb/devices/*/product | cut -d/ -f6"
USBIP = "/usr/sbin/usbip"


@pytest.fixture
def usbipd(client_vm: Client, stick: Path) -> Iterator[Owner]:
    """Linux's server has the stick."""
    client_vm.modprobe("usbip_host")
    owner = Owner(client_vm, stick, 3240)
    client_vm.sh("/usr/sbin/usbipd -4 -D -P/run/usbipd.pid")
    client_vm.sh(f"{USBIP} bind -b $({BUSID})")
    yield owner
    client_vm.sh(f"{USBIP} unbind -b $({BUSID}); kill $(cat /run/usbipd.pid)")
    owner.close()


@pytest.fixture
def usbredirect(client_vm: Client, stick: Path) -> Iterator[Owner]:
    """usbredirect has the stick; it ends when its connection does."""
    owner = Owner(client_vm, stick, 4000)
    client_vm.sh(
        "usbredirect --device 46f4:0001 --as 0.0.0.0:4000 >/run/redirect.log 2>&1 &"
        " echo $! >/run/redirect.pid"
    )
    client_vm.wait("grep -q 0FA0 /proc/net/tcp")
    yield owner
    client_vm.sh("kill $(cat /run/redirect.pid); true")
    owner.close()


@pytest.fixture
async def server(guest: Guest, tmp_path: Path) -> AsyncIterator[RusbServer]:
    server = RusbServer(tmp_path, WITH_USB, "--guest", f"qemu:{guest.monitor}")
    try:
        await asyncio.to_thread(server.wait_log, "TCP server listening")
        yield server
    finally:
        server.stop()


async def use(guest: Guest, server: RusbServer, source: str, image: Path) -> None:
    """The guest of a server mounts a disk of a source, reads it and writes to it."""
    config = ClientConfig(
        "127.0.0.1",
        server.port,
        known_servers=image.parent / "known",
    )

    def run() -> None:
        guest.wait("test -b /dev/sda")
        guest.sh("mount -t vfat /dev/sda /mnt")
        assert guest.sh("sha256sum /mnt/DATA.BIN").split()[0] == SUM
        guest.sh(f"echo {WRITTEN.decode().strip()} >/mnt/NEW.TXT; umount /mnt")
        assert WRITTEN in image.read_bytes()

    async with connect(config, backends=[load_backend(source)]):
        await asyncio.to_thread(run)
    await asyncio.to_thread(guest.wait, "! test -b /dev/sda")


async def test_a_device_of_usbipd_is_in_a_guest(
    usbipd: Owner, guest: Guest, server: RusbServer
) -> None:
    for _ in range(2):  # Linux resets it in between, and refuses it until then
        await use(guest, server, f"usbip:127.0.0.1:{usbipd.port}", usbipd.image)


async def test_a_list_of_usbipd_is_complete(usbipd: Owner) -> None:
    """Its own list has neither interfaces nor what is in use."""
    backend = load_backend(f"usbip:127.0.0.1:{usbipd.port}")
    async with asyncio.timeout(60):
        (local,) = await backend.list_devices()
        info = local.info
        assert (info.vendor_id, info.product_id) == (0x46F4, 1)
        assert (info.manufacturer, info.speed) == ("QEMU", Speed.SUPER)
        opened = await backend.open(local)
        assert await backend.list_devices() == [local]
        await opened.aclose()
        await backend.aclose()


async def test_a_device_of_usbredirect_is_in_a_guest(
    usbredirect: Owner, guest: Guest, server: RusbServer
) -> None:
    source = f"usbredir:127.0.0.1:{usbredirect.port}"
    await use(guest, server, source, usbredirect.image)
    # it has its device back, which takes hold of it again
    await asyncio.to_thread(usbredirect.vm.wait, "test -b /dev/sda")
