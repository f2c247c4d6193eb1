"""Isochronous streams over a network that is late, in simulated time."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from rusb.client.backends.emulated import Loopback
from rusb.server.iso import IDLE, MAX_FAILURES, MAX_QUEUED, MIN_URBS, IsoStreams
from rusb.server.state import StreamState
from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Completion, IsoPacket, Urb, UrbResult, UrbStatus
from tests.support.amount import inputs

ISO = TransferType.ISOCHRONOUS
IN, OUT = Loopback.ISO_IN, Loopback.ISO_OUT
MS = 0.001


class Time:
    """Runs what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._count), call))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, call = heapq.heappop(self._due)
            call()
        self.now = end


class Far:
    """A full-speed device with an isochronous endpoint each way, over a network.

    Attributes:
        way: seconds to it or back; called for each message.
        rate: of its clock, against ours.
        status: of each transfer; not OK: with no packets.
        played: numbers of the packets that it got.
        most: transfers that were in flight at once.
    """

    def __init__(self, time: Time) -> None:
        loopback = Loopback(speed=Speed.FULL)
        self.info = replace(loopback.info(1, 1), speed=Speed.FULL)
        self.descriptors = loopback.descriptors
        self.name = "usb-1"
        self.own_ids: Iterator[int] = itertools.count(-1, -1)
        self.round_trip: float | None = 0.001
        self.way: Callable[[], float] = lambda: 0.0005
        self.rate = 1.0
        self.status = UrbStatus.OK
        self.played: list[int] = []
        self.most = self.resets = 0
        self.controls: list[SetupPacket] = []
        self.open: dict[int, tuple[Urb, Completion]] = {}
        self._time = time
        self._free = {IN: 0.0, OUT: 0.0}
        self._arrived = 0.0
        self._next = 0

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """Alternate setting 1 of interface 1 is selected."""
        return self.descriptors.configurations[0].interfaces[::2]

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """There is none."""

    def reset(self) -> None:
        self.resets += 1

    def cancel(self, urb_id: int) -> None:
        if urb_id in self.open:
            self._time.later(self.way(), lambda: self._end(urb_id, UrbStatus.CANCELLED))

    def submit(self, urb: Urb, complete: Completion) -> None:
        if urb.setup is not None:
            self.controls.append(urb.setup)
            complete(UrbResult(UrbStatus.OK))
            return
        self.open[urb.id] = urb, complete
        self.most = max(self.most, len(self.open))
        there = self._time.now + self.way()
        begin = max(there, self._free.get(urb.endpoint, 0.0))
        end = begin + len(urb.packets) * MS / self.rate
        self._free[urb.endpoint] = end
        self._arrived = max(self._arrived, end + self.way())  # in order
        self._time.later(self._arrived - self._time.now, lambda: self._end(urb.id))

    def _end(self, urb_id: int, status: UrbStatus = UrbStatus.OK) -> None:
        urb, complete = self.open.pop(urb_id, (None, None))
        if urb is None or complete is None:
            return
        if status is UrbStatus.OK:
            status = self.status
        if status is not UrbStatus.OK:
            complete(UrbResult(status))
        elif urb.is_in:
            pieces = []
            for _ in urb.packets:
                pieces.append(self._next.to_bytes(4, "little"))
                self._next += 1
            packets = tuple(IsoPacket(4) for _ in pieces)
            data = b"".join(pieces)
            complete(UrbResult(UrbStatus.OK, data, len(data), packets))
        else:
            start = 0
            for length in urb.packets:
                piece = bytes(urb.data[start : start + length])
                self.played.append(int.from_bytes(piece[:4], "little"))
                start += length
            packets = tuple(map(IsoPacket, urb.packets))
            complete(UrbResult(UrbStatus.OK, b"", urb.length, packets))


