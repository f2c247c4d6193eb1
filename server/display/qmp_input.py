"""Input that VNC cannot carry: QMP's ``input-send-event`` (display.md 6.3)."""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rusb.aio.tasks import TaskSet
from rusb.errors import RusbError

__all__ = ["QmpInput"]

MAX_WAITING = 64
"""Commands that wait for the answer to those before; what is pressed or moved beyond
that is dropped, with its release."""

_FULL = 0x7FFF
_BUTTONS = (
    (1, "left"),
    (2, "middle"),
    (4, "right"),
    (8, "wheel-up"),
    (16, "wheel-down"),
)

_Event = Mapping[str, object]


class QmpInput:
    """Sends events in their order, each change of a button by itself.

    A guest sees where things are after a command, not what was between.

    Args:
        send: runs the command.
    """

    def __init__(self, send: Callable[[Sequence[_Event]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[list[_Event]] = deque()
        self._place: list[_Event] = []  # where the pointer is to go before what waits
        self._held = 0
        self._down: set[str] = set()  # buttons whose release is yet to be sent
        self._tasks = TaskSet()
        self._is_sending = False

    def button(self, name: str, *, is_down: bool) -> None:
        """Press or release a button, by QMP's name of it."""
        if is_down and len(self._waiting) < MAX_WAITING:
            self._down.add(name)
        elif is_down or name not in self._down:
            return
        else:
            self._down.discard(name)
        self._waiting.append([*self._place, _button(name, is_down)])
        self._place = []
        self._go_on()

    def pointer(self, buttons: int, x: int, y: int, size: tuple[int, int]) -> None:
        """Say where the pointer is on a screen, and which buttons are down.

        Args:
            buttons: as VNC has them.
            size: width and height of the screen.
        """
        places = zip("xy", (x, y), size, strict=True)
        self._place = [
            _axis(axis, at * _FULL // max(side - 1, 1)) for axis, at, side in places
        ]
        changed, self._held = buttons ^ self._held, buttons
        for bit, name in _BUTTONS:
            if changed & bit:
                self.button(name, is_down=bool(buttons & bit))
        self._go_on()

    async def aclose(self) -> None:
        """Send nothing more. Idempotent."""
        await self._tasks.aclose()

    def _go_on(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            self._tasks.start(self._send_all(), "input")

    async def _send_all(self) -> None:
        try:
            while self._waiting or self._place:
                if self._waiting:
                    events = self._waiting.popleft()
                else:
                    events, self._place = self._place, []
                with contextlib.suppress(RusbError):  # a guest without such buttons
                    await self._send(events)
        finally:
            self._is_sending = False


def _button(name: str, is_down: bool) -> _Event:
    return {"type": "btn", "data": {"button": name, "down": is_down}}


def _axis(axis: str, value: int) -> _Event:
    return {"type": "abs", "data": {"axis": axis, "value": value}}
