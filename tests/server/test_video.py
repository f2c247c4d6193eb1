"""Videos that a guest plays: found, shown, and ended without loss (display.md 10)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rusb.rdp.gfx import Pipeline
from rusb.rdp.graphics.pixels import Frame, new_frame
from rusb.rdp.graphics.pointers import Cursor
from rusb.rdp.graphics.surfaces import Picture, Tile
from rusb.rdp.graphics.updates import Cells, Compression, Damage, Form, Update
from rusb.server.display import hub as hubs
from rusb.server.display import pace, rounds
from rusb.server.display import video as videos
from rusb.server.display.base import Rectangle
from rusb.server.display.h264 import H264Encoder
from rusb.server.display.hub import Hub
from rusb.server.display.keyboard import Keyboard
from rusb.server.display.rounds import Drawing
from rusb.server.display.status import StatusPage
from rusb.server.display.video import Detector, Stream
from tests.support.rdp.pictures import desktop, film, quality
from tests.support.rdp.surfaces import AVC_8_1, GraphicsClient

SIZE = WIDTH, HEIGHT = 320, 240
PLACE = X, Y, W, H = 48, 40, 160, 120
INSIDE = np.s_[Y : Y + H, X : X + W]


def repeat(
    detector: Detector, rectangle: Rectangle, times: int, each: float = 0.04
) -> float:
    now = 0.0
    for _ in range(times):
        now += each
        detector.damaged([rectangle], now)
    return now


def found(rectangle: Rectangle = PLACE) -> Detector:
    """A detector that has found a video, at the time 0.4."""
    detector = Detector()
    repeat(detector, rectangle, 10)
    detector.judge(is_dense=True)
    return detector


def test_what_changes_ten_times_in_a_row_is_a_candidate() -> None:
    detector = Detector()
    repeat(detector, (51, 45, 160, 120), 9)
    assert detector.candidate is None
    detector.damaged([(55, 45, 100, 120), (150, 45, 70, 100)], 0.4)
    assert detector.candidate == (48, 32, 224, 176)  # whole cells around all of it
    detector.judge(is_dense=True)
    assert detector.area == (48, 32, 224, 176)


@pytest.mark.parametrize(
    ("rectangle", "each"),
    [
        ((0, 0, 63, 64), 0.04),
        ((0, 0, 640, 200), 0.04),
        ((0, 0, 100, 300), 0.04),
        (PLACE, 0.014),
        (PLACE, 0.31),
        ((0, 0, 0, 0), 0.04),
    ],
)
def test_what_is_small_odd_or_of_another_pace_is_none(
    rectangle: Rectangle, each: float
) -> None:
    detector = Detector()
    repeat(detector, rectangle, 30, each)
    assert detector.candidate is None


def test_another_place_begins_anew() -> None:
    detector = Detector()
    now = repeat(detector, PLACE, 9)
    detector.damaged([(X + 17, Y, W, H)], now + 0.04)
    assert detector.candidate is None
    now = repeat(detector, PLACE, 9)
    assert detector.candidate is None


def test_text_that_scrolls_is_none() -> None:
    detector = Detector()
    repeat(detector, PLACE, 10)
    detector.judge(is_dense=False)
    assert (detector.area, detector.candidate) == (None, None)
    now = 0.4
    count = 0
    while detector.candidate is None:
        count += 1
        now += 0.04
        detector.damaged([PLACE], now)
    assert count == 110  # it is looked at again after a while
    detector.judge(is_dense=True)
    assert detector.area is not None


def test_it_ends_when_nothing_changes_there() -> None:
    detector = found()
    assert not detector.expire(0.69)
    detector.damaged([PLACE], 0.69)
    assert not detector.expire(0.98)
    assert detector.expire(1.0)
    assert detector.area is None


def test_it_ends_when_too_much_changes_elsewhere() -> None:
    detector, now = found(), 0.4
    beside = (X + W, Y, W, H)
    for _ in range(9):
        now += 0.04
        detector.damaged([PLACE, beside], now)
    detector.damaged([PLACE, (0, 0, 20, 20)], now + 0.04)  # a clock: it goes on
    for count in range(10):
        assert detector.area is not None, count
        now += 0.04
        detector.damaged([PLACE, beside], now)
    assert detector.area is None


def test_pictures_of_a_stream_are_like_what_was_shown() -> None:
    stream = Stream(7, (X - X % 16, 32, 208, 160), SIZE, 75)
    assert np.count_nonzero(stream.mask) == 10 * 8
    screen, client = new_frame(*SIZE), GraphicsClient()
    pipeline = Pipeline()
    pipeline.receive(AVC_8_1)
    pipeline.reset(*SIZE)
    for number in range(5):
        screen[INSIDE] = film(W, H, number)
        picture = stream.picture(screen, is_key=number == 0)
        assert (picture.stream, picture.size) == (7, (160, 128))
        pipeline.begin()
        pipeline.draw(picture)
        pipeline.end()
        for message in pipeline.messages():
            client.receive(message)
        seen = client.screen
        assert seen is not None
        assert quality(seen[INSIDE], screen[INSIDE]) > 35
        assert not seen[:32].any()


def test_a_better_quality_takes_more() -> None:
    sizes = []
    for wanted in (10, 75, 100):
        encoder = H264Encoder(W, H, wanted)
        data = [encoder.encode(film(W, H, n), is_key=n == 0) for n in range(3)]
        sizes.append(sum(map(len, data)))
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


def test_a_picture_that_needs_no_other_is_made_on_demand() -> None:
    encoder = H264Encoder(W, H, 75)
    first, second, third = (
        encoder.encode(film(W, H, n), is_key=n != 1) for n in range(3)
    )
    assert b"\0\0\0\1\x67" in first  # a sequence parameter set
    assert b"\0\0\0\1\x67" not in second
    assert b"\0\0\0\1\x67" in third


class Viewer:
    """A client that has the pipeline, or another one."""

    takes_scrblt = False

    def __init__(self, hub: Hub, *, has_pipeline: bool = True) -> None:
        self.hub = hub
        self.size = SIZE
        self.form = Form(24, Compression.PIPELINE if has_pipeline else Compression.BARE)
        self.picture_size = 0
        self.is_watching, self.is_busy = True, False
        self.pictures: list[Picture] = []
        self.sent: list[Sequence[Drawing]] = []
        self.begin()

    def begin(self) -> None:
        self._pipeline = Pipeline()
        self._pipeline.receive(AVC_8_1)
        self._pipeline.reset(*SIZE)
        self.client = GraphicsClient()
        self._damage = Damage(*SIZE)
        self._damage.add_all()

    @property
    def is_damaged(self) -> bool:
        return bool(self._damage)

    def damaged_all(self) -> None:
        self._damage.add_all()

    def damaged_cells(self, cells: Cells) -> None:
        self._damage.add_cells(cells)

    def take_damage(self, most: int) -> Cells | None:
        return self._damage.take(most) if self._damage else None

    def send(self, updates: Sequence[Drawing], size: tuple[int, int]) -> None:
        self.sent.append(updates)
        if self.form.compression is not Compression.PIPELINE:
            return
        self._pipeline.begin()
        for update in updates:
            assert isinstance(update, Tile | Picture)
            if isinstance(update, Picture):
                self.pictures.append(update)
            self._pipeline.draw(update)
        self._pipeline.end()
        for message in self._pipeline.messages():
            self.client.receive(message)

    def show_pointer(self, cursor: Cursor | None) -> None:
        pass

    def follow(self, width: int, height: int) -> None:
        pass

    def shows(self, screen: Frame) -> bool:
        return self.client.screen is not None and np.array_equal(
            self.client.screen, screen[:HEIGHT, :WIDTH]
        )


class Cinema:
    """A head whose guest plays a video, when the test says so."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        page = StatusPage("Lab", list, str)
        self.wanted: int | None = 75
        self.hub = Hub(page, Keyboard(lambda *_: None), thread, 0, lambda: self.wanted)
        self.screen = desktop(*SIZE)
        self.number = 0
        guest: Any = SimpleNamespace(
            size=SIZE,
            cursor=None,
            is_absolute=True,
            is_there=True,
            painter=lambda width, height: lambda: self.screen,
            watch=lambda is_watched: None,
            aclose=_nothing,
        )
        self.hub.serve(guest)
        self.hub.switched()

    async def play(self, until: Callable[[], object], *, most: int = 200) -> None:
        for _ in range(most):
            if until():
                return
            self.number += 1
            self.screen[INSIDE] = film(W, H, self.number)
            self.hub.damaged([PLACE])
            await asyncio.sleep(0.03)
        raise AssertionError("it did not happen")


