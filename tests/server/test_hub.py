"""What is encoded when, and for whom (display.md 3)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.graphics.pointers import Cursor
from rusb.rdp.graphics.updates import Cells, Damage, Form
from rusb.server.display import hub as module
from rusb.server.display import pace
from rusb.server.display.base import Rectangle
from rusb.server.display.hub import Hub
from rusb.server.display.keyboard import Keyboard
from rusb.server.display.rounds import Drawing, encode_round
from rusb.server.display.status import StatusPage
from tests.support.rdp.pictures import noise

SIZE = 320, 200


class Viewer:
    """A client whose picture is a canvas."""

    takes_scrblt = False

    def __init__(self, size: tuple[int, int] = SIZE, depth: int = 24) -> None:
        self.size = size
        self.form = Form(depth)
        self.picture_size = 0
        self.is_watching, self.is_busy = True, False
        self.updates: list[Sequence[Drawing]] = []
        self.pointers: list[Cursor | None] = []
        self.sizes: list[tuple[int, int]] = []
        self.canvas = Canvas()
        self.canvas.begin(*size)
        self._damage = Damage(*size)
        self._damage.add_all()

    def damaged_all(self) -> None:
        self._damage.add_all()

    @property
    def is_damaged(self) -> bool:
        return bool(self._damage)

    def damaged_cells(self, cells: Cells) -> None:
        self._damage.add_cells(cells)

    def take_damage(self, most: int) -> Cells | None:
        return self._damage.take(most) if self._damage else None

    def send(self, updates: Sequence[Drawing], size: tuple[int, int]) -> None:
        assert size == self.size
        self.updates.append(updates)

    def show_pointer(self, cursor: Cursor | None) -> None:
        self.pointers.append(cursor)

    def follow(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    def bytes_sent(self) -> int:
        return sum(len(u.body) for updates in self.updates for u in updates)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    page = StatusPage("Lab", list, str)
    page.size = SIZE
    page._frames[*SIZE, ((), "")] = noise(*SIZE)
    with ThreadPoolExecutor(1) as thread:
        hub = Hub(page, Keyboard(lambda *_: None), thread)
        async with asyncio.timeout(20):
            yield hub
        await hub.aclose()


async def until_sent(*viewers: Viewer, rounds: int = 1) -> None:
    while any(len(viewer.updates) < rounds for viewer in viewers):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_viewers_of_one_form_share_the_bytes(hub: Hub) -> None:
    viewers = [Viewer(), Viewer(), Viewer(depth=16)]
    for viewer in viewers:
        hub.add(viewer)
    await until_sent(*viewers)
    first, second, other = (viewer.updates[0] for viewer in viewers)
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert other[0] is not first[0]


async def test_a_round_that_fails_is_made_good(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the shadow has changed; and not again and again at once."""
    rounds = 0

    def fail(*words: object) -> object:
        nonlocal rounds
        rounds += 1
        found = encode_round(*words)  # type: ignore[arg-type]
        if rounds in (2, 4):
            raise ZeroDivisionError
        return found

    monkeypatch.setattr(module, "encode_round", fail)
    monkeypatch.setattr(module, "BUG_SECONDS", 0.01)
    viewer = Viewer()
    hub.add(viewer)
    await until_sent(viewer)
    whole = viewer.bytes_sent()
    hub.damaged([(17, 17, 2, 2)])
    await until_sent(viewer, rounds=2)
    assert viewer.bytes_sent() == 2 * whole
    monkeypatch.setattr(module, "BUG_SECONDS", 1000.0)
    hub.damaged([(17, 17, 2, 2)])
    while rounds < 4:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.2)
    assert (rounds, len(viewer.updates)) == (4, 2)


async def test_only_what_has_changed_is_sent(hub: Hub) -> None:
    viewer = Viewer()
    hub.add(viewer)
    await until_sent(viewer)
    whole = viewer.bytes_sent()
    hub.damaged([(17, 17, 2, 2)])
    await until_sent(viewer, rounds=2)
    assert viewer.bytes_sent() - whole < 16 * 16 * 3 + 64
    await asyncio.sleep(0.1)
    assert len(viewer.updates) == 2


async def test_who_is_busy_or_does_not_look_gets_it_later(hub: Hub) -> None:
    busy, blind, other = Viewer(), Viewer(), Viewer()
    busy.is_busy, blind.is_watching = True, False
    for viewer in (busy, blind, other):
        hub.add(viewer)
    await until_sent(other)
    assert busy.updates == blind.updates == []
    busy.is_busy, blind.is_watching = False, True
    hub.due()
    await until_sent(busy, blind)
    assert len(other.updates) == 1


async def test_rounds_keep_their_distance(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "TICK", 0.1)
    viewer = Viewer()
    hub.add(viewer)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while len(viewer.updates) < 5:
        hub.damaged([(0, 0, 1, 1)])
        await asyncio.sleep(0.005)
    assert loop.time() - begin > 0.35


