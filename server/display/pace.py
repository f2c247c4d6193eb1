"""When a head has its next round (display.md 3.2, 13)."""

import time
from collections.abc import Callable

__all__ = ["Pace"]

TICK, TIMES = 0.025, 2
"""Seconds between two rounds of encoding, and at least so many times what the last one
took: at most half a core goes into pictures."""

BUSY_TICK, BUSY_TIMES = 0.05, 8
"""The same while the loop is busy. Rounds have a thread of their own, but not an
interpreter: the loop has to get it back again and again, and USB is what it costs."""

BUSY = 0.25
"""Share of a core that a busy loop takes, as it does with 100 MB/s of USB. Pictures for
a few viewers, keyboards, mice and cameras take less."""

SOON = 1.0
"""Seconds after something was typed or pointed at in which a busy loop does not count:
somebody looks at what comes of it."""


class Pace:
    """Counts what rounds take, and the loop meanwhile; belongs to the loop's thread.

    Args:
        used: returns seconds of the processor's time that the loop has taken so far.
    """

    def __init__(self, used: Callable[[], float] = time.thread_time) -> None:
        self._used = used
        self._before = used()
        self._ended = 0.0
        self._soonest = self._after = 0.0
        self._soon_until = 0.0

    def ended(self, now: float, took: float) -> None:
        """A round has ended.

        Args:
            now: the loop's time.
            took: seconds of the processor's time.
        """
        before, self._before = self._before, self._used()
        is_busy = self._before - before > BUSY * (now - self._ended)
        self._ended = now
        self._soonest = self._after = now + max(TICK, TIMES * took) - took
        if is_busy:
            self._after = now + max(BUSY_TICK, BUSY_TIMES * took) - took

    def touched(self, now: float) -> None:
        """Somebody typed, or pointed at something."""
        self._soon_until = now + SOON

    def next(self, now: float) -> float:
        """Return when the next round may begin."""
        return max(now, self._soonest if now < self._soon_until else self._after)
