"""Messages of MS-RDPEUSB as other programs make them (rdpeusb.md 17, 18)."""

import json
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import ParseError
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import IsoPacket, UrbStatus
from rusb.wire.base import Send
from rusb.wire.rdpeusb import RdpeusbDeviceSide, RdpeusbGuestSide, _messages, _urbs
from rusb.wire.rdpeusb import _isochronous as isochronous
from rusb.wire.rdpeusb import _settings as settings
from rusb.wire.rdpeusb._messages import Call, Done, Message
from rusb.wire.rdpeusb._requests import control, setup_of, typed
from rusb.wire.rdpeusb._urbs import Completion, Transfer, UrbFunction
from tests.support.rows import each_row

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "rdpeusb.json").read_text()
)
MESSAGES = {one["name"]: one for one in VECTORS["messages"]}
SAMPLES = {
    one["name"]: bytes.fromhex(one["hex"]) for one in VECTORS["published_samples"]
}
RAW = {name: bytes.fromhex(one["hex"]) for name, one in MESSAGES.items()} | SAMPLES

BODIES: dict[str, Any] = {
    "CHANNEL_CREATED": _messages.ChannelCreated,
    "ADD_DEVICE": _messages.AddDevice,
    "REGISTER_REQUEST_CALLBACK": _messages.Registration,
    "QUERY_DEVICE_TEXT": _messages.TextRequest,
    "QUERY_DEVICE_TEXT_RSP": _messages.TextResponse,
    "IO_CONTROL": _messages.IoControl,
    "INTERNAL_IO_CONTROL": _messages.IoControl,
    "IOCONTROL_COMPLETION": _messages.IoCompletion,
}
OTHERS = {  # what their senders do otherwise than we do
    "query_device_text_response_freerdp3": "no zero at the end",
    "iocontrol_completion_reset_freerdp2": "output that is not there",
    "completion_select_interface_freerdp2": "the function in the padding",
    "published_urb_completion": "the function in the padding",
}


def of(kind: str) -> list[str]:
    return [name for name, one in MESSAGES.items() if one["message"] == kind]


TRANSFERS = [*of("TRANSFER_IN_REQUEST"), *of("TRANSFER_OUT_REQUEST")]
TRANSFERS.append("published_transfer_in_bulk")
COMPLETIONS = [*of("URB_COMPLETION"), *of("URB_COMPLETION_NO_DATA")]
COMPLETIONS.append("published_urb_completion")


@each_row("name", RAW)
def test_the_head_of_a_message_both_ways(name: str) -> None:
    message = Message.parse(RAW[name])
    assert message.serialize() == RAW[name]
    fields = MESSAGES.get(name, {}).get("fields", {})
    if "mask" in fields:
        assert (message.interface, message.mask >> 30) == (
            *(fields["interface"], fields["mask"]),
        )
        assert message.id == fields["message_id"]
        assert message.function == fields.get("function", message.function)
    for size in range(8 if message.mask == _messages.STUB else 12):
        with pytest.raises(ParseError):
            Message.parse(RAW[name][:size])


@pytest.mark.parametrize("name", [n for kind in BODIES for n in of(kind)])
def test_a_message_that_comes_once_both_ways(name: str) -> None:
    body = Message.parse(RAW[name]).body
    found = BODIES[MESSAGES[name]["message"]].parse(body)
    if name in OTHERS:
        again = type(found).parse(found.serialize())
        assert again == found
    else:
        assert found.serialize() == body
    for size in range(len(body)):
        if name != "iocontrol_completion_bus_time" or size < 16:
            with pytest.raises(ParseError):
                type(found).parse(body[:size])


def test_what_add_device_says() -> None:
    for name in ("add_device_freerdp", "add_device_windows_style"):
        fields = MESSAGES[name]["fields"]
        found = _messages.AddDevice.parse(Message.parse(RAW[name]).body)
        assert (found.device, found.instance) == (fields["dev"], fields["inst"])
        assert (list(found.hardware), list(found.compatible)) == (
            *(fields["hw"], fields["compat"]),
        )
        assert found.container == fields["cont"]
        assert (found.bcd_usb, found.jitter) == (fields["caps"][2], fields["caps"][5])


def test_a_device_without_ids() -> None:
    bare = _messages.AddDevice(0, "", (), (), "", 0x300, False, 0)
    assert _messages.AddDevice.parse(bare.serialize()) == bare


