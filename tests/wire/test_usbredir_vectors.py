"""Packets of usbredir as other programs make them (usbredir.md 19, 20)."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import (
    DevicesListed,
    Ignored,
    Negotiated,
    ResetRequested,
    UrbCompleted,
    UrbSubmitted,
)
from rusb.wire.usbredir import UsbredirDeviceSide, UsbredirGuestSide
from rusb.wire.usbredir import _codec as codec
from rusb.wire.usbredir._codec import Packet, Splitter, Type, endpoint_index
from tests.support.rows import each_row
from tests.support.wire.joined import clear, messages
from tests.support.wire.redir import ISO_IN, ISO_OUT, Host, hello, live, packet

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "usbredir.json").read_text()
)
PACKETS = VECTORS["packets"]
RAW = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in PACKETS}
FOLLOWED_BY = {True: "reset", False: "device_disconnect"}


def splitter(caps: int, *, from_host: bool) -> Splitter:
    """A receiver that has negotiated *caps*."""
    made = Splitter(from_host=from_host, caps=0xFF)
    made.feed(struct.pack("<III64sI", 0, 68, 0, b"peer", caps))
    assert isinstance(made.next(), Packet)
    assert made.caps == caps
    return made


def whole(made: Splitter, data: bytes, piece: int) -> list[Packet | str]:
    found = []
    for start in range(0, len(data), piece):
        made.feed(data[start : start + piece])
        while (packet := made.next()) is not None:
            found.append(packet)
    return found


def numbers(fields: tuple[int | bytes, ...]) -> Iterator[int]:
    """The fields of a packet one by one, arrays too."""
    for field in fields:
        if isinstance(field, int):
            yield field
        else:
            size = len(field) // codec.ENDPOINTS
            for start in range(0, len(field), size):
                yield int.from_bytes(field[start : start + size], "little")


def flat(fields: dict[str, int | list[int]]) -> list[int]:
    """The fields of a vector one by one, arrays too."""
    return [
        number
        for value in fields.values()
        for number in (value if isinstance(value, list) else [value])
    ]


@each_row("vector", PACKETS[4:], ids=lambda v: str(v["name"]))
def test_a_packet_is_read_and_written_as_the_vector_says(
    vector: dict[str, Any],
) -> None:
    from_host = vector["direction"] == "host->guest"
    raw, caps = bytes.fromhex(vector["hex"]), vector["negotiated_caps_mask"]
    for piece in (len(raw) * 2, 1):
        made = splitter(caps, from_host=from_host)
        first, second = whole(made, raw + raw, piece)
        assert first == second
        assert isinstance(first, Packet)
        assert (first.type, first.id) == (vector["type"], vector["id"])
        assert bytes(first.data).hex() == vector["data"]
        assert list(numbers(first.fields)) == flat(vector["fields"])
        again = made.serialize(first.type, first.id, *first.fields, data=first.data)
        assert again == raw


def test_the_hello_of_other_programs() -> None:
    for vector in PACKETS[:4]:
        made = Splitter(from_host=vector["direction"] == "host->guest", caps=0xFF)
        made.feed(bytes.fromhex(vector["hex"]))
        packet = made.next()
        assert isinstance(packet, Packet)
        assert list(packet.fields) == vector["fields"]["capabilities"][:1]
        assert made.peer_version == vector["fields"]["version"]


@pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda v: str(v["name"]))
def test_a_bad_packet_is_skipped_and_the_next_one_read(vector: dict[str, Any]) -> None:
    from_host = vector["receiver"] == "guest"
    made = splitter(vector["negotiated_caps_mask"], from_host=from_host)
    (follower,) = (p for p in PACKETS if p["name"] == FOLLOWED_BY[not from_host])
    raw = bytes.fromhex(vector["hex"]) + bytes.fromhex(follower["hex"])
    why, packet = whole(made, raw, len(raw))
    assert isinstance(why, str)
    assert isinstance(packet, Packet)
    assert packet.type == follower["type"]


def test_the_bits_of_capabilities() -> None:
    assert list(codec.Cap) == [1 << n for n in VECTORS["capability_bits"].values()]


def test_the_index_of_an_endpoint() -> None:
    for vector in VECTORS["endpoint_index"]:
        assert endpoint_index(vector["endpoint"]) == vector["index"]


@pytest.mark.parametrize(  # T30
    ("body", "is_right"),
    [
        (struct.pack("<I128x", 0), True),  # of a device that is not configured
        (struct.pack("<I128x", 32), True),
        (struct.pack("<I128x", 33), False),
        (struct.pack("<I127x", 1), False),
        (struct.pack("<I129x", 1), False),
    ],
)
def test_interfaces_are_32_at_most(body: bytes, is_right: bool) -> None:
    made = splitter(0x7E, from_host=True)
    made.feed(struct.pack("<IIQ", Type.INTERFACE_INFO, len(body), 0) + body)
    assert isinstance(made.next(), Packet) == is_right


@pytest.mark.parametrize("size", [159, 161, 192, 288])  # T30
def test_endpoints_are_32_exactly(size: int) -> None:
    made = splitter(0x7E, from_host=True)
    made.feed(struct.pack("<IIQ", Type.EP_INFO, size, 0) + bytes(size))
    assert isinstance(made.next(), str)


@pytest.mark.parametrize(
    "length", [codec.MAX_LENGTH + 1, (128 << 20) - 1, (128 << 20) + 1, 0xFFFFFFFF]
)
def test_an_absurd_length_ends_the_stream_before_its_bytes_are_kept(  # T30
    length: int,
) -> None:
    made = splitter(0x7E, from_host=False)
    made.feed(struct.pack("<IIQ", Type.BULK, length, 1))
    with pytest.raises(RemoteProtocolError, match=f"packet of {length} bytes"):
        made.next()


def test_the_longest_packet_is_waited_for() -> None:
    made = splitter(0x7E, from_host=False)
    made.feed(struct.pack("<IIQ", Type.BULK, codec.MAX_LENGTH, 1))
    assert made.next() is None


@pytest.mark.parametrize("kind", [Type.START_BULK_RECEIVING, Type.ALLOC_STREAMS])
def test_what_was_not_negotiated_is_skipped(kind: int) -> None:  # T30
    made = splitter(0x7E, from_host=False)
    size = 10 if kind == Type.START_BULK_RECEIVING else 8
    made.feed(struct.pack("<IIQ", kind, size, 1) + bytes(size))
    assert made.next() == f"{Type(kind).name} without the capability for it"


@pytest.mark.parametrize("text", [b"", b"-1,-1,-1,-1,1", b"\0\xff", b"0x"])
def test_a_filter_without_its_end_is_skipped(text: bytes) -> None:  # T30
    made = splitter(0x7E, from_host=False)
    made.feed(struct.pack("<IIQ", Type.FILTER_FILTER, len(text), 0) + text)
    assert isinstance(made.next(), str)


# ------------------------------------------------------------ both cores ----


def endpoint(address: int, kind: int, size: int, interval: int) -> EndpointDescriptor:
    return EndpointDescriptor(address, kind, size, interval)


def device(
    speed: Speed,
    bcd_device: int,
    ids: tuple[int, int],
    *interfaces: InterfaceDescriptor,
) -> tuple[DeviceInfo, DeviceDescriptors]:
    descriptor = DeviceDescriptor(
        *(0x0200, 0, 0, 0, 64, *ids, bcd_device), manufacturer=1, product=2
    )
    configuration = ConfigurationDescriptor(1, 0xA0, 49, interfaces)
    info = DeviceInfo(1, *ids, speed=speed)
    return info, DeviceDescriptors(descriptor, (configuration,))


MOUSE_IN = endpoint(0x81, 3, 4, 10)
STICK_IN, STICK_OUT = endpoint(0x81, 2, 512, 0), endpoint(0x02, 2, 512, 0)
SPEAKER, MICROPHONE = endpoint(0x01, 1, 192, 1), endpoint(0x82, 1, 96, 1)
DEVICES = {
    "mouse": device(
        *(Speed.FULL, 0x7200, (0x046D, 0xC077)),
        InterfaceDescriptor(0, 0, 3, 1, 2, endpoints=(MOUSE_IN,)),
    ),
    "stick": device(
        *(Speed.HIGH, 0x0126, (0x0781, 0x5567)),
        InterfaceDescriptor(0, 0, 8, 6, 80, endpoints=(STICK_IN, STICK_OUT)),
    ),
    "headset": device(
        *(Speed.FULL, 0x0100, (0x1111, 0x2222)),
        InterfaceDescriptor(0, 0, 1, 1, 0),
        InterfaceDescriptor(1, 0, 1, 2, 0, endpoints=(SPEAKER,)),
        InterfaceDescriptor(2, 0, 1, 2, 0, endpoints=(MICROPHONE,)),
        InterfaceDescriptor(3, 0, 3, 0, 0, endpoints=(endpoint(0x83, 3, 16, 4),)),
    ),
}


def device_side(name: str, configuration: int = 1) -> UsbredirDeviceSide:
    """A device side that offers one of these; its hello is out."""
    info, descriptors = DEVICES[name]
    core = UsbredirDeviceSide(configuration)
    core.channel_opened(0, "", now=0)
    core.announce([info], {info.id: descriptors})
    clear(core)
    return core


def guest_side() -> UsbredirGuestSide:
    """A guest side whose hello is out."""
    core = UsbredirGuestSide()
    core.channel_opened(0, "", now=0)
    clear(core)
    return core


@pytest.mark.parametrize(
    ("name", "caps", "vectors"),
    [
        (
            *("mouse", 0x7E),
            ("interface_info_mouse", "ep_info_mouse_160", "device_connect_mouse"),
        ),
        ("mouse", 0, (None, "ep_info_mouse_96", "device_connect_mouse_no_version")),
        (
            *("stick", 0x1E),
            ("interface_info_stick_32bit_id", "ep_info_stick_32bit_id", None),
        ),
        ("stick", 0x7E, (None, None, "device_connect_stick")),
        ("headset", 0x7E, ("interface_info_headset", "ep_info_headset", None)),
    ],
)
def test_a_device_is_described_as_other_hosts_describe_it(
    name: str, caps: int, vectors: tuple[str | None, ...]
) -> None:
    core, guest = device_side(name), guest_side()
    core.receive_data(0, hello(caps), now=0)
    guest.receive_data(0, hello(caps), now=0)
    sent = messages(core)
    assert len(sent) == 3
    for message, vector in zip(sent, vectors, strict=True):
        assert vector is None or message == RAW[vector]
        guest.receive_data(0, message, now=0)
    (listed,) = [e for e in guest.events() if isinstance(e, DevicesListed)]
    info, descriptors = DEVICES[name]
    (seen,) = listed.devices
    assert (seen.vendor_id, seen.product_id) == (info.vendor_id, info.product_id)
    assert seen.speed is info.speed
    (configuration,) = descriptors.configurations
    assert guest.types == {
        e.address: e.transfer_type
        for i in configuration.interfaces
        for e in i.endpoints
    }


STEPS = [
    (step["direction"] == "host->guest", step["vector"])
    for step in VECTORS["sessions"][0]["steps"]
]


def test_the_device_side_of_a_session() -> None:
    """A mouse is attached, read and withdrawn, as another host does it."""
    core = device_side("mouse", configuration=0)
    core.channel_opened(0, "", now=0)  # its hello, with a text of our own
    wanted = [RAW[name] for is_host, name in STEPS if is_host]
    sent = messages(core)
    urbs: list[Urb] = []
    for is_host, name in STEPS:
        if is_host:
            continue
        if name == "device_disconnect_ack":
            core.device_lost(1)
        core.receive_data(0, RAW[name], now=0)
        events = core.events()
        urbs += [e.urb for e in events if isinstance(e, UrbSubmitted)]
        if name == "reset":
            assert ResetRequested(1) in events
        elif name == "start_interrupt_receiving":
            for urb, vector in zip(urbs, REPORTS, strict=False):
                report = bytes.fromhex(vector["data"])
                core.complete_urb(1, urb.id, UrbResult(UrbStatus.OK, report, 4))
        elif name == "control_in_request":
            (urb,) = urbs
            assert urb.setup == SetupPacket(0x80, 6, 0x0100, 0, 18)
            data = RAW["control_in_reply"][26:]
            core.complete_urb(1, urb.id, UrbResult(UrbStatus.OK, data, 18))
            urbs.clear()
        elif name == "set_configuration":
            (urb,) = urbs
            assert urb.setup == SetupPacket.set_configuration(1)
            core.complete_urb(1, urb.id, UrbResult(UrbStatus.OK))
            urbs.clear()
        sent += messages(core)
    assert (sent[0][:12], sent[0][-4:]) == (wanted[0][:12], wanted[0][-4:])
    assert sent[1][16:] == bytes(132)  # not configured yet: no interface
    assert sent[3:] == wanted[3:]


REPORTS = [v for v in PACKETS if v["name"].startswith("interrupt_in_packet_")]


def test_the_guest_side_of_a_session() -> None:
    """As QEMU does it; ids are our own, and answers repeat them."""
    core = guest_side()
    core.channel_opened(0, "", now=0)

    def ask(name: str) -> None:
        match name:
            case "reset":
                core.reset_device(1)
            case "control_in_request":
                urb = Urb.control(1, SetupPacket(0x80, 6, 0x0100, 0, 18))
                core.submit_urb(1, urb, now=0)
            case "set_configuration":
                urb = Urb.control(2, SetupPacket.set_configuration(1))
                core.submit_urb(1, urb, now=0)
            case "start_interrupt_receiving":
                for id in (3, 4):
                    core.submit_urb(1, Urb(id, TransferType.INTERRUPT, 0x81, 4), now=0)
            case "stop_interrupt_receiving":
                core.close_device(1)

    ids: dict[bytes, bytes] = {}
    for is_host, name in STEPS:
        if is_host:
            raw = RAW[name]
            if name.startswith(("control", "configuration")):
                raw = raw[:8] + ids[raw[8:16]] + raw[16:]
            core.receive_data(0, raw, now=0)
            continue
        ask(name)
        (sent,) = messages(core)
        wanted = RAW[name]
        if wanted[0]:  # else hello, with a text and capabilities of our own
            ids[wanted[8:16]] = sent[8:16]
            assert sent[:8] + sent[16:] == wanted[:8] + wanted[16:]
    done = [e for e in core.events() if isinstance(e, UrbCompleted)]
    assert [bytes(e.result.data) for e in done] == [
        *(RAW["control_in_reply"][26:], b""),
        *(bytes.fromhex(vector["data"]) for vector in REPORTS),
    ]


@pytest.mark.parametrize("from_host", [False, True], ids=["guests", "hosts"])
def test_what_was_agreed_on_is_taken_and_all_else_is_skipped(from_host: bool) -> None:
    """Our sides announce neither bulk streams nor buffered bulk input."""
    direction = "host->guest" if from_host else "guest->host"
    for vector in PACKETS[4:]:
        if vector["direction"] != direction or vector["id_bits"] != 64:
            continue
        core = guest_side() if from_host else device_side("headset")
        core.receive_data(0, hello(0xFF) + bytes.fromhex(vector["hex"]), now=0)
        skipped = [e for e in core.events() if isinstance(e, Ignored)]
        needs_more = vector["negotiated_caps_mask"] == 0xFF
        is_bulk = vector["name"] == "bulk_in_request_stream"
        assert bool(skipped) == (needs_more and not is_bulk), vector["name"]


@pytest.mark.parametrize(
    "vector",
    VECTORS["qemu_iso_stream_parameters"],
    ids=lambda v: f"{v['speed']}-{v['bInterval']}-{v['direction']}",
)
def test_a_stream_is_as_long_as_qemu_asks(vector: dict[str, Any]) -> None:  # 10
    packets, urbs = vector["pkts_per_urb"], vector["no_urbs"]
    is_in = vector["direction"] == "in"
    address = ISO_IN if is_in else ISO_OUT
    host = Host()
    host.send(packet(Type.START_ISO, 3, bytes((address, packets, urbs))))
    assert list(host.answers()) == [(Type.ISO_STATUS, 3, bytes((0, address)))]
    if not is_in:
        half = packets * urbs // 2
        host.send(*(live(Type.ISO, address, b"xy") for _ in range(half - 1)))
        assert host.urbs() == []
        host.send(live(Type.ISO, address, b"xy"))
    found = host.urbs()
    assert {len(urb.packets) for urb in found} == {packets}
    assert len(found) == (urbs if is_in else half // packets)


@each_row(
    "text",
    [
        *(vector["filter"] for vector in VECTORS["filter_results"]),
        *(vector["filter"] for vector in VECTORS["filter_syntax_errors"]),
    ],
)
@each_row("name", VECTORS["filter_devices"])
def test_a_guests_rules_are_its_own_to_apply(text: str, name: str) -> None:
    """It refuses what they forbid itself (6.3, 17); wrong ones bother nobody."""
    core = device_side(name if name in DEVICES else "stick")
    rules = packet(Type.FILTER_FILTER, 0, text.encode() + b"\0")
    core.receive_data(0, hello() + rules, now=0)
    assert core.events() == [Negotiated(1, 0x7E)]
    assert [m[0] for m in messages(core)] == [4, 5, 1]
