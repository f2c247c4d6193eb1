"""Demand Active, Confirm Active and the capability sets in them (1.12, 8.4)."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rusb.errors import ParseError

from .per import Reader
from .share import SERVER_USER

__all__ = [
    "MAX_CHUNK",
    "MIN_CHUNK",
    "Capabilities",
    "client_sets",
    "parse_confirm_active",
    "parse_demand_active",
    "serialize_confirm_active",
    "serialize_demand_active",
    "server_sets",
]

MIN_CHUNK = 1600
"""Bytes of a channel chunk that every peer takes (MS-RDPBCGR 2.2.7.1.10)."""

MAX_CHUNK = 16256
"""Bytes of the longest channel chunk; with its headers it still fits a packet."""

_GENERAL = struct.Struct("<9H2B")
_BITMAP = struct.Struct("<9H2B2H")
_ORDER = struct.Struct("<16s4x6H32s2H4xI4H")
_INPUT = struct.Struct("<2H4I64x")

_FAST_OUTPUT = 0x0001
_EXTRA_FLAGS = 0x040D  # fast-path output, long credentials, no compression header, …
_SCANCODES, _FAST_INPUT = 0x0001, 0x0008 | 0x0020


class _Set:
    """Types of capability sets."""

    GENERAL, BITMAP, ORDER, BITMAP_CACHE, CONTROL = 1, 2, 3, 4, 5
    ACTIVATION, POINTER, SHARE, COLOUR_CACHE = 7, 8, 9, 10
    SOUND, INPUT, FONT, BRUSH, GLYPH_CACHE = 12, 13, 14, 15, 16
    VIRTUAL_CHANNEL, LARGE_POINTER = 20, 27


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a peer's capability sets say, as far as it matters here.

    Attributes:
        has_fast_output: it takes fast-path output.
        has_suppress_output: it obeys Suppress Output.
        width, height, depth: of the Bitmap set; 0 if there is none.
        can_resize: its desktopResizeFlag: the size may change in a session.
        chunk_size: bytes of payload per channel chunk it takes; MIN_CHUNK if it does
            not say, or says what is not allowed.
    """

    has_fast_output: bool
    has_suppress_output: bool
    width: int
    height: int
    depth: int
    can_resize: bool
    chunk_size: int

    @classmethod
    def of(cls, sets: Mapping[int, bytes]) -> "Capabilities":
        """Read capability sets; what is missing or short counts as absent."""
        general = sets.get(_Set.GENERAL, b"")
        extra, suppress = 0, 0
        if len(general) >= _GENERAL.size:
            extra, suppress = (_GENERAL.unpack_from(general)[i] for i in (5, 10))
        bitmap = sets.get(_Set.BITMAP, b"")
        depth = width = height = resize = 0
        if len(bitmap) >= _BITMAP.size:
            depth, _, _, _, width, height, _, resize, *_ = _BITMAP.unpack_from(bitmap)
        chunk = int.from_bytes(sets.get(_Set.VIRTUAL_CHANNEL, b"")[4:8], "little")
        return cls(
            has_fast_output=bool(extra & _FAST_OUTPUT),
            has_suppress_output=bool(suppress),
            width=width,
            height=height,
            depth=depth,
            can_resize=bool(resize),
            chunk_size=chunk if MIN_CHUNK <= chunk <= MAX_CHUNK else MIN_CHUNK,
        )


def parse_demand_active(body: bytes) -> tuple[int, dict[int, bytes]]:
    """Read a Demand Active behind its share control header.

    Returns:
        the share id, and the sets' bodies by type.

    Raises:
        ParseError: a malformed header or set.
    """
    reader = Reader(body, "Demand Active")
    share_id = reader.u32()
    return share_id, _parse_sets(reader)


def parse_confirm_active(body: bytes) -> tuple[int, dict[int, bytes]]:
    """Read a Confirm Active behind its share control header, like Demand Active."""
    reader = Reader(body, "Confirm Active")
    share_id = reader.u32()
    reader.take(2)  # originator
    return share_id, _parse_sets(reader)


def serialize_demand_active(share_id: int, sets: Sequence[bytes]) -> bytes:
    """Return the body of a Demand Active."""
    return struct.pack("<I", share_id) + _serialize_sets(b"RDP\0", sets) + bytes(4)


