"""Share control and share data PDUs: what runs on the I/O channel (1.12 to 1.19)."""

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from rusb.errors import ParseError

__all__ = [
    "SHARE_ID",
    "SERVER_USER",
    "Control",
    "DataType",
    "ShareData",
    "ShareType",
    "control",
    "font_list",
    "font_map",
    "share_control",
    "share_data",
    "split_share",
    "synchronize",
]

SHARE_ID = 0x00010001
SERVER_USER = 1002

_CONTROL = struct.Struct("<HHH")
_DATA = struct.Struct("<IBBHBBH")
_FLOW = 0x8000  # T.128 8.5: in place of a length, a flow PDU of eight bytes


class ShareType(enum.IntEnum):
    """Types of share control PDUs."""

    DEMAND_ACTIVE = 1
    CONFIRM_ACTIVE = 3
    DEACTIVATE_ALL = 6
    DATA = 7
    REDIRECTION = 10


class DataType(enum.IntEnum):
    """Types of share data PDUs."""

    UPDATE = 2
    CONTROL = 20
    POINTER = 27
    INPUT = 28
    SYNCHRONIZE = 31
    REFRESH_RECT = 33
    SUPPRESS_OUTPUT = 35
    SHUTDOWN_REQUEST = 36
    SHUTDOWN_DENIED = 37
    SAVE_SESSION_INFO = 38
    FONT_LIST = 39
    FONT_MAP = 40
    KEY_LIST = 43
    ERROR_INFO = 47
    MONITOR_LAYOUT = 55


class Control(enum.IntEnum):
    """Actions of a Control PDU."""

    REQUEST = 1
    GRANTED = 2
    DETACH = 3
    COOPERATE = 4


@dataclass(frozen=True, slots=True)
class ShareData:
    """A share data PDU.

    Attributes:
        type: a number of :class:`DataType`, or an unknown one.
        compression: compressedType; 0x20 set means *body* is compressed.
        body: what follows the header.
    """

    type: int
    compression: int
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what follows a share control header of type DATA.

        Raises:
            ParseError: it is too short.
        """
        if len(data) < _DATA.size:
            raise ParseError(f"share data header of {len(data)} bytes, not 12")
        _, _, _, _, kind, compression, _ = _DATA.unpack_from(data)
        return cls(kind, compression, data[_DATA.size :])

    @property
    def is_compressed(self) -> bool:
        """Would the body have to be decompressed first?"""
        return bool(self.compression & 0x20)


def share_control(kind: int, body: bytes, source: int) -> bytes:
    """Serialize a share control PDU of version 1."""
    return _CONTROL.pack(_CONTROL.size + len(body), 0x10 | kind, source) + body


def share_data(kind: int, body: bytes, source: int, share_id: int = SHARE_ID) -> bytes:
    """Serialize a share data PDU; the length as Microsoft counts it (1.13)."""
    head = _DATA.pack(share_id, 0, 1, 4 + len(body), kind, 0, 0)
    return share_control(ShareType.DATA, head + body, source)


def split_share(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, source, body) of each share control PDU in a payload.

    A length beyond the end means the rest: aardwolf's counts its header twice, and 1.2
    has TPKT know best.

    Raises:
        ParseError: a length below four.
    """
    pos, end = 0, len(payload)
    while pos < end:
        if end - pos < 4:
            raise ParseError(f"share control header of {end - pos} bytes, not 6", pos)
        size, kind = struct.unpack_from("<HH", payload, pos)
        if size == _FLOW:
            pos += 8
            continue
        if size < 4:
            raise ParseError(f"share control length {size}, have {end - pos}", pos)
        size = min(size, end - pos)
        # 1.19: Deactivate All may stop before its source
        source = int.from_bytes(payload[pos + 4 : pos + min(size, 6)], "little")
        yield kind & 0x0F, source, payload[pos + min(size, 6) : pos + size]
        pos += size


def synchronize(target: int) -> bytes:
    """Body of a Synchronize PDU."""
    return struct.pack("<HH", 1, target)


def control(action: int, grant: int = 0, control_id: int = 0) -> bytes:
    """Body of a Control PDU."""
    return struct.pack("<HHI", action, grant, control_id)


def font_list(sequence: int) -> bytes:
    """Body of a Font List PDU: no fonts."""
    return struct.pack("<HHHH", 0, 0, sequence, 50)


def font_map() -> bytes:
    """Body of a Font Map PDU: no fonts, first and last (1.13)."""
    return struct.pack("<HHHH", 0, 0, 3, 4)
