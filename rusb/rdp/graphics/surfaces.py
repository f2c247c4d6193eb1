"""Bitmaps of the graphics pipeline: tiles without loss, pictures of a video.

They are the same for every client, but for the number of a ClearCodec bitmap.
"""

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .pixels import TILE, Frame

__all__ = ["Codec", "Picture", "Place", "Tile", "encode_tiles"]

Place = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; the last two are the first ones outside."""

_LONG_RUN = 0xFF
"""In place of the length of a run: two bytes with it follow."""

_NO_ALPHA = b"\x20"


class Codec(enum.IntEnum):
    """How a bitmap is encoded."""

    CLEAR = 8
    PLANAR = 10
    AVC420 = 11


class Tile(NamedTuple):
    """A part of the screen, without loss.

    Attributes:
        body: as it is sent; of ClearCodec without the first two bytes, flags and
            number.
    """

    place: Place
    codec: Codec
    body: bytes


class Picture(NamedTuple):
    """A picture of a video.

    Attributes:
        stream: number of the video; pictures of one need those before them.
        size: width and height of all of its pictures.
        place: of the part that is on the screen, from the upper left corner on.
        body: H.264, Annex B.
    """

    stream: int
    size: tuple[int, int]
    place: Place
    body: bytes


def encode_tiles(tiles: Frame) -> Iterator[tuple[Codec, bytes]]:
    """Yield codec and body of tiles of one size: whichever is shorter.

    Args:
        tiles: (count, height, width) of 0x00RRGGBB, top down, up to 64x64.
    """
    count, height, width = tiles.shape
    assert height <= TILE >= width
    whole = 2 + 3 * height * width
    for number, residual in enumerate(_residuals(tiles)):
        if len(residual) <= whole:
            yield Codec.CLEAR, residual
        else:
            pixels = np.ascontiguousarray(tiles[number], "<u4").view(np.uint8)
            planes = pixels.reshape(-1, 4)[:, 2::-1].T  # red, green, blue
            yield Codec.PLANAR, _NO_ALPHA + planes.tobytes() + b"\0"


def _residuals(tiles: Frame) -> list[bytes]:
    """Return ClearCodec's residual layer of each tile (MS-RDPEGFX 2.2.4.1.1.1)."""
    count, height, width = tiles.shape
    pixels = (tiles & 0xFFFFFF).reshape(count, height * width)
    edges = np.ones(pixels.shape, bool)
    np.not_equal(pixels[:, 1:], pixels[:, :-1], out=edges[:, 1:])
    starts = np.flatnonzero(edges)
    lengths = np.diff(starts, append=pixels.size)
    colours = pixels.reshape(-1)[starts]
    is_long = lengths >= _LONG_RUN
    sizes = 4 + 2 * is_long
    ends = np.cumsum(sizes)
    at = ends - sizes
    out = np.empty(int(ends[-1]), np.uint8)
    for byte in range(3):
        out[at + byte] = (colours >> 8 * byte).astype(np.uint8)
    out[at + 3] = np.minimum(lengths, _LONG_RUN).astype(np.uint8)
    long = at[is_long]
    out[long + 4] = lengths[is_long] & 0xFF
    out[long + 5] = lengths[is_long] >> 8
    data = out.tobytes()
    first = np.searchsorted(starts, np.arange(count) * height * width)
    begins = [*at[first].tolist(), len(data)]
    return [
        struct.pack("<III", end - begin, 0, 0) + data[begin:end]
        for begin, end in zip(begins, begins[1:], strict=False)
    ]