def serialize_confirm_active(share_id: int, sets: Sequence[bytes]) -> bytes:
    """Return the body of a Confirm Active."""
    head = struct.pack("<IH", share_id, SERVER_USER)
    return head + _serialize_sets(b"MSTSC\0", sets)


def server_sets(width: int, height: int, depth: int) -> list[bytes]:
    """Return the sets of Demand Active in the original's order (1.12)."""
    supported = bytearray(32)
    for index in (*range(5), *range(7, 12), *range(15, 23), *range(24, 28)):
        supported[index] = 1
    return [
        _set(_Set.SHARE, struct.pack("<HH", SERVER_USER, 0)),
        _general(_FAST_OUTPUT),
        _bitmap(width, height, depth),
        _order(0x00AA, bytes(supported), 0x06A1, 0x0004, 0xF4240),
        _set(_Set.COLOUR_CACHE, struct.pack("<HH", 6, 0)),
        _set(_Set.LARGE_POINTER, struct.pack("<H", 1)),
        _set(_Set.POINTER, struct.pack("<HHH", 1, 64, 64)),
        _input(_SCANCODES | _FAST_INPUT, 0),
        _virtual_channel(),
    ]


def client_sets(
    width: int, height: int, depth: int, *, keyboard_layout: int, is_rdp4: bool
) -> list[bytes]:
    """Return the sets of Confirm Active; no drawing orders, so bitmaps come."""
    pointer = struct.pack("<HH", 1, 20) if is_rdp4 else struct.pack("<HHH", 1, 20, 20)
    return [
        _general(0 if is_rdp4 else _EXTRA_FLAGS),
        _bitmap(width, height, depth),
        _order(0x002A, bytes(32), 0x06A1, 0, 0x38400),
        _set(_Set.BITMAP_CACHE, bytes(36)),
        _set(_Set.POINTER, pointer),
        _set(_Set.COLOUR_CACHE, struct.pack("<HH", 6, 0)),
        _set(_Set.ACTIVATION, bytes(8)),
        _set(_Set.CONTROL, struct.pack("<4H", 0, 0, 2, 2)),
        _set(_Set.SHARE, bytes(4)),
        _set(_Set.BRUSH, struct.pack("<I", 1)),
        _input(_SCANCODES, keyboard_layout),
        _set(_Set.SOUND, struct.pack("<HH", 1, 0)),
        _set(_Set.FONT, struct.pack("<HH", 1, 0)),
        _set(_Set.GLYPH_CACHE, bytes(48)),
        _virtual_channel(),
    ]


def _set(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, 4 + len(body)) + body


def _general(extra_flags: int) -> bytes:
    numbers = (1, 3, 0x0200, 0, 0, extra_flags, 0, 0, 0, 1, 1)
    return _set(_Set.GENERAL, _GENERAL.pack(*numbers))


def _bitmap(width: int, height: int, depth: int) -> bytes:
    numbers = (depth, 1, 1, 1, width, height, 0, 1, 1, 0, 0, 1, 0)
    return _set(_Set.BITMAP, _BITMAP.pack(*numbers))


def _order(flags: int, orders: bytes, text: int, extra: int, save_size: int) -> bytes:
    numbers = (1, 20, 0, 1, 0, flags)
    body = _ORDER.pack(b"", *numbers, orders, text, extra, save_size, 0, 0, 0, 0)
    return _set(_Set.ORDER, body)


def _input(flags: int, layout: int) -> bytes:
    return _set(_Set.INPUT, _INPUT.pack(flags, 0, layout, 4, 0, 12))


def _virtual_channel() -> bytes:
    return _set(_Set.VIRTUAL_CHANNEL, struct.pack("<II", 0, MAX_CHUNK))


def _serialize_sets(source: bytes, sets: Sequence[bytes]) -> bytes:
    body = struct.pack("<HH", len(sets), 0) + b"".join(sets)
    return struct.pack("<HH", len(source), len(body)) + source + body


def _parse_sets(reader: Reader) -> dict[int, bytes]:
    source_size, size = reader.u16(), reader.u16()
    reader.take(source_size)
    # 1.12: the original counts four bytes too many; read what is there
    inside = Reader(reader.take(min(size, reader.left)), "capability sets")
    count = inside.u16()
    inside.take(2)
    found = {}
    for _ in range(count):
        kind, length = inside.u16(), inside.u16()
        if length < 4:
            raise ParseError(f"capability set {kind} of length {length}", inside.pos)
        found[kind] = inside.take(length - 4)
    return found
