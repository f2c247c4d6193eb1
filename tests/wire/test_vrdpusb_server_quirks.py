"""What the real server does (vrdpusb.md 3.2): ours does better, our client copes."""

import struct
from typing import TypeVar

import pytest

from rusb.errors import LocalProtocolError
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide
from tests.support.rows import each_row
from tests.support.wire.joined import clear, messages
from tests.support.wire.vrdp import (
    CHANNEL,
    ID,
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

Core = TypeVar("Core", VrdpUsbGuestSide, VrdpUsbDeviceSide)
NEGOTIATE = message(12, struct.pack("<HH", 3, 1))
LIST = message(11)
GET_DESCRIPTOR = SetupPacket.get_descriptor(1, 0, 18)
INFO = DeviceInfo(ID, 0x1209, 0x2303)


def opened(side: Core) -> Core:
    side.channel_opened(CHANNEL, "vrdpusb", now=0)
    return side


def test_s1_our_server_repeats_negotiate() -> None:
    guest = opened(VrdpUsbGuestSide())
    times = []
    for now in range(0, 200):
        guest.handle_deadline(now)
        times += [now] * len(messages(guest))
    assert times == [0, 10, 20, 30, 40, 50]
    assert guest.next_deadline() is None
    receive(guest, negotiate_reply())  # it is never too late
    assert messages(guest) == [LIST]


def test_s1_our_client_speaks_first_after_ten_seconds() -> None:
    device = opened(VrdpUsbDeviceSide())
    device.handle_deadline(9.9)
    assert messages(device) == []
    assert device.next_deadline() == 10
    device.handle_deadline(10)
    assert messages(device) == [negotiate_reply(1)]
    assert device.events() == [wire.Negotiated(1, 0)]
    assert receive(device, NEGOTIATE) == [wire.Negotiated(3, 1)]
    assert messages(device) == [negotiate_reply(3, 1)]


def test_s1_a_client_may_wait_longer_where_others_are_connected() -> None:
    device = opened(VrdpUsbDeviceSide(negotiate_timeout=40))
    assert device.next_deadline() == 40


def test_s1_ours_find_each_other_though_negotiate_was_lost() -> None:
    joined = join()
    joined.guest.channel_closed(CHANNEL)
    joined.device.channel_closed(CHANNEL)
    joined.devices = (INFO,)
    for side in (joined.guest, joined.device):
        side.channel_opened(CHANNEL, "vrdpusb", now=0)
    assert messages(joined.guest) == [NEGOTIATE]  # lost
    joined.wait(11)
    assert joined.listed[0].id == ID


def test_s2_our_server_repeats_a_lost_request() -> None:
    guest = make_guest(ID)
    guest.handle_deadline(2)
    assert messages(guest) == [LIST]
    guest.handle_deadline(11.9)
    assert messages(guest) == []
    guest.handle_deadline(12)
    assert messages(guest) == [LIST]


def test_s2_our_client_sends_the_list_unasked() -> None:
    device = opened(VrdpUsbDeviceSide())
    receive(device, NEGOTIATE, now=1)
    clear(device)
    device.handle_deadline(10.9)
    assert device.events() == []
    device.handle_deadline(11)
    assert device.events() == [wire.DevicesRequested()]
    device.announce([INFO])
    assert [m[4] for m in messages(device)] == [11]
    assert device.next_deadline() == 21


def test_s3_our_client_closes_nothing_by_itself() -> None:
    device = make_device(ID)
    receive(device, submit(7))
    device.device_lost(ID)
    device.announce([])
    receive(device, LIST)
    device.announce([])
    device.handle_deadline(1000)
    assert wire.CloseRequested(ID) not in device.events()
    assert receive(device, message(1, struct.pack("<I", ID))) == [
        wire.CloseRequested(ID)
    ]


def test_s4_our_server_asks_every_two_seconds() -> None:
    joined = join(ID)
    joined.wait(20)
    assert joined.sent == [LIST] * 10


def test_s4_the_interval_is_an_argument() -> None:
    guest = VrdpUsbGuestSide(poll_interval=0.5)
    opened(guest)
    receive(guest, negotiate_reply(), device_list(), now=1)
    assert guest.next_deadline() == 1.5


def test_s5_a_list_concerns_its_own_client_only() -> None:
    first, second = make_guest(ID), make_guest(5)
    receive(first, device_list())
    assert second.events() == []
    second.submit_urb(5, bulk(1), now=0)
    assert len(messages(second)) == 1


def test_s6_ids_are_compared_in_full() -> None:
    guest = make_guest(0x10203, 0x0203)
    guest.submit_urb(0x10203, bulk(1), now=0)
    (sent,) = messages(guest)
    assert sent[5:9] == struct.pack("<I", 0x10203)
    answer = results(record(1, b"no", number=0x0203))
    assert receive(guest, answer) == []
    (done,) = receive(guest, results(record(1, b"yes", number=0x10203)))
    assert isinstance(done, wire.UrbCompleted)
    assert done.device == 0x10203


@pytest.mark.parametrize("ids", [(0,), (0x10000,), (-1,), (5, 5)])
def test_s6_our_client_uses_unique_ids_of_16_bits(ids: tuple[int, ...]) -> None:
    device = make_device()
    with pytest.raises(LocalProtocolError):
        device.announce([DeviceInfo(i, 0x1209, 1) for i in ids])
    assert messages(device) == []


def test_s7_another_device_under_the_same_id_is_news() -> None:
    guest = make_guest(ID)
    (listed,) = receive(guest, device_list(entry(ID, product=0x9999)))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].product_id == 0x9999


