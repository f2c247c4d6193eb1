"""Pictures as raw bitmap updates."""

import struct
import time

import pytest

from rusb.errors import LocalProtocolError
from rusb.rdp import events as rdp
from rusb.rdp.bitmaps import Picture, fast_update, palette_update, slow_updates
from rusb.rdp.client import ClientSettings
from rusb.rdp.security import PlainSecurity
from rusb.rdp.share import DataType, ShareData, split_share
from rusb.rdp.tpkt import MAX_PACKET, packet_size
from tests.support.rdp.joined import Joined, clear
from tests.support.rdp.raw import RawClient

DEPTHS = [8, 15, 16, 24, 32]


def draw(picture: Picture) -> bytes:
    """Put the updates together again, as a client does: pixels top down."""
    size = (picture.depth + 7) // 8
    screen = bytearray(len(picture.pixels))
    for update in slow_updates(picture):
        if update[0] == 2:
            continue
        kind, count, left, top, right, bottom, width, height, depth, flags, length = (
            struct.unpack_from("<11H", update)
        )
        assert (kind, count, depth, flags) == (1, 1, picture.depth, 0)
        assert length == width * height * size == len(update) - 22
        assert width % 4 == 0 <= width - (right - left + 1) < 4
        assert height == bottom - top + 1
        for row in range(height):
            start = 22 + (height - 1 - row) * width * size
            at = ((top + row) * picture.width + left) * size
            bytes_wide = (right - left + 1) * size
            screen[at : at + bytes_wide] = update[start : start + bytes_wide]
    return bytes(screen)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (5, 3), (64, 64), (801, 97), (8191, 3), (3, 8000)]
)
def test_the_updates_draw_the_whole_picture(
    width: int, height: int, depth: int
) -> None:
    size = (depth + 7) // 8
    pixels = bytes(i * 7 % 251 for i in range(width * height * size))
    picture = Picture(width, height, depth, pixels)
    assert draw(picture) == pixels


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_packet_is_short_enough(depth: int) -> None:
    picture = Picture.from_rgb(1023, 200, depth, bytes(3 * 1023 * 200))
    for packet in map(
        PlainSecurity().wrap_fast, map(fast_update, slow_updates(picture))
    ):
        assert packet_size(packet, 0) == len(packet) <= MAX_PACKET
        code, size = struct.unpack_from("<BH", packet, 3)
        assert code == packet[6]  # the type is in the data too (2.2.9.1.2.1.2)
        assert size == len(packet) - 6


COLOURS = [  # (red, green, blue), by depth: computed by hand
    ((255, 0, 0), {8: "e0", 15: "007c", 16: "00f8", 24: "0000ff", 32: "0000ff00"}),
    ((0, 255, 0), {8: "1c", 15: "e003", 16: "e007", 24: "00ff00", 32: "00ff0000"}),
    ((0, 0, 255), {8: "03", 15: "1f00", 16: "1f00", 24: "ff0000", 32: "ff000000"}),
    ((255,) * 3, {8: "ff", 15: "ff7f", 16: "ffff", 24: "ffffff", 32: "ffffff00"}),
    ((8, 4, 8), {8: "00", 15: "0104", 16: "2108", 24: "080408", 32: "08040800"}),
]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("colour", "wires"), COLOURS)
def test_colours(colour: tuple[int, ...], wires: dict[int, str], depth: int) -> None:
    picture = Picture.from_rgb(2, 1, depth, bytes(colour) * 2)
    assert picture.pixels.hex() == wires[depth] * 2


def test_the_palette_names_the_colours_of_eight_bits() -> None:
    update = palette_update()
    assert (len(update), update[:8].hex()) == (8 + 768, "0200000000010000")
    for index, colour in ((0xE0, "ff0000"), (0x1C, "00ff00"), (0x03, "0000ff")):
        assert update[8 + 3 * index :][:3].hex() == colour
    assert next(slow_updates(Picture(4, 1, 8, bytes(4)))) == update


def test_a_screen_is_converted_quickly() -> None:
    rgb = bytes(range(256)) * (800 * 600 * 3 // 256)
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        list(map(fast_update, slow_updates(Picture.from_rgb(800, 600, 16, rgb))))
        best = min(best, time.perf_counter() - start)
    assert best < 0.05


@pytest.mark.parametrize("depth", [8, 15, 16, 24])
@pytest.mark.parametrize("version", [4, 5])
def test_a_client_gets_pictures_the_way_it_takes_them(depth: int, version: int) -> None:
    settings = ClientSettings(depth=depth, version=version, display=True)
    joined = Joined(settings).run()
    picture = Picture(800, 600, depth, bytes(800 * 600 * ((depth + 7) // 8)))
    list(joined.server.draw(picture))
    first = joined.server.data_to_send()[0]
    if version == 5:
        assert first[0] == 0  # fast path
    else:
        payload = first[15:] if first[13] & 0x80 else first[14:]
        ((_, _, body),) = split_share(payload)
        assert ShareData.parse(body).type == DataType.UPDATE
    list(joined.server.draw(picture))
    assert [type(e) for e in joined.run().client_events].count(rdp.Ignored) == 0


def test_a_picture_of_another_depth_is_our_own_mistake() -> None:
    joined = Joined(ClientSettings(display=True)).run()
    with pytest.raises(LocalProtocolError):
        list(joined.server.draw(Picture(1, 1, 24, bytes(3))))


def test_a_client_without_a_window_gets_no_pictures() -> None:
    joined = Joined(*clear()).run()
    assert joined.server.output_suppressed
    list(joined.server.draw(Picture(1, 1, 16, bytes(2))))
    assert joined.server.data_to_send() == []


def test_pictures_are_wanted_again_after_suppression_and_on_request() -> None:
    raw = RawClient().until_active()
    raw.feed(raw.data(DataType.SUPPRESS_OUTPUT, bytes(4)))
    assert raw.server.output_suppressed
    raw.seen.clear()
    raw.feed(raw.data(DataType.SUPPRESS_OUTPUT, struct.pack("<B3x4H", 1, 0, 0, 9, 9)))
    assert not raw.server.output_suppressed
    raw.feed(raw.data(DataType.REFRESH_RECT, struct.pack("<B3x4H", 1, 0, 0, 9, 9)))
    raw.feed(raw.data(DataType.REFRESH_RECT, struct.pack("<B3x", 0)))  # 1.15: not one
    assert raw.seen == [rdp.RefreshRequested()] * 2
