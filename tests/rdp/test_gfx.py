"""The graphics pipeline: what clients say, and what they are sent (display.md 10.3)."""

import struct

import numpy as np
import pytest

from rusb.errors import ParseError
from rusb.rdp.gfx import MAX_RESTARTS, Pipeline
from rusb.rdp.graphics.surfaces import Codec, Picture, Tile, encode_tiles
from rusb.rdp.graphics.updates import Damage, Encoder
from tests.support.amount import chance, inputs
from tests.support.rdp.pictures import (
    VECTORS,
    desktop,
    kinds,
    noise,
    vector_picture,
)
from tests.support.rdp.surfaces import (
    AVC_8_1,
    AVC_10,
    NO_AVC,
    GraphicsClient,
    advertise,
    unwrap,
)

WIRE = {
    name: bytes.fromhex(text)
    for name, text in VECTORS["surfaces"].items()
    if name != "origin"
}


def ready(width: int = 640, height: int = 480) -> Pipeline:
    """A pipeline on which pictures may be drawn; what came before is taken."""
    pipeline = Pipeline()
    pipeline.receive(AVC_8_1)
    pipeline.reset(width, height)
    pipeline.messages()
    return pipeline


def acknowledge(frame: int, depth: int = 0) -> bytes:
    return struct.pack("<HHIIII", 0x0D, 0, 20, depth, frame, frame)


def test_it_begins_with_what_the_vectors_have() -> None:
    pipeline = Pipeline()
    pipeline.receive(AVC_8_1)
    assert pipeline.is_ready
    assert pipeline.messages() == [WIRE["confirm"]]
    pipeline.reset(640, 480)
    (message,) = pipeline.messages()
    pdus = WIRE["reset"].ljust(340, b"\0") + WIRE["create"] + WIRE["map"]
    assert unwrap(message) == pdus


def test_a_frame_is_what_the_vectors_have() -> None:
    pipeline = ready()
    pixels = vector_picture()
    ((codec, body),) = encode_tiles(pixels[np.newaxis])
    pipeline.begin()
    pipeline.draw(Tile((8, 4, 24, 10), codec, body))
    pipeline.draw(Picture(0, (640, 480), (100, 100, 740, 580), b"H264"))
    pipeline.end()
    (message,) = pipeline.messages()
    pdus = unwrap(message)
    assert pdus.startswith(WIRE["start"] + WIRE["clear_head"] + WIRE["clear"])
    assert pdus.endswith(WIRE["copy"] + WIRE["end"])
    assert WIRE["avc_head"] + b"H264" in pdus


def test_planar_is_what_the_vectors_have() -> None:
    found = list(encode_tiles(noise(64, 64)[np.newaxis, :8, :8]))
    assert [codec for codec, _ in found] == [Codec.PLANAR]
    pixels = np.array([[[0x010203, 0x040506]]], np.uint32)
    client = GraphicsClient()
    assert client._planar(WIRE["planar"], 1, 2).tolist() == pixels[0].tolist()
    assert (
        found[0][1]
        == b"\x20"
        + client._planar(found[0][1], 8, 8)
        .astype(">u4")
        .view(np.uint8)
        .reshape(-1, 4)[:, 1:]
        .T.tobytes()
        + b"\0"
    )


CHOICES = {
    AVC_8_1: 0x00080105,
    AVC_10: 0x000A0002,
    NO_AVC: None,
    advertise(): None,
    advertise((0x00080105, 0x03)): None,
    advertise((0x000A0002, 0x22), (0x00080105, 0x10)): 0x00080105,
    advertise((0x000A0301, 0), (0x00080004, 0)): None,
}


@pytest.mark.parametrize("said", CHOICES, ids=range(len(CHOICES)))
def test_only_clients_with_avc420_get_it(said: bytes) -> None:
    pipeline = Pipeline()
    pipeline.receive(said)
    version = CHOICES[said]
    assert (pipeline.is_ready, pipeline.is_useless) == (bool(version), not version)
    messages = pipeline.messages()
    if version is None:
        assert messages == []
    else:
        assert unwrap(messages[0])[8:12] == version.to_bytes(4, "little")


@pytest.mark.parametrize(("width", "height"), [(640, 480), (801, 601), (70, 5)])
def test_a_client_draws_what_was_to_be_seen(width: int, height: int) -> None:
    frame = desktop(width, height)
    frame[:, width // 2 :] = noise(width, height)[:, width // 2 :]
    pipeline, client = Pipeline(), GraphicsClient()
    pipeline.receive(AVC_10)
    pipeline.reset(width, height)
    damage = Damage(width, height)
    damage.add_all()
    pipeline.begin()
    for tile in Encoder(frame, width, height).tiles(damage.take()):
        pipeline.draw(tile)
    pipeline.end()
    for message in pipeline.messages():
        client.receive(message)
    assert client.screen is not None
    assert np.array_equal(client.screen, frame[:height, :width])
    assert set(client.codecs) == {8, 10}


@pytest.mark.parametrize("seed", range(4))
def test_tiles_of_every_kind_come_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(n) for n in random.integers(1, 65, 2))
    tiles = kinds(width, height, seed)
    client = GraphicsClient()
    for number, (codec, body) in enumerate(encode_tiles(tiles | np.uint32(0x5A000000))):
        assert len(body) <= 2 + 3 * height * width
        if codec is Codec.CLEAR:
            body = bytes((0, client._next % 256)) + body
            found = client._clear(body, height, width)
        else:
            found = client._planar(body, height, width)
        assert np.array_equal(found, tiles[number])


