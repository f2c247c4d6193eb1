"""When the guest gets the size that a viewer wants (display.md 9.3)."""

import asyncio
from collections.abc import Callable

__all__ = ["SizeWishes"]

SETTLED = 0.3
"""Seconds without another wish after which one counts: a window is being dragged."""

ECHO = 1.0
"""Seconds after a change in which a wish for the size before or after it is an answer
of the viewer to the change: FreeRDP 3.30 would undo it."""

MAX_AREA = 8 << 20
"""Pixels of a screen that a guest is asked for, a little more than 4K has."""


class SizeWishes:
    """Waits until a viewer knows what it wants.

    Args:
        resize: asks the guest for a size.
    """

    def __init__(self, resize: Callable[[int, int], None]) -> None:
        self._resize = resize
        self._size: tuple[int, int] | None = None
        self._echoes: set[tuple[int, int] | None] = set()
        self._echoes_until = 0.0
        self._due: asyncio.TimerHandle | None = None

    def changed(self, size: tuple[int, int] | None) -> None:
        """The screen has this size now; None: there is no screen."""
        if size != self._size:
            self._echoes = {_even(self._size), _even(size)}
            self._echoes_until = asyncio.get_running_loop().time() + ECHO
            self._size = size
            self.close()

    def wish(self, width: int, height: int) -> None:
        """A viewer that may do so wants this size."""
        loop = asyncio.get_running_loop()
        self.close()
        size = width, height
        is_echo = loop.time() < self._echoes_until and _even(size) in self._echoes
        fits = 0 < width * height <= MAX_AREA
        if self._size not in (None, size) and fits and not is_echo:
            self._due = loop.call_later(SETTLED, self._resize, width, height)

    def close(self) -> None:
        """Want nothing more. Idempotent."""
        if self._due is not None:
            self._due.cancel()
            self._due = None


def _even(size: tuple[int, int] | None) -> tuple[int, int] | None:
    return size and (size[0] & ~1, size[1] & ~1)
