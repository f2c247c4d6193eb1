"""The device side of usbredir against guests that are rude, slow or hostile (T30)."""

import struct
from dataclasses import replace

import pytest

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed
from rusb.usb.urb import UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    CloseRequested,
    Ignored,
    ResetRequested,
    UrbSubmitted,
)
from rusb.wire.usbredir import UsbredirDeviceSide
from rusb.wire.usbredir import _codec as codec
from rusb.wire.usbredir import _requests as requests
from tests.support.wire.redir import (
    ACK,
    ALT_STATUS,
    BULK,
    BULK_IN,
    BULK_OUT,
    CANCEL,
    CANCELLED,
    CONFIGURATION_STATUS,
    CONNECT,
    CONTROL,
    DESCRIPTORS,
    DISCONNECT,
    EP_INFO,
    FILTER,
    GET_ALT,
    GET_CONFIGURATION,
    HELLO,
    INFO,
    INTERFACE_INFO,
    INTERRUPT,
    INTERRUPT_STATUS,
    INVAL,
    IOERROR,
    ISO_IN,
    ISO_STATUS,
    POLLED,
    REJECT,
    REPORTS,
    RESET,
    SET_ALT,
    SET_CONFIGURATION,
    STALL,
    START_INTERRUPT,
    START_ISO,
    SUCCESS,
    Host,
    bulk,
    control,
    hello,
    live,
    packet,
    packets_of,
)

# --------------------------------------------------- what a guest may ask ----


def test_an_id_in_flight_is_refused_and_not_submitted_again(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 8), bulk(9, BULK_IN, 16))
    (urb,) = host.urbs()
    assert list(host.answers()) == [(BULK, 9, struct.pack("<BBHIH", 0x81, 2, 0, 0, 0))]
    host.complete(urb, b"12345678")
    host.send(bulk(9, BULK_IN, 16))
    assert [u.length for u in host.urbs()] == [16]


def test_it_knows_how_many_reads_wait_at_one_endpoint(host: Host) -> None:
    """QEMU moves one of them to another host, not more (teleport.md 7.9)."""
    assert host.core.waiting_reads() == 0
    host.send(bulk(8, BULK_OUT, 2, b"ab"), bulk(9, BULK_OUT, 2, b"cd"))
    assert host.core.waiting_reads() == 0
    host.send(bulk(10, BULK_IN, 8), bulk(11, BULK_IN, 8))
    assert host.core.waiting_reads() == 2
    host.complete(host.urbs()[2], b"12345678")
    assert host.core.waiting_reads() == 1


def test_no_answer_is_longer_than_what_was_asked_for(host: Host) -> None:
    host.send(bulk(2, BULK_IN, 4), control(3, 0xC0, 2), bulk(4, BULK_OUT, 0, b"abc"))
    host.send(control(5, 0x40, 1, b"x"), live(INTERRUPT, REPORTS, b"report", id=6))
    for urb in host.urbs():
        result = UrbResult(UrbStatus.OK, bytes(600), 600)
        host.core.complete_urb(INFO.id, urb.id, result)
    first, second, third, fourth, fifth = (body for _, _, body in host.answers())
    assert first == struct.pack("<BBHIH4x", BULK_IN, 0, 4, 0, 0)
    assert second == struct.pack("<BBBBHHH2x", 0x80, 1, 0xC0, 0, 0, 0, 2)
    assert third == struct.pack("<BBHIH", BULK_OUT, 0, 3, 0, 0)
    assert fourth == struct.pack("<BBBBHHH", 0, 1, 0x40, 0, 0, 0, 1)
    assert fifth == struct.pack("<BBH", REPORTS, 0, 6)


def test_a_wrong_endpoint_is_refused_at_once(host: Host) -> None:
    host.send(bulk(2, POLLED, 4), bulk(3, 0x8F, 4))
    odd = struct.pack("<BBBBHHH", 0x81, 1, 0xC0, 0, 0, 0, 2)
    host.send(packet(CONTROL, 4, odd))
    assert host.urbs() == []
    statuses = [
        body[3] if kind == CONTROL else body[1] for kind, _, body in host.answers()
    ]
    assert statuses == [INVAL] * 3


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
    again = packet(HELLO, 0, struct.pack("<64sI", b"again", 0))
    host.send(again, bulk(9, BULK_IN, 8))
    assert [u.length for u in host.urbs()] == [8]
    assert [e for e in host.events if isinstance(e, Ignored)] == [
        Ignored("a second hello")
    ]