def test_long_pictures_come_in_parts() -> None:
    pipeline = ready()
    pipeline.begin()
    pipeline.draw(Picture(1, (640, 480), (0, 0, 640, 480), bytes(200_000)))
    pipeline.end()
    small, large, *rest = pipeline.messages()
    assert large[:3] == b"\xe1\4\0"
    assert len(unwrap(large)) > 200_000
    assert all(m[0] == 0xE0 for m in (small, *rest))


def test_each_video_has_a_surface_that_goes_with_it() -> None:
    pipeline = ready()
    for stream in (1, 1, 2):
        pipeline.begin()
        pipeline.draw(Picture(stream, (64, 64), (0, 0, 64, 64), b"x"))
        pipeline.end()
    pipeline.reset(800, 600)
    pdus = b"".join(map(unwrap, pipeline.messages()))
    found, position = [], 0
    while position < len(pdus):
        kind, _, size = struct.unpack_from("<HHI", pdus, position)
        if kind in (0x09, 0x0A):
            found.append((kind, *struct.unpack_from("<H", pdus, position + 8)))
        position += size
    assert found == [(9, 3), (10, 3), (9, 2), (10, 1), (10, 2), (9, 1)]


def test_acknowledgements_are_counted() -> None:
    pipeline = ready()
    for _ in range(3):
        pipeline.begin()
        pipeline.end()
    assert pipeline.unacknowledged == 3
    pipeline.receive(acknowledge(2))
    assert pipeline.unacknowledged == 1
    for nonsense in (1, 4, 1 << 31):
        pipeline.receive(acknowledge(nonsense))
        assert pipeline.unacknowledged == 1
    pipeline.receive(acknowledge(2, depth=0xFFFFFFFF))  # it says no more
    assert pipeline.unacknowledged == 0
    pipeline.begin()
    assert pipeline.unacknowledged == 0
    pipeline.receive(acknowledge(3) + acknowledge(4))
    assert pipeline.unacknowledged == 0


def test_a_client_that_begins_anew_owes_no_acknowledgement() -> None:
    pipeline = ready()
    pipeline.receive(acknowledge(0, depth=0xFFFFFFFF))
    for _ in range(3):
        pipeline.begin()
        pipeline.end()
    pipeline.receive(AVC_8_1)
    assert pipeline.unacknowledged == 0
    pipeline.begin()
    assert pipeline.unacknowledged == 1  # and it says again what it has drawn
    pipeline.receive(acknowledge(2))
    assert pipeline.unacknowledged == 1
    pipeline.receive(acknowledge(4))
    assert pipeline.unacknowledged == 0


BAD = {
    "short": (b"\x12\0\0\0", "4 bytes of a graphics PDU"),
    "long": (struct.pack("<HHI", 0x12, 0, 100), "PDU 0x12 of 100 bytes, have 8"),
    "no size": (struct.pack("<HHI", 0x12, 0, 0), "PDU 0x12 of 0 bytes"),
    "no number": (struct.pack("<HHIB", 0x12, 0, 9, 1), "without their number"),
    "many": (struct.pack("<HHIH", 0x12, 0, 10, 33), "33 capability sets"),
    "early": (struct.pack("<HHIHI", 0x12, 0, 14, 1, 8), "1 capability sets .* early"),
    "far": (
        struct.pack("<HHIHII", 0x12, 0, 18, 1, 0x80105, 0xFFFFFFFF),
        "set of graphics of 4294967295 bytes, have 0",
    ),
    "acknowledgement": (struct.pack("<HHII", 0x0D, 0, 12, 0), "of 4 bytes, not 12"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_client_is_refused_in_a_line(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(ParseError, match=reason):
        Pipeline().receive(data)


def test_everything_is_made_new_a_few_times_only() -> None:
    pipeline = Pipeline()
    for _ in range(MAX_RESTARTS + 1):
        pipeline.receive(AVC_8_1)
    with pytest.raises(ParseError, match="more than 8 times"):
        pipeline.receive(AVC_8_1)


@pytest.mark.fuzz
def test_whatever_a_client_says_is_answered_or_refused() -> None:
    source = chance(12)
    seen = {"ready": 0, "refused": 0}
    originals = [AVC_8_1, AVC_10, NO_AVC, acknowledge(1), acknowledge(1, 0xFFFFFFFF)]
    for _ in range(inputs(20_000)):
        pipeline = Pipeline()
        data = bytearray(b"".join(source.choices(originals, k=source.randint(1, 3))))
        for _ in range(source.randint(0, 4)):
            where = source.randrange(len(data))
            match source.randrange(4):
                case 0:
                    data[where] ^= 1 << source.randrange(8)
                case 1:
                    del data[where : where + source.randint(1, 8)]
                case 2:
                    data[where:where] = source.randbytes(source.randint(1, 8))
                case _:
                    data[where : where + 4] = b"\xff\xff\xff\xff"
            data = data or bytearray(b"\0")
        try:
            pipeline.receive(bytes(data))
        except ParseError:
            seen["refused"] += 1
        if pipeline.is_ready:
            seen["ready"] += 1
            pipeline.reset(64, 64)
            pipeline.begin()
            pipeline.end()
            assert pipeline.unacknowledged in (0, 1)
        assert sum(map(len, pipeline.messages())) < 2000
    assert min(seen.values()) > 100
