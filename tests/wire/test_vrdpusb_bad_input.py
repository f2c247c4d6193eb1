"""Hostile and broken peers (bad-inputs.md, T20 and T22 to T25).

Device lists, T21, are in test_vrdpusb_bad_lists.py.
"""

import random
import struct
import time

import pytest

from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide
from rusb.wire.vrdpusb._codec import MAX_URB_LENGTH
from rusb.wire.vrdpusb._device import MAX_BYTES_IN_FLIGHT, MAX_URBS_IN_FLIGHT
from rusb.wire.vrdpusb._guest import CANCEL_TIMEOUT, CONTROL_TIMEOUT, MAX_RECORDS
from tests.support.amount import inputs, seeds
from tests.support.wire.joined import clear, messages
from tests.support.wire.vrdp import (
    CHANNEL,
    ID,
    assert_ignored,
    bulk,
    device_list,
    entry,
    join,
    make_device,
    make_guest,
    message,
    negotiate_reply,
    receive,
    record,
    results,
    status,
    submit,
)

Core = VrdpUsbGuestSide | VrdpUsbDeviceSide
GET_DESCRIPTOR = SetupPacket.get_descriptor(1, 0, 18)
NUMBER = struct.pack("<I", ID)


def cores() -> list[Core]:
    return [make_guest(ID), make_device(ID)]


# ---------------------------------------------------------------------- T20 ----


@pytest.mark.parametrize("length", [3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFB, 0xFFFFFFFF])
def test_t20_a_length_beyond_the_message_is_ignored(length: int) -> None:
    for side in cores():
        assert_ignored(side, struct.pack("<IBB", length, 12, 0))


@pytest.mark.parametrize("size", range(5))
def test_t20_less_than_a_header_is_ignored(size: int) -> None:
    for side in cores():
        assert_ignored(side, bytes(size))


def test_t20_a_length_that_is_too_small_is_only_a_lower_bound() -> None:
    device = make_device(ID)
    for length in (0, 1, 5):
        reset = struct.pack("<IB", length, 2) + NUMBER
        assert receive(device, reset) == [wire.ResetRequested(ID)]


@pytest.mark.parametrize("code", [13, 14, 0x7F, 0x80, 0xFF])
def test_t20_unknown_codes_are_ignored(code: int) -> None:
    for side in cores():
        assert_ignored(side, message(code, NUMBER + bytes(20)))


@pytest.mark.parametrize("code", [1, 7, 10])
def test_t20_codes_of_the_other_direction_are_ignored(code: int) -> None:
    guest = make_guest(ID)
    assert_ignored(guest, message(code, b"\1" + NUMBER))
    guest.submit_urb(ID, bulk(1), now=0)
    assert len(messages(guest)) == 1  # the device was not harmed


@pytest.mark.parametrize("code", range(13))
def test_t20_a_body_that_is_too_short_is_ignored(code: int) -> None:
    for side in cores():
        body = b"" if code else b"\1\0\0"
        events = receive(side, message(code, body))
        harmless = wire.Ignored | wire.DevicesRequested | wire.DevicesListed
        assert all(isinstance(e, harmless) for e in events)
        assert messages(side) == []


def test_t20_lists_and_urbs_without_a_negotiation_come_to_nothing() -> None:
    guest = VrdpUsbGuestSide()
    guest.channel_opened(CHANNEL, "vrdpusb", now=0)
    clear(guest)
    assert_ignored(guest, device_list(entry()))
    assert_ignored(guest, results(record(1)))
    assert_ignored(guest, status(0, 1))
    device = VrdpUsbDeviceSide()
    device.channel_opened(CHANNEL, "vrdpusb", now=0)
    assert receive(device, message(0, NUMBER), submit(1)) == []
    assert messages(device) == [status(0, 1), results(record(1, error=2))]


def test_t20_a_second_negotiation_may_lower_the_version() -> None:
    guest, device = make_guest(ID), make_device(ID)
    for version in (3, 2, 1, 3):
        receive(guest, negotiate_reply(version))
        assert guest.version == version
        receive(device, message(12, struct.pack("<HH", version, 1)))
        assert device.version == version
    assert len(messages(device)) == 4