async def _nothing() -> None:
    pass


@pytest.fixture
async def cinema(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cinema]:
    # a loaded machine plays more slowly than a video does
    monkeypatch.setattr(videos, "LONGEST", 2.0)
    monkeypatch.setattr(hubs, "LONGEST", 0.2)
    monkeypatch.setattr(pace, "TICK", 0.001)
    with ThreadPoolExecutor(1) as thread:
        cinema = Cinema(thread)
        async with asyncio.timeout(60):
            yield cinema
        await cinema.hub.aclose()


async def until(held: Callable[[], object]) -> None:
    while not held():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_video_is_shown_as_one_and_ends_without_loss(cinema: Cinema) -> None:
    viewer, other = Viewer(cinema.hub), Viewer(cinema.hub, has_pipeline=False)
    cinema.hub.add(viewer)
    cinema.hub.add(other)
    await until(lambda: viewer.shows(cinema.screen))
    await cinema.play(lambda: len(viewer.pictures) > 10)
    await until(lambda: cinema.hub._tick is None)
    seen = viewer.client.screen
    assert seen is not None
    beside = np.ones((HEIGHT, WIDTH), bool)
    beside[32:160, 48:208] = False
    assert np.array_equal(seen[beside], cinema.screen[:HEIGHT, :WIDTH][beside])
    assert not viewer.shows(cinema.screen)
    await until(lambda: viewer.shows(cinema.screen))
    assert cinema.hub._stream is None


