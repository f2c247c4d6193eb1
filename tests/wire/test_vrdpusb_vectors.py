"""Every message of the vectors, read and written by the core that should.

``tests/vectors/vrdpusb.json``: vrdpusb.md, section 6.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from rusb.rdp.events import ChannelData
from rusb.rdp.events import Event as RdpEvent
from rusb.rdp.svc import HEADER, ChannelReceiver, ChannelSender
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire.base import Event, Ignored, Side
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide
from tests.support.rows import Test, each_row
from tests.support.vectors import load_vectors
from tests.support.wire.joined import messages
from tests.support.wire.vrdp import (
    CHANNEL,
    ID,
    device_list,
    entry,
    make_device,
    make_guest,
    message,
    negotiate_reply,
    submit,
)

Vector = dict[str, Any]
Fields = dict[str, Any]

VECTORS = load_vectors("vrdpusb")
MESSAGES = [v for v in VECTORS if v["fields"]["layer"] == "message"]
CHUNKS = [v for v in VECTORS if v["fields"]["layer"] == "chunk"]
TO_CLIENT = [v for v in MESSAGES if v["direction"] == "s2c"]
TO_SERVER = [v for v in MESSAGES if v["direction"] == "c2s"]

STATUSES = {0: UrbStatus.OK, 1: UrbStatus.STALL, 3: UrbStatus.CRC}
STATUSES |= {8: UrbStatus.OVERFLOW, 9: UrbStatus.UNDERRUN}
KINDS = {4: TransferType.CONTROL, 2: TransferType.BULK, 3: TransferType.INTERRUPT}
SPEEDS = {1: Speed.LOW, 2: Speed.FULL, 3: Speed.HIGH, 4: Speed.HIGH, 5: Speed.SUPER}


def each(vectors: list[Vector]) -> Callable[[Test], Test]:
    return each_row("vector", vectors, ids=lambda v: v["name"])


def raw(vector: Vector) -> bytes:
    return bytes.fromhex(vector["hex"])


def feed(side: Side, data: bytes) -> tuple[list[Event], list[str]]:
    """Give a core one message; return its events and what it sends."""
    side.receive_data(CHANNEL, data, now=1)
    return side.events(), [m.hex() for m in messages(side)]


def device_of(vector: Vector) -> VrdpUsbDeviceSide:
    """A client that is in the state in which this message makes sense."""
    fields = vector["fields"]
    number = fields.get("id", ID)
    device = make_device(number, is_open=fields["code"] != 0)
    if fields["code"] == 10:
        feed(device, submit(fields["handle"], number=number))
    return device


def urb_of_submit(fields: Fields) -> Urb:
    """The URB that a SUBMIT_URB describes; its id is the handle."""
    data = bytes.fromhex(fields["data"])
    is_in = fields["direction"] == 1
    setup = SetupPacket.parse(data[:8]) if fields["type"] == 4 else None
    head = 8 if setup else 0
    return Urb(
        fields["handle"],
        KINDS[fields["type"]],
        fields["endpoint"] | (0x80 if is_in else 0),
        fields["urb_len"] - head,
        b"" if is_in else data[head:],
        setup,
    )


def urb_of_result(vector: Vector, result: Fields) -> Urb:
    """A URB that such a result may answer."""
    is_in = result["urb_direction"] == 1
    data = bytes.fromhex(result["data"])
    if "control" in vector["name"]:
        setup = SetupPacket.parse(data[:8]) if is_in else None
        size = max(result["len"] - 8, 0)
        setup = setup or SetupPacket(0x21, 0x20, 0, 0, size)
        return Urb.control(result["handle"], setup, b"" if is_in else bytes(size))
    size = 1 << 20 if is_in else result["len"]
    body = b"" if is_in else bytes(size)
    endpoint = 0x81 if is_in else 0x01
    return Urb(result["handle"], TransferType.BULK, endpoint, size, body)


def start(guest: VrdpUsbGuestSide, number: int, urb: Urb) -> None:
    """Submit a URB so that its handle is its id."""
    guest._last_handle = urb.id - 1
    guest.submit_urb(number, urb, now=0)


def guest_of(vector: Vector) -> VrdpUsbGuestSide:
    """A server that is in the state in which this message makes sense."""
    fields = vector["fields"]
    if fields["code"] == 12:
        guest = VrdpUsbGuestSide()
        guest.channel_opened(CHANNEL, "vrdpusb", now=0)
        guest.outputs()
        return guest
    if fields["code"] == 11:
        return make_guest(client_flags=int(fields["extended"]))
    records = fields.get("results", [fields])
    guest = make_guest(*dict.fromkeys(r["id"] for r in records))
    for result in fields.get("results", ()):
        start(guest, result["id"], urb_of_result(vector, result))
    guest.outputs()
    return guest


# ------------------------------------------------------ server to client ----


def expected_of_client(fields: Fields) -> tuple[list[Event], int]:
    """Events of the client, and how many messages it answers."""
    number = fields.get("id", ID)
    match fields["code"]:
        case 0:
            return [wire.OpenRequested(number)], 0
        case 1:
            return [wire.CloseRequested(number)], 0
        case 2:
            return [wire.ResetRequested(number)], 0
        case 3:
            return [wire.ConfigurationRequested(number, fields["configuration"])], 0
        case 4:
            return [wire.ClaimRequested(number, fields["interface"])], 0
        case 5:
            return [wire.ReleaseRequested(number, fields["interface"])], 0
        case 6:
            values = fields["interface"], fields["alternate"]
            return [wire.AlternateRequested(number, *values)], 0
        case 7:
            return [wire.UrbSubmitted(number, urb_of_submit(fields))], 0
        case 9:
            return [wire.ClearHaltRequested(number, fields["endpoint"])], 0
        case 10:
            return [wire.CancelRequested(number, fields["handle"])], 0
        case 11:
            return [wire.DevicesRequested()], 0
        case 12:
            version = min(fields["version"], 3)
            return [wire.Negotiated(version, fields["server_flags"])], 1
        case _:
            return [], 0


@each(TO_CLIENT)
def test_the_client_reads(vector: Vector) -> None:
    device = device_of(vector)
    if vector["fields"]["code"] == 12:
        device = VrdpUsbDeviceSide()
        device.channel_opened(CHANNEL, "vrdpusb", now=0)
    events, sent = feed(device, raw(vector))
    assert (events, len(sent)) == expected_of_client(vector["fields"])


def write_as_server(fields: Fields) -> list[bytes]:
    """What our server sends to say the same."""
    number = fields.get("id", ID)
    guest = make_guest(number)
    match fields["code"]:
        case 0:
            guest.close_device(number)
            guest.outputs()
            guest.open_device(number)
        case 1:
            guest.close_device(number)
        case 2:
            guest.reset_device(number)
        case 3:
            guest.set_configuration(number, fields["configuration"])
        case 4:
            guest.claim_interface(number, fields["interface"])
        case 5:
            guest.release_interface(number, fields["interface"])
        case 6:
            guest.set_interface(number, fields["interface"], fields["alternate"])
        case 7:
            start(guest, number, urb_of_submit(fields))
        case 8:
            feed(guest, message(12, b"\1"))
            start(guest, number, Urb(1, TransferType.BULK, 0x81, 8))
            guest.outputs()
            guest.handle_deadline(2.0)
        case 9:
            guest.clear_halt(number, fields["endpoint"])
        case 10:
            urb = Urb(fields["handle"], TransferType.BULK, 0x81, 8)
            start(guest, number, urb)
            guest.outputs()
            guest.cancel_urb(number, urb.id)
        case 11:
            guest.handle_deadline(2.0)
        case 12:
            guest.channel_closed(CHANNEL)
            guest.channel_opened(CHANNEL, "vrdpusb", now=0)
    return messages(guest)


def is_said_by_our_server(vector: Vector) -> bool:
    fields = vector["fields"]
    if fields["code"] == 12:
        return bool(fields["version"] == 3 and fields["server_flags"] == 1)
    return fields["code"] != 4 or "interface_copy" in fields  # C4


@each([v for v in TO_CLIENT if is_said_by_our_server(v)])
def test_the_server_writes(vector: Vector) -> None:
    assert [m.hex() for m in write_as_server(vector["fields"])] == [vector["hex"]]


# ------------------------------------------------------ client to server ----


def info_of(fields: Fields) -> DeviceInfo:
    """What an entry of a list says (vrdpusb.md 4.2)."""
    by_version = {3: Speed.SUPER, 2: Speed.HIGH}.get(fields["bcd_usb"] >> 8, Speed.FULL)
    speed = fields.get("speed")
    return DeviceInfo(
        id=fields["id"],
        vendor_id=fields["vendor"],
        product_id=fields["product"],
        bcd_device=fields["bcd_rev"],
        bcd_usb=fields["bcd_usb"],
        device_class=fields["dev_class"],
        device_subclass=fields["dev_subclass"],
        device_protocol=fields["dev_protocol"],
        manufacturer=fields["manufacturer"],
        product=fields["product_name"],
        serial=fields["serial"],
        speed=by_version if speed is None else SPEEDS.get(speed, Speed.FULL),
        port=fields["port"],
        remote=True,
    )


def expected_of_server(fields: Fields) -> list[Event]:
    match fields["code"]:
        case 12:
            version, flags = fields.get("version", 1), fields["flags"]
            if not 1 <= version <= 3:  # S12
                error = f"unsupported remote USB version {version}"
                return [wire.Negotiated(0, flags, error)]
            return [wire.Negotiated(version, flags)]
        case 11:
            listed = tuple(info_of(d) for d in fields["devices"])
            return [wire.DevicesListed(listed)] if listed else []
        case 8:
            return [e for r in fields["results"] for e in expected_completion(r)]
        case 10:
            return [Ignored("message with code 10")]
        case code if fields["status"]:
            names = {0: "open", 2: "reset", 3: "set_configuration"}
            names |= {4: "claim_interface", 5: "release_interface"}
            name = (names | {6: "set_interface", 9: "clear_halt"})[code]
            removed = fields["status"] == 2
            return [wire.DeviceFailed(fields["id"], name, removed)]
        case _:
            return []


def expected_completion(result: Fields) -> list[Event]:
    """The completion of the URB that :func:`urb_of_result` makes."""
    is_in = result["urb_direction"] == 1
    if is_in and result["flags"] & 2 and not result["error"]:
        return []
    status = STATUSES.get(result["error"], UrbStatus.NO_DEVICE)
    data = bytes.fromhex(result["data"])
    length = result["len"]
    if result.get("is_control"):
        data, length = data[8:], max(length - 8, 0)
    done = UrbResult(status, data, length)
    return [wire.UrbCompleted(result["id"], result["handle"], done)]


@each(TO_SERVER)
def test_the_server_reads(vector: Vector) -> None:
    fields = vector["fields"]
    for result in fields.get("results", ()):
        result["is_control"] = "control" in vector["name"]
    events, sent = feed(guest_of(vector), raw(vector))
    assert events == expected_of_server(fields)
    is_agreed = fields["code"] == 12 and 1 <= fields.get("version", 1) <= 3
    assert sent == ([message(11).hex()] if is_agreed else [])


def write_as_client(vector: Vector) -> list[bytes]:
    """What our client sends to say the same."""
    fields = vector["fields"]
    match fields["code"]:
        case 12:
            device = VrdpUsbDeviceSide()
            device.channel_opened(CHANNEL, "vrdpusb", now=0)
            flags = fields.get("client_flags", 0)
            offer = struct.pack("<HH", fields.get("version", 1), flags)
            device.receive_data(CHANNEL, message(12, offer), now=0)
        case 11:
            device = make_device(flags=int(fields["extended"]))
            feed(device, message(11))
            device.announce([info_of(d) for d in fields["devices"]])
        case 8:
            (result,) = fields["results"]
            device = make_device(result["id"])
            complete(device, vector, result)
        case code:
            device = make_device(fields["id"], is_open=False)
            opening = message(0, struct.pack("<I", fields["id"]))
            if fields["status"] == 2:
                device.device_lost(fields["id"])
            elif code == 0:
                feed(device, opening)
                device.open_failed(fields["id"])
            if code or fields["status"] == 2:
                feed_only(
                    device, message(code, struct.pack("<IBB", fields["id"], 0, 0))
                )
    return messages(device)


def feed_only(side: Side, data: bytes) -> None:
    side.receive_data(CHANNEL, data, now=1)


def complete(device: VrdpUsbDeviceSide, vector: Vector, result: Fields) -> None:
    """Have a URB of the right shape submitted, and answer it."""
    urb = urb_of_result(vector, result)
    payload = (urb.setup.serialize() if urb.setup else b"") + bytes(urb.data)
    feed(
        device,
        submit(
            urb.id,
            payload,
            number=result["id"],
            kind=4 if urb.setup else 2,
            direction=result["urb_direction"],
            urb_len=urb.length + (8 if urb.setup else 0),
        ),
    )
    back = STATUSES | {2: UrbStatus.NO_DEVICE}
    data = bytes.fromhex(result["data"])[8 if urb.setup else 0 :]
    length = max(result["len"] - (8 if urb.setup else 0), 0)
    answer = UrbResult(back[result["error"]], data, length)
    device.complete_urb(result["id"], urb.id, answer)


def is_said_by_our_client(vector: Vector) -> bool:
    """Not what only other clients say: C1, C2, C5, C18, S13, POLL, fragments."""
    fields = vector["fields"]
    match fields["code"]:
        case 12:
            return fields["flags"] in (0, 2, 6)
        case 11:
            return bool(fields["terminator"] and not fields["trailing_zero_bytes"])
        case 8:
            return [r["flags"] for r in fields["results"]] == [1]
        case code:
            is_legacy = fields.get("length_field_is_wrong", False)
            return code != 10 and fields["status"] != 0 and not is_legacy


@each([v for v in TO_SERVER if is_said_by_our_client(v)])
def test_the_client_writes(vector: Vector) -> None:
    assert [m.hex() for m in write_as_client(vector)] == [vector["hex"]]


# ---------------------------------------------------------- the wrong size ----


def reader_of(vector: Vector) -> Side:
    return device_of(vector) if vector["direction"] == "s2c" else guest_of(vector)


@each(MESSAGES)
def test_a_message_that_is_cut_is_ignored(vector: Vector) -> None:
    data, side = raw(vector), reader_of(vector)
    for size in range(len(data)):
        events, sent = feed(side, data[:size])
        assert [type(e) for e in events] == [Ignored]
        assert sent == []


@each(MESSAGES)
def test_surplus_bytes_change_nothing(vector: Vector) -> None:
    """1.3: the body is everything received."""
    data = raw(vector)
    expected = feed(reader_of(vector), data)
    assert feed(reader_of(vector), data + bytes(3)) == expected
    longer = struct.pack("<I", len(data) - 1) + data[4:] + bytes(3)
    assert feed(reader_of(vector), longer) == expected


@each(MESSAGES)
def test_a_message_of_the_other_direction_does_no_harm(vector: Vector) -> None:
    """T20."""
    to_client = vector["direction"] == "s2c"
    side: Side = make_guest(ID) if to_client else make_device(ID)
    events, sent = feed(side, raw(vector))
    assert all(isinstance(e, wire.Event) for e in events)
    assert len(sent) <= 1


# ------------------------------------------------------------ conversations ----

PAIRS = [
    (question, answer)
    for question in TO_CLIENT
    for answer in TO_SERVER
    if question["fields"]["code"] == 7
    and [r["handle"] for r in answer["fields"].get("results", ())]
    == [question["fields"]["handle"]]
]


def pair_name(pair: tuple[Vector, Vector]) -> str:
    return str(pair[0]["name"])


@pytest.mark.parametrize("pair", PAIRS, ids=pair_name)
def test_both_ends_agree_on_a_transfer(pair: tuple[Vector, Vector]) -> None:
    question, answer = pair
    number = question["fields"]["id"]
    urb = urb_of_submit(question["fields"])
    guest, device = make_guest(number), make_device(number)
    start(guest, number, urb)
    (sent,) = messages(guest)
    assert sent == raw(question)
    (submitted,), _ = feed(device, sent)
    assert submitted == wire.UrbSubmitted(number, urb)

    (result,) = answer["fields"]["results"]
    head = 8 if urb.setup else 0
    data = bytes.fromhex(result["data"])[head if urb.is_in else 0 :]
    done = UrbResult(UrbStatus.OK, data, result["len"] - head)
    device.complete_urb(number, urb.id, done)
    (back,) = messages(device)
    assert back == raw(answer)
    assert feed(guest, back) == ([wire.UrbCompleted(number, urb.id, done)], [])


def test_fragments_make_one_result() -> None:
    """6.27."""
    first, second = (
        raw(v) for v in TO_SERVER if v["name"].startswith("result_fragment_")
    )
    guest = make_guest(ID)
    start(guest, ID, Urb(10, TransferType.BULK, 0x81, 64))
    guest.outputs()
    assert feed(guest, first) == ([], [])
    (done,), _ = feed(guest, second)
    assert isinstance(done, wire.UrbCompleted)
    assert bytes(done.result.data) == bytes(range(64))


def test_an_extended_list_needs_both_ends() -> None:
    """1.9: the form is not self-describing."""
    base, extended = entry(ID), entry(ID, speed=5)
    guest = make_guest(client_flags=1)
    (listed,), _ = feed(guest, device_list(extended))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].speed is Speed.SUPER
    feed(guest, negotiate_reply(2))
    (listed,), _ = feed(guest, device_list(base))
    assert isinstance(listed, wire.DevicesListed)
    assert listed.devices[0].speed is Speed.HIGH


# ------------------------------------------------------------------- chunks ----


def test_chunks_are_put_together() -> None:
    """1.2, 6.30."""
    whole = [v for v in CHUNKS if v["name"].startswith("chunk_")]
    events: list[RdpEvent] = []
    receiver = ChannelReceiver(CHANNEL, "vrdpusb", events)
    for vector in whole:
        data = raw(vector)
        receiver.receive(data, 0, 0, len(data), len(data))
    first, second = (e for e in events if isinstance(e, ChannelData))
    pattern = bytes((7 * i + 3) & 0xFF for i in range(2000))
    assert first.data == submit(
        13, pattern, endpoint=2, direction=2, urb_len=len(pattern)
    )
    assert second.data == negotiate_reply(1)


@each(CHUNKS)
def test_a_chunk_has_the_length_its_header_says(vector: Vector) -> None:
    fields, data = vector["fields"], raw(vector)
    total, flags = HEADER.unpack_from(data)
    assert (total, flags) == (fields["total_length"], fields["chunk_flags"])
    assert len(data) - HEADER.size == fields["chunk_payload_len"] <= 1600
    sender = ChannelSender(is_server=True, initiator=1002)
    pieces = sender.cut(CHANNEL, bytes(total))
    sizes = {len(piece) for piece in pieces[1::2]}
    assert fields["chunk_payload_len"] in sizes
    headers = [HEADER.unpack(piece[-HEADER.size :]) for piece in pieces[::2]]
    assert (total, flags) in headers
