"""What has moved on a screen, so that a client moves it itself (display.md 4.4)."""

import struct
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .pixels import Frame, new_frame
from .updates import CELL, Cells, Update, UpdateKind

__all__ = ["Change", "Shadow", "scrblt"]

MIN_ROWS, MIN_COLUMNS = 64, 64
"""Pixels of the smallest part that is worth an order."""

MAX_REST = 0.7
"""Share of what has changed that may still differ once the rest has moved: for more
there is no order."""

SAMPLES = 256
"""Columns that are looked at to know a row again."""

_MOVE = struct.Struct("<H3s4hB2h")
_HEAD, _COPY = b"\x09\x02\x7f", 0xCC

# odd, so that no bit of a pixel is lost; which numbers they are does not matter (and
# numpy.random costs a program's start a tenth)
_CHANCE = Random(1)
_FACTORS = np.array([_CHANCE.getrandbits(32) | 1 for _ in range(SAMPLES)], np.uint32)


_Move = tuple[int, int, int]
"""Rows that have moved: the first of those in the later picture, the one behind the
last, and how much further down they were before."""


class Change(NamedTuple):
    """How clients that had the picture before get the one of now.

    Attributes:
        cells: what differs; for clients that do not know ScrBlt.
        order: for the others, together with *rest*; None: nothing has moved.
        rest: what still differs after the order; of other cells, too, where the order
            moves more than has changed.
    """

    cells: Cells
    order: Update | None
    rest: Cells


class Shadow:
    """What clients have that are up to date; nobody else changes it.

    Args:
        width, height: pixels of the screen.

    Attributes:
        size: width and height.
        frame: what they have; black at first. Encode what they get from it, not from
            the frame that may change meanwhile.
    """

    def __init__(self, width: int, height: int) -> None:
        self.frame = new_frame(width, height)
        self._next = new_frame(width, height)  # the same, but within advance()
        self.size = width, height

    def advance(
        self, frame: Frame, cells: Cells, *, wants_moves: bool = True
    ) -> Change:
        """Take over what has changed, and say how clients do.

        Args:
            frame: of the same size as the shadow's.
            cells: which of them are taken, if they differ; no others are.
            wants_moves: somebody takes an order.
        """
        found = np.zeros_like(cells)
        rows, columns = (np.flatnonzero(cells.any(axis)) for axis in (1, 0))
        if not len(rows):
            return Change(found, None, found)
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = int(rows[0]) * CELL, int(columns[0]) * CELL
        bottom = min(int(rows[-1] + 1) * CELL, self.size[1])
        right = min(int(columns[-1] + 1) * CELL, self.size[0])
        place = np.s_[top:bottom, left:right]
        before, after = self.frame[place], self._next[place]
        found[part] = _take(frame[place], before, after, cells[part])
        order, rest = None, found
        move = _find_move(before, after) if wants_moves else None
        if move is not None:
            remaining = np.zeros_like(cells)
            remaining[part] = _differing(before, after, move)
            if remaining.sum() <= MAX_REST * found.sum():
                begin, end, distance = move
                target = (left, top + begin, right - left, end - begin)
                order, rest = scrblt(target, left, top + begin + distance), remaining
        before[:] = after
        return Change(found, order, rest)


def scrblt(target: tuple[int, int, int, int], x: int, y: int) -> Update:
    """Return the order that copies a part of a client's screen.

    Args:
        target: x, y, width, height of where to.
        x, y: where from.
    """
    body = _MOVE.pack(1, _HEAD, *target, _COPY, x, y)
    return Update(UpdateKind.ORDERS, body)


def _take(source: Frame, before: Frame, after: Frame, named: Cells) -> Cells:
    """Write into *after*, where there is what was before, what is new in named cells.

    Returns:
        the cells in which a pixel differs.
    """
    np.bitwise_and(source, 0xFFFFFF, out=after)
    found = _differing(before, after)
    others = found & ~named
    if others.any():
        wide = others.repeat(CELL, 0).repeat(CELL, 1)
        height, width = after.shape
        np.copyto(after, before, where=wide[:height, :width])
    return found & named


def _differing(before: Frame, after: Frame, move: _Move = (0, 0, 0)) -> Cells:
    """Return the cells of two pictures in which a pixel differs.

    Args:
        move: what is done to the picture before.
    """
    height, width = before.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    differs = np.zeros((rows * CELL, columns * CELL), bool)
    begin, end, distance = move
    for top, bottom, moved in ((0, begin, 0), (begin, end, distance), (end, height, 0)):
        if top < bottom:
            np.not_equal(
                *(before[top + moved : bottom + moved], after[top:bottom]),
                out=differs[top:bottom, :width],
            )
    words = differs.view(np.uint64)  # eight pixels each
    words = np.bitwise_or.reduce(words.reshape(rows, CELL, -1), 1)
    cells: Cells = words.reshape(rows, columns, -1).max(2) != 0
    return cells


def _find_move(before: Frame, after: Frame) -> _Move | None:
    """Find rows that have moved up or down."""
    height, width = before.shape
    if height <= MIN_ROWS or width < MIN_COLUMNS:
        return None
    old, new = _row_sums(before), _row_sums(after)
    old_rows, new_rows = _unique_rows(old), _unique_rows(new)
    _, of_old, of_new = np.intersect1d(
        old[old_rows], new[new_rows], assume_unique=True, return_indices=True
    )
    distances = old_rows[of_old] - new_rows[of_new]
    distances = distances[distances != 0]
    if not len(distances):
        return None
    votes = np.bincount(distances + height)
    distance = int(votes.argmax()) - height
    first, last = max(0, -distance), min(height, height - distance)
    is_moved = new[first:last] == old[first + distance : last + distance]
    moved = np.flatnonzero(is_moved)
    begin, end = first + int(moved[0]), first + int(moved[-1]) + 1
    return (begin, end, distance) if end - begin >= MIN_ROWS else None


def _row_sums(pixels: Frame) -> npt.NDArray[np.uint32]:
    """Return a number for each row, which hardly two different ones have."""
    some = pixels[:, :: -(-pixels.shape[1] // SAMPLES)]
    products = some * _FACTORS[: some.shape[1]]
    sums: npt.NDArray[np.uint32] = products.sum(1, dtype=np.uint32)
    return sums


def _unique_rows(sums: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    """Return the rows whose number no other has."""
    _, first, counts = np.unique(sums, return_index=True, return_counts=True)
    rows: npt.NDArray[np.intp] = first[counts == 1]
    return rows
