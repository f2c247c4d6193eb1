"""The device side of usbredir against guests that are rude, slow or hostile (T30)."""

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rusb.errors import RemoteProtocolError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import DeviceReset, Ignored, UrbCancelled, UrbSubmitted
from rusb.wire.usbredir import UsbredirDeviceSide
from rusb.wire.usbredir import _device as device_side

from .joined import messages

HELLO, DISCONNECT, RESET, EP_INFO, SET_CONFIGURATION = 0, 2, 3, 5, 6
CONFIGURATION_STATUS, START_ISO, ISO_STATUS, CANCEL, ACK = 8, 12, 14, 21, 24
SET_ALT, START_INTERRUPT, INTERRUPT_STATUS = 9, 15, 17
CONTROL, BULK, ISO, INTERRUPT = 100, 101, 102, 103
SUCCESS, CANCELLED, INVAL, IOERROR, STALL = range(5)

BULK_IN, BULK_OUT, POLLED, ISO_IN, ISO_OUT = 0x81, 0x02, 0x83, 0x84, 0x05
SLOW = 0x86  # an interrupt endpoint whose bInterval is 0
ENDPOINTS = tuple(
    EndpointDescriptor(address, kind, size, interval)
    for address, kind, size, interval in (
        *((BULK_IN, 2, 512, 0), (BULK_OUT, 2, 512, 0), (POLLED, 3, 64, 4)),
        *((ISO_IN, 1, 192, 1), (ISO_OUT, 1, 192, 0), (SLOW, 3, 8, 0)),
    )
)
INFO = DeviceInfo(7, 0x1209, 0x0001, speed=Speed.HIGH)
DESCRIPTORS = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0xFF, 0, 0, 64, 0x1209, 0x0001, 0x0100),
    (
        ConfigurationDescriptor(
            1, 0x80, 50, (InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, ENDPOINTS),)
        ),
    ),
)


def packet(kind: int, id: int = 0, body: bytes = b"") -> bytes:
    return struct.pack("<IIQ", kind, len(body), id) + body


def bulk(id: int, endpoint: int, length: int = 0, data: bytes = b"") -> bytes:
    length = length or len(data)
    head = struct.pack("<BBHIH", endpoint, 0, length & 0xFFFF, 0, length >> 16)
    return packet(BULK, id, head + data)


def control(id: int, request_type: int, length: int, data: bytes = b"") -> bytes:
    head = (request_type & 0x80, 1, request_type, 0, 0, 0, length)
    return packet(CONTROL, id, struct.pack("<BBBBHHH", *head) + data)


