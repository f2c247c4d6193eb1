"""Polled and isochronous endpoints at the device side (usbredir.md 9.2, 10)."""

import struct
from collections import deque

import pytest

from rusb.server.attachments import MAX_URBS_IN_FLIGHT
from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    Ignored,
)
from rusb.wire.usbredir import UsbredirDeviceSide
from tests.support.wire.redir import (
    ALLOC_STREAMS,
    BABBLE,
    BULK_IN,
    CONNECT,
    DESCRIPTORS,
    EP_INFO,
    FREE_STREAMS,
    INFO,
    INTERFACE_INFO,
    INTERRUPT,
    INTERRUPT_STATUS,
    INVAL,
    IOERROR,
    ISO,
    ISO_IN,
    ISO_OUT,
    ISO_STATUS,
    POLLED,
    REPORTS,
    STALL,
    START_BULK,
    START_INTERRUPT,
    START_ISO,
    STOP_BULK,
    STOP_INTERRUPT,
    STOP_ISO,
    SUCCESS,
    Host,
    bulk,
    hello,
    live,
    packet,
    packets_of,
)


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
    assert len(host.core._streams.running[ISO_OUT].queue) <= 1


def test_data_for_a_stopped_stream_is_dropped(host: Host) -> None:  # T30
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    urbs = host.urbs()
    host.send(packet(STOP_INTERRUPT, 3, bytes((POLLED,))))
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


@pytest.mark.parametrize(
    ("round_trip", "depth"), [(0.0, 5), (0.02, 22), (0.06, 62), (None, 102), (9, 128)]
)
def test_a_stream_has_as_many_transfers_as_a_round_trip_takes(
    host: Host, round_trip: float | None, depth: int
) -> None:
    host.round_trip = round_trip
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))  # each millisecond
    assert len(host.urbs()) == depth