def test_t20_a_storm_of_equal_negotiations_makes_no_events() -> None:
    guest, device = make_guest(ID), make_device(ID)
    assert receive(guest, *[negotiate_reply(3)] * 1000) == []
    offer = message(12, struct.pack("<HH", 3, 1))
    assert receive(device, *[offer] * 1000) == []
    bad = message(12, struct.pack("<BI", 2, 9))
    events = receive(guest, *[bad] * 1000)
    assert sum(isinstance(e, wire.Negotiated) for e in events) == 1


# ---------------------------------------------------------------------- T22 ----


def test_t22_our_client_opens_only_what_it_listed() -> None:
    device = make_device(ID, is_open=False)
    for number in (0, 5, 0x10000 + ID, 0xFFFFFFFF):
        assert receive(device, message(0, struct.pack("<I", number))) == []
        assert messages(device) == [status(0, 1, number)]


def test_t22_a_device_that_is_not_listed_any_more_cannot_be_opened() -> None:
    device = make_device(ID, is_open=False)
    device.announce([])
    clear(device)
    assert receive(device, message(0, NUMBER)) == []
    assert messages(device) == [status(0, 1)]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 9])
def test_t22_requests_before_open_and_after_close_are_refused(code: int) -> None:
    device = make_device(ID, is_open=False)
    data = message(code, NUMBER + b"\0\0")
    assert receive(device, data) == []
    assert messages(device) == [status(code, 1)]
    assert len(receive(device, message(0, NUMBER), data, message(1, NUMBER))) == 3
    assert receive(device, data, message(1, NUMBER)) == []
    assert messages(device) == [status(code, 1)]


def test_t22_urbs_of_a_device_that_is_not_open_complete_at_once() -> None:
    guest = make_guest(ID)
    guest.close_device(ID)
    clear(guest)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(99, bulk(2), now=0)
    gone = UrbResult(UrbStatus.NO_DEVICE)
    assert guest.events() == [
        wire.UrbCompleted(ID, 1, gone),
        wire.UrbCompleted(99, 2, gone),
    ]
    assert messages(guest) == []


def test_t22_replies_for_a_device_of_another_client_are_ignored() -> None:
    first, second = make_guest(ID), make_guest(5)
    second.submit_urb(5, bulk(1), now=0)
    clear(second)
    for data in (status(0, 2, 5), results(record(1, b"x", number=5))):
        assert_ignored(first, data)
    assert second.events() == []


def test_t22_nothing_is_sent_for_a_device_that_is_not_open() -> None:
    guest = make_guest()
    guest.close_device(ID)
    guest.reset_device(ID)
    guest.set_configuration(ID, 1)
    guest.clear_halt(ID, 0x81)
    guest.cancel_urb(ID, 1)
    assert messages(guest) == []


# ---------------------------------------------------------------------- T23 ----


def test_t23_a_handle_of_zero_or_in_flight_is_ignored() -> None:
    device = make_device(ID)
    assert_ignored(device, submit(0))
    receive(device, submit(7))
    assert_ignored(device, submit(7))
    device.complete_urb(ID, 7, UrbResult(UrbStatus.OK, b"x", 1))
    assert len(messages(device)) == 1
    assert len(receive(device, submit(7))) == 1  # free again


SETUP_IN = GET_DESCRIPTOR.serialize()
SETUP_OUT = SetupPacket(0x21, 9, 0, 0, 4).serialize()
BAD_URBS = {
    "data beyond the message": submit(7, b"abc", direction=2, urb_len=9, data_len=9),
    "2^32-1 bytes of data": submit(7, data_len=0xFFFFFFFF, urb_len=0xFFFFFFFF),
    "more data than buffer": submit(7, b"abc", direction=2, urb_len=2),
    "less data than buffer": submit(7, b"abc", direction=2, urb_len=4),
    "2^32-1 bytes wanted": submit(7, urb_len=0xFFFFFFFF),
    "one byte too many wanted": submit(7, urb_len=MAX_URB_LENGTH + 1),
    "endpoint 16": submit(7, endpoint=16),
    "endpoint with direction": submit(7, endpoint=0x81),
    "endpoint 0x7f": submit(7, endpoint=0x7F),
    "direction 0": submit(7, direction=0),
    "direction 3": submit(7, direction=3),
    "no SETUP packet": submit(7, kind=4, endpoint=0, urb_len=26),
    "half a SETUP packet": submit(7, SETUP_IN[:4], kind=4, endpoint=0, urb_len=26),
    "buffer below the SETUP packet": submit(7, SETUP_IN, kind=4, urb_len=4),
    "control direction": submit(7, SETUP_OUT, kind=4, urb_len=12),
    "control direction, other way": submit(7, SETUP_IN, kind=4, direction=2, urb_len=8),
    "wLength above the buffer": submit(7, SETUP_IN, kind=4, urb_len=25),
    "wLength above the data": submit(
        7, SETUP_OUT + b"abc", kind=4, direction=2, urb_len=11
    ),
    "wLength below the data": submit(
        7, SETUP_OUT + b"abcde", kind=4, direction=2, urb_len=13
    ),
    "control data missing": submit(7, SETUP_OUT, kind=4, direction=2, urb_len=12),
}


