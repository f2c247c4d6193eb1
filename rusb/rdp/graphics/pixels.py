"""Frames, and pixels in the depths of sessions (display.md 4.2)."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rusb.errors import ParseError

__all__ = [
    "DEPTHS",
    "KINDS",
    "PALETTE",
    "TILE",
    "Frame",
    "Pixels",
    "frame_of",
    "from_bytes",
    "from_depth",
    "new_frame",
    "parse_palette",
    "pixel_size",
    "serialize_palette",
    "to_bytes",
    "to_depth",
]

Frame: TypeAlias = npt.NDArray[np.uint32]
"""Pixels 0x00RRGGBB in rows, top down; the highest byte has no meaning. Both sides are
a multiple of TILE: what lies beyond the screen is only padding."""

Pixels: TypeAlias = npt.NDArray[np.integer[Any]]
"""Pixels in the depth of a session: uint8, uint16, or uint32 for 24 bit, with red in
the highest bits (3-3-2, 5-5-5, 5-6-5, 8-8-8)."""

DEPTHS = (8, 15, 16, 24)
"""Bits per pixel of a session."""

KINDS: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    3: np.dtype("<u4"),
}
"""What arrays of pixels of so many bytes consist of."""

TILE = 64
"""Pixels of a tile's longest side."""

_COLOURS_OF = {
    8: ((16, 0xE0), (11, 0x1C), (6, 0x03)),
    15: ((9, 0x7C00), (6, 0x03E0), (3, 0x001F)),
    16: ((8, 0xF800), (5, 0x07E0), (3, 0x001F)),
}
"""How far red, green and blue are moved to the right, and what stays of them."""

_COLOURS = 256
_PALETTE_HEAD = b"\2\0\0\0\0\1\0\0"  # update type, pad, 256 colours


def pixel_size(depth: int) -> int:
    """Return the bytes of a pixel."""
    return (depth + 7) // 8


def new_frame(width: int, height: int) -> Frame:
    """Return a black frame for a screen of that many pixels."""
    return np.zeros((-(-height // TILE) * TILE, -(-width // TILE) * TILE), np.uint32)


def frame_of(width: int, height: int, rgb: bytes) -> Frame:
    """Return a frame of an image of three bytes per pixel: red, green, blue."""
    frame = new_frame(width, height)
    planes = np.frombuffer(rgb, np.uint8).reshape(height, width, 3).T
    frame[:height, :width] = _rgb(*planes.astype(np.uint32)).T
    return frame


def to_depth(pixels: Frame, depth: int) -> Pixels:
    """Convert pixels 0x00RRGGBB, in an array of any shape."""
    if depth == 24:
        return pixels & 0xFFFFFF
    found: Pixels = np.zeros(pixels.shape, KINDS[pixel_size(depth)])
    for shift, mask in _COLOURS_OF[depth]:
        colour = (pixels >> shift).astype(found.dtype)  # which the cache likes better
        colour &= found.dtype.type(mask)
        found |= colour
    return found


def from_depth(pixels: Pixels, depth: int, palette: Frame) -> Frame:
    """Convert to pixels 0x00RRGGBB: the highest value of a colour becomes 255.

    Args:
        pixels: an array of any shape.
        depth: its bits per pixel.
        palette: the 256 colours of 8 bit.
    """
    if depth == 8:
        return palette[pixels]
    wide = pixels.astype(np.uint32)
    if depth == 24:
        return wide
    green_bits = depth - 10
    red = wide >> 5 + green_bits & 0x1F
    green = wide >> 5 & (1 << green_bits) - 1
    blue = wide & 0x1F
    red, blue = red << 3 | red >> 2, blue << 3 | blue >> 2
    green = green << 8 - green_bits | green >> 2 * green_bits - 8
    return _rgb(red, green, blue)


def to_bytes(pixels: Pixels, size: int) -> npt.NDArray[np.uint8]:
    """Return pixels as they are sent, *size* bytes each, little-endian."""
    wide = np.ascontiguousarray(pixels, KINDS[size]).reshape(-1).view(np.uint8)
    return wide if size < 3 else wide.reshape(-1, 4)[:, :3].reshape(-1)


def from_bytes(data: bytes, size: int) -> Pixels:
    """Return pixels that were sent; *data* has *size* bytes for each."""
    if size < 3:
        return np.frombuffer(data, KINDS[size])
    blue, green, red = np.frombuffer(data, np.uint8).reshape(-1, 3).T.astype(np.uint32)
    return _rgb(red, green, blue)


def serialize_palette(palette: Frame) -> bytes:
    """Return the body of a palette update (MS-RDPBCGR 2.2.9.1.1.3.1.1.1)."""
    rgb = palette.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    return _PALETTE_HEAD + rgb.tobytes()


def parse_palette(body: bytes) -> Frame:
    """Read the body of a palette update.

    Raises:
        ParseError: other than 256 colours.
    """
    size = len(_PALETTE_HEAD) + 3 * _COLOURS
    if len(body) != size or body[:2] + body[4:8] != b"\2\0\0\1\0\0":
        raise ParseError(f"palette update {body[:8].hex()} of {len(body)} bytes")
    rgb = np.frombuffer(body, np.uint8, 3 * _COLOURS, len(_PALETTE_HEAD))
    return _rgb(*rgb.reshape(-1, 3).T.astype(np.uint32))


def _make_palette() -> Frame:
    """Return the colours of 3-3-2 bits."""
    index = np.arange(_COLOURS, dtype=np.uint32)
    red, green = (index >> 5) * 255 // 7, (index >> 2 & 7) * 255 // 7
    return _rgb(red, green, (index & 3) * 85)


def _rgb(red: Pixels, green: Pixels, blue: Pixels) -> Frame:
    return (red << 16 | green << 8 | blue).astype(np.uint32, copy=False)


PALETTE = _make_palette()
"""What the 256 values of a session of 8 bit look like."""
