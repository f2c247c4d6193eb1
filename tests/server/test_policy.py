"""What the guest gets of a device is what the filters decided on (T33, T40)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import (
    Data,
    EmulatedBackend,
    EmulatedDevice,
    describe,
)
from rusb.errors import GuestError
from rusb.filters.model import Filter
from rusb.server.admission import MAX_DEVICES_PER_CLIENT
from rusb.server.guests.loopback import LoopbackDevice
from rusb.server.policy import Policy, Reading
from rusb.server.reading import MAX_CONFIGURATIONS
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceAssociation,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.hiding import with_configurations
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import serialize_string
from rusb.usb.types import ClassCode, Speed
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import Lab, machine

pytestmark = pytest.mark.timeout(30)  # what does not come fails


class Listed(Loopback):
    """A loopback device that is listed as something else, or answers oddly."""

    def __init__(self, **listed: object) -> None:
        super().__init__()
        self.listed = listed
        self.answers: dict[int, bytes | None] = {}  # by wValue of GET_DESCRIPTOR
        self.asked: list[int] = []

    def info(self, port: int, address: int) -> DeviceInfo:
        return replace(super().info(port, address), **self.listed)  # type: ignore[arg-type]

    def request(self, setup: SetupPacket, data: Data) -> Data | None:
        if (setup.request_type, setup.request) == (0x80, 6):
            self.asked.append(setup.value)
            if setup.value in self.answers:
                return self.answers[setup.value]
        return super().request(setup, data)


class Hub(EmulatedDevice):
    """A hub, by its device descriptor or only by one of its interfaces."""

    def __init__(self, *, is_composite: bool) -> None:
        code = ClassCode.HUB if is_composite else ClassCode.VENDOR_SPECIFIC
        described = describe(Speed.HIGH, 0x0099, InterfaceDescriptor(0, 0, code, 0, 0))
        if not is_composite:
            device = replace(described.device, device_class=ClassCode.HUB)
            described = replace(described, device=device)
        super().__init__(described, ("Acme", "Hub", "1"))


class Policed(Lab):
    """A server whose filters change, and a client with some devices."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, machine())

    def use(self, *filters: Filter) -> None:
        self.server.set_filters(filters)

    async def one(self) -> LoopbackDevice:
        (device,) = await self.guest.wait_for(1)
        return device


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Policed]:
    made = Policed(tmp_path)
    async with asyncio.timeout(30), made.server:
        yield made


def seen(device: LoopbackDevice) -> tuple[int, ...]:
    (configuration,) = device.attached.descriptors.configurations
    return configuration.interface_numbers


# ------------------------------------------------------- masked interfaces ----


