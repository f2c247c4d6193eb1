"""Demand Active, Confirm Active and the capability sets in them (1.12, 8.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from construct import (
    Array,
    Bytes,
    Construct,
    Container,
    Default,
    GreedyBytes,
    Int8ul,
    Int16ul,
    Int32ul,
    Padding,
    Rebuild,
    Struct,
    len_,
    this,
)

from rusb.errors import ParseError

from .layout import parse
from .share import SERVER_USER

__all__ = [
    "MAX_CHUNK",
    "MAX_UPDATE",
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

MAX_SETS = 64
"""Capability sets of a peer; there are 30 kinds. A packet has room for 16000, which
would take a tenth of a second to read."""

MAX_UPDATE = 0xFFFF
"""Bytes of an update in several packets that we would take; clients only tell theirs
where a server tells its own."""

_GENERAL = Struct(
    "os_major" / Default(Int16ul, 1),
    "os_minor" / Default(Int16ul, 3),
    "version" / Default(Int16ul, 0x0200),
    Padding(4),
    "extra_flags" / Int16ul,
    Padding(6),
    "can_refresh" / Default(Int8ul, 1),
    "can_suppress" / Default(Int8ul, 1),
)
_BITMAP = Struct(
    "depth" / Int16ul,
    "takes_depths" / Default(Array(3, Int16ul), (1, 1, 1)),  # of 1, 4 and 8 bits
    "width" / Int16ul,
    "height" / Int16ul,
    Padding(2),
    "can_resize" / Default(Int16ul, 1),
    "can_compress" / Default(Int16ul, 1),
    Padding(2),
    "takes_several" / Default(Int16ul, 1),  # rectangles
    Padding(2),
)
_ORDER = Struct(
    Padding(20),
    "grid" / Default(Array(2, Int16ul), (1, 20)),
    Padding(2),
    "levels" / Default(Array(2, Int16ul), (1, 0)),
    "flags" / Int16ul,
    "orders" / Bytes(32),
    "text_flags" / Default(Int16ul, 0x06A1),
    "extra_flags" / Int16ul,
    Padding(4),
    "save_size" / Int32ul,
    Padding(8),
)
_INPUT = Struct(
    "flags" / Int16ul,
    Padding(2),
    "keyboard_layout" / Int32ul,
    "keyboard_type" / Default(Int32ul, 4),
    "keyboard_subtype" / Default(Int32ul, 0),
    "function_keys" / Default(Int32ul, 12),
    Padding(64),
)
_POINTER = Struct(Padding(2), "colour_cache" / Int16ul, "new_cache" / Int16ul)
_LARGE_POINTER = Struct("flags" / Int16ul)
_MULTIFRAGMENT = Struct("size" / Int32ul)
_VIRTUAL_CHANNEL = Struct("flags" / Default(Int32ul, 0), "chunk_size" / Int32ul)

_SET = Struct(
    "type" / Int16ul,
    "size" / Rebuild(Int16ul, 4 + len_(this.body)),
    "body" / Bytes(this.size - 4),
)
_SETS = Struct("count" / Int16ul, Padding(2), "sets" / Array(this.count, _SET))
_ACTIVE = Struct(
    "source_size" / Rebuild(Int16ul, len_(this.source)),
    "size" / Rebuild(Int16ul, len_(this.sets)),
    "source" / Bytes(this.source_size),
    "sets" / GreedyBytes,
)
_DEMAND_ACTIVE = Struct("share_id" / Int32ul, "active" / _ACTIVE)
_CONFIRM_ACTIVE = Struct(
    "share_id" / Int32ul,
    "originator" / Default(Int16ul, SERVER_USER),
    "active" / _ACTIVE,
)

_FAST_OUTPUT = 0x0001
_EXTRA_FLAGS = 0x040D  # fast-path output, long credentials, no compression header, …
_LONG_CREDENTIALS, _NO_COMPRESSION_HEAD = 0x0004, 0x0400
_SCANCODES, _FAST_INPUT = 0x0001, 0x0008 | 0x0020
_MORE_INPUT = 0x0004 | 0x0010 | 0x0100  # extended mouse, unicode, horizontal wheel
_LARGE_POINTERS = 1  # up to 96x96
_SCRBLT = 2  # index into the order support


class _Set:
    """Types of capability sets."""

    GENERAL, BITMAP, ORDER, BITMAP_CACHE, CONTROL = 1, 2, 3, 4, 5
    ACTIVATION, POINTER, SHARE, COLOUR_CACHE = 7, 8, 9, 10
    SOUND, INPUT, FONT, BRUSH, GLYPH_CACHE = 12, 13, 14, 15, 16
    VIRTUAL_CHANNEL, MULTIFRAGMENT, LARGE_POINTER = 20, 26, 27


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a peer's capability sets say, as far as it matters here.

    Attributes:
        has_fast_output: it takes fast-path output.
        has_suppress_output: it obeys Suppress Output.
        width, height, depth: of the Bitmap set; 0 if there is none.
        can_resize: its desktopResizeFlag: the size may change in a session.
        takes_compressed: it takes compressed bitmaps.
        needs_no_head: it takes them without a header.
        has_scrblt: it takes ScrBlt orders.
        colour_cache, new_cache: how many colour and new pointers it keeps; 0: it does
            not take new ones.
        has_large_pointers: it takes new pointers up to 96x96.
        max_update: bytes of the longest update in several packets; 0: it takes none.
        chunk_size: bytes of payload per channel chunk it takes; MIN_CHUNK if it does
            not say, or says what is not allowed.
    """

    has_fast_output: bool
    has_suppress_output: bool
    width: int
    height: int
    depth: int
    can_resize: bool
    takes_compressed: bool
    needs_no_head: bool
    has_scrblt: bool
    colour_cache: int
    new_cache: int
    has_large_pointers: bool
    max_update: int
    chunk_size: int

    @classmethod
    def of(cls, sets: Mapping[int, bytes]) -> "Capabilities":
        """Read capability sets; what is missing or short counts as absent."""
        general = _read(_GENERAL, sets.get(_Set.GENERAL, b""))
        bitmap = _read(_BITMAP, sets.get(_Set.BITMAP, b""))
        order = _read(_ORDER, sets.get(_Set.ORDER, b""))
        pointer = sets.get(_Set.POINTER, b"")  # 1.12: RDP 4 has no new pointers
        pointer = _read(_POINTER, pointer.ljust(_POINTER.sizeof(), b"\0"))
        large = _read(_LARGE_POINTER, sets.get(_Set.LARGE_POINTER, b""))
        fragments = _read(_MULTIFRAGMENT, sets.get(_Set.MULTIFRAGMENT, b""))
        channel = _read(_VIRTUAL_CHANNEL, sets.get(_Set.VIRTUAL_CHANNEL, b""))
        chunk = channel.chunk_size
        return cls(
            has_fast_output=bool(general.extra_flags & _FAST_OUTPUT),
            has_suppress_output=bool(general.can_suppress),
            width=bitmap.width,
            height=bitmap.height,
            depth=bitmap.depth,
            can_resize=bool(bitmap.can_resize),
            takes_compressed=bool(bitmap.can_compress),
            needs_no_head=bool(general.extra_flags & _NO_COMPRESSION_HEAD),
            has_scrblt=bool(order.orders[_SCRBLT]),
            colour_cache=pointer.colour_cache,
            new_cache=pointer.new_cache,
            has_large_pointers=bool(large.flags & _LARGE_POINTERS),
            max_update=fragments.size,
            chunk_size=chunk if MIN_CHUNK <= chunk <= MAX_CHUNK else MIN_CHUNK,
        )


