"""Shapes of the pointer, and which of them a client has already."""

import struct

import numpy as np
import pytest

from rusb.rdp.graphics.framing import MAX_PART, fast_updates
from rusb.rdp.graphics.pointers import (
    LARGE_POINTER_SIZE,
    Cursor,
    PointerCache,
    PointerLimits,
    straight_alpha,
)
from rusb.rdp.graphics.updates import UpdateKind
from tests.support.rdp.pictures import VECTORS

NEW = PointerLimits.of(25, 20, 0, is_large=False)
OLD = PointerLimits.of(0, 20, 0, is_large=False)


def cursor(width: int, height: int, seed: int = 0) -> Cursor:
    pixels = np.arange(width * height, dtype=np.uint32).reshape(height, width)
    pixels = (pixels * 7 + seed | 0xFF000000).astype(np.uint32)
    return Cursor(width // 3, height // 3, pixels)


def slot_of(body: bytes, limits: PointerLimits) -> int:
    return int.from_bytes(body[2:4] if limits.is_new else body[:2], "little")


def test_the_vector() -> None:
    found = VECTORS["new_pointer"]
    pixels = [[int(pixel, 16) for pixel in row] for row in found["pixels"]]
    x, y = found["hot"]
    update = PointerCache(NEW).show(Cursor(x, y, np.array(pixels, np.uint32)))
    assert update.kind is UpdateKind.NEW_POINTER
    assert update.body.hex() == found["body"]


def test_a_colour_pointer_has_three_bytes_per_pixel_and_no_alpha() -> None:
    pixels = np.array([[0xFF010203, 0x7F040506, 0x80070809]], np.uint32)
    update = PointerCache(OLD).show(Cursor(2, 0, pixels))
    assert update.kind is UpdateKind.COLOUR_POINTER
    assert struct.unpack_from("<7H", update.body) == (0, 2, 0, 16, 1, 2, 48)
    assert update.body[14:].hex() == "030201000000090807" + 39 * "00" + "5fff"


@pytest.mark.parametrize("limits", [NEW, OLD])
def test_rows_are_bottom_up(limits: PointerLimits) -> None:
    pixels = np.array([[0xFFAAAAAA] * 4, [0] * 4], np.uint32)
    body = PointerCache(limits).show(Cursor(0, 0, pixels)).body
    assert body.index(b"\xaa") > len(body) // 2
    padding = 0 if limits.is_new else 0x0FFF
    assert body[-4:] == (0xF000 | padding).to_bytes(2) + padding.to_bytes(2)


@pytest.mark.parametrize("limits", [NEW, OLD])
def test_a_shape_that_the_client_has_is_named(limits: PointerLimits) -> None:
    cache = PointerCache(limits)
    shapes = [cursor(8, 8, seed) for seed in range(25)]
    for slot, shape in enumerate(shapes[:20]):
        body = cache.show(shape).body
        assert (
            int.from_bytes(body[2:4] if limits.is_new else body[:2], "little") == slot
        )
    again = cache.show(shapes[3])
    assert (again.kind, again.body) == (UpdateKind.CACHED_POINTER, b"\3\0")
    assert cache.show(shapes[0]).body == b"\0\0"
    # the one that was not shown for the longest time makes room
    for shape, slot in zip(shapes[20:], (1, 2, 4, 5, 6), strict=True):
        body = cache.show(shape).body
        assert (
            int.from_bytes(body[2:4] if limits.is_new else body[:2], "little") == slot
        )
    assert cache.show(shapes[0]).kind is UpdateKind.CACHED_POINTER
    assert cache.show(shapes[1]).kind is not UpdateKind.CACHED_POINTER


def test_a_client_keeps_as_many_as_it_says() -> None:
    cache = PointerCache(PointerLimits.of(2, 0, 0, is_large=False))
    shapes = [cursor(8, 8, seed) for seed in range(3)]
    for shape in shapes:
        cache.show(shape)
    kinds = [cache.show(shape).kind for shape in shapes[1:] + shapes[:1]]
    assert [kind is UpdateKind.CACHED_POINTER for kind in kinds] == [True, True, False]
    assert PointerLimits.of(0, 0, 0, is_large=True) == (False, 1, 32)


SIDES = [
    (dict(new_cache=20, max_update=0, is_large=False), 32),
    (dict(new_cache=20, max_update=1 << 16, is_large=False), 32),
    (dict(new_cache=20, max_update=LARGE_POINTER_SIZE - 1, is_large=True), 60),
    (dict(new_cache=20, max_update=LARGE_POINTER_SIZE, is_large=True), 96),
    (dict(new_cache=0, max_update=1 << 16, is_large=True), 32),
]


@pytest.mark.parametrize(("able", "side"), SIDES)
def test_how_large_a_pointer_may_be(able: dict[str, int], side: int) -> None:
    limits = PointerLimits.of(
        *(able["new_cache"], 20, able["max_update"]), is_large=bool(able["is_large"])
    )
    assert limits.side == side
    for width, height in [(side, side), (200, 150)]:
        body = PointerCache(limits).show(cursor(width, height)).body
        assert len(body) <= max(MAX_PART, able["max_update"])
        list(fast_updates(PointerCache(limits).show(cursor(width, height)), 1 << 16))
        at = 6 if limits.is_new else 4
        shape = struct.unpack_from("<4H", body, at - 2)
        assert shape[2:] == (min(width, side), min(height, side))


@pytest.mark.parametrize(
    ("hot", "expected"), [(0, 0), (10, 10), (50, 16), (89, 21), (99, 31), (250, 31)]
)
def test_what_is_too_large_is_cut_off_around_the_hot_spot(
    hot: int, expected: int
) -> None:
    pixels = np.arange(10_000, dtype=np.uint32).reshape(100, 100)
    part = Cursor(hot, 0, pixels).fitting(32)
    assert part.pixels.shape == (32, 32)
    assert (part.hot_x, part.hot_y) == (expected, 0)
    if hot < 100:
        assert part.pixels[0, part.hot_x] == pixels[0, hot]


def test_colours_are_divided_by_alpha() -> None:
    pixels = np.array([0x80404080, 0xFF123456, 0x00112233, 0x01010101], np.uint32)
    straight = [0x808080FF, 0xFF123456, 0, 0x01FFFFFF]
    assert straight_alpha(pixels).tolist() == straight
    too_bright = np.array([0x10FF0000], np.uint32)
    assert straight_alpha(too_bright).tolist() == [0x10FF0000]
