"""One head: what it shows to whom, and when (display.md 3)."""

import asyncio
import logging
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, Protocol

import numpy as np

from rusb.rdp.graphics.pixels import Frame, new_frame
from rusb.rdp.graphics.pointers import Cursor
from rusb.rdp.graphics.scrolling import Change, Shadow
from rusb.rdp.graphics.updates import Cells, Encoder, Form, Update

from .base import Rectangle, ScreenSource
from .guest_screen import GuestScreen
from .keyboard import Keyboard
from .pointer import Pointer
from .status import StatusPage

__all__ = ["MAX_PICTURES", "Hub", "Shown"]

log = logging.getLogger(__name__)

TICK = 0.025
"""Seconds between two rounds of encoding, and at least twice what the last one took: at
most half a core goes into pictures, the rest is for USB."""

MAX_CELLS = 4096
"""Cells of one viewer that are encoded in a round, as a screen of 1280x800 has: others
have their turn, and little waits for who reads slowly."""

MAX_PICTURES = 16 << 20
"""Bytes of pictures on their way to clients above which no further one is made."""


class Shown(Hashable, Protocol):
    """What a hub wants of a viewer.

    Attributes:
        size: width and height of its desktop.
        form: how it takes bitmaps.
        picture_size: bytes of the picture that is on its way to the client.
    """

    size: tuple[int, int]
    picture_size: int

    @property
    def form(self) -> Form: ...

    @property
    def takes_scrblt(self) -> bool:
        """Does its client move parts of its screen itself?"""

    @property
    def is_damaged(self) -> bool:
        """Is there something that it has not taken?"""

    @property
    def is_watching(self) -> bool:
        """Does it show anything now?"""

    @property
    def is_busy(self) -> bool:
        """Has it yet to send what it got?"""

    def damaged(self, rectangles: Sequence[Rectangle] | None) -> None:
        """Parts of the picture are new; None: all of it."""

    def damaged_cells(self, cells: Cells) -> None:
        """These cells of the picture are new."""

    def take_damage(self, most: int) -> Cells | None:
        """Return which cells to send, and forget them; None: there are none."""

    def send(self, updates: Sequence[Update], size: tuple[int, int]) -> None:
        """Send what was encoded for a desktop of that size."""

    def show_pointer(self, cursor: Cursor | None) -> None:
        """Send the shape of the pointer, unless the client has it."""

    def follow(self, width: int, height: int) -> None:
        """Take the size of the guest's screen."""


class _Job(NamedTuple):
    viewer: Shown
    size: tuple[int, int]
    form: Form
    cells: Cells
    is_whole: bool  # the viewer has no other damage
    is_current: bool  # it has what the shadow has

    def updates(self, encoder: Encoder, change: Change | None) -> list[Update]:
        """Return what the viewer needs, if the shadow has changed so."""
        if change is None:
            return encoder.updates(self.cells, self.form)
        if not self.is_current:
            return encoder.updates(self.cells | change.cells, self.form)
        if change.order is None or not self.viewer.takes_scrblt:
            return encoder.updates(change.cells, self.form)
        return [change.order, *encoder.updates(change.rest, self.form)]


