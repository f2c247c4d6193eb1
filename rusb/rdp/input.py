"""Keyboard and mouse: slow-path and fast-path input (1.15, MS-RDPBCGR 2.2.8.1)."""

import struct

from rusb.errors import ParseError

from .events import InputKind, InputReceived
from .per import Reader

__all__ = ["parse_fast_input", "parse_slow_input"]

_SLOW = struct.Struct("<IHHHH")
_MOUSE = struct.Struct("<HHH")

_RELEASE, _EXTENDED, _EXTENDED1 = 0x8000, 0x0100, 0x0200

_SIZES = {2: 6, 4: 2, 6: 4}  # fast-path: extended mouse, unicode, timestamp


def parse_slow_input(body: bytes) -> list[InputReceived]:
    """Read the body of an Input PDU; kinds that VRDP ignores are left out.

    Raises:
        ParseError: fewer events than announced.
    """
    reader = Reader(body, "input")
    count = reader.u16()
    reader.take(2)
    found = []
    for _ in range(count):
        _, kind, flags, x, y = _SLOW.unpack(reader.take(_SLOW.size))
        match kind:
            case InputKind.SYNCHRONIZE.value:  # flags are padding
                found.append(InputReceived(InputKind.SYNCHRONIZE, 0, x))
            case InputKind.KEY.value:
                found.append(InputReceived(InputKind.KEY, flags, x))
            case InputKind.MOUSE.value:
                found.append(InputReceived(InputKind.MOUSE, flags, x, y))
    return found


def parse_fast_input(head: int, body: bytes) -> list[InputReceived]:
    """Read a fast-path packet.

    Args:
        head: its first byte, without the bits for encryption.
        body: what follows its length, in clear.

    Raises:
        ParseError: no input, an unknown event, or cut off.
    """
    if head & 0x43:
        raise ParseError(f"fast-path header 0x{head:02X} is not input")
    reader = Reader(body, "fast-path input")
    count = head >> 2 & 0x0F or reader.u8()
    found = []
    for _ in range(count):
        code = reader.u8()
        kind, flags = code >> 5, code & 0x1F
        match kind:
            case 0:
                found.append(InputReceived(InputKind.KEY, _key(flags), reader.u8()))
            case 1:
                mouse, x, y = _MOUSE.unpack(reader.take(_MOUSE.size))
                found.append(InputReceived(InputKind.MOUSE, mouse, x, y))
            case 3:
                found.append(InputReceived(InputKind.SYNCHRONIZE, 0, flags))
            case _ if kind in _SIZES:
                reader.take(_SIZES[kind])
            case _:
                raise ParseError(f"fast-path input event {kind}", reader.pos)
    reader.end()
    return found


def _key(flags: int) -> int:
    """Translate the flags of a fast-path key to those of slow path."""
    return (
        (_RELEASE if flags & 1 else 0)
        | (_EXTENDED if flags & 2 else 0)
        | (_EXTENDED1 if flags & 4 else 0)
    )