def test_s8_of_two_entries_with_one_id_the_first_counts() -> None:
    guest = make_guest()
    twice = device_list(entry(ID, product=1), entry(5), entry(ID, product=2))
    (listed,) = receive(guest, twice)
    assert isinstance(listed, wire.DevicesListed)
    assert [(d.id, d.product_id) for d in listed.devices] == [(ID, 1), (5, 0x2303)]


@each_row("code", [0, 2, 3, 4, 5, 6, 9])
@each_row("value", [1, 2, 255])
def test_s9_any_failure_is_final(code: int, value: int) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(ID, Urb.control(2, GET_DESCRIPTOR), now=0)
    clear(guest)
    gone = UrbResult(UrbStatus.NO_DEVICE)
    *done, failed = receive(guest, status(code, value), status(code, value))
    assert done == [wire.UrbCompleted(ID, i, gone) for i in (1, 2)]
    assert isinstance(failed, wire.DeviceFailed)
    assert failed.removed is (value == 2)

    guest.submit_urb(ID, bulk(3), now=0)
    assert guest.events() == [wire.UrbCompleted(ID, 3, gone)]
    guest.reset_device(ID)
    guest.set_configuration(ID, 1)
    guest.claim_interface(ID, 0)
    guest.release_interface(ID, 0)
    guest.set_interface(ID, 0, 1)
    guest.clear_halt(ID, 0x81)
    assert messages(guest) == []
    assert receive(guest, results(record(1, b"late"))) == []
    guest.close_device(ID)
    assert [m[4] for m in messages(guest)] == [1]
    guest.open_device(ID)
    guest.submit_urb(ID, bulk(4), now=0)
    assert [m[4] for m in messages(guest)] == [0, 7]


def test_s9_our_client_reports_only_what_is_fatal() -> None:
    device = make_device(ID)
    five = struct.pack("<I", 5)
    receive(device, message(2, five), message(3, five + b"\1"))
    assert messages(device) == [status(2, 1, 5), status(3, 1, 5)]
    device.device_lost(ID)
    for code in (2, 3, 4, 5, 6, 9):
        events = receive(device, message(code, struct.pack("<IBB", ID, 0, 0)))
        assert events == []
        assert messages(device) == [status(code, 2)]
    receive(device, submit(7), message(1, five))
    assert messages(device) == [results(record(7, error=2))]


def test_s9_opening_a_device_that_was_unplugged_says_so() -> None:
    device = make_device(ID, is_open=False)
    device.device_lost(ID)
    assert receive(device, message(0, struct.pack("<I", ID))) == []
    assert messages(device) == [status(0, 2)]
    device.announce([INFO])  # plugged in again
    assert receive(device, message(0, struct.pack("<I", ID))) == [
        wire.OpenRequested(ID)
    ]


def test_s10_a_refusal_is_not_missed_however_fast_it_comes() -> None:
    guest = make_guest(5, ID)
    guest.close_device(ID)
    clear(guest)
    guest.open_device(ID)
    assert receive(guest, status(0, 1)) == [wire.DeviceFailed(ID, "open")]


def test_s11_version_3_stands_without_client_flags() -> None:
    guest = opened(VrdpUsbGuestSide())
    clear(guest)
    short = message(12, struct.pack("<BI", 6, 3))
    assert receive(guest, short) == [wire.Negotiated(3, 6)]
    (listed,) = receive(guest, device_list(entry()))
    assert isinstance(listed, wire.DevicesListed)
    flagless = message(12, struct.pack("<BII", 2, 3, 1))  # flag bit 2 is not tested
    receive(guest, flagless)
    (listed,) = receive(guest, device_list(entry(speed=1)))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].speed is Speed.LOW