def test_a_registration_of_nothing() -> None:
    none = _messages.Registration(None)
    assert none.serialize() == bytes(4)
    assert _messages.Registration.parse(bytes(4)) == none


@each_row("name", TRANSFERS)
def test_a_transfer_both_ways(name: str) -> None:
    message = Message.parse(RAW[name])
    is_out = message.function == Call.TRANSFER_OUT
    urb = _urbs.parse_transfer(RAW[name], is_out=is_out)
    assert _urbs.transfer(message.interface, message.id, urb) == RAW[name]
    fields = MESSAGES.get(name, {}).get("fields") or {}
    if fields:
        assert (urb.function, urb.request) == (
            *(fields["urb_function"], fields["request"]),
        )
        assert urb.no_ack == bool(fields["no_ack"])
    for size in range(len(RAW[name])):
        with pytest.raises(ParseError):
            _urbs.parse_transfer(RAW[name][:size], is_out=is_out)
    with pytest.raises(ParseError):
        _urbs.parse_transfer(RAW[name] + b"x", is_out=is_out)


@each_row("name", COMPLETIONS)
def test_a_completion_both_ways(name: str) -> None:
    message = Message.parse(RAW[name])
    has_data = message.function == Done.URB
    done = _urbs.parse_completion(RAW[name], has_data=has_data)
    made = _urbs.completion(message.interface, message.id, done)
    if name in OTHERS or name.endswith("_freerdp2"):
        made = made[:22] + RAW[name][22:24] + made[24:]
    assert made == RAW[name]
    fields = MESSAGES.get(name, {}).get("fields")
    if fields:
        assert (done.request, done.usbd, done.hresult) == (
            *(fields["request"], fields["usbd_status"], fields["hresult"]),
        )
        data = fields.get("output_buffer")
        assert done.data == (None if data is None else bytes.fromhex(data))
    for size in range(len(RAW[name])):
        with pytest.raises(ParseError):
            _urbs.parse_completion(RAW[name][:size], has_data=has_data)
    with pytest.raises(ParseError):
        _urbs.parse_completion(RAW[name] + b"x", has_data=has_data)


@pytest.mark.parametrize(
    ("where", "word", "is_cut", "text"),
    [
        (12, 16, True, "of 15 bytes"),
        (12, 15, False, "TS_URB of 16 bytes in 15, have 20"),
        (12, 17, False, "TS_URB of 16 bytes in 17, have 20"),
        (32, 3, False, "transfer of 3 bytes, have 0"),
    ],
)
def test_what_a_transfer_has_is_counted(
    where: int, word: int, is_cut: bool, text: str
) -> None:
    """In what is logged of a bad one: 20 bytes of TS_URB and OutputBufferSize."""
    urb = Transfer(UrbFunction.BULK_OR_INTERRUPT_TRANSFER, 9, bytes(8), 0)
    message = bytearray(_urbs.transfer(5, 77, urb))
    assert len(message) == 36
    message[where : where + 2] = word.to_bytes(2, "little")
    with pytest.raises(ParseError, match=text):
        _urbs.parse_transfer(bytes(message[: 27 if is_cut else 36]), is_out=True)


@pytest.mark.parametrize(
    ("where", "word", "size", "text"),
    [
        (16, 8, 35, "completion of 23 bytes"),
        (16, 7, 38, "result of 8 bytes in 7, have 18"),
        (16, 9, 38, "result of 8 bytes in 9, have 18"),
        (32, 3, 38, "completion with 3 bytes, have 2"),
    ],
)
def test_what_a_completion_has_is_counted(
    where: int, word: int, size: int, text: str
) -> None:
    """Likewise: 18 bytes of a result, HResult, OutputBufferSize, and two of data."""
    message = bytearray(_urbs.completion(0x10, 0, Completion(9, size=2, data=b"ab")))
    assert len(message) == 38
    message[where : where + 2] = word.to_bytes(2, "little")
    with pytest.raises(ParseError, match=text):
        _urbs.parse_completion(bytes(message[:size]), has_data=True)


def transfer_of(name: str) -> Transfer:
    is_out = Message.parse(RAW[name]).function == Call.TRANSFER_OUT
    return _urbs.parse_transfer(RAW[name], is_out=is_out)


