"""What a Linux guest finds of devices that are masked, odd, or do UAS."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends.emulated import Data, EmulatedBackend, EmulatedDevice
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests.qemu import QemuGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.hiding import hide_interfaces, hide_uas, with_configurations
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed
from tests.support.lab.usblab import Guest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

KEYS = InterfaceDescriptor(
    *(1, 0, 3, 1, 1), endpoints=(EndpointDescriptor(0x83, 3, 8, 4),)
)


def drive(product: int, speed: Speed, *more: InterfaceDescriptor) -> FlashDrive:
    """A disk with more settings or interfaces than it really has."""
    made = FlashDrive(speed=speed)
    (whole,) = made.descriptors.configurations
    made.descriptors = DeviceDescriptors(
        replace(made.descriptors.device, product_id=product),
        (replace(whole, members=(*whole.members, *more)),),
    )
    made.state.descriptors = made.descriptors
    return made


class Odd(EmulatedDevice):
    """Says two configurations, has one, of value 0, with a count and a length wrong."""

    def __init__(self) -> None:
        device = DeviceDescriptor(
            *(0x0200, 0, 0, 0, 64, 0x1209, 0x7777, 1), num_configurations=2
        )
        ends = tuple(EndpointDescriptor(a, 2, 64, 0) for a in (0x81, 0x02))
        one = InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=ends)
        whole = ConfigurationDescriptor(0, 0x80, 50, (one,))
        super().__init__(DeviceDescriptors(device, (whole,)), speed=Speed.FULL)

    def request(self, setup: SetupPacket, data: Data) -> Data | None:
        found = super().request(setup, data)
        if (setup.request, setup.value) == (6, 0x0200) and found:
            odd = bytearray(bytes(found) + bytes(3))
            odd[2] += 50
            odd[9 + 4] = 5
            return bytes(odd)
        return found


async def test_a_guest_has_what_it_may_see(guest: Guest, tmp_path: Path) -> None:
    uas = InterfaceDescriptor(0, 1, 8, 6, 0x62)
    disk = drive(0x7001, Speed.SUPER, uas)
    masked, odd = drive(0x7002, Speed.HIGH, KEYS), Odd()
    one_of = with_configurations(odd.descriptors, odd.descriptors.configurations)
    wanted = {
        "7001": hide_uas(disk.descriptors),
        "7002": hide_interfaces(masked.descriptors, 0b10),
        "7777": one_of,
    }
    filters = (
        Filter("masked", product_id="7002", masked_interfaces=0b10),
        Filter("rest"),
    )
    machine = Machine("Lab", filters=filters, usb_controllers=("XHCI",))
    log = tmp_path / "VBox.log"
    server = Server(
        ServerConfig(
            machine, ports=[0], address="127.0.0.1", log=str(log), state=tmp_path
        ),
        guest=QemuGuest(guest.monitor),
    )
    backend = EmulatedBackend(devices=[disk, masked, odd])
    async with server:
        config = ClientConfig(
            "127.0.0.1", server.port, known_servers=tmp_path / "known"
        )
        async with connect(config, backends=[backend]):
            for product, seen in wanted.items():
                find = f"grep -l {product} /sys/bus/usb/devices/*/idProduct"
                await asyncio.to_thread(guest.wait, find)
                path = (await asyncio.to_thread(guest.sh, find)).strip()
                folder = path.removesuffix("/idProduct")
                dump = f"hexdump -ve '1/1 \"%02x\"' {folder}/descriptors"
                found = bytes.fromhex(await asyncio.to_thread(guest.sh, dump))
                configurations = (c.serialize() for c in seen.configurations)
                assert found == seen.device.serialize() + b"".join(configurations)
                await asyncio.to_thread(guest.wait, f"ls -d {folder}/*:?.0")
            await asyncio.to_thread(guest.wait, "test -b /dev/sda -a -b /dev/sdb")
            await asyncio.to_thread(guest.sh, "! ls -d /sys/bus/usb/devices/*:?.1")
    text = log.read_text()
    assert "UAS of interface 0 is hidden" in text
    assert "hidden from the guest: interface 1" in text
    assert "odd descriptors: " in text
