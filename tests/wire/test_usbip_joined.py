"""Both sides of USB/IP, joined; what contracts of all wires do not ask."""

from collections.abc import Callable

import pytest

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Request, Speed, TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    CancelRequested,
    DeviceFailed,
    DevicesListed,
    Ignored,
    RequestCompleted,
    ResetRequested,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.usbip import PLUGIN, Export, Place, UsbipDeviceSide, UsbipGuestSide
from rusb.wire.usbip import _codec as codec
from tests.support.wire.joined import Answer, Joined, echo, messages

INFO = DeviceInfo(5, 0x1209, 1, speed=Speed.HIGH)
DEVICE = DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1209, 1, 0x0100)
USED = (
    EndpointDescriptor(0x81, 2, 512, 0),
    EndpointDescriptor(0x02, 2, 512, 0),
    EndpointDescriptor(0x83, 1, 64, 1),
    EndpointDescriptor(0x04, 1, 64, 1),
    EndpointDescriptor(0x85, 3, 8, 1),
)
DESCRIPTORS = DeviceDescriptors(
    DEVICE,
    (
        ConfigurationDescriptor(
            *(1, 0x80, 50),
            (
                InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, USED),
                InterfaceDescriptor(0, 1, 0xFF, 0, 0),
            ),
        ),
    ),
)


def packets(urb: Urb) -> UrbResult:
    """An isochronous device that loses every second packet."""
    if urb.type is not TransferType.ISOCHRONOUS:
        return echo(urb)
    done = tuple(
        IsoPacket(0, UrbStatus.IO_ERROR) if n % 2 else IsoPacket(size)
        for n, size in enumerate(urb.packets)
    )
    length = sum(packet.length for packet in done)
    return UrbResult(UrbStatus.OK, bytes(length) if urb.is_in else b"", length, done)


def join(answer: Answer = echo) -> Joined:
    """A device that is imported and configured."""
    joined = Joined(
        *(PLUGIN.guest_side(), PLUGIN.device_side(), INFO),
        descriptors={INFO.id: DESCRIPTORS},
        channel=0,
    )
    joined.guest.open_device(1)
    joined.guest.set_configuration(1, 1)
    joined.move()
    joined.forget()
    joined.answer = answer
    return joined


def submit(joined: Joined, *urbs: Urb) -> list[UrbResult]:
    for urb in urbs:
        joined.guest.submit_urb(1, urb, now=0)
    joined.move()
    return [e.result for e in joined.guest_saw(UrbCompleted)]


def bulk(id: int, length: int = 8) -> Urb:
    return Urb(id, TransferType.BULK, 0x81, length)


@pytest.mark.parametrize("endpoint", [0x83, 0x04])
def test_isochronous_packets_keep_their_own_outcomes(endpoint: int) -> None:
    joined = join(packets)
    urb = Urb(
        *(1, TransferType.ISOCHRONOUS, endpoint, 32),
        bytes(32) if endpoint == 0x04 else b"",
        packets=(8, 8, 16),
    )
    (result,) = submit(joined, urb)
    assert [p.length for p in result.packets] == [8, 0, 16]
    assert result.packets[1].status is UrbStatus.IO_ERROR
    assert (result.length, result.error_count) == (24, 1)
    assert len(result.data) == (24 if endpoint == 0x83 else 0)


def test_a_device_that_gives_no_packets_has_moved_nothing() -> None:
    """Linux hangs up on sums that do not agree (3.4)."""
    joined = join(lambda urb: UrbResult(UrbStatus.STALL))
    urb = Urb(1, TransferType.ISOCHRONOUS, 0x83, 16, packets=(8, 8))
    (result,) = submit(joined, urb)
    assert (result.status, result.length, len(result.packets)) == (
        UrbStatus.STALL,
        0,
        2,
    )


def test_interrupt_transfers_have_an_interval() -> None:
    """Section 11.1: some servers guess the type by it."""
    joined = join()
    submit(joined, Urb(1, TransferType.INTERRUPT, 0x85, 8), bulk(2))
    intervals = [codec.CMD_SUBMIT.unpack_from(m)[9] for m in joined.sent]
    assert intervals == [1, 0]


@pytest.mark.parametrize(
    "urb",
    [
        bulk(1, codec.MAX_LENGTH + 1),
        Urb(1, TransferType.ISOCHRONOUS, 0x83, 0, packets=(0,) * 1025),
    ],
)
def test_what_is_too_large_is_not_sent(urb: Urb) -> None:
    joined = join()
    assert [r.status for r in submit(joined, urb)] == [UrbStatus.INVALID]
    assert joined.sent == []


def test_a_urb_id_in_flight_is_refused() -> None:
    joined = join(lambda urb: None)
    submit(joined, bulk(1), bulk(1))
    (event,) = joined.guest_saw(UrbCompleted)
    assert event.result.status is UrbStatus.INVALID