@pytest.mark.parametrize("bad", BAD_URBS.values(), ids=list(BAD_URBS))
def test_t23_a_urb_that_contradicts_itself_is_answered_with_an_error(
    bad: bytes,
) -> None:
    device = make_device(ID)
    assert receive(device, bad) == []
    (sent,) = messages(device)
    assert sent[4:15] == results(record(7, error=2))[4:15]
    assert struct.unpack_from("<I", sent, 15)[0] in (0, 8)
    assert len(sent) in (19, 27)


def test_t23_a_header_that_is_cut_is_ignored() -> None:
    for size in range(19):
        assert_ignored(make_device(ID), message(7, submit(7)[5 : 5 + size]))


def test_t23_nothing_at_all_may_be_moved() -> None:
    device = make_device(ID)
    events = receive(device, submit(1, urb_len=0), submit(2, direction=2, urb_len=0))
    assert [e.urb.length for e in events if isinstance(e, wire.UrbSubmitted)] == [0, 0]
    for handle in (1, 2):
        device.complete_urb(ID, handle, UrbResult(UrbStatus.OK))
    assert messages(device) == [results(record(1)), results(record(2))]


def test_t23_the_largest_transfer_passes() -> None:
    joined = join(ID)
    assert joined.run(ID, bulk(1, MAX_URB_LENGTH)).length == MAX_URB_LENGTH
    data = bytes(MAX_URB_LENGTH)
    assert joined.run(ID, bulk(2, endpoint=2, data=data)).length == MAX_URB_LENGTH
    result = joined.run(ID, bulk(3, MAX_URB_LENGTH + 1))
    assert result.status is UrbStatus.INVALID


def test_t23_a_larger_control_buffer_is_not_filled_beyond_w_length() -> None:
    device = make_device(ID)
    (event,) = receive(device, submit(7, SETUP_IN, kind=4, endpoint=0, urb_len=4096))
    assert isinstance(event, wire.UrbSubmitted)
    assert event.urb.length == 18
    device.complete_urb(ID, 7, UrbResult(UrbStatus.OK, bytes(99), 99))
    assert messages(device) == [results(record(7, SETUP_IN + bytes(18)))]


def test_t23_results_for_urbs_nobody_waits_for_are_ignored() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    clear(guest)
    assert receive(guest, results(record(2, b"x"))) == []
    assert_ignored(guest, results(record(0, b"x")))
    assert_ignored(guest, results(record(1, b"x", number=99)))
    assert_ignored(guest, results(record(1, b"x", flags=5)))
    assert_ignored(guest, results(record(1, b"x"))[:-2])
    (done,) = receive(guest, results(record(1, b"x")), results(record(1, b"x")))
    assert isinstance(done, wire.UrbCompleted)


@pytest.mark.parametrize("size", [65, 66, 100_000])
def test_t23_more_than_was_asked_for_is_an_overflow(size: int) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, 64), now=0)
    (done,) = receive(guest, results(record(1, bytes(size))))
    cut = UrbResult(UrbStatus.OVERFLOW, bytes(64), 64)
    assert done == wire.UrbCompleted(ID, 1, cut)


@pytest.mark.parametrize("pieces", [[40, 25], [64, 1], [65], [0, 0, 200], [1] * 80])
def test_t23_so_it_is_in_fragments(pieces: list[int]) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, 64), now=0)
    events = []
    for size in pieces:
        events += receive(guest, results(record(1, bytes(size), flags=3)))
    cut = UrbResult(UrbStatus.OVERFLOW, bytes(64), 64)
    assert events == [wire.UrbCompleted(ID, 1, cut)]


