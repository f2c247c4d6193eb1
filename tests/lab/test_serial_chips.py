"""The emulated serial chips that our drivers are tried with, judged by Linux's own.

What a program does with pyserial, the kernel's driver makes the requests of that the
chip expects; the program sees the lines as the chip has them.
"""

import asyncio
import shlex
from pathlib import Path

import pytest

from rusb.client import ClientConfig, connect
from rusb.client.backends.emulated import EmulatedBackend
from tests.support.lab.usblab import BOOT_TIMEOUT, Client
from tests.support.rusbserver import WITH_USB, RusbServer, free_port
from tests.support.serial_peers import CHIPS, check, command

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

MODULES = ("cdc_acm", "ftdi_sio", "cp210x", "ch341", "pl2303")

NO_FLOW = ("cdc-acm", "ch340")
"""Chips for which the drivers of Linux 6.1 have no flow control."""


async def test_drivers_of_linux_take_the_chips(
    client_vm: Client, tmp_path: Path
) -> None:
    chips = {name: make() for name, make in CHIPS.items()}
    port = free_port()
    server = RusbServer(tmp_path, WITH_USB, "--guest", f"usbip:127.0.0.1:{port}")
    usbip = f"/usr/sbin/usbip --tcp-port {port}"
    run = tmp_path / "run"
    commands = []
    for name, chip in chips.items():
        vendor = f"vendor={chip.descriptors.device.vendor_id:04x}"
        commands.append(f"{shlex.join(command(vendor, chip))} >/run/{name} 2>&1 &")
    run.write_text("\n".join(("cd /run", *commands, "wait", "")))

    def use() -> dict[str, str]:
        client_vm.modprobe("vhci_hcd", *MODULES)
        for number in range(1, len(chips) + 1):
            client_vm.sh(f"{usbip} attach -r 10.0.2.2 -b 1-{number}")
            client_vm.wait(f"test $(ls -d /dev/tty[AU][CS][MB]* | wc -l) = {number}")
        client_vm.sh(f"PYTHONDONTWRITEBYTECODE=1 sh {run}", BOOT_TIMEOUT)
        said = {
            name: client_vm.sh(f"cat /run/{name}; rm /run/{name}") for name in chips
        }
        for number in range(len(chips)):
            client_vm.sh(f"/usr/sbin/usbip detach -p {number}")
        client_vm.wait("! ls /dev/ttyUSB* /dev/ttyACM0")
        return said

    try:
        await asyncio.to_thread(server.wait_log, "TCP server listening")
        config = ClientConfig(
            "127.0.0.1", server.port, known_servers=tmp_path / "known"
        )
        devices = EmulatedBackend(devices=list(chips.values()))
        async with connect(config, backends=[devices]):
            await asyncio.to_thread(server.wait_log, f"busid 1-{len(chips)}")
            said = await asyncio.to_thread(use)
    finally:
        server.stop()
    for name, chip in chips.items():
        check(chip, said[name], flow="" if name in NO_FLOW else "hardware")
        assert chip.breaks == 1