def test_a_reset_is_a_request_that_the_device_never_sees() -> None:
    joined = join()
    submit(joined, Urb.control(1, SetupPacket.set_interface(0, 1)))
    joined.forget()
    joined.guest.reset_device(1, request=4)
    joined.move()
    assert joined.guest_saw(RequestCompleted) == [RequestCompleted(1, 4, UrbStatus.OK)]
    assert len(joined.device_saw(ResetRequested)) == 1
    setups = [e.urb.setup for e in joined.device_saw(UrbSubmitted)]
    assert setups == [SetupPacket.set_configuration(1), SetupPacket.set_interface(0, 1)]


def test_an_address_stays_between_client_and_server() -> None:
    joined = join()
    setup = SetupPacket(0x00, Request.SET_ADDRESS, 9)
    assert submit(joined, Urb.control(1, setup))[0].status is UrbStatus.OK
    assert joined.device_saw(UrbSubmitted) == []


@pytest.mark.parametrize("lose", ["announce", "device_lost", "other"])
def test_a_device_that_goes_ends_the_stream(lose: str) -> None:
    joined = join(lambda urb: None)
    submit(joined, bulk(1), bulk(2))
    joined.guest.cancel_urb(1, 2)
    joined.move()
    ends: dict[str, Callable[[], None]] = {
        "announce": lambda: joined.device.announce([]),
        "device_lost": lambda: joined.device.device_lost(INFO.id),
        "other": lambda: joined.device.announce(
            [DeviceInfo(6, 1, 1)], {6: DESCRIPTORS}
        ),
    }
    ends[lose]()
    joined.move()
    done = {e.urb_id: e.result.status for e in joined.guest_saw(UrbCompleted)}
    assert done == {1: UrbStatus.NO_DEVICE, 2: UrbStatus.NO_DEVICE}
    assert joined.guest_saw(DeviceFailed) == [
        DeviceFailed(1, "disconnect", removed=True)
    ]
    assert joined.listed == ()
    assert len(joined.device_saw(CancelRequested)) >= 1
    joined.device.device_lost(INFO.id)
    joined.device.complete_urb(INFO.id, 1, UrbResult(UrbStatus.OK))
    joined.device.receive_data(0, b"\0" * 48, now=0)  # it crossed the end
    assert messages(joined.device) == []


def test_the_client_may_ask_before_there_is_a_device() -> None:
    core = UsbipDeviceSide(Place(1, 1))
    core.channel_opened(0, "", now=0)
    request = codec.import_request("1-1")
    core.receive_data(0, request[:8], now=0)
    core.receive_data(0, request[8:20], now=0)
    core.receive_data(0, request[20:], now=0)
    core.receive_data(0, b"", now=0)
    assert messages(core) == []
    core.announce([], {})
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    core.announce([INFO], {INFO.id: DESCRIPTORS})
    (reply,) = messages(core)
    assert len(reply) == 320
    core.open_failed(INFO.id)
    assert core.next_deadline() is None
    core.handle_deadline(1)


def test_a_server_that_is_paused_takes_nothing() -> None:
    joined = join()
    core = joined.device
    assert isinstance(core, UsbipDeviceSide)
    for stop, go_on in (
        (core.pause, core.resume),
        (lambda: core.congest(True), lambda: core.congest(False)),
    ):
        stop()
        joined.forget()
        submit(joined, bulk(1))
        assert joined.device_saw(UrbSubmitted) == []
        go_on()
        core.receive_data(0, b"", now=0)
        joined.move()
        assert len(joined.device_saw(UrbSubmitted)) == 1


def test_a_client_of_an_imported_device_begins_with_transfers() -> None:
    core = UsbipGuestSide(devid=0x10002)
    core.channel_opened(0, "", now=0)
    (listed,) = core.events()
    assert isinstance(listed, DevicesListed)
    core.submit_urb(1, bulk(1), now=0)
    (message,) = messages(core)
    assert codec.CMD_SUBMIT.unpack_from(message)[:3] == (1, 1, 0x10002)
    assert core.next_deadline() is None
    core.handle_deadline(1)


def test_only_the_one_device_can_be_opened() -> None:
    joined = join()
    with pytest.raises(LocalProtocolError):
        joined.guest.open_device(2)
    joined.guest.channel_closed(0)
    with pytest.raises(LocalProtocolError):
        joined.guest.open_device(1)
    with pytest.raises(RemoteProtocolError):
        joined.guest.receive_data(0, b"", now=0)
    joined.guest.channel_closed(0)


def test_a_cancel_that_was_not_asked_is_ignored() -> None:
    joined = join()
    stray = codec.RET_UNLINK.pack(4, 77, 0, 0, 0, 0)
    joined.guest.receive_data(0, stray, now=0)
    (event,) = joined.guest.events()
    assert isinstance(event, Ignored)


