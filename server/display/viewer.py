"""One client's view of the display: its picture, sent as it is taken."""

import asyncio
from collections.abc import Iterator

from rusb.aio.stream import RdpStream
from rusb.rdp.graphics.updates import Damage, Encoder, Update
from rusb.rdp.server import ServerConnection

from .base import Display
from .pacing import Pacer

__all__ = ["Viewer"]

PICTURE_STEP = 256 << 10
"""Bytes of a picture that are sent at once, and that may wait when more is sent."""

PICTURE_PATIENCE = 2.0
"""Seconds after which the picture of a client that reads nothing is dropped."""

DRAW_FIRST, DRAW_LAST = 0.005, 0.25
"""Seconds between looks at whether a client has read what it has: a picture is of no
hurry, USB is."""

FIRST_PICTURE = 0.2
"""Seconds from the activation to the first picture, a megabyte or so: a client without
a window says first that it wants none."""


class Viewer:
    """Sends pictures to a client, from :meth:`open` to :meth:`close`.

    Args:
        core: the connection's.
        stream: what it is sent on.
        pacer: says when there is something to show.

    Attributes:
        picture_size: bytes of the picture that is on its way to the client.
    """

    def __init__(self, core: ServerConnection, stream: RdpStream, pacer: Pacer) -> None:
        self._core = core
        self._stream = stream
        self._pacer = pacer
        self._is_open = False
        self._updates: Iterator[Update] | None = None  # of the picture on its way
        self._size = 0, 0  # of that picture
        self.picture_size = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """The client is ready for pictures; again: after a change of its size."""
        self._is_open = True
        self._pacer.add(self)
        self._stop()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(FIRST_PICTURE, self.refresh)

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        self._is_open = False
        self._pacer.discard(self)
        self._stop()

    def refresh(self) -> None:
        """The client wants its picture again."""
        if self._is_open:
            self._pacer.refresh(self)

    def show(self, display: Display) -> None:
        """Send the display's picture.

        A client that still has something to read gets it when it has done so.
        """
        core = self._core
        if not self._is_open or not core.takes_output:
            return
        self._stop()
        if self._stream.bytes_waiting > PICTURE_STEP:
            self._wait()
            return
        self._size = core.width, core.height
        damage = Damage(*self._size)
        damage.add_all()
        encoder = Encoder(display.frame(*self._size), *self._size)
        updates = encoder.updates(damage.take(), core.form)
        self.picture_size = sum(len(update.body) for update in updates)
        self._updates = iter(updates)
        self._go_on(asyncio.get_running_loop().time())

    def _go_on(self, since: float) -> None:
        """Send as much of the picture as the client takes; it came so far at *since*.

        A picture that gets no further is dropped, and made again when the client has
        read what it has.
        """
        core = self._core
        assert self._updates is not None
        if not core.takes_output or self._size != (core.width, core.height):
            self._stop()
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._stream.bytes_waiting <= PICTURE_STEP:
            since, sent = now, 0
            for update in self._updates:
                core.send_update(update)
                sent += len(update.body)
                if sent >= PICTURE_STEP:
                    break
            else:
                self._stop()
            self._stream.flush()
        elif now - since > PICTURE_PATIENCE:
            self._stop()
            self._wait()
        if self._updates is not None:
            pause = min(max(now - since, DRAW_FIRST), DRAW_LAST)
            self._timer = loop.call_later(pause, self._go_on, since)

    def _stop(self) -> None:
        self._updates, self.picture_size = None, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        """Ask for a picture once the client has read what it has."""
        if not self._is_open:
            return
        if self._stream.bytes_waiting <= PICTURE_STEP:
            self._pacer.refresh(self)
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(DRAW_LAST, self._wait)
