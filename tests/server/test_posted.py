"""Reads that are kept at a device: nothing is lost, and all is in order."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from rusb.client.backends.emulated import Keyboard, SerialLoopback
from rusb.server.posted import IDLE, MAX_ASKED, MAX_WAITING, is_read_ahead
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.polling import interrupt_depth, interrupt_interval
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
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


def test_the_third_read_has_as_many_kept_as_the_round_trip_wants() -> None:
    device = Device()
    for expected in (1, 2, 22):
        device.read()
        assert device.sizes() == [PACKET] * expected
    device.round_trip = None
    device.end(b"x")
    assert len(device.sizes()) == 102


@pytest.mark.parametrize(("full", "most"), [(16, 128), (8, 128), (7, 5), (0, 5)])
def test_a_device_that_has_more_is_asked_for_more(full: int, most: int) -> None:
    """The network has become three times as slow as it was when that was measured: as
    few reads as are there bring as few results. Of 16 so many are full."""
    device = Device()
    device.get_going()
    count = 0
    for _ in range(20):
        for _ in (sizes := device.sizes()):
            device.clock.sleep(0.06 / len(sizes))
            device.end(b"x" * (PACKET if count % 16 < full else 8))
            device.read()
            count += 1
    assert len(device.sizes()) == most


def test_a_guest_that_keeps_enough_there_itself_is_left_alone() -> None:
    """Its reads go as they are, so that they cost no more than others."""
    device = Device()
    device.round_trip = 0.0
    for is_known in (False, True, True):
        for _ in range(8):
            device.read()
        for _ in range(40):
            device.end(b"x" * PACKET)
            device.read()
        assert len(device.open) == 8
        assert (min(device.open) > 0) is is_known  # none of ours
        while device.open:
            device.end(b"x" * PACKET)
    for _ in range(3):
        device.read()
        device.end(b"x")
    device.read()
    assert len(device.open) == 5  # now it needs some


@pytest.mark.parametrize(("way", "is_left_alone"), [(0.0, True), (0.002, False)])
def test_two_reads_are_enough_where_the_way_is_short(
    way: float, is_left_alone: bool
) -> None:
    device = Device()
    device.round_trip = way
    device.read()
    for _ in range(40):
        device.read()
        device.end(b"x" * PACKET)
    while device.open:
        device.end(b"x" * PACKET)
    device.read()
    device.read()
    assert (len(device.open) == 2 and min(device.open) > 0) is is_left_alone


def test_reads_that_grow_ask_for_no_more_than_what_may_be_asked_for() -> None:
    """How many small ones there should be says nothing of large ones."""
    device = Device()
    device.round_trip = 0.0
    device.get_going()
    assert device.sizes() == [PACKET] * 5
    for _ in range(6):
        device.read(MAX_ASKED)
        device.end(b"x")
    assert device.sizes() == [MAX_ASKED]


def test_a_read_that_has_some_already_wants_only_the_rest() -> None:
    """A device that has no more than that would never end a read of the whole."""
    device = Device()
    device.round_trip = 0.0
    device.get_going()
    _, found = device.read(8 * PACKET)
    for _ in range(5):
        device.end(b"x" * PACKET)
    device.end_cancelled()
    assert device.sizes()[0] == 3 * PACKET
    device.end(b"y" * 3 * PACKET)
    assert [bytes(r.data) for r in found] == [b"x" * 5 * PACKET + b"y" * 3 * PACKET]


def test_what_came_before_the_guest_reads_is_there_at_once() -> None:
    device = Device()
    device.get_going()
    for n in range(5):
        device.end(bytes([n]) * 10)
    found = [device.read() for _ in range(7)]
    assert [data_of(one) for one in found] == [
        *([bytes([n]) * 10] for n in range(5)),
        *([], []),
    ]
    device.end(b"late")
    assert data_of(found[5]) == [b"late"]


def test_a_read_that_is_cancelled_loses_nothing() -> None:
    device = Device()
    for n in range(20):
        number, found = device.read()
        device.reads.cancel(number)
        assert [r.status for r in found] == [CANCELLED]
        device.end(bytes([n]))
        again = device.read()
        assert data_of(again) == [bytes([n])]
        assert not device.cancelled


def test_what_came_of_a_long_read_that_is_given_up_comes_with_it() -> None:
    device = Device()
    number, found = device.read(8 * PACKET)
    device.reads.cancel(number)
    assert not found
    device.end_cancelled(b"a" * 2 * PACKET)
    assert [(r.status, len(r.data)) for r in found] == [(CANCELLED, 2 * PACKET)]
    later = device.read(8 * PACKET)
    device.end(b"b")
    assert data_of(later) == [b"b"]


def test_a_long_read_of_which_nothing_came_is_given_up_with_nothing() -> None:
    device = Device()
    number, found = device.read(8 * PACKET)
    device.reads.cancel(number)
    device.end_cancelled()
    assert [(r.status, bytes(r.data)) for r in found] == [(CANCELLED, b"")]


def test_a_long_read_that_is_given_up_may_be_done_all_the_same() -> None:
    device = Device()
    number, found = device.read(2 * PACKET)
    other = device.read(2 * PACKET)
    device.reads.cancel(number)
    device.end(b"a")
    assert [(r.status, bytes(r.data)) for r in found] == [(OK, b"a")]
    device.end_cancelled()
    device.end(b"b")
    assert data_of(other) == [b"b"]


def test_a_long_read_may_be_done_while_ours_are_being_cancelled() -> None:
    device = Device()
    number, found = device.read(2 * PACKET)
    later, _ = device.read(2 * PACKET)
    device.reads.cancel(later)
    done = iter((b"a",))

    def cancel(_: int) -> None:
        for data in done:
            device.end(data)

    device.cancel = cancel  # type: ignore[assignment, method-assign]
    device.reads.cancel(number)
    device.end(status=CANCELLED)
    assert [(r.status, bytes(r.data)) for r in found] == [(OK, b"a")]
    again = device.read(2 * PACKET)
    device.end(b"b")
    assert data_of(again) == [b"b"]


def test_what_comes_while_ours_are_cancelled_is_behind_what_waits() -> None:
    device = Device()
    device.round_trip = 0.0
    device.get_going()
    found = device.read(8 * PACKET)
    done = iter((b"y" * 8 * PACKET,))

    def cancel(_: int) -> None:
        for data in done:
            device.end(data)

    device.cancel = cancel  # type: ignore[assignment, method-assign]
    for _ in range(5):
        device.end(b"x" * PACKET)
    assert data_of(found) == [b"x" * 5 * PACKET + b"y" * 3 * PACKET]


def test_full_packets_are_joined_up_to_a_short_one() -> None:
    device = Device()
    device.get_going()
    device.end(b"a" * PACKET)
    device.end(b"b" * PACKET)
    found = device.read(4 * PACKET)
    assert data_of(found) == []
    device.end(b"c")
    assert data_of(found) == [b"a" * PACKET + b"b" * PACKET + b"c"]


def test_an_empty_packet_ends_a_read() -> None:
    device = Device()
    device.read(4 * PACKET)
    device.read(4 * PACKET)
    found = device.read(4 * PACKET)
    device.end(b"a")
    device.end(b"b" * 2 * PACKET)  # a whole number of packets, and an empty one
    device.end()
    assert data_of(found) == [b""]


def test_more_than_the_guest_reads_is_kept_for_its_next_read() -> None:
    device = Device()
    device.get_going()
    device.end(b"abcde")
    assert [data_of(device.read(n)) for n in (2, 2, 1)] == [[b"ab"], [b"cd"], [b"e"]]


def test_one_that_reads_less_does_not_wait_for_more() -> None:
    device = Device()
    for _ in range(3):
        device.read(4 * PACKET)
        device.end(b"x")
    assert device.sizes() == [4 * PACKET] * 22
    found = device.read(PACKET)
    assert len(device.cancelled) == 22
    assert device.cancelled == sorted(device.cancelled)  # the last first
    device.end_cancelled(b"d" * PACKET)
    assert data_of(found) == [b"d" * PACKET]
    device.read(PACKET)
    assert device.sizes() == [PACKET]  # and begins anew


def test_reads_of_several_sizes_are_asked_for_as_they_are() -> None:
    device = Device()
    for size in (4096, 512, 1024, 100):
        device.read(size)
    assert device.sizes() == [4096, 512, 1024, 100]
    assert not device.cancelled


def test_after_a_stall_the_guest_is_told_once() -> None:
    device = Device()
    device.get_going()
    device.end(b"before")
    while device.open:
        device.end(status=STALL)
    assert data_of(device.read()) == [b"before"]
    _, found = device.read()
    assert [r.status for r in found] == [STALL]
    assert not device.sizes()
    _, found = device.read()
    assert device.sizes() == [PACKET]
    device.end(status=STALL)
    assert [r.status for r in found] == [STALL]


def test_every_read_of_a_halted_endpoint_stalls() -> None:
    device = Device()
    found = [device.read() for _ in range(3)]
    for _ in range(40):
        if device.open:
            device.end(status=STALL)
    assert [[r.status for r in results] for _, results in found] == [[STALL]] * 3


def test_what_a_read_has_moved_before_it_failed_is_told_each_time() -> None:
    device = Device()
    found = [device.read(4 * PACKET)[1] for _ in range(3)]
    device.end(b"a", status=UrbStatus.IO_ERROR)
    device.end(b"b", status=UrbStatus.IO_ERROR)
    assert [[(r.status, bytes(r.data)) for r in one] for one in found] == [
        [(UrbStatus.IO_ERROR, b"a")],
        [(UrbStatus.IO_ERROR, b"b")],
        [],
    ]


def test_a_halt_is_cleared_when_ours_are_gone() -> None:
    device = Device()
    device.get_going()
    request = SetupPacket(0x02, 1, 0, IN, 0)
    device.request(request)
    other = device.request(SetupPacket(0xA1, 0x21, 0, 0, 7))
    later = device.read()
    assert not device.sizes(0) + device.sizes(0x80)
    device.end_cancelled(b"had moved")
    assert len(device.sizes(0)) == 1
    assert len(device.sizes(0x80)) == 1
    assert not other
    assert data_of(later) == [b"had moved"]


def test_a_request_that_is_given_up_while_it_waits_never_leaves() -> None:
    device = Device()
    device.get_going()
    setup, found = SetupPacket(0x02, 1, 0, IN, 0), list[UrbResult]()
    device.reads.submit(Urb.control(99, setup), found.append)
    device.reads.cancel(99)
    assert [r.status for r in found] == [CANCELLED]
    assert 99 not in device.cancelled
    device.end_cancelled()
    assert device.sizes(0) == []
    assert device.sizes()  # it is read on


def test_a_device_that_is_configured_later_is_read_ahead_from_then_on() -> None:
    device = Device()
    settings, device.interfaces = device.interfaces, ()
    device.reads.reset()

    def configure(urb: Urb, complete: Completion) -> None:
        device.interfaces = settings
        complete(UrbResult(OK))

    submit = device.submit
    device.submit = configure  # type: ignore[method-assign]
    assert [r.status for r in device.request(SetupPacket.set_configuration(1))] == [OK]
    device.submit = submit  # type: ignore[method-assign]
    device.get_going()
    assert len(device.sizes()) == 22


def test_a_setting_of_another_interface_takes_nothing() -> None:
    device = Device()
    device.get_going()
    device.end(b"kept")
    device.request(SetupPacket.set_interface(0, 0))
    assert not device.cancelled
    assert data_of(device.read()) == [b"kept"]


@pytest.mark.parametrize(
    "request_", [SetupPacket.set_interface(1, 0), SetupPacket.set_configuration(1)]
)
def test_another_setting_begins_with_nothing(request_: SetupPacket) -> None:
    device = Device()
    device.get_going()
    device.end(b"old")
    device.request(request_)
    found = device.read()
    device.end_cancelled(b"old, too")
    assert len(device.sizes(0)) == 1
    device.end(b"new")
    assert data_of(found) == [b"new"]


def test_a_read_of_an_endpoint_that_is_no_more_ends() -> None:
    device = Device()
    device.get_going()
    _, found = device.read()
    device.request(SetupPacket.set_interface(1, 1))
    device.interfaces = (
        device.interfaces[0],
        replace(device.interfaces[1], endpoints=()),
    )
    device.end_cancelled()
    assert [r.status for r in found] == [CANCELLED]


def test_another_endpoint_of_the_same_address_is_read_once() -> None:
    """What is cancelled of the one before comes late, and asks for nothing."""
    device = Device()
    device.get_going()
    device.interfaces = tuple(
        replace(one, endpoints=tuple(replace(e, interval=7) for e in one.endpoints))
        for one in device.interfaces
    )
    device.reads.reset()
    found = [device.read() for _ in range(2)]
    device.end_cancelled()
    assert device.sizes() == [PACKET] * 2
    device.end(b"a")
    device.end(b"b")
    assert [data_of(one) for one in found] == [[b"a"], [b"b"]]


@pytest.mark.parametrize(
    "request_",
    [
        SetupPacket.clear_halt(IN),
        SetupPacket.set_interface(1, 0),
        SetupPacket.set_configuration(1),
    ],
)
def test_a_request_leaves_once_also_if_ours_are_gone_at_once(
    request_: SetupPacket,
) -> None:
    """As while the client is away: each that is cancelled completes meanwhile."""
    device = Device()
    device.get_going()
    device.is_away = True
    found = device.request(request_)
    assert len(device.sizes(0)) == 1
    device.end(endpoint=0)
    assert [r.status for r in found] == [OK]


def test_a_guest_that_resets_while_ours_are_cancelled_gives_its_request_up() -> None:
    device = Device()
    _, found = device.read()
    cancel = device.cancel

    def come_back(urb_id: int) -> None:
        cancel(urb_id)
        device.open.pop(urb_id)[1](UrbResult(CANCELLED, b"x", 1))

    device.cancel = come_back  # type: ignore[method-assign]
    urb = Urb(next(device._ids), TransferType.BULK, IN, PACKET)
    device.reads.submit(urb, lambda _: device.reads.reset())
    held = device.request(SetupPacket.clear_halt(IN))
    assert [r.status for r in (*found, *held)] == [OK, CANCELLED]
    assert not device.open


def test_a_reset_ends_everything() -> None:
    device = Device()
    device.get_going()
    held = device.request(SetupPacket.set_interface(1, 0))
    _, waiting = device.read()
    device.reads.reset()
    assert device.resets == 1
    assert [r.status for r in (*held, *waiting)] == [CANCELLED] * 2
    device.end_cancelled(b"old")
    found = device.read()
    device.end(b"new")
    assert data_of(found) == [b"new"]


def test_a_long_read_that_is_being_given_up_ends_with_a_reset() -> None:
    device = Device()
    number, found = device.read(8 * PACKET)
    device.reads.cancel(number)
    device.reads.reset()
    assert [r.status for r in found] == [CANCELLED]
    device.end_cancelled(b"old")
    later = device.read(8 * PACKET)
    device.end(b"new")
    assert data_of(later) == [b"new"]


def test_unplugged_with_many_reads_under_way_each_completes() -> None:
    device = Device()
    found = [device.read() for _ in range(500)]
    device.is_gone = True
    while device.open:
        device.end(status=GONE)
    assert [[r.status for r in results] for _, results in found] == [[GONE]] * 500


def test_what_waits_has_a_limit() -> None:
    device = Device()
    for _ in range(3):
        device.read(16 << 10)
        device.end(b"x")
    while device.sizes():
        device.end(bytes(16 << 10))
    found = 0
    while data_of(device.read(16 << 10)):
        found += 1
    # until it was full, and what was under way then
    assert MAX_WAITING >> 14 < found <= (MAX_WAITING >> 14) + 22


def test_a_guest_that_reads_again_at_once_gets_all_that_waits_in_order() -> None:
    """As programs in this process do: each completion asks for the next."""
    device = Device()
    device.get_going()
    count = 0
    while device.sizes():
        device.end(count.to_bytes(4))
        count += 1
    found: list[int] = []

    def again(result: UrbResult | None = None) -> None:
        if result is not None:
            found.append(int.from_bytes(result.data))
        urb = Urb(next(device._ids), TransferType.BULK, IN, PACKET)
        device.reads.submit(urb, again)

    again()
    assert 4 * count > sys.getrecursionlimit()  # so many calls each, in each other
    assert found == list(range(count))


def test_no_read_is_kept_for_a_guest_that_has_stopped_and_no_byte_is_lost() -> None:
    device = Device()
    device.get_going()
    device.clock.sleep(IDLE)
    for n in range(22):
        device.end(bytes([n]))
    assert not device.open
    device.clock.sleep(60)
    assert [data_of(device.read()) for _ in range(22)] == [
        [bytes([n])] for n in range(22)
    ]


def test_a_guest_that_waits_long_has_not_stopped() -> None:
    device = Device()
    device.get_going()
    device.read()
    device.clock.sleep(100)
    device.end(b"x")
    assert len(device.sizes()) == 22


KEYS = Keyboard.IN


def test_reports_that_nobody_waits_for_are_forgotten() -> None:
    device = Device(Keyboard())
    for n in range(3):
        device.read(8, KEYS, TransferType.INTERRUPT)
        device.end(bytes([n]) * 8, endpoint=KEYS)
    kept = len(device.sizes(KEYS))
    assert kept >= 5
    device.end(b"old" + bytes(5), endpoint=KEYS)
    device.clock.sleep(IDLE / 2)
    assert not device.cancelled
    found = device.read(8, KEYS, TransferType.INTERRUPT)
    assert data_of(found) == [b"old" + bytes(5)]
    device.end(b"pressed!", endpoint=KEYS)
    device.clock.sleep(IDLE * 1.01)
    assert len(device.cancelled) == len(device.sizes(KEYS))
    device.end_cancelled(b"pressed?")
    found = device.read(8, KEYS, TransferType.INTERRUPT)
    assert not data_of(found)
    device.end(b"now!....", endpoint=KEYS)
    assert data_of(found) == [b"now!...."]


def test_a_timer_that_is_early_is_not_set_again_and_again() -> None:
    device = Device(Keyboard())
    device.clock.sleep(0.1)  # of which sums are not exact
    timers: list[float] = []
    later = device.reads._later

    def count(seconds: float, what: Callable[[], None]) -> None:
        timers.append(seconds)
        later(seconds - 0.002, what)

    device.reads._later = count
    device.read(8, KEYS, TransferType.INTERRUPT)
    for _ in range(4):
        device.end(b"12345678", endpoint=KEYS)
        device.read(8, KEYS, TransferType.INTERRUPT)
    device.end(b"12345678", endpoint=KEYS)
    device.clock.sleep(IDLE * 1.1)
    assert len(timers) == 1
    assert len(device.cancelled) == len(device.sizes(KEYS)) > 0


def test_reports_are_forgotten_also_if_the_last_read_was_given_up() -> None:
    device = Device(Keyboard())
    number, _ = device.read(8, KEYS, TransferType.INTERRUPT)
    device.reads.cancel(number)
    assert not device.cancelled
    device.clock.sleep(IDLE * 1.1)
    assert len(device.cancelled) == len(device.sizes(KEYS)) == 1


def test_reports_come_as_often_as_the_device_says_they_do() -> None:
    device = Device(Keyboard())
    (keyboard,) = device.interfaces
    interval = interrupt_interval(keyboard.endpoints[0], device.info.speed)
    for n in range(3):
        device.read(8, KEYS, TransferType.INTERRUPT)
        if n < 2:
            device.end(b"12345678", endpoint=KEYS)
    assert len(device.sizes(KEYS)) == interrupt_depth(interval, 0.02) < 22


def test_a_read_of_nothing_is_the_guests() -> None:
    device = Device()
    _, found = device.read(0)
    assert list(device.open) == [1]
    device.end()
    assert [r.status for r in found] == [OK]


def test_which_devices_it_is_for() -> None:
    assert is_read_ahead(SerialLoopback().descriptors)
    assert is_read_ahead(Keyboard().descriptors)


def test_outside_serial_chips_bulk_reads_are_the_guests() -> None:
    device = Device()
    setting = device.interfaces[1]
    device.interfaces = (
        InterfaceDescriptor(1, 0, 7, 1, 2, endpoints=setting.endpoints),
    )
    device.reads.reset()
    for _ in range(4):
        number, _ = device.read()
    assert list(device.open) == [1, 2, 3, 4]
    device.reads.cancel(number)
    assert device.cancelled == [4]
