"""Who may ask a library now: a few at a time, one for each network, in turn."""

import asyncio
from collections import Counter
from weakref import WeakValueDictionary

from rusb.server.network import site_of

__all__ = ["MAX_PLACES", "MAX_WAITING_FOR_PLACE", "Places"]

MAX_PLACES = 4
"""Checks at a time; one that hangs keeps its place until it ends."""

MAX_WAITING_FOR_PLACE = 32
"""Logons of a network that wait or are checked; more are refused, also those of
clients that have hung up."""


class Places:
    """Gives a network one place at a time, so that none keeps the others out."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_PLACES)
        self._networks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Join those of a network; False: there are too many. :meth:`leave` follows."""
        network = site_of(address)
        if self._waiting[network] >= MAX_WAITING_FOR_PLACE:
            return False
        self._waiting[network] += 1
        return True

    def leave(self, address: str) -> None:
        """Undo an :meth:`enter`."""
        network = site_of(address)
        self._waiting[network] -= 1
        if not self._waiting[network]:
            del self._waiting[network]

    async def take(self, address: str) -> "Place":
        """Wait for a place: behind those of the same network, then behind other
        networks that came before."""
        lock = self._networks.setdefault(site_of(address), asyncio.Lock())
        await lock.acquire()
        try:
            await self._places.acquire()
        except BaseException:
            lock.release()
            raise
        return Place(self._places, lock)


class Place:
    """To be given back once."""

    def __init__(self, places: asyncio.Semaphore, lock: asyncio.Lock) -> None:
        self._places, self._lock = places, lock

    def free(self) -> None:
        """Give it back."""
        self._places.release()
        self._lock.release()
