"""Look at a server's screen once, as a viewer without a window."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from rusb.errors import ConnectionLost
from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.pixels import Frame

from .config import ClientConfig
from .events import SessionEvent
from .session import connect

__all__ = ["screenshot"]

log = logging.getLogger(__name__)


async def screenshot(
    config: ClientConfig,
    *,
    wait: float = 0.0,
    on_event: Callable[[SessionEvent], None] = log.info,
) -> Frame:
    """Return what is on a server's screen, (height, width) of 0x00RRGGBB.

    No devices are offered.

    Args:
        config: whom to call; its ``timeout`` is for everything but *wait*: connecting,
            the first whole picture, and the one after a change of the size.
        wait: seconds to look on after the first whole picture.
        on_event: gets what a user wants to know; ``str()`` of it is a line.

    Raises:
        RusbError: what :meth:`ClientSession.start` raises; ConnectionLost: no whole
            picture came, or the connection ended before.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + config.timeout
    canvas = _Watched()
    config = dataclasses.replace(config, usb=False, channels=(), screen=canvas)
    async with connect(config, backends=[], on_event=on_event) as session:
        end = asyncio.ensure_future(session.wait_closed())
        try:
            if await _comes(canvas.complete, end, until):
                await asyncio.wait([end], timeout=wait)
                until += wait
            if await _comes(canvas.complete, end, until):
                return canvas.pixels()  # a new size may have come meanwhile
            if end.done():
                end.result()
        finally:
            end.cancel()
    raise ConnectionLost(
        f"{config.server} sent no whole picture of its screen; is it switched off"
        " (Client/DisableDisplay)?"
    )


class _Watched(Canvas):
    """Says when there is a whole picture; it may have to come again."""

    def __init__(self) -> None:
        super().__init__()
        self.complete = asyncio.Event()

    def begin(self, width: int, height: int) -> None:
        super().begin(width, height)
        self.complete.clear()

    def draw(self, update: bytes) -> None:
        super().draw(update)
        if self.is_complete:
            self.complete.set()


async def _comes(what: asyncio.Event, end: asyncio.Future[None], until: float) -> bool:
    """Does something happen in time, and before the end?"""
    if not what.is_set():
        waiting = asyncio.ensure_future(what.wait())
        first: set[asyncio.Future[Any]] = {waiting, end}
        left = max(0.0, until - asyncio.get_running_loop().time())
        try:
            await asyncio.wait(first, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
    return what.is_set()