@pytest.mark.parametrize("flags", [0, 1, 0xFFFF])
def test_s11_our_client_sends_all_three_fields(flags: int) -> None:
    device = opened(VrdpUsbDeviceSide())
    receive(device, message(12, struct.pack("<HH", 3, flags)))
    assert messages(device) == [negotiate_reply(3, flags & 1)]


@pytest.mark.parametrize(
    "body",
    [struct.pack("<BI", 2, v) for v in (0, 4, 0xFFFFFFFF)] + [b"\2", b"\2\3\0\0"],
)
def test_s12_a_version_that_cannot_be_is_an_error(body: bytes) -> None:
    guest = opened(VrdpUsbGuestSide())
    clear(guest)
    events = receive(guest, message(12, body), message(12, body))
    refused, ignored = events
    assert isinstance(refused, wire.Negotiated)
    assert refused.error
    assert isinstance(ignored, wire.Ignored)
    assert messages(guest) == []
    assert guest.next_deadline() is None
    assert [type(e) for e in receive(guest, device_list(entry()))] == [wire.Ignored]
    assert receive(guest, negotiate_reply(2)) == [wire.Negotiated(2, 2)]


@pytest.mark.parametrize(
    ("offered", "answer"),
    [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (0xFFFF, 3)],
)
def test_s12_our_client_answers_with_1_to_3(offered: int, answer: int) -> None:
    device = opened(VrdpUsbDeviceSide())
    receive(device, message(12, struct.pack("<HH", offered, 1)))
    assert messages(device) == [negotiate_reply(answer, 1 if answer == 3 else 0)]


def test_s13_our_client_sends_one_record_per_message() -> None:
    device = make_device(ID)
    receive(device, submit(1), submit(2))
    device.complete_urb(ID, 1, UrbResult(UrbStatus.OK, b"one", 3))
    device.complete_urb(ID, 2, UrbResult(UrbStatus.OK, b"two", 3))
    assert messages(device) == [results(record(1, b"one")), results(record(2, b"two"))]


def test_s13_a_record_of_an_unknown_urb_is_skipped_as_if_without_data() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, endpoint=2, data=b"hello"), now=0)
    both = results(record(99, length=3, flags=0), record(1, length=5))
    (done,) = receive(guest, both)
    assert done == wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.OK, b"", 5))


def test_s15_a_len_beyond_the_message_is_not_believed() -> None:
    guest = make_guest(ID)
    for length in (4, 65, 0xFFFFFFFF):
        guest.submit_urb(ID, bulk(length), now=0)
        handle = guest._last_handle
        (done,) = receive(guest, results(record(handle, b"abc", length=length)))
        gone = UrbResult(UrbStatus.NO_DEVICE)
        assert done == wire.UrbCompleted(ID, length, gone)


@pytest.mark.parametrize("status", [UrbStatus.STALL, UrbStatus.CANCELLED])
def test_s16_our_client_sends_no_data_with_an_error(status: UrbStatus) -> None:
    device = make_device(ID)
    setup, setup_out = GET_DESCRIPTOR.serialize(), bytes.fromhex("2109000000000100")
    receive(
        device,
        submit(1),
        submit(2, b"x", direction=2, urb_len=1),
        submit(3, setup, kind=4, endpoint=0, urb_len=26),
        submit(4, setup_out + b"x", kind=4, endpoint=0, direction=2, urb_len=9),
    )
    for handle in range(1, 5):
        device.complete_urb(ID, handle, UrbResult(status, b"partial", 7))
    error = 1 if status is UrbStatus.STALL else 2
    assert messages(device) == [
        results(record(1, error=error)),
        results(record(2, error=error)),
        results(record(3, setup, error=error)),
        results(record(4, error=error, length=8)),
    ]


def test_s16_data_that_came_before_an_error_is_kept() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    (done,) = receive(guest, results(record(1, b"part", error=1)))
    assert done == wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.STALL, b"part", 4))


def test_s17_our_client_never_wants_polls_and_ignores_them() -> None:
    device = make_device(ID)
    receive(device, submit(1))
    assert receive(device, message(8), message(8)) == []
    assert messages(device) == []


def test_s17_our_server_polls_while_urbs_are_in_flight_and_only_then() -> None:
    guest = make_guest(ID)
    polling = message(12, b"\1")
    receive(guest, polling, device_list(entry()))
    clear(guest)
    guest.handle_deadline(1.5)
    assert messages(guest) == []
    guest.submit_urb(ID, bulk(1), now=1.5)
    clear(guest)
    assert guest.next_deadline() == 1.51
    sent = []
    for step in range(6):
        guest.handle_deadline(1.5 + step * 0.01 + 1e-6)
        sent += messages(guest)
    assert sent == [message(8)] * 5
    receive(guest, results(record(1, b"x")))
    guest.handle_deadline(1.8)
    guest.handle_deadline(1.9)
    assert messages(guest) == []