async def test_masked_interfaces_are_not_there_for_the_guest(lab: Policed) -> None:
    lab.use(Filter("rest", masked_interfaces=0b10))
    reached: list[SetupPacket] = []

    class Recording(Loopback):
        def request(self, setup: SetupPacket, data: Data) -> Data | None:
            reached.append(setup)
            return super().request(setup, data)

    loopback = Recording()
    async with lab.client(EmulatedBackend(devices=[loopback])):
        device = await lab.one()
        (whole,) = loopback.descriptors.configurations
        assert seen(device) == tuple(n for n in whole.interface_numbers if n != 1)
        hidden = {
            e.address for i in whole.interfaces if i.number == 1 for e in i.endpoints
        }
        shown = {
            e.address for i in whole.interfaces if i.number != 1 for e in i.endpoints
        }
        assert hidden
        for address in hidden - shown:
            if address & 0x80:
                result = await device.read(address, 64)
            else:
                result = await device.write(address, b"x")
            assert result.status is UrbStatus.INVALID
        raw = await device.control(SetupPacket.get_descriptor(2, 0, 4096))
        told = ConfigurationDescriptor.parse(bytes(raw.data))
        assert told.interface_numbers == seen(device)
        for setup in (
            SetupPacket(0x81, 0, 0, 1, 2),  # GET_STATUS of the interface
            SetupPacket(0x81, 6, 0x2200, 1, 64),  # its report descriptor
            # devices that do not look at the recipient would give it, too
            SetupPacket(0x80, 6, 0x2200, 1, 64),
            SetupPacket(0x80, 6, 0x2200, 0, 64),
            SetupPacket(0x82, 6, 0x2200, 0, 64),
            SetupPacket(0x80, 6, 0x2100, 1, 9),
            SetupPacket.set_interface(1, 0),
            SetupPacket.get_interface(1),
            SetupPacket(0x21, 9, 0x0200, 1, 0),  # class and vendor requests to it
            SetupPacket(0xC1, 1, 0, 1, 8),
            SetupPacket(0x82, 0, 0, min(hidden - shown), 2),
            SetupPacket.clear_halt(min(hidden - shown)),
            SetupPacket(0x00, 7, 0x0200, 0, 0),  # SET_DESCRIPTOR
            SetupPacket(0x80, 7, 0x0200, 0, 0),
            # devices that look at bRequest only would obey these
            SetupPacket(0x80, 9, 2, 0, 0),  # SET_CONFIGURATION
            SetupPacket(0x02, 9, 2, 0, 0),
            SetupPacket(0x00, 11, 1, 1, 0),  # SET_INTERFACE of the hidden one
            SetupPacket(0x81, 11, 1, 0, 0),
            SetupPacket(0x80, 5, 9, 0, 0),  # SET_ADDRESS
            SetupPacket.get_descriptor(7, 0, 255),
        ):
            assert (await device.control(setup)).status is UrbStatus.STALL, setup
            assert setup not in reached
        assert (await device.read(Loopback.SOURCE, 64)).status is UrbStatus.OK
        assert (await device.control(SetupPacket(0x80, 0, 0, 0, 2))).length == 2
        for setup in (  # what is the whole device's, or of an interface that is seen
            SetupPacket.get_descriptor(3, 0, 255),
            SetupPacket(0x81, 6, 0x2200, 0, 64),
        ):
            await device.control(setup)
            assert setup in reached
    assert "hidden from the guest: interface 1 (maskedInterfaces 0x2)" in lab.log()
    assert 'admitted by filter 0 "rest" (any device); interface 1 is to be' in lab.log()


async def test_a_device_with_masked_interfaces_ignores_bus_resets(lab: Policed) -> None:
    lab.use(Filter("rest", masked_interfaces=0b10))
    resets: list[int] = []

    class Counting(Loopback):
        def reset_port(self) -> None:
            resets.append(1)
            super().reset_port()

    async with lab.client(EmulatedBackend(devices=[Counting()])):
        device = await lab.one()  # the guest reset it once when it came
        reading = asyncio.ensure_future(device.read(Loopback.BULK_IN, 64))
        await asyncio.sleep(0)
        device.attached.reset()
        assert (await reading).status is UrbStatus.CANCELLED
        assert (await device.read(Loopback.SOURCE, 64)).status is UrbStatus.OK
        assert resets == []
        lab.use(Filter("all"))
        await lab.wait_log("the filters now show the guest a different part")
        device = await lab.one()
        while not resets:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_t40_a_device_of_which_everything_is_masked_is_refused(
    lab: Policed,
) -> None:
    lab.use(Filter("none", masked_interfaces=0xFFFFFFFF))
    async with lab.client(EmulatedBackend(devices=[Keyboard()])):
        await lab.wait_log("hides all its interfaces (0), so nothing is left")
        assert lab.guest.devices == {}
        assert "hide fewer of them" in lab.log()


@pytest.mark.parametrize("is_composite", [False, True])
async def test_t40_a_hub_is_no_device_for_a_guest(
    lab: Policed, *, is_composite: bool
) -> None:
    async with lab.client(EmulatedBackend(devices=[Hub(is_composite=is_composite)])):
        await lab.wait_log("it is a hub")
        assert lab.guest.devices == {}


