"""Packets of usbredir as other programs make them (usbredir.md 19, 20)."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import RemoteProtocolError
from rusb.wire.usbredir import _codec as codec
from rusb.wire.usbredir._codec import Packet, Splitter, Type, endpoint_index

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "usbredir.json").read_text()
)
PACKETS = VECTORS["packets"]
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


@pytest.mark.parametrize("vector", PACKETS[4:], ids=lambda v: str(v["name"]))
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


def test_the_index_of_an_endpoint() -> None:
    for vector in VECTORS["endpoint_index"]:
        assert endpoint_index(vector["endpoint"]) == vector["index"]


@pytest.mark.parametrize(  # T30
    ("body", "is_right"),
    [
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
