"""How often one may try: failures delay the next attempt, many refuse it."""

import asyncio
from collections import OrderedDict
from typing import TypeVar
from weakref import WeakValueDictionary

from rusb.server.network import network_of

__all__ = [
    "FORGET_AFTER",
    "FREE_FAILURES",
    "MAX_FAILURES",
    "MAX_FAILURES_OF_ALL",
    "MAX_KEYS",
    "Limits",
]

MAX_KEYS = 4096
"""Users and networks remembered of each; the longest unheard of is forgotten first."""

FREE_FAILURES = 2
"""Failures without a delay: typing errors."""

MAX_FAILURES = 10
"""Failures of a user from a network; then an attempt is refused without asking."""

MAX_FAILURES_OF_ALL = 50
"""Those of all users from a network who have not got in."""

FORGET_AFTER = 300.0
"""Seconds after the last attempt that was asked."""

FIRST_DELAY, MAX_DELAY = 0.5, 8.0

Key = TypeVar("Key")


class Limits:
    """Failed attempts by network, and in it by user."""

    def __init__(self) -> None:
        self._users: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._networks: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock]
        self._turns = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._users) + len(self._networks)

    def turn(self, address: str, user: str) -> asyncio.Lock:
        """Return the lock to hold from :meth:`begin` to the answer: the attempts of a
        user from a network are made one after another."""
        who = network_of(address), user
        return self._turns.setdefault(who, asyncio.Lock())

    def begin(self, address: str, user: str, now: float) -> float | None:
        """Count an attempt as failed until :meth:`succeeded`.

        Returns:
            Seconds to wait before asking, or None: refuse without asking.
        """
        network = network_of(address)
        who = network, user
        count = _count(self._users, who, now)
        of_all = _count(self._networks, network, now)
        if count >= MAX_FAILURES or of_all >= MAX_FAILURES_OF_ALL:
            return None
        _remember(self._users, who, count + 1, now)
        _remember(self._networks, network, of_all + 1, now)
        if count < FREE_FAILURES:
            return 0.0
        return float(min(MAX_DELAY, FIRST_DELAY * 2 ** (count - FREE_FAILURES)))

    def succeeded(self, address: str, user: str) -> None:
        """Forget a user's failures, and nobody else's."""
        network = network_of(address)
        own, _ = self._users.pop((network, user), (0, 0.0))
        count, last = self._networks.get(network, (0, 0.0))
        if count > own:
            self._networks[network] = count - own, last
        else:
            self._networks.pop(network, None)


def _count(known: OrderedDict[Key, tuple[int, float]], key: Key, now: float) -> int:
    count, last = known.get(key, (0, now))
    return count if now - last < FORGET_AFTER else 0


def _remember(
    known: OrderedDict[Key, tuple[int, float]], key: Key, count: int, now: float
) -> None:
    known[key] = count, now
    known.move_to_end(key)
    if len(known) > MAX_KEYS:
        known.popitem(last=False)
