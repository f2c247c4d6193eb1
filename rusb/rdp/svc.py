"""Static virtual channels: chunk and reassemble (vrdpusb.md 1.2, MS-RDPBCGR 3.1.5.2).

A message travels in MCS data packets, each with an 8-byte header: total length u32,
flags u32, little-endian. Python's work per message is constant: the packets of a
message of some length differ from those of another of that length in their payload
only, so one cached ``struct`` cuts or joins them all.
"""

import struct
from functools import lru_cache

from rusb.errors import RemoteProtocolError

from .packets import USER_BASE

__all__ = [
    "CHUNK_DEFAULT",
    "CHUNK_MAX",
    "MAX_MESSAGE",
    "Reassembler",
    "match_run",
    "packets_of",
    "sane_chunk_size",
]

CHUNK_DEFAULT = 1600
"""Payload bytes of one chunk where the peer says nothing."""

CHUNK_MAX = 16256
"""The most that is allowed, and what we advertise; it fits one TPKT of 16383."""

MAX_MESSAGE = 16 << 20
"""Bytes of one message; twice the largest URB."""

FIRST, LAST, SHOW_PROTOCOL = 0x01, 0x02, 0x10
COMPRESSED = 0x00200000

_HEAD = struct.Struct("<II")
MAX_LAYOUT = 1 << 20
"""Bytes of the largest message whose layout is worth keeping."""

_ENVELOPE = struct.Struct(">BBH3sBHHBH")  # TPKT, X.224, MCS with a two-byte length


def sane_chunk_size(advertised: int | None) -> int:
    """Return the chunk size to send with, given the peer's VCChunkSize (T07)."""
    if advertised is None or not CHUNK_DEFAULT <= advertised <= CHUNK_MAX:
        return CHUNK_DEFAULT
    return advertised


def _packet_head(
    choice: int, initiator: int, channel: int, size: int, total: int, flags: int
) -> bytes:
    """Everything before the payload of one chunk of *size* bytes."""
    mcs = _HEAD.size + size
    if mcs < 0x80:
        head = struct.pack(">BHHBB", choice, initiator, channel, 0x70, mcs)
        tpkt = struct.pack(">BBH3s", 3, 0, 7 + len(head) + mcs, b"\x02\xf0\x80")
        return tpkt + head + _HEAD.pack(total, flags)
    return _ENVELOPE.pack(
        3,
        0,
        _ENVELOPE.size + mcs,
        b"\x02\xf0\x80",
        choice,
        initiator,
        channel,
        0x70,
        0x8000 | mcs,
    ) + _HEAD.pack(total, flags)


@lru_cache(maxsize=256)
def _layout(
    choice: int, initiator: int, channel: int, total: int, chunk: int
) -> tuple[struct.Struct, tuple[bytes, ...], struct.Struct]:
    """Return (layout of the packets, their heads, layout of the message)."""
    sizes = [chunk] * (total // chunk)
    if total % chunk or not sizes:
        sizes.append(total % chunk)
    heads = []
    for number, size in enumerate(sizes):
        flags = (FIRST if number == 0 else 0) | (
            LAST if number == len(sizes) - 1 else 0
        )
        heads.append(_packet_head(choice, initiator, channel, size, total, flags))
    packed = "".join(f"{len(h)}s{s}s" for h, s in zip(heads, sizes, strict=True))
    plain = "".join(f"{s}s" for s in sizes)
    return struct.Struct("<" + packed), tuple(heads), struct.Struct("<" + plain)


def packets_of(message: bytes, channel: int, user: int | None, chunk: int) -> bytes:
    """Return all packets that carry *message*, back to back.

    Args:
        message: up to MAX_MESSAGE bytes.
        channel: MCS channel id.
        user: user id of the sending client; None for the server.
        chunk: payload bytes per chunk at most.
    """
    choice, initiator = (0x68, 1) if user is None else (0x64, user - USER_BASE)
    make = _layout if len(message) <= MAX_LAYOUT else _layout.__wrapped__
    _, heads, plain = make(choice, initiator, channel, len(message), chunk)
    pieces: list[bytes] = [b""] * (2 * len(heads))
    pieces[0::2] = heads
    pieces[1::2] = plain.unpack(message)
    return b"".join(pieces)


def match_run(
    data: memoryview, choice: int, initiator: int, channel: int, chunk: int
) -> tuple[bytes, int] | None:
    """Take a whole message that begins at *data*, if all its packets are there.

    Args:
        data: received bytes, beginning with a packet whose payload is a FIRST chunk.
        choice, initiator, channel: of that packet.
        chunk: the chunk size of the peer, learned from the first packet.

    Returns:
        The message and the bytes it took, or None where the packets that follow are
        not exactly those of this message (then they are taken one by one).
    """
    total = int.from_bytes(data[_ENVELOPE.size : _ENVELOPE.size + 4], "little")
    if total > min(MAX_LAYOUT, len(data)) or chunk < CHUNK_DEFAULT:
        return None
    packed, heads, _ = _layout(choice, initiator, channel, total, chunk)
    if packed.size > len(data):
        return None
    pieces = packed.unpack_from(data)
    if pieces[0::2] != heads:
        return None
    return b"".join(pieces[1::2]), packed.size


class Reassembler:
    """Puts the chunks of one channel together; memory grows with what arrives."""

    __slots__ = ("_parts", "_size", "_total")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._total = -1

    def add(self, payload: bytes) -> tuple[bytes | None, str | None]:
        """Take the payload of one packet.

        Returns:
            (message, None) when one is complete, (None, reason) where the chunk was
            skipped, else (None, None).

        Raises:
            RemoteProtocolError: a message beyond MAX_MESSAGE, or a compressed one.
        """
        if len(payload) < _HEAD.size:
            return None, f"chunk of {len(payload)} bytes"
        total, flags = _HEAD.unpack_from(payload)
        if total > MAX_MESSAGE:
            raise RemoteProtocolError(
                f"channel message of {total} bytes, {MAX_MESSAGE} are allowed"
            )
        if flags & COMPRESSED:
            raise RemoteProtocolError("compressed channel data was not negotiated")
        body = payload[_HEAD.size :]
        if flags & FIRST and flags & LAST:
            self._total = -1
            if len(body) < total:
                return None, f"chunk of {len(body)} bytes for a message of {total}"
            return body[:total], None
        if flags & FIRST:
            self._parts, self._size, self._total = [], 0, total
        elif self._total < 0:
            return None, "a chunk without a first one"
        body = body[: self._total - self._size]
        if body:
            self._parts.append(body)
            self._size += len(body)
        if not flags & LAST:
            return None, None
        message = b"".join(self._parts)
        self._parts, self._total = [], -1
        return message, None