def test_many_resets_in_a_row_are_one(host: Host) -> None:
    host.send(*(packet(RESET) for _ in range(1000)))
    host.urbs()
    assert len([e for e in host.events if isinstance(e, ResetRequested)]) == 1


def test_configuration_0_is_selected_where_the_device_has_it() -> None:
    (one,) = DESCRIPTORS.configurations
    zero = DeviceDescriptors(DESCRIPTORS.device, (replace(one, value=0),))
    core = UsbredirDeviceSide()
    core.channel_opened(0, "", now=0)
    core.announce([INFO], {INFO.id: zero})
    core.receive_data(0, hello() + packet(SET_CONFIGURATION, 1, b"\0"), now=0)
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
    assert [e for e in host.events if isinstance(e, CancelRequested)] == [
        CancelRequested(INFO.id, urb.id)
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
    assert host.core._requests.bytes == 0


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
    assert host.core._requests.bytes == 0


# -------------------------------------------------------------- pressure ----


def test_requests_beyond_the_limit_wait_and_none_is_refused(host: Host) -> None:
    """Above the limit of requests, the rest of what was received waits."""
    count = requests.MAX_PENDING + 100
    host.send(*(bulk(i, BULK_IN, 8) for i in range(1, count + 1)))
    urbs = host.urbs()
    assert len(urbs) == requests.MAX_PENDING
    assert host.core.is_full()
    assert list(host.answers()) == []
    for urb in urbs[: requests.MAX_PENDING // 2 + 1]:
        host.complete(urb, bytes(8))
    assert not host.core.is_full()
    host.send()
    assert len(host.urbs()) == 100
    assert not host.core.is_full()


def test_a_request_for_more_than_a_packet_holds_is_refused(host: Host) -> None:  # T30
    host.send(bulk(1, BULK_IN, 0xFFFFFFFF), bulk(2, BULK_IN, codec.MAX_LENGTH))
    assert [urb.length for urb in host.urbs()] == [codec.MAX_LENGTH]
    ((_, number, body),) = host.answers()
    assert (number, body[1]) == (1, INVAL)


def test_what_requests_ask_for_is_bounded_in_bytes(host: Host) -> None:
    size = 4 << 20
    host.send(*(bulk(i, BULK_IN, size) for i in range(1, 200)))
    asked = sum(u.length for u in host.urbs())
    assert asked <= requests.MAX_BYTES_PENDING
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


def test_while_the_network_is_slow_nothing_is_asked(host: Host) -> None:
    host.core.pause()
    host.send(bulk(9, BULK_IN, 8))
    assert host.urbs() == []
    host.core.resume()
    host.send()
    assert len(host.urbs()) == 1


def test_a_length_that_is_absurd_ends_the_stream(host: Host) -> None:
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="packet of 4294967295 bytes"):
            host.send(struct.pack("<IIQ", BULK, 0xFFFFFFFF, 9))
    host.core.channel_closed(0)
    assert not any(isinstance(e, CancelRequested) for e in host.core.events())


# ------------------------------------------ configuration and settings (7) ----


def test_what_is_selected_is_answered_without_the_device(host: Host) -> None:
    host.send(packet(GET_CONFIGURATION, 8), packet(GET_ALT, 9, b"\1"))
    host.send(packet(GET_ALT, 10, b"\x09"), packet(SET_CONFIGURATION, 11, b"\1"))
    assert host.urbs() == []
    assert list(host.answers()) == [
        (CONFIGURATION_STATUS, 8, bytes((SUCCESS, 1))),
        (ALT_STATUS, 9, bytes((SUCCESS, 1, 0))),
        (ALT_STATUS, 10, bytes((INVAL, 9, 0xFF))),
        (CONFIGURATION_STATUS, 11, bytes((SUCCESS, 1))),
    ]


def test_a_change_is_described_before_it_is_confirmed(host: Host) -> None:
    host.send(packet(SET_ALT, 9, b"\1\1"))
    (urb,) = host.urbs()
    assert urb.setup == SetupPacket.set_interface(1, 1)
    assert list(host.answers()) == []
    host.complete(urb)
    infos, endpoints, status = host.answers()
    assert (infos[0], endpoints[0]) == (INTERFACE_INFO, EP_INFO)
    assert endpoints[2][16 | 8] == 2  # the bulk endpoint of the new setting
    assert status == (ALT_STATUS, 9, bytes((SUCCESS, 1, 1)))
    host.send(packet(GET_ALT, 10, b"\1"))
    assert list(host.answers()) == [(ALT_STATUS, 10, bytes((SUCCESS, 1, 1)))]


def test_a_change_that_fails_leaves_what_was_selected(host: Host) -> None:
    host.send(packet(SET_ALT, 9, b"\1\1"), packet(SET_CONFIGURATION, 10, b"\2"))
    for urb in host.urbs():
        host.complete(urb, status=UrbStatus.STALL)
    assert list(host.answers()) == [
        (ALT_STATUS, 9, bytes((IOERROR, 1, 0))),
        (CONFIGURATION_STATUS, 10, bytes((IOERROR, 1))),
    ]


def test_a_setting_that_the_device_takes_and_never_described_fails(host: Host) -> None:
    host.send(packet(SET_ALT, 9, b"\1\7"))
    (urb,) = host.urbs()
    host.complete(urb)
    assert list(host.answers()) == [(ALT_STATUS, 9, bytes((IOERROR, 1, 0)))]
    host.send(packet(SET_CONFIGURATION, 10, b"\7"))
    (urb,) = host.urbs()
    host.complete(urb)
    assert list(host.answers()) == [(CONFIGURATION_STATUS, 10, bytes((IOERROR, 1)))]


def test_an_unknown_interface_has_no_settings(host: Host) -> None:
    host.send(packet(SET_ALT, 9, b"\5\0"))
    assert host.urbs() == []
    assert list(host.answers()) == [(ALT_STATUS, 9, bytes((INVAL, 5, 0xFF)))]


def test_a_setting_stops_its_own_interface_alone(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))), bulk(3, BULK_IN, 8))
    *_, pending = host.urbs()
    list(host.answers())
    host.send(packet(SET_ALT, 4, b"\1\1"))
    (setting,) = host.urbs()
    assert [e for e in host.events if isinstance(e, CancelRequested)] == []
    host.complete(setting)
    host.complete(pending, b"kept")
    assert (BULK, 3) in [(kind, id) for kind, id, _ in host.answers()]
    host.send(packet(SET_ALT, 5, b"\0\0"))
    host.urbs()
    assert len([e for e in host.events if isinstance(e, CancelRequested)]) == 5