# ---------------------------------------------------- it is what was listed ----


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        ({"vendor_id": 0x0951, "product_id": 0x1666}, "0951:1666 revision"),
        ({"bcd_device": 0x0999}, "revision 0999"),
        ({"device_class": 9}, "class 09"),
    ],
)
async def test_t33_a_device_that_is_not_what_was_listed_is_refused(
    lab: Policed, listed: dict[str, object], shown: str
) -> None:
    async with lab.client(EmulatedBackend(devices=[Listed(**listed)])):
        await lab.wait_log("VUSB: Failed to attach")
        line = next(x for x in lab.log().splitlines() if "Failed" in x)
        own = Loopback().descriptors.device
        assert shown in line
        assert f"says {own.vendor_id:04x}:{own.product_id:04x} revision" in line
        assert lab.guest.devices == {}


async def test_old_clients_that_read_hexadecimal_as_decimal_are_believed(
    lab: Policed,
) -> None:
    device = Listed(bcd_device=0x010A, device_class=0)  # 1.10, class ef (G1)
    own = replace(device.descriptors.device, bcd_device=0x0110, device_class=0xEF)
    device.descriptors = replace(device.descriptors, device=own)
    async with lab.client(EmulatedBackend(devices=[device])):
        await lab.guest.wait_for(1)


async def test_t33_strings_are_read_again_where_a_filter_uses_them(
    lab: Policed,
) -> None:
    lab.use(Filter("one", serial_number="GOOD-1"))
    device = Listed(serial="GOOD-1")
    index = device.descriptors.device.serial
    device.answers[0x0300 | index] = serialize_string("EVIL-2")
    async with lab.client(EmulatedBackend(devices=[device])):
        await lab.wait_log("serialNumber wanted GOOD-1, found EVIL-2")
        assert lab.guest.devices == {}
        device.answers[0x0300 | index] = serialize_string("GOOD-1")
        lab.use(Filter("one", serial_number="GOOD-?"))  # tried again
        await lab.guest.wait_for(1)


async def test_t33_a_device_that_another_one_comes_back_as_leaves_the_guest(
    lab: Policed,
) -> None:
    device = Listed()
    async with lab.client(EmulatedBackend(devices=[device])):
        inside = await lab.one()
        other = replace(device.descriptors.device, product_id=0x6666)
        device.answers[0x0100] = other.serialize()
        inside.attached.reset()
        await lab.wait_log("after a reset it is a different device")
        await lab.guest.wait_for(0)
        assert ":6666 revision" in lab.log()


# ------------------------------------------------ what the interfaces can do ----


class Composite(FlashDrive):
    """A disk with a keyboard in it, which says so nowhere but in its interfaces."""

    def __init__(self) -> None:
        super().__init__()
        (whole,) = self.descriptors.configurations
        keys = InterfaceDescriptor(
            *(1, 0, 3, 1, 1), endpoints=(EndpointDescriptor(0x83, 3, 8, 4),)
        )
        pair = InterfaceAssociation(0, 2, 8, 6, 0x50)
        both = replace(whole, members=(pair, *whole.members, keys))
        self.descriptors = DeviceDescriptors(self.descriptors.device, (both,))
        self.state.descriptors = self.descriptors


async def test_t40_a_hidden_keyboard_is_seen_by_filters_that_ask(lab: Policed) -> None:
    lab.use(Filter("disks", interface_class="08"))
    async with lab.client(EmulatedBackend(devices=[Composite()])):
        await lab.wait_log("interfaceClass wanted 0008, interface 1 has 0003")
        assert lab.guest.devices == {}
        lab.use(Filter("disks", interface_class="08", masked_interfaces=0b10))
        assert seen(await lab.one()) == (0,)
    assert lab.log().count("VUSB: Attached") == 1


