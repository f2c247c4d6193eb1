"""A client's screen without a window: what a server draws, as pixels."""

import struct

import numpy as np

from rusb.errors import ParseError

from . import rle
from .pixels import (
    DEPTHS,
    PALETTE,
    Frame,
    Pixels,
    from_bytes,
    from_depth,
    new_frame,
    parse_palette,
    pixel_size,
)
from .updates import UpdateKind

__all__ = ["MAX_AREA", "MAX_SIDE", "Canvas"]

MAX_SIDE = 8192
"""Pixels of the longest side of a screen (MS-RDPBCGR 2.2.7.1.2)."""

MAX_AREA = 8 << 20
"""Pixels of a screen, a little more than 4K has: the server chooses its size."""

_RECTANGLE = struct.Struct("<9H")
_COMPRESSED, _HAS_NO_HEAD = 0x0001, 0x0400
_HEAD_SIZE = 8  # of compressed data


class Canvas:
    """Takes bitmap and palette updates; pointers are nobody's business here.

    Attributes:
        width, height: pixels of the screen; 0 until it begins.
    """

    def __init__(self) -> None:
        self.width = self.height = 0
        self._frame = new_frame(0, 0)
        self._drawn = np.zeros((0, 0), bool)
        self._palette = PALETTE

    def begin(self, width: int, height: int) -> None:
        """The screen has this size from now on, and nothing is drawn yet.

        Raises:
            ParseError: there are no such screens.
        """
        fits = 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE
        if not fits or width * height > MAX_AREA:
            raise ParseError(f"screen of {width}x{height} pixels")
        self.width, self.height = width, height
        self._frame = new_frame(width, height)
        self._drawn = np.zeros((height, width), bool)
        self._palette = PALETTE

    @property
    def is_complete(self) -> bool:
        """Has every pixel been drawn?"""
        return self.width > 0 and bool(self._drawn.all())

    def pixels(self) -> Frame:
        """Return a copy of what is there, (height, width) of 0x00RRGGBB."""
        return self._frame[: self.height, : self.width].copy()

    def draw(self, update: bytes) -> None:
        """Take the body of an update, of either path; others are skipped.

        Raises:
            ParseError: it is malformed; what came before it in the update is drawn.
        """
        kind = int.from_bytes(update[:2], "little")
        if kind == UpdateKind.PALETTE:
            self._palette = parse_palette(update)
        elif kind == UpdateKind.BITMAP:
            self._draw_bitmaps(update)

    def _draw_bitmaps(self, update: bytes) -> None:
        pos, count = 4, int.from_bytes(update[2:4], "little")
        allowed = self._frame.size  # twice the same place costs the server the more
        for _ in range(count):
            if len(update) - pos < _RECTANGLE.size:
                raise ParseError(f"bitmap update of {count} ends early", pos)
            left, top, right, bottom, width, height, depth, flags, size = (
                _RECTANGLE.unpack_from(update, pos)
            )
            pos += _RECTANGLE.size
            data = update[pos : pos + size]
            if len(data) < size:
                raise ParseError(f"bitmap of {size} bytes, have {len(data)}", pos)
            pos += size
            allowed -= width * height
            # FreeRDP's server sends 16 bit in sessions of 24
            if allowed < 0 or not width * height or depth not in DEPTHS:
                raise ParseError(f"bitmap of {width}x{height} pixels of {depth} bit")
            pixels = _read(data, width, height, depth, flags)[::-1]
            frame = from_depth(pixels, depth, self._palette)
            self._put(frame, left, top, right, bottom)
        if pos != len(update):
            raise ParseError(f"{len(update) - pos} bytes behind a bitmap update", pos)

    def _put(self, pixels: Frame, left: int, top: int, right: int, bottom: int) -> None:
        """Draw the part of a bitmap that lies in a rectangle and on the screen."""
        right = min(right + 1, left + pixels.shape[1], self.width)
        bottom = min(bottom + 1, top + pixels.shape[0], self.height)
        if right <= left or bottom <= top:
            return
        place = np.s_[top:bottom, left:right]
        self._frame[place] = pixels[: bottom - top, : right - left]
        self._drawn[place] = True


def _read(data: bytes, width: int, height: int, depth: int, flags: int) -> Pixels:
    """Return the pixels of a bitmap, the lowest row first."""
    if flags & _COMPRESSED:
        if not flags & _HAS_NO_HEAD:
            data = data[_HEAD_SIZE:]
        return rle.decode(data, width, height, depth)
    size = pixel_size(depth)
    if len(data) != width * height * size:
        raise ParseError(f"bitmap of {width}x{height} pixels in {len(data)} bytes")
    return from_bytes(data, size).reshape(height, width)
