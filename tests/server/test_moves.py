"""A head whose viewers move what has scrolled; in the end all have the picture."""

import asyncio
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.graphics.pointers import Cursor
from rusb.rdp.graphics.updates import Cells, Damage, Form, Update, UpdateKind
from rusb.server.display import hub as hubs
from rusb.server.display import pace
from rusb.server.display.base import Paint, Rectangle
from rusb.server.display.hub import Hub
from rusb.server.display.keyboard import Keyboard
from rusb.server.display.rounds import Drawing
from rusb.server.display.status import StatusPage
from tests.support.amount import chance, inputs
from tests.support.rdp.pictures import desktop, noise

SIZE = WIDTH, HEIGHT = 333, 250


class Screen(StatusPage):
    """A screen of the guest that is drawn by hand."""

    size = SIZE

    def __init__(self) -> None:
        super().__init__("", list, str)
        self.picture = desktop(*SIZE)

    def painter(self, width: int, height: int) -> Paint:
        return lambda: self.picture


class Viewer:
    """What a client sees that knows ScrBlt, or does not."""

    form = Form(24)
    size = SIZE
    picture_size = 0

    def __init__(self, hub: Hub, *, moves: bool) -> None:
        self.hub = hub
        self.takes_scrblt = moves
        self.is_watching = True
        self.is_busy = False
        self.loses_next = False
        self.moves = self.bytes = 0
        self.canvas = Canvas()
        self.canvas.begin(*SIZE)
        self.damage = Damage(*SIZE)
        self.damage.add_all()
        hub.add(self)

    @property
    def is_damaged(self) -> bool:
        return bool(self.damage)

    def damaged_all(self) -> None:
        self.damage.add_all()

    def damaged_cells(self, cells: Cells) -> None:
        self.damage.add_cells(cells)

    def take_damage(self, most: int) -> Cells | None:
        return self.damage.take(most) if self.damage else None

    def send(self, updates: Sequence[Drawing], size: tuple[int, int]) -> None:
        if self.loses_next or not self.is_watching:
            self.loses_next = False
            self.damage.add_all()
            self.hub.behind(self)
            self.hub.due()
            return
        for update in updates:
            assert isinstance(update, Update)
            self.bytes += len(update.body)
            if update.kind is UpdateKind.ORDERS:
                self.move(update)
            else:
                self.canvas.draw(update.body)

    def move(self, order: Update) -> None:
        assert self.takes_scrblt
        self.moves += 1
        left, top, width, height, _, x, y = struct.unpack("<4hB2h", order.body[5:])
        frame = self.canvas._frame
        part = frame[y : y + height, x : x + width].copy()
        frame[top : top + height, left : left + width] = part

    def show_pointer(self, cursor: Cursor | None) -> None: ...

    def follow(self, width: int, height: int) -> None: ...

    def has(self, picture: Frame) -> bool:
        return np.array_equal(self.canvas.pixels(), picture[:HEIGHT, :WIDTH])


def make_hub() -> tuple[Hub, Screen]:
    screen = Screen()
    keyboard = Keyboard(lambda code, is_down: None)
    return Hub(screen, keyboard, ThreadPoolExecutor(1)), screen


async def settle(hub: Hub) -> None:
    """Wait until nothing is encoded any more."""
    hub.due()
    await asyncio.sleep(0)
    while hub._tick is not None or hub._timer is not None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "TICK", 0.0)


def scroll(screen: Screen, rows: int) -> None:
    part = screen.picture[:HEIGHT, :WIDTH]
    part[:-rows] = part[rows:].copy()
    part[-rows:] = noise(WIDTH, rows)[:rows, :WIDTH]


async def test_who_has_the_picture_moves_it() -> None:
    hub, screen = make_hub()
    async with asyncio.timeout(20):
        mover, other = (Viewer(hub, moves=moves) for moves in (True, False))
        await settle(hub)
        assert mover.has(screen.picture)
        mover.bytes = other.bytes = 0
        scroll(screen, 16)
        hub.damaged([(0, 0, *SIZE)])
        await settle(hub)
        assert (mover.moves, other.moves) == (1, 0)
        assert mover.has(screen.picture)
        assert other.has(screen.picture)
        assert mover.bytes < other.bytes / 2
        late = Viewer(hub, moves=True)
        scroll(screen, 16)
        hub.damaged([(0, 0, *SIZE)])
        await settle(hub)
        assert (mover.moves, late.moves) == (2, 0)
        assert late.has(screen.picture)
        scroll(screen, 16)
        hub.damaged([(0, 0, *SIZE)])
        await settle(hub)
        assert (mover.moves, late.moves) == (3, 1)
        assert late.has(screen.picture)
    await hub.aclose()


