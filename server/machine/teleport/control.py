"""The control socket's commands about a machine that leaves."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rusb.errors import ControlError, RusbError

from ..control import Command
from .departure import MAX_DOWNTIME, Departure, Destination
from .relay import Relay

__all__ = ["TeleportControl"]

log = logging.getLogger(__name__)

LAST_LOOK: Final = 5.0
"""Seconds for whoever watches to learn that it is done, before the process ends."""


class TeleportControl:
    """One move at a time.

    Args:
        depart: makes a move; raises why there can be none.
        left: called when the machine has gone.
    """

    def __init__(
        self, depart: Callable[[Destination], Departure], left: Callable[[], None]
    ) -> None:
        self._depart, self._left = depart, left
        self._departure: Departure | None = None
        self._task: asyncio.Task[None] | None = None
        self._error = ""
        self._seen = asyncio.Event()
        self._before: set[asyncio.Task[None]] = set()

    @property
    def is_gone(self) -> bool:
        """Does the machine run elsewhere?"""
        return self._departure is not None and self._departure.downtime is not None

    @property
    def is_busy(self) -> bool:
        """Is the machine on its way?"""
        return self._task is not None and not self._task.done() and not self.is_gone

    def commands(self) -> dict[str, Command]:
        """Return what the control socket is to know."""
        return {
            "teleport": self._start,
            "teleportstatus": self._status,
            "teleportcancel": self._cancel,
        }

    @property
    def is_relaying(self) -> bool:
        """Do devices of the machine, which runs elsewhere, still come over here?"""
        return self.is_gone and self._task is not None and not self._task.done()

    async def wait_relaying(self) -> bool:
        """Wait until its QEMU here has ended, if it runs elsewhere; does it relay?"""
        if self.is_gone and self._departure is not None:
            await self._departure.has_ended.wait()
        return self.is_relaying

    def find(self, way: Sequence[bytes]) -> tuple[int, Relay, int] | None:
        """Find a device that is relayed from here, see ``Departure.find``."""
        return self._departure.find(way) if self._departure is not None else None

    def came_home(self) -> None:
        """The machine is here again; what is left of its move ends by itself."""
        task, self._departure, self._task = self._task, None, None
        if task is not None:
            self._before.add(task)
            task.add_done_callback(self._before.discard)

    async def aclose(self) -> None:
        """Cancel what is under way; the machine is here then. Idempotent."""
        tasks = {*self._before, *filter(None, [self._task])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def resumed(self) -> None:
        """The machine goes on here, after a move that was cut at the switch."""
        departure = self._departure
        if departure is not None and departure.is_switched:
            departure.is_switched = False
            await departure.stays()

    async def _start(self, arguments: Mapping[str, Any]) -> None:
        if self._task is not None and not self._task.done():
            raise ControlError("the machine is already being teleported")
        to = _destination(arguments)
        self._departure = self._depart(to)
        self._error = ""
        self._seen.clear()
        self._task = asyncio.ensure_future(self._run(self._departure, to))

    async def _run(self, departure: Departure, to: Destination) -> None:
        try:
            await departure.run()
        except RusbError as error:
            self._error = str(error)
        except asyncio.CancelledError:
            if not departure.is_switched:
                self._error = "the teleport was cancelled; the machine goes on here"
            elif departure.downtime is None:
                self._error = (
                    "the machine was powered off here at the very moment of the switch:"
                    f" see whether it runs at {to}; if it does not, start it on either"
                    " host"
                )
            raise
        except Exception as error:
            log.exception("teleporting")
            self._error = f"internal error: {error!r}; see the server's log"
        if departure.downtime is None:
            return  # it did not go
        if self._error:
            self._error = (
                f"the machine runs at {to}, but the devices that came over this host"
                f" are gone: {self._error}"
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LOOK):
                await self._seen.wait()
        if departure is self._departure:
            self._left()

    async def _status(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        departure, task = self._departure, self._task
        if departure is None or task is None:
            raise ControlError("the machine was not teleported")
        is_over = self.is_gone or task.done()
        if is_over:
            self._seen.set()
        progress = departure.progress
        return {
            "stage": departure.stage,
            "is_over": is_over,
            "error": self._error,
            "transferred": progress.transferred,
            "remaining": progress.remaining,
            "total": progress.total,
            "downtime": departure.downtime,
            "devices": departure.relayed,
        }

    async def _cancel(self, arguments: Mapping[str, Any]) -> None:
        """Cancel; return when the machine goes on here.

        Raises:
            ControlError: it is too late.
        """
        departure, task = self._departure, self._task
        if departure is None or task is None or task.done():
            raise ControlError("the machine is not being teleported")
        if departure.is_switched:
            raise ControlError("it is too late: the machine belongs to the target")
        task.cancel()
        await asyncio.wait([task])


def _destination(arguments: Mapping[str, Any]) -> Destination:
    match arguments:
        case {
            "host": str(host),
            "port": int(port),
            "password": str(password),
            "downtime": int(downtime),
            "bandwidth": int(bandwidth),
        } if (
            host
            and 0 < port < 0x10000
            and 0 < downtime <= MAX_DOWNTIME
            and 0 <= bandwidth < 1 << 50
        ):
            return Destination(host, port, password, downtime / 1000, bandwidth)
    raise ControlError("a teleport needs host, port, password, downtime, bandwidth")
