"""The client's side of MS-RDPEUSB, as servers of others use it (rdpeusb.md 4 to 7)."""

import struct

import pytest

from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import IsoPacket, UrbResult, UrbStatus
from rusb.wire.base import (
    AlternateRequested,
    CancelRequested,
    ClaimRequested,
    ClearHaltRequested,
    CloseRequested,
    ConfigurationRequested,
    DevicesRequested,
    Event,
    Ignored,
    Negotiated,
    OpenRequested,
    ResetRequested,
    UrbSubmitted,
)
from rusb.wire.rdpeusb import _isochronous as isochronous
from rusb.wire.rdpeusb import _messages as messages
from rusb.wire.rdpeusb import _settings as settings
from rusb.wire.rdpeusb import _urbs as urbs
from rusb.wire.rdpeusb._device import MAX_URBS
from rusb.wire.rdpeusb._messages import Call
from rusb.wire.rdpeusb._urbs import Transfer, UrbFunction
from tests.support.wire.peusb import CONFIGURATION, CONTROL, FIRST, RAW
from tests.support.wire.peusb_server import INFO, Server, bulk


def test_devices_are_announced_at_the_release_of_the_control_channel() -> None:
    server = Server(INFO)
    assert server.saw(Negotiated) == [Negotiated(1)]
    assert len(server.saw(DevicesRequested)) == 1
    functions = [m.function for _, m in server.said]
    assert functions[-1] == messages.Sink.ADD_VIRTUAL_CHANNEL
    server.say(CONTROL, RAW["release_notification"])  # a second one announces nothing
    assert len(server.saw(DevicesRequested)) == 1
    added = server.bind()
    assert added.hardware[0] == "USB\\VID_1209&PID_0001&REV_0123"
    assert (added.device, added.jitter, added.is_high_speed) == (5, 0x50, True)
    server.side.channel_opened(3, "URBDRC", now=0)
    server.handshake(3)  # 4: no device is left, and it stays silent
    assert server.said[-1][1].function != messages.Sink.ADD_DEVICE


def test_a_device_that_comes_later_and_one_that_leaves() -> None:
    server = Server()
    server.side.announce([INFO])
    server.take()
    server.bind()
    server.side.announce([INFO])
    server.take()
    server.side.announce([])
    server.take()
    assert server.closed == [FIRST]
    server.say(FIRST, RAW["get_device_descriptor"])
    assert "closed" in server.saw(Ignored)[-1].reason


def test_a_server_that_reads_and_uses_a_device() -> None:
    """The session of rdpeusb.md 18, as FreeRDP's server side has it."""
    server = Server(INFO)
    server.bind()
    server.say(FIRST, RAW["register_request_callback"])
    assert server.saw(OpenRequested) == [OpenRequested(7)]
    server.say(FIRST, RAW["get_device_descriptor"])
    (submitted,) = server.saw(UrbSubmitted)
    assert submitted.urb.setup == SetupPacket.get_descriptor(1, 0, 18)
    server.side.complete_urb(7, 10, UrbResult(UrbStatus.OK, bytes(18), 18))
    server.take()
    assert server.completion().data == bytes(18)
    server.say(FIRST, RAW["select_configuration"])
    assert server.saw(ConfigurationRequested) == [ConfigurationRequested(7, 1)]
    assert [e.interface for e in server.saw(ClaimRequested)] == [0, 1, 2]
    result = settings.ConfigurationResult.parse(server.completion().result)
    assert [len(i.pipes) for i in result.interfaces] == [2, 1, 0]
    select = bytearray(RAW["select_interface"])
    server.say(FIRST, bytes(select))
    assert server.saw(AlternateRequested) == [AlternateRequested(7, 2, 1)]
    setting = settings.InterfaceResult.parse(server.completion().result)
    assert [p.address for p in setting.pipes] == [0x84, 0x05]
    server.say(FIRST, RAW["deconfigure"])
    assert server.saw(ConfigurationRequested)[-1].value == 0