def test_the_transfers_of_a_stream_follow_the_round_trip(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    urbs = host.urbs()
    host.round_trip = 0.02
    host.complete(urbs.pop(0), b"report")
    urbs += host.urbs()
    assert len(urbs) == 22
    host.round_trip = 0.001
    for _ in range(30):  # no more is asked until there are fewer
        if urbs:
            host.complete(urbs.pop(0), b"report")
        urbs += host.urbs()
    assert len(urbs) == 5


def test_all_streams_of_a_device_are_bounded() -> None:
    """What waits for reports is no more than half of what makes the guest wait."""
    addresses = range(0x81, 0x90)
    host = Host.with_endpoints(
        *(EndpointDescriptor(address, 3, 64, 1) for address in addresses)
    )
    host.round_trip = None
    urbs = list[Urb]()
    for address in addresses:
        host.send(packet(START_INTERRUPT, 2, bytes((address,))))
        urbs += host.urbs()
    assert all(sum(u.endpoint == a for u in urbs) >= 5 for a in addresses)
    assert len(urbs) < MAX_URBS_IN_FLIGHT // 2


@pytest.mark.parametrize("round_trip", [0.02, 0.06])
def test_a_thousand_reports_a_second_arrive_from_afar(
    host: Host, round_trip: float
) -> None:
    """The device has a report each millisecond and keeps one that nobody asks for."""
    host.round_trip = round_trip
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    way = round(round_trip * 1000) // 2  # milliseconds
    there = deque[tuple[int, Urb]]((way, u) for u in host.urbs())
    back = deque[tuple[int, Urb]]()
    made = kept = lost = arrived = 0
    for now in range(way, 1000):
        made += 1
        lost += kept
        kept = 1
        if there and there[0][0] <= now:
            back.append((now + way, there.popleft()[1]))
            kept = 0
        while back and back[0][0] <= now:
            host.complete(back.popleft()[1], b"report")
            there += ((now + way, u) for u in host.urbs())
            arrived += 1
    assert lost == 0
    assert arrived == made - way


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


def test_reports_go_out_with_an_answer_each(host: Host) -> None:
    host.send(live(INTERRUPT, REPORTS, b"report", id=77))
    (urb,) = host.urbs()
    assert (urb.endpoint, bytes(urb.data)) == (REPORTS, b"report")
    host.complete(urb)
    assert list(host.answers()) == [
        (INTERRUPT, 77, struct.pack("<BBH", REPORTS, SUCCESS, 6))
    ]


def test_what_a_polled_endpoint_brings_is_numbered(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    urbs = host.urbs()
    assert [(u.endpoint, u.length) for u in urbs] == [(POLLED, 64)] * 5
    host.complete(urbs[0], b"one")
    host.complete(urbs[1], status=UrbStatus.OVERFLOW)
    host.complete(urbs[2], b"two")
    assert list(host.answers()) == [
        (INTERRUPT_STATUS, 2, bytes((SUCCESS, POLLED))),
        (INTERRUPT, 0, struct.pack("<BBH", POLLED, SUCCESS, 3) + b"one"),
        (INTERRUPT, 1, struct.pack("<BBH", POLLED, BABBLE, 0)),
        (INTERRUPT, 2, struct.pack("<BBH", POLLED, SUCCESS, 3) + b"two"),
    ]
    assert len(host.urbs()) == 3  # five are in flight again


@pytest.mark.parametrize(
    ("kind", "answer", "body"),
    [
        (START_INTERRUPT, INTERRUPT_STATUS, bytes((POLLED,))),
        (START_ISO, ISO_STATUS, bytes((ISO_IN, 1, 1))),
    ],
)
def test_a_stream_is_started_once_and_where_there_is_one(
    host: Host, kind: int, answer: int, body: bytes
) -> None:
    wrong = bytes((BULK_IN,)) + body[1:]
    absent = bytes((0x8F,)) + body[1:]
    host.send(packet(kind, 2, body), packet(kind, 3, body))
    count = len(host.urbs())
    host.send(packet(kind, 4, wrong), packet(kind, 5, absent))
    assert host.urbs() == []
    assert count in (1, 5)
    assert [(kind, id, body[0]) for kind, id, body in host.answers()] == [
        *((answer, 2, SUCCESS), (answer, 3, INVAL)),
        *((answer, 4, STALL), (answer, 5, STALL)),
    ]


@pytest.mark.parametrize(
    ("start", "stop", "answer", "body"),
    [
        (START_INTERRUPT, STOP_INTERRUPT, INTERRUPT_STATUS, bytes((POLLED,))),
        (START_ISO, STOP_ISO, ISO_STATUS, bytes((ISO_IN, 1, 3))),
    ],
)
def test_a_stream_that_is_stopped_cancels_and_starts_anew(
    host: Host, start: int, stop: int, answer: int, body: bytes
) -> None:
    host.send(packet(start, 2, body))
    urbs = host.urbs()
    list(host.answers())
    for id in (3, 4):  # stopping what is stopped is fine
        host.send(packet(stop, id, body[:1]))
    host.urbs()
    cancelled = {e.urb_id for e in host.events if isinstance(e, CancelRequested)}
    assert cancelled == {urb.id for urb in urbs}
    assert list(host.answers()) == [
        (answer, id, bytes((SUCCESS, body[0]))) for id in (3, 4)
    ]
    host.send(packet(start, 5, body))
    assert len(host.urbs()) == len(urbs)


def iso(parts: list[tuple[bytes, UrbStatus]]) -> UrbResult:
    data = b"".join(data for data, _ in parts)
    packets = tuple(IsoPacket(len(data), status) for data, status in parts)
    return UrbResult(UrbStatus.OK, data, len(data), packets)


def test_each_isochronous_packet_has_its_own_outcome(host: Host) -> None:
    host.send(packet(START_ISO, 2, bytes((ISO_IN, 3, 1))))
    (urb,) = host.urbs()
    list(host.answers())
    result = iso([(b"aa", UrbStatus.OK), (b"b", UrbStatus.CRC), (b"c", UrbStatus.OK)])
    host.core.complete_urb(INFO.id, urb.id, result)
    assert list(host.answers()) == [
        (ISO, 0, struct.pack("<BBH", ISO_IN, SUCCESS, 2) + b"aa"),
        (ISO, 1, struct.pack("<BBH", ISO_IN, IOERROR, 0)),
        (ISO, 2, struct.pack("<BBH", ISO_IN, SUCCESS, 1) + b"c"),
    ]


def test_what_is_dropped_for_a_guest_that_does_not_read_is_counted(host: Host) -> None:
    host.send(packet(START_ISO, 2, bytes((ISO_IN, 1, 1))))
    list(host.answers())
    for is_congested in (False, True, False):
        host.core.congest(is_congested)
        (urb,) = host.urbs()
        host.core.complete_urb(INFO.id, urb.id, iso([(b"x", UrbStatus.OK)]))
    assert [(kind, id) for kind, id, _ in host.answers()] == [(ISO, 0), (ISO, 2)]


def test_isochronous_output_begins_at_half_of_its_buffer(host: Host) -> None:
    """Two transfers of two packets: half of what was asked for is the jitter buffer."""
    host.send(packet(START_ISO, 2, bytes((ISO_OUT, 2, 2))))
    host.send(live(ISO, ISO_OUT, b"1"))
    assert host.urbs() == []
    host.core.congest(False)  # that a guest reads again starts no output
    assert host.urbs() == []
    host.send(live(ISO, ISO_OUT, b"22"))
    (first,) = host.urbs()
    assert (bytes(first.data), first.packets) == (b"122", (1, 2))
    host.send(*(live(ISO, ISO_OUT, b"3") for _ in range(4)))
    (second,) = host.urbs()  # no more than two in flight
    host.core.complete_urb(INFO.id, first.id, UrbResult(UrbStatus.OK))
    (third,) = host.urbs()
    for urb in (second, third):
        host.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK))
    host.send(live(ISO, ISO_OUT, b"4"))  # it ran dry: half must be there again
    assert host.urbs() == []
    host.send(live(ISO, ISO_OUT, b"5"))
    (fourth,) = host.urbs()
    assert bytes(fourth.data) == b"45"
    assert [kind for kind, _, _ in host.answers()] == [ISO_STATUS]  # of its start


