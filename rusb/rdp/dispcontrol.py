"""What size a client wants its screen to have, at the server's end (display.md 9.3).

It is the dynamic channel of MS-RDPEDISP, of which one monitor is of interest.
"""

import struct

from rusb.errors import ParseError

__all__ = ["CHANNEL", "MAX_MESSAGE", "capabilities", "parse_layout"]

CHANNEL = "Microsoft::Windows::RDS::DisplayControl"

MAX_MESSAGE = 4096
"""Bytes of a layout; one of 64 monitors has 2576."""

MIN_SIDE, MAX_SIDE = 200, 8192
"""Pixels of a monitor (MS-RDPEDISP 2.2.2.2.1)."""

_LAYOUT, _CAPABILITIES = 2, 5
_HEAD = struct.Struct("<II")
_MONITORS = struct.Struct("<II")
_MONITOR = struct.Struct("<IiiII5I")
_PRIMARY = 1
_MAX_MONITORS = 64


def capabilities() -> bytes:
    """Return what the server says first: one monitor, of any size."""
    return struct.pack("<5I", _CAPABILITIES, 20, 1, MAX_SIDE, MAX_SIDE)


def parse_layout(message: bytes) -> tuple[int, int] | None:
    """Return width and height of the primary monitor of a layout.

    The width is even. None: the message is something else, or the size is none.

    Raises:
        ParseError: it is malformed.
    """
    if len(message) < _HEAD.size:
        raise ParseError(f"display control of {len(message)} bytes")
    kind, size = _HEAD.unpack_from(message)
    if size != len(message):
        raise ParseError(f"display control of {size} bytes, have {len(message)}")
    if kind != _LAYOUT:
        return None
    if size < _HEAD.size + _MONITORS.size:
        raise ParseError("layout of monitors without their number")
    each, count = _MONITORS.unpack_from(message, _HEAD.size)
    start = _HEAD.size + _MONITORS.size
    if each != _MONITOR.size or count > _MAX_MONITORS or size != start + each * count:
        raise ParseError(f"layout of {count} monitors of {each} bytes in {size}")
    for flags, _, _, width, height, *_ in _MONITOR.iter_unpack(message[start:]):
        if flags & _PRIMARY:
            width -= width % 2
            fits = all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height))
            return (width, height) if fits else None
    return None
