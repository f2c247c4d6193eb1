"""What has moved is found, and clients that move it have the picture."""

import struct

import numpy as np
import pytest

from rusb.rdp.graphics.canvas import Canvas
from rusb.rdp.graphics.pixels import Frame, new_frame
from rusb.rdp.graphics.scrolling import Change, Shadow, scrblt
from rusb.rdp.graphics.updates import Cells, Damage, Encoder, Form, Update
from tests.support.amount import chance, inputs
from tests.support.rdp.pictures import VECTORS, desktop, noise


def everything(width: int, height: int) -> Cells:
    damage = Damage(width, height)
    damage.add_all()
    return damage.take()


class Client:
    """One that knows ScrBlt, and one that does not; both are up to date."""

    def __init__(self, width: int, height: int, *, moves: bool) -> None:
        self.size = width, height
        self.moves = moves
        self.canvas = Canvas()
        self.canvas.begin(width, height)
        self.bytes = 0

    def take(self, shadow: Shadow, change: Change) -> None:
        cells = change.cells
        if self.moves and change.order is not None:
            self.move(change.order)
            cells = change.rest
        for update in Encoder(shadow.frame, *self.size).updates(cells, Form(24)):
            self.canvas.draw(update.body)
            self.bytes += len(update.body)

    def move(self, order: Update) -> None:
        left, top, width, height, how, x, y = struct.unpack("<4hB2h", order.body[5:])
        assert how == 0xCC
        assert 0 <= min(left, x) <= max(left, x) <= self.size[0] - width
        assert 0 <= min(top, y) <= max(top, y) <= self.size[1] - height
        frame = self.canvas._frame
        part = frame[y : y + height, x : x + width].copy()
        frame[top : top + height, left : left + width] = part
        self.bytes += len(order.body)


def scrolled(frame: Frame, rows: int, area: tuple[int, int, int, int]) -> Frame:
    """A picture in which an area has moved up by some rows; new ones are below."""
    x, y, width, height = area
    after = frame.copy()
    part = np.roll(frame[y : y + height, x : x + width], -rows, 0)
    fresh = part[height - rows :] if rows > 0 else part[:-rows]
    fresh[:] = noise(width, abs(rows))[: abs(rows), :width]
    after[y : y + height, x : x + width] = part
    return after


def test_the_vector() -> None:
    found = VECTORS["scrblt"]
    (x, y), (width, height) = found["source"], found["size"]
    update = scrblt((*found["target"], width, height), x, y)
    assert update.body.hex() == found["body"]


SCROLLS = [
    ((640, 400), 16, (0, 0, 640, 400)),
    ((640, 400), -16, (0, 0, 640, 400)),
    ((641, 399), 18, (100, 50, 300, 300)),
    ((641, 399), -7, (100, 50, 541, 349)),
    ((640, 400), 150, (0, 0, 640, 400)),
]


@pytest.mark.parametrize(("size", "rows", "area"), SCROLLS)
def test_a_scrolled_window_is_moved(
    size: tuple[int, int], rows: int, area: tuple[int, int, int, int]
) -> None:
    before = desktop(*size)
    after = scrolled(before, rows, area)
    shadow = Shadow(*size)
    clients = [Client(*size, moves=moves) for moves in (True, False)]
    change = shadow.advance(before, everything(*size))
    for client in clients:
        client.take(shadow, change)
        client.bytes = 0
    damage = Damage(*size)
    damage.add(*area)
    change = shadow.advance(after, damage.take())
    assert change.order is not None
    for client in clients:
        client.take(shadow, change)
        expected = after[: size[1], : size[0]]
        assert np.array_equal(client.canvas.pixels(), expected)
    assert clients[0].bytes < 0.8 * clients[1].bytes


@pytest.mark.parametrize(("rows", "fresh"), [(16, [23, 24]), (-16, [0])])
def test_only_new_rows_are_drawn(rows: int, fresh: list[int]) -> None:
    size = 640, 392  # the last band of rows ends within a cell
    frame, shadow = noise(*size, 5), Shadow(*size)
    shadow.advance(frame, everything(*size))
    moved = scrolled(frame, rows, (0, 0, *size))
    moved[330, 100] ^= 1
    change = shadow.advance(moved, everything(*size))
    assert change.cells.all()
    expected = np.zeros_like(change.cells)
    expected[fresh] = expected[20, 6] = True
    assert np.array_equal(change.rest, expected)


