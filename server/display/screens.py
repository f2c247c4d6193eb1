"""All the heads of a machine, as a server shows them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .base import ScreenAccess
from .guest_screen import GuestScreen
from .hub import Hub
from .keyboard import Keyboard
from .status import StatusPage

__all__ = ["Screens"]

KEPT = 8 << 20
"""Bytes of freed memory that encoding may keep, twice what a whole screen takes."""


class Screens:
    """A hub for each head.

    Args:
        access: how screens of the guest are reached.
        machine: its name.
        count: of heads.
        devices: returns a line for each device that is plugged in.
        video: returns the quality of videos, 10 to 100; None: they are pictures as
            others.
    """

    def __init__(
        self,
        access: ScreenAccess,
        machine: str,
        count: int,
        devices: Callable[[], Sequence[str]],
        video: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._video = video
        self._encoding = ThreadPoolExecutor(1, "encoding", _keep_memory)
        self._keyboard = Keyboard(self._key)
        self._hubs: list[Hub] = []
        self._guests: list[GuestScreen] = []
        for head in range(count):
            self._add(access, machine, head, devices)

    def _add(
        self,
        access: ScreenAccess,
        machine: str,
        head: int,
        devices: Callable[[], Sequence[str]],
    ) -> None:
        page = StatusPage(machine, devices, lambda: guest.problem)
        hub = Hub(page, self._keyboard, self._encoding, head, self._video)
        guest = GuestScreen(access, head, hub.switched)
        hub.serve(guest)
        self._hubs.append(hub)
        self._guests.append(guest)

    def __getitem__(self, head: int) -> Hub:
        return self._hubs[head]

    @property
    def first(self) -> GuestScreen:
        """The guest's first screen, whose connection has sound and clipboard."""
        return self._guests[0]

    def start(self) -> None:
        """Reach the guest's screens, now and whenever they are gone."""
        for guest in self._guests:
            guest.start()

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return the width and height of each; zeros: the guest does not show it."""
        return tuple(hub.size or (0, 0) for hub in self._hubs)

    def status_changed(self) -> None:
        """The status pages have something else to say."""
        for hub in self._hubs:
            hub.status_changed()

    async def aclose(self) -> None:
        """Show nothing more. Idempotent."""
        await asyncio.gather(*(hub.aclose() for hub in self._hubs))
        self._encoding.shutdown()

    def _key(self, code: int, is_down: bool) -> None:
        """Press or release a key, at the first head: they have one keyboard."""
        self._hubs[0].key(code, is_down)


def _keep_memory() -> None:
    """Let glibc keep the memory in which a picture is made for the next one.

    It gives back to the kernel, and then fetches page by page, blocks that are larger
    than the largest one that was ever freed, and what is twice as much in all
    (mallopt(3), M_MMAP_THRESHOLD): a fifth of the time that a picture takes.
    """
    np.empty(KEPT // 2, np.uint8)
