"""A viewer's window beside the USB devices: which one, and until when."""

import argparse
import asyncio
import contextlib
import enum
import os
from collections.abc import Callable, Sequence
from typing import Any

from rusb.client.session import ClientSession
from rusb.client.viewer import (
    PACKAGES,
    Pair,
    Viewer,
    ViewerProgram,
    find_viewer,
    has_display,
    view,
)
from rusb.errors import ConnectionLost
from rusb.rdp.error_info import STOPPED, explain

from ._common import say, until_signal

__all__ = ["End", "add_viewer", "choose_viewer", "stay"]

TOGETHER = 1.0
"""Seconds in which both connections end if the server ends them."""

NOTICED = 15.0
"""Seconds in which a session notices that its connection is dead (10 of them), if the
viewer has noticed."""

PATIENCE = 40.0
"""Seconds after a new connection in which a viewer that cannot connect is started
again: the server notices within 20 that the connection of the old one is dead."""

PERIOD = 0.2

MAY_HAVE_MOVED = (
    "If its machine has moved to another host, connect there; the server's log says"
    " where that is"
)


class End(enum.Enum):
    """What ended a session."""

    SIGNAL = enum.auto()
    SERVER = enum.auto()
    WINDOW = enum.auto()


def add_viewer(parser: argparse.ArgumentParser) -> None:
    """Define the options of ``rusb connect``."""
    add = parser.add_argument
    add(
        "--view",
        action="store_true",
        help="also show the machine's screen, with an installed viewer (xfreerdp or"
        " rdesktop); closing its window ends both",
    )
    add(
        "--viewer",
        metavar="COMMAND",
        help="the viewer for --view, with options of its own if it needs some; the"
        " environment variable RUSB_VIEWER does the same",
    )


def choose_viewer(command: str | None, *, is_asked: bool) -> ViewerProgram | None:
    """Return the viewer to start; None, after a line that says why, if there is none.

    Args:
        command: of the option; None: ``RUSB_VIEWER`` may name one.
        is_asked: somebody who has no display wants to know.

    Raises:
        SettingsError: the command cannot be used.
    """
    if not has_display():
        if is_asked:
            say("no window: neither DISPLAY nor WAYLAND_DISPLAY is set. USB only")
        return None
    found = find_viewer(command or os.environ.get("RUSB_VIEWER", ""))
    if found is None:
        say(f"no window: no viewer is installed ({PACKAGES}). USB only")
    return found


async def stay(
    session: ClientSession,
    status: str,
    program: ViewerProgram | None,
    options: Sequence[Pair] = (),
) -> End:
    """Wait for the end of a session, with a window beside it if there is a viewer.

    Args:
        status: for a service manager.
        options: of rdesktop, about the window.

    Raises:
        RusbError: why it ended, unless in an orderly way.
    """
    if program is None:
        came = await until_signal(session.wait_closed(), status)
        return End.SERVER if came is None else End.SIGNAL
    window = _Window(session, program, options)
    came = await until_signal(window.run(), status)
    return window.end if came is None else End.SIGNAL


class _Window:
    """A viewer, which is started again when the session has had to connect again.

    Attributes:
        end: what ended it all.
    """

    def __init__(
        self, session: ClientSession, program: ViewerProgram, options: Sequence[Pair]
    ) -> None:
        self.end = End.SERVER
        self._session, self._program, self._options = session, program, options
        self._patient_until = 0.0
        self._number = 0  # of the session's connection when the viewer was started

    async def run(self) -> None:
        ended = asyncio.ensure_future(self._session.wait_closed())
        try:
            while not ended.done():
                self._number = self._session.connections
                async with view(self._session, self._program, self._options) as viewer:
                    if not await self._watch(viewer, ended):
                        return
                await self._connected(ended)
            ended.result()
        finally:
            ended.cancel()

    async def _watch(self, viewer: Viewer, ended: asyncio.Future[None]) -> bool:
        """Wait for the end of one viewer; is another one to be started?"""
        closed = asyncio.ensure_future(viewer.wait_closed())
        back = asyncio.ensure_future(self._comes_back())
        waiting: set[asyncio.Future[Any]] = {closed, back, ended}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() or not closed.done():
                return True
            return await self._closed(closed, ended)
        finally:
            closed.cancel()
            back.cancel()

    async def _closed(
        self, closed: asyncio.Future[int], ended: asyncio.Future[None]
    ) -> bool:
        now = asyncio.get_running_loop().time()
        try:
            reason = closed.result()
        except ConnectionLost:
            if now < self._patient_until or await self._breaks(ended):
                return True
            raise
        if reason:  # the server ended it, and perhaps the session as well
            await asyncio.wait({ended}, timeout=TOGETHER)
            if ended.done() or now < self._patient_until or self._is_broken():
                return True
            why = f"the server ended the viewer's connection: {explain(reason)}"
            say(f"{why}. {MAY_HAVE_MOVED}" if reason == STOPPED else why)
        self.end = End.WINDOW
        return False

    async def _breaks(self, ended: asyncio.Future[None]) -> bool:
        """Does the session notice, too, that the network is gone?"""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICED):
                await _until(lambda: ended.done() or self._is_broken())
        return ended.done() or self._is_broken()

    async def _comes_back(self) -> None:
        """Wait until the session's connection broke and there is another one."""
        await _until(self._is_broken)
        await _until(lambda: self._session.is_connected)

    def _is_broken(self) -> bool:
        """Has the connection that the viewer was started beside gone?"""
        session = self._session
        return not session.is_connected or session.connections != self._number

    async def _connected(self, ended: asyncio.Future[None]) -> None:
        """Wait for a connection; the server may still have the old viewer."""
        await asyncio.wait({ended}, timeout=TOGETHER)
        await _until(lambda: ended.done() or self._session.is_connected)
        now = asyncio.get_running_loop().time()
        if now > self._patient_until:
            self._patient_until = now + PATIENCE


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the session has no event for it
        await asyncio.sleep(PERIOD)
