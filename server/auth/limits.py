"""How often one may try: failures delay the next attempt, many refuse it.

Failures are counted four times: of a user from a network, of all users from it, of a
user from all networks, and of the provider's network (IPv6, a /48) that a network is
in. Who the user is, the library says: names that it compares alike are one user.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from weakref import WeakValueDictionary

from rusb.server.network import network_of, site_of

__all__ = [
    "FORGET_AFTER",
    "FREE_FAILURES",
    "LEAK_EVERY",
    "MAX_FAILURES",
    "MAX_FAILURES_ANYWHERE",
    "MAX_FAILURES_OF_ALL",
    "MAX_KEYS",
    "SITE_FAILURES",
    "Limits",
]

MAX_KEYS = 4096
"""Keys remembered of each kind; the longest unheard of is forgotten first."""

FREE_FAILURES = 2
"""Failures without a delay: typing errors."""

MAX_FAILURES = 10
"""Failures of a user from a network; then an attempt is refused without asking."""

MAX_FAILURES_OF_ALL = 50
"""Those of all users from a network who have not got in."""

SITE_FAILURES = 10
"""Failures of a user from a /48 of IPv6, and as many more of all users, before it is a
network like any other: neighbours at a provider have some of their own."""

FORGET_AFTER = 300.0
"""Seconds after the last attempt that was asked."""

MAX_FAILURES_ANYWHERE = 30
"""Failures of a user from all networks where that user has never got in."""

LEAK_EVERY = 10.0
"""Seconds in which one of those is forgotten, so that nobody is kept out for good: in
each such time somebody has a try, and it may be the user who has moved."""

FIRST_DELAY, MAX_DELAY = 0.5, 8.0


class _Counts:
    """Failures by key, each with a time; the oldest are forgotten."""

    def __init__(self, leak_every: float = 0.0) -> None:
        self._known: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
        self._leak_every = leak_every

    def __len__(self) -> int:
        return len(self._known)

    def count(self, key: Hashable, now: float) -> int:
        """Return the failures of *key* that still count."""
        count, last = self._known.get(key, (0, now))
        if self._leak_every:
            return max(0, count - int((now - last) / self._leak_every))
        return count if now - last < FORGET_AFTER else 0

    def add(self, key: Hashable, now: float) -> None:
        """Count one more."""
        before, last = self._known.get(key, (0, now))
        count = self.count(key, now)
        if self._leak_every and count:
            now = last + (before - count) * self._leak_every  # keep what is over
        self._known[key] = count + 1, now
        self._known.move_to_end(key)
        if len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)

    def forget(self, key: Hashable) -> int:
        """Forget all of them; return how many there were."""
        return self._known.pop(key, (0, 0.0))[0]

    def lower(self, key: Hashable, by: int) -> None:
        """Forget some of them."""
        count, last = self._known.get(key, (0, 0.0))
        if count > by:
            self._known[key] = count - by, last
        else:
            self._known.pop(key, None)


class Limits:
    """Failed attempts; *user* is what the library compares (:meth:`Library.who`)."""

    def __init__(self) -> None:
        self._users = _Counts()
        self._networks = _Counts()
        self._anywhere = _Counts(LEAK_EVERY)
        self._homes: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock]
        self._turns = WeakValueDictionary()

    def __len__(self) -> int:
        counts = len(self._users) + len(self._networks) + len(self._anywhere)
        return counts + len(self._homes)

    def turn(self, address: str, user: str) -> asyncio.Lock:
        """Return the lock to hold from :meth:`begin` to the answer: the attempts of a
        user from a network are made one after another."""
        who = network_of(address), user
        return self._turns.setdefault(who, asyncio.Lock())

    def begin(self, address: str, user: str, now: float) -> float | str:
        """Count an attempt as failed until :meth:`succeeded`.

        Returns:
            Seconds to wait before asking, or a reason: refuse without asking.
        """
        failures = []
        for network, free in _levels(address):
            own = self._users.count((network, user), now) - free
            of_all = self._networks.count(network, now) - free
            if own >= MAX_FAILURES or of_all >= MAX_FAILURES_OF_ALL:
                whole = f", in {network}" if free else ""
                return f"too many failed attempts from {address}{whole}"
            failures.append(own)
        if (network_of(address), user) not in self._homes:
            if self._anywhere.count(user, now) >= MAX_FAILURES_ANYWHERE:
                return (
                    "too many failed attempts at this user's password from many"
                    f" addresses, the last from {address}; the user can still log on"
                    " from an address that has worked before"
                )
            self._anywhere.add(user, now)
        for network, _ in _levels(address):
            self._users.add((network, user), now)
            self._networks.add(network, now)
        late = max(failures) - FREE_FAILURES
        return 0.0 if late < 0 else float(min(MAX_DELAY, FIRST_DELAY * 2**late))

    def succeeded(self, address: str, user: str) -> None:
        """Forget a user's failures from there, and nobody else's."""
        home = network_of(address), user
        own = [self._users.forget((network, user)) for network, _ in _levels(address)]
        for (network, _), count in zip(_levels(address), own, strict=True):
            self._networks.lower(network, count)
        if home not in self._homes:
            self._anywhere.lower(user, own[0])
        self._homes[home] = None
        self._homes.move_to_end(home)
        if len(self._homes) > MAX_KEYS:
            self._homes.popitem(last=False)


def _levels(address: str) -> list[tuple[str, int]]:
    """Return the networks that an address counts for, the narrowest first, and how
    many failures of each are free."""
    network, site = network_of(address), site_of(address)
    return [(network, 0)] if site == network else [(network, 0), (site, SITE_FAILURES)]
