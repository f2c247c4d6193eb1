"""A connection is gone: dial until there is another one, or the server refuses us."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from rusb.aio.tasks import TaskSet
from rusb.errors import (
    AuthenticationError,
    CertificateError,
    ConnectionLost,
    NegotiationError,
    RusbError,
    SettingsError,
)

from .events import (
    ConnectionBroken,
    ConnectionHeard,
    SessionEvent,
    SessionForgotten,
    SessionRenewed,
    SessionResumed,
)
from .extension import Ticket, clock

__all__ = ["Redial"]

log = logging.getLogger(__name__)

RESUME_SECONDS, RENEW_SECONDS = 5.0, 10.0
"""For one attempt to come back: to a session that waits for us, to a new one."""

STEP, MOST = 0.2, 2.0
"""Seconds by which the time between attempts grows, and up to which."""

BRIEF, BRIEF_AT_ONCE = 5.0, 4
"""Seconds that a connection has to last: after so many in a row that did not, each
further one is waited for, as after an attempt that failed."""

BELIEVED = 3
"""Refusals in a row that count, of a server that had let us in before: a connection
that breaks during the logon looks like one."""


class Redial:
    """Finds the way back to a server, and says so.

    Args:
        server: ``host:port``.
        resume: ``resume(ticket, seconds)``, connects and goes on with what the server
            has kept for us.
        begin: ``begin(seconds)``, connects and begins anew; returns what secures the
            connection.
        drop: ``drop(ticket)``, gives back the devices that the server does not keep:
            all but those that *ticket* stands for.
        go_elsewhere: called when the server keeps nothing; has it sent us to another
            one, perhaps with what it had? Then we go there.
        on_event: gets every event.
        on_over: called with why, once it is of no use to go on.

    Attributes:
        ticket: what to come back with; None: the server would not wait for us.
    """

    def __init__(
        self,
        server: str,
        *,
        resume: Callable[[Ticket, float], Awaitable[None]],
        begin: Callable[[float], Awaitable[str]],
        drop: Callable[[Ticket | None], Awaitable[None]],
        go_elsewhere: Callable[[], bool],
        on_event: Callable[[SessionEvent], None],
        on_over: Callable[[RusbError], None],
    ) -> None:
        self.ticket: Ticket | None = None
        self._server = server
        self._resume = resume
        self._begin = begin
        self._drop = drop
        self._go_elsewhere = go_elsewhere
        self._on_event = on_event
        self._on_over = on_over
        self._tasks = TaskSet()
        self._task: asyncio.Task[None] | None = None
        self._why: RusbError | None = None  # there is no connection
        self._hurry = asyncio.Event()
        self._since = 0.0  # there is a connection
        self._brief = 0  # connections in a row that did not last

    def go_to(self, server: str) -> None:
        """The session is at another server from now on."""
        self._server = server

    @property
    def is_under_way(self) -> bool:
        """Is another connection looked for?"""
        return self._task is not None

    def start(self, why: RusbError) -> None:
        """The connection is gone, or silent: look for another one."""
        self._why = why
        if self._task is None:
            self._task = self._tasks.start(self._work(), "coming back")

    def connected(self) -> None:
        """There is a connection again."""
        self._why = None
        self._since = asyncio.get_running_loop().time()

    def heard(self) -> None:
        """The silent connection goes on: no other one is needed."""
        if self._task is not None:
            self._task.cancel()
            self._task = self._why = None
            self._on_event(ConnectionHeard(self._server))

    def hurry(self) -> None:
        """Something has changed: dial now."""
        self._hurry.set()

    def forget(self) -> None:
        """There is nothing to come back with any more. Idempotent."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.close()

    async def aclose(self) -> None:
        """Look no longer. Idempotent."""
        await self._tasks.aclose()

    # -------------------------------------------------------------- our own ----

    async def _work(self) -> None:
        try:
            while self._why is not None:
                await self._return_from(self._why)
        except RusbError as error:
            self._on_over(error)
        except Exception as error:  # a session does not end without a word
            log.exception("bug in coming back")
            self._on_over(ConnectionLost(f"internal error: {error!r}"))
        self._task = None

    async def _return_from(self, why: RusbError) -> None:
        """Go on with what the server has kept; if there is nothing, begin anew."""
        has_lasted = asyncio.get_running_loop().time() - self._since >= BRIEF
        self._brief = 0 if has_lasted else self._brief + 1
        server, ticket = self._server, self.ticket
        left = 0.0 if ticket is None else max(0.0, ticket.left)
        self._on_event(ConnectionBroken(server, why, round(left)))
        if ticket is not None:
            heard = ticket.heard
            await self._dial(ticket)
            if self._why is None:
                self._on_event(SessionResumed(server, round(clock() - heard, 1)))
                await self._drop(ticket)
                return
            if self._go_elsewhere():
                ticket.is_void = False  # perhaps good there
                return
            self._on_event(SessionForgotten(server, is_late=ticket.left <= 0))
            self.forget()
        await self._drop(None)
        security = await self._dial(None)
        if self._why is None:
            self._on_event(SessionRenewed(server, security))

    async def _dial(self, ticket: Ticket | None) -> str:
        """Dial until there is a connection again, or *ticket* is good no longer.

        Raises:
            RusbError: the server refuses us.
        """
        pause = min(STEP * max(0, self._brief - BRIEF_AT_ONCE), MOST)
        refusals, security = 0, ""
        while self._why is not None and (ticket is None or ticket.is_good):
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            pause = min(pause + STEP, MOST)
            try:
                if ticket is not None:
                    await self._resume(ticket, RESUME_SECONDS)
                else:
                    security = await self._begin(RENEW_SECONDS)
            except (CertificateError, SettingsError):
                raise
            except (AuthenticationError, NegotiationError) as error:
                refusals += 1
                if refusals >= BELIEVED:
                    raise
                self._why = error
            except RusbError as error:
                refusals, self._why = 0, error
        return security