def test_t40_a_keyboard_in_another_configuration_is_seen_too() -> None:
    """The guest may select any of them."""
    disk = InterfaceDescriptor(0, 0, 8, 6, 0x50)
    keys = InterfaceDescriptor(0, 0, 3, 1, 1)
    whole = describe(Speed.HIGH, 0x0099, disk)
    (first,) = whole.configurations
    second = replace(first, value=2, members=(keys,))
    policy = Policy((Filter("disks", interface_class="08"),))
    info = DeviceInfo(1, 0x1209, 0x0099, remote=True)
    assert policy.judge(Reading(info, whole)).descriptors == whole
    both = with_configurations(whole, (first, second))
    with pytest.raises(GuestError, match="interface 0 has 0003"):
        policy.judge(Reading(info, both))


async def test_the_next_filter_takes_it_with_its_own_mask(lab: Policed) -> None:
    lab.use(
        Filter("disks", interface_class="08"), Filter("keys", masked_interfaces=0b01)
    )
    async with lab.client(EmulatedBackend(devices=[Composite()])):
        assert seen(await lab.one()) == (1,)


async def test_a_changed_mask_changes_what_the_guest_sees(lab: Policed) -> None:
    async with lab.client(EmulatedBackend(devices=[Composite()])):
        assert seen(await lab.one()) == (0, 1)
        lab.use(Filter("all", masked_interfaces=0b10))
        await lab.wait_log("the filters now show the guest a different part of it")
        while not lab.guest.devices:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert seen(await lab.one()) == (0,)
        lab.use(Filter("same", masked_interfaces=0b10))
        await asyncio.sleep(0.05)
        assert lab.log().count("VUSB: Detached") == 1


# --------------------------------------------------------------------- UAS ----


def disk_with_uas(speed: Speed) -> FlashDrive:
    drive = FlashDrive(speed=speed)
    (whole,) = drive.descriptors.configurations
    uas = replace(whole.interfaces[0], alternate=1, interface_protocol=0x62)
    both = replace(whole, members=(*whole.members, uas))
    drive.descriptors = DeviceDescriptors(drive.descriptors.device, (both,))
    drive.state.descriptors = drive.descriptors
    return drive


@pytest.mark.parametrize(("speed", "settings"), [(Speed.SUPER, 1), (Speed.HIGH, 2)])
async def test_uas_is_hidden_where_streams_do_not_work(
    lab: Policed, speed: Speed, settings: int
) -> None:
    async with lab.client(EmulatedBackend(devices=[disk_with_uas(speed)])):
        device = await lab.one()
        (configuration,) = device.attached.descriptors.configurations
        assert len(configuration.interfaces) == settings
    assert ("UAS of interface 0 is hidden" in lab.log()) == (settings == 1)


async def test_uas_alone_is_explained(lab: Policed) -> None:
    drive = disk_with_uas(Speed.SUPER)
    (whole,) = drive.descriptors.configurations
    alone = replace(whole.interfaces[0], interface_protocol=0x62)
    drive.descriptors = DeviceDescriptors(
        drive.descriptors.device, (replace(whole, members=(alone,)),)
    )
    drive.state.descriptors = drive.descriptors
    async with lab.client(EmulatedBackend(devices=[drive])):
        await lab.guest.wait_for(1)
    assert "interface 0 has nothing but UAS" in lab.log()


# --------------------------------------------------------------- odd devices ----


async def test_t33_odd_descriptors_are_noted_and_corrected(lab: Policed) -> None:
    device = Listed()
    whole = device.descriptors.configurations[0].serialize()
    odd = whole[:2] + (len(whole) + 100).to_bytes(2, "little") + whole[4:] + bytes(4)
    device.answers[0x0200] = odd
    own = replace(device.descriptors.device, num_configurations=2)
    device.answers[0x0100] = own.serialize()
    async with lab.client(EmulatedBackend(devices=[device])):
        inside = await lab.one()
        raw = await inside.control(SetupPacket.get_descriptor(2, 0, 4096))
        assert bytes(raw.data) == whole
        raw = await inside.control(SetupPacket.get_descriptor(1, 0, 18))
        assert bytes(raw.data)[17] == 1
    log = lab.log()
    assert f"wTotalLength {len(whole) + 100}, have {len(whole) + 4}" in log
    assert "it claims 2 configurations, but" in log


