"""What real clients do (vrdpusb.md 3.1): our server copes, our client does better."""

import struct
from dataclasses import replace

import pytest

from rusb.errors import LocalProtocolError
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide
from rusb.wire.vrdpusb._guest import CANCEL_TIMEOUT, CONTROL_TIMEOUT
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

GET_DESCRIPTOR = SetupPacket.get_descriptor(1, 0, 18)
ID_BYTES = struct.pack("<I", ID)


def test_c1_nobody_waits_for_success() -> None:
    joined = join()
    joined.devices = (DeviceInfo(ID, 0x1209, 1),)
    joined.wait(2)
    joined.forget()
    joined.guest.open_device(ID)
    joined.guest.set_configuration(ID, 1)
    joined.guest.claim_interface(ID, 0)
    joined.guest.set_interface(ID, 0, 1)
    joined.guest.submit_urb(ID, bulk(1), now=0)
    there = messages(joined.guest)  # all of it before anything came back
    assert [m[4] for m in there] == [0, 3, 4, 6, 7]
    for one in there:
        joined.device.receive_data(CHANNEL, one, now=0)
    assert messages(joined.device) == []
    kinds = [type(e) for e in joined.device.events()]
    assert kinds == [
        *(wire.OpenRequested, wire.ConfigurationRequested, wire.ClaimRequested),
        *(wire.AlternateRequested, wire.UrbSubmitted),
    ]


@pytest.mark.parametrize("code", [3, 4, 5, 6, 9])
def test_c2_an_ordinary_failure_does_not_end_the_device(code: int) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    assert receive(guest, status(code, 0)) == []
    (done,) = receive(guest, results(record(1, b"still here")))
    assert isinstance(done, wire.UrbCompleted)
    assert done.result.status is UrbStatus.OK


def test_c3_a_failed_reset_means_that_the_device_is_gone() -> None:
    guest = make_guest(ID)
    guest.reset_device(ID)
    assert receive(guest, status(2, 2)) == [wire.DeviceFailed(ID, "reset", True)]


def test_c4_claim_interface_is_padded() -> None:
    guest = make_guest(ID)
    guest.claim_interface(ID, 1)
    assert messages(guest) == [bytes.fromhex("07000000 04 03020000 01 01")]


@pytest.mark.parametrize("arguments", [b"\1", b"\1\1", b"\1\7", b"\1\0\0\0"])
def test_c4_our_client_claims_the_first_number(arguments: bytes) -> None:
    device = make_device(ID)
    events = receive(device, message(4, ID_BYTES + arguments))
    assert events == [wire.ClaimRequested(ID, 1)]


def test_c5_a_list_may_be_too_long_but_ours_ends_exactly() -> None:
    guest = make_guest()
    (listed,) = receive(guest, device_list(entry(), end=bytes(27)))
    assert isinstance(listed, wire.DevicesListed)
    assert [d.id for d in listed.devices] == [ID]
    device = make_device(ID, flags=0)
    receive(device, message(11))
    device.announce([DeviceInfo(ID, 0x1209, 0x2303)])
    (sent,) = messages(device)
    assert len(sent) == 5 + 25 + 2
    assert sent[-2:] == b"\0\0"


def test_c6_our_client_fills_in_the_protocol() -> None:
    device, guest = make_device(), make_guest(client_flags=1)
    device.announce([DeviceInfo(ID, 1, 2, device_class=3, device_protocol=0x42)])
    (listed,) = receive(guest, *messages(device))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].device_protocol == 0x42


def test_c7_ids_are_opaque() -> None:
    joined = join()
    ids = (1, 0x00FF, 0x0203, 0xFFFF)
    joined.devices = tuple(DeviceInfo(i, 0x1209, 1) for i in ids)
    joined.wait(2)
    assert tuple(d.id for d in joined.listed) == ids


@pytest.mark.parametrize(
    ("bcd_usb", "speed"),
    [(0x0100, Speed.FULL), (0x0110, Speed.FULL), (0x0200, Speed.HIGH)]
    + [(0x0210, Speed.HIGH), (0x0300, Speed.SUPER), (0x0320, Speed.SUPER)]
    + [(0x0000, Speed.FULL), (0x0400, Speed.FULL)],
)
def test_c8_without_speed_the_usb_version_decides(bcd_usb: int, speed: Speed) -> None:
    guest = make_guest(version=1)
    (listed,) = receive(guest, device_list(entry(bcd_usb=bcd_usb)))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].speed is speed