def test_isochronous_output_that_overflows_loses_half(host: Host) -> None:
    host.send(packet(START_ISO, 2, bytes((ISO_OUT, 1, 4))))
    host.send(*(live(ISO, ISO_OUT, bytes((i,))) for i in range(9)))
    urbs = host.urbs()  # 0 to 3 go at once, 4 to 7 wait, 8 is too much: 4 and 5 go
    for urb in urbs:
        host.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.OK))
    urbs += host.urbs()
    assert b"".join(bytes(u.data) for u in urbs) == bytes((0, 1, 2, 3, 6, 7, 8))


@pytest.mark.parametrize("endpoint", [ISO_IN, ISO_OUT])
def test_an_isochronous_stream_that_fails_has_stopped(
    host: Host, endpoint: int
) -> None:
    host.send(packet(START_ISO, 2, bytes((endpoint, 1, 1))))
    host.send(live(ISO, ISO_OUT, b"x"))
    urb = host.urbs()[0]
    list(host.answers())
    host.core.complete_urb(INFO.id, urb.id, UrbResult(UrbStatus.IO_ERROR))
    assert list(host.answers()) == [(ISO_STATUS, 0, bytes((STALL, endpoint)))]
    assert host.urbs() == []
    host.send(packet(START_ISO, 3, bytes((endpoint, 1, 1))))
    assert list(host.answers()) == [(ISO_STATUS, 3, bytes((SUCCESS, endpoint)))]


@pytest.mark.parametrize(
    ("kind", "size"),
    [(ALLOC_STREAMS, 8), (FREE_STREAMS, 4), (START_BULK, 10), (STOP_BULK, 5)],
)
def test_streams_that_are_not_offered_are_skipped(kind: int, size: int) -> None:  # T30
    """QEMU announces them; both ends must have them for either to ask."""
    core = UsbredirDeviceSide()
    core.channel_opened(0, "", now=0)
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    core.receive_data(0, hello(0xFF) + packet(kind, 2, bytes(size)), now=0)
    (ignored,) = [e for e in core.events() if isinstance(e, Ignored)]
    assert ignored.reason.endswith("without the capability for it")
    kinds = [kind for kind, _, _ in packets_of(core)]
    assert kinds == [INTERFACE_INFO, EP_INFO, CONNECT]


def test_a_high_speed_stream_has_several_packets_a_microframe() -> None:
    three = EndpointDescriptor(ISO_IN, 1, 0x1400, 1)  # 3 x 1024
    host = Host.with_endpoints(three)
    infos = [body for kind, _, body in host.enumeration if kind == EP_INFO]
    assert infos[-1][96 + 2 * 20 : 98 + 2 * 20] == (3072).to_bytes(2, "little")
    host.send(packet(START_ISO, 2, bytes((ISO_IN, 1, 1))))
    assert [u.packets for u in host.urbs()] == [(3072,)]
