"""Pictures of a whole screen as raw bitmap updates (1.16)."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

__all__ = ["Picture", "fast_update", "palette_update", "slow_updates"]

MAX_BITMAP = 15 << 10
"""Bytes of pixels per update; with all headers it stays below a packet's limit."""

_BITMAP, _PALETTE = 1, 2  # update types, and codes of the fast path
_RECTANGLE = struct.Struct("<11H")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in the format of a session.

    Attributes:
        depth: bits per pixel: 8, 15, 16, 24 or 32.
        pixels: left to right, top down, no padding; one, two, three or four bytes per
            pixel, little-endian, red in the highest bits (3-3-2, 5-5-5, 5-6-5, 8-8-8).
    """

    width: int
    height: int
    depth: int
    pixels: bytes

    @classmethod
    def from_rgb(cls, width: int, height: int, depth: int, rgb: bytes) -> Self:
        """Convert an image of three bytes per pixel: red, green, blue."""
        return cls(width, height, depth, _convert(rgb, depth))


def slow_updates(picture: Picture) -> Iterator[bytes]:
    """Yield the bodies of Update PDUs that draw a picture; at 8 bit the palette first.

    Each has up to MAX_BITMAP bytes of pixels: a strip as wide as the picture, or a
    part of its lines if they are longer than that. Rows are bottom up, and padded to a
    multiple of four pixels.
    """
    if picture.depth == 8:
        yield palette_update()
    size = (picture.depth + 7) // 8
    stride = picture.width * size
    columns = min(picture.width, MAX_BITMAP // size & ~3)
    for left in range(0, picture.width, columns):
        width = min(columns, picture.width - left)
        padding = bytes(-width % 4 * size)
        lines = MAX_BITMAP // (width * size + len(padding))
        begin, end = left * size, (left + width) * size
        for top in range(0, picture.height, lines):
            bottom = min(top + lines, picture.height)
            starts = range((bottom - 1) * stride, top * stride - 1, -stride)
            rows = [picture.pixels[at + begin : at + end] for at in starts]
            data = padding.join([*rows, b""])
            area = (left, top, left + width - 1, bottom - 1)
            shape = (width + len(padding) // size, bottom - top, picture.depth)
            yield _RECTANGLE.pack(_BITMAP, 1, *area, *shape, 0, len(data)) + data


def fast_update(update: bytes) -> bytes:
    """Return one of :func:`slow_updates` as the fast path has it."""
    return struct.pack("<BH", update[0], len(update)) + update


def palette_update() -> bytes:
    """Return the body of the update with the fixed palette: 3-3-2 bits."""
    levels8 = [n * 255 // 7 for n in range(8)]
    levels4 = [n * 85 for n in range(4)]
    colours = [bytes((r, g, b)) for r in levels8 for g in levels8 for b in levels4]
    return struct.pack("<HHI", _PALETTE, 0, 256) + b"".join(colours)


def _convert(rgb: bytes, depth: int) -> bytes:
    """Convert pixels; whole planes are translated and joined, never single pixels."""
    red, green, blue = rgb[0::3], rgb[1::3], rgb[2::3]
    if depth == 8:
        return _either(red, _HIGH3, green, _MIDDLE3, blue, _LOW2)
    size = (depth + 7) // 8
    out = bytearray(len(red) * size)
    if depth == 15:
        out[1::2] = _either(red, _RED15, green, _GREEN15_HIGH)
        out[0::2] = _either(green, _GREEN15_LOW, blue, _BLUE5)
    elif depth == 16:
        out[1::2] = _either(red, _RED16, green, _GREEN16_HIGH)
        out[0::2] = _either(green, _GREEN16_LOW, blue, _BLUE5)
    else:
        out[0::size], out[1::size], out[2::size] = blue, green, red
    return bytes(out)


def _either(*planes_and_tables: bytes) -> bytes:
    """OR planes byte by byte, each translated by the table that follows it."""
    total = 0
    planes, tables = planes_and_tables[0::2], planes_and_tables[1::2]
    for plane, table in zip(planes, tables, strict=True):
        total |= int.from_bytes(plane.translate(table), "little")
    return total.to_bytes(len(planes[0]), "little")


def _table(function: Callable[[int], int]) -> bytes:
    return bytes(map(function, range(256)))


_HIGH3 = _table(lambda v: v & 0xE0)
_MIDDLE3 = _table(lambda v: (v & 0xE0) >> 3)
_LOW2 = _table(lambda v: v >> 6)
_RED16 = _table(lambda v: v & 0xF8)
_GREEN16_HIGH = _table(lambda v: v >> 5)
_GREEN16_LOW = _table(lambda v: (v & 0x1C) << 3)
_RED15 = _table(lambda v: v >> 3 << 2)
_GREEN15_HIGH = _table(lambda v: v >> 6)
_GREEN15_LOW = _table(lambda v: (v & 0x38) << 2)
_BLUE5 = _table(lambda v: v >> 3)