def test_requests_that_wait_end_with_the_device() -> None:
    joined = join(lambda urb: None)
    joined.guest.clear_halt(1, 0x81, request=1)
    joined.guest.set_interface(1, 0, 0, request=2)
    joined.guest.claim_interface(1, 0, request=3)
    joined.guest.release_interface(1, 0, request=4)
    joined.move()
    joined.guest.close_device(1)
    joined.move()
    done = {e.request: e.status for e in joined.guest_saw(RequestCompleted)}
    assert done == {
        1: UrbStatus.CANCELLED,
        2: UrbStatus.CANCELLED,
        3: UrbStatus.OK,
        4: UrbStatus.OK,
    }


def test_a_refusal_of_the_reply_in_pieces() -> None:
    core = UsbipGuestSide()
    core.channel_opened(0, "", now=0)
    reply = codec.import_reply(codec.Record.of(Place(1, 1), INFO, DESCRIPTORS))
    for byte in reply[:-1]:
        core.receive_data(0, bytes((byte,)), now=0)
        assert core.events() == []
    core.receive_data(0, reply[-1:], now=0)
    assert len(core.events()) == 2


def test_a_list_that_fails_says_why() -> None:
    with pytest.raises(RemoteProtocolError, match="not available"):
        codec.DeviceList().receive(codec.OPERATION.pack(0x0111, 5, 1) + bytes(4))


def test_a_device_without_configurations_has_a_record() -> None:
    record = codec.Record.of(Place(2, 9), INFO, DeviceDescriptors(DEVICE, ()))
    found = codec.Record.parse(record.serialize())
    assert (found.busid, found.configuration, found.interface_count) == ("2-9", 0, 0)


def test_the_end_of_the_stream_ends_what_the_device_was_asked() -> None:
    joined = join(lambda urb: None)
    submit(joined, bulk(1))
    joined.device.channel_closed(0)
    (event,) = joined.device.events()
    assert isinstance(event, CancelRequested)
    joined.device.complete_urb(INFO.id, event.urb_id, UrbResult(UrbStatus.OK))
    assert messages(joined.device) == []
    joined.device.announce([])
    with pytest.raises(RemoteProtocolError, match="closed"):
        joined.device.receive_data(0, b"", now=0)


def test_cancelling_what_is_done_or_being_cancelled_sends_nothing() -> None:
    joined = join(lambda urb: None)
    submit(joined, bulk(1))
    joined.guest.cancel_urb(1, 2)
    joined.guest.cancel_urb(1, 1)
    joined.move()
    joined.forget()
    joined.guest.cancel_urb(1, 1)
    joined.move()
    assert joined.sent == []


def test_an_answer_that_crossed_its_cancel_is_the_one_that_counts() -> None:
    joined = join(lambda urb: None)
    submit(joined, bulk(1))
    joined.guest.cancel_urb(1, 1)
    answer = codec.RET_SUBMIT.pack(3, 2, 0, 0, 0, 0, 2, 0, 0, 0) + b"ok"
    joined.guest.receive_data(0, answer, now=0)
    joined.guest.receive_data(0, codec.RET_UNLINK.pack(4, 3, 0, 0, 0, 0), now=0)
    event, late = joined.guest.events()
    assert isinstance(event, UrbCompleted)
    assert isinstance(late, Ignored)
    assert bytes(event.result.data) == b"ok"


def test_a_cancel_of_a_cancel_is_answered_at_once() -> None:
    joined = join(lambda urb: None)
    submit(joined, bulk(1))
    seqnum = codec.CMD_SUBMIT.unpack_from(joined.sent[-1])[1]
    for unlink in (70, 71):
        request = codec.CMD_UNLINK.pack(2, unlink, 0x10001, 0, 0, seqnum)
        joined.device.receive_data(0, request, now=0)
    assert messages(joined.device) == [codec.RET_UNLINK.pack(4, 71, 0, 0, 0, 0)]


@pytest.mark.parametrize("length", [0, 8])
def test_a_transfer_that_ends_short_gets_no_empty_packet(length: int) -> None:
    joined = join()
    data = bytes(length)
    head = (1, 9, 0x10001, 0, 2, 0x40, length, 0, 0, 0)
    joined.device.receive_data(0, codec.CMD_SUBMIT.pack(*head, b"") + data, now=0)
    (event,) = joined.device.events()
    assert isinstance(event, UrbSubmitted)
    assert event.urb.length == length


def test_a_whole_answer_to_short_not_ok_is_no_error() -> None:
    joined = join()
    head = (1, 9, 0x10001, 1, 1, 0x201, 8, 0, 0, 0)
    joined.device.receive_data(0, codec.CMD_SUBMIT.pack(*head, b""), now=0)
    for event in joined.device.events():
        assert isinstance(event, UrbSubmitted)
        joined.device.complete_urb(INFO.id, event.urb.id, echo(event.urb))
    (answer,) = messages(joined.device)
    assert codec.RET_SUBMIT.unpack_from(answer)[5] == 0


def test_refusals_and_lists_of_an_export() -> None:
    assert Export.refusal(Export.BUSY) == codec.import_reply(None, 2)
    assert codec.DeviceList().receive(Export.list_reply([])) == ()