async def test_the_number_of_configurations_is_bounded(lab: Policed) -> None:
    device = Listed()
    own = replace(device.descriptors.device, num_configurations=255)
    whole = device.descriptors.configurations[0].serialize()
    device.answers = {0x0200 | n: whole for n in range(255)}
    device.answers[0x0100] = own.serialize()
    async with lab.client(EmulatedBackend(devices=[device])):
        inside = await lab.one()
        assert len(inside.attached.descriptors.configurations) == MAX_CONFIGURATIONS
    assert max(v for v in device.asked if v >> 8 == 2) & 0xFF == MAX_CONFIGURATIONS - 1
    assert "it claims 255 configurations; only 8 are read" in lab.log()


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({0x0200: None}, "cannot read descriptor 2/0"),
        ({0x0200: b"\x09\x04" + bytes(7)}, "not a configuration"),
        (
            {0x0200: b"\x09\2\xff\xff\1\1\0\x80\x32" + b"\2\5" * 8000},
            "claims 65535 bytes",
        ),
    ],
)
async def test_t33_what_cannot_be_configured_is_refused(
    lab: Policed, answers: dict[int, bytes | None], why: str
) -> None:
    device = Listed()
    device.answers = answers
    async with lab.client(EmulatedBackend(devices=[device])):
        await lab.wait_log(why)
        assert lab.guest.devices == {}


async def test_t33_no_configuration_is_none(lab: Policed) -> None:
    device = Listed()
    own = replace(device.descriptors.device, num_configurations=0)
    device.answers[0x0100] = own.serialize()
    async with lab.client(EmulatedBackend(devices=[device])):
        await lab.wait_log("has no configuration")


async def test_configuration_0_is_selected_where_the_device_has_it(
    lab: Policed,
) -> None:
    device = Loopback()
    zero = replace(device.descriptors.configurations[0], value=0)
    device.descriptors = DeviceDescriptors(device.descriptors.device, (zero,))
    device.state.descriptors = device.descriptors
    async with lab.client(EmulatedBackend(devices=[device])):
        inside = await lab.one()
        assert (await inside.read(Loopback.SOURCE, 64)).length == 64
        result = await inside.control(SetupPacket.get_interface(0))
        assert bytes(result.data) == b"\0"


# ------------------------------------------------------------------ how many ----


async def test_one_client_has_at_most_so_many_devices_in_use(
    lab: Policed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusb.server.admission.MAX_DEVICES_PER_CLIENT", 3)
    assert MAX_DEVICES_PER_CLIENT == 64
    devices: list[EmulatedDevice] = [Loopback() for _ in range(5)]
    async with lab.client(EmulatedBackend(devices=devices)):
        await lab.guest.wait_for(3)
        while lab.log().count("3 devices of the client are in use, the maximum") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len(lab.guest.devices) == 3
        found = lab.server.devices()
        assert all(d.verdict and d.verdict.admitted for d in found)
        problems = {d.problem for d in found if not d.attached}
        assert problems == {"3 devices of the client are in use, the maximum"}
        assert {d.problem for d in found if d.attached} == {""}


async def test_a_refused_device_is_tried_again_when_filters_change(
    lab: Policed,
) -> None:
    device = Listed()
    device.answers[0x0200] = None
    async with lab.client(EmulatedBackend(devices=[device])):
        await lab.wait_log("cannot read descriptor")
        await asyncio.sleep(0.05)
        assert lab.log().count("Failed to attach") == 1
        (found,) = lab.server.devices()
        assert "cannot read descriptor" in found.problem
        device.answers.clear()
        lab.use(Filter("again"))
        await lab.guest.wait_for(1)
