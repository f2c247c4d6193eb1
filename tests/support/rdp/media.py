"""What clients say on the channels of sound and of the clipboard."""

import struct
from collections.abc import Sequence

__all__ = [
    "GOOD",
    "LONG_NAMES",
    "clip",
    "confirmation",
    "formats",
    "names",
    "response",
    "trained",
]

GOOD = (1, 2, 44100, 176400, 4, 16)
"""PCM of 44100 Hz: tag, channels, rate, speed, block and bits."""


LONG_NAMES = struct.pack("<HHIHHHHII", 7, 0, 16, 1, 0, 1, 12, 2, 2)
"""Capabilities of a client's clipboard."""


def formats(
    found: Sequence[tuple[int, ...]] = (GOOD,), version: int = 8, extra: bytes = b""
) -> bytes:
    """What a client can play."""
    body = struct.pack("<IIIHHBHx", 1, 0, 0, 0, len(found), 0, version)
    for one in found:
        body += struct.pack("<HHIIHHH", *one, len(extra)) + extra
    return struct.pack("<BxH", 7, len(body)) + body


def trained() -> bytes:
    """The confirmation of the training."""
    return bytes.fromhex("06000400 0000 0004")


def confirmation(block: int) -> bytes:
    """A block was played."""
    return struct.pack("<BxHHBx", 5, 4, 0, block)


def clip(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """A message of the clipboard."""
    return struct.pack("<HHI", kind, flags, len(body)) + body


def names(*numbers: int, is_long: bool = True) -> bytes:
    """A list of formats."""
    body = b"".join(struct.pack("<I", n) + bytes(2 if is_long else 32) for n in numbers)
    return clip(2, body)


def response(text: str) -> bytes:
    """A text."""
    return clip(5, (text + "\0").encode("utf-16-le"), 1)
