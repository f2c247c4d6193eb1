"""Whose reads are at a device: the guest's own, as they are, or ours for them."""

import pytest

from rusb.client.backends.emulated import SerialLoopback
from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.posting import CANCELLED, IN, PACKET, Device, data_of

OUT = SerialLoopback.OUT
MANY = 30
"""More than a round trip of 20 ms wants."""


def keeping_many() -> tuple[Device, list[tuple[int, list[UrbResult]]]]:
    """A guest that has many reads under way, and has read again with as many."""
    device = Device()
    found = [device.read() for _ in range(MANY)]
    device.end(b"first")
    found.append(device.read())
    return device, found[1:]


def test_many_reads_go_as_they_are_wherever_the_device_is() -> None:
    """Also while it begins with them: it reads before one of them has ended."""
    device, _ = keeping_many()
    while device.open:
        device.end(b"x")
    for _ in range(MANY):
        device.read()
    assert len(device.open) == MANY
    assert min(device.open) > 0  # none of ours


def test_what_has_come_goes_before_reads_as_they_are() -> None:
    device, found = keeping_many()
    device.reads.cancel(found[-1][0])
    assert [r.status for r in found[-1][1]] == [CANCELLED]
    while len(device.open) > 1:
        device.end(b"x")
    device.end(b"kept")
    assert data_of(device.read()) == [b"kept"]
    assert not device.open


def test_what_is_under_way_goes_before_reads_as_they_are() -> None:
    device, found = keeping_many()
    for number, _ in found:
        device.reads.cancel(number)
    read = device.read()
    device.end(b"next")
    assert data_of(read) == [b"next"]


def test_a_read_behind_those_that_wait_for_ours_is_no_exception() -> None:
    """While ours are recalled there are none of ours either."""
    device, found = keeping_many()
    device.reads.recall()
    device.end_cancelled()
    found.append(device.read())
    assert not device.open
    device.reads.go_on()
    for n in range(len(found)):
        device.end(bytes([n]))
    assert [data_of(one) for one in found] == [[bytes([n])] for n in range(len(found))]


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [(OUT, TransferType.BULK), (0x84, TransferType.ISOCHRONOUS)],
)
def test_what_is_no_read_of_a_serial_chip_goes_as_it_is(
    endpoint: int, kind: TransferType
) -> None:
    device = Device()
    there = *device.interfaces[1].endpoints, EndpointDescriptor(endpoint, kind, 64, 1)
    device.interfaces = (InterfaceDescriptor(1, 0, 0xFF, 0, 0, endpoints=there),)
    device.reads.reset()
    for _ in range(4):
        device.read(PACKET, endpoint, kind)
    assert list(device.open) == [1, 2, 3, 4]


def test_reads_of_ours_that_want_more_than_the_guest_does_are_cancelled() -> None:
    device = Device()
    device.get_going()
    device.read()
    device.read(64)
    first, *rest = device.open
    assert first not in device.cancelled
    assert set(rest) <= set(device.cancelled) | {rest[-1]}
    assert len(device.cancelled) == 21


@pytest.mark.parametrize("size", [PACKET, 8])
def test_a_number_in_use_is_not_taken_twice(size: int) -> None:
    device = Device()
    device.get_going()
    number, found = device.read()
    again: list[UrbResult] = []
    device.reads.submit(Urb(number, TransferType.BULK, IN, size), again.append)
    assert [r.status for r in again] == [UrbStatus.INVALID]
    assert not device.cancelled  # nor does its size count
    device.end(b"x")
    assert data_of((number, found)) == [b"x"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_guest_that_waits_for_all_of_its_reads_needs_ours(count: int) -> None:
    """Between two rounds of its own nothing else would be at the device."""
    device = Device()
    device.round_trip = 0.0001
    device.get_going()
    for _ in range(100):
        found = [device.read() for _ in range(count)]
        for _ in found:
            device.end(b"x")
        assert [data_of(one) for one in found] == [[b"x"]] * count
        assert len(device.sizes()) == 5


def test_reads_that_are_not_back_yet_count_as_there() -> None:
    """However often a guest changes its mind while they come."""
    device = Device()
    device.get_going()
    for _ in range(10):
        for size in (8, 64, 64, 64):
            device.read(size)
    assert len(device.open) == 22 + 40  # those before, and one for each of its own


def test_what_is_given_up_while_another_read_ends_asks_for_nothing() -> None:
    """What those between wait for has come already, and goes to them next."""
    device = Device()
    found: list[bytes] = []
    last = 0

    def ended(result: UrbResult) -> None:
        found.append(bytes(result.data))
        if len(found) == 2:
            device.reads.cancel(last)

    for size in (80, 70, 60, 50):
        last = next(device._ids)
        device.reads.submit(Urb(last, TransferType.BULK, IN, size), ended)
    there = list(device.open.values())
    device.open.clear()
    for urb, complete in (*there[1:], there[0]):
        complete(UrbResult(UrbStatus.OK, bytes(urb.length), urb.length))
    assert found == [bytes(80), bytes(70), b"", bytes(60)]
    assert not device.open
    assert data_of(device.read(50)) == [bytes(50)]