def test_a_configuration_ends_everything_before_it(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))), bulk(3, BULK_IN, 8))
    urbs = host.urbs()
    list(host.answers())
    host.send(packet(SET_CONFIGURATION, 4, b"\0"))
    (setting,) = host.urbs()
    cancelled = {e.urb_id for e in host.events if isinstance(e, CancelRequested)}
    assert cancelled == {urb.id for urb in urbs}
    host.complete(setting)
    (answer, infos, endpoints, status) = host.answers()
    assert answer[:2] == (BULK, 3)
    assert infos == (INTERFACE_INFO, 0, bytes(132))  # nothing is selected
    assert set(endpoints[2][:32]) == {0, 255}
    assert status == (CONFIGURATION_STATUS, 4, bytes((SUCCESS, 0)))
    host.send(bulk(5, BULK_IN, 8))
    assert host.urbs() == []


def test_the_request_of_a_setting_cannot_be_cancelled(host: Host) -> None:
    host.send(packet(SET_ALT, 9, b"\1\1"), packet(CANCEL, 9))
    (urb,) = host.urbs()
    assert not [e for e in host.events if isinstance(e, CancelRequested)]
    host.complete(urb)
    assert list(host.answers())[-1] == (ALT_STATUS, 9, bytes((SUCCESS, 1, 1)))


def test_after_a_reset_the_device_is_as_the_guest_believes_it(host: Host) -> None:
    host.send(packet(SET_ALT, 9, b"\1\1"))
    (urb,) = host.urbs()
    host.complete(urb)
    list(host.answers())
    host.send(packet(RESET))
    restored = host.urbs()
    assert isinstance(host.events[0], ResetRequested)
    assert [urb.setup for urb in restored] == [
        SetupPacket.set_configuration(1),
        SetupPacket.set_interface(1, 1),
    ]
    for urb in restored:
        host.complete(urb)
    assert list(host.answers()) == []  # the guest asked for none of it
    host.send(packet(GET_ALT, 10, b"\1"))
    assert list(host.answers()) == [(ALT_STATUS, 10, bytes((SUCCESS, 1, 1)))]


def test_a_reset_says_of_each_stream_that_it_stopped(host: Host) -> None:
    host.send(packet(START_INTERRUPT, 2, bytes((POLLED,))))
    host.send(packet(START_ISO, 3, bytes((ISO_IN, 1, 1))))
    list(host.answers())
    host.send(packet(RESET))
    assert list(host.answers()) == [
        (INTERRUPT_STATUS, 0, bytes((STALL, POLLED))),
        (ISO_STATUS, 0, bytes((STALL, ISO_IN))),
    ]