def test_c9_a_single_zero_byte_means_version_1() -> None:
    guest = VrdpUsbGuestSide()
    guest.channel_opened(CHANNEL, "vrdpusb", now=0)
    clear(guest)
    assert receive(guest, message(12, b"\0")) == [wire.Negotiated(1, 0)]
    assert guest.version == 1
    assert messages(guest) == [message(11)]


OK, STALL, CRC, GONE = UrbStatus.OK, UrbStatus.STALL, UrbStatus.CRC, UrbStatus.NO_DEVICE
OVER, UNDER, LATE = UrbStatus.OVERFLOW, UrbStatus.UNDERRUN, UrbStatus.TIMEOUT
WRONG, IO = UrbStatus.INVALID, UrbStatus.IO_ERROR


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, [OK, STALL, GONE, CRC, UNDER, OVER, *[GONE] * 7]),
        (2, [OK, STALL, GONE, CRC, *[GONE] * 4, OVER, UNDER, WRONG, IO, LATE]),
        (3, [OK, STALL, GONE, CRC, *[GONE] * 4, OVER, UNDER, WRONG, IO, LATE]),
    ],
)
def test_c10_s14_errors_are_read_by_the_version(
    version: int, expected: list[UrbStatus]
) -> None:
    guest = make_guest(ID, version=version)
    for error, meaning in enumerate([*expected, GONE, GONE]):
        number = error if error < 13 else (0x7F, 0xFF)[error - 13]
        guest.submit_urb(ID, bulk(error), now=0)
        (done,) = receive(guest, results(record(error + 1, error=number)))
        assert isinstance(done, wire.UrbCompleted)
        assert done.result.status is meaning


@each_row("result", UrbStatus)
@each_row("version", [1, 2, 3])
def test_c10_our_client_sends_wire_numbers(version: int, result: UrbStatus) -> None:
    device = make_device(ID, version=version)
    receive(device, submit(7))
    device.complete_urb(ID, 7, UrbResult(result))
    (sent,) = messages(device)
    known = {OK: 0, STALL: 1, CRC: 3} | (
        {OVER: 8, UNDER: 9, WRONG: 10, IO: 11, LATE: 12} if version > 1 else {}
    )
    assert sent[10] == known.get(result, 2)


def test_c11_a_control_transfer_that_is_never_answered_ends() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, Urb.control(1, GET_DESCRIPTOR), now=10)
    guest.submit_urb(ID, Urb.control(2, GET_DESCRIPTOR), now=11)
    messages(guest)
    end = 10 + CONTROL_TIMEOUT
    assert CONTROL_TIMEOUT > 60  # the guest's own limit may be a minute
    guest.receive_data(CHANNEL, device_list(entry()), now=end - 1)
    assert guest.next_deadline() == end
    guest.handle_deadline(end - 0.1)
    assert guest.events() == []
    guest.handle_deadline(end)
    done = wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.TIMEOUT))
    assert guest.events() == [done]
    assert messages(guest) == [message(10, ID_BYTES + struct.pack("<I", 1))]
    assert guest.next_deadline() == end + 1  # the other one


@pytest.mark.parametrize("number", [ID, 99])
@pytest.mark.parametrize("is_open", [True, False])
def test_c11_our_client_always_answers(number: int, is_open: bool) -> None:
    device = make_device(ID, is_open=is_open)
    receive(device, submit(7, number=number, direction=3))
    assert messages(device) == [results(record(7, number=number, error=2))]


def test_c12_our_server_sends_only_types_2_3_4() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, Urb.control(1, GET_DESCRIPTOR), now=0)
    guest.submit_urb(ID, Urb(2, TransferType.ISOCHRONOUS, 0x81, 8, packets=(8,)), now=0)
    guest.submit_urb(ID, Urb(3, TransferType.BULK, 0x81, 8), now=0)
    guest.submit_urb(ID, Urb(4, TransferType.INTERRUPT, 0x81, 8), now=0)
    assert [m[13] for m in messages(guest)] == [4, 2, 3]
    invalid = UrbResult(UrbStatus.INVALID)
    assert guest.events() == [wire.UrbCompleted(ID, 2, invalid)]


