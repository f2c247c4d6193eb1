"""What a client tells QEMU's VNC server (display.md 2.2 to 2.6); big-endian."""

import enum
import struct
import zlib
from collections.abc import Sequence

__all__ = [
    "ENCODINGS",
    "SOUND_FORMAT",
    "VERSION",
    "Clipboard",
    "Encoding",
    "clipboard",
    "encodings",
    "key",
    "pixel_format",
    "pointer",
    "request",
    "size",
    "sound",
    "text_provided",
]

VERSION = b"RFB 003.008\n"


class Encoding(enum.IntEnum):
    """What a rectangle of an update is."""

    RAW = 0
    DESKTOP_SIZE = -223
    EXTENDED_SIZE = -308
    ALPHA_CURSOR = -314
    CURSOR = -239
    KEYS = -258  # ours have scan codes
    POINTER_TYPE = -257
    LEDS = -261
    SOUND = -259
    CLIPBOARD = -1063131698


ENCODINGS = tuple(Encoding)
"""Those that are asked for, the most wanted first."""


class Clipboard(enum.IntFlag):
    """What a message of the extended clipboard is about."""

    TEXT = 1
    CAPS = 1 << 24
    REQUEST = 1 << 25
    PEEK = 1 << 26
    NOTIFY = 1 << 27
    PROVIDE = 1 << 28


SOUND_FORMAT = bytes.fromhex("ff0100020302") + (44100).to_bytes(4)
"""Signed 16 bit, 2 channels, 44100 Hz."""


def pixel_format() -> bytes:
    """Ask for 32 bits, little-endian, 0x00RRGGBB."""
    return bytes.fromhex("00000000 20180001 00ff00ff00ff 100800 000000")


def encodings(wanted: Sequence[int] = ENCODINGS) -> bytes:
    """Say which encodings are understood."""
    return struct.pack(f">BxH{len(wanted)}i", 2, len(wanted), *wanted)


def request(width: int, height: int, *, is_incremental: bool) -> bytes:
    """Ask for what has changed on the whole screen, or for all of it."""
    return struct.pack(">BB4H", 3, is_incremental, 0, 0, width, height)


def key(code: int, *, is_down: bool) -> bytes:
    """Press or release a key, by its scan code: bit 7 is set for those behind E0."""
    return struct.pack(">BBHII", 255, 0, is_down, 0, code)


def pointer(buttons: int, x: int, y: int) -> bytes:
    """Say where the pointer is, and which buttons are down."""
    return struct.pack(">BBHH", 5, buttons, x, y)


def size(width: int, height: int) -> bytes:
    """Ask for a screen of another size."""
    screen = struct.pack(">I4HI", 0, 0, 0, width, height, 0)
    return struct.pack(">BxHHBx", 251, width, height, 1) + screen


def sound(*, is_on: bool) -> bytes:
    """Switch sound on or off."""
    return struct.pack(">BBH", 255, 1, 0 if is_on else 1)


def clipboard(flags: int, rest: bytes = b"") -> bytes:
    """Return a message of the extended clipboard."""
    return struct.pack(">B3xiI", 6, -4 - len(rest), flags) + rest


def text_provided(text: str) -> bytes:
    """Return our clipboard's text."""
    data = text.encode()
    packed = zlib.compress(len(data).to_bytes(4) + data)
    return clipboard(Clipboard.PROVIDE | Clipboard.TEXT, packed)
