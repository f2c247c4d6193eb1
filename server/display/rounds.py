"""One round of a head: what is encoded for whom, in a thread (display.md 3.2)."""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.graphics.pointers import Cursor
from rusb.rdp.graphics.scrolling import Change, Shadow
from rusb.rdp.graphics.surfaces import Picture, Tile
from rusb.rdp.graphics.updates import (
    CELL,
    Cells,
    Compression,
    Encoder,
    Form,
    Update,
)

from .base import Paint
from .video import Stream

__all__ = ["Drawing", "Job", "Shown", "Video", "encode_round", "has_pipeline"]

Drawing = Update | Tile | Picture
"""What viewers are sent; the last two are for graphics pipelines."""

_PROBE = Form(24)
"""In which a candidate for a video is compressed, to see how hard it is."""


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

    def damaged_all(self) -> None:
        """All of the picture is new."""

    def damaged_cells(self, cells: Cells) -> None:
        """These cells of the picture are new."""

    def take_damage(self, most: int) -> Cells | None:
        """Return which cells to send, and forget them; None: there are none."""

    def send(self, updates: Sequence[Drawing], size: tuple[int, int]) -> None:
        """Send what was encoded for a desktop of that size."""

    def show_pointer(self, cursor: Cursor | None) -> None:
        """Send the shape of the pointer, unless the client has it."""

    def follow(self, width: int, height: int) -> None:
        """Take the size of the guest's screen."""


class Job(NamedTuple):
    """What a viewer gets in a round.

    Attributes:
        size: of its desktop.
        cells: that it lacks.
        is_whole: it lacks no others.
        is_current: apart from what was named as damaged, it has what the shadow has.
    """

    viewer: Shown
    size: tuple[int, int]
    form: Form
    cells: Cells
    is_whole: bool
    is_current: bool

    @property
    def has_pipeline(self) -> bool:
        """Is it for the graphics pipeline?"""
        return self.form.compression is Compression.PIPELINE

    def needs(self, change: Change | None) -> Cells:
        """Return the cells that the viewer lacks, if the shadow has changed so."""
        if change is None:
            return self.cells
        return change.cells if self.is_current else self.cells | change.cells

    def updates(
        self, encoder: Encoder, change: Change | None, video: "Video"
    ) -> Sequence[Drawing]:
        """Return what the viewer needs."""
        cells = self.needs(change)
        if self.has_pipeline:
            return video.updates(self, encoder, cells)
        is_moved = change is not None and self.is_current and self.viewer.takes_scrblt
        if is_moved and change is not None and change.order is not None:
            return [change.order, *encoder.updates(change.rest, self.form)]
        return encoder.updates(cells, self.form)


@dataclass(slots=True)
class Video:
    """What a round has to do with videos.

    Attributes:
        candidate: the cells of what may be one.
        stream: what is shown.
        in_step: who has had all of its pictures.
        may_begin: a picture that needs none before it may be made for somebody else.
        is_dense: the candidate is hard to compress.
        picture: the next one.
        served: who gets it.
        late: who has to wait for one that needs none before it.
        problem: why there is none.
    """

    candidate: Cells | None
    stream: Stream | None
    in_step: frozenset[Shown]
    may_begin: bool
    is_dense: bool = False
    picture: Picture | None = None
    is_key: bool = False
    served: set[Shown] = field(default_factory=set)
    late: set[Shown] = field(default_factory=set)
    problem: str = ""

    def look(self, encoder: Encoder) -> None:
        """See how hard the candidate is to compress."""
        if self.candidate is not None:
            updates = encoder.updates(self.candidate, _PROBE)
            pixels = np.count_nonzero(self.candidate) * CELL * CELL
            self.is_dense = sum(len(update.body) for update in updates) > int(pixels)

    def encode(self, jobs: Sequence[Job], change: Change | None, frame: Frame) -> None:
        """Make the next picture, if somebody wants it."""
        if self.stream is None:
            return
        mask = self.stream.mask
        wanting = {
            job.viewer
            for job in jobs
            if job.has_pipeline
            and job.cells.shape == mask.shape
            and (job.needs(change) & mask).any()
        }
        self.late = wanting - self.in_step
        self.is_key = bool(self.late) and (self.may_begin or not self.in_step)
        if self.is_key:
            self.late = set()
        self.served = wanting - self.late
        if not self.served:
            return
        try:
            self.picture = self.stream.picture(frame, is_key=self.is_key)
        except (ImportError, ValueError, OSError) as error:
            self.problem = str(error)

    def updates(self, job: Job, encoder: Encoder, cells: Cells) -> Sequence[Drawing]:
        """Return what a viewer with a pipeline needs."""
        if job.viewer in self.late or (job.viewer in self.served and self.picture):
            assert self.stream is not None
            cells = cells & ~self.stream.mask
        tiles = encoder.tiles(cells)
        if job.viewer in self.served and self.picture is not None:
            return [self.picture, *tiles]
        return tiles


def encode_round(
    jobs: Sequence[Job],
    painters: dict[tuple[int, int], Paint],
    shadow: Shadow | None,
    video: Video,
) -> tuple[list[Sequence[Drawing]], Change | None, float]:
    """Encode what each viewer wants.

    Returns:
        the updates of each job; what has changed of the shadow, if there is one of a
        size that somebody wants; the processor's seconds for it.
    """
    begin = time.thread_time()
    frames = {size: paint() for size, paint in painters.items()}
    changes: dict[tuple[int, int], Change] = {}
    if shadow is not None and shadow.size in frames:
        named = [job.cells for job in jobs if job.size == shadow.size]
        cells = np.logical_or.reduce(named)
        changes[shadow.size] = shadow.advance(
            frames[shadow.size],
            cells,
            wants_moves=any(job.viewer.takes_scrblt for job in jobs),
        )
        frames = frames | {shadow.size: shadow.frame}
    encoders = {size: Encoder(frame, *size) for size, frame in frames.items()}
    if shadow is not None and shadow.size in encoders:
        video.look(encoders[shadow.size])
        ours = [job for job in jobs if job.size == shadow.size]
        video.encode(ours, changes[shadow.size], shadow.frame)
    done = [
        job.updates(encoders[job.size], changes.get(job.size), video) for job in jobs
    ]
    change = next(iter(changes.values()), None)
    return done, change, time.thread_time() - begin


def has_pipeline(viewer: Shown) -> bool:
    """Does a viewer draw on the graphics pipeline?"""
    return viewer.form.compression is Compression.PIPELINE
