"""Whose reads are at a device: the guest's own, as they are, or ours for them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rusb.client.backends.emulated import SerialLoopback
from rusb.server.posted import IDLE, MAX_READS
from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.posting import CANCELLED, IN, NOTIFY, PACKET, Device, data_of

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


def test_but_for_its_reads_it_is_the_device() -> None:
    device = Device()
    reads, watched = device.reads, list[object]()
    device.watch_pressure = watched.append  # type: ignore[assignment, method-assign]
    reads.watch_pressure(print)
    assert watched == [print]
    assert (reads.name, reads.round_trip) == (device.name, device.round_trip)
    assert reads.info is device.info
    assert reads.descriptors is device.descriptors
    assert reads.interfaces is device.interfaces
    assert reads.own_ids is device.own_ids


def test_what_is_just_what_the_guest_waits_for_is_passed_on_as_it_is() -> None:
    device = Device()
    for _ in range(40):
        _, found = device.read()
        number = next(iter(device.open))
        result = UrbResult(UrbStatus.OK, b"x", 1)
        device.open.pop(number)[1](result)
        assert found[0] is result


class Asked(Device):
    """Counts how often somebody wants to know how far it is."""

    def __init__(self) -> None:
        self.count = 0
        super().__init__()

    @property
    def round_trip(self) -> float:  # type: ignore[override]
        self.count += 1
        return 0.0001


@pytest.mark.parametrize("keeps", [1, 2, 8])
def test_how_a_guest_reads_is_judged_now_and_then(keeps: int) -> None:
    device = Asked()
    for _ in range(keeps):
        device.read()
    for _ in range(100):
        device.end(b"x")
        device.read()
    device.count = 0
    for _ in range(320):
        device.end(b"x")
        device.read()
    assert 5 <= device.count <= 40, device.count


def test_one_that_is_given_up_leaves_none_that_wants_more_than_the_next() -> None:
    device = Device()
    number, _ = device.read(PACKET)
    _, later = device.read(8)
    device.reads.cancel(number)
    assert device.cancelled == [-2, -1]
    assert device.sizes() == [PACKET, 8, 8]
    device.end_cancelled()
    device.end(b"x")
    assert [bytes(r.data) for r in later] == [b"x"]


def test_when_results_with_data_came_says_how_many_there_should_be() -> None:
    """Also those of reads that went as they were."""
    device, _ = keeping_many()
    while device.open:
        device.end(b"x")
    for _ in range(MANY):
        device.read()
    for _ in range(16):
        device.clock.sleep(0.01)
        device.end(b"x")
    while device.open:
        device.end()
    for _ in range(4):
        device.read()
        device.end(b"x")
        device.clock.sleep(0.01)
    device.read()
    assert len(device.open) == 5
    assert max(device.open) < 0


@pytest.mark.parametrize(
    ("status", "is_told"),
    [(UrbStatus.STALL, True), (CANCELLED, False), (UrbStatus.OK, False)],
)
def test_after_an_error_reads_count_anew(status: UrbStatus, *, is_told: bool) -> None:
    device, _ = keeping_many()
    while device.open:
        device.clock.sleep(0.001)
        device.end(b"x")
    for _ in range(MANY):
        device.read()
    while device.open:
        device.clock.sleep(0.001)
        device.end(b"x")
        if device.clock.now < 0.1:
            device.read()
    device.read()  # still as it is
    device.end(status=status)
    device.read()
    assert len(device.open) == (1 if is_told else 22)
    assert max(device.open) < 0


def another(
    device: Device, change: Callable[[EndpointDescriptor], EndpointDescriptor]
) -> None:
    """Other endpoints are where those of a device were, after a reset."""
    device.interfaces = tuple(
        replace(one, endpoints=tuple(map(change, one.endpoints)))
        for one in device.interfaces
    )
    device.reads.reset()
    device.end_cancelled()


def test_another_endpoint_of_the_same_address_is_read_as_if_it_were_new() -> None:
    device, _ = keeping_many()
    while device.open:
        device.end(b"x" * PACKET)
    for _ in range(MANY):
        device.read()
    while device.open:  # as they are: none of ours is necessary
        device.end(b"x" * PACKET)
    another(device, lambda e: replace(e, interval=7))
    device.get_going()
    assert len(device.sizes()) == 22
    assert max(device.open) < 0


def test_how_fast_one_was_says_nothing_of_another_at_its_address() -> None:
    device = Device()
    device.get_going()
    for _ in range(40):
        device.read()
        device.end(b"x" * PACKET)
    assert len(device.sizes()) == 128
    another(device, lambda e: replace(e, interval=7))
    device.get_going()
    assert len(device.sizes()) == 22


def test_another_endpoint_has_packets_of_its_own_and_another_interface() -> None:
    device = Device()
    device.get_going()
    device.interfaces = tuple(
        replace(one, number=one.number + 5) for one in device.interfaces
    )
    another(device, lambda e: replace(e, max_packet_size=64))
    device.get_going()
    device.cancelled.clear()
    number, found = device.read()
    device.reads.cancel(number)
    assert not found  # some packets may have come
    device.reads.reset()
    device.end_cancelled()
    device.get_going()
    device.cancelled.clear()
    device.request(SetupPacket.set_interface(1, 0))
    assert not device.cancelled
    device.request(SetupPacket.set_interface(6, 0))
    assert device.cancelled


def test_a_stall_that_the_guest_waited_for_is_told_once_and_it_begins_anew() -> None:
    device = Device()
    device.get_going()
    _, found = device.read()
    while device.open:
        device.end(status=UrbStatus.STALL)
    assert [r.status for r in found] == [UrbStatus.STALL]
    for expected in (1, 2, 22):
        _, found = device.read()
        assert not found
        assert len(device.sizes()) == expected


def test_an_empty_packet_behind_what_fills_a_read_is_for_the_next() -> None:
    device = Device()
    device.get_going()
    device.end(b"a" * PACKET)
    device.end()
    assert [data_of(device.read()) for _ in range(2)] == [[b"a" * PACKET], [b""]]


def test_an_endpoint_whose_packets_have_no_size_is_read_all_the_same() -> None:
    device = Device()
    another(device, lambda e: replace(e, max_packet_size=0))
    device.get_going()
    device.end(b"a" * PACKET)
    assert data_of(device.read()) == [b"a" * PACKET]


def test_all_endpoints_of_a_device_share_what_may_be_there() -> None:
    device = Device()
    device.round_trip = None
    device.get_going()
    for _ in range(40):
        device.read()
        device.end(b"x" * PACKET)
    assert len(device.sizes()) == MAX_READS
    for _ in range(3):
        device.read(16, NOTIFY, TransferType.INTERRUPT)
    assert len(device.sizes(NOTIFY)) == 5  # of nine


def test_full_reports_do_not_ask_for_more_than_there_are() -> None:
    device = Device()
    for _ in range(40):
        device.read(16, NOTIFY, TransferType.INTERRUPT)
        device.end(b"x" * 16, endpoint=NOTIFY)
    assert len(device.sizes(NOTIFY)) == 5


@pytest.mark.parametrize(
    ("endpoint", "kind"), [(IN, TransferType.BULK), (NOTIFY, TransferType.INTERRUPT)]
)
def test_ours_are_of_the_endpoints_type(endpoint: int, kind: TransferType) -> None:
    device = Device()
    for _ in range(3):
        device.read(16, endpoint, kind)
    assert len(device.open) > 3
    assert {urb.type for urb, _ in device.open.values()} == {kind}


def test_reports_are_kept_for_a_while_after_the_latest_read() -> None:
    device = Device()
    for seconds in (0.0, 0.0, 0.0, IDLE * 0.6):
        device.clock.sleep(seconds)
        device.read(16, NOTIFY, TransferType.INTERRUPT)
        device.end(b"x" * 16, endpoint=NOTIFY)
    device.clock.sleep(IDLE * 0.6)
    assert not device.cancelled
    device.clock.sleep(IDLE * 0.6)
    assert device.cancelled
