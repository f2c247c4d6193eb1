"""Masked interfaces and UAS: what is left of the descriptors (filters.md 1.1, T40)."""

import pytest

from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceAssociation,
    InterfaceDescriptor,
)
from rusb.usb.hiding import hide_interfaces, hide_uas, numbers_of, uas_interfaces

CONTROL = InterfaceDescriptor(
    0, 0, 2, 2, 1, endpoints=(EndpointDescriptor(0x83, 3, 8, 9),)
)
DATA = InterfaceDescriptor(1, 0, 10, 0, 0, extra=b"\5\x24\0\0\0")
DATA_1 = InterfaceDescriptor(
    1, 1, 10, 0, 0, endpoints=(EndpointDescriptor(1, 2, 64, 0),)
)
KEYBOARD = InterfaceDescriptor(
    2, 0, 3, 1, 1, endpoints=(EndpointDescriptor(0x84, 3, 8, 9),)
)
PAIR = InterfaceAssociation(0, 2, 2, 2, 1, extra=b"\3\x7f\0")
ALONE = InterfaceAssociation(2, 1, 3, 1, 1)


def device(*configurations: ConfigurationDescriptor) -> DeviceDescriptors:
    count = len(configurations)
    head = DeviceDescriptor(0x0200, 0xEF, 2, 1, 64, 0x1209, 1, 1)
    head = DeviceDescriptor.parse(head.serialize()[:-1] + bytes((count,)))
    return DeviceDescriptors(head, configurations)


Member = InterfaceDescriptor | InterfaceAssociation


def configuration(*members: Member, value: int = 1) -> ConfigurationDescriptor:
    return ConfigurationDescriptor(value, 0x80, 50, members)


WHOLE = device(configuration(PAIR, CONTROL, DATA, DATA_1, ALONE, KEYBOARD))


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        (0b000, (PAIR, CONTROL, DATA, DATA_1, ALONE, KEYBOARD)),
        (0b100, (PAIR, CONTROL, DATA, DATA_1)),
        (0b011, (ALONE, KEYBOARD)),
        (0b1000, (PAIR, CONTROL, DATA, DATA_1, ALONE, KEYBOARD)),
        (
            0b001,
            (
                InterfaceAssociation(1, 1, 2, 2, 1, extra=b"\3\x7f\0"),
                *(DATA, DATA_1, ALONE, KEYBOARD),
            ),
        ),
    ],
)
def test_a_mask_takes_out_interfaces_and_what_belongs_to_them(
    mask: int, left: tuple[Member, ...]
) -> None:
    (found,) = hide_interfaces(WHOLE, mask).configurations
    assert found.members == left
    data = found.serialize()
    assert int.from_bytes(data[2:4], "little") == len(data)
    assert data[4] == len({m.number for m in found.interfaces})
    assert ConfigurationDescriptor.parse(data) == found


def test_a_configuration_of_which_nothing_is_left_goes_and_is_not_counted() -> None:
    two = device(configuration(KEYBOARD), configuration(CONTROL, value=2))
    found = hide_interfaces(two, 0b100)
    assert [c.value for c in found.configurations] == [2]
    assert found.device.num_configurations == 1
    assert hide_interfaces(two, 0b101).configurations == ()
    assert numbers_of(two) == (0, 2)


def test_a_configuration_without_interfaces_is_not_one_of_which_nothing_is_left() -> (
    None
):
    assert hide_interfaces(device(configuration()), 1) == device(configuration())


def test_numbers_that_no_bit_stands_for_cannot_be_hidden() -> None:
    odd = device(configuration(InterfaceDescriptor(200, 0, 3, 1, 1)))
    assert hide_interfaces(odd, 0xFFFFFFFF) == odd


BULK_ONLY = InterfaceDescriptor(0, 0, 8, 6, 0x50)
UAS = InterfaceDescriptor(0, 1, 8, 6, 0x62)
UAS_FIRST = InterfaceDescriptor(0, 0, 8, 6, 0x62)


def test_uas_goes_where_there_is_another_way_to_the_disk() -> None:
    disk = device(configuration(BULK_ONLY, UAS))
    assert uas_interfaces(disk) == (0,)
    assert hide_uas(disk) == device(configuration(BULK_ONLY))
    assert uas_interfaces(hide_uas(disk)) == ()


def test_uas_stays_where_nothing_else_is_left() -> None:
    disk = device(configuration(UAS_FIRST))
    assert hide_uas(disk) == disk
    assert uas_interfaces(disk) == (0,)


def test_other_classes_may_have_that_protocol() -> None:
    other = device(configuration(DATA, InterfaceDescriptor(1, 1, 0xFF, 6, 0x62)))
    assert hide_uas(other) == other