def test_transfers_have_the_type_of_their_endpoint() -> None:
    server = Server(INFO)
    server.use()
    server.ask(bulk(1, 0x81, 64))
    server.ask(bulk(2, 0x02, 3, b"abc"))
    server.ask(bulk(3, 0x83, 8))
    kinds = [e.urb.type for e in server.saw(UrbSubmitted)]
    assert kinds == [TransferType.BULK, TransferType.BULK, TransferType.INTERRUPT]
    server.side.complete_urb(7, 2, UrbResult(UrbStatus.OK, b"", 3))
    server.take()
    assert (server.completion().size, server.completion().data) == (3, None)
    server.side.complete_urb(7, 1, UrbResult(UrbStatus.STALL))
    server.take()
    assert (server.completion().usbd, server.completion().data) == (0xC0000004, None)


@pytest.mark.parametrize(
    ("handle", "data", "size"), [(0x8F, None, 8), (0x81, b"x", 1), (0x02, None, 8)]
)
def test_a_pipe_that_does_not_fit(handle: int, data: bytes | None, size: int) -> None:
    server = Server(INFO)
    server.use()
    server.ask(bulk(1, handle, size, data))
    assert server.completion().hresult == urbs.HResult.INVALID
    assert server.saw(UrbSubmitted) == []


def test_isochronous_transfers_and_those_that_want_no_completion() -> None:
    server = Server(INFO)
    server.use()
    server.say(FIRST, RAW["select_interface"])
    iso = isochronous.Iso(0x84, (16, 16), 7).serialize()
    server.ask(Transfer(UrbFunction.ISOCH_TRANSFER, 1, iso, 32))
    packets = (IsoPacket(2), IsoPacket(0, UrbStatus.CRC))
    result = UrbResult(UrbStatus.OK, b"ab", 2, packets)
    server.side.complete_urb(7, 1, result)
    server.take()
    _, found = isochronous.parse_result(server.completion().result, (16, 16))
    assert [p for _, p in found] == list(packets)
    mute = isochronous.Iso(0x05, (4, 4), 4).serialize()
    server.ask(Transfer(UrbFunction.ISOCH_TRANSFER, 2, mute, 8, bytes(8), True))
    said = len(server.said)
    server.side.complete_urb(7, 2, UrbResult(UrbStatus.OK, b"", 8, packets))
    server.take()
    assert len(server.said) == said
    server.ask(bulk(3, 0x84, 8))  # not a transfer of packets
    assert server.completion().hresult == urbs.HResult.INVALID


def test_a_cancelled_isochronous_transfer_tells_of_each_packet() -> None:
    server = Server(INFO)
    server.use()
    server.say(FIRST, RAW["select_interface"])
    iso = isochronous.Iso(0x84, (16, 16), 7).serialize()
    server.ask(Transfer(UrbFunction.ISOCH_TRANSFER, 1, iso, 32))
    server.side.complete_urb(7, 1, UrbResult(UrbStatus.CANCELLED))
    server.take()
    _, found = isochronous.parse_result(server.completion().result, (16, 16))
    assert [p for _, p in found] == [IsoPacket(0, UrbStatus.CANCELLED)] * 2


def test_whatever_a_server_asks_first_opens_the_device() -> None:
    server = Server(INFO)
    server.bind()
    server.say(FIRST, RAW["get_device_descriptor"])
    server.say(FIRST, RAW["register_request_callback"])
    server.say(FIRST, RAW["get_string_descriptor"])
    wanted = [OpenRequested, UrbSubmitted, UrbSubmitted]
    assert [type(e) for e in server.seen[-3:]] == wanted
    assert len(server.saw(OpenRequested)) == 1


@pytest.mark.parametrize("size", [0, 3, 11, 12, 27])
def test_a_transfer_that_is_cut_short_ends_its_device(size: int) -> None:
    server = Server(INFO)
    server.use()
    server.say(FIRST, RAW["get_device_descriptor"][:size])
    assert server.closed == [FIRST]
    what = f"transfer of {size - 12} bytes" if size >= 12 else "message of"
    assert what in server.saw(Ignored)[-1].reason