def parse_demand_active(body: bytes) -> tuple[int, dict[int, bytes]]:
    """Read a Demand Active behind its share control header.

    Returns:
        the share id, and the sets' bodies by type.

    Raises:
        ParseError: a malformed header or set, or too many of them.
    """
    found = parse(_DEMAND_ACTIVE, body, "Demand Active")
    return found.share_id, _parse_sets(found.active)


def parse_confirm_active(body: bytes) -> tuple[int, dict[int, bytes]]:
    """Read a Confirm Active behind its share control header, like Demand Active."""
    found = parse(_CONFIRM_ACTIVE, body, "Confirm Active")
    return found.share_id, _parse_sets(found.active)


def serialize_demand_active(share_id: int, sets: Sequence[bytes]) -> bytes:
    """Return the body of a Demand Active."""
    active = {"source": b"RDP\0", "sets": _join(sets)}
    built: bytes = _DEMAND_ACTIVE.build({"share_id": share_id, "active": active})
    return built + bytes(4)


def serialize_confirm_active(share_id: int, sets: Sequence[bytes]) -> bytes:
    """Return the body of a Confirm Active."""
    active = {"source": b"MSTSC\0", "sets": _join(sets)}
    built: bytes = _CONFIRM_ACTIVE.build({"share_id": share_id, "active": active})
    return built