@pytest.mark.parametrize("name", ["select_configuration", "deconfigure"])
def test_select_configuration_both_ways(name: str) -> None:
    urb, fields = transfer_of(name), MESSAGES[name]["fields"]["urb"]
    found = settings.Configuration.parse(urb.body)
    assert found.serialize() == urb.body
    descriptor = bytes.fromhex(fields["ConfigurationDescriptor"])
    assert (found.descriptor or b"") == descriptor
    assert [(i.number, i.alternate, list(i.pipes)) for i in found.interfaces] == [
        (
            i["InterfaceNumber"],
            i["AlternateSetting"],
            [p["MaximumPacketSize"] for p in i["Pipes"]],
        )
        for i in fields["Interfaces"]
    ]


def test_select_interface_both_ways() -> None:
    urb = transfer_of("select_interface")
    found = settings.InterfaceSelection.parse(urb.body)
    assert found.serialize() == urb.body
    assert (found.interface.number, found.interface.alternate) == (2, 1)
    for size in range(len(urb.body)):
        with pytest.raises(ParseError):
            settings.InterfaceSelection.parse(urb.body[:size])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("completion_select_configuration", settings.ConfigurationResult),
        ("completion_deconfigure", settings.ConfigurationResult),
        ("completion_select_interface", settings.InterfaceResult),
        ("completion_select_interface_freerdp2", settings.InterfaceResult),
    ],
)
def test_results_of_a_selection_both_ways(name: str, kind: Any) -> None:
    result = _urbs.parse_completion(RAW[name], has_data=False).result
    found = kind.parse(result)
    assert found.serialize() == result
    for size in range(len(result)):
        with pytest.raises(ParseError):
            kind.parse(result[:size])


@pytest.mark.parametrize("name", ["iso_in", "iso_out", "iso_out_no_ack"])
def test_isochronous_transfers_both_ways(name: str) -> None:
    urb, fields = transfer_of(name), MESSAGES[name]["fields"]["urb"]
    found = isochronous.Iso.parse(urb.body, urb.size)
    assert found.serialize() == urb.body
    assert found.handle == fields["PipeHandle"]
    assert found.lengths == (16,) * len(fields["IsoPacket"])


@pytest.mark.parametrize("lengths", [(8,), (0,), (4, 0, 4), (1,) * 1024])
def test_isochronous_packets_of_any_length_both_ways(lengths: tuple[int, ...]) -> None:
    body = isochronous.Iso(0x84, lengths, 7).serialize()
    found = isochronous.Iso.parse(body, sum(lengths))
    assert found == isochronous.Iso(0x84, lengths, 7)


def test_isochronous_results_both_ways() -> None:
    for name in of("URB_COMPLETION") + of("URB_COMPLETION_NO_DATA"):
        packets = MESSAGES[name]["fields"]["result"].get("IsoPacket")
        if packets is None:
            continue
        message = Message.parse(RAW[name])
        has_data = message.function == Done.URB
        done = _urbs.parse_completion(RAW[name], has_data=has_data)
        frame, found = isochronous.parse_result(done.result, (16,) * len(packets))
        assert frame == 0
        assert [[start, p.length] for start, p in found] == [p[:2] for p in packets]
        statuses = [UrbStatus.IO_ERROR if p[2] else UrbStatus.OK for p in packets]
        assert [p.status for _, p in found] == statuses
        made = isochronous.serialize_result(
            0, [IsoPacket(p.length, p.status) for _, p in found]
        )
        assert len(made) == len(done.result)
        if not any(p[2] for p in packets):
            assert made == done.result


def test_frame_number() -> None:
    done = _urbs.parse_completion(RAW["completion_frame_number"], has_data=False)
    assert int.from_bytes(done.result, "little") == 3838280


@each_row("one", VECTORS["setup_mapping"], ids=lambda one: one["title"])
def test_a_setup_packet_both_ways(one: dict[str, Any]) -> None:
    setup = SetupPacket.parse(bytes.fromhex(one["setup"]))
    data = bytes.fromhex(one["data"])
    made = []
    if one.get("typed") and one["typed_action"] == "urb":
        found = typed(setup)
        assert found is not None
        made.append((one["typed"], *found))
    if one.get("generic"):
        made.append((one["generic"], *control(setup, is_ex=True), not setup.direction))
    if one["typed_action"] == "generic":
        assert typed(setup) is None
    for vector, function, body, is_out in made:
        raw = bytes.fromhex(vector["hex"])
        number = Message.parse(raw).id
        urb = Transfer(
            *(function, vector["request"], body),
            *(len(data) if is_out else setup.length, data if is_out else None),
        )
        assert _urbs.transfer(5, number, urb) == raw
        assert setup_of(urb) == setup


