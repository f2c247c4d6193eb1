"""The keyboard that all viewers share (display.md 6.2)."""

import pytest

from rusb.server.display.keyboard import Keyboard


class Guest:
    """Notes keys as the guest sees them: ``+1e`` pressed, ``-1e`` released."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self.keyboard = Keyboard(self._note)

    def _note(self, code: int, is_down: bool) -> None:
        self._said.append(f"{'+' if is_down else '-'}{code:02x}")

    def said(self) -> str:
        said, self._said = " ".join(self._said), []
        return said


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_keys_arrive_with_the_bit_of_those_behind_e0(guest: Guest) -> None:
    guest.keyboard.key("a", 0x1E, is_down=True)
    guest.keyboard.key("a", 0x1E, is_down=False)
    guest.keyboard.key("a", 0xB8, is_down=True)  # AltGr
    guest.keyboard.key("a", 0xB8, is_down=False)
    assert guest.said() == "+1e -1e +b8 -b8"


def test_a_key_that_repeats_is_pressed_again(guest: Guest) -> None:
    for _ in range(3):
        guest.keyboard.key("a", 0x1E, is_down=True)
    guest.keyboard.key("a", 0x1E, is_down=False)
    assert guest.said() == "+1e +1e +1e -1e"


def test_a_key_is_down_from_its_first_viewer_to_its_last(guest: Guest) -> None:
    for viewer, is_down in (("a", 1), ("b", 1), ("a", 0), ("a", 0), ("b", 0)):
        guest.keyboard.key(viewer, 0x2A, is_down=bool(is_down))
    assert guest.said() == "+2a -2a"


def test_a_release_of_what_is_not_held_does_nothing(guest: Guest) -> None:
    """FreeRDP says Tab up when it gets the focus."""
    guest.keyboard.key("a", 0x0F, is_down=False)
    assert guest.said() == ""


def test_what_a_viewer_holds_is_released_when_it_leaves(guest: Guest) -> None:
    guest.keyboard.key("a", 0x1D, is_down=True)
    guest.keyboard.key("a", 0x38, is_down=True)
    guest.keyboard.key("b", 0x38, is_down=True)
    guest.keyboard.release("a")
    assert guest.said() == "+1d +38 -1d"
    guest.keyboard.release("b")
    assert guest.said() == "-38"


def test_locks_follow_a_viewer_until_they_agree(guest: Guest) -> None:
    guest.keyboard.leds_changed(0)
    guest.keyboard.synchronize("a", 4)
    assert guest.said() == "+3a -3a"
    guest.keyboard.leds_changed(4)
    guest.keyboard.synchronize("a", 4)
    assert guest.said() == ""
    guest.keyboard.synchronize("a", 3)
    assert guest.said() == "+46 -46 +45 -45 +3a -3a"


def test_locks_are_not_switched_twice_before_the_guest_has_told(guest: Guest) -> None:
    """xfreerdp sends the key, and right after it that its light is on."""
    guest.keyboard.leds_changed(2)
    guest.keyboard.key("a", 0x3A, is_down=True)
    guest.keyboard.key("a", 0x3A, is_down=False)
    guest.keyboard.synchronize("a", 6)
    assert guest.said() == "+3a -3a"
    guest.keyboard.leds_changed(6)
    guest.keyboard.synchronize("a", 2)
    guest.keyboard.synchronize("a", 2)
    assert guest.said() == "+3a -3a"


def test_a_lock_key_that_repeats_switches_once(guest: Guest) -> None:
    guest.keyboard.leds_changed(0)
    for _ in range(2):
        guest.keyboard.key("a", 0x45, is_down=True)
    guest.keyboard.key("a", 0x45, is_down=False)
    guest.keyboard.synchronize("a", 2)
    assert guest.said() == "+45 +45 -45"


def test_a_guest_that_tells_nothing_has_the_locks_of_its_first_viewer(
    guest: Guest,
) -> None:
    guest.keyboard.synchronize("a", 2)
    assert guest.said() == ""
    guest.keyboard.synchronize("b", 0)
    assert guest.said() == "+45 -45"


def test_synchronize_releases_what_is_held(guest: Guest) -> None:
    guest.keyboard.key("a", 0x38, is_down=True)
    guest.keyboard.synchronize("a", 0)
    assert guest.said() == "+38 -38"


def test_characters_of_a_us_keyboard_are_typed(guest: Guest) -> None:
    assert guest.keyboard.type("a")
    assert guest.keyboard.type("?")
    assert not guest.keyboard.type("ä")
    assert guest.said() == "+1e -1e +2a +35 -35 -2a"
