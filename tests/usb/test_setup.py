"""SETUP packets against the standard requests of USB 2.0, 9.4."""

import pytest

from rusb.errors import ParseError
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, Direction
from rusb.usb.urb import Urb

VECTORS = [  # USB 2.0, 9.4.1 to 9.4.10; HID 1.11, 7.2.2; BOT 1.0, 3.2
    (SetupPacket.get_descriptor(DescriptorType.DEVICE, length=18), "8006000100001200"),
    (SetupPacket.get_descriptor(2, 1, 0x1234), "8006010200003412"),
    (SetupPacket.get_descriptor(3, 2, 255, 0x0409), "800602030904ff00"),
    (SetupPacket.set_configuration(1), "0009010000000000"),
    (SetupPacket.get_configuration(), "8008000000000100"),
    (SetupPacket.set_interface(3, 2), "010b020003000000"),
    (SetupPacket.get_interface(3), "810a000003000100"),
    (SetupPacket.clear_halt(0x81), "0201000081000000"),
    (SetupPacket(0x21, 9, 0x0200, 0, 1), "2109000200000100"),
    (SetupPacket(0xA1, 0xFE, 0, 0, 1), "a1fe000000000100"),
    (SetupPacket(0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF), "ff" * 8),
]


@pytest.mark.parametrize(("packet", "wire"), VECTORS)
def test_both_directions_agree_with_the_vector(packet: SetupPacket, wire: str) -> None:
    assert SetupPacket.parse(bytes.fromhex(wire)) == packet
    assert SetupPacket.parse(memoryview(bytes.fromhex(wire))) == packet
    assert packet.serialize().hex() == wire


@pytest.mark.parametrize("length", [*range(8), 9, 64])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ParseError, match=f"of {length} bytes, not 8"):
        SetupPacket.parse(bytes(length))


@pytest.mark.parametrize(
    ("request_type", "direction", "is_standard"),
    [
        (0x00, Direction.OUT, True),
        (0x81, Direction.IN, True),
        (0x21, Direction.OUT, False),
        (0xA1, Direction.IN, False),
        (0xC0, Direction.IN, False),
        (0x40, Direction.OUT, False),
    ],
)
def test_what_bm_request_type_says(
    request_type: int, direction: Direction, is_standard: bool
) -> None:
    packet = SetupPacket(request_type, 0)
    assert (packet.direction, packet.is_standard) == (direction, is_standard)


def test_a_control_urb_has_the_direction_and_length_of_its_setup_packet() -> None:
    read = Urb.control(1, SetupPacket(0x80, 6, 0x0100, 0, 18))
    assert (read.endpoint, read.length, read.is_in) == (0x80, 18, True)
    write = Urb.control(2, SetupPacket(0x21, 9, 0x0200, 0, 3), b"abc")
    assert (write.endpoint, write.length, write.is_in) == (0x00, 3, False)
    assert write.data == b"abc"