# -------------------------------------------------- hello, connect, reject ----


def test_a_guest_that_refuses_gets_no_answer_and_no_device(host: Host) -> None:
    """It has detached it already, and is not offered it again (6.3)."""
    host.send(bulk(9, BULK_IN, 8), packet(START_INTERRUPT, 2, bytes((POLLED,))))
    urbs = host.urbs()
    list(host.answers())
    host.send(packet(REJECT))
    host.urbs()
    assert host.events[-1] == CloseRequested(INFO.id)
    cancelled = {e.urb_id for e in host.events if isinstance(e, CancelRequested)}
    assert cancelled == {urb.id for urb in urbs}
    host.send(packet(RESET))
    assert host.urbs() == []
    assert host.events == [Ignored("packet of type 3, no device")]
    host.core.device_lost(INFO.id)
    assert list(host.answers()) == []


def test_a_guests_rules_may_come_at_any_time(host: Host) -> None:
    rules = packet(FILTER, 0, b"-1,-1,-1,-1,1\0")
    host.core.announce([], {})
    host.urbs()
    host.send(packet(ACK), rules)
    host.urbs()
    assert host.events == []
    host.core.announce([INFO], {INFO.id: DESCRIPTORS})
    host.send(rules)
    host.urbs()
    assert host.events == []


def test_before_hello_nothing_is_understood_and_nothing_said() -> None:
    core = UsbredirDeviceSide()
    core.channel_opened(0, "", now=0)
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    short = struct.pack("<III63x", HELLO, 63, 0)
    core.receive_data(0, short + struct.pack("<III", RESET, 0, 0), now=0)
    assert core.events() == [
        Ignored("hello of 63 bytes"),
        Ignored("packet of type 3 before hello"),
    ]
    core.announce([])
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    assert list(packets_of(core)) == []
    core.receive_data(0, hello(), now=0)
    kinds = [kind for kind, _, _ in packets_of(core)]
    assert kinds == [INTERFACE_INFO, EP_INFO, CONNECT]


def test_a_device_that_is_configured_is_announced_so() -> None:
    core = UsbredirDeviceSide(configuration=1)
    core.channel_opened(0, "", now=0)
    core.receive_data(0, hello(), now=0)
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    infos, endpoints, _ = packets_of(core)
    assert infos[2][:4] == b"\2\0\0\0"
    assert endpoints[2][16 | 1] == 2


def test_a_superspeed_device_has_control_packets_of_512_bytes() -> None:
    """Its bMaxPacketSize0 is an exponent."""
    core = UsbredirDeviceSide()
    core.channel_opened(0, "", now=0)
    core.receive_data(0, hello(), now=0)
    core.announce([replace(INFO, speed=Speed.SUPER)], {INFO.id: DESCRIPTORS})
    _, (_, _, endpoints), (_, _, connect) = packets_of(core)
    assert endpoints[96:98] == endpoints[96 + 32 : 98 + 32] == b"\0\2"
    assert connect[0] == 3


def test_another_device_takes_the_place_after_the_ack(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 8))
    other = replace(INFO, product_id=2)
    host.core.announce([other], {INFO.id: DESCRIPTORS})
    assert [kind for kind, _, _ in host.answers()] == [BULK, DISCONNECT]
    host.send(packet(ACK))
    assert [kind for kind, _, _ in host.answers()] == [4, 5, 1]


def test_a_guest_without_acks_gets_the_next_device_at_once() -> None:
    core = UsbredirDeviceSide()
    core.channel_opened(0, "", now=0)
    core.receive_data(0, hello(0x7E & ~8), now=0)
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    core.device_lost(INFO.id)
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    assert [kind for kind, _, _ in packets_of(core)] == [4, 5, 1, DISCONNECT, 4, 5, 1]


def test_a_stream_has_one_device_that_is_described(host: Host) -> None:
    with pytest.raises(LocalProtocolError, match="carries one device"):
        host.core.announce([INFO, replace(INFO, id=8)], {})
    with pytest.raises(LocalProtocolError, match="needs the device's descriptors"):
        UsbredirDeviceSide().announce([INFO], {8: DESCRIPTORS})


def test_a_closed_stream_takes_nothing(host: Host) -> None:
    host.send(bulk(9, BULK_IN, 8))
    host.core.channel_closed(0)
    with pytest.raises(RemoteProtocolError, match="stream is closed"):
        host.send(bulk(10, BULK_IN, 8))
    assert host.core.next_deadline() is None  # nor does it wait for anything