class Lab:
    """A stream between a guest and a far device.

    Attributes:
        heard: numbers of the packets that the guest got, None for an empty one.
        done: how often each transfer of the guest's has completed, and how.
        ended: how the streams that have ended went.
    """

    def __init__(self) -> None:
        self.time = Time()
        self.far = Far(self.time)
        self.ended: list[StreamState] = []
        self.streams = IsoStreams(
            self.far,
            now=lambda: self.time.now,
            later=self.time.later,
            ended=self.ended.append,
        )
        self.heard: list[int | None] = []
        self.done: dict[int, list[UrbResult]] = {}
        self.is_repeated = True
        self.resubmits = True
        self._ids = itertools.count(1)
        self._next = 0

    def submit(self, endpoint: int = IN, packets: int = 10, size: int = 256) -> int:
        number = next(self._ids)
        data = b""
        lengths = (size,) * packets
        if not endpoint & 0x80:
            lengths = (4,) * packets
            pieces = range(self._next, self._next + packets)
            data = b"".join(n.to_bytes(4, "little") for n in pieces)
            self._next += packets
        urb = Urb(number, ISO, endpoint, sum(lengths), data, packets=lengths)
        self.done[number] = []
        self.streams.submit(urb, lambda result: self._completed(urb, result))
        return number

    def _completed(self, urb: Urb, result: UrbResult) -> None:
        self.done[urb.id].append(result)
        start = 0
        for packet in result.packets if urb.is_in else ():
            piece = bytes(result.data[start : start + packet.length])
            self.heard.append(int.from_bytes(piece, "little") if piece else None)
            start += packet.length
        if result.status is UrbStatus.OK and self.resubmits:
            self.submit(urb.endpoint, len(urb.packets))

    def stream(self, endpoint: int = IN, seconds: float = 10.0) -> StreamState:
        """Let a driver that keeps six transfers in flight stream."""
        for _ in range(6):
            self.submit(endpoint)
        self.time.run(seconds)
        (state,) = self.streams.streams()
        return state

    def gaps(self) -> int:
        """Packets that are missing in what the guest got."""
        numbers = [n for n in self.heard if n is not None]
        assert numbers == sorted(set(numbers))
        return numbers[-1] - numbers[0] + 1 - len(numbers)


def test_a_quiet_network_loses_nothing_and_waits_for_little() -> None:
    lab = Lab()
    state = lab.stream()
    assert lab.gaps() == 0
    assert None not in lab.heard
    assert len(lab.heard) >= 9_850
    assert (state.bad, state.underruns, state.late, state.drift) == (0, 0, 0, 0)
    assert state.fill < 0.03
    assert lab.far.most == MIN_URBS


def test_what_is_late_by_some_milliseconds_is_waited_for() -> None:
    """Part of the issue: 20 ms and 5 ms of jitter lose at most 1 % after a while."""
    lab, source = Lab(), random.Random(3)
    lab.far.way = lambda: max(0.0, source.gauss(0.02, 0.005))
    lab.far.round_trip = 0.04
    lab.stream(seconds=5)
    lab.heard.clear()
    lab.time.run(20)
    assert lab.gaps() <= 0.01 * len(lab.heard)
    assert lab.heard.count(None) <= 0.01 * len(lab.heard)


def test_a_stall_is_silence_and_then_old_packets_are_dropped() -> None:
    lab = Lab()
    lab.stream(seconds=2)
    lab.far.way = lambda: 0.3
    lab.time.run(0.01)
    lab.far.way = lambda: 0.0005
    lab.time.run(3)
    (state,) = lab.streams.streams()
    assert None in lab.heard
    assert state.underruns == lab.heard.count(None) > 100
    assert state.late > 0
    assert state.fill <= state.target + 0.04
    assert lab.gaps() == state.late


