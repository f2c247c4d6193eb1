"""The kernel of the server's machine as the guest, with a client elsewhere."""

import asyncio
import contextlib
import hashlib
import random
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client import ClientConfig, connect
from rusb.client.backends.emulated import (
    EmulatedBackend,
    FlashDrive,
    Keyboard,
    SerialLoopback,
)
from rusb.errors import ConnectionLost
from tests.support.ftdi import Ftdi
from tests.support.lab.farvhci import IN_USE
from tests.support.lab.fatimage import fat_image
from tests.support.lab.usblab import BOOT_TIMEOUT, Client
from tests.support.rusbserver import CHECKOUT, free_port
from tests.support.serial_peers import command

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

CYCLES = 20

MIB = 1 << 20
CONTENT = random.Random(5).randbytes(3 * MIB)
SUM = hashlib.sha256(CONTENT).hexdigest()

KEY_H = struct.pack("<HHi", 1, 35, 1)
"""Of an event: EV_KEY, which key, down."""

SERVE = f"""
import os, sys
sys.path.insert(0, {str(CHECKOUT)!r})
os.environ["RUSB_STATE"] = "/run/rusb"
open("/run/vhci.pid", "w").write(str(os.getpid()))
from rusb.cli import main
sys.argv = ("rusb serve --name Kernel --allow vendorId=0403 --allow vendorId=1209"
            " --guest vhci --resume 0 --port 3391 --address 10.0.2.15"
            " --log /run/vhci.VBox.log").split()
sys.exit(main())
"""


@pytest.fixture(scope="module")
def served(client_vm: Client) -> Iterator[int]:
    """The port at which a server of the machine is reached, which has its kernel."""
    port = free_port()
    client_vm.modprobe("vhci_hcd", "ftdi_sio", "cdc_acm", "vfat")
    client_vm.modprobe("nls_cp437", "nls_ascii")
    client_vm.put("/run/vhci.py", SERVE.encode())
    client_vm.sh(f"{sys.executable} /run/vhci.py >/run/vhci.log 2>&1 &")
    forward = f"tcp:127.0.0.1:{port}-10.0.2.15:3391"
    client_vm.qmp.hmp(f"hostfwd_add n0 {forward}")
    try:
        client_vm.wait("grep -q listening /run/vhci.VBox.log", BOOT_TIMEOUT)
        yield port
    finally:
        client_vm.qmp.hmp(f"hostfwd_remove n0 tcp:127.0.0.1:{port}")
        client_vm.sh("kill $(cat /run/vhci.pid) || true")
        client_vm.wait("! grep -q . /proc/$(cat /run/vhci.pid)/cmdline")
        assert client_vm.sh(IN_USE) == ""


async def test_twenty_times_plugged_in_and_out(
    client_vm: Client, served: int, tmp_path: Path
) -> None:
    """Then 64 KiB go there and back, and the cable is pulled."""
    chip = Ftdi()
    backend = EmulatedBackend(devices=[])
    config = ClientConfig("127.0.0.1", served, known_servers=tmp_path / "known")

    async def vm(wanted: str) -> None:
        await asyncio.to_thread(client_vm.wait, wanted)

    client_vm.sh("dmesg -c >/dev/null")  # other tests have the machine, too
    async with connect(config, backends=[backend]):
        for _ in range(CYCLES):
            backend.plug(chip)
            await vm("test -c /dev/ttyUSB0")
            backend.unplug(chip)
            await vm(f'! test -e /dev/ttyUSB0 && test -z "$({IN_USE})"')
        backend.plug(chip)
        await vm("test -c /dev/ttyUSB0")
        words = command("/dev/ttyUSB0", chip, [], 64 << 10, lines=[], breaks=False)
        line = f"PYTHONDONTWRITEBYTECODE=1 {shlex.join(words)}"
        said = await asyncio.to_thread(client_vm.sh, line, BOOT_TIMEOUT)
        assert '"exchange": true' in said
        trouble = await asyncio.to_thread(
            client_vm.sh, "dmesg | grep -c 'error' || true"
        )
        assert trouble.strip() == "0"
    await vm(f'! test -e /dev/ttyUSB0 && test -z "$({IN_USE})"')


def test_a_client_that_is_killed_leaves_no_port_in_use(
    client_vm: Client, served: int, tmp_path: Path
) -> None:
    """While a program of the kernel's machine has the device open, too."""
    backend = f"{CHECKOUT}/tests/support/ftdi.py:Ftdi"
    place = f"127.0.0.1:{served}"
    words = ["-m", "rusb", "connect", place, "--no-reconnect", "--backend", backend]
    known = ["--known-servers", str(tmp_path / "known")]
    client = subprocess.Popen([sys.executable, *words, *known], cwd=CHECKOUT)
    try:
        client_vm.wait("test -c /dev/ttyUSB0")
        client_vm.sh("cat /dev/ttyUSB0 >/dev/null 2>&1 &")
    finally:
        client.kill()
        client.wait()
    client_vm.wait(f'! test -e /dev/ttyUSB0 && test -z "$({IN_USE})"')


async def test_disk_keyboard_and_serial_port_of_a_server_that_is_killed(
    client_vm: Client, served: int, tmp_path: Path
) -> None:
    """It is the last one: the kernel unplugs by itself."""
    drive = FlashDrive(bytearray(fat_image(17 * MIB, {"DATA.BIN": CONTENT})))
    keyboard = Keyboard()
    backend = EmulatedBackend(devices=[drive, keyboard, SerialLoopback()])
    config = ClientConfig("127.0.0.1", served, known_servers=tmp_path / "known")
    config = replace(config, reconnect=False)
    loop = asyncio.get_running_loop()

    def type_something() -> None:
        find = (
            "grep -A5 'rusb Keyboard' /proc/bus/input/devices | grep -o 'event[0-9]*'"
        )
        client_vm.wait(find)
        # down and up: a scan code, the key, and a report
        client_vm.sh(f"exec 9</dev/input/$({find}); head -c 144 <&9 >/run/keys &")
        loop.call_soon_threadsafe(keyboard.type_text, "h")
        client_vm.wait("test $(stat -c %s /run/keys) = 144")
        assert KEY_H in bytes.fromhex(client_vm.sh("od -An -v -tx1 /run/keys"))

    def use() -> None:
        client_vm.wait("test -b /dev/sda -a -c /dev/ttyACM0", BOOT_TIMEOUT)
        assert len(client_vm.sh(IN_USE).splitlines()) == 3
        client_vm.sh("mkdir -p /run/disk; mount /dev/sda /run/disk")
        assert SUM in client_vm.sh("sha256sum /run/disk/DATA.BIN")
        client_vm.sh("cp /run/disk/DATA.BIN /run/disk/COPY.BIN; umount /run/disk")
        client_vm.sh("echo 3 >/proc/sys/vm/drop_caches; mount /dev/sda /run/disk")
        assert SUM in client_vm.sh("sha256sum /run/disk/COPY.BIN")
        client_vm.sh("umount /run/disk")
        type_something()
        client_vm.sh("kill -9 $(cat /run/vhci.pid)")
        client_vm.wait("! test -b /dev/sda -o -c /dev/ttyACM0")
        client_vm.wait(f'test -z "$({IN_USE})"')

    with contextlib.suppress(ConnectionLost):
        async with connect(config, backends=[backend]):
            await asyncio.to_thread(use)
