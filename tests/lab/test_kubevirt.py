"""The guest kubevirt: an API server of our own in front of QEMU's usb-redir sockets."""

import asyncio
import hashlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client import ClientConfig, connect
from rusb.client.backends.emulated import EmulatedBackend, FlashDrive, Keyboard
from tests.support.kubernetes import FakeApi, kubeconfig
from tests.support.lab.fatimage import fat_image
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import WITH_USB, RusbServer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 1 << 20
CONTENT = random.Random(7).randbytes(3 * MIB)
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def api(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FakeApi]:
    """Four slots of a machine, as KubeVirt gives it."""
    paths = [f"{guest.dir}/virt-usbredir-{n}" for n in range(4)]
    for number, path in enumerate(paths):
        await asyncio.to_thread(guest.add_usb_redir, f"slot{number}", path)

    def slot(number: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(paths[number])
        return sock

    api = FakeApi(slot)
    async with api.listening() as port:
        config = kubeconfig(
            tmp_path / "config", f"http://127.0.0.1:{port}", token="good"
        )
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield api


@pytest.fixture
async def server(api: FakeApi, tmp_path: Path) -> AsyncIterator[RusbServer]:
    server = RusbServer(tmp_path, WITH_USB, "--guest", "kubevirt:lab/vm")
    try:
        await asyncio.to_thread(server.wait_log, "TCP server listening")
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def client(server: RusbServer, tmp_path: Path) -> ClientConfig:
    return ClientConfig("127.0.0.1", server.port, known_servers=tmp_path / "known")


def check(guest: Guest) -> None:
    """The disk is there, and has its file."""
    guest.wait("test -b /dev/sda")
    found = guest.sh("mount -t vfat /dev/sda /mnt && sha256sum /mnt/DATA.BIN")
    assert found.split()[0] == SUM
    guest.sh("umount /mnt")


async def test_a_disk_survives_a_move_of_its_machine(
    guest: Guest, api: FakeApi, server: RusbServer, tmp_path: Path
) -> None:
    """Attached, dropped by the cluster, plugged in again, detached."""
    disk = FlashDrive(bytearray(fat_image(17 * MIB, {"DATA.BIN": CONTENT})))
    backend = EmulatedBackend(devices=[disk])
    async with connect(client(server, tmp_path), backends=[backend]):
        await asyncio.to_thread(check, guest)
        await asyncio.to_thread(guest.sh, "dmesg -c >/run/before")
        await api.drop()
        await asyncio.to_thread(guest.wait, "dmesg | grep -q 'USB disconnect'")
        await asyncio.to_thread(guest.wait, "dmesg | grep -q 'Attached SCSI'")
        await asyncio.to_thread(check, guest)
    await asyncio.to_thread(guest.wait, "! test -b /dev/sda")
    async with asyncio.timeout(20):
        while api.used:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_the_fifth_device_finds_no_slot(
    guest: Guest, api: FakeApi, server: RusbServer, tmp_path: Path
) -> None:
    keyboards = [Keyboard(serial=f"K{n}") for n in range(5)]
    backend = EmulatedBackend(devices=keyboards)
    async with connect(client(server, tmp_path), backends=[backend]):
        await asyncio.to_thread(server.wait_log, "no free USB slot: lab/vm has 4")
        await asyncio.to_thread(
            guest.wait,
            "test $(grep -lx 1209 /sys/bus/usb/devices/*/idVendor | wc -l) = 4",
        )
        assert len(api.used) == 4