@pytest.mark.parametrize("rate", [1.0005, 0.9995])
def test_a_device_whose_clock_is_another_one_is_followed(rate: float) -> None:
    """500 ppm for two minutes are 60 packets."""
    lab = Lab()
    lab.far.rate = rate
    state = lab.stream(seconds=120)
    assert (state.drift > 0) is (rate > 1)
    assert lab.gaps() <= 64
    assert state.late == 0
    assert state.fill <= state.target + 0.04
    assert lab.heard.count(None) <= 64


def test_a_packet_with_an_error_is_counted_and_told() -> None:
    lab = Lab()
    lab.stream(seconds=1)
    lab.resubmits = False
    lab.far.status = UrbStatus.IO_ERROR
    lab.time.run(0.05)
    lab.far.status = UrbStatus.OK
    lab.time.run(0.2)
    statuses = [p.status for d in lab.done.values() for r in d for p in r.packets]
    (state,) = lab.streams.streams()
    assert state.bad == statuses.count(UrbStatus.IO_ERROR) > 0


def test_transfers_that_always_fail_end_the_stream() -> None:
    lab = Lab()
    lab.far.status = UrbStatus.TIMEOUT
    for _ in range(3):
        lab.submit()
    lab.time.run(1)
    last = [results[0].status for results in list(lab.done.values())[-3:]]
    assert set(last) == {UrbStatus.TIMEOUT}
    assert len(lab.ended) == 1
    assert lab.far.most <= MIN_URBS
    assert MAX_FAILURES <= 16


@pytest.mark.parametrize("status", [UrbStatus.NO_DEVICE, UrbStatus.STALL])
def test_an_unplugged_device_ends_the_stream(status: UrbStatus) -> None:
    lab = Lab()
    lab.stream(seconds=1)
    lab.far.status = status
    lab.time.run(1)
    last = [results[0] for results in list(lab.done.values())[-6:]]
    assert {r.status for r in last} == {status}
    assert {len(r.packets) for r in last} == {10}
    assert [state.is_running for state in lab.ended] == [False]


def test_a_setting_a_reset_and_a_configuration_end_streams() -> None:
    for setup in (
        SetupPacket.set_interface(1, 0),
        SetupPacket.set_configuration(1),
        None,
    ):
        lab = Lab()
        lab.stream(seconds=0.5)
        lab.resubmits = False
        if setup is None:
            lab.streams.reset()
            assert lab.far.resets == 1
        else:
            lab.streams.submit(Urb.control(5000, setup), lambda result: None)
            assert lab.far.controls == [setup]
        assert all(len(results) == 1 for results in lab.done.values())
        lab.time.run(1)
        assert lab.far.open == {}
        assert len(lab.ended) == 1
        assert lab.streams.streams() == ()


def test_the_setting_of_another_interface_changes_nothing() -> None:
    lab = Lab()
    lab.stream(seconds=0.5)
    lab.streams.submit(
        Urb.control(5000, SetupPacket.set_interface(0, 0)), lambda result: None
    )
    assert lab.ended == []


def test_a_stream_without_a_reader_ends_and_begins_again() -> None:
    lab = Lab()
    lab.resubmits = False
    lab.submit()
    lab.time.run(IDLE + 0.5)
    assert len(lab.ended) == 1
    lab.time.run(0.1)
    assert lab.far.open == {}
    lab.submit()
    lab.time.run(0.5)
    assert all(len(results) == 1 for results in lab.done.values())


def test_a_transfer_of_the_guest_is_cancelled_alone() -> None:
    lab = Lab()
    lab.resubmits = False
    first, second = lab.submit(), lab.submit()
    lab.streams.cancel(first)
    assert [r.status for r in lab.done[first]] == [UrbStatus.CANCELLED]
    lab.streams.cancel(first)
    lab.streams.cancel(12345)
    lab.time.run(0.5)
    assert [r.status for r in lab.done[second]] == [UrbStatus.OK]


