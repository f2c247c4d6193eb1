"""The qemu guest backend and a real QEMU: plug, read, write, unplug, all endings."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rusb.client.backends.emulated import Keyboard
from rusb.errors import GuestError
from rusb.server.guests import _stream
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.qemu import QemuGuest
from rusb.usb.types import Speed
from rusb.usb.urb import Completion, Urb, UrbResult
from tests.support.lab.fatimage import fat_image
from tests.support.lab.ramdisk import AttachedRamDisk
from tests.support.lab.redirpeer import HIGH, SUPER, RamDisk
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 1 << 20
CONTENT = random.Random(2).randbytes(4 * MIB)
ALL = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a714}" name="Again">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""
WRITTEN = b"written by the guest\n"


def disk(speed: int = HIGH, name: str = "usb-1") -> AttachedRamDisk:
    """A memory stick with a file system and a file."""
    image = fat_image(24 * MIB, {"DATA.BIN": CONTENT})
    return AttachedRamDisk(RamDisk(image, speed), name)


class Machine:
    """A guest whose commands leave the loop to the devices, and its backend."""

    def __init__(self, vm: Guest) -> None:
        self.vm = vm
        self.backend = QemuGuest(vm.monitor)
        self.lost: asyncio.Queue[AttachedDevice] = asyncio.Queue()
        self.backend.watch_lost(lambda device, why: self.lost.put_nowait(device))

    async def sh(self, command: str) -> str:
        """Run a command."""
        return await asyncio.to_thread(self.vm.sh, command)

    async def wait(self, command: str) -> None:
        """Wait until a command succeeds."""
        await asyncio.to_thread(self.vm.wait, command)

    async def names_of_ours(self) -> list[str]:
        """What of the backend's is in QEMU: devices and chardevs."""
        chardevs = await asyncio.to_thread(self.vm.qmp, "query-chardev")
        path = "/machine/peripheral"
        devices = await asyncio.to_thread(self.vm.qmp, "qom-list", path=path)
        names = [c["label"] for c in chardevs] + [d["name"] for d in devices]
        return [name for name in names if name.startswith("rusb")]


@pytest.fixture
async def machine(guest: Guest) -> AsyncIterator[Machine]:
    machine = Machine(guest)
    await machine.backend.start()
    yield machine
    await machine.backend.aclose()


@pytest.mark.parametrize("speed", [HIGH, SUPER])
async def test_a_disk_is_mounted_read_written_and_unplugged(
    machine: Machine, speed: int
) -> None:
    device = disk(speed)
    where = await machine.backend.attach(device)
    assert where.startswith("port ")
    assert where.endswith(" on xhci.0")
    assert device.resets >= 0
    await machine.wait("test -b /dev/sda")
    log = await machine.sh("dmesg | grep 'usb [0-9]'")
    assert "idVendor=0951, idProduct=1666" in log
    assert "xhci_hcd" in log

    await machine.sh("mount -t vfat /dev/sda /mnt")
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (await machine.sh("sha256sum /mnt/DATA.BIN")).split()[0] == digest
    await machine.sh(f"echo {WRITTEN.decode().strip()} >/mnt/NEW.TXT && umount /mnt")
    assert WRITTEN in device.disk.image

    await machine.backend.detach(device)
    await machine.wait("! test -b /dev/sda")
    assert "USB disconnect" in await machine.sh("dmesg")
    assert await machine.names_of_ours() == []


async def test_several_disks_come_and_go_by_themselves(machine: Machine) -> None:
    first, second = disk(name="usb-1"), disk(SUPER, "usb-2")
    places = await asyncio.gather(
        machine.backend.attach(first), machine.backend.attach(second)
    )
    assert len(set(places)) == 2
    await machine.wait("test -b /dev/sda -a -b /dev/sdb")
    await machine.backend.detach(first)
    await machine.wait("test $(ls /dev/sd? | wc -l) = 1")
    assert len(await machine.names_of_ours()) == 2  # a device and its chardev
    await machine.backend.attach(first)
    await machine.wait("test $(ls /dev/sd? | wc -l) = 2")


