"""The guest's pointer, which all viewers share (display.md 6.1, 6.3)."""

import asyncio
from collections.abc import Hashable

from .base import ScreenSource

__all__ = ["BUTTONS", "Pointer"]

MOVE_PERIOD = 0.008
"""Seconds between two movements that are passed on; buttons do not wait."""

BUTTONS = {"left": 1, "middle": 2, "right": 4}
"""Bits of VNC; QMP knows more buttons, by name."""

_WHEEL_UP, _WHEEL_DOWN = 8, 16

_STILL = 0x7FFF
"""No movement, of a pointer that takes no positions."""

MAX_NOTCHES = 16
"""Of one event."""


class Pointer:
    """Passes positions and buttons on.

    Attributes:
        source: the screen that they are meant for.
    """

    def __init__(self, source: ScreenSource) -> None:
        self.source = source
        self._place: tuple[int, int] | None = None
        self._sent: tuple[int, int] | None = None
        self._held: dict[str, set[Hashable]] = {}
        self._after = 0.0
        self._due: asyncio.TimerHandle | None = None

    def move(self, x: int, y: int) -> None:
        """The pointer is elsewhere."""
        if (x, y) == self._place:
            return
        self._place = x, y
        loop = asyncio.get_running_loop()
        if self._due is None:
            self._due = loop.call_at(max(self._after, loop.time()), self._move)

    def button(self, viewer: Hashable, name: str, *, is_down: bool) -> None:
        """A viewer pressed or released a button: it is down for who presses first.

        Args:
            name: QMP's: ``left``, ``middle``, ``right``, ``side`` or ``extra``.
        """
        holders = self._held.setdefault(name, set())
        was_down = bool(holders)
        (holders.add if is_down else holders.discard)(viewer)
        if bool(holders) != was_down:
            if name in BUTTONS:
                self._send()
            else:
                self.source.button(name, is_down=is_down)

    def wheel(self, notches: int, *, is_horizontal: bool) -> None:
        """Turn a wheel, up or to the right; less than 0: down or to the left."""
        for _ in range(min(abs(notches), MAX_NOTCHES)):
            if is_horizontal:
                name = "wheel-right" if notches > 0 else "wheel-left"
                self.source.button(name, is_down=True)
                self.source.button(name, is_down=False)
            else:
                self._send(_WHEEL_UP if notches > 0 else _WHEEL_DOWN)
                self._send()

    def release(self, viewer: Hashable) -> None:
        """Release what a viewer holds."""
        for name, holders in list(self._held.items()):
            if viewer in holders:
                self.button(viewer, name, is_down=False)

    def close(self) -> None:
        """Move no more. Idempotent."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _move(self) -> None:
        self._due = None
        self._send()

    def _send(self, wheel: int = 0) -> None:
        """Say where the pointer is and what is held."""
        self.close()
        self._after = asyncio.get_running_loop().time() + MOVE_PERIOD
        held = sum(bit for name, bit in BUTTONS.items() if self._held.get(name))
        x, y = self._place or (0, 0)
        if not self.source.is_absolute:
            old_x, old_y = self._sent or (x, y)
            self._sent = x, y
            x, y = _STILL + x - old_x, _STILL + y - old_y
        self.source.pointer(held | wheel, x, y)
