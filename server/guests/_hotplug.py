"""What guests have in common that plug devices into a machine while it runs.

Such a machine may drop a device by itself, and it may end and be started again.
"""

import asyncio
import contextlib
import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from rusb.aio.tasks import TaskSet
from rusb.errors import GuestError

from ._stream import DeviceStream
from .base import AttachedDevice, GuestBackend

__all__ = ["HotplugGuest", "Plug"]

log = logging.getLogger(__name__)

RETURN_POLL = 1.0
"""Seconds between two looks whether a machine that ended was started again."""


class Plug:
    """One device and its usb-redir, from before that is made until it is gone.

    Attributes:
        id: of the usb-redir in the machine.
        is_in: it was plugged in; its end from now on is told with ``lost``.
        why: why it ended without our doing, if it did.
        ended: set together with *why*.
        removal: the task that takes it out, once begun.
    """

    def __init__(self, id: str, device: AttachedDevice) -> None:
        self.id = id
        self.device = device
        self.stream: DeviceStream | None = None
        self.is_in = False
        self.why: str | None = None
        self.ended = asyncio.Event()
        self.removal: asyncio.Task[None] | None = None


P = TypeVar("P", bound=Plug)


class HotplugGuest(GuestBackend, Generic[P]):
    """Keeps the plugs, tells each loss once, and waits for a machine that ended."""

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._plugs: dict[str, P] = {}
        self._tasks = TaskSet()
        self._lost = lambda device, why: None
        self._ended: Callable[[str], None] = lambda why: None
        self._returned: Callable[[], None] = lambda: None
        self._is_awaited = False

    async def detach(self, device: AttachedDevice) -> None:
        """Unplug it, and delete what is in the machine for its sake."""
        for plug in list(self._plugs.values()):
            if plug.device is device:
                await self._take_out(plug)

    async def aclose(self) -> None:
        """Unplug everything."""
        for plug in list(self._plugs.values()):
            await self._take_out(plug)
        await self._tasks.aclose()

    # ---------------------------------------------- what a kind of guest has ----

    @abstractmethod
    async def _is_back(self) -> bool:
        """Does a machine that ended run again?

        Raises:
            GuestError: that cannot be told.
        """

    @abstractmethod
    async def _delete(self, plug: P) -> None:
        """Delete what there is of it in the machine; its stream is closed.

        Raises:
            GuestError: something stays there.
        """

    # -------------------------------------------------------------- its end ----

    def _drop_all(self, why: str, *, is_awaited: bool = True) -> None:
        """The machine ended; wait until it was started again, if that may be."""
        for plug in list(self._plugs.values()):
            self._drop(plug, why)
        if is_awaited and not self._is_awaited:
            self._is_awaited = True
            self._ended(why)
            self._tasks.start(self._wait_for_return(), "return of the guest")

    async def _wait_for_return(self) -> None:
        while True:
            await asyncio.sleep(RETURN_POLL)
            with contextlib.suppress(GuestError):
                if await self._is_back():
                    break
        self._is_awaited = False
        self._returned()

    def _drop(self, plug: P, why: str) -> None:
        """It ended without our doing: tell it once, then clean up."""
        if plug.why is not None or plug.removal is not None:
            return
        plug.why = why
        plug.ended.set()
        if plug.is_in:
            log.info("%s: %s", plug.device.name, why)
            self._begin_removal(plug)
            self._lost(plug.device, why)

    # ------------------------------------------------------------- take out ----

    async def _take_out(self, plug: P) -> None:
        """Remove it, or wait for the removal that has begun."""
        await asyncio.shield(self._begin_removal(plug))

    def _begin_removal(self, plug: P) -> asyncio.Task[None]:
        if plug.removal is None:
            plug.removal = self._tasks.start(
                self._remove(plug), f"removal of {plug.id}"
            )
        return plug.removal

    async def _remove(self, plug: P) -> None:
        if plug.stream is not None:
            await plug.stream.aclose()
        try:
            await self._delete(plug)
        except GuestError as error:
            log.warning("%s may be left behind in the guest: %s", plug.id, error)
        del self._plugs[plug.id]