def test_t23_more_was_written_than_was_sent() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, endpoint=2, data=b"hello"), now=0)
    setup = SetupPacket(0x21, 9, 0, 0, 3)
    guest.submit_urb(ID, Urb.control(2, setup, b"abc"), now=0)
    guest.submit_urb(ID, Urb.control(3, setup, b"abc"), now=0)
    done = receive(guest, *(results(record(i, length=2**31 + i)) for i in (1, 2)))
    done += receive(guest, results(record(3, length=2)))
    gone = UrbStatus.NO_DEVICE
    assert done == [
        wire.UrbCompleted(ID, 1, UrbResult(gone, b"", 5)),
        wire.UrbCompleted(ID, 2, UrbResult(gone, b"", 3)),
        wire.UrbCompleted(ID, 3, UrbResult(UrbStatus.OK, b"", 0)),
    ]


def test_t23_data_after_an_out_result_is_surplus() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, endpoint=2, data=b"hello"), now=0)
    (done,) = receive(guest, results(record(1, b"HELLO")))
    assert done == wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.OK, b"", 5))


def kept_alive(data: bytes | memoryview) -> int:
    """Bytes that stay in memory for as long as *data* does."""
    whole = data.obj if isinstance(data, memoryview) else data
    assert isinstance(whole, bytes | bytearray)
    return len(whole)


@pytest.mark.parametrize("size", [0, 1, 512, 4096])
def test_t25_a_urb_does_not_keep_the_surplus_of_its_message_alive(size: int) -> None:
    device = make_device(ID)
    data = submit(1, bytes(size), endpoint=2, direction=2, urb_len=size)
    (event,) = receive(device, data + bytes(1 << 20))
    assert isinstance(event, wire.UrbSubmitted)
    assert len(event.urb.data) == size
    assert kept_alive(event.urb.data) <= 2 * size


@pytest.mark.parametrize("size", [0, 1, 512, 4096])
def test_t25_a_result_does_not_keep_the_surplus_of_its_message_alive(size: int) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, 4096), now=0)
    (done,) = receive(guest, results(record(1, bytes(size))) + bytes(1 << 20))
    assert isinstance(done, wire.UrbCompleted)
    assert len(done.result.data) == size
    assert kept_alive(done.result.data) <= 2 * size


def test_a_large_payload_is_not_copied_once_more() -> None:
    device = make_device(ID)
    (event,) = receive(
        device, submit(1, bytes(4096), endpoint=2, direction=2, urb_len=4096)
    )
    assert isinstance(event, wire.UrbSubmitted)
    assert isinstance(event.urb.data, memoryview)


def test_t23_handles_skip_zero_and_what_is_in_flight() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest._last_handle = 0xFFFFFFFE
    for id in (2, 3):
        guest.submit_urb(ID, bulk(id), now=0)
    handles = [struct.unpack_from("<I", m, 9)[0] for m in messages(guest)]
    assert handles == [1, 0xFFFFFFFF, 2]


def test_t23_an_id_in_flight_cannot_be_used_twice() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(ID, bulk(1), now=0)
    invalid = wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.INVALID))
    assert guest.events() == [invalid]
    (done,) = receive(guest, results(record(1, b"x")))
    assert isinstance(done, wire.UrbCompleted)


# ---------------------------------------------------------------------- T24 ----


@pytest.mark.parametrize("packets", [(), (0,), (8,), (1 << 16,), (1,) * 70000])
def test_t24_isochronous_transfers_are_not_carried(packets: tuple[int, ...]) -> None:
    guest = make_guest(ID)
    urb = Urb(1, TransferType.ISOCHRONOUS, 0x81, sum(packets), packets=packets)
    guest.submit_urb(ID, urb, now=0)
    invalid = UrbResult(UrbStatus.INVALID)
    assert guest.events() == [wire.UrbCompleted(ID, 1, invalid)]
    assert messages(guest) == []
    device = make_device(ID)
    assert receive(device, submit(1, kind=1, urb_len=sum(packets))) == []
    assert messages(device) == [results(record(1, error=2))]


# ---------------------------------------------------------------------- T25 ----


