"""Share control and share data PDUs, capability sets (vrdp-server.md 1.12, 1.13).

MS-RDPBCGR 2.2.8.1.1.1 and 2.2.7; little-endian.
"""

import struct
from collections.abc import Iterator

from rusb.errors import ParseError

from .packets import Reader

__all__ = [
    "capability",
    "confirm_active",
    "data_pdu",
    "deactivate_all",
    "demand_active",
    "parse_active",
    "split_share",
]

SHARE_ID = 0x00010001
SERVER_SOURCE = 1002

DEMAND_ACTIVE, CONFIRM_ACTIVE, DEACTIVATE_ALL, DATA = 1, 3, 6, 7
REDIRECT = 10

UPDATE, CONTROL, INPUT, SYNCHRONIZE = 2, 20, 28, 31
REFRESH_RECT, SUPPRESS_OUTPUT, SHUTDOWN_REQUEST = 33, 35, 36
SHUTDOWN_DENIED, SAVE_SESSION_INFO, FONT_LIST, FONT_MAP = 37, 38, 39, 40
PERSISTENT_LIST, ERROR_INFO = 43, 47

CONTROL_REQUEST, CONTROL_GRANTED, CONTROL_COOPERATE = 1, 2, 4

CAP_GENERAL, CAP_BITMAP, CAP_ORDER, CAP_CHANNEL = 1, 2, 3, 20
EXTRA_FAST_PATH = 0x0001

MAX_CAPABILITIES = 64
"""Sets in one PDU; MS-RDPBCGR defines 29."""

_CONTROL_HEADER = struct.Struct("<HHH")
_DATA_HEADER = struct.Struct("<IBBHBBH")
_SET = struct.Struct("<HH")


def control_pdu(kind: int, body: bytes, source: int) -> bytes:
    """A share control PDU."""
    length = _CONTROL_HEADER.size + len(body)
    return _CONTROL_HEADER.pack(length, 0x10 | kind, source) + body


def data_pdu(kind: int, body: bytes, source: int, share_id: int = SHARE_ID) -> bytes:
    """A share data PDU, uncompressed."""
    length = _CONTROL_HEADER.size + _DATA_HEADER.size + len(body)
    head = _DATA_HEADER.pack(share_id, 0, 1, length, kind, 0, 0)
    return control_pdu(DATA, head + body, source)


def deactivate_all() -> bytes:
    """The full-length form (B.1)."""
    return control_pdu(DEACTIVATE_ALL, struct.pack("<IH", SHARE_ID, 1) + b"\0", 1002)


