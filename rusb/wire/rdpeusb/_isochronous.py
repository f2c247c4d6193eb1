"""Isochronous transfers: what they say, and how a URB becomes several of them.

rdpeusb.md 6, 7 and 10.3. Several, because FreeRDP divides a buffer equally among the
packets of a transfer, whatever their offsets are.
"""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from rusb.errors import ParseError
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus

from ._urbs import Completion, Flags, Transfer, UrbFunction, status_of, usbd_of

__all__ = ["MAX_PACKETS", "Iso", "Whole", "cut", "parse_result", "serialize_result"]

MAX_PACKETS: Final = 1024
"""Packets of a transfer (14)."""

_REQUEST = struct.Struct("<IIIII")  # handle, flags, StartFrame, count, ErrorCount
_RESULT = struct.Struct("<III")  # StartFrame, count, ErrorCount
_PACKET = struct.Struct("<III")  # Offset, Length, Status


# ------------------------------------------------------------ messages ----


@dataclass(slots=True)
class Iso:
    """The body of ISOCH_TRANSFER.

    Attributes:
        handle: of the pipe.
        lengths: of the packets; they lie back to back.
        flags: TransferFlags.
    """

    handle: int
    lengths: tuple[int, ...]
    flags: int

    @classmethod
    def parse(cls, body: bytes | memoryview, size: int) -> Self:
        """Read it. A packet ends where the next one begins.

        StartFrame is ignored, as FreeRDP does (19): it begins as soon as possible.

        Args:
            body: what follows the header of the TS_URB.
            size: of the buffer, where the last packet ends.

        Raises:
            ParseError: no packets, too many, or offsets that do not ascend from 0.
        """
        if len(body) < _REQUEST.size:
            raise ParseError(f"ISOCH_TRANSFER of {len(body)} bytes")
        handle, flags, _, count, _ = _REQUEST.unpack_from(body)
        wanted = _REQUEST.size + _PACKET.size * count
        if not 0 < count <= MAX_PACKETS or len(body) != wanted:
            raise ParseError(f"{count} isochronous packets in {len(body)} bytes")
        rows = _PACKET.iter_unpack(body[_REQUEST.size :])
        starts = [start for start, _, _ in rows]
        ends = [*starts[1:], size]
        lengths = tuple(b - a for a, b in zip(starts, ends, strict=True))
        if starts[0] or min(lengths) < 0:
            raise ParseError(f"isochronous packets that overlap or lie beyond {size}")
        return cls(handle, lengths, flags)

    def serialize(self) -> bytes:
        """Return the bytes; StartFrame is 0, and so is all that the answer tells."""
        parts = [_REQUEST.pack(self.handle, self.flags, 0, len(self.lengths), 0)]
        start = 0
        for length in self.lengths:
            parts.append(_PACKET.pack(start, 0, 0))
            start += length
        return b"".join(parts)


def serialize_result(start_frame: int, packets: Sequence[IsoPacket]) -> bytes:
    """Return the result of ISOCH_TRANSFER.

    Offsets are those of packed data: no packet leaves a gap, however short it is.
    """
    errors = sum(packet.status is not UrbStatus.OK for packet in packets)
    parts = [_RESULT.pack(start_frame, len(packets), errors)]
    start = 0
    for packet in packets:
        parts.append(_PACKET.pack(start, packet.length, usbd_of(packet.status)))
        start += packet.length
    return b"".join(parts)


def parse_result(
    result: bytes | memoryview, asked: Sequence[int]
) -> tuple[int, list[tuple[int, IsoPacket]]]:
    """Return the frame, and each packet with its offset in the data.

    Args:
        result: what follows the header of the result.
        asked: lengths of the packets that were asked for.

    Raises:
        ParseError: another number of packets, or one that is longer.
    """
    count = len(asked)
    if len(result) != _RESULT.size + _PACKET.size * count:
        raise ParseError(f"result of {count} packets has {len(result)} bytes")
    frame, found, _ = _RESULT.unpack_from(result)
    if found != count:
        raise ParseError(f"result of {found} packets for {count}")
    packets = []
    rows = _PACKET.iter_unpack(result[_RESULT.size :])
    for most, (start, length, status) in zip(asked, rows, strict=True):
        if length > most:
            raise ParseError(f"isochronous packet of {length} bytes for {most}")
        packets.append((start, IsoPacket(length, status_of(status))))
    return frame, packets


