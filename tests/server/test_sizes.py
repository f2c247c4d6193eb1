"""When the guest gets the size that a viewer wants (display.md 9.3)."""

import asyncio

import pytest

from rusb.server.display import sizes as module
from rusb.server.display.sizes import SizeWishes

Size = tuple[int, int]


class Guest:
    """Notes what it is asked for; its size is 1280x800."""

    def __init__(self) -> None:
        self.asked: list[Size] = []
        self.wishes = SizeWishes(lambda *size: self.asked.append(size))
        self.wishes.changed((1280, 800))
        self.wishes._echoes_until = 0.0


@pytest.fixture
async def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    monkeypatch.setattr(module, "SETTLED", 0.05)
    return Guest()


async def test_the_last_of_many_wishes_counts(guest: Guest) -> None:
    for width in range(800, 840, 2):
        guest.wishes.wish(width, 600)
    await asyncio.sleep(0.2)
    assert guest.asked == [(838, 600)]


@pytest.mark.parametrize("size", [(1280, 800), (8192, 8192), (0, 600)])
async def test_what_it_has_or_is_too_large_is_not_asked_for(
    guest: Guest, size: Size
) -> None:
    guest.wishes.wish(*size)
    await asyncio.sleep(0.2)
    assert guest.asked == []


async def test_the_answers_to_a_change_are_no_wishes(guest: Guest) -> None:
    """rdesktop 1.9 and FreeRDP say even sizes, FreeRDP 3.30 the old one."""
    guest.wishes.wish(640, 480)
    guest.wishes.changed((801, 601))  # a wish before it is one no more
    for size in ((800, 601), (800, 600), (1280, 800)):
        guest.wishes.wish(*size)
        await asyncio.sleep(0.1)
    assert guest.asked == []
    guest.wishes.wish(1000, 700)
    await asyncio.sleep(0.1)
    assert guest.asked == [(1000, 700)]
    guest.wishes._echoes_until = 0.0
    guest.wishes.wish(1280, 800)
    await asyncio.sleep(0.1)
    assert guest.asked == [(1000, 700), (1280, 800)]


async def test_nothing_is_wanted_of_a_guest_without_a_screen(guest: Guest) -> None:
    guest.wishes.changed(None)
    guest.wishes.wish(640, 480)
    await asyncio.sleep(0.1)
    assert guest.asked == []


async def test_nothing_is_asked_after_the_end(guest: Guest) -> None:
    guest.wishes.wish(640, 480)
    guest.wishes.close()
    guest.wishes.close()
    await asyncio.sleep(0.1)
    assert guest.asked == []
