"""A bounded queue from an OUT endpoint to an IN endpoint."""

from collections import deque

from .core import Data

__all__ = ["Echo"]

MAX_BYTES = 1 << 20
"""Bytes that wait to be read; above it OUT transfers wait too."""

MAX_PIECES = 4096
"""Likewise the number of transfers, for short ones."""


class Echo:
    """Pieces that came in and wait to go out, oldest first."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Should the host wait?"""
        return self._size >= MAX_BYTES or len(self._pieces) >= MAX_PIECES

    def put(self, data: Data) -> None:
        """Keep a copy."""
        self._pieces.append(bytes(data))
        self._size += len(data)

    def take(self) -> bytes | None:
        """Return the oldest piece, None if there is none."""
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        return piece