def split_share(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of each share control PDU in a packet.

    A four-byte deactivate-all (1.19) is accepted; a security header that should not
    be there is skipped (1.20).

    Raises:
        ParseError: lengths do not fit.
    """
    offset, size = 0, len(payload)
    while size - offset >= 4:
        length, kind = struct.unpack_from("<HH", payload, offset)
        left = size - offset
        if length != left and left >= 8:
            (shifted,) = struct.unpack_from("<H", payload, offset + 4)
            if shifted == left - 4:
                offset += 4
                continue
        if length == 0x8000 and left >= 8:  # a flow PDU (T.128), no share header
            offset += 8
            continue
        if not 4 <= length <= left:
            raise ParseError(f"share PDU of {length} bytes, have {left}", offset)
        yield kind & 0x0F, payload[offset + 6 : offset + length]
        offset += length


def parse_data(body: bytes) -> tuple[int, bytes]:
    """Return (pduType2, body) of a share data PDU.

    Raises:
        ParseError: too short, or compressed, which was never offered.
    """
    if len(body) < _DATA_HEADER.size:
        raise ParseError(f"share data PDU of {len(body)} bytes")
    *_, kind, compression, _ = _DATA_HEADER.unpack_from(body)
    if compression & 0x20:
        raise ParseError("compressed PDU, though compression was not offered")
    return kind, body[_DATA_HEADER.size :]


def capability(kind: int, body: bytes) -> bytes:
    """A capability set."""
    return _SET.pack(kind, _SET.size + len(body)) + body


def _parse_sets(reader: Reader, count: int) -> dict[int, bytes]:
    if count > MAX_CAPABILITIES:
        raise ParseError(f"{count} capability sets")
    found: dict[int, bytes] = {}
    for _ in range(count):
        if reader.left < _SET.size:
            break  # the count lies; what was read stands
        kind, length = reader.u16(), reader.u16()
        if length < _SET.size:
            raise ParseError(f"capability set {kind} of {length} bytes")
        found[kind] = reader.take(length - _SET.size)
    return found


def parse_active(body: bytes, *, is_confirm: bool) -> tuple[int, dict[int, bytes]]:
    """Return (share id, capability sets) of a demand or confirm active.

    Raises:
        ParseError: lengths do not fit.
    """
    reader = Reader(body)
    share_id = reader.u32()
    if is_confirm:
        reader.u16()
    source = reader.u16()
    length = reader.u16()
    reader.take(source)
    if length < 4 or length > reader.left + 4:
        raise ParseError(f"capabilities of {length} bytes, have {reader.left}")
    count = reader.u16()
    reader.u16()
    return share_id, _parse_sets(reader, count)


def chunk_size_of(sets: dict[int, bytes]) -> int | None:
    """Return VCChunkSize as the peer states it, None where it does not."""
    body = sets.get(CAP_CHANNEL, b"")
    return int.from_bytes(body[4:8], "little") if len(body) >= 8 else None


def demand_active(sets: list[bytes]) -> bytes:
    """The server's PDU; the session id is not counted (1.12)."""
    body = b"".join(sets)
    head = struct.pack("<IHH", SHARE_ID, 4, 4 + len(body)) + b"RDP\0"
    head += struct.pack("<HH", len(sets), 0)
    return control_pdu(DEMAND_ACTIVE, head + body + bytes(4), SERVER_SOURCE)


def confirm_active(share_id: int, sets: list[bytes], user: int) -> bytes:
    """The client's PDU."""
    body = b"".join(sets)
    head = struct.pack("<IHHH", share_id, 0x03EA, 6, 4 + len(body)) + b"MSTSC\0"
    head += struct.pack("<HH", len(sets), 0)
    return control_pdu(CONFIRM_ACTIVE, head + body, user)


def _general(major: int, minor: int, extra: int) -> bytes:
    body = struct.pack("<HHHHHHHHHBB", major, minor, 0x0200, 0, 0, extra, 0, 0, 0, 1, 1)
    return capability(CAP_GENERAL, body)


def _bitmap(width: int, height: int, depth: int) -> bytes:
    body = struct.pack(
        "<HHHHHHHHHBBHH", depth, 1, 1, 1, width, height, 0, 1, 1, 0, 0, 1, 0
    )
    return capability(CAP_BITMAP, body)


def _order(flags: int, orders: frozenset[int], text: int, save: int) -> bytes:
    support = bytes(1 if n in orders else 0 for n in range(32))
    body = bytes(16) + struct.pack("<IHHHHHH", 0, 1, 20, 0, 1, 0, flags)
    body += support + struct.pack("<HHIIHHHH", text, 0, 0, save, 0, 0, 0, 0)
    return capability(CAP_ORDER, body)


def server_capabilities(width: int, height: int, depth: int, chunk: int) -> list[bytes]:
    """What our server offers (1.12), with fast-path input and VCChunkSize."""
    orders = frozenset((*range(5), *range(7, 12), *range(15, 23), *range(24, 28)))
    return [
        capability(9, struct.pack("<HH", 0x03EA, 0)),
        _general(1, 3, EXTRA_FAST_PATH),
        _bitmap(width, height, depth),
        _order(0x002A, orders, 0x06A1, 0xF4240),
        capability(10, struct.pack("<HH", 6, 0)),
        capability(27, struct.pack("<H", 1)),
        capability(8, struct.pack("<HHH", 1, 64, 64)),
        capability(13, struct.pack("<HHIIII", 0x0029, 0, 0, 0, 0, 0) + bytes(64)),
        capability(CAP_CHANNEL, struct.pack("<II", 0, chunk)),
    ]


def client_capabilities(
    width: int, height: int, depth: int, chunk: int, *, layout: int, version: int
) -> list[bytes]:
    """What our client confirms: no drawing orders, the channels at full size."""
    extra = 0x0405 if version > 4 else 0  # fast path, long credentials, no header
    return [
        _general(1, 3, extra),
        _bitmap(width, height, depth),
        _order(0x002A, frozenset(), 0, 0),
        capability(4, bytes(36)),
        capability(10, struct.pack("<HH", 6, 0)),
        capability(7, struct.pack("<HHHH", 0, 0, 0, 0)),
        capability(5, struct.pack("<HHHH", 0, 0, 2, 2)),
        capability(8, struct.pack("<HHH", 1, 20, 20)),
        capability(9, struct.pack("<HH", 0, 0)),
        capability(13, struct.pack("<HHIIII", 1, 0, layout, 4, 0, 12) + bytes(64)),
        capability(12, struct.pack("<HH", 1, 0)),
        capability(14, struct.pack("<HH", 1, 0)),
        capability(15, struct.pack("<I", 1)),
        capability(16, bytes(48)),
        capability(CAP_CHANNEL, struct.pack("<II", 0, chunk)),
    ]
