"""Interleaved RLE: what the encoder writes, and all that the decoder reads."""

import numpy as np
import pytest

from rusb.errors import ParseError
from rusb.rdp.graphics import rle
from rusb.rdp.graphics.pixels import DEPTHS, pixel_size, to_depth
from tests.support.amount import chance, inputs
from tests.support.rdp.pictures import VECTORS, desktop, kinds, vector_picture
from tests.support.rows import each_row

SIZES = [(4, 1), (4, 2), (8, 64), (64, 64), (80, 5), (20, 33), (16, 16), (1, 7)]


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_vector(depth: int) -> None:
    data = bytes.fromhex(VECTORS["rle"][str(depth)])
    pixels = to_depth(vector_picture()[::-1], depth)
    assert rle.encode(pixels[None], pixel_size(depth)) == [data]
    assert np.array_equal(rle.decode(data, 16, 6, depth), pixels)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_come_back(width: int, height: int, depth: int) -> None:
    for seed in range(3):
        pixels = to_depth(kinds(width, height, seed), depth)
        packed = rle.encode(pixels, pixel_size(depth))
        for one, data in zip(pixels, packed, strict=True):
            assert np.array_equal(rle.decode(data, width, height, depth), one)
            assert rle.encode(one[None], pixel_size(depth)) == [data]


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_run_of_the_largest_bitmap_is_one_order(depth: int) -> None:
    pixels = to_depth(np.full((1, 1, rle.MAX_PIXELS), 0xFFFFFF, np.uint32), depth)
    (data,) = rle.encode(pixels, pixel_size(depth))
    white = ((1 << depth) - 1).to_bytes(pixel_size(depth), "little")
    assert data == b"\xf3\xff\xff" + white
    assert np.array_equal(rle.decode(data, rle.MAX_PIXELS, 1, depth), pixels[0])


def test_a_background_run_ends_with_the_first_row() -> None:
    """Others take all of a run that begins there for black (display.md 4.3)."""
    assert rle.encode(np.zeros((1, 2, 4), np.uint8), 1) == [b"\4\4"]


def test_the_last_pixel_of_a_bitmap_belongs_to_its_image() -> None:
    pixels = np.array([[[1, 2, 3, 4]], [[5, 5, 5, 6]]], np.uint8)
    assert rle.encode(pixels, 1) == [b"\x84\1\2\3\4", b"\x84\5\5\5\6"]


@pytest.mark.parametrize("depth", DEPTHS)
def test_text_becomes_short(depth: int) -> None:
    tiles = desktop(256, 256)[:192, 64:].reshape(3, 64, 3, 64).swapaxes(1, 2)
    pixels = to_depth(tiles.reshape(9, 64, 64), depth)
    packed = rle.encode(pixels, pixel_size(depth))
    assert sum(map(len, packed)) < 9 * 4096 * pixel_size(depth) / 2
    for one, data in zip(pixels, packed, strict=True):
        assert np.array_equal(rle.decode(data, 64, 64, depth), one)


# Each order alone or behind others, with the pixels that MS-RDPBCGR 2.2.9.1.1.3.1.2.4
# says: four in a row, 8 bit, the lowest row first.
ORDERS = [
    ("04 84 01020304", "00000000 01020304"),  # background, image
    ("84 01020304 04", "01020304 01020304"),
    ("84 01020304 02 02", "01020304 0102 fc04"),  # the second begins with foreground
    ("02 02 04", "0000ff00 0000ff00"),  # and so in the first row, but not behind it
    ("24", "ffffffff"),  # foreground in the first row
    ("84 01020304 24", "01020304 fefdfcfb"),
    ("84 01020304 c4 0f", "01020304 0e0d0c0b"),  # sets the colour, too
    ("84 01020304 c2 0f 22", "01020304 0e0d0c0b"),
    ("41 a5", "ff00ff00 ffffffff"),  # foreground by mask
    ("40 02 05", "ff00ff"),
    ("d1 10 a5", "10001000 10101010"),
    ("d0 03 10 05", "10001000"),
    ("64 07", "07070707"),
    ("60 00 07", "07" * 32),
    ("e2 01 02", "01020102"),  # dithered
    ("e0 00 01 02", "0102" * 16),
    ("f0 0400", "00000000"),
    ("f1 0400", "ffffffff"),
    ("f2 0400 05", "ff00ff00"),
    ("f3 0400 07", "07070707"),
    ("f4 0400 01020304", "01020304"),
    ("f6 0400 10", "10101010"),
    ("f7 0400 10 05", "10001000"),
    ("f8 0200 01 02", "01020102"),
    ("f9", "ffff0000 ffff0000"),
    ("fa", "ff00ff00 ff00ff00"),
    ("fd fe fd fe", "ff00ff00"),
]


@each_row(("data", "pixels"), ORDERS)
def test_orders_that_others_write(data: str, pixels: str) -> None:
    expected = np.frombuffer(bytes.fromhex(pixels), np.uint8)
    width = 4 if len(expected) % 4 == 0 else len(expected)
    found = rle.decode(bytes.fromhex(data), width, len(expected) // width, 8)
    assert found.reshape(-1).tobytes().hex() == expected.tobytes().hex()


@pytest.mark.parametrize("depth", [15, 16, 24])
def test_white_and_foreground_of_other_depths(depth: int) -> None:
    white = (1 << depth) - 1
    found = rle.decode(b"\xfd\x21\xfe\xfe", 2, 2, depth)
    assert found.tolist() == [[white, white], [0, 0]]


@each_row(
    "data",
    [
        "",
        "03",  # too few pixels
        "05",  # too many
        "f0 ffff",
        "f8 ffff 01 02",
        "f2 ffff" + "00" * 8192,
        "f5 0400",  # no such orders
        "fb",
        "ff",
        "a4",
        "84 010203",  # cut off
        "64",
        "40",
        "41",
        "f0 04",
        "d1",
        "e2 01",
        "04 00",
    ],
)
def test_malformed_data(data: str) -> None:
    with pytest.raises(ParseError):
        rle.decode(bytes.fromhex(data), 4, 1, 8)


@pytest.mark.fuzz
@pytest.mark.parametrize("depth", DEPTHS)
def test_any_bytes_are_a_bitmap_or_an_error(depth: int) -> None:
    random = chance(depth)
    for _ in range(inputs(2_000)):
        data = random.randbytes(random.randrange(40))
        width, height = random.randint(1, 64), random.randint(1, 64)
        try:
            found = rle.decode(data, width, height, depth)
        except ParseError:
            continue
        assert found.shape == (height, width)
        assert int(found.max()) < 1 << depth or depth == 15