def test_t25_a_device_has_so_many_urbs_in_flight_and_no_more() -> None:
    device = make_device(1, 2)
    flood = [submit(i, number=1, urb_len=8) for i in range(1, 20_001)]
    assert len(receive(device, *flood)) == MAX_URBS_IN_FLIGHT
    sent = messages(device)
    assert len(sent) == 20_000 - MAX_URBS_IN_FLIGHT
    assert sent[-1] == results(record(20_000, number=1, error=2))
    assert len(receive(device, submit(1, number=2))) == 1  # the other one has its own
    device.complete_urb(1, 1, UrbResult(UrbStatus.OK))
    assert len(receive(device, submit(1, number=1))) == 1


def test_t25_a_device_has_so_many_bytes_in_flight_and_no_more() -> None:
    device = make_device(1, 2)
    fit = MAX_BYTES_IN_FLIGHT // MAX_URB_LENGTH
    flood = [submit(i, number=1, urb_len=MAX_URB_LENGTH) for i in range(1, 101)]
    assert len(receive(device, *flood)) == fit
    assert len(messages(device)) == 100 - fit
    assert len(receive(device, submit(1, number=2, urb_len=MAX_URB_LENGTH))) == 1
    device.complete_urb(1, 1, UrbResult(UrbStatus.OK))
    receive(device, message(10, struct.pack("<II", 1, 2)))
    more = [e for e in receive(device, *flood) if isinstance(e, wire.UrbSubmitted)]
    assert len(more) == 2  # as many as became free


def test_t25_many_records_in_one_message_are_bounded() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    clear(guest)
    flood = results(*[record(99, flags=0)] * 500_000, record(1, b"x"))
    began = time.process_time()
    assert_ignored(guest, flood)
    assert time.process_time() - began < 0.5
    fits = [record(99, flags=0)] * (MAX_RECORDS - 1)
    (done,) = receive(guest, results(*fits, record(1, b"x")))
    assert isinstance(done, wire.UrbCompleted)


@pytest.mark.soak
def test_t25_endless_fragments_take_no_memory() -> None:
    guest, times = make_guest(ID), inputs(50, 4001)
    guest.submit_urb(ID, bulk(1, 1 << 20), now=0)
    clear(guest)
    empty = results(*[record(1, flags=2)] * 4000, record(1, flags=3))
    assert receive(guest, *[empty] * times) == []
    small = results(*[record(1, b"x", flags=2)] * 4000, record(1, b"x", flags=3))
    events = receive(guest, *[small] * times)
    buffer = guest._devices[ID].fragments[1]
    assert events == []
    assert buffer is not None
    assert len(buffer) == times * 4001


def test_t25_many_urbs_end_in_linear_time() -> None:
    guest = make_guest(ID)
    began = time.process_time()
    for id in range(20_000):
        guest.submit_urb(ID, Urb.control(id, GET_DESCRIPTOR), now=0)
    guest.outputs()
    guest.handle_deadline(CONTROL_TIMEOUT)
    done = guest.events()
    assert len({e.urb_id for e in done if isinstance(e, wire.UrbCompleted)}) == 20_000
    assert len([m for m in messages(guest) if m[4] == 10]) == 20_000
    assert time.process_time() - began < 2


def test_t25_many_cancels_end_in_linear_time() -> None:
    """Also with a client that never has a result for them."""
    guest = make_guest(ID)
    began = time.process_time()
    for id in range(20_000):
        guest.submit_urb(ID, bulk(id), now=0)
    for id in range(20_000):
        guest.cancel_urb(ID, id)
    for now in (0.0, CANCEL_TIMEOUT - 0.1):
        guest.handle_deadline(now)
        assert guest.next_deadline() == CANCEL_TIMEOUT
    assert guest.events() == []
    guest.handle_deadline(CANCEL_TIMEOUT)
    assert len(guest.events()) == 20_000
    assert time.process_time() - began < 2


def test_t25_polls_without_end_are_answered_with_nothing() -> None:
    device = make_device(ID)
    assert receive(device, *[message(8)] * 10_000) == []
    assert messages(device) == []


# --------------------------------------------------------------------- fuzz ----


