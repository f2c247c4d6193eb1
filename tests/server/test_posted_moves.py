"""Reads that are kept at a device come back, and what they brought goes to another
server: every byte once, and in order (docs/spec/teleport.md 7.11, posted.md)."""

import pytest

from rusb.client.backends.emulated import Keyboard
from rusb.errors import ParseError
from rusb.server.posted import IDLE
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.posting import (
    CANCELLED,
    GONE,
    IN,
    OK,
    PACKET,
    STALL,
    Device,
    data_of,
)

REPORTS = 0x81


def recalled(*pieces: bytes) -> Device:
    """A device whose reads come back; each has brought something, but for the rest."""
    device = Device()
    device.get_going()
    assert len(device.sizes()) > len(pieces) + 2
    device.reads.recall()
    for piece in pieces:
        device.end(piece, CANCELLED)
    assert not device.reads.is_back
    device.end_cancelled()
    assert device.reads.is_back
    return device


def taken_over(device: Device) -> Device:
    """The same, at another server."""
    other = Device()
    other.reads.adopt(device.reads.brought())
    return other


def test_all_reads_come_back_the_last_first() -> None:
    device = Device()
    device.get_going()
    there = list(device.open)
    device.reads.recall()
    assert device.cancelled == there[::-1]
    device.reads.recall()
    assert device.cancelled == there[::-1]


def test_nothing_is_asked_for_while_they_come_back() -> None:
    device = recalled(b"a")
    found = device.read()
    assert data_of(found) == [b"a"]  # it has come
    assert data_of(device.read()) == []
    assert device.sizes() == []


def test_what_they_brought_is_for_the_guest_at_the_other_server() -> None:
    other = taken_over(recalled(b"x" * PACKET, b"y"))
    found = other.read(4 * PACKET)
    assert data_of(found) == [b"x" * PACKET + b"y"]
    later = other.read()
    other.end(b"z")
    assert data_of(later) == [b"z"]


def test_what_one_brought_in_part_is_joined_with_what_comes_there() -> None:
    other = taken_over(recalled(b"x" * PACKET))
    found = other.read(2 * PACKET)
    assert data_of(found) == []
    assert other.sizes() == [PACKET]  # the rest
    other.end(b"y")
    assert data_of(found) == [b"x" * PACKET + b"y"]


def test_a_read_behind_one_that_has_some_is_asked_for_whole() -> None:
    device = Device()
    device.round_trip = 0.0
    device.read(4 * PACKET)
    device.reads.recall()
    device.end_cancelled(b"x" * PACKET)
    device.reads.go_on()
    device.read(2 * PACKET)
    assert device.sizes() == [3 * PACKET, 2 * PACKET]
    assert not set(device.open) & set(device.cancelled)


@pytest.mark.parametrize("status", [STALL, CANCELLED])
@pytest.mark.parametrize("is_recalled", [False, True])
def test_what_a_read_ends_with_is_told_unless_we_wanted_it(
    status: UrbStatus, *, is_recalled: bool
) -> None:
    device = Device()
    found = device.read()[1]
    if is_recalled:
        device.reads.recall()
    device.end(status=status)
    is_ours = is_recalled and status is CANCELLED
    assert [r.status for r in found] == ([] if is_ours else [status])


def test_where_a_transfer_ended_is_known_there() -> None:
    device = Device()
    device.get_going()
    for piece in (b"a" * PACKET, b"", b"b"):
        device.end(piece)
    device.reads.recall()
    device.end_cancelled()
    other = taken_over(device)
    assert [data_of(other.read(4 * PACKET)) for _ in range(2)] == [
        [b"a" * PACKET],
        [b"b"],
    ]


def test_a_stall_is_told_there_once() -> None:
    device = Device()
    device.get_going()
    device.end(b"a")
    device.end(status=STALL)
    device.reads.recall()
    while not device.reads.is_back:
        device.end(status=STALL)
    other = taken_over(device)
    statuses = [[r.status for r in other.read()[1]] for _ in range(3)]
    assert statuses == [[OK], [STALL], []]


def test_what_waits_is_all_there() -> None:
    full = b"x" * PACKET
    other = taken_over(recalled(*[full] * 10))
    assert [data_of(other.read()) for _ in range(10)] == [[full]] * 10
    assert other.reads.brought() == {}


def test_a_request_that_waits_for_them_is_not_back() -> None:
    device = Device()
    device.get_going()
    cleared = device.request(SetupPacket(0x02, 1, 0, IN, 0))
    device.reads.recall()
    assert not device.reads.is_back
    device.end_cancelled()
    assert device.reads.is_back  # it has gone to the device
    device.end(endpoint=0)
    assert [r.status for r in cleared] == [OK]
    assert device.sizes() == []


def test_what_stays_here_goes_on() -> None:
    device = recalled(b"a")
    found = device.read()
    waits = device.read()
    assert data_of(found) == [b"a"]
    assert device.sizes() == []
    device.reads.go_on()
    assert device.sizes()
    device.end(b"b")
    assert data_of(waits) == [b"b"]


@pytest.mark.parametrize("is_recalled", [False, True])
def test_a_guest_may_select_settings_when_a_read_ends_meanwhile(
    *, is_recalled: bool
) -> None:
    """What is read ahead may be something else from then on."""
    device = Device()
    found: list[UrbStatus] = []

    def ended(result: UrbResult) -> None:
        found.append(result.status)
        device.request(SetupPacket.set_interface(0, 0))

    if not is_recalled:
        device.reads.recall()
    device.reads.submit(Urb(99, TransferType.BULK, IN, PACKET), ended)
    device.is_gone = True
    device.cancel = lambda urb_id: device.end(status=GONE)  # type: ignore[method-assign]
    if is_recalled:
        device.reads.recall()
    else:
        device.reads.go_on()
    assert found == [GONE]


def test_an_endpoint_that_is_not_read_ahead_is_refused() -> None:
    with pytest.raises(ParseError, match="endpoint 0x8f"):
        Device().reads.adopt({0x8F: ((b"a", True, UrbStatus.OK),)})


@pytest.mark.parametrize("seconds", [IDLE * 0.9, IDLE * 1.1])
def test_reports_that_nobody_reads_there_are_forgotten(seconds: float) -> None:
    other = Device(Keyboard())
    other.clock.sleep(100.0)
    other.reads.adopt({REPORTS: ((b"12345678", False, UrbStatus.OK),)})
    other.clock.sleep(seconds)
    found = other.read(8, REPORTS, TransferType.INTERRUPT)
    assert data_of(found) == ([b"12345678"] if seconds < IDLE else [])


def test_bytes_of_a_serial_chip_wait_there_for_ever() -> None:
    other = taken_over(recalled(b"a"))
    other.clock.sleep(100 * IDLE)
    assert data_of(other.read()) == [b"a"]
