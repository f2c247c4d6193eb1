"""Lines that peers cause, in the log and at the terminal: how many they may."""

import logging
from collections.abc import Callable
from typing import Protocol

from rusb.usb.text import LineQuota, clean_text

__all__ = [
    "Lines",
    "NetworkQuotas",
    "RemoteLog",
    "Terminal",
    "Writer",
]

log = logging.getLogger(__name__)

MAX_LINE = 2048
"""Characters of a line; what a peer says may be part of it (T42)."""

MAX_LINES, LINES_PER_SECOND = 2000, 5.0
"""Lines in the log that a network may cause at once, and those that it may cause in the
long run: 50 MB a day, of which the log keeps the latest 64. Before the logon and after
it they are counted apart."""

MAX_NETWORKS = 1024
"""Networks whose lines are counted at once."""


class Writer(Protocol):
    """Takes lines."""

    def write(self, text: str) -> None: ...


class Lines(Writer, Protocol):
    """Takes lines, and knows the time, in seconds."""

    def now(self) -> float: ...


class Terminal:
    """What a user at the terminal is told, as lines.

    Args:
        say: says a line.
        now: the time, in seconds.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float]) -> None:
        self._say = say
        self.now = now

    def write(self, text: str) -> None:
        """Say a line, in which peers may have a part (T42)."""
        line = clean_text(text)
        try:
            self._say(line if len(line) <= MAX_LINE else line[:MAX_LINE] + "…")
        except Exception:  # a terminal that is gone keeps no client out
            log.exception("report failed: %s", line[:MAX_LINE])


class NetworkQuotas:
    """How many lines each network may cause.

    Those of clients that are logged on are counted apart: nobody hides them by
    connecting and connecting.
    """

    def __init__(self) -> None:
        self._quotas: dict[tuple[str, bool], LineQuota] = {}

    def __len__(self) -> int:
        return len(self._quotas)

    def of(self, network: str, now: float, *, is_logged_on: bool) -> LineQuota:
        """Return the quota that connections of a network share."""
        key = network, is_logged_on
        found = self._quotas.pop(key, None)
        if found is None and len(self._quotas) >= MAX_NETWORKS:
            used = {n: q for n, q in self._quotas.items() if not q.is_full(now)}
            if len(used) >= MAX_NETWORKS:  # forget the one that was here longest ago
                del used[next(iter(used))]
            self._quotas = used
        quota = found or LineQuota(MAX_LINES, LINES_PER_SECOND)
        self._quotas[key] = quota
        return quota


class RemoteLog:
    """What one peer causes, which quotas limit; what is left out is counted.

    Args:
        log: where the lines go.
        name: of the peer, for the line about what was left out.
        quotas: its own, then what it shares with others.
    """

    def __init__(self, log: Lines, name: str, *quotas: LineQuota) -> None:
        self._log = log
        self._name = name
        self._quotas = quotas
        self._left_out = 0

    def write(self, text: str) -> None:
        """Write a line, unless there were too many."""
        now = self._log.now()
        if all(quota.take(now) for quota in self._quotas):
            self._tell()
            for quota in self._quotas[1:]:
                count, quota.untold = quota.untold, 0
                if count:
                    self._log.write(f"{count} lines of earlier clients were left out.")
            self._log.write(text)
        else:
            self._left_out += 1

    def tell_left_out(self) -> None:
        """Say how many lines were left out since the last one.

        That is a line, too: where those that it shares are used up, it comes with the
        next line of somebody else.
        """
        now, shared = self._log.now(), self._quotas[1:]
        if self._left_out and not all(quota.take(now) for quota in shared):
            shared[-1].untold += self._left_out
            self._left_out = 0
        self._tell()

    def _tell(self) -> None:
        count, self._left_out = self._left_out, 0
        if count:
            self._log.write(f"{self._name}: {count} lines were left out here.")