@pytest.mark.parametrize("name", ["control_transfer", "vendor_other_out"])
def test_other_requests_both_ways(name: str) -> None:
    urb = transfer_of(name)
    setup = setup_of(urb)
    assert setup is not None
    if name == "control_transfer":
        assert control(setup, is_ex=False) == (urb.function, urb.body)
    else:
        assert typed(setup) == (urb.function, urb.body, True)


def test_numbers_of_functions_and_statuses() -> None:
    assert {f.name: f.value for f in UrbFunction} == VECTORS["urb_functions"]
    statuses = {
        "SUCCESS": UrbStatus.OK,
        "STALL_PID": UrbStatus.STALL,
        "ENDPOINT_HALTED": UrbStatus.STALL,
        "DATA_UNDERRUN": UrbStatus.OK,
        "ERROR_SHORT_TRANSFER": UrbStatus.OK,
        "DATA_OVERRUN": UrbStatus.OVERFLOW,
        "BUFFER_OVERRUN": UrbStatus.OVERFLOW,
        "BABBLE_DETECTED": UrbStatus.OVERFLOW,
        "CRC": UrbStatus.CRC,
        "TIMEOUT": UrbStatus.TIMEOUT,
        "DEVICE_GONE": UrbStatus.NO_DEVICE,
        "CANCELED": UrbStatus.CANCELLED,
        "INVALID_PARAMETER": UrbStatus.INVALID,
        "INVALID_PIPE_HANDLE": UrbStatus.INVALID,
        "NOT_SUPPORTED": UrbStatus.INVALID,
    }
    for name, number in VECTORS["usbd_status"].items():
        assert _urbs.status_of(number) is statuses.get(name, UrbStatus.IO_ERROR), name
    libusb = {
        "completed": UrbStatus.OK,
        "error": UrbStatus.IO_ERROR,
        "timed out": UrbStatus.TIMEOUT,
        "cancelled": UrbStatus.CANCELLED,
        "stall": UrbStatus.STALL,
        "no device": UrbStatus.NO_DEVICE,
        "overflow (babble)": UrbStatus.OVERFLOW,
    }
    found = VECTORS["freerdp_bulk_interrupt_iso_status"]
    assert {int(n): libusb[name] for n, name in found.items()} == {
        number: _urbs.status_of(number) for number in range(7)
    }
    assert _urbs.status_of(0, 0x80070057) is UrbStatus.INVALID
    assert _urbs.status_of(0, 0x8007001F) is UrbStatus.IO_ERROR
    assert _urbs.status_of(0xC0000004, 0x8007001F) is UrbStatus.STALL


def sent(side: RdpeusbGuestSide | RdpeusbDeviceSide, channel: int) -> list[bytes]:
    return [
        o.data for o in side.outputs() if isinstance(o, Send) and o.channel == channel
    ]


@pytest.mark.parametrize("is_guest", [True, False])
def test_the_handshake_of_the_session(is_guest: bool) -> None:
    """Each side says what the session says, until the device is there."""
    side = RdpeusbGuestSide() if is_guest else RdpeusbDeviceSide()
    ours = "server->client" if is_guest else "client->server"
    (session,) = VECTORS["sessions"]
    side.channel_opened(1, "URBDRC", now=0)
    said: dict[int, list[bytes]] = {1: [], 2: []}
    for step in session["steps"][: 14 if is_guest else 12]:
        channel, name = step["channel"], step["vector"]
        if channel == 2 and not said[2]:
            side.channel_opened(2, "URBDRC", now=0)
            said[2] += [b""]
        if step["direction"] == ours:
            if name == "add_virtual_channel":
                continue  # we have no device here
            said[channel] += sent(side, channel)
            assert RAW[name] in said[channel]
        else:
            side.receive_data(channel, RAW[name], now=0)
            if name == "add_virtual_channel":
                side.outputs()