async def test_who_comes_later_gets_a_picture_that_needs_no_other(
    cinema: Cinema,
) -> None:
    first, late = Viewer(cinema.hub), Viewer(cinema.hub)
    cinema.hub.add(first)
    await cinema.play(lambda: len(first.pictures) > 3)
    cinema.hub.add(late)
    await cinema.play(lambda: len(late.pictures) > 3)
    assert b"\0\0\0\1\x67" in late.pictures[0].body
    assert late.pictures[-1] is first.pictures[-1]
    await until(lambda: late.shows(cinema.screen) and first.shows(cinema.screen))


async def test_who_missed_some_waits_for_one_that_needs_no_other(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "KEY_PAUSE", 1000.0)
    viewers = [Viewer(cinema.hub), Viewer(cinema.hub)]
    for viewer in viewers:
        cinema.hub.add(viewer)
    await cinema.play(lambda: all(len(v.pictures) > 3 for v in viewers))
    first, second = viewers
    second.is_busy = True
    had = len(first.pictures)
    await cinema.play(lambda: len(first.pictures) > had + 3)
    second.is_busy = False
    had = len(second.pictures)
    count = len(first.pictures)
    await cinema.play(lambda: len(first.pictures) > count + 5)
    assert len(second.pictures) == had
    cinema.hub._begins_after = 0.0
    await cinema.play(lambda: len(second.pictures) > had + 2)
    assert b"\0\0\0\1\x67" in second.pictures[had].body
    await until(lambda: all(viewer.shows(cinema.screen) for viewer in viewers))


