"""Pictures as bitmap updates (vrdp-server.md 1.16, MS-RDPBCGR 2.2.9.1.1.3.1.2)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Picture", "bitmap_updates"]

MAX_DATA = 15000
"""Bytes of pixels in one update, so that its packet stays below 16383."""

_RECTANGLE = struct.Struct("<9H")
_UPDATE_BITMAP = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in the pixel format of a session.

    Attributes:
        width: a multiple of 4.
        depth: bits per pixel: 8 (index into the palette in force), 15, 16, 24, 32.
        data: rows from the top, no padding, pixels little-endian.
    """

    width: int
    height: int
    depth: int
    data: bytes

    @property
    def stride(self) -> int:
        """Bytes of a row."""
        return self.width * ((self.depth + 7) // 8)


def bitmap_updates(picture: Picture) -> Iterator[bytes]:
    """Yield the update data that draw *picture* at the top left, in strips."""
    stride = picture.stride
    rows = max(1, MAX_DATA // stride)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        lines = [
            picture.data[y * stride : (y + 1) * stride]
            for y in range(bottom - 1, top - 1, -1)
        ]
        data = b"".join(lines)
        rectangle = _RECTANGLE.pack(
            0,
            top,
            picture.width - 1,
            bottom - 1,
            picture.width,
            bottom - top,
            picture.depth,
            0,
            len(data),
        )
        yield struct.pack("<HH", _UPDATE_BITMAP, 1) + rectangle + data