def server_sets(width: int, height: int, depth: int) -> list[bytes]:
    """Return the sets of Demand Active in the original's order (1.12)."""
    indices = {*range(5), *range(7, 12), *range(15, 23), *range(24, 28)}
    supported = bytes(index in indices for index in range(32))
    return [
        _words(_Set.SHARE, SERVER_USER, 0),
        # display.md 4.2: FreeRDP mirrors it
        _general(_FAST_OUTPUT | _LONG_CREDENTIALS | _NO_COMPRESSION_HEAD),
        _bitmap(width, height, depth),
        _order(flags=0x00AA, orders=supported, extra_flags=0x0004, save_size=0xF4240),
        _words(_Set.COLOUR_CACHE, 6, 0),
        _words(_Set.LARGE_POINTER, _LARGE_POINTERS),
        _words(_Set.MULTIFRAGMENT, MAX_UPDATE, 0),
        _words(_Set.POINTER, 1, 64, 64),
        _input(_SCANCODES | _FAST_INPUT | _MORE_INPUT, 0),
        _virtual_channel(),
    ]


def client_sets(
    width: int, height: int, depth: int, *, keyboard_layout: int, is_rdp4: bool
) -> list[bytes]:
    """Return the sets of Confirm Active; no drawing orders, so bitmaps come."""
    return [
        _general(0 if is_rdp4 else _EXTRA_FLAGS),
        _bitmap(width, height, depth),
        _order(flags=0x002A, orders=bytes(32), extra_flags=0, save_size=0x38400),
        _set(_Set.BITMAP_CACHE, bytes(36)),
        _words(_Set.POINTER, *((1, 20) if is_rdp4 else (1, 20, 20))),
        _words(_Set.COLOUR_CACHE, 6, 0),
        _set(_Set.ACTIVATION, bytes(8)),
        _words(_Set.CONTROL, 0, 0, 2, 2),
        _words(_Set.SHARE, 0, 0),
        _words(_Set.BRUSH, 1, 0),
        _input(_SCANCODES, keyboard_layout),
        _words(_Set.SOUND, 1, 0),
        _words(_Set.FONT, 1, 0),
        _set(_Set.GLYPH_CACHE, bytes(48)),
        _virtual_channel(),
    ]


def _set(kind: int, body: bytes) -> bytes:
    built: bytes = _SET.build({"type": kind, "body": body})
    return built


def _words(kind: int, *words: int) -> bytes:
    return _set(kind, b"".join(word.to_bytes(2, "little") for word in words))


def _general(extra_flags: int) -> bytes:
    return _set(_Set.GENERAL, _GENERAL.build({"extra_flags": extra_flags}))


def _bitmap(width: int, height: int, depth: int) -> bytes:
    fields = {"width": width, "height": height, "depth": depth}
    return _set(_Set.BITMAP, _BITMAP.build(fields))


def _order(**fields: int | bytes) -> bytes:
    return _set(_Set.ORDER, _ORDER.build(fields))


def _input(flags: int, layout: int) -> bytes:
    fields = {"flags": flags, "keyboard_layout": layout}
    return _set(_Set.INPUT, _INPUT.build(fields))


def _virtual_channel() -> bytes:
    return _set(_Set.VIRTUAL_CHANNEL, _VIRTUAL_CHANNEL.build({"chunk_size": MAX_CHUNK}))


def _join(sets: Sequence[bytes]) -> bytes:
    return len(sets).to_bytes(2, "little") + bytes(2) + b"".join(sets)


def _parse_sets(active: Container) -> dict[int, bytes]:
    # 1.12: the original counts four bytes too many; read what is there
    data = active.sets[: active.size]
    if (count := int.from_bytes(data[:2], "little")) > MAX_SETS:
        raise ParseError(f"{count} capability sets, at most {MAX_SETS}")
    found = parse(_SETS, data, "capability sets")
    return {one.type: one.body for one in found.sets}


def _read(layout: Construct, body: bytes) -> Container:
    """Read a set; where it is too short, everything in it is 0."""
    size = layout.sizeof()
    return parse(layout, body if len(body) >= size else bytes(size), "capability set")