def test_only_what_differs_is_told() -> None:
    frame, shadow = desktop(320, 200), Shadow(320, 200)
    shadow.advance(frame, everything(320, 200))
    opaque = (frame | 0xFF000000).astype(np.uint32)
    change = shadow.advance(opaque, everything(320, 200))
    assert not change.cells.any()  # the highest byte has no meaning
    for row, column in ((100, 100), (140, 50), (199, 319)):
        frame[row, column] ^= 1
    change = shadow.advance(frame, everything(320, 200))
    assert list(zip(*change.cells.nonzero(), strict=True)) == [(6, 6), (8, 3), (12, 19)]
    assert change.order is None
    assert np.array_equal(change.rest, change.cells)


def test_nothing_is_taken_that_nobody_named() -> None:
    frame, shadow = noise(320, 200), Shadow(320, 200)
    change = shadow.advance(frame, np.zeros((13, 20), bool))
    assert not change.cells.any()
    assert not shadow.frame.any()
    damage = Damage(320, 200)
    damage.add(16, 32, 16, 16)
    damage.add(200, 100, 16, 1)
    change = shadow.advance(frame, damage.take())
    assert change.cells.sum() == 3
    assert (shadow.frame != 0).sum() == 3 * 256


def test_a_change_that_nobody_named_yet_is_not_sent_with_a_move() -> None:
    """Clients that are behind learn of it by its damage, as the others do."""
    size = 640, 400
    before = desktop(*size)
    clients = [Client(*size, moves=moves) for moves in (True, False)]
    shadow = Shadow(*size)
    change = shadow.advance(before, everything(*size))
    for client in clients:
        client.take(shadow, change)
    after = scrolled(before, 20, (0, 0, *size))
    expected = after.copy()
    after[160:176, 320:336] ^= 0x555555
    cells = everything(*size)
    cells[10, 20] = False
    expected[160:176, 320:336] = before[160:176, 320:336]
    change = shadow.advance(after, cells)
    assert change.order is not None
    assert np.array_equal(shadow.frame[:400, :640], expected[:400, :640])
    for client in clients:
        client.take(shadow, change)
        assert np.array_equal(client.canvas.pixels(), expected[:400, :640])


def test_what_is_new_does_not_move() -> None:
    size = 320, 200
    shadow = Shadow(*size)
    for frame in (noise(*size), noise(*size, 2), desktop(*size), new_frame(*size)):
        change = shadow.advance(frame, everything(*size))
        assert change.cells.any()
        assert change.order is None


def test_a_move_that_leaves_much_to_be_drawn_does_not_pay() -> None:
    size = 640, 400
    before = noise(*size)
    for rows, pays in ((80, False), (200, True)):
        shadow = Shadow(*size)
        shadow.advance(before, everything(*size))
        after = noise(*size, 2)
        after[:rows, :640] = before[16 : 16 + rows, :640]
        change = shadow.advance(after, everything(*size))
        assert (change.order is not None) == pays
        assert change.rest.all() != pays


def test_small_windows_are_not_moved() -> None:
    for area in ((0, 0, 48, 200), (0, 0, 320, 64)):
        frame, shadow = noise(320, 200), Shadow(320, 200)
        shadow.advance(frame, everything(320, 200))
        damage = Damage(320, 200)
        damage.add(*area)
        change = shadow.advance(scrolled(frame, 5, area), damage.take())
        assert change.order is None


def test_any_changes_arrive_with_and_without_moves() -> None:
    random = chance(1)
    size = 333, 250
    shadow = Shadow(*size)
    clients = [Client(*size, moves=moves) for moves in (True, False)]
    frame, moves = desktop(*size), 0
    damage = Damage(*size)
    damage.add_all()
    for _ in range(inputs(40)):
        change = shadow.advance(frame, damage.take())
        moves += change.order is not None
        for client in clients:
            client.take(shadow, change)
            expected = frame[: size[1], : size[0]]
            assert np.array_equal(client.canvas.pixels(), expected)
        x, y = 16 * random.randrange(12), 16 * random.randrange(9)
        area = (x, y, random.randint(8, size[0] - x), random.randint(8, size[1] - y))
        rows = random.choice([-1, 1]) * random.randint(1, area[3] // 4)
        frame = scrolled(frame, rows, area)
        damage.add(*area)
        if random.random() < 0.3:
            part = noise(40, 40, random.randrange(99))[:40, :40]
            frame[60:100, 80:120] = part
            damage.add(80, 60, 40, 40)
    assert moves > 5