async def test_it_ends_with_the_setting(cinema: Cinema) -> None:
    viewer = Viewer(cinema.hub)
    cinema.hub.add(viewer)
    await cinema.play(lambda: len(viewer.pictures) > 3)
    cinema.wanted = None
    await cinema.play(lambda: cinema.hub._stream is None)
    had = len(viewer.pictures)
    number = cinema.number
    await cinema.play(lambda: cinema.number > number + 20)
    assert len(viewer.pictures) == had
    await until(lambda: viewer.shows(cinema.screen))


async def test_without_an_encoder_pictures_go_on(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ImportError("no libx264")

    monkeypatch.setattr(videos, "H264Encoder", broken)
    viewer = Viewer(cinema.hub)
    cinema.hub.add(viewer)
    await cinema.play(lambda: "no video: no libx264" in caplog.text)
    number = cinema.number
    await cinema.play(lambda: cinema.number > number + 20)
    await until(lambda: viewer.shows(cinema.screen))
    assert viewer.pictures == []
    assert caplog.text.count("no libx264") == 1


async def test_an_encoder_that_fails_ends_videos_and_no_picture(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = Viewer(cinema.hub)
    cinema.hub.add(viewer)
    await cinema.play(lambda: len(viewer.pictures) > 3)
    assert cinema.hub._stream is not None
    encoder = cinema.hub._stream._encoder
    assert encoder is not None

    class Context:
        def encode(self, frame: object) -> None:
            raise encoder._av.error.ExternalError(1, "it broke")  # type: ignore[union-attr]

    monkeypatch.setattr(encoder, "_context", Context())
    await cinema.play(lambda: "no video: libx264" in caplog.text)
    await cinema.play(lambda: cinema.hub._stream is None)
    await until(lambda: viewer.shows(cinema.screen))
    assert "bug" not in caplog.text


class Gate:
    """Holds rounds up in their thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self._go = threading.Event(), threading.Event()
        self._encode = rounds.encode_round
        monkeypatch.setattr(hubs, "encode_round", self._wait)

    def _wait(self, *about: Any) -> Any:
        self.entered.set()
        self._go.wait(20)
        return self._encode(*about)

    async def during_a_round(self, act: Callable[[], object]) -> None:
        await until(self.entered.is_set)
        act()
        self._go.set()


async def test_what_was_made_for_another_form_is_not_sent(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, viewer = Gate(monkeypatch), Viewer(cinema.hub)
    cinema.hub.add(viewer)

    def lose_the_pipeline() -> None:
        viewer.form = Form(24)

    await gate.during_a_round(lose_the_pipeline)
    await until(lambda: viewer.sent)
    assert all(isinstance(update, Update) for update in viewer.sent[0])


async def test_a_pipeline_that_begins_anew_gets_everything(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = Viewer(cinema.hub)
    cinema.hub.add(viewer)
    await cinema.play(lambda: len(viewer.pictures) > 3)
    await until(lambda: cinema.hub._tick is None)
    gate, had = Gate(monkeypatch), len(viewer.pictures)
    cinema.screen[INSIDE] = film(W, H, 0)
    cinema.hub.damaged([PLACE])

    def begin_anew() -> None:
        viewer.begin()
        cinema.hub.add(viewer)

    await gate.during_a_round(begin_anew)
    await cinema.play(lambda: len(viewer.pictures) > had)
    assert b"\0\0\0\1\x67" in viewer.pictures[had].body
    await until(lambda: viewer.shows(cinema.screen))


async def test_text_that_scrolls_is_drawn_without_loss(cinema: Cinema) -> None:
    viewer = Viewer(cinema.hub)
    cinema.hub.add(viewer)
    for number in range(40):
        cinema.screen[INSIDE] = np.roll(desktop(W, H)[:H, :W], number * 18, 0)
        cinema.hub.damaged([PLACE])
        await asyncio.sleep(0.03)
    await until(lambda: viewer.shows(cinema.screen))
    assert viewer.pictures == []