@pytest.mark.parametrize(
    ("function", "size"),
    [
        (UrbFunction.BULK_OR_INTERRUPT_TRANSFER, 7),
        (UrbFunction.BULK_OR_INTERRUPT_TRANSFER, 9),
        (UrbFunction.ABORT_PIPE, 3),
        (UrbFunction.SYNC_RESET_PIPE, 5),
    ],
)
def test_a_body_of_another_size_ends_its_device(function: int, size: int) -> None:
    server = Server(INFO)
    server.use()
    server.ask(Transfer(function, 1, bytes(size), 0))
    assert server.closed == [FIRST]
    assert f"a body of {size} bytes" in server.saw(Ignored)[-1].reason


@pytest.mark.parametrize(
    ("function", "body", "why"),
    [
        (Call.CANCEL, bytes(3), "to cancel or to retract of 3 bytes"),
        (Call.RETRACT, bytes(5), "to cancel or to retract of 5 bytes"),
        (0x108, b"", "function 0x108 is not known"),
    ],
)
def test_a_request_that_makes_no_sense_ends_its_device(
    function: int, body: bytes, why: str
) -> None:
    server = Server(INFO)
    server.use()
    server.call(function, body)
    assert server.closed == [FIRST]
    assert why in server.saw(Ignored)[-1].reason


@pytest.mark.parametrize(
    ("interface", "mask", "why"),
    [(5, 0, "without a mask"), (6, messages.PROXY, "no device has the interface 6")],
)
def test_a_message_for_nobody_ends_its_device(
    interface: int, mask: int, why: str
) -> None:
    """Also if it were a transfer, were it for somebody."""
    server = Server(INFO)
    server.use()
    body = urbs.transfer(5, 3, bulk(1, 0x81, 8))[12:]
    message = messages.Message(interface, mask, 3, Call.TRANSFER_IN, body)
    server.say(FIRST, message.serialize())
    assert server.saw(UrbSubmitted) == []
    assert server.closed == [FIRST]
    assert why in server.saw(Ignored)[-1].reason


@pytest.mark.parametrize("more", [0, 1])
def test_a_transfer_is_as_large_as_a_message_may_be(more: int) -> None:
    """11: the answer would not fit otherwise."""
    server = Server(INFO)
    server.use()
    server.ask(bulk(1, 0x81, urbs.MAX_SIZE + more))
    assert len(server.saw(UrbSubmitted)) == 1 - more
    assert server.closed == [FIRST] * more


@pytest.mark.parametrize(
    ("function", "event"),
    [
        (UrbFunction.SYNC_RESET_PIPE_AND_CLEAR_STALL, ClearHaltRequested),
        (UrbFunction.SYNC_CLEAR_STALL, ClearHaltRequested),
        (UrbFunction.ABORT_PIPE, CancelRequested),
        (UrbFunction.SYNC_RESET_PIPE, None),
    ],
)
def test_pipes(function: int, event: type[Event] | None) -> None:
    server = Server(INFO)
    server.use()
    server.ask(bulk(1, 0x81, 64))
    server.ask(bulk(2, 0x83, 8))
    server.seen.clear()
    server.ask(Transfer(function, 3, urbs.PIPE.pack(0x81), 0))
    assert server.completion().usbd == 0
    assert [type(e) for e in server.seen] == ([event] if event else [])
    server.ask(Transfer(function, 4, urbs.PIPE.pack(0x8F), 0))
    assert server.completion().usbd == 0x80000300


def test_what_has_no_transfer_is_answered_at_once() -> None:
    server = Server(INFO)
    server.use()
    server.ask(Transfer(UrbFunction.GET_CURRENT_FRAME_NUMBER, 1, b"", 0))
    assert server.completion().result == struct.pack("<I", 1500)
    server.say(FIRST, RAW["os_feature_descriptor"])
    assert server.completion().usbd == urbs.NOT_SUPPORTED
    server.ask(Transfer(UrbFunction.CLOSE_STATIC_STREAMS, 2, urbs.PIPE.pack(1), 0))
    assert server.completion().usbd == urbs.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("io_control_reset_port", b""),
        ("io_control_get_port_status", b"\x03\0\0\0"),
        ("internal_io_control_bus_time", struct.pack("<I", 1500)),
    ],
)
def test_io_controls(name: str, output: bytes) -> None:
    server = Server(INFO)
    server.use()
    server.say(FIRST, RAW[name])
    _, message = server.said[-1]
    assert messages.IoCompletion.parse(message.body).output == output
    assert len(server.saw(ResetRequested)) == (name == "io_control_reset_port")


