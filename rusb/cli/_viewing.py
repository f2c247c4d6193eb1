"""A viewer's window beside the USB devices: which one, and until when."""

import argparse
import asyncio
import enum
import os
from collections.abc import Sequence

from rusb.client.session import ClientSession
from rusb.client.viewer import (
    PACKAGES,
    Pair,
    ViewerProgram,
    find_viewer,
    has_display,
    view,
)
from rusb.rdp.error_info import explain

from ._common import say, until_signal

__all__ = ["End", "add_viewer", "choose_viewer", "stay"]

TOGETHER = 1.0
"""Seconds in which both connections end if the server ends them."""


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
    async with view(session, program, options) as viewer:
        closed = asyncio.ensure_future(viewer.wait_closed())
        ended = asyncio.ensure_future(session.wait_closed())

        async def first() -> None:
            await asyncio.wait({closed, ended}, return_when=asyncio.FIRST_COMPLETED)
            if closed.done() and closed.result():  # the server ended it
                await asyncio.wait({ended}, timeout=TOGETHER)

        try:
            if await until_signal(first(), status) is not None:
                return End.SIGNAL
            if ended.done():
                ended.result()
                return End.SERVER
            if reason := closed.result():
                say(f"the server ended the viewer's connection: {explain(reason)}")
            return End.WINDOW
        finally:
            for task in (closed, ended):
                task.cancel()