async def test_who_lost_something_gets_all_of_it_again() -> None:
    hub, screen = make_hub()
    async with asyncio.timeout(20):
        viewer = Viewer(hub, moves=True)
        await settle(hub)
        viewer.loses_next = True
        scroll(screen, 16)
        hub.damaged([(0, 0, *SIZE)])
        await settle(hub)
        assert viewer.moves == 0
        assert viewer.has(screen.picture)
    await hub.aclose()


async def test_who_loses_something_while_something_is_encoded() -> None:
    hub, screen = make_hub()
    async with asyncio.timeout(20):
        viewer = Viewer(hub, moves=True)
        await settle(hub)
        scroll(screen, 16)
        hub.damaged([(0, 0, *SIZE)])
        while hub._tick is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        viewer.canvas.begin(*SIZE)
        viewer.damage.add_all()
        hub.behind(viewer)
        await settle(hub)
        assert viewer.has(screen.picture)
    await hub.aclose()


async def test_who_comes_late_gets_a_large_screen_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hubs, "MAX_CELLS", 70)
    hub, screen = make_hub()
    async with asyncio.timeout(20):
        for moves in (True, False):
            viewer = Viewer(hub, moves=moves)
            await settle(hub)
            assert viewer.has(screen.picture)
    await hub.aclose()


@pytest.mark.parametrize("is_behind", [False, True])
async def test_what_is_taken_before_it_is_reported_reaches_everybody(
    *, is_behind: bool
) -> None:
    """The report of the change comes when all have what the shadow has."""
    hub, screen = make_hub()
    here, there = (40, 40, 1, 1), (200, 200, 1, 1)
    async with asyncio.timeout(20):
        viewers = [Viewer(hub, moves=moves) for moves in (True, False)]
        await settle(hub)
        screen.picture[40, 40] ^= 0xFFFFFF
        viewers[0].damage.add_all()
        hub.behind(viewers[0])
        if is_behind:  # with damage of its own
            hub.behind(viewers[1])
            screen.picture[200, 200] ^= 0xFFFFFF
            viewers[1].damage.add(*there)
        await settle(hub)
        screen.picture[200, 200] ^= 0xFFFFFF
        hub.damaged([there])
        await settle(hub)
        hub.damaged([here])
        await settle(hub)
        for viewer in viewers:
            assert viewer.has(screen.picture)
    await hub.aclose()


@pytest.mark.parametrize("most", [10_000, 70])
async def test_any_viewers_have_the_picture_in_the_end(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports of damage come late, viewers are slow, lose something, look away."""
    monkeypatch.setattr(hubs, "MAX_CELLS", most)
    random = chance(most)
    hub, screen = make_hub()
    unreported: list[Rectangle] = []
    async with asyncio.timeout(100):
        viewers = [Viewer(hub, moves=n % 3 > 0) for n in range(5)]
        for _ in range(inputs(60)):
            x, y = 16 * random.randrange(20), 16 * random.randrange(15)
            area = (x, y, random.randint(1, 100), random.randint(1, 60))
            if random.random() < 0.5:
                scroll(screen, random.randint(1, 40))
                area = (0, 0, *SIZE)
            else:
                part = screen.picture[y : min(y + area[3], HEIGHT)]
                part[:, x : min(x + area[2], WIDTH)] ^= random.randrange(1 << 24)
            unreported.append(area)
            if random.random() < 0.7:
                hub.damaged(unreported)
                unreported = []
            for viewer in viewers:
                viewer.is_busy = random.random() < 0.3
                viewer.loses_next = random.random() < 0.1
            hub.due()
            await asyncio.sleep(random.choice([0, 0, 0.002, 0.02]))
        hub.damaged(unreported)
        for viewer in viewers:
            viewer.is_busy = viewer.loses_next = False
        await settle(hub)
        for viewer in viewers:
            assert viewer.has(screen.picture)
        assert most < 1000 or any(viewer.moves for viewer in viewers)
    await hub.aclose()
