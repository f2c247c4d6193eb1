"""Reads of the guest that wait at remote devices while their machine moves (7.9).

QEMU moves one of them for each endpoint, so serial ports are suspended. Of devices that
come over another host, that host is asked.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from rusb.errors import GuestError

from ...guests.qemu import QemuGuest
from ..process import Hypervisor
from .arrival import Arrival
from .messages import What

__all__ = ["WaitingReads"]

THROUGH_TIMEOUT: Final = 2.0
"""Seconds until nothing is under way between QEMU and a device that came home; usually
it takes no time at all."""

POLL: Final = 0.005
"""Seconds between two looks at that."""


class WaitingReads:
    """Those at the devices of a machine.

    Args:
        hypervisor: runs it, as long as it is here.
        guests: where devices of clients are that are connected here.
        came: moves to here over which further ones come.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        guests: Sequence[QemuGuest],
        came: Sequence[Arrival],
    ) -> None:
        self._hypervisor = hypervisor
        self._guests, self._came = guests, came

    async def ask(self, what: What) -> None:
        """Look at them, or suspend them, wherever the machine is.

        Raises:
            GuestError: the machine cannot move; the message names the device.
        """
        if what is What.RESUME:
            self.resume()
            return
        for guest in self._guests:
            if what is What.SUSPEND:
                await guest.suspend_reads(self._is_through)
            guest.check_movable(is_suspended=what is not What.LOOK)
        for came in tuple(self._came):
            await came.ask(what)

    async def suspend(self) -> None:
        """Suspend them, and have the QEMU that is here act on that.

        Raises:
            GuestError: the machine cannot move; the message names the device.
        """
        await self.ask(What.SUSPEND)
        if any(came.is_carrying for came in self._came):
            await self._act()
            # it may have read before it had acted on that
            await self.ask(What.SUSPEND)
            await self._act()

    def resume(self) -> None:
        """The machine has moved, or stays."""
        for guest in self._guests:
            guest.resume_reads()
        for came in self._came:
            came.resume_reads()

    async def _act(self) -> None:
        """Have QEMU act on all that devices have said, and pass on what it says then.

        Raises:
            GuestError: it does not answer.
        """
        await self._wait_through()
        await self._hypervisor.execute("query-status")
        await self._wait_through()

    async def _wait_through(self) -> None:
        try:
            async with asyncio.timeout(THROUGH_TIMEOUT):
                while not self._is_through():  # noqa: ASYNC110
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise GuestError(
                "a device takes too long to take what the guest says, or the other way"
                " round; try again when it has less to do"
            ) from None

    def _is_through(self) -> bool:
        """Is nothing under way at devices that came home?"""
        return all(came.is_through for came in self._came)
