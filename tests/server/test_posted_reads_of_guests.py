"""Whose reads are at a device: the guest's own, as they are, or ours for them."""

from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.posting import CANCELLED, IN, PACKET, Device, data_of

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


def test_reads_of_ours_that_want_more_than_the_guest_does_are_cancelled() -> None:
    device = Device()
    device.get_going()
    device.read()
    device.read(64)
    first, *rest = device.open
    assert first not in device.cancelled
    assert set(rest) <= set(device.cancelled) | {rest[-1]}
    assert len(device.cancelled) == 21


def test_a_number_in_use_is_not_taken_twice() -> None:
    device = Device()
    number, found = device.read()
    again: list[UrbResult] = []
    device.reads.submit(Urb(number, TransferType.BULK, IN, PACKET), again.append)
    assert [r.status for r in again] == [UrbStatus.INVALID]
    device.end(b"x")
    assert data_of((number, found)) == [b"x"]
