"""Frames, depths and palettes."""

import numpy as np
import pytest

from rusb.errors import ParseError
from rusb.rdp.graphics.pixels import (
    DEPTHS,
    PALETTE,
    frame_of,
    from_bytes,
    from_depth,
    new_frame,
    parse_palette,
    pixel_size,
    serialize_palette,
    to_bytes,
    to_depth,
)
from tests.support.rows import each_row

COLOURS = [  # by depth, as they are sent: computed by hand
    (0xFF0000, {8: "e0", 15: "007c", 16: "00f8", 24: "0000ff"}),
    (0x00FF00, {8: "1c", 15: "e003", 16: "e007", 24: "00ff00"}),
    (0x0000FF, {8: "03", 15: "1f00", 16: "1f00", 24: "ff0000"}),
    (0xFFFFFF, {8: "ff", 15: "ff7f", 16: "ffff", 24: "ffffff"}),
    (0x080408, {8: "00", 15: "0104", 16: "2108", 24: "080408"}),
]


@each_row("depth", DEPTHS)
@each_row(("colour", "wires"), COLOURS)
def test_colours(colour: int, wires: dict[int, str], depth: int) -> None:
    for high in (0, 0xAB000000):  # the highest byte of a frame has no meaning
        pixels = to_depth(np.array([colour | high] * 2, np.uint32), depth)
        assert to_bytes(pixels, pixel_size(depth)).tobytes().hex() == wires[depth] * 2


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_a_depth_has_comes_back(depth: int) -> None:
    every = np.arange(1 << min(depth, 16), dtype=np.uint32)
    if depth == 24:
        every *= 255
    seen = from_depth(every, depth, PALETTE)
    assert np.array_equal(to_depth(seen, depth), every)
    size = pixel_size(depth)
    assert np.array_equal(from_bytes(to_bytes(every, size).tobytes(), size), every)
    highest = np.array([(1 << depth) - 1])
    assert from_depth(highest, depth, PALETTE).tolist() == [0xFFFFFF]


def test_a_frame_is_padded_with_black() -> None:
    frame = frame_of(65, 2, bytes(range(65 * 2 * 3 % 256)) + bytes(65 * 6 - 134))
    assert frame.shape == new_frame(65, 2).shape == (64, 128)
    assert frame[0, 0] == 0x000102
    assert frame[0, 1] == 0x030405
    assert not frame[2:].any()
    assert not frame[:, 65:].any()


def test_the_palette_names_the_colours_of_eight_bits() -> None:
    body = serialize_palette(PALETTE)
    assert (len(body), body[:8].hex()) == (8 + 768, "0200000000010000")
    for index, colour in ((0xE0, "ff0000"), (0x1C, "00ff00"), (0x03, "0000ff")):
        assert body[8 + 3 * index :][:3].hex() == colour
    assert np.array_equal(parse_palette(body), PALETTE)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"\1" + b[1:]]
)
def test_another_palette_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(ParseError):
        parse_palette(change(serialize_palette(PALETTE)))