@pytest.mark.parametrize("kind", [0, 1, 5, 255])
def test_c12_our_client_refuses_other_types(kind: int) -> None:
    device = make_device(ID)
    assert receive(device, submit(7, kind=kind)) == []
    assert messages(device) == [results(record(7, error=2))]


SETUP_OUT = SetupPacket(0x21, 9, 0, 0, 4)
IMPOSSIBLE = [
    Urb(1, TransferType.BULK, 0x02, 4, b"short"),
    Urb(1, TransferType.BULK, 0x02, 6, b"short"),
    Urb(1, TransferType.BULK, 0x91, 4),
    Urb(1, TransferType.BULK, 0x81, (8 << 20) + 1),
    Urb(1, TransferType.BULK, 0x81, 18, setup=GET_DESCRIPTOR),
    Urb(1, TransferType.CONTROL, 0x80, 18),
    Urb(1, TransferType.CONTROL, 0x00, 0, setup=GET_DESCRIPTOR),
    Urb(1, TransferType.CONTROL, 0x80, 4, setup=SETUP_OUT),
    Urb(1, TransferType.CONTROL, 0x00, 3, b"abc", SETUP_OUT),
]


@pytest.mark.parametrize("urb", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_c13_our_server_sends_nothing_that_contradicts_itself(urb: Urb) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, urb, now=0)
    assert messages(guest) == []
    done = wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.INVALID))
    assert guest.events() == [done]


def test_c13_the_lengths_of_a_submit_are_exact() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, Urb.control(1, GET_DESCRIPTOR), now=0)
    guest.submit_urb(ID, Urb.control(2, SETUP_OUT, b"data"), now=0)
    guest.submit_urb(ID, bulk(3, 512), now=0)
    guest.submit_urb(ID, bulk(4, endpoint=2, data=b"hello"), now=0)
    guest.submit_urb(ID, bulk(5, 0, endpoint=2), now=0)
    sent = messages(guest)
    lengths = [struct.unpack_from("<II", m, 16) for m in sent]
    assert lengths == [(26, 8), (12, 12), (512, 0), (5, 5), (0, 0)]
    assert [len(m) - 24 for m in sent] == [8, 12, 0, 5, 0]
    assert [int.from_bytes(m[:4], "little") + 4 for m in sent] == [len(m) for m in sent]


@pytest.mark.parametrize(
    ("error", "status"), [(1, UrbStatus.CANCELLED), (2, UrbStatus.CANCELLED), (0, OK)]
)
def test_c14_what_a_cancelled_urb_had_moved_is_not_lost(
    error: int, status: UrbStatus
) -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(ID, bulk(2, endpoint=2, data=b"hello"), now=0)
    for _ in range(2):
        guest.cancel_urb(ID, 1)
        guest.cancel_urb(ID, 2)
    assert guest.events() == []
    assert [m[4] for m in messages(guest)] == [7, 7, 10, 10]
    done = receive(
        guest,
        results(record(1, b"moved", error=error)),
        results(record(2, length=3, error=error)),
    )
    assert done == [
        wire.UrbCompleted(ID, 1, UrbResult(status, b"moved", 5)),
        wire.UrbCompleted(ID, 2, UrbResult(status, b"", 3)),
    ]
    assert guest.next_deadline() != 0.0
    guest.handle_deadline(100)
    assert guest.events() == []


def test_c14_the_late_result_of_a_cancelled_urb_is_ignored() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.cancel_urb(ID, 1)
    assert guest.next_deadline() == 0.0  # it wants to know the time
    guest.handle_deadline(50)
    guest.handle_deadline(50 + CANCEL_TIMEOUT)
    cancelled = wire.UrbCompleted(ID, 1, UrbResult(UrbStatus.CANCELLED))
    assert guest.events() == [cancelled]
    guest.submit_urb(ID, bulk(1), now=0)  # another one with the same id
    assert receive(guest, results(record(1, b"late", error=1))) == []
    (done,) = receive(guest, results(record(2, b"mine")))
    assert isinstance(done, wire.UrbCompleted)
    assert bytes(done.result.data) == b"mine"