def test_s18_a_result_completes_its_urb_at_once() -> None:
    joined = join(ID)
    joined.guest.submit_urb(ID, bulk(1), now=0)
    joined.move()  # no deadline passed
    assert len(joined.guest_saw(wire.UrbCompleted)) == 1


def test_s19_failed_attachments_use_nothing_up() -> None:
    guest = make_guest(ID)
    for _ in range(100):
        receive(guest, status(0, 1))
        guest.close_device(ID)
        guest.open_device(ID)
    clear(guest)
    guest.submit_urb(ID, bulk(1), now=0)
    assert len(messages(guest)) == 1


def test_s20_our_client_refuses_at_once() -> None:
    device = make_device(ID, is_open=False)
    assert receive(device, message(0, struct.pack("<I", 5))) == []
    assert messages(device) == [status(0, 1, 5)]
    receive(device, message(0, struct.pack("<I", ID)), submit(1))
    device.open_failed(ID)
    assert messages(device) == [status(0, 1), results(record(1, error=2))]
    device.complete_urb(ID, 1, UrbResult(UrbStatus.OK))
    assert messages(device) == []


def test_s21_a_message_may_be_longer_than_its_length_field() -> None:
    device = make_device(ID)
    reset = message(2, struct.pack("<I", ID))
    assert receive(device, reset + b"surplus") == [wire.ResetRequested(ID)]
    legacy = bytes.fromhex("02000000 00 01 03020000")  # G1: length 2, 6 bytes follow
    assert receive(make_guest(ID), legacy) == [wire.DeviceFailed(ID, "open")]


def test_s21_what_we_send_is_as_long_as_it_says() -> None:
    joined = join(ID)
    joined.guest.reset_device(ID)
    joined.run(ID, bulk(1))
    joined.run(ID, bulk(2, endpoint=2, data=b"x"))
    joined.run(ID, Urb.control(3, GET_DESCRIPTOR))
    joined.wait(5)
    for sent in joined.sent + joined.received:
        assert int.from_bytes(sent[:4], "little") == len(sent) - 4


@pytest.mark.parametrize(
    ("code", "speed"),
    [(0, Speed.FULL), (1, Speed.LOW), (2, Speed.FULL), (3, Speed.HIGH)]
    + [(4, Speed.HIGH), (5, Speed.SUPER), (6, Speed.FULL), (0xFFFF, Speed.FULL)],
)
def test_s22_speeds_are_told_apart(code: int, speed: Speed) -> None:
    guest = make_guest(client_flags=1)
    (listed,) = receive(guest, device_list(entry(speed=code)))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].speed is speed


def test_s23_a_list_that_did_not_change_is_not_reported_again() -> None:
    joined = join(ID)
    joined.wait(60)
    assert joined.guest_saw(wire.DevicesListed) == []


def test_s24_the_first_final_record_counts() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    two = results(record(1, error=1, flags=0), record(1, b"more"))
    assert receive(guest, two) == [
        wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.STALL)),
    ]
    assert receive(guest, results(record(1, b"again"))) == []


def test_s25_a_fragment_of_an_out_urb_or_an_error_is_final() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, endpoint=2, data=b"hello"), now=0)
    guest.submit_urb(ID, bulk(2), now=0)
    events = receive(
        guest,
        results(record(1, length=5, flags=3)),
        results(record(2, b"data", flags=3)),
        results(record(2, b"!", flags=3, error=1)),
    )
    assert events == [
        wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.OK, b"", 5)),
        wire.UrbCompleted(ID, 2, UrbResult(UrbStatus.STALL, b"data!", 5)),
    ]


def test_s25_equal_fragments_are_all_kept() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, 30), now=0)
    guest.submit_urb(ID, Urb.control(2, SetupPacket(0xC0, 1, 0, 0, 30)), now=0)
    ten = bytes(10)
    for handle, first in ((1, b""), (2, bytes(8))):
        (done,) = receive(
            guest,
            results(record(handle, first, flags=3)),
            results(record(handle, ten, flags=2), record(handle, ten, flags=3)),
            results(record(handle, ten)),
        )
        expected = UrbResult(UrbStatus.OK, bytes(30), 30)
        assert done == wire.UrbCompleted(ID, handle, expected)


