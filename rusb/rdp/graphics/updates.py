"""What draws on a client's screen: bitmaps, palette, orders (display.md 3 and 4).

An :class:`Update` is the same for every client of its form, so that its bytes are made
once: ``ServerConnection.send_update`` frames it for each.
"""

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import rle
from .pixels import (
    PALETTE,
    TILE,
    Frame,
    Pixels,
    pixel_size,
    serialize_palette,
    to_bytes,
    to_depth,
)
from .surfaces import Tile, encode_tiles

__all__ = [
    "CELL",
    "CLIP_RESET",
    "MAX_BITMAPS",
    "Cells",
    "Compression",
    "Damage",
    "Encoder",
    "Form",
    "Update",
    "UpdateKind",
    "palette_update",
]

CELL = 16
"""Pixels of a cell's side; a tile has four by four."""

MAX_BITMAPS = 15 << 10
"""Bytes of an update's bitmaps: with all headers it stays below a packet's limit, and
the largest tile fits."""

MAX_AT_ONCE = 1 << 17
"""Pixels that are encoded in one call: for more of them, the processor's cache is too
small; fewer cost more calls."""

Cells = npt.NDArray[np.bool_]
"""Cells of 16x16 pixels, (rows, columns), the last ones may be cut off."""

_BITMAPS = struct.Struct("<HH")
_RECTANGLE = struct.Struct("<9H")
_COMPRESSION_HEAD = struct.Struct("<4H")
_COMPRESSED, _HAS_NO_HEAD = 0x0001, 0x0400


class UpdateKind(enum.IntEnum):
    """Kinds of updates, as the fast path numbers them (display.md 4.1)."""

    ORDERS = 0
    BITMAP = 1
    PALETTE = 2
    POINTER_HIDDEN = 5
    POINTER_DEFAULT = 6
    POINTER_POSITION = 8
    COLOUR_POINTER = 9
    CACHED_POINTER = 10
    NEW_POINTER = 11


@dataclass(frozen=True, slots=True)
class Update:
    """Something to draw.

    Attributes:
        body: as the fast path has it.
    """

    kind: UpdateKind
    body: bytes


class Compression(enum.Enum):
    """How a client takes compressed bitmaps."""

    NONE = "not at all"
    HEADED = "behind a header"
    BARE = "without a header"
    PIPELINE = "as tiles of the graphics pipeline"


class Form(NamedTuple):
    """What clients must agree on to get the same bytes.

    Attributes:
        depth: bits per pixel: 8, 15, 16 or 24.
    """

    depth: int
    compression: Compression = Compression.BARE


CLIP_RESET = Update(
    UpdateKind.ORDERS,
    bytes.fromhex("0100 0d 027f 0f 0000000000000000 0000000001000100 cc 00000000"),
)
"""Undoes the clip rectangle of rdesktop-vrdp, which keeps that of its first size
(display.md 4.6). Only for clients that know ScrBlt."""


def palette_update() -> Update:
    """Return the palette that a client of 8 bit needs before anything else."""
    return Update(UpdateKind.PALETTE, serialize_palette(PALETTE))


