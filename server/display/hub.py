"""One head: what it shows to whom, and when (display.md 3)."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

from rusb.rdp.graphics.pixels import Frame, new_frame
from rusb.rdp.graphics.scrolling import Change, Shadow
from rusb.rdp.graphics.surfaces import Picture
from rusb.rdp.graphics.updates import Cells, Damage

from .base import Paint, Rectangle, ScreenSource
from .guest_screen import GuestScreen
from .keyboard import Keyboard
from .pace import Pace
from .pointer import Pointer
from .rounds import Drawing, Job, Shown, Video, encode_round, has_pipeline
from .sizes import SizeWishes
from .status import StatusPage
from .video import LONGEST, Detector, Stream, cells_of

__all__ = ["MAX_PICTURES", "Hub"]

log = logging.getLogger(__name__)

MAX_CELLS = 4096
"""Cells of one viewer that are encoded in a round, as a screen of 1280x800 has: others
have their turn, and little waits for who reads slowly."""

MAX_PICTURES = 16 << 20
"""Bytes of pictures on their way to clients above which no further one is made."""

BUG_SECONDS = 1.0
"""What a round counts as that failed: the next one may fail, too."""

KEY_PAUSE = 1.0
"""Seconds from a picture of a video that needs none before it to the next one for the
sake of a viewer that has missed some: it costs the others, too."""


class Hub:
    """Shows one head to its viewers, and passes on what they type and point at.

    Args:
        status: what is shown while there is no screen of the guest.
        keyboard: the machine's.
        encoding: one thread, which all hubs of a server share.
        head: which one, counted from 0.
        video: see :class:`~.screens.Screens`.

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
        video: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.head = head
        self._pace = Pace()
        self._quality = video
        self._detector = Detector()
        self._stream: Stream | None = None
        self._streams = 0
        self._in_step: set[Shown] = set()
        self._begins_after = 0.0
        self._expiring: asyncio.TimerHandle | None = None
        self._status = status
        self._guest: GuestScreen | None = None
        self._encoding = encoding
        self._viewers: dict[Shown, None] = {}  # who came first is first
        self._sizes = SizeWishes(self._resize)
        self._source: ScreenSource = status
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.Task[None] | None = None
        self._is_due_again = False
        self._is_closed = False
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
        self._viewers[viewer] = None
        self.behind(viewer)
        if self.size is not None:  # which may have come after the logon
            viewer.follow(*self.size)
        self.due()

    def behind(self, viewer: Shown) -> None:
        """A viewer's client does not have what it was sent."""
        self._current.discard(viewer)
        self._in_step.discard(viewer)
        if self._tick is not None:
            self._behind.add(viewer)

    def discard(self, viewer: Shown) -> None:
        """Forget somebody who left."""
        self._viewers.pop(viewer, None)
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
            self._timer = loop.call_at(self._pace.next(loop.time()), self._begin)

    def touched(self) -> None:
        """A viewer types or points at something: what comes of it is shown soon."""
        self._pace.touched(asyncio.get_running_loop().time())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.due()

    def move(self, x: int, y: int) -> None:
        """A viewer's pointer is elsewhere, maybe beyond the screen."""
        if self.size is not None:
            x, y = min(x, self.size[0] - 1), min(y, self.size[1] - 1)
        self.pointer.move(x, y)

    def wish(self, viewer: Shown, width: int, height: int) -> None:
        """A viewer wants another size; the guest gets it, if it came first (9.3)."""
        watching = (one for one in self._viewers if one.is_watching)
        if next(watching, None) is viewer:
            self._sizes.wish(width, height)

    def _resize(self, width: int, height: int) -> None:
        self._source.resize(width, height)

    # ----------------------------------------------------------- for sources ----

    def serve(self, guest: GuestScreen) -> None:
        """Show a screen of the guest, while it is there."""
        self._guest = guest
        guest.watcher = self

    def switched(self) -> None:
        """The guest's screen is there, or is gone."""
        guest = self._guest
        self._source.watch(is_watched=False)
        is_there = guest is not None and guest.is_there
        self._source = guest if guest is not None and is_there else self._status
        self.pointer.source = self._source
        self.changed()
        self.cursor_changed()

    def status_changed(self) -> None:
        """The status page has something else to say."""
        if self._source is self._status:
            self.changed()

    def damaged(self, rectangles: Sequence[Rectangle]) -> None:
        """Parts of the picture are new."""
        marked: dict[tuple[int, int], Cells] = {}
        for viewer in self._viewers:
            if viewer.size not in marked:
                damage = Damage(*viewer.size)
                for rectangle in rectangles:
                    damage.add(*rectangle)
                marked[viewer.size] = damage.take()
            viewer.damaged_cells(marked[viewer.size])
        if self._guest_is_shown and any(map(has_pipeline, self._viewers)):
            was_found = self._detector.area is not None
            self._detector.damaged(rectangles, asyncio.get_running_loop().time())
            if was_found and self._detector.area is None:
                self._end_video()
        self.due()

    def changed(self) -> None:
        """Everything is new, the size as well."""
        self._shadow = None
        self._detector.forget()
        self._end_video()
        self._sizes.changed(self.size)
        for viewer in list(self._viewers):
            if self._source.size is not None:
                viewer.follow(*self._source.size)
            viewer.damaged_all()
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
        self._sizes.close()
        for timer in (self._timer, self._expiring):
            if timer is not None:
                timer.cancel()
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
            self._pace.ended(asyncio.get_running_loop().time(), 0.0)
            return  # who has sent its picture calls due()
        jobs = [
            Job(
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

    async def _run(self, jobs: Sequence[Job]) -> None:
        """Encode in the thread, send, and go on."""
        try:
            await self._encode_and_send(jobs)
        except Exception:
            log.exception("bug while making a picture")
            self._pace.ended(asyncio.get_running_loop().time(), BUG_SECONDS)
            self.changed()  # nobody knows what of it viewers have
        self._behind.clear()
        self._tick = None
        if self._is_due_again:
            self._is_due_again = False
            self.due()

    async def _encode_and_send(self, jobs: Sequence[Job]) -> None:
        loop = asyncio.get_running_loop()
        size = self._source.size
        if size is None:
            self._shadow = None
        elif self._shadow is None:
            self._shadow, self._current = Shadow(*size), set()
            jobs = [job._replace(is_current=False) for job in jobs]
        shadow = self._shadow
        painters = {job.size: self._painter(*job.size) for job in jobs}
        video = self._video_round(loop.time())
        done, change, took = await loop.run_in_executor(
            self._encoding, encode_round, jobs, painters, shadow, video
        )
        if change is not None and shadow is self._shadow:
            self._note(jobs, change)
        for job, updates in zip(jobs, done, strict=True):
            self._send(job, updates)
        self._note_video(video, loop.time())
        self._pace.ended(loop.time(), took)

    def _send(self, job: Job, updates: Sequence[Drawing]) -> None:
        viewer = job.viewer
        is_new = viewer in self._behind and job.has_pipeline
        if job.form == viewer.form and not is_new:
            viewer.send(updates, job.size)
        else:  # it was opened anew meanwhile, and its surfaces with it
            self._current.discard(viewer)
            viewer.damaged_all()

    def _note(self, jobs: Sequence[Job], change: Change) -> None:
        """Note who has what the shadow has: who was sent all that it lacked."""
        assert self._shadow is not None
        ours = [job for job in jobs if job.size == self._shadow.size]
        sent = {job.viewer for job in ours}
        if change.cells.any():
            for viewer in self._viewers.keys() - sent:
                if viewer.size == self._shadow.size:
                    viewer.damaged_cells(change.cells)
            self._current &= sent
        whole = {job.viewer for job in ours if job.is_whole}
        self._current = (self._current | whole) - self._behind

    # ---------------------------------------------------------------- video ----

    @property
    def _guest_is_shown(self) -> bool:
        return self._source is not self._status

    def _video_round(self, now: float) -> Video:
        """What the next round has to do with videos."""
        if self._quality() is None:
            self._detector.forget()
            self._end_video()
        box, cells = self._detector.candidate, None
        if box is not None and self._shadow is not None:
            cells = cells_of(box, self._shadow.size)
        return Video(
            *(cells, self._stream, frozenset(self._in_step)),
            may_begin=now >= self._begins_after,
        )

    def _note_video(self, video: Video, now: float) -> None:
        """Note who has which pictures; begin a video that was found."""
        if video.problem:
            log.warning("no video: %s", video.problem)
            self._quality = lambda: None
        if video.stream is self._stream:
            if video.picture is not None:
                have = video.served | self._send_picture(video, video.picture)
                if not video.is_key:
                    have &= self._in_step
                self._in_step = have - self._behind
                if video.is_key:
                    self._begins_after = now + KEY_PAUSE
        quality = self._quality()
        if video.candidate is None or quality is None or self._shadow is None:
            return
        self._detector.judge(is_dense=video.is_dense)
        area = self._detector.area
        if area is not None:
            self._streams += 1
            self._stream = Stream(self._streams, area, self._shadow.size, quality)
            self._in_step.clear()
            self._begins_after = now
            log.info("screen %d: a video at %s", self.head, area)
            self._expire()

    def _send_picture(self, video: Video, picture: Picture) -> set[Shown]:
        """Send a picture to those who did not ask for it and need it for the next."""
        size = self._source.size
        others = {
            viewer
            for viewer in self._in_step - video.served
            if viewer.is_watching and not viewer.is_busy and viewer.size == size
        }
        for viewer in others:
            viewer.send([picture], viewer.size)
        return others

    def _expire(self) -> None:
        """End a video in which nothing has changed for a while."""
        if self._expiring is not None:
            self._expiring.cancel()
        if self._stream is None or self._is_closed:
            return
        loop = asyncio.get_running_loop()
        if self._detector.expire(loop.time()):
            self._end_video()
        else:
            self._expiring = loop.call_later(LONGEST / 2, self._expire)

    def _end_video(self) -> None:
        """Draw without loss what was a video."""
        if self._stream is not None:
            for viewer in filter(has_pipeline, self._viewers):
                self._lacks(viewer)
            log.info("screen %d: the video is over", self.head)
            self._stream = None
            self._in_step.clear()
            self.due()

    def _lacks(self, viewer: Shown) -> None:
        """A viewer does not have what is in the place of the video."""
        assert self._stream is not None
        self.behind(viewer)
        if self._shadow is not None and viewer.size == self._shadow.size:
            viewer.damaged_cells(self._stream.mask)

    def _painter(self, width: int, height: int) -> Paint:
        """Return what makes the picture for a desktop, which may have another size."""
        source = self._source
        if source.size in (None, (width, height)):
            return source.painter(width, height)
        return partial(_fit, source.painter(*source.size), source.size, width, height)


def _fit(paint: Paint, size: tuple[int, int], width: int, height: int) -> Frame:
    """Cut a picture off, or have it in the corner of a larger one."""
    right, bottom = min(width, size[0]), min(height, size[1])
    found = new_frame(width, height)
    found[:bottom, :right] = paint()[:bottom, :right]
    return found