@pytest.mark.parametrize("version", [1, 2])
def test_s25_only_version_3_has_fragments(version: int) -> None:
    guest = make_guest(ID, version=version)
    guest.submit_urb(ID, bulk(1), now=0)
    (ignored,) = receive(guest, results(record(1, b"x", flags=3)))
    assert isinstance(ignored, wire.Ignored)


def test_s26_a_message_holds_the_data_of_the_moment_it_was_submitted() -> None:
    guest = make_guest(ID)
    buffer = bytearray(b"before")
    guest.submit_urb(ID, bulk(1, endpoint=2, data=memoryview(buffer)), now=0)
    buffer[:] = b"after!"
    (sent,) = messages(guest)
    assert sent.endswith(b"before")


def test_s27_the_setup_packet_is_echoed_unchanged() -> None:
    device = make_device(ID)
    setup = bytes.fromhex("80060001000012 00")
    receive(device, submit(1, setup, kind=4, endpoint=0, urb_len=26))
    device.complete_urb(ID, 1, UrbResult(UrbStatus.OK, b"\x12\x01", 2))
    assert messages(device) == [results(record(1, setup + b"\x12\x01"))]


def test_s27_an_altered_echo_does_no_harm() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, Urb.control(1, GET_DESCRIPTOR), now=0)
    guest.submit_urb(ID, Urb.control(2, GET_DESCRIPTOR), now=0)
    done = receive(
        guest, results(record(1, b"nonsense\x12\x01")), results(record(2, b"short"))
    )
    assert done == [
        wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.OK, b"\x12\x01", 2)),
        wire.UrbCompleted(ID, 2, UrbResult(UrbStatus.OK, b"", 0)),
    ]


def test_s28_nothing_is_said_to_or_heard_from_a_client_that_is_gone() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.channel_closed(CHANNEL)
    clear(guest)
    guest.close_device(ID)
    guest.reset_device(ID)
    guest.cancel_urb(ID, 1)
    guest.handle_deadline(1000)
    assert receive(guest, results(record(1)), device_list(entry())) == []
    assert messages(guest) == []


def test_s29_a_negotiate_reply_at_any_time_begins_anew() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    messages(guest)
    assert receive(guest, negotiate_reply(1)) == [wire.Negotiated(1, 0)]
    assert messages(guest) == [LIST]
    assert receive(guest, negotiate_reply(1)) == []  # no news, but it begins anew
    assert messages(guest) == [LIST]
    (done,) = receive(guest, results(record(1, b"x", error=4)))
    assert isinstance(done, wire.UrbCompleted)
    assert done.result.status is UrbStatus.UNDERRUN


def test_s29_our_client_never_pre_empts_the_first_request() -> None:
    device = opened(VrdpUsbDeviceSide())
    device.announce([INFO])
    device.announce([])
    device.handle_deadline(9)
    assert messages(device) == []


def test_s30_a_plug_is_told_unasked_once() -> None:
    device = make_device(ID)
    second = DeviceInfo(5, 0x1209, 2)
    listed = [DeviceInfo(ID, 0x1209, 0x2303), second]
    device.announce(listed)
    assert [m[4] for m in messages(device)] == [11]
    device.announce(listed)
    assert messages(device) == []
    receive(device, LIST)
    device.announce(listed)
    device.announce(listed)
    assert [m[4] for m in messages(device)] == [11]


def test_s30_an_unasked_list_is_taken() -> None:
    guest = make_guest(ID)
    (listed,) = receive(guest, device_list(entry(), entry(5)))
    assert isinstance(listed, wire.DevicesListed)
    assert [d.id for d in listed.devices] == [ID, 5]


def test_s31_reset_is_sent_when_asked_for_after_the_cancels() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.set_configuration(ID, 1)
    assert [m[4] for m in messages(guest)] == [7, 3]
    guest.reset_device(ID)
    assert [m[4] for m in messages(guest)] == [10, 2]
    cancelled = UrbResult(UrbStatus.CANCELLED)
    assert guest.events() == [wire.UrbCompleted(ID, 1, cancelled)]


def test_s32_no_descriptor_is_edited_or_cached() -> None:
    joined = join(ID)
    answers = iter([b"first", b"second"])

    def answer(urb: Urb) -> UrbResult:
        data = next(answers)
        return UrbResult(UrbStatus.OK, data, len(data))

    joined.answer = answer
    for id, data in ((1, b"first"), (2, b"second")):
        result = joined.run(ID, Urb.control(id, GET_DESCRIPTOR))
        assert bytes(result.data) == data
    assert [m[4] for m in joined.sent] == [7, 7]
