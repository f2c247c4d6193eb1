"""Where a guest plays a video, and its pictures (display.md 10.2)."""

from collections.abc import Sequence

import numpy as np

from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.graphics.surfaces import Picture
from rusb.rdp.graphics.updates import CELL, Cells

from .base import Rectangle
from .h264 import H264Encoder

__all__ = ["Detector", "Stream", "cells_of"]

MIN_SIDE = 64
"""Pixels of the shorter side of what may be a video."""

MIN_ASPECT, MAX_ASPECT = 0.5, 3.0
"""Its width divided by its height."""

REPEATS = 10
"""Times that the same part must change, one after the other."""

REPRIEVE = 100
"""Further times until what is no video is looked at again: that costs a picture."""

NEAR = 16
"""Pixels by which its borders may differ from one time to the next."""

SHORTEST, LONGEST = 0.015, 0.3
"""Seconds between two pictures of a video."""

MAX_OUTSIDE, PATIENCE = 0.25, 10
"""Share of what changes that may lie outside of a video, and how many times in a row
there may be more before it is none."""

_Box = tuple[int, int, int, int]  # left, top, right, bottom


class Detector:
    """Finds a part of a screen that changes as a video does.

    Attributes:
        candidate: it changes like one; whether it looks like one is for :meth:`judge`.
        area: it is one. Whole cells: left, top, right, bottom.
    """

    def __init__(self) -> None:
        self.candidate: _Box | None = None
        self.area: _Box | None = None
        self._box: _Box | None = None
        self._first: _Box | None = None
        self._count = self._strikes = 0
        self._last = 0.0

    def forget(self) -> None:
        """Begin anew: the screen is another one, or nobody wants videos."""
        self.candidate = self.area = self._box = self._first = None
        self._count = self._strikes = 0

    def judge(self, *, is_dense: bool) -> None:
        """Take a candidate for a video, or begin anew.

        Args:
            is_dense: its picture is hard to compress, unlike text that scrolls.
        """
        candidate = self.candidate
        if candidate is None:
            return
        if is_dense:
            self.forget()
            self.area = candidate
        else:
            self.candidate, self._count = None, -REPRIEVE

    def damaged(self, rectangles: Sequence[Rectangle], now: float) -> None:
        """Parts of the screen have changed."""
        boxes = [(x, y, x + w, y + h) for x, y, w, h in rectangles if w > 0 and h > 0]
        if not boxes:
            return
        if self.area is not None:
            self._follow(self.area, boxes, now)
        else:
            self._count_up(boxes, now)

    def expire(self, now: float) -> bool:
        """Did a video end because nothing has changed there? Then it is forgotten."""
        if self.area is None or now - self._last <= LONGEST:
            return False
        self.forget()
        return True

    def _count_up(self, boxes: Sequence[_Box], now: float) -> None:
        left, top, right, bottom = box = _around(boxes)
        distance, self._last = now - self._last, now
        first = self._first
        is_again = (
            first is not None
            and SHORTEST <= distance <= LONGEST
            and all(abs(a - b) <= NEAR for a, b in zip(first, box, strict=True))
        )
        if not is_again:
            self.candidate, self._count = None, 0
            self._first = self._box = box
        assert self._box is not None
        self._box = _around([self._box, box])
        self._count += 1
        width, height = right - left, bottom - top
        is_fit = (
            min(width, height) >= MIN_SIDE
            and MIN_ASPECT <= width / height <= MAX_ASPECT
        )
        if is_fit and self._count >= REPEATS:
            self.candidate = _cells_around(self._box)

    def _follow(self, area: _Box, boxes: Sequence[_Box], now: float) -> None:
        sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
        inside = sum(_common(area, box) for box in boxes)
        if inside:
            self._last = now
        is_off = sum(sizes) - inside > MAX_OUTSIDE * sum(sizes)
        self._strikes = self._strikes + 1 if is_off else 0
        if self._strikes >= PATIENCE:
            self.forget()


class Stream:
    """A video that is shown, with one encoder for all who see it.

    Args:
        number: of the stream; each has another one.
        area: what :class:`Detector` has found.
        size: width and height of the screen.
        quality: 10 to 100.

    Attributes:
        mask: its cells.
    """

    def __init__(
        self, number: int, area: _Box, size: tuple[int, int], quality: int
    ) -> None:
        left, top, right, bottom = self._area = area
        self._number = number
        self._quality = quality
        self._size = right - left, bottom - top
        self._place = left, top, min(right, size[0]), min(bottom, size[1])
        self._encoder: H264Encoder | None = None
        self.mask = cells_of(area, size)

    def picture(self, frame: Frame, *, is_key: bool) -> Picture:
        """Return the next picture; in a thread, for it takes some milliseconds.

        Args:
            frame: the screen, rounded up to tiles.
            is_key: it needs none before it.

        Raises:
            ImportError, ValueError: there is no encoder.
        """
        if self._encoder is None:
            self._encoder = H264Encoder(*self._size, self._quality)
        left, top, right, bottom = self._area
        pixels = frame[top:bottom, left:right]
        body = self._encoder.encode(pixels, is_key=is_key)
        return Picture(self._number, self._size, self._place, body)


def cells_of(box: _Box, size: tuple[int, int]) -> Cells:
    """Return the cells of a box of whole cells, on a screen of this size."""
    left, top, right, bottom = box
    width, height = size
    cells: Cells = np.zeros((-(-height // CELL), -(-width // CELL)), bool)
    cells[top // CELL : bottom // CELL, left // CELL : right // CELL] = True
    return cells


def _around(boxes: Sequence[_Box]) -> _Box:
    """Return what contains all of them."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _cells_around(box: _Box) -> _Box:
    left, top, right, bottom = box
    return (
        *(left // CELL * CELL, top // CELL * CELL),
        *(-(-right // CELL) * CELL, -(-bottom // CELL) * CELL),
    )


def _common(one: _Box, other: _Box) -> int:
    """Return how many pixels two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