class Host:
    """The core with its device connected, configured and silent."""

    def __init__(self) -> None:
        self.core = UsbredirDeviceSide()
        self.core.channel_opened(0, "", now=0)
        self.core.announce([INFO], {INFO.id: DESCRIPTORS})
        hello = struct.pack("<III64sI", HELLO, 68, 0, b"a guest", 0x7E)
        self.send(hello, packet(SET_CONFIGURATION, 1, b"\1"))
        (urb,) = self.urbs()
        self.complete(urb)
        self.enumeration = list(self.answers())

    def send(self, *packets: bytes) -> None:
        self.core.receive_data(0, b"".join(packets), now=0)

    def urbs(self) -> list[Urb]:
        self.events = self.core.events()
        return [e.urb for e in self.events if isinstance(e, UrbSubmitted)]

    def complete(
        self, urb: Urb, data: bytes = b"", status: UrbStatus = UrbStatus.OK
    ) -> None:
        length = len(data) if urb.is_in else urb.length
        self.core.complete_urb(INFO.id, urb.id, UrbResult(status, data, length))

    def answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, id and body of each packet sent."""
        raw = b"".join(messages(self.core))
        if raw[:4] == bytes(4):  # hello, with the short header
            raw = raw[12 + 68 :]
        while raw:
            kind, length, id = struct.unpack_from("<IIQ", raw)
            yield kind, id, raw[16 : 16 + length]
            raw = raw[16 + length :]


@pytest.fixture
def host() -> Host:
    return Host()


# --------------------------------------------------- what a guest may ask ----


def test_an_id_in_flight_is_refused_and_not_submitted_again(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 8), bulk(9, BULK_IN, 16))
    (urb,) = host.urbs()
    assert list(host.answers()) == [(BULK, 9, struct.pack("<BBHIH", 0x81, 2, 0, 0, 0))]
    host.complete(urb, b"12345678")
    host.send(bulk(9, BULK_IN, 16))
    assert [u.length for u in host.urbs()] == [16]


def test_no_answer_is_longer_than_what_was_asked_for(host: Host) -> None:
    host.send(bulk(2, BULK_IN, 4), control(3, 0xC0, 2), bulk(4, BULK_OUT, 0, b"abc"))
    for urb in host.urbs():
        result = UrbResult(UrbStatus.OK, bytes(600), 600)
        host.core.complete_urb(INFO.id, urb.id, result)
    first, second, third = (body for _, _, body in host.answers())
    assert first == struct.pack("<BBHIH4x", BULK_IN, 0, 4, 0, 0)
    assert second == struct.pack("<BBBBHHH2x", 0x80, 1, 0xC0, 0, 0, 0, 2)
    assert third == struct.pack("<BBHIH", BULK_OUT, 0, 3, 0, 0)


def test_a_wrong_endpoint_is_refused_at_once(host: Host) -> None:
    host.send(bulk(2, POLLED, 4), bulk(3, 0x8F, 4))
    odd = struct.pack("<BBBBHHH", 0x81, 1, 0xC0, 0, 0, 0, 2)
    host.send(packet(CONTROL, 4, odd))
    assert host.urbs() == []
    statuses = [
        body[3] if kind == CONTROL else body[1] for kind, _, body in host.answers()
    ]
    assert statuses == [INVAL] * 3


def test_a_polled_endpoint_without_an_interval_has_one_for_qemu(host: Host) -> None:
    """QEMU refuses the whole device otherwise (usbredir.md 6.2)."""
    infos = [body for kind, _, body in host.enumeration if kind == EP_INFO]
    types, intervals = infos[-1][:32], infos[-1][32:64]
    slow, iso_out, bulk_in, polled = (16 | 6, 5, 16 | 1, 16 | 3)
    assert (types[slow], types[iso_out], types[bulk_in]) == (3, 1, 2)
    assert (intervals[slow], intervals[iso_out]) == (1, 1)
    assert (intervals[bulk_in], intervals[polled]) == (0, 4)


@pytest.mark.parametrize(
    ("packets", "urbs", "status"),
    [
        *((1, 1, SUCCESS), (32, 16, SUCCESS), (0, 1, STALL), (1, 0, STALL)),
        *((33, 1, STALL), (1, 17, STALL), (255, 255, STALL)),
    ],
)
def test_an_isochronous_stream_is_bounded(  # T30
    host: Host, packets: int, urbs: int, status: int
) -> None:
    host.send(packet(START_ISO, 5, bytes((ISO_IN, packets, urbs))))
    assert list(host.answers()) == [(ISO_STATUS, 5, bytes((status, ISO_IN)))]
    submitted = host.urbs()
    assert len(submitted) == (urbs if status == SUCCESS else 0)
    assert all(u.packets == (192,) * packets for u in submitted)


def test_isochronous_data_that_does_not_fit_is_refused(host: Host) -> None:  # T30
    def out(size: int) -> bytes:
        return packet(ISO, 0, struct.pack("<BBH", ISO_OUT, 0, size) + bytes(size))

    host.send(out(8))  # no stream yet
    host.send(packet(START_ISO, 5, bytes((ISO_OUT, 1, 1))), out(193))
    assert host.urbs() == []
    assert [(kind, body) for kind, _, body in host.answers()] == [
        (ISO_STATUS, bytes((INVAL, ISO_OUT))),
        (ISO_STATUS, bytes((SUCCESS, ISO_OUT))),
        (ISO_STATUS, bytes((INVAL, ISO_OUT))),
    ]
    host.send(out(192), *(out(1) for _ in range(1000)))
    urbs = host.urbs()
    assert [u.length for u in urbs] == [192]
    assert len(host.core._streams[ISO_OUT].queue) <= 1


def test_data_for_a_stopped_stream_is_dropped(host: Host) -> None:  # T30
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    urbs = host.urbs()
    host.send(packet(16, 3, bytes((POLLED,))))
    list(host.answers())
    host.complete(urbs[0], b"late")
    assert list(host.answers()) == []


@pytest.mark.parametrize("status", [UrbStatus.INVALID, UrbStatus.IO_ERROR])
def test_a_stream_that_always_fails_ends(host: Host, status: UrbStatus) -> None:
    """An endpoint that the device below does not have fails at once, each time."""
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    rounds = 0
    while urbs := host.urbs():
        for urb in urbs:
            host.complete(urb, status=status)
        rounds += 1
        assert rounds < 100
    kinds = [(kind, body[0]) for kind, _, body in host.answers()]
    assert kinds[0] == (INTERRUPT_STATUS, 0)
    assert kinds[-1] == (INTERRUPT_STATUS, 4)  # stall: the guest starts it again
    host.send(packet(START_INTERRUPT, 3, bytes((POLLED,))))
    assert len(host.urbs()) == 5


def test_a_stream_goes_on_after_a_failure_now_and_then(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    for _ in range(40):
        first, *others = host.urbs()
        host.complete(first, status=UrbStatus.CRC)
        for urb in others:
            host.complete(urb, b"x")
    assert INTERRUPT_STATUS not in [kind for kind, _, _ in host.answers()][1:]


def test_a_device_is_not_offered_before_the_ack(host: Host) -> None:  # T30
    host.core.announce([])
    assert [kind for kind, _, _ in host.answers()] == [DISCONNECT]
    host.core.announce([INFO], {INFO.id: DESCRIPTORS})
    host.send(bulk(9, BULK_IN, 8))  # still to the old device
    assert host.urbs() == []
    assert list(host.answers()) == []
    host.send(packet(ACK))
    assert [kind for kind, _, _ in host.answers()] == [4, 5, 1]


def test_a_hello_with_more_behind_it_and_a_second_one() -> None:  # T30
    host = Host()
    hello = packet(HELLO, 0, struct.pack("<64sI", b"again", 0))
    host.send(hello, bulk(9, BULK_IN, 8))
    assert [u.length for u in host.urbs()] == [8]
    assert [e for e in host.events if isinstance(e, Ignored)] == [
        Ignored("a second hello")
    ]


def test_many_resets_in_a_row_are_one(host: Host) -> None:
    host.send(*(packet(RESET) for _ in range(1000)))
    host.urbs()
    assert len([e for e in host.events if isinstance(e, DeviceReset)]) == 1


def test_configuration_0_is_selected_where_the_device_has_it() -> None:
    (one,) = DESCRIPTORS.configurations
    zero = DeviceDescriptors(DESCRIPTORS.device, (replace(one, value=0),))
    core = UsbredirDeviceSide()
    core.channel_opened(0, "", now=0)
    core.announce([INFO], {INFO.id: zero})
    hello = struct.pack("<III64sI", HELLO, 68, 0, b"a guest", 0x7E)
    core.receive_data(0, hello + packet(SET_CONFIGURATION, 1, b"\0"), now=0)
    (urb,) = [e.urb for e in core.events() if isinstance(e, UrbSubmitted)]
    assert urb.setup == SetupPacket.set_configuration(0)


# ---------------------------------------------------------------- cancel ----


def statuses(host: Host) -> list[tuple[int, int, int]]:
    """Id, status and length of each answer to a bulk request."""
    return [
        (id, body[1], int.from_bytes(body[2:4], "little"))
        for kind, id, body in host.answers()
        if kind == BULK
    ]


def test_a_cancelled_request_is_answered_once_with_what_was_moved(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 64), packet(CANCEL, 9), packet(CANCEL, 9))
    (urb,) = host.urbs()
    assert [e for e in host.events if isinstance(e, UrbCancelled)] == [
        UrbCancelled(INFO.id, urb.id)
    ]
    assert statuses(host) == []
    for _ in range(2):
        host.complete(urb, b"moved", UrbStatus.CANCELLED)
    assert statuses(host) == [(9, CANCELLED, 5)]


def test_the_id_of_a_cancelled_request_may_be_used_again_at_once(host: Host) -> None:
    """QEMU drops the first answer for it: the old one must go first (12)."""
    host.send(bulk(9, BULK_IN, 64), packet(CANCEL, 9), bulk(9, BULK_IN, 32))
    old, new = host.urbs()
    assert statuses(host) == [(9, CANCELLED, 0)]
    host.complete(new, b"new")
    host.complete(old, b"late", UrbStatus.CANCELLED)
    assert statuses(host) == [(9, SUCCESS, 3)]


def test_a_cancelled_request_does_not_hold_up_those_after_it(host: Host) -> None:
    host.send(*(bulk(i, BULK_IN, 64) for i in (1, 2, 3)))
    first, second, third = host.urbs()
    host.complete(third, b"333")
    host.complete(second, b"22")
    assert statuses(host) == []
    host.send(packet(CANCEL, 1))
    assert statuses(host) == [(2, SUCCESS, 2), (3, SUCCESS, 3)]
    host.complete(first, b"", UrbStatus.CANCELLED)
    assert statuses(host) == [(1, CANCELLED, 0)]


def test_a_request_that_is_cancelled_when_it_is_done_has_its_answer(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 8), bulk(10, BULK_IN, 8))
    first, second = host.urbs()
    host.complete(second, b"done")  # waits for the first
    host.send(packet(CANCEL, 10))
    assert statuses(host) == [(10, SUCCESS, 4)]
    host.complete(first, b"12345678")
    assert statuses(host) == [(9, SUCCESS, 8)]
    assert host.core._bytes == 0


def test_two_streams_never_use_the_same_urb_id() -> None:
    """A device may still have transfers of the stream before."""
    hosts = Host(), Host()
    found = []
    for host in hosts:
        host.send(bulk(9, BULK_IN, 8), bulk(10, BULK_IN, 8))
        found += [urb.id for urb in host.urbs()]
    assert len(set(found)) == 4


def test_an_alternate_setting_answers_what_waits_for_its_turn(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 8), bulk(10, BULK_IN, 8))
    _, second = host.urbs()
    host.complete(second, b"done")
    host.send(packet(SET_ALT, 11, b"\0\0"))
    (setting,) = host.urbs()
    host.complete(setting)
    assert statuses(host) == [(9, CANCELLED, 0), (10, SUCCESS, 4)]


def test_a_reset_answers_what_was_cancelled_too(host: Host) -> None:
    host.send(bulk(1, BULK_IN, 64), bulk(2, BULK_IN, 64), packet(CANCEL, 1))
    urbs = host.urbs()
    host.send(packet(RESET))
    assert sorted(statuses(host)) == [(1, CANCELLED, 0), (2, CANCELLED, 0)]
    for urb in urbs:
        host.complete(urb, b"late")
    assert statuses(host) == []
    assert not host.core.is_full()
    assert host.core._bytes == 0


# -------------------------------------------------------------- pressure ----


def test_requests_beyond_the_limit_wait_and_none_is_refused(host: Host) -> None:
    """Above the limit of requests, the rest of what was received waits."""
    count = device_side.MAX_PENDING + 100
    host.send(*(bulk(i, BULK_IN, 8) for i in range(1, count + 1)))
    urbs = host.urbs()
    assert len(urbs) == device_side.MAX_PENDING
    assert host.core.is_full()
    assert list(host.answers()) == []
    for urb in urbs[: device_side.MAX_PENDING // 2 + 1]:
        host.complete(urb, bytes(8))
    assert not host.core.is_full()
    host.send()
    assert len(host.urbs()) == 100
    assert not host.core.is_full()


def test_what_requests_ask_for_is_bounded_in_bytes(host: Host) -> None:
    size = 4 << 20
    host.send(*(bulk(i, BULK_IN, size) for i in range(1, 200)))
    asked = sum(u.length for u in host.urbs())
    assert asked <= device_side.MAX_BYTES_PENDING
    host.send(packet(RESET))  # it waits behind them
    assert host.core.is_full()


def test_results_that_are_held_back_for_order_still_count(host: Host) -> None:
    size = 4 << 20
    host.send(*(bulk(i, BULK_IN, size) for i in range(1, 200)))
    first, *others = host.urbs()
    for urb in others:
        host.complete(urb, bytes(size))
    assert host.core.is_full()
    host.complete(first, b"")
    assert not host.core.is_full()


def test_a_request_keeps_no_more_alive_than_itself(host: Host) -> None:
    """A byte that waits does not hold the 16 MiB that came with it."""
    big = bulk(2, BULK_OUT, 0, bytes(15 << 20))
    host.send(bulk(3, BULK_OUT, 0, b"x"), big, bulk(4, BULK_OUT, 0, b"y"))
    small, large, last = host.urbs()
    for urb in (small, last):
        assert isinstance(urb.data, memoryview)
        assert len(memoryview(urb.data.obj)) < 100
    assert len(large.data) == 15 << 20


def test_while_the_guest_does_not_read_nothing_is_polled(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    host.send(packet(START_ISO, 3, bytes((ISO_IN, 1, 2))))
    urbs = host.urbs()
    polled = [u for u in urbs if u.endpoint == POLLED]
    live = [u for u in urbs if u.endpoint == ISO_IN]
    list(host.answers())
    host.core.congest(True)
    for urb in polled:
        host.complete(urb, bytes(64))
    iso = UrbResult(UrbStatus.OK, bytes(192), 192, (IsoPacket(192),))
    host.core.complete_urb(INFO.id, live[0].id, iso)
    assert [u.endpoint for u in host.urbs()] == [ISO_IN]  # live, goes on and is dropped
    assert {kind for kind, _, _ in host.answers()} == {INTERRUPT}
    host.send(bulk(9, BULK_IN, 8))
    assert host.urbs() == []
    host.core.congest(False)
    host.send()
    assert sorted(u.endpoint for u in host.urbs()) == [BULK_IN, *[POLLED] * len(polled)]


def test_while_the_network_is_slow_nothing_is_asked(host: Host) -> None:
    host.core.hold(True)
    host.send(bulk(9, BULK_IN, 8))
    assert host.urbs() == []
    host.core.hold(False)
    host.send()
    assert len(host.urbs()) == 1


def test_a_length_that_is_absurd_ends_the_stream(host: Host) -> None:
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="packet of 4294967295 bytes"):
            host.send(struct.pack("<IIQ", BULK, 0xFFFFFFFF, 9))
    host.core.channel_closed(0)
    assert not any(isinstance(e, UrbCancelled) for e in host.core.events())
