"""Mass storage, bulk-only transport 1.0: what is one, and what its wrappers say."""

import struct
from dataclasses import replace

import pytest

from rusb.usb.bulk_only import BulkOnly, Command, Status, needs_quiet
from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus

IN = EndpointDescriptor(0x81, 2, 512, 0)
OUT = EndpointDescriptor(0x02, 2, 512, 0)
INTERRUPT = EndpointDescriptor(0x83, 3, 8, 4)
DISK = InterfaceDescriptor(3, 0, 8, 6, 0x50, endpoints=(IN, INTERRUPT, OUT))

# 5.1: READ (10) of 4096 bytes; 5.2: its status
WRAPPER = bytes.fromhex("55534243 01020304 00100000 80 00 0a") + bytes(16)
ANSWER = bytes.fromhex("55534253 01020304 00000000 00")


def test_a_disk_has_a_pair_of_bulk_endpoints() -> None:
    assert BulkOnly.of(DISK) == BulkOnly(3, 0x81, 0x02, 512)


@pytest.mark.parametrize(
    "other",
    [
        replace(DISK, interface_class=3),
        replace(DISK, interface_subclass=1),
        replace(DISK, interface_protocol=0x62),  # UAS
        replace(DISK, endpoints=(IN,)),
        replace(DISK, endpoints=(IN, IN, OUT)),
        replace(DISK, endpoints=(IN, OUT, OUT)),
    ],
)
def test_what_is_no_disk_of_this_transport(other: InterfaceDescriptor) -> None:
    assert BulkOnly.of(other) is None


def carrying(data: bytes) -> Urb:
    return Urb(1, TransferType.BULK, 0x02, len(data), data)


def test_a_command_says_which_way_its_data_go() -> None:
    assert Command.of(carrying(WRAPPER)) == Command(0x04030201, 4096, True)
    write = WRAPPER[:12] + b"\0" + WRAPPER[13:]
    assert Command.of(carrying(write)) == Command(0x04030201, 4096, False)


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0x56), (12, 0x81), (13, 16), (14, 0), (14, 17)]
)
def test_a_wrapper_with_a_wrong_field_is_none(offset: int, value: int) -> None:
    wrong = bytearray(WRAPPER)
    wrong[offset] = value
    assert Command.of(carrying(bytes(wrong))) is None


@pytest.mark.parametrize("size", [0, 30, 32])
def test_a_wrapper_has_31_bytes(size: int) -> None:
    assert Command.of(carrying((WRAPPER + b"\0")[:size])) is None


def test_a_status_belongs_to_a_tag() -> None:
    found = Status.of(UrbResult(UrbStatus.OK, ANSWER, len(ANSWER)))
    assert found == Status(0x04030201, 0)


@pytest.mark.parametrize(
    "result",
    [
        UrbResult(UrbStatus.STALL),
        UrbResult(UrbStatus.OK, ANSWER[:12], 12),
        UrbResult(UrbStatus.OK, b"USBC" + ANSWER[4:], 13),
    ],
)
def test_what_is_no_status(result: UrbResult) -> None:
    assert Status.of(result) is None


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        ("00 09 0100 0000 0000", True),  # SET_CONFIGURATION
        ("01 0b 0000 0300 0000", True),  # SET_INTERFACE
        ("02 01 0000 8100 0000", True),  # CLEAR_FEATURE(ENDPOINT_HALT)
        ("02 01 0100 8100 0000", False),  # another feature
        ("21 ff 0000 0300 0000", True),  # Bulk-Only Mass Storage Reset
        ("a1 fe 0000 0300 0100", False),  # Get Max LUN
        ("80 06 0001 0000 1200", False),
    ],
)
def test_some_requests_need_quiet(packet: str, wanted: bool) -> None:
    setup = SetupPacket(*struct.unpack("<BBHHH", bytes.fromhex(packet)))
    assert needs_quiet(setup) is wanted
