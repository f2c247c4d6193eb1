"""When pictures are made: drawing leaves the rest of the time to USB."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from .base import Display

__all__ = ["Pacer", "Shown"]

MAX_PICTURES = 16 << 20
"""Bytes of pictures on their way to clients, above which no further one is made."""

SCREEN_PERIOD = 0.25
"""Seconds from one round of pictures to the next, and at least four times what the last
one took: whatever clients ask for, drawing leaves the rest of the time to USB."""


class Shown(Protocol):
    """What a pacer wants of a viewer.

    Attributes:
        picture_size: bytes of the picture that is on its way to the client.
    """

    picture_size: int

    def show(self, display: Display) -> None:
        """Draw the display as it is now."""


class Pacer:
    """Draws a display for its viewers, one at a time."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._viewers: set[Shown] = set()
        self._stale: set[Shown] = set()  # their picture is old
        self._due: asyncio.Handle | None = None
        self._after = 0.0
        self._took = 0.0  # of this round
        display.watch(lambda: self._draw_soon(self._viewers))

    def add(self, viewer: Shown) -> None:
        """Show somebody what changes."""
        self._viewers.add(viewer)

    def discard(self, viewer: Shown) -> None:
        """Forget somebody who left."""
        self._viewers.discard(viewer)
        self._stale.discard(viewer)

    def refresh(self, viewer: Shown) -> None:
        """One viewer wants its picture again."""
        self._draw_soon((viewer,))

    def close(self) -> None:
        """Draw nothing more. Idempotent."""
        self._viewers.clear()
        self._stale.clear()
        if self._due is not None:
            self._due.cancel()

    def _draw_soon(self, viewers: Iterable[Shown]) -> None:
        self._stale.update(viewers)
        if self._stale and self._due is None:
            loop = asyncio.get_running_loop()
            self._took = 0.0
            self._due = loop.call_at(max(self._after, loop.time()), self._draw_next)

    def _draw_next(self) -> None:
        """Draw for one viewer, then let others do something."""
        loop = asyncio.get_running_loop()
        self._due = None
        if not self._stale:
            return
        begin = loop.time()
        if sum(one.picture_size for one in self._viewers) > MAX_PICTURES:
            self._due = loop.call_at(begin + SCREEN_PERIOD, self._draw_next)
            return
        self._stale.pop().show(self._display)
        end = loop.time()
        self._took += end - begin
        if self._stale:
            self._due = loop.call_soon(self._draw_next)
        else:
            self._after = end + max(SCREEN_PERIOD, 4 * self._took)
