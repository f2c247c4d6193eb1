"""The machine goes to another host: be there before we leave here
(docs/spec/teleport.md 7.10)."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from rusb.aio.tasks import TaskSet
from rusb.errors import ConnectionLost, RusbError
from rusb.rdp import rusbext
from rusb.rdp.rusbext import Staying
from rusb.usb.device import DeviceInfo

from .config import ClientConfig
from .events import SessionEvent, SessionMoved, SessionStays
from .extension import Extension

__all__ = ["FOLLOW_SECONDS", "Follow", "first_of"]

FOLLOW_SECONDS, MOVE_SECONDS = 5.0, 30.0
"""To be at the other server; for what we have to be there, too."""


PAUSE = 1.0
"""Seconds between two of a server's words about where the machine runs: each is worth a
line, perhaps a connection."""

_WHY_HERE = {
    Staying.WIRE: "what travels over MS-RDPEUSB cannot change over",
    Staying.AHEAD: "{} is read ahead",
    Staying.STREAM: "{} streams sound, pictures or other isochronous data",
    Staying.BUSY: "{} is not at rest",
    Staying.NO_DISPLAY: "the machine has no remote display there; switch it on first",
    Staying.NO_TLS: "the remote display there has no TLS, or keeps no devices for"
    " clients that come back",
}

_OTHER = "the server there cannot go on with them"
_NOT_AGAIN = "this client was started not to connect again"

MayAsk: TypeAlias = Callable[[], Awaitable[None]]


class Follow:
    """Goes to the server that the present one vouches for; stays if it cannot be there.

    Args:
        resume: ``resume(config, may_ask)``, connects to a server, waits for *may_ask*,
            and goes on there with what we have; raises RusbError.
        go_to: called with how to connect, at the moment from which what we have is
            there and no longer here.
        lost: called with why, when we are not there although what we have is.
        on_event: gets every event.
    """

    def __init__(
        self,
        *,
        resume: Callable[[ClientConfig, MayAsk], Awaitable[None]],
        go_to: Callable[[ClientConfig], None],
        lost: Callable[[RusbError], None],
        on_event: Callable[[SessionEvent], None],
    ) -> None:
        self._resume, self._go_to, self._lost = resume, go_to, lost
        self._on_event = on_event
        self._tasks = TaskSet()
        self._task: asyncio.Task[None] | None = None
        self._has_moved = asyncio.Event()
        self._config: ClientConfig | None = None  # where we said that we can be
        self._next = 0.0  # when the next word counts

    def told(
        self, extension: Extension, move: rusbext.Move | None, before: ClientConfig
    ) -> None:
        """The server says where the machine runs; None: what we have is there now.

        Args:
            extension: of the connection to it, which is authenticated.
            move: what it says.
            before: how it is connected to.
        """
        if move is None:
            config, self._config = self._config, None
            if config is not None and self._task is not None:
                self._go_to(config)
                self._has_moved.set()
                if self._task.done():
                    self._lost(
                        ConnectionLost(
                            f"the connection to {config.server} broke meanwhile"
                        )
                    )
        elif self._task is None or self._task.done():
            self._has_moved.clear()
            self._config = None
            now = asyncio.get_running_loop().time()
            wait = max(0.0, self._next - now)
            self._next = now + wait + PAUSE
            work = self._follow(extension, move, before, wait)
            self._task = self._tasks.start(work, "following the machine")

    def told_to_stay(
        self, stay: rusbext.Stay, device: DeviceInfo | None, before: ClientConfig
    ) -> None:
        """The server says where the machine runs, and that we cannot go there.

        Args:
            stay: what it says.
            device: because of which.
            before: how the server is connected to.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        self._next = now + PAUSE
        other = _OTHER if before.reconnect else _NOT_AGAIN
        why = _WHY_HERE.get(stay.reason, other)
        why = why.format("one of them" if device is None else device)
        there = dataclasses.replace(before, host=stay.host, port=stay.port)
        where = there.server if stay.port else stay.host
        stays = SessionStays(before.server, where or "another host", RusbError(why))
        self._on_event(stays)

    def give_up(self) -> ClientConfig | None:
        """Return where we said that we can be, for somebody else to go there."""
        config, self._config = self._config, None
        if config is not None and self._task is not None:
            self._task.cancel()
        return config

    async def aclose(self) -> None:
        """Stay where we are. Idempotent."""
        await self._tasks.aclose()

    async def _follow(
        self,
        extension: Extension,
        move: rusbext.Move,
        before: ClientConfig,
        wait: float,
    ) -> None:
        config = dataclasses.replace(
            before, host=move.host, port=move.port, certificate=move.certificate
        )

        async def may_ask() -> None:
            self._config = config
            extension.answer_move(is_there=True)
            try:
                async with asyncio.timeout(MOVE_SECONDS):
                    await self._has_moved.wait()
            except TimeoutError:
                raise ConnectionLost("the devices were not moved in time") from None

        await asyncio.sleep(wait)
        try:
            if not move.host or not move.port:
                raise ConnectionLost("the server does not say where that is")
            await self._resume(config, may_ask)
        except RusbError as why:
            if self._has_moved.is_set():
                self._lost(why)
                return
            if self._config is None:
                extension.answer_move(is_there=False)
            self._on_event(SessionStays(before.server, config.server, why))
        else:
            self._on_event(SessionMoved(before.server, config.server))


async def first_of(work: Awaitable[object], done: asyncio.Future[None]) -> None:
    """Wait for something, unless *done* has failed meanwhile.

    Raises:
        RusbError: why it has; or what the work raises.
    """
    task = asyncio.ensure_future(work)
    both: set[asyncio.Future[Any]] = {task, done}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            done.result()
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})
