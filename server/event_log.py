"""The latest events of a machine, as JSON has them (docs/spec/events.md)."""

import datetime
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .events import Event

__all__ = ["EventLog"]

VERSION = 1
"""Of the form in JSON."""

KEPT = 1000
"""Events that are kept; who is more than that behind learns how many it missed."""

MAX_TEXT = 1024
"""Characters of a text in an event, of which peers may be the authors."""

LOST = "events.lost"


class EventLog:
    """The latest events of a machine, numbered from 1.

    Args:
        machine: its name.
        clock: seconds since 1970.
    """

    def __init__(self, machine: str, clock: Callable[[], float] = time.time) -> None:
        self._machine = machine
        self._clock = clock
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._watchers: set[Callable[[], None]] = set()
        self.last = 0

    def add(self, event: Event) -> None:
        """Keep an event that has a name, and tell who watches."""
        if not event.NAME:
            return
        self.last += 1
        members = {name: _clip(value) for name, value in event.members().items()}
        self._kept.append(self._head(event.NAME, self.last) | members)
        for changed in list(self._watchers):
            changed()

    def after(self, number: int | None) -> list[dict[str, Any]]:
        """Return the events after a number; None: all that are kept.

        If some of them are not kept any more, the first one says how many. A number
        that there has not been yet is one of an earlier run: all are returned.
        """
        if number is None or number > self.last:
            return list(self._kept)
        missing = self.last - number
        found = list(self._kept)[-missing:] if missing else []
        if lost := missing - len(found):
            head = self._head(LOST, number + lost)
            found.insert(0, head | {"count": lost})
        return found

    @contextmanager
    def watch(self, changed: Callable[[], None]) -> Iterator[None]:
        """Call *changed* after each event."""
        self._watchers.add(changed)
        try:
            yield
        finally:
            self._watchers.discard(changed)

    def _head(self, name: str, number: int) -> dict[str, Any]:
        when = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        return {
            "v": VERSION,
            "seq": number,
            "time": when.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "event": name,
            "machine": self._machine,
        }


def _clip(value: object) -> object:
    return value[:MAX_TEXT] if isinstance(value, str) else value