def test_io_controls_that_freerdp_does_not_know_either() -> None:
    """5.4: no reply."""
    server = Server(INFO)
    server.use()
    server.call(Call.IO_CONTROL, messages.IoControl(0x220424, 9, 64).serialize())
    assert server.said == []
    server.call(Call.IO_CONTROL, messages.IoControl(0x22001F, 9).serialize())
    assert len(server.said) == 1


def test_texts() -> None:
    server = Server(INFO)
    server.use()
    server.say(FIRST, RAW["query_device_text"])
    assert messages.TextResponse.parse(server.said[-1][1].body).text == "Disk"
    server.call(Call.QUERY_TEXT, messages.TextRequest(1).serialize())
    location = messages.TextResponse.parse(server.said[-1][1].body).text
    assert location == "Port_#0000.Hub_#0000"


def test_a_registration_of_nothing_completes_on_interface_0() -> None:
    """5.2."""
    server = Server(INFO)
    server.use()
    server.call(Call.REGISTER, bytes(4))
    server.ask(Transfer(UrbFunction.GET_CURRENT_FRAME_NUMBER, 1, b"", 0))
    assert server.said[-1][1].interface == 0


def test_cancelling_and_what_is_of_no_interest() -> None:
    server = Server(INFO)
    server.use()
    server.ask(bulk(40, 0x81, 64))
    server.say(FIRST, RAW["cancel_request"])
    server.call(Call.CANCEL, messages.CANCEL.pack(41))
    assert server.saw(CancelRequested) == [CancelRequested(7, 40)]
    server.say(FIRST, RAW["retract_device"])
    server.say(FIRST, RAW["query_interface_request"])
    server.say(FIRST, RAW["release_device"])
    server.say(FIRST, RAW["query_device_text_response_freerdp3"])
    assert server.closed == []
    server.side.complete_urb(7, 99, UrbResult(UrbStatus.OK))
    server.side.complete_urb(8, 40, UrbResult(UrbStatus.OK))


@pytest.mark.parametrize("how", ["open_failed", "device_lost"])
def test_a_device_that_does_not_work_closes_its_channel(how: str) -> None:
    server = Server(INFO)
    server.use()
    getattr(server.side, how)(7)
    getattr(server.side, how)(7)
    server.take()
    assert server.closed == [FIRST]
    assert server.saw(CloseRequested) == []


def test_a_channel_that_the_server_closes_gives_the_device_back() -> None:
    server = Server(INFO)
    server.use()
    server.side.channel_closed(FIRST)
    server.side.channel_closed(FIRST)
    server.take()
    assert server.saw(CloseRequested) == [CloseRequested(7)]
    server.side.channel_closed(CONTROL)
    server.side.channel_opened(9, "URBDRC", now=0)
    server.take()
    assert server.closed == [9]
    assert server.side.next_deadline() is None
    server.side.handle_deadline(5)


def test_configurations_that_make_no_sense_are_refused() -> None:
    """13: as mstsc refuses them."""
    server = Server(INFO)
    server.bind()
    server.say(FIRST, RAW["register_request_callback"])
    twice = (settings.Interface(0, 0, (512, 512)),) * 2
    for interfaces in (twice, (settings.Interface(9, 0, ()),)):
        body = settings.Configuration(interfaces, CONFIGURATION).serialize()
        server.ask(Transfer(UrbFunction.SELECT_CONFIGURATION, 1, body, 0))
        assert server.completion().hresult == urbs.HResult.INVALID
    setting = settings.InterfaceSelection(1, settings.Interface(0, 0, ())).serialize()
    server.ask(Transfer(UrbFunction.SELECT_INTERFACE, 2, setting, 0))
    assert server.completion().hresult == urbs.HResult.INVALID
    assert server.saw(ConfigurationRequested) == []


def test_more_transfers_than_anybody_needs_are_ignored() -> None:
    server = Server(INFO)
    server.use()
    for number in range(MAX_URBS + 1):
        server.ask(bulk(number, 0x81, 8))
    server.ask(bulk(0, 0x81, 8))
    assert len(server.saw(UrbSubmitted)) == MAX_URBS
    assert len(server.saw(Ignored)) == 2