@pytest.mark.parametrize(
    ("result", "sent"),
    [
        (UrbResult(UrbStatus.CANCELLED, b"moved", 5), record(7, b"moved", error=1)),
        (UrbResult(UrbStatus.CANCELLED), record(7, error=1)),
        (UrbResult(UrbStatus.NO_DEVICE), record(7, error=1)),
        (UrbResult(UrbStatus.OK, b"all", 3), record(7, b"all")),
    ],
)
def test_c14_our_client_sends_what_a_cancelled_urb_had_moved(
    result: UrbResult, sent: bytes
) -> None:
    device = make_device(ID)
    receive(device, submit(7))
    cancel = message(10, ID_BYTES + struct.pack("<I", 7))
    assert receive(device, cancel, cancel) == [wire.CancelRequested(ID, 7)]
    device.complete_urb(ID, 7, result)
    assert messages(device) == [results(sent)]
    device.complete_urb(ID, 7, result)
    assert messages(device) == []


def test_c14_the_handle_of_a_cancelled_urb_may_be_used_again() -> None:
    device = make_device(ID)
    receive(device, submit(7))
    receive(device, message(10, ID_BYTES + struct.pack("<I", 7)))
    (event,) = receive(device, submit(7, urb_len=3))
    assert isinstance(event, wire.UrbSubmitted)
    device.complete_urb(ID, 7, UrbResult(UrbStatus.OK, b"new", 3))
    assert messages(device) == [results(record(7, b"new"))]
    receive(device, submit(7))  # and is that of one in flight then
    (event,) = receive(device, submit(7))
    assert isinstance(event, wire.Ignored)


def test_c14_a_handle_is_cancelled_no_more_once_its_urb_is_done() -> None:
    device = make_device(ID)
    receive(device, submit(7), message(10, ID_BYTES + struct.pack("<I", 7)))
    device.complete_urb(ID, 7, UrbResult(UrbStatus.CANCELLED))
    receive(device, submit(7))
    (event,) = receive(device, submit(7))
    assert isinstance(event, wire.Ignored)


def test_c14_nothing_is_kept_of_a_cancelled_urb_in_pieces() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1, 512), now=0)
    receive(guest, results(record(1, b"some", flags=2)))
    guest.cancel_urb(ID, 1)
    clear(guest)
    (done,) = receive(guest, results(record(1, b" more", error=1, flags=3)))
    cancelled = UrbResult(UrbStatus.CANCELLED, b"some more", 9)
    assert done == wire.UrbCompleted(ID, 1, cancelled)
    kept = guest._devices[ID]
    assert not any((kept.pending, kept.handles, kept.cancelled, kept.fragments))


def test_c14_a_urb_is_cancelled_once_also_if_the_device_is_reset() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.cancel_urb(ID, 1)
    clear(guest)
    guest.reset_device(ID)
    assert [m[4] for m in messages(guest)] == [2]


