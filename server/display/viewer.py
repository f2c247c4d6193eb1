"""One client's view of a head: what it has not got yet, sent as it is taken."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from rusb.aio.stream import RdpStream
from rusb.rdp.gfx import MAX_UNACKNOWLEDGED, Pipeline
from rusb.rdp.graphics.pointers import (
    DEFAULT_POINTER,
    HIDDEN_POINTER,
    Cursor,
    PointerCache,
)
from rusb.rdp.graphics.updates import Cells, Compression, Damage, Form, Update
from rusb.rdp.server import ServerConnection

from ..state import ViewState
from .base import Rectangle
from .hub import Hub
from .rounds import Drawing

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

REFRESH_PERIOD = 0.25
"""Seconds between two whole pictures that a client may ask for."""

_FORMS = {
    Compression.NONE: "bitmaps",
    Compression.HEADED: "compressed bitmaps with headers",
    Compression.BARE: "compressed bitmaps",
    Compression.PIPELINE: "graphics pipeline with AVC420",
}


def _nowhere(message: bytes) -> None:
    pass


class Viewer:
    """Sends pictures to a client, from :meth:`open` to :meth:`close`.

    Args:
        core: the connection's.
        stream: what it is sent on.
        hub: the head that it sees.

    Attributes:
        size: width and height of the client's desktop.
        hub: the head that it sees.
        picture_size: bytes of the picture that is on its way to the client.
        frames, bytes_sent: pictures that the client was sent.
    """

    def __init__(self, core: ServerConnection, stream: RdpStream, hub: Hub) -> None:
        self._core = core
        self._stream = stream
        self.hub = hub
        self._is_open = self._was_open = False
        self.size = 0, 0
        self._damage, self._wanted = Damage(0, 0), Damage(0, 0)
        self._pointers = PointerCache(core.pointer_limits)
        self._cursor: Cursor | None = None
        self._has_pointer = False  # the client shows it
        self._pipeline: Pipeline | None = None
        self._send_graphics: Callable[[bytes], None] = _nowhere
        self._is_in_frame = False  # of the pipeline
        self._updates: Iterator[Drawing] | None = None  # of the picture on its way
        self.picture_size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._beginning: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.TimerHandle | None = None
        self._refresh_after = 0.0
        self.frames = self.bytes_sent = 0
        self._wish: tuple[int, int] | None = None  # made before it was open

    def open(self) -> None:
        """The client is ready for pictures; again: after a change of its size."""
        core = self._core
        self._stop()
        if self._beginning is not None:
            self._beginning.cancel()
        self.size = core.width, core.height
        self._damage, self._wanted = Damage(*self.size), Damage(*self.size)
        self._damage.add_all()
        self._pointers = PointerCache(core.pointer_limits)
        self._has_pointer = False
        if self._pipeline is not None:
            self._pipeline.reset(*self.size)
        wait = 0.0 if self._was_open else FIRST_PICTURE
        self._was_open = True
        loop = asyncio.get_running_loop()
        self._beginning = loop.call_later(wait, self._begin)

    def use(
        self, pipeline: Pipeline | None, send: Callable[[bytes], None] = _nowhere
    ) -> None:
        """Draw on a pipeline from now on, from the beginning; None: on the screen.

        Args:
            send: takes its messages.
        """
        self._stop()
        self._pipeline = pipeline
        self._send_graphics = send
        if self._is_open or self._beginning is not None:
            self.open()

    def acknowledged(self) -> None:
        """The client has drawn something on the pipeline."""
        if self._is_open:
            self.hub.due()

    def wish(self, width: int, height: int) -> None:
        """The client wants its screen to have another size."""
        if self._is_open:
            self.hub.wish(self, width, height)
        else:
            self._wish = width, height

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        self._is_open = False
        self._stop()
        self._flush_graphics()
        for timer in (self._beginning, self._refreshing):
            if timer is not None:
                timer.cancel()
        self._beginning = self._refreshing = None
        self.hub.discard(self)

    def state(self) -> ViewState:
        """What the client sees."""
        core = self._core
        is_shown = self._is_open or self._beginning is not None
        return ViewState(
            *(self.hub.head, core.width, core.height, core.depth),
            form=_FORMS[self.form.compression] if is_shown else "",
            frames=self.frames,
            bytes=self.bytes_sent,
        )

    def refresh(self, area: Rectangle | None = None) -> None:
        """The client wants its picture again, or a part of it."""
        if not self._is_open and self._beginning is None:
            return
        if self._beginning is not None:  # it has a window
            self._beginning.cancel()
            self._begin()
            return
        if area is None:
            self._wanted.add_all()
        else:
            self._wanted.add(*area)
        if self._refreshing is None:
            loop = asyncio.get_running_loop()
            at = max(self._refresh_after, loop.time())
            self._refreshing = loop.call_at(at, self._refresh)

    # ---------------------------------------------------------- for the hub ----

    @property
    def form(self) -> Form:
        """How the client takes bitmaps."""
        if self._pipeline is not None:
            return Form(24, Compression.PIPELINE)
        return self._core.form

    @property
    def takes_scrblt(self) -> bool:
        """Does the client move parts of its screen itself?"""
        return self._pipeline is None and self._core.takes_scrblt

    @property
    def is_damaged(self) -> bool:
        """Is there something that it has not taken?"""
        return bool(self._damage)

    @property
    def is_watching(self) -> bool:
        """Does the client show anything now?"""
        core = self._core
        return (
            self._is_open
            and core.takes_output
            and self.size == (core.width, core.height)
        )

    @property
    def is_busy(self) -> bool:
        """Has it yet to send what it got?"""
        pipeline = self._pipeline
        if pipeline is not None and pipeline.unacknowledged >= MAX_UNACKNOWLEDGED:
            return True
        return self._updates is not None or self._timer is not None

    def damaged_all(self) -> None:
        """All of the picture is new."""
        self._damage.add_all()

    def damaged_cells(self, cells: Cells) -> None:
        """These cells of the picture are new."""
        self._damage.add_cells(cells)

    def take_damage(self, most: int) -> Cells | None:
        """Return which cells to send, and forget them; None: there are none."""
        if self._stream.bytes_waiting > PICTURE_STEP:
            self._wait()
            return None
        return self._damage.take(most) if self._damage else None

    def send(self, updates: Sequence[Drawing], size: tuple[int, int]) -> None:
        """Send what was encoded for a desktop of that size."""
        if not self.is_watching or size != self.size:
            self.hub.behind(self)
            return  # everything is damaged then, or will be
        self._stop()
        self.picture_size = sum(len(update.body) for update in updates)
        self.frames += 1
        self._updates = iter(updates)
        self._go_on(asyncio.get_running_loop().time())

    def show_pointer(self, cursor: Cursor | None) -> None:
        """Send the shape of the pointer, unless the client has it."""
        if self._has_pointer and cursor is self._cursor:
            return
        self._has_pointer, self._cursor = True, cursor
        if cursor is None:
            update = DEFAULT_POINTER
        elif not cursor.pixels.size:
            update = HIDDEN_POINTER
        else:
            update = self._pointers.show(cursor)
        self._core.send_update(update)
        self._stream.flush()

    def follow(self, width: int, height: int) -> None:
        """Take the size of the guest's screen, if the client can."""
        self._core.resize(width, height)
        self._stream.flush()

    # -------------------------------------------------------------- our own ----

    def _begin(self) -> None:
        self._beginning = None
        self._is_open = True
        self.hub.add(self)
        wish, self._wish = self._wish, None
        if wish is not None:
            self.hub.wish(self, *wish)

    def _refresh(self) -> None:
        self._refreshing = None
        self._refresh_after = asyncio.get_running_loop().time() + REFRESH_PERIOD
        self.hub.behind(self)
        self._damage.add_cells(self._wanted.take())
        self.hub.due()

    def _go_on(self, since: float) -> None:
        """Send as much of the picture as the client takes; it came so far at *since*.

        A picture that gets no further is dropped, and made again when the client has
        read what it has.
        """
        self._timer = None
        if not self.is_watching:
            self._drop()
            return
        assert self._updates is not None
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._stream.bytes_waiting <= PICTURE_STEP:
            since, sent = now, 0
            for update in self._updates:
                self._draw(update)
                sent += len(update.body)
                self.bytes_sent += len(update.body)
                if sent >= PICTURE_STEP:
                    break
            else:
                self._stop()
            self._flush_graphics()
            self._stream.flush()
        elif now - since > PICTURE_PATIENCE:
            self._drop()
            return
        if self._updates is None:
            self._wait()
        else:
            pause = min(max(now - since, DRAW_FIRST), DRAW_LAST)
            self._timer = loop.call_later(pause, self._go_on, since)

    def _drop(self) -> None:
        """Give a picture up that cannot be sent."""
        self.hub.behind(self)
        self._stop()
        self._damage.add_all()
        self._wait()
        self.hub.due()  # what it kept may have been too much for others

    def _draw(self, update: Drawing) -> None:
        if isinstance(update, Update):
            self._core.send_update(update)
            return
        assert self._pipeline is not None
        if not self._is_in_frame:
            self._is_in_frame = True
            self._pipeline.begin()
        self._pipeline.draw(update)

    def _flush_graphics(self) -> None:
        if self._pipeline is not None:
            for message in self._pipeline.messages():
                self._send_graphics(message)

    def _stop(self) -> None:
        if self._is_in_frame:
            self._is_in_frame = False
            if self._pipeline is not None:
                self._pipeline.end()
        self._updates, self.picture_size = None, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        """Ask for what is new once the client has read what it has."""
        self._timer = None
        if not self._is_open:
            return
        if self._stream.bytes_waiting <= PICTURE_STEP:
            self.hub.due()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(DRAW_LAST, self._wait)
