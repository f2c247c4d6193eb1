"""Emulated devices in a real Linux: its own drivers take them, mount, type, talk."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable

import pytest

from rusb.client.backends._emulated.cdc_acm import SerialLoopback
from rusb.client.backends._emulated.core import EmulatedDevice
from rusb.client.backends._emulated.fat import FatVolume, make_fat_image
from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends._emulated.loopback import Loopback
from rusb.server.guests.qemu import QemuGuest
from rusb.usb.types import Speed
from rusb.usb.urb import Completion, Urb
from tests.support.lab.usblab import Guest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 1 << 20
CONTENT = random.Random(4).randbytes(3 * MIB)


class Attached:
    """An emulated device as a guest backend gets it, without any wire."""

    round_trip: float | None = None

    def __init__(self, device: EmulatedDevice) -> None:
        device.attached()
        device.power_on()
        self.device = device
        self.name = "usb-1"
        self.info = device.info(1, 1)
        self.descriptors = device.descriptors

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer."""
        self.device.submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer."""
        self.device.cancel(urb_id)

    def reset(self) -> None:
        """Reset the port."""
        self.device.reset_port()

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """There never is any."""


class Machine:
    """A guest with one emulated device."""

    def __init__(self, vm: Guest, backend: QemuGuest) -> None:
        self.vm, self.backend = vm, backend

    async def sh(self, command: str) -> str:
        """Run a command."""
        return await asyncio.to_thread(self.vm.sh, command)

    async def attach(self, device: EmulatedDevice, until: str) -> Attached:
        """Plug it in and wait until a command succeeds."""
        attached = Attached(device)
        await self.backend.attach(attached)
        try:
            await asyncio.to_thread(self.vm.wait, until)
        except Exception as error:
            raise AssertionError(await self.sh("dmesg | tail -40")) from error
        return attached


@pytest.fixture
async def machine(guest: Guest) -> AsyncIterator[Machine]:
    backend = QemuGuest(guest.monitor)
    await backend.start()
    yield Machine(guest, backend)
    await backend.aclose()


def open_volume(image: bytearray) -> FatVolume:
    def read(first: int, count: int) -> bytes:
        return bytes(image[first * 512 : (first + count) * 512])

    def write(first: int, data: bytes) -> None:
        image[first * 512 : first * 512 + len(data)] = data

    return FatVolume(read, write)


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
@pytest.mark.parametrize("size", [16, 520])
async def test_linux_mounts_a_flash_drive_and_writes_to_it(
    machine: Machine, speed: Speed, size: int
) -> None:
    image = make_fat_image(size * MIB, {"DATA.BIN": CONTENT}, "LAB")
    device = FlashDrive(image, speed=speed)
    await machine.attach(device, "dmesg | grep -q 'Attached SCSI'")  # the last line
    log = await machine.sh("dmesg | grep -E 'sda|scsi|usb [0-9]'")
    assert "Attached SCSI removable disk" in log
    assert "idVendor=1209, idProduct=0001" in log
    assert "Write cache: enabled" in log
    assert "error" not in log.lower()
    assert (await machine.sh("cat /sys/block/sda/size")).strip() == str(size * 2048)
    await machine.sh("mount -t vfat /dev/sda /mnt")
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (await machine.sh("sha256sum /mnt/DATA.BIN")).split()[0] == digest
    await machine.sh("cp /mnt/DATA.BIN '/mnt/A copy with a long name.bin'")
    await machine.sh("echo short >/mnt/NEW.TXT && umount /mnt")
    volume = open_volume(image)
    assert volume.read_file("A copy with a long name.bin") == CONTENT
    assert volume.read_file("NEW.TXT") == b"short\n"
    trouble = await machine.sh("dmesg | grep -iE 'reset|error|fail|sense key' || true")
    assert "usb 1-" not in trouble
    assert "sda" not in trouble


async def test_linux_sees_that_a_drive_is_protected(machine: Machine) -> None:
    image = make_fat_image(8 * MIB, {"A.TXT": b"hello"}, "LAB")
    device = FlashDrive(image, is_protected=True)
    await machine.attach(device, "test -b /dev/sda")
    assert (await machine.sh("cat /sys/block/sda/ro")).strip() == "1"
    await machine.sh("mount -r -t vfat /dev/sda /mnt")
    assert (await machine.sh("cat /mnt/A.TXT")) == "hello"
    await machine.sh("umount /mnt")


async def test_linux_takes_keys_from_a_keyboard(machine: Machine) -> None:
    keyboard = Keyboard()
    find = "sed -n '/rusb Keyboard/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p'"
    find += " /proc/bus/input/devices"
    await machine.attach(keyboard, f'test -n "$({find})"')
    name = (await machine.sh(find)).strip()
    # four events of a key: scan code, key, and a report, both ways: 144 bytes each
    await machine.sh(f"dd if=/dev/input/{name} of=/tmp/keys bs=24 count=12 2>/run/dd &")
    await machine.sh("while ! test -e /tmp/keys; do sleep 0.1; done; sleep 0.3")
    keyboard.type_text("hi")
    await asyncio.to_thread(machine.vm.wait, "test $(stat -c %s /tmp/keys) = 288")
    events = bytes.fromhex(await machine.sh("hexdump -ve '1/1 \"%02x\"' /tmp/keys"))
    fields = [events[i + 16 : i + 24] for i in range(0, len(events), 24)]
    keys = [(f[2], f[4]) for f in fields if f[0] == 1]  # EV_KEY
    assert keys == [(35, 1), (35, 0), (23, 1), (23, 0)]  # KEY_H, KEY_I


async def test_linux_talks_to_itself_over_a_serial_port(machine: Machine) -> None:
    device = SerialLoopback()
    await machine.attach(device, "test -c /dev/ttyACM0")
    talk = "stty -F /dev/ttyACM0 115200 raw -echo; exec 4<>/dev/ttyACM0;"
    talk += " echo hello >&4; head -n1 <&4; head -c 100000 /dev/zero >&4 &"
    talk += " exec 4</dev/ttyACM0; head -c 100000 <&4 | wc -c"
    words = (await machine.sh(talk)).split()
    assert words == ["hello", "100000"]
    assert device.line_coding[0] == 115200


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
async def test_linux_configures_a_loopback(machine: Machine, speed: Speed) -> None:
    await machine.attach(
        Loopback(speed=speed), "grep -q Loopback /sys/bus/usb/devices/*/product"
    )
    found = await machine.sh(
        "cd $(dirname $(grep -l Loopback /sys/bus/usb/devices/*/product));"
        " cat bConfigurationValue bNumInterfaces speed"
    )
    rate = {Speed.FULL: "12", Speed.HIGH: "480", Speed.SUPER: "5000"}[speed]
    assert found.split() == ["1", "2", rate]