def guest_messages() -> list[bytes]:
    texts = entry(5, strings=(25, 28, 31), tail=b"ab\0cd\0ef\0")
    return [
        *(negotiate_reply(v, 1) for v in (1, 2, 3)),
        device_list(entry(ID), texts),
        device_list(entry(ID, speed=3)),
        device_list(),
        *(status(code, value) for code in (0, 2, 9, 10) for value in (0, 1, 2)),
        *(results(record(i, bytes(30))) for i in range(1, 9)),
        *(results(record(i, bytes(30), flags=3)) for i in range(1, 9)),
        results(record(1, length=5, flags=0), record(2, bytes(8))),
    ]


def device_messages() -> list[bytes]:
    return [
        message(12, struct.pack("<HH", 3, 1)),
        message(11),
        message(8),
        *(message(code, NUMBER + b"\1\1") for code in (0, 1, 2, 3, 4, 5, 6, 9)),
        *(submit(i) for i in range(1, 9)),
        submit(9, SETUP_IN, kind=4, endpoint=0, urb_len=26),
        submit(9, SETUP_OUT + b"abcd", kind=4, direction=2, urb_len=12),
        message(10, struct.pack("<II", ID, 3)),
    ]


def damage(chance: random.Random, data: bytes) -> bytes:
    copy = bytearray(data)
    for _ in range(chance.randint(0, 3)):
        at = chance.randrange(len(copy) + 1)
        match chance.randrange(5):
            case 0 if at < len(copy):
                copy[at] = chance.choice([0, 1, 2, 3, 0x7F, 0x80, 0xFF])
            case 1:
                del copy[at : at + chance.randint(1, 4)]
            case 2:
                copy[at:at] = chance.randbytes(chance.randint(1, 4))
            case 3:
                edge = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
                copy[at : at + 4] = struct.pack("<I", edge)
            case _ if len(copy) > 4:  # a length field that is right
                copy[:4] = struct.pack("<I", len(copy) - 4)
    return bytes(copy)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", seeds(100, 60))
def test_whatever_a_client_sends_every_urb_completes_once(seed: int) -> None:
    chance = random.Random(seed)
    guest = make_guest(ID, 5, version=chance.choice([1, 2, 3]))
    urbs = {
        **{i: bulk(i) for i in range(1, 5)},
        **{i: bulk(i, endpoint=2, data=bytes(20)) for i in range(5, 7)},
        7: Urb.control(7, GET_DESCRIPTOR),
        8: Urb.control(8, SetupPacket(0x21, 9, 0, 0, 20), bytes(20)),
    }
    for urb in urbs.values():
        guest.submit_urb(ID, urb, now=0)
    for step, data in enumerate(chance.choices(guest_messages(), k=60)):
        guest.receive_data(CHANNEL, damage(chance, data), now=step * 0.1)
        guest.handle_deadline(step * 0.1)
    guest.channel_closed(CHANNEL)
    done = [e for e in guest.events() if isinstance(e, wire.UrbCompleted)]
    assert sorted(e.urb_id for e in done) == list(urbs)
    for event in done:
        assert len(event.result.data) <= urbs[event.urb_id].length
        assert 0 <= event.result.length <= urbs[event.urb_id].length


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", seeds(100, 60))
def test_whatever_a_server_sends_no_urb_is_answered_twice(seed: int) -> None:
    chance = random.Random(seed)
    device = make_device(ID, is_open=chance.random() < 0.7)
    in_flight: set[tuple[int, int]] = set()
    for data in chance.choices(device_messages(), k=80):
        device.receive_data(CHANNEL, damage(chance, data), now=1)
        for event in device.events():
            match event:
                case wire.UrbSubmitted():
                    key = event.device, event.urb.id
                    assert key not in in_flight
                    assert len(event.urb.data) <= event.urb.length <= MAX_URB_LENGTH
                    assert event.urb.endpoint & 0x70 == 0
                    in_flight.add(key)
                case wire.CancelRequested():
                    in_flight.remove((event.device, event.urb_id))
                case wire.CloseRequested():
                    in_flight = {k for k in in_flight if k[0] != event.device}
    messages(device)
    for number, handle in in_flight:
        device.complete_urb(number, handle, UrbResult(UrbStatus.OK, b"x", 1))
        device.complete_urb(number, handle, UrbResult(UrbStatus.OK, b"x", 1))
    answers = [struct.unpack_from("<IBBI", m, 5) for m in messages(device)]
    assert sorted((a[0], a[3]) for a in answers) == sorted(in_flight)
