"""Shapes of the mouse pointer, as clients get them (display.md 4.5)."""

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .updates import Update, UpdateKind

__all__ = [
    "DEFAULT_POINTER",
    "HIDDEN_POINTER",
    "LARGE_POINTER_SIZE",
    "Cursor",
    "PointerCache",
    "PointerLimits",
    "straight_alpha",
]

MAX_CACHE = 20
"""Shapes that a client keeps for us, if it can."""

SMALL, MEDIUM, LARGE = 32, 60, 96
"""Pixels of the longest side: that everybody takes; of clients with large pointers, as
it fits into one packet; as they take it in several (MS-RDPBCGR 2.2.7.2.7)."""

LARGE_POINTER_SIZE = 38055
"""Bytes of the largest pointer's update, as MS-RDPBCGR 2.2.7.2.7 has it."""


HIDDEN_POINTER = Update(UpdateKind.POINTER_HIDDEN, b"")
DEFAULT_POINTER = Update(UpdateKind.POINTER_DEFAULT, b"")


@dataclass(frozen=True, slots=True, eq=False)
class Cursor:
    """A shape of the pointer.

    Attributes:
        hot_x, hot_y: which pixel points, from the upper left one; beyond the shape it
            is the last one.
        pixels: (height, width) of 0xAARRGGBB, one or more, top down; colours are not
            multiplied by alpha (:func:`straight_alpha`).
    """

    hot_x: int
    hot_y: int
    pixels: npt.NDArray[np.uint32]

    def fitting(self, side: int) -> "Cursor":
        """Return the part around the hot spot that is no larger than a square."""
        height, width = self.pixels.shape
        hot_x, hot_y = min(self.hot_x, width - 1), min(self.hot_y, height - 1)
        x = min(max(hot_x - side // 2, 0), max(width - side, 0))
        y = min(max(hot_y - side // 2, 0), max(height - side, 0))
        part = self.pixels[y : y + side, x : x + side]
        return Cursor(hot_x - x, hot_y - y, part)


class PointerLimits(NamedTuple):
    """What pointers a client takes (``ServerConnection.pointer_limits``).

    Attributes:
        is_new: it takes new pointers, with 32 bits per pixel; else colour pointers.
        cache: shapes that it keeps.
        side: pixels of the longest side.
    """

    is_new: bool
    cache: int
    side: int

    @classmethod
    def of(
        cls, new_cache: int, colour_cache: int, max_update: int, *, is_large: bool
    ) -> "PointerLimits":
        """Return the limits of a client with these capabilities.

        Args:
            new_cache, colour_cache: sizes of its Pointer set.
            max_update: bytes of an update in several packets; 0: it knows none.
            is_large: it takes pointers up to 96x96.
        """
        if not new_cache:
            return cls(False, min(max(colour_cache, 1), MAX_CACHE), SMALL)
        side = SMALL
        if is_large:
            side = LARGE if max_update >= LARGE_POINTER_SIZE else MEDIUM
        return cls(True, min(new_cache, MAX_CACHE), side)


class PointerCache:
    """The shapes that one client has.

    A client forgets them when its session is activated again: make another one then.
    """

    def __init__(self, limits: PointerLimits) -> None:
        self._limits = limits
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # the latest one last

    def show(self, cursor: Cursor) -> Update:
        """Return the update that shows a shape: all of it, or where the client has it.

        What is larger than the client takes is cut off around the hot spot.
        """
        attributes = self._attributes(cursor.fitting(self._limits.side))
        slot = self._slots.get(attributes)
        if slot is not None:
            self._slots.move_to_end(attributes)
            return Update(UpdateKind.CACHED_POINTER, slot.to_bytes(2, "little"))
        slot = len(self._slots)
        if slot >= self._limits.cache:
            _, slot = self._slots.popitem(last=False)
        self._slots[attributes] = slot
        index = slot.to_bytes(2, "little")
        if self._limits.is_new:
            body = attributes[:2] + index + attributes[2:]
            return Update(UpdateKind.NEW_POINTER, body)
        return Update(UpdateKind.COLOUR_POINTER, index + attributes)

    def _attributes(self, cursor: Cursor) -> bytes:
        """Return what a client is told of a shape, without the index."""
        pixels = cursor.pixels[::-1]  # bottom up
        is_new = self._limits.is_new
        if not is_new:
            # rdesktop reads rows of masks without the padding that others want
            pixels = np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % 16)))
        height, width = pixels.shape
        is_clear = pixels >> 24 < (1 if is_new else 128)
        data = np.where(is_clear, 0, pixels).astype("<u4").tobytes()
        if not is_new:
            data = np.frombuffer(data, np.uint8).reshape(-1, 4)[:, :3].tobytes()
        mask = np.packbits(is_clear, axis=1)
        mask = np.pad(mask, ((0, 0), (0, mask.shape[1] % 2)))  # to two bytes
        return (
            (b"\x20\0" if is_new else b"")
            + struct.pack(
                "<6H",
                *(cursor.hot_x, cursor.hot_y, width, height, mask.size, len(data)),
            )
            + data
            + mask.tobytes()
        )


def straight_alpha(pixels: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Undo the multiplication of colours by alpha, as QEMU's cursors have it.

    Args:
        pixels: 0xAARRGGBB, in an array of any shape.
    """
    alpha = pixels >> 24
    divisor = np.maximum(alpha, 1)
    straight = alpha << 24
    for shift in (16, 8, 0):
        colour = ((pixels >> shift & 0xFF) * 255 + divisor // 2) // divisor
        straight |= np.minimum(colour, 255) << shift
    return np.where(alpha == 0, 0, straight).astype(np.uint32)