class Hub:
    """Shows one head to its viewers, and passes on what they type and point at.

    Args:
        status: what is shown while there is no screen of the guest.
        keyboard: the machine's.
        encoding: one thread, which all hubs of a server share.
        head: which one, counted from 0.

    Attributes:
        head: see above.
        pointer: of this head.
        keyboard: the machine's.
    """

    def __init__(
        self,
        status: StatusPage,
        keyboard: Keyboard,
        encoding: Executor,
        head: int = 0,
    ) -> None:
        self.head = head
        self._status = status
        self._guest: GuestScreen | None = None
        self._encoding = encoding
        self._viewers: set[Shown] = set()
        self._source: ScreenSource = status
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.Task[None] | None = None
        self._is_due_again = False
        self._is_closed = False
        self._after = 0.0
        # of the guest's screen: what viewers have that are up to date, and who they are
        self._shadow: Shadow | None = None
        self._current: set[Shown] = set()
        self._behind: set[Shown] = set()  # since the tick began that is running
        self.keyboard = keyboard
        self.pointer = Pointer(status)
        status.watcher = self

    # ---------------------------------------------------------- for viewers ----

    @property
    def size(self) -> tuple[int, int] | None:
        """Of the screen; None: as large as the viewer likes."""
        return self._source.size

    def add(self, viewer: Shown) -> None:
        """Show somebody what there is; again: from the beginning."""
        self._viewers.add(viewer)
        self.behind(viewer)
        self.due()

    def behind(self, viewer: Shown) -> None:
        """A viewer's client does not have what it was sent."""
        self._current.discard(viewer)
        if self._tick is not None:
            self._behind.add(viewer)

    def discard(self, viewer: Shown) -> None:
        """Forget somebody who left."""
        self._viewers.discard(viewer)
        self.behind(viewer)
        self.release(viewer)
        self.due()

    def release(self, viewer: Shown) -> None:
        """Release what a viewer holds: it left, or may not type any more."""
        self.keyboard.release(viewer)
        self.pointer.release(viewer)

    def due(self) -> None:
        """Somebody may have something to be sent."""
        if self._is_closed:
            return
        if self._tick is not None:
            self._is_due_again = True
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._after, loop.time()), self._begin)

    def move(self, x: int, y: int) -> None:
        """A viewer's pointer is elsewhere, maybe beyond the screen."""
        if self.size is not None:
            x, y = min(x, self.size[0] - 1), min(y, self.size[1] - 1)
        self.pointer.move(x, y)

    # ----------------------------------------------------------- for sources ----

    def serve(self, guest: GuestScreen) -> None:
        """Show a screen of the guest, while it is there."""
        self._guest = guest
        guest.watcher = self

    def switched(self) -> None:
        """The guest's screen is there, or is gone."""
        guest = self._guest
        self._status.forget()
        self._source.watch(is_watched=False)
        is_there = guest is not None and guest.is_there
        self._source = guest if guest is not None and is_there else self._status
        self.pointer.source = self._source
        self.changed()
        self.cursor_changed()

    def status_changed(self) -> None:
        """The status page has something else to say."""
        self._status.forget()
        if self._source is self._status:
            self.changed()

    def damaged(self, rectangles: Sequence[Rectangle]) -> None:
        """Parts of the picture are new."""
        for viewer in self._viewers:
            viewer.damaged(rectangles)
        self.due()

    def changed(self) -> None:
        """Everything is new, the size as well."""
        self._shadow = None
        for viewer in list(self._viewers):
            if self._source.size is not None:
                viewer.follow(*self._source.size)
            viewer.damaged(None)
        self.due()

    def cursor_changed(self) -> None:
        """The pointer has another shape."""
        self.due()

    def leds_changed(self, leds: int) -> None:
        """The keyboard's lights are others."""
        self.keyboard.leds_changed(leds)

    def key(self, code: int, is_down: bool) -> None:
        """Press or release a key of the guest."""
        self._source.key(code, is_down=is_down)

    async def aclose(self) -> None:
        """Show nothing more. Idempotent."""
        self._is_closed = True
        self._viewers.clear()
        self.pointer.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._tick is not None:  # its thread cannot be cancelled
            await asyncio.wait([self._tick])
        if self._guest is not None:
            await self._guest.aclose()

    # ----------------------------------------------------------------- tick ----

    def _begin(self) -> None:
        self._timer = None
        watching = [viewer for viewer in self._viewers if viewer.is_watching]
        self._source.watch(is_watched=bool(watching))
        if not watching:
            return
        for viewer in watching:
            viewer.show_pointer(self._source.cursor)
        if sum(viewer.picture_size for viewer in watching) > MAX_PICTURES:
            self._after = asyncio.get_running_loop().time() + TICK
            return  # who has sent its picture calls due()
        jobs = [
            _Job(
                *(viewer, viewer.size, viewer.form, cells),
                is_whole=not viewer.is_damaged,
                is_current=viewer in self._current,
            )
            for viewer in watching
            if not viewer.is_busy
            and (cells := viewer.take_damage(MAX_CELLS)) is not None
        ]
        if jobs:
            self._is_due_again = True  # what was not taken has its turn
            self._tick = asyncio.ensure_future(self._run(jobs))

    async def _run(self, jobs: Sequence[_Job]) -> None:
        """Encode in the thread, send, and go on."""
        try:
            await self._encode_and_send(jobs)
        except Exception:
            log.exception("bug while making a picture")
        self._behind.clear()
        self._tick = None
        if self._is_due_again:
            self._is_due_again = False
            self.due()

    async def _encode_and_send(self, jobs: Sequence[_Job]) -> None:
        loop = asyncio.get_running_loop()
        size = self._source.size
        if size is None:
            self._shadow = None
        elif self._shadow is None:
            self._shadow, self._current = Shadow(*size), set()
            jobs = [job._replace(is_current=False) for job in jobs]
        shadow = self._shadow
        frames = {job.size: self._frame(*job.size) for job in jobs}
        done, change, took = await loop.run_in_executor(
            self._encoding, _encode, jobs, frames, shadow
        )
        if change is not None and shadow is self._shadow:
            self._note(jobs, change)
        for job, updates in zip(jobs, done, strict=True):
            job.viewer.send(updates, job.size)
        self._after = loop.time() + max(TICK, 2 * took) - took

    def _note(self, jobs: Sequence[_Job], change: Change) -> None:
        """Note who has what the shadow has: who was sent all that it lacked."""
        assert self._shadow is not None
        ours = [job for job in jobs if job.size == self._shadow.size]
        sent = {job.viewer for job in ours}
        if change.cells.any():
            for viewer in self._viewers - sent:
                if viewer.size == self._shadow.size:
                    viewer.damaged_cells(change.cells)
            self._current &= sent
        whole = {job.viewer for job in ours if job.is_whole}
        self._current = (self._current | whole) - self._behind

    def _frame(self, width: int, height: int) -> Frame:
        """Return the picture for a desktop, which may have another size."""
        source = self._source
        if source.size in (None, (width, height)):
            return source.frame(width, height)
        have = source.frame(*source.size)
        found = new_frame(width, height)
        part = have[: min(height, source.size[1]), : min(width, source.size[0])]
        found[: part.shape[0], : part.shape[1]] = part
        return found


def _encode(
    jobs: Sequence[_Job], frames: dict[tuple[int, int], Frame], shadow: Shadow | None
) -> tuple[list[list[Update]], Change | None, float]:
    """Encode what each viewer wants.

    Returns:
        the updates of each job; what has changed of the shadow, if there is one of a
        size that somebody wants; the processor's seconds for it.
    """
    begin = time.thread_time()
    changes: dict[tuple[int, int], Change] = {}
    if shadow is not None and shadow.size in frames:
        named = [job.cells for job in jobs if job.size == shadow.size]
        cells = np.logical_or.reduce(named)
        changes[shadow.size] = shadow.advance(frames[shadow.size], cells)
        frames = frames | {shadow.size: shadow.frame}
    encoders = {size: Encoder(frame, *size) for size, frame in frames.items()}
    done = [job.updates(encoders[job.size], changes.get(job.size)) for job in jobs]
    change = next(iter(changes.values()), None)
    return done, change, time.thread_time() - begin
