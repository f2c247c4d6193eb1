"""What is read ahead of a guest: which blocks, how many, how long they count."""

from collections import deque
from dataclasses import dataclass

from .scsi import Block

__all__ = ["Piece", "Stream"]

MAX_AHEAD = 48
"""Commands of ours that are fetched or on their way: less than a client lets wait."""

MIN_HORIZON = 0.01
"""Seconds in which the rate is measured: a round trip, but not less than this."""


@dataclass(slots=True, eq=False)
class Piece:
    """The blocks of one command of ours.

    Attributes:
        first, count: which blocks.
        data: their bytes, once they have come.
        came: when.
    """

    first: int
    count: int
    data: bytes | memoryview | None = None
    came: float = 0.0


class Stream:
    """A run of reads, and what was fetched of it before the guest asks.

    Args:
        of: the guest's latest READ of it.
        position: the block that the guest reads next.
        count: blocks of each command: the most that the guest has read with one.
        block: bytes of a block.
        end: the first block that is not to be fetched.
        ahead: bytes that may be fetched or on their way at most.
        limit: seconds for which what has come counts.

    Attributes:
        lun: the logical unit.
        next: the first block that is neither fetched nor on its way.
        used: when the guest has read of it last.
    """

    def __init__(
        self,
        of: Block,
        *,
        position: int,
        count: int,
        block: int,
        end: int,
        ahead: int,
        limit: float,
        now: float,
    ) -> None:
        self.of = of
        self.lun = of.lun
        self.position = self.next = position
        self.used = now
        self._count = count
        self._block = block
        self._end = end
        self._ahead = ahead
        self._limit = limit
        self._pieces: deque[Piece] = deque()
        self._came: deque[tuple[float, int]] = deque()

    def reads(self, command: Block, now: float) -> bool:
        """Does a READ go on with it, and is all of it fetched or on its way?"""
        extent = command.extent
        if extent is None or command.lun != self.lun or extent[0] != self.position:
            return False
        end = self.position + extent[1]
        if end > self.next or command.length != extent[1] * self._block:
            return False
        return all(
            piece.data is None or now - piece.came <= self._limit
            for piece in self._pieces
            if piece.first < end
        )

    def use(self, command: Block, now: float) -> None:
        """The guest reads what :meth:`reads` said is there."""
        extent = command.extent
        assert extent is not None
        self.position, self.used = self.position + extent[1], now

    def is_old(self, now: float) -> bool:
        """Has nobody read of it for too long?"""
        return now - self.used >= self._limit

    def command(self, piece: Piece, tag: int) -> Block:
        """Return the command that fetches a piece."""
        return self.of.reading(tag, piece.first, piece.count, self._block)

    def take(self, first: int, count: int) -> bytes | None:
        """Return blocks, which are forgotten then; None: not all have come yet."""
        end, parts = first + count, []
        for piece in self._pieces:
            if piece.first >= end:
                break
            if piece.data is None:
                return None
            start = max(first - piece.first, 0) * self._block
            stop = min(end - piece.first, piece.count) * self._block
            parts.append(piece.data[start:stop])
        while self._pieces and self._pieces[0].first + self._pieces[0].count <= end:
            self._pieces.popleft()
        return b"".join(parts)

    def more(self, round_trip: float, now: float) -> Piece | None:
        """Return the next piece to fetch; None: enough is on its way."""
        count = min(self._count, self._end - self.next)
        fetched = (self.next - self.position) * self._block
        if count <= 0 or len(self._pieces) >= MAX_AHEAD:
            return None
        if fetched + count * self._block > self._window(round_trip, now):
            return None
        piece = Piece(self.next, count)
        self._pieces.append(piece)
        self.next += count
        return piece

    def came(self, piece: Piece, data: bytes | memoryview, now: float) -> None:
        """A piece has come."""
        piece.data, piece.came = data, now
        self._came.append((now, len(data)))

    def _window(self, round_trip: float, now: float) -> int:
        """Bytes to have fetched or on their way: twice what comes in a round trip.

        While that is what limits the rate, it doubles with every round trip.
        """
        horizon = max(round_trip, MIN_HORIZON)
        while self._came and self._came[0][0] < now - horizon:
            self._came.popleft()
        arriving = sum(size for _, size in self._came)
        return min(self._ahead, 2 * arriving + 2 * self._count * self._block)