class Damage:
    """Which cells of a screen a client has not got yet.

    Args:
        width, height: pixels of the screen.
    """

    def __init__(self, width: int, height: int) -> None:
        self._cells: Cells = np.zeros((-(-height // CELL), -(-width // CELL)), bool)

    def __bool__(self) -> bool:
        return bool(self._cells.any())

    def add(self, x: int, y: int, width: int, height: int) -> None:
        """A rectangle has changed; what lies beyond the screen is ignored."""
        left, top = max(x, 0) // CELL, max(y, 0) // CELL
        right, bottom = -(-(x + width) // CELL), -(-(y + height) // CELL)
        self._cells[top : max(bottom, 0), left : max(right, 0)] = True

    def add_cells(self, cells: Cells) -> None:
        """Cells of a screen of this size have changed."""
        self._cells |= cells

    def add_all(self) -> None:
        """Everything has changed."""
        self._cells[:] = True

    def take(self, most: int | None = None) -> Cells:
        """Return the cells that have changed, and forget them.

        Args:
            most: cells; what is more than that stays, but for the rest of a row.
        """
        taken = self._cells
        self._cells = np.zeros_like(taken)
        if most is not None and np.count_nonzero(taken) > most:
            rows = int(np.searchsorted(taken.sum(1).cumsum(), most)) + 1
            self._cells[rows:] = taken[rows:]
            taken[rows:] = False
        return taken


class Encoder:
    """Encodes a frame for clients: once for all that want the same in the same form.

    One lives as long as a frame is not looked at again: make one for each tick. It may
    be used in a thread, by one at a time.

    Args:
        frame: (rows, columns) of 0x00RRGGBB, both sides rounded up to 64
            (:func:`new_frame`). What changes meanwhile may be sent half; it must be
            damaged again.
        width, height: pixels of the screen, up to the frame's.
    """

    def __init__(self, frame: Frame, width: int, height: int) -> None:
        assert frame.shape == (-(-height // TILE) * TILE, -(-width // TILE) * TILE)
        self._frame, self._width, self._height = frame, width, height
        self._done: dict[tuple[Form, bytes], list[Update]] = {}
        self._tiles: dict[bytes, list[Tile]] = {}

    def updates(self, cells: Cells, form: Form) -> list[Update]:
        """Return the updates that draw some cells, each with up to MAX_BITMAPS bytes.

        Args:
            cells: which, as :meth:`Damage.take` returns them for this screen.
            form: what the client wants (``ServerConnection.form``).
        """
        key = form, cells.tobytes()
        if key not in self._done:
            self._done[key] = list(_join(self._bitmaps(cells, form)))
        return self._done[key]

    def tiles(self, cells: Cells) -> list[Tile]:
        """Return the tiles that draw some cells in a graphics pipeline."""
        key = cells.tobytes()
        if key not in self._tiles:
            self._tiles[key] = list(self._surface_tiles(cells))
        return self._tiles[key]

    def _surface_tiles(self, cells: Cells) -> Iterator[Tile]:
        for shown, places, tiles in self._stacks(cells):
            height = tiles.shape[1]
            for (x, y), (codec, body) in zip(
                places, encode_tiles(tiles[:, :, :shown]), strict=True
            ):
                yield Tile((x, y, x + shown, y + height), codec, body)

    def _bitmaps(self, cells: Cells, form: Form) -> Iterator[bytes]:
        """Yield rectangles with their pixels."""
        for shown, places, tiles in self._stacks(cells):
            _, height, width = tiles.shape
            pixels = to_depth(tiles[:, ::-1], form.depth)  # the lowest row first
            for (x, y), (flags, data) in zip(
                places, _encoded(pixels, form), strict=True
            ):
                # what goes beyond the right edge is padding
                yield (
                    _RECTANGLE.pack(
                        *(x, y, x + shown - 1, y + height - 1),
                        *(width, height, form.depth, flags, len(data)),
                    )
                    + data
                )

    def _stacks(
        self, cells: Cells
    ) -> Iterator[tuple[int, list[tuple[int, int]], Frame]]:
        """Yield tiles of one shape.

        Yields:
            columns that are on the screen, where each tile begins, the tiles.
        """
        frame = self._frame
        for (height, width), places in _tiles(cells, self._height).items():
            step = max(1, MAX_AT_ONCE // (height * width))
            inside = [at for at in places if at[0] + width <= self._width]
            edge = [at for at in places if at[0] + width > self._width]
            for group in (inside, edge):
                for begin in range(0, len(group), step):
                    some = group[begin : begin + step]
                    shown = min(width, self._width - some[0][0])
                    tiles = [frame[y : y + height, x : x + width] for x, y in some]
                    yield shown, some, np.stack(tiles)


def _tiles(cells: Cells, bottom: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Group cells into tiles: where those of each (height, width) begin, as (x, y).

    A tile is what contains the set ones of four by four cells. The last row of tiles
    ends at *bottom*.
    """
    side = TILE // CELL
    down, across = (np.flatnonzero(cells.any(axis)) for axis in (1, 0))
    if not down.size:
        return {}
    y, x = int(down[0]), int(across[0])
    last_y, last_x = int(down[-1]), int(across[-1])
    if y // side == last_y // side and x // side == last_x // side:  # as a character
        shape = min((last_y + 1) * CELL, bottom) - y * CELL, (last_x + 1 - x) * CELL
        return {shape: [(x * CELL, y * CELL)]}
    rows, columns = (-(-n // side) for n in cells.shape)
    padded = np.zeros((rows * side, columns * side), bool)
    padded[: cells.shape[0], : cells.shape[1]] = cells
    blocks = padded.reshape(rows, side, columns, side)
    in_row, in_column = blocks.max(3).swapaxes(1, 2), blocks.max(1)
    chosen = np.nonzero(in_row.max(2))
    in_row, in_column = in_row[chosen], in_column[chosen]
    top = (chosen[0] * side + in_row.argmax(1)) * CELL
    left = (chosen[1] * side + in_column.argmax(1)) * CELL
    end = ((chosen[0] + 1) * side - in_row[:, ::-1].argmax(1)) * CELL
    right = ((chosen[1] + 1) * side - in_column[:, ::-1].argmax(1)) * CELL
    shapes = zip(
        (np.minimum(end, bottom) - top).tolist(), (right - left).tolist(), strict=True
    )
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for shape, x, y in zip(shapes, left.tolist(), top.tolist(), strict=True):
        found.setdefault(shape, []).append((x, y))
    return found


def _encoded(tiles: Pixels, form: Form) -> Iterator[tuple[int, bytes]]:
    """Yield flags and data of each tile: raw where compression makes it no shorter."""
    _, height, width = tiles.shape
    size = pixel_size(form.depth)
    whole = height * width * size
    is_compressed = form.compression is not Compression.NONE
    packed = rle.encode(tiles, size) if is_compressed else [None] * len(tiles)
    for tile, data in zip(tiles, packed, strict=True):
        if data is None or len(data) >= whole:
            yield 0, to_bytes(tile, size).tobytes()
        elif form.compression is Compression.BARE:
            yield _COMPRESSED | _HAS_NO_HEAD, data
        else:
            head = _COMPRESSION_HEAD.pack(0, len(data), width * size, whole)
            yield _COMPRESSED, head + data


def _join(rectangles: Iterator[bytes]) -> Iterator[Update]:
    """Put rectangles into updates, as many as fit into each."""
    parts: list[bytes] = []
    size = 0
    for rectangle in rectangles:
        if parts and size + len(rectangle) > MAX_BITMAPS:
            yield _bitmap_update(parts)
            parts, size = [], 0
        parts.append(rectangle)
        size += len(rectangle)
    if parts:
        yield _bitmap_update(parts)


def _bitmap_update(rectangles: list[bytes]) -> Update:
    head = _BITMAPS.pack(UpdateKind.BITMAP, len(rectangles))
    return Update(UpdateKind.BITMAP, head + b"".join(rectangles))
