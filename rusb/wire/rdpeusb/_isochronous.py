"""Isochronous transfers: cut up, and put together again (rdpeusb.md 10.3)."""

import itertools
from collections.abc import Sequence

from rusb.errors import ParseError
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus

from . import _urbs as urbs
from ._urbs import Completion, Flags, Transfer, UrbFunction

__all__ = ["Whole", "cut"]


def cut(urb: Urb, handle: int) -> list[tuple[Transfer, tuple[int, ...]]]:
    """Cut a URB into transfers of equal packets, and their lengths.

    Nothing: its packets are not in order.
    """
    runs = [
        run
        for _, equal in itertools.groupby(urb.packets)
        for run in _batches(tuple(equal), urbs.MAX_PACKETS)
    ]
    if sum(urb.packets) != urb.length:
        return []
    flags = Flags.ASAP | (Flags.IN | Flags.SHORT_OK if urb.is_in else 0)
    parts, start = [], 0
    for run in runs:
        size = sum(run)
        body = urbs.Iso(handle, run, flags).serialize()
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
        self._parts = [UrbResult(UrbStatus.NO_DEVICE)] * len(asked)
        self._left = len(asked)

    def take(self, index: int, status: UrbStatus, done: Completion | None) -> None:
        """One of the transfers has completed.

        Raises:
            ParseError: its result makes no sense; its packets count as lost.
        """
        asked = self._asked[index]
        lost = (IsoPacket(0, status),) * len(asked)
        self._parts[index] = UrbResult(status, packets=lost)
        self._left -= 1
        # one that failed, as when it was cancelled, may tell of no packet
        is_ok = status is UrbStatus.OK
        if done is not None and (is_ok or urbs.tells_packets(done.result)):
            is_in = self.urb.is_in
            self._parts[index] = _result(status, asked, done, is_in=is_in)

    def result(self) -> UrbResult | None:
        """The result of the URB: its packets say what failed. None: not yet."""
        parts = self._parts
        if self._left or len(parts) == 1:
            return None if self._left else parts[0]
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


def _result(
    status: UrbStatus, asked: tuple[int, ...], done: Completion, *, is_in: bool
) -> UrbResult:
    """Put the result of a transfer together; what no packet names is ignored.

    Raises:
        ParseError: packets that are not there.
    """
    frame, found = urbs.parse_iso_result(done.result, asked)
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