async def test_device_del_by_hand_is_a_loss(machine: Machine) -> None:
    device = disk()
    await machine.backend.attach(device)
    await machine.wait("test -b /dev/sda")
    name = (await machine.names_of_ours())[0]
    await asyncio.to_thread(machine.vm.unplug, name)
    async with asyncio.timeout(10):
        assert await machine.lost.get() is device
    await machine.backend.detach(device)
    assert await machine.names_of_ours() == []
    assert machine.lost.empty()
    await machine.backend.attach(device)
    await machine.wait("test -b /dev/sda")


async def test_a_paused_machine_finds_the_device_when_it_goes_on(
    machine: Machine,
) -> None:
    device, other = disk(), disk(SUPER, "usb-2")
    await asyncio.to_thread(machine.vm.qmp, "stop")
    assert (await machine.backend.attach(device)).endswith("(paused)")
    assert (await machine.backend.attach(other)).endswith("(paused)")
    await machine.backend.detach(other)
    await asyncio.to_thread(machine.vm.qmp, "cont")
    await machine.wait("test -b /dev/sda")
    assert "idProduct=1666" in await machine.sh("dmesg")
    await asyncio.to_thread(machine.vm.qmp, "stop")
    await machine.backend.detach(device)
    assert await machine.names_of_ours() == []
    await asyncio.to_thread(machine.vm.qmp, "cont")
    await machine.wait("! test -b /dev/sda")


class Flood(Keyboard):
    """A keyboard with a report whenever it is asked, as a guest backend gets it."""

    def __init__(self) -> None:
        super().__init__()
        self.attached_info = self.info(1, 1)
        self.polls = 0

    def data_in(self, endpoint: int, room: int) -> bytes:
        self.polls += 1
        return bytes(8)


class AttachedFlood:
    """See :class:`Flood`."""

    round_trip: float | None = None

    def __init__(self) -> None:
        self.keyboard = Flood()
        self.info, self.name = self.keyboard.attached_info, "usb-1"
        self.descriptors = self.keyboard.descriptors

    def submit(self, urb: Urb, complete: Completion) -> None:
        loop = asyncio.get_running_loop()

        def later(result: UrbResult) -> None:
            loop.call_soon(complete, result)

        self.keyboard.submit(urb, later)

    def cancel(self, urb_id: int) -> None:
        self.keyboard.cancel(urb_id)

    def reset(self) -> None:
        self.keyboard.reset_port()

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        pass


async def test_a_device_that_always_has_data_waits_for_a_paused_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream, "WRITE_HIGH", 256 << 10)
    device = AttachedFlood()

    async def polls(seconds: float) -> int:
        before = device.keyboard.polls
        await asyncio.sleep(seconds)
        return device.keyboard.polls - before

    await machine.backend.attach(device)
    async with asyncio.timeout(30):
        while not device.keyboard.polls:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.to_thread(machine.vm.qmp, "stop")
    async with asyncio.timeout(30):
        while await polls(0.5):
            pass
    await asyncio.to_thread(machine.vm.qmp, "cont")
    async with asyncio.timeout(30):
        while not await polls(0.1):
            pass