# ---------------------------------------------------------- whole URBs ----


def cut(urb: Urb, handle: int) -> list[tuple[Transfer, tuple[int, ...]]]:
    """Cut a URB into transfers of equal packets, each with their lengths.

    Empty: it has no packets, or they are not as long as it is.
    """
    if sum(urb.packets) != urb.length:
        return []
    runs = [
        run
        for _, equal in itertools.groupby(urb.packets)
        for run in _batches(tuple(equal), MAX_PACKETS)
    ]
    flags = Flags.ASAP | (Flags.IN | Flags.SHORT_OK if urb.is_in else 0)
    parts, start = [], 0
    for run in runs:
        size = sum(run)
        body = Iso(handle, run, flags).serialize()
        data = None if urb.is_in else urb.data[start : start + size]
        start += size
        made = Transfer(UrbFunction.ISOCH_TRANSFER, 0, body, size, data)
        parts.append((made, run))
    return parts


class Whole:
    """A URB on its way in several transfers.

    Args:
        urb: it.
        asked: lengths of the packets of each transfer.
    """

    __slots__ = ("_asked", "_left", "_parts", "urb")

    def __init__(self, urb: Urb, asked: Sequence[tuple[int, ...]]) -> None:
        self.urb = urb
        self._asked = asked
        self._parts: dict[int, UrbResult] = {}  # by index
        self._left = len(asked)

    def take(self, index: int, status: UrbStatus, done: Completion | None) -> None:
        """One of the transfers has completed.

        Raises:
            ParseError: its result makes no sense; its packets count as lost.
        """
        self._left -= 1
        asked, is_ok = self._asked[index], status is UrbStatus.OK
        lost = UrbStatus.IO_ERROR if is_ok else status
        packets = (IsoPacket(0, lost),) * len(asked)
        self._parts[index] = UrbResult(lost, packets=packets)
        # one that failed, as when it was cancelled, may tell of no packet
        if done is not None and (is_ok or len(done.result) > _RESULT.size):
            is_in = self.urb.is_in
            self._parts[index] = _read(status, asked, done, is_in=is_in)

    def result(self) -> UrbResult | None:
        """The result of the URB: its packets say what failed. None: not yet."""
        if self._left:
            return None
        parts = [part for _, part in sorted(self._parts.items())]
        statuses = {part.status for part in parts}
        return UrbResult(
            statuses.pop() if len(statuses) == 1 else UrbStatus.OK,
            b"".join(part.data for part in parts),
            sum(part.length for part in parts),
            tuple(packet for part in parts for packet in part.packets),
            parts[0].start_frame,
        )


def _batches(items: tuple[int, ...], most: int) -> list[tuple[int, ...]]:
    return [items[start : start + most] for start in range(0, len(items), most)]


def _read(
    status: UrbStatus, asked: tuple[int, ...], done: Completion, *, is_in: bool
) -> UrbResult:
    """Read how a transfer went. Data that no packet names are ignored.

    Raises:
        ParseError: packets that are not there.
    """
    frame, found = parse_result(done.result, asked)
    packets = tuple(packet for _, packet in found)
    moved = sum(packet.length for packet in packets)
    if not is_in:
        return UrbResult(status, b"", moved, packets, frame)
    data = done.data or b""
    pieces = []
    for start, packet in found:
        if start + packet.length > len(data):
            raise ParseError(
                f"isochronous packet {start}+{packet.length}, have {len(data)}"
            )
        pieces.append(data[start : start + packet.length])
    return UrbResult(status, b"".join(pieces), moved, packets, frame)