def test_c14_a_result_in_flight_during_close_meets_no_urb_of_the_next_open() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.close_device(ID)
    guest.open_device(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    clear(guest)
    assert receive(guest, results(record(1, b"of the first"))) == []


def test_c15_our_client_sends_every_result_at_once() -> None:
    device = make_device(ID)
    receive(device, *(submit(i) for i in range(1, 65)))
    for handle in range(1, 65):
        device.complete_urb(ID, handle, UrbResult(UrbStatus.OK, b"x", 1))
    sent = messages(device)
    assert sent == [results(record(i, b"x")) for i in range(1, 65)]


def test_c16_a_device_is_opened_once_and_only_from_a_list() -> None:
    guest = VrdpUsbGuestSide()
    guest.channel_opened(CHANNEL, "vrdpusb", now=0)
    receive(guest, negotiate_reply(1))
    with pytest.raises(LocalProtocolError, match="not listed"):
        guest.open_device(ID)
    receive(guest, device_list(entry()))
    guest.open_device(ID)
    with pytest.raises(LocalProtocolError, match="open already"):
        guest.open_device(ID)


def test_c16_a_second_open_changes_nothing_in_our_client() -> None:
    device = make_device(ID, is_open=False)
    opened = message(0, ID_BYTES)
    assert receive(device, opened, opened) == [wire.OpenRequested(ID)]
    assert len(receive(device, submit(7), opened)) == 1
    device.complete_urb(ID, 7, UrbResult(UrbStatus.OK))
    assert messages(device) == [results(record(7))]


def test_c17_close_tells_our_client_to_give_the_device_back() -> None:
    device = make_device(ID)
    closed = receive(device, message(5, ID_BYTES + b"\0"), message(1, ID_BYTES))
    assert closed == [wire.ReleaseRequested(ID, 0), wire.CloseRequested(ID)]


def test_c18_a_reply_to_cancel_is_ignored_and_not_sent() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    assert receive(guest, status(10, 1)) == [wire.Ignored("message with code 10")]
    device = make_device(ID)
    for number in (ID, 99):
        receive(device, message(10, struct.pack("<II", number, 7)))
    assert messages(device) == []


def test_c19_the_end_of_the_channel_closes_every_device() -> None:
    device = make_device(1, 2, 3)
    receive(device, message(1, struct.pack("<I", 2)))
    device.channel_closed(CHANNEL)
    assert device.events() == [wire.CloseRequested(1), wire.CloseRequested(3)]
    device.channel_opened(CHANNEL, "vrdpusb", now=9)
    receive(device, submit(1, number=1))
    assert messages(device) == [results(record(1, number=1, error=2))]


def test_c20_our_server_is_patient() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(ID, Urb(2, TransferType.INTERRUPT, 0x83, 8), now=0)
    guest.submit_urb(ID, bulk(3, endpoint=2, data=b"x"), now=0)
    for hour in range(24):
        guest.handle_deadline(hour * 3600.0)
    assert guest.events() == []


def test_c21_our_client_announces_an_unplug() -> None:
    joined = join(ID, 5)
    joined.device.announce(joined.devices[1:])
    joined.move()
    assert [d.id for d in joined.listed] == [5]


def test_c22_close_is_sent_at_once() -> None:
    guest = make_guest(ID)
    guest.submit_urb(ID, bulk(1), now=0)
    guest.submit_urb(ID, bulk(2), now=0)
    clear(guest)
    guest.close_device(ID)
    assert [m[4] for m in messages(guest)] == [10, 10, 1]
    cancelled = UrbResult(UrbStatus.CANCELLED)
    assert guest.events() == [wire.UrbCompleted(ID, i, cancelled) for i in (1, 2)]


def test_c23_a_device_that_cannot_be_opened_fails() -> None:
    joined = join(ID)
    joined.answer = lambda urb: None
    joined.guest.submit_urb(ID, bulk(1), now=0)
    joined.move()
    joined.device.open_failed(ID)
    joined.move()
    gone = UrbResult(UrbStatus.NO_DEVICE)
    assert joined.of_guest[:2] == [
        wire.UrbCompleted(ID, 1, gone),
        wire.DeviceFailed(ID, "open"),
    ]
    assert joined.run(ID, bulk(2)) == gone


def test_c24_one_empty_list_of_a_version_1_client_is_not_believed() -> None:
    guest = make_guest(ID, version=1)
    empty = device_list()
    assert [type(e) for e in receive(guest, empty)] == [wire.Ignored]
    assert receive(guest, device_list(entry())) == []
    assert [type(e) for e in receive(guest, empty)] == [wire.Ignored]
    guest.handle_deadline(3.0)
    assert messages(guest) == [message(11)]
    assert receive(guest, empty) == [wire.DevicesListed(())]


@pytest.mark.parametrize("version", [2, 3])
def test_c24_later_clients_are_believed_at_once(version: int) -> None:
    guest = make_guest(ID, version=version)
    assert receive(guest, device_list()) == [wire.DevicesListed(())]


def test_c25_without_a_channel_nothing_happens() -> None:
    for side in (VrdpUsbGuestSide(), VrdpUsbDeviceSide()):
        side.handle_deadline(1000)
        side.receive_data(CHANNEL, message(11), now=1000)
        assert side.next_deadline() is None
        assert (side.events(), side.outputs()) == ([], [])


def test_c26_everything_is_little_endian() -> None:
    joined = join(0x0102)
    data = bytes(0x0304)
    result = joined.run(0x0102, bulk(1, endpoint=2, data=data))
    assert result.length == 0x0304
    (sent,), (received,) = joined.sent, joined.received
    assert sent[:5] == bytes.fromhex("18030000 07")
    assert sent[5:13] == bytes.fromhex("02010000 01000000")
    assert sent[16:24] == bytes.fromhex("04030000") * 2
    assert received[15:19] == bytes.fromhex("04030000")


def test_a_changed_name_is_a_changed_list() -> None:
    joined = join(ID)
    joined.devices = (replace(joined.devices[0], product="Blinker"),)
    joined.wait(2)
    assert joined.listed[0].product == "Blinker"