async def test_a_qemu_that_is_killed_is_a_loss_of_all(machine: Machine) -> None:
    first, second = disk(name="usb-1"), disk(name="usb-2")
    await machine.backend.attach(first)
    await machine.backend.attach(second)
    os.kill(machine.vm.process.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        lost = {(await machine.lost.get()).name, (await machine.lost.get()).name}
    assert lost == {"usb-1", "usb-2"}
    with pytest.raises(GuestError, match="QEMU cannot be reached"):
        await machine.backend.attach(first)
    assert machine.lost.empty()


async def test_a_machine_without_usb(lab: None) -> None:
    with Guest(controller=None, wait=0) as vm:
        with pytest.raises(
            GuestError, match="no USB controller; start QEMU with -device qemu-xhci"
        ):
            await QemuGuest(vm.monitor).start()


async def test_each_speed_has_its_controller(lab: None) -> None:
    """OHCI and EHCI, as most machines of VirtualBox's users have them."""
    slow, fast, super_fast = disk(), disk(name="usb-2"), disk(SUPER, "usb-3")
    slow.disk.packet_size = 64
    slow.info = dataclasses.replace(slow.info, speed=Speed.FULL)
    with Guest("-device", "pci-ohci,id=ohci", controller="usb-ehci,id=ehci") as vm:
        machine = Machine(vm)
        await machine.backend.start()
        assert (await machine.backend.attach(fast)).endswith(" on ehci.0")
        await machine.wait("test -b /dev/sda")
        assert (await machine.backend.attach(slow)).endswith(" on ohci.0")
        await machine.wait("test -b /dev/sdb")
        for name in ("sda", "sdb"):
            await machine.sh(f"dd if=/dev/{name} of=/dev/null bs=64k count=16")
        log = await machine.sh("dmesg | grep 'usb [0-9]'")
        assert "new high-speed USB device" in log
        assert "new full-speed USB device" in log
        with pytest.raises(GuestError, match="supports a SuperSpeed device.*qemu-xhci"):
            await machine.backend.attach(super_fast)
        await machine.backend.aclose()
        assert await machine.names_of_ours() == []


async def test_the_port_behind_the_hub_that_qemu_adds(lab: None) -> None:
    """An xHCI that was not told has four ports, the last of which becomes a hub."""
    with Guest(controller="qemu-xhci,id=xhci", wait=0) as vm:
        machine = Machine(vm)
        await machine.backend.start()
        for number in range(3):
            device = disk(SUPER, f"usb-{number}")
            assert (await machine.backend.attach(device)).endswith(" on xhci.0")
        with pytest.raises(GuestError, match="all ports of xhci.0 .xHCI. are in use"):
            await machine.backend.attach(disk(SUPER, "usb-4"))
        assert len(await machine.names_of_ours()) == 6
        assert "port 4." in await machine.backend.attach(disk(HIGH, "usb-5"))
        await machine.backend.aclose()
        await machine.backend.aclose()
        assert await machine.names_of_ours() == []


def test_a_qemu_that_is_started_again_has_its_disk_again(
    guest_state: Path, tmp_path: Path
) -> None:
    """``rusb serve`` and ``rusb connect`` live on, and both say what happens."""
    image = tmp_path / "disk.img"
    image.write_bytes(CONTENT)
    socket = tmp_path / "monitor"
    said = tmp_path / "said"
    check = f"sha256sum /dev/sda | grep -q {hashlib.sha256(CONTENT).hexdigest()}"
    incoming = f"exec:cat {guest_state}"
    with contextlib.ExitStack() as stack:
        with Guest(incoming=incoming) as vm:
            socket.symlink_to(vm.monitor)
            options = "--guest", f"qemu:{socket}"
            server = RusbServer(tmp_path, ALL, *options)
            stack.callback(server.stop)
            server.wait_log("TCP server listening")
            client = subprocess.Popen(
                [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{server.port}"]
                + ["--backend", f"emulated:flash-drive={image}"],
                cwd=CHECKOUT,
                env={**os.environ, "RUSB_STATE": str(tmp_path)},
                stderr=stack.enter_context(said.open("w")),
                stdout=subprocess.DEVNULL,
            )
            stack.callback(client.wait)
            stack.callback(client.terminate)
            vm.wait("test -b /dev/sda")
            vm.sh(check)
        server.wait_log("has ended; its devices are attached again when it is back")
        socket.unlink()
        vm = stack.enter_context(Guest(incoming=incoming))
        socket.symlink_to(vm.monitor)
        server.wait_log("VUSB: Attached 'usb-", 2)
        vm.wait("test -b /dev/sda")
        vm.sh(check)
        assert "the guest is back: its devices are attached again" in server.said()
        assert said.read_text().count("given back") == 1
