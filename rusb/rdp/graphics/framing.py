"""Updates as a client takes them: on the fast or the slow path (display.md 4.1)."""

import struct
from collections.abc import Iterator

from rusb.errors import LocalProtocolError

from ..share import DataType
from .updates import Update, UpdateKind

__all__ = ["MAX_PART", "fast_updates", "slow_update"]

MAX_PART = 0x3F00
"""Bytes of an update in one packet: with every header and checksum of either path the
packet stays below MAX_PACKET."""

_HEAD = struct.Struct("<BH")
_SINGLE, _LAST, _FIRST, _NEXT = 0x00, 0x10, 0x20, 0x30  # parts of an update

_POINTERS = {  # kinds on the slow path, and what there is behind them
    UpdateKind.POINTER_HIDDEN: (1, bytes(4)),
    UpdateKind.POINTER_DEFAULT: (1, b"\0\x7f\0\0"),
    UpdateKind.POINTER_POSITION: (3, b""),
    UpdateKind.COLOUR_POINTER: (6, b""),
    UpdateKind.CACHED_POINTER: (7, b""),
    UpdateKind.NEW_POINTER: (8, b""),
}


def fast_updates(update: Update, max_update: int) -> Iterator[bytes]:
    """Yield an update as it is on the fast path, for a packet each.

    Args:
        update: something to draw.
        max_update: bytes of one in several packets that the client takes; 0: none.

    Raises:
        LocalProtocolError: it is longer than the client takes.
    """
    body = update.body
    if len(body) <= MAX_PART:
        yield _HEAD.pack(update.kind, len(body)) + body
        return
    if len(body) > max_update:
        raise LocalProtocolError(f"update of {len(body)} bytes, at most {max_update}")
    last = (len(body) - 1) // MAX_PART * MAX_PART
    for at in range(0, len(body), MAX_PART):
        flag = _FIRST if at == 0 else _LAST if at == last else _NEXT
        part = body[at : at + MAX_PART]
        yield _HEAD.pack(update.kind | flag, len(part)) + part


def slow_update(update: Update) -> tuple[DataType, bytes]:
    """Return the share data PDU that an update is on the slow path: type and body.

    Raises:
        LocalProtocolError: it does not fit into a packet.
    """
    kind, body = update.kind, update.body
    if len(body) > MAX_PART:
        raise LocalProtocolError(f"update of {len(body)} bytes, at most {MAX_PART}")
    if kind in _POINTERS:
        number, content = _POINTERS[kind]
        return DataType.POINTER, struct.pack("<HH", number, 0) + content + body
    if kind is UpdateKind.ORDERS:
        count, orders = body[:2], body[2:]
        return DataType.UPDATE, bytes(4) + count + bytes(2) + orders
    return DataType.UPDATE, body