async def test_what_comes_of_a_key_does_not_wait_for_a_busy_loop(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it was typed while the next round was waited for."""
    monkeypatch.setattr(pace, "BUSY", 0.0)  # whatever it takes is much
    monkeypatch.setattr(pace, "BUSY_TICK", 1000.0)
    viewer = Viewer()
    hub.add(viewer)
    await until_sent(viewer)
    hub.damaged([(0, 0, 1, 1)])
    await asyncio.sleep(0.1)
    assert len(viewer.updates) == 1
    hub.touched()
    await until_sent(viewer, rounds=2)


async def test_large_screens_come_in_rounds(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", 100)
    viewer = Viewer()
    hub.add(viewer)
    await until_sent(viewer, rounds=3)  # of 20 x 13 cells
    await asyncio.sleep(0.1)
    assert len(viewer.updates) == 3


async def test_too_much_on_its_way_stops_further_pictures(hub: Hub) -> None:
    slow, other = Viewer(), Viewer()
    slow.is_busy, slow.picture_size = True, module.MAX_PICTURES + 1
    hub.add(slow)
    hub.add(other)
    await asyncio.sleep(0.1)
    assert other.updates == []
    slow.picture_size = 0
    hub.due()
    await until_sent(other)


@pytest.mark.parametrize("size", [(100, 90), (400, 300)])
async def test_a_client_of_another_size_sees_the_upper_left_part(
    hub: Hub, size: tuple[int, int]
) -> None:
    frame = hub._painter(*size)()
    whole = noise(*SIZE)
    width, height = min(size[0], SIZE[0]), min(size[1], SIZE[1])
    assert np.array_equal(frame[:height, :width], whole[:height, :width])
    assert not frame[SIZE[1] :].any()
    assert not frame[:, SIZE[0] :].any()


async def test_a_change_of_size_is_followed_by_all(hub: Hub) -> None:
    viewers = [Viewer(), Viewer()]
    for viewer in viewers:
        hub.add(viewer)
    hub._status.size = 640, 480
    hub.changed()
    assert [viewer.sizes for viewer in viewers] == [[SIZE, (640, 480)]] * 2


async def test_what_a_viewer_holds_is_released_when_it_leaves(hub: Hub) -> None:
    keys: list[tuple[int, bool]] = []
    hub.keyboard = Keyboard(lambda code, is_down: keys.append((code, is_down)))
    viewer = Viewer()
    hub.add(viewer)
    hub.keyboard.key(viewer, 0x1E, is_down=True)
    hub.pointer.button(viewer, "left", is_down=True)
    hub.discard(viewer)
    assert keys == [(0x1E, True), (0x1E, False)]
    assert not any(hub.pointer._held.values())


async def test_nothing_happens_after_the_end(hub: Hub) -> None:
    viewer = Viewer()
    hub.add(viewer)
    await until_sent(viewer)
    await hub.aclose()
    await hub.aclose()
    hub.due()
    hub.add(viewer)
    await asyncio.sleep(0.1)
    assert len(viewer.updates) == 1


@pytest.mark.parametrize("size", [None, (100, 90)])
async def test_large_pictures_are_not_made_on_the_loop(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None
) -> None:
    """Six viewers of 4096x2000, of sizes of their own, held it up for 80 ms each
    round."""
    threads: list[threading.Thread] = []

    def page(width: int, height: int, *said: object) -> Frame:
        threads.append(threading.current_thread())
        return noise(width, height)

    monkeypatch.setattr("rusb.server.display.status.status_frame", page)
    fit = module._fit

    def cut(*how: object) -> Frame:
        threads.append(threading.current_thread())
        return fit(*how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_fit", cut)
    hub._status.size = size
    hub._status._frames.clear()
    viewer = Viewer()
    hub.add(viewer)
    await until_sent(viewer)
    assert threads
    assert threading.main_thread() not in threads


async def test_the_page_of_a_size_is_drawn_when_it_says_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[object, ...]] = []

    def draw(*what: object) -> Frame:
        drawn.append(what)
        return noise(*SIZE)

    monkeypatch.setattr("rusb.server.display.status.status_frame", draw)
    devices: list[str] = []
    page = StatusPage("Lab", lambda: devices, str)
    for _ in range(2):
        page.painter(*SIZE)()
    devices.append("a keyboard")
    for _ in range(2):
        page.painter(*SIZE)()
    assert drawn == [(*SIZE, "Lab", (), ""), (*SIZE, "Lab", ("a keyboard",), "")]
    for width in range(1, 20):
        page.painter(width, 1)()
    assert len(page._frames) <= 4


async def test_what_has_changed_is_marked_once_for_all_of_a_size(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console that scrolls has hundreds of rectangles each time."""
    viewers = [Viewer(), Viewer(), Viewer((400, 300)), Viewer()]
    for viewer in viewers:
        hub.add(viewer)
        viewer.take_damage(1 << 20)
    marked = list[Rectangle]()
    add = Damage.add

    def count(damage: Damage, *rectangle: int) -> None:
        marked.append(rectangle)  # type: ignore[arg-type]
        add(damage, *rectangle)

    monkeypatch.setattr(Damage, "add", count)
    hub.damaged([(x, 0, 16, 16) for x in range(0, 160, 16)])
    assert len(marked) == 2 * 10
    for viewer in viewers:
        cells = viewer.take_damage(1 << 20)
        assert cells is not None
        assert cells.sum() == 10
