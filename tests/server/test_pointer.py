"""The pointer that all viewers share (display.md 6.1, 6.3)."""

import asyncio

import pytest

from rusb.rdp.events import (
    Button,
    Input,
    KeyInput,
    LocksInput,
    PointerInput,
    UnicodeInput,
    WheelInput,
)
from rusb.rdp.graphics.pixels import new_frame
from rusb.server.display import pointer
from rusb.server.display.base import Paint, ScreenSource
from rusb.server.display.inputs import pass_on
from rusb.server.display.keyboard import Keyboard
from rusb.server.display.pointer import Pointer


class Guest(ScreenSource):
    """Notes what reaches its pointer."""

    size = 100, 50

    def __init__(self) -> None:
        self._said: list[tuple[object, ...]] = []
        self.is_absolute = True

    def painter(self, width: int, height: int) -> Paint:
        return lambda: new_frame(width, height)

    def watch(self, *, is_watched: bool) -> None: ...

    def key(self, code: int, *, is_down: bool) -> None: ...

    def pointer(self, buttons: int, x: int, y: int) -> None:
        self._said.append((buttons, x, y))

    def resize(self, width: int, height: int) -> None:
        pass

    def button(self, name: str, *, is_down: bool) -> None:
        self._said.append((name, is_down))

    def said(self) -> list[tuple[object, ...]]:
        said, self._said = self._said, []
        return said


class FakeHub:
    """As much of a hub as input needs."""

    def __init__(self, guest: Guest) -> None:
        self.pointer = Pointer(guest)
        self.move = self.pointer.move
        self.touches = 0
        self.keys: list[tuple[int, bool]] = []
        self.keyboard = Keyboard(
            lambda code, is_down: self.keys.append((code, is_down))
        )

    def touched(self) -> None:
        self.touches += 1

    def pass_on(self, event: Input) -> None:
        touches = self.touches
        pass_on(event, self, "viewer")  # type: ignore[arg-type]
        assert self.touches == touches + 1


@pytest.fixture
def guest() -> Guest:
    return Guest()


async def test_movements_are_told_at_their_pace_and_buttons_at_once(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointer, "MOVE_PERIOD", 3600)
    mouse = Pointer(guest)
    mouse.move(1, 2)
    await asyncio.sleep(0.02)
    assert guest.said() == [(0, 1, 2)]
    for x in range(3, 8):
        mouse.move(x, 2)
    await asyncio.sleep(0.02)
    assert guest.said() == []
    mouse.button("a", "left", is_down=True)
    mouse.move(9, 9)
    monkeypatch.setattr(pointer, "MOVE_PERIOD", 0.1)
    began = asyncio.get_running_loop().time()
    mouse.button("a", "left", is_down=False)
    assert guest.said() == [(1, 7, 2), (0, 9, 9)]
    mouse.move(9, 9)
    mouse.move(10, 9)
    while not (said := guest.said()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert said == [(0, 10, 9)]
    assert asyncio.get_running_loop().time() - began > 0.09
    mouse.move(11, 9)
    mouse.close()
    await asyncio.sleep(0.15)
    assert guest.said() == []


async def test_a_pointer_without_positions_is_told_movements(guest: Guest) -> None:
    guest.is_absolute = False
    mouse = Pointer(guest)
    for x, y in ((10, 10), (13, 8)):
        mouse.move(x, y)
        await asyncio.sleep(0.02)
    mouse.button("a", "right", is_down=True)
    still = 0x7FFF
    assert guest.said() == [
        (0, still, still),
        (0, still + 3, still - 2),
        (4, still, still),
    ]


async def test_buttons_are_down_from_their_first_viewer_to_their_last(
    guest: Guest,
) -> None:
    mouse = Pointer(guest)
    mouse.button("a", "left", is_down=True)
    mouse.button("b", "left", is_down=True)
    mouse.button("b", "middle", is_down=True)
    mouse.button("a", "left", is_down=False)
    mouse.button("b", "side", is_down=True)
    assert guest.said() == [(1, 0, 0), (3, 0, 0), ("side", True)]
    mouse.release("a")
    mouse.release("b")
    assert guest.said() == [(2, 0, 0), (0, 0, 0), ("side", False)]


WHEELS: list[tuple[int, bool, list[tuple[object, ...]]]] = [
    (1, False, [(8, 5, 6), (0, 5, 6)]),
    (-2, False, [(16, 5, 6), (0, 5, 6)] * 2),
    (1, True, [("wheel-right", True), ("wheel-right", False)]),
    (-1, True, [("wheel-left", True), ("wheel-left", False)]),
    (1000, False, [(8, 5, 6), (0, 5, 6)] * pointer.MAX_NOTCHES),
]


@pytest.mark.parametrize(("notches", "is_horizontal", "found"), WHEELS)
async def test_wheels_turn_by_notches_where_the_pointer_is(
    guest: Guest, notches: int, *, is_horizontal: bool, found: list[object]
) -> None:
    hub = FakeHub(guest)
    hub.move(5, 6)
    await asyncio.sleep(0.02)
    guest.said()
    hub.pass_on(WheelInput(notches, is_horizontal))
    assert guest.said() == found


async def test_clicks_are_where_the_viewer_says(guest: Guest) -> None:
    hub = FakeHub(guest)
    for button in (Button.LEFT, Button.RIGHT, Button.MIDDLE):
        for is_pressed in (True, False):
            hub.pass_on(PointerInput(7, 8, button, is_pressed))
    assert guest.said() == [(b, 7, 8) for b in (1, 0, 4, 0, 2, 0)]
    hub.pass_on(PointerInput(7, 8, Button.BACK, True))
    hub.pass_on(PointerInput(7, 8, Button.FORWARD, True))
    assert guest.said() == [("side", True), ("extra", True)]


async def test_keys_locks_and_characters_go_to_the_keyboard(guest: Guest) -> None:
    hub = FakeHub(guest)
    hub.keyboard.leds_changed(0)
    hub.pass_on(KeyInput(0xC6, True))
    hub.pass_on(KeyInput(0xC6, False))
    hub.pass_on(LocksInput(1))
    hub.pass_on(UnicodeInput(ord("a"), True))
    hub.pass_on(UnicodeInput(ord("a"), False))
    hub.pass_on(UnicodeInput(0x20AC, True))
    codes = (0xC6, 0x46, 0x1E)
    assert hub.keys == [(code, down) for code in codes for down in (True, False)]
