"""Whose turn it is, of connections that have more to handle than one turn allows."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Lets one connection after another go on, a single one in a turn of the loop.

    So all that many of them send holds whoever has little to say no longer than what
    one of them sends.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._paid = 0.0  # when all that is owed will have been paid

    def wait(self, turn: Callable[[], None], owed: float = 0.0) -> None:
        """Have *turn* called when all those that wait have had theirs.

        Args:
            turn: goes on.
            owed: seconds to wait before, when all others have waited that owe some.
        """
        loop = asyncio.get_running_loop()
        if owed:
            self._paid = max(self._paid, loop.time()) + owed
            loop.call_at(self._paid, self.wait, turn)
            return
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)

    def _next(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)