def test_what_does_not_fit_is_refused() -> None:
    lab = Lab()
    lab.resubmits = False
    result: list[UrbResult] = []
    bad = Urb(1, ISO, IN, 9, packets=(4, 4))
    lab.streams.submit(bad, result.append)
    assert [r.status for r in result] == [UrbStatus.INVALID]
    for _ in range(MAX_QUEUED + 1):
        lab.submit()
    refused = [r for d in lab.done.values() for r in d]
    assert [r.status for r in refused] == [UrbStatus.INVALID]


def test_a_packet_that_is_longer_than_wanted_is_an_error() -> None:
    lab = Lab()
    lab.resubmits = False
    number = lab.submit(size=2)
    lab.time.run(0.5)
    (result,) = lab.done[number]
    assert {p.status for p in result.packets} == {UrbStatus.OVERFLOW}
    assert len(result.data) == 0


def test_what_is_played_reaches_the_device_whole() -> None:
    lab = Lab()
    state = lab.stream(OUT)
    played = lab.far.played
    assert played == list(range(len(played)))
    assert 9_800 <= len(played) <= 10_000
    assert (state.bad, state.late, state.underruns) == (0, 0, 0)


def test_the_guest_is_answered_in_time_however_far_the_device_is() -> None:
    lab = Lab()
    lab.far.way, lab.far.round_trip = (lambda: 0.15), 0.3
    state = lab.stream(OUT, 3)
    assert state.packets in range(2990, 3001)
    assert state.late == 0


def test_what_a_stalled_network_does_not_take_is_dropped() -> None:
    lab = Lab()
    lab.stream(OUT, 1)
    lab.far.way = lambda: 1.0
    lab.time.run(0.5)
    (state,) = lab.streams.streams()
    assert state.late > 100
    assert len(lab.far.open) < 40


def test_other_transfers_pass_through() -> None:
    lab = Lab()
    lab.resubmits = False
    result: list[UrbResult] = []
    lab.streams.submit(Urb(1, TransferType.BULK, 0x81, 64), result.append)
    assert list(lab.far.open) == [1]
    lab.streams.cancel(1)
    lab.time.run(0.1)
    assert [r.status for r in result] == [UrbStatus.CANCELLED]
    unknown = Urb(2, ISO, 0x8F, 8, packets=(8,))
    lab.streams.submit(unknown, result.append)
    assert 2 in lab.far.open  # the device says what is wrong with it


@pytest.mark.fuzz
def test_each_transfer_completes_once_whatever_happens() -> None:
    for seed in range(inputs(30, 200)):
        source, lab = random.Random(seed), Lab()
        lab.resubmits = False
        lab.far.way = lambda source=source: source.choice((0.0, 0.001, 0.1))  # type: ignore[misc]
        for _ in range(100):
            match source.randrange(8):
                case 0:
                    lab.streams.cancel(source.randrange(1, 60))
                case 1:
                    lab.far.status = source.choice(list(UrbStatus))
                case 2:
                    setup = SetupPacket.set_interface(source.randrange(2), 1)
                    lab.streams.submit(Urb.control(9000, setup), lambda result: None)
                case 3:
                    lab.streams.reset()
                case _:
                    lab.submit(source.choice((IN, OUT)), source.randrange(1, 40))
            lab.time.run(source.choice((0.0, 0.003, 0.05, 2.0)))
        lab.streams.reset()
        lab.time.run(5)
        assert all(len(results) == 1 for results in lab.done.values())
        assert lab.far.open == {}
        for state in lab.ended:
            assert not state.is_running


def test_intervals_of_high_speed_are_microframes() -> None:
    lab = Lab()
    lab.far.info = replace(lab.far.info, speed=Speed.HIGH)
    lab.streams.info = lab.far.info
    endpoint = next(
        e for i in lab.far.interfaces for e in i.endpoints if e.address == IN
    )
    assert isinstance(endpoint, EndpointDescriptor)
    lab.resubmits = False
    lab.submit()
    (urb, _) = next(iter(lab.far.open.values()))
    assert len(urb.packets) == 64
