"""The guest's keyboard, which all viewers share (display.md 6.2)."""

from collections.abc import Callable, Hashable

from rusb.errors import ParseError

from .keys import parse_scancodes, typed

__all__ = ["Keyboard"]

_LOCKS = ((1, 0x46), (2, 0x45), (4, 0x3A))
"""Lights and the keys that switch them: scroll, num and caps lock."""


class Keyboard:
    """Passes keys on: each is down from its first viewer to its last.

    Args:
        send: presses or releases a key of the guest, by QEMU's number of it.
    """

    def __init__(self, send: Callable[[int, bool], None]) -> None:
        self._send = send
        self._held: dict[int, set[Hashable]] = {}
        self._leds: int | None = None

    def key(self, viewer: Hashable, code: int, *, is_down: bool) -> None:
        """A viewer pressed or released a key; what repeats is pressed again.

        Args:
            code: QEMU's number of it, which is that of RDP's input.
        """
        holders = self._held.setdefault(code, set())
        if is_down and not holders:
            self._expect(code)
        if is_down:
            if not holders or viewer in holders:
                self._send(code, True)
            holders.add(viewer)
        elif viewer in holders:
            holders.discard(viewer)
            if not holders:
                self._send(code, False)
        if not holders:
            del self._held[code]

    def type(self, character: str) -> bool:
        """Type a character; return whether a US keyboard has it."""
        try:
            (codes,) = typed(character)
        except ParseError:
            return False
        for code, is_down in parse_scancodes(codes):
            self._send(code, is_down)
        return True

    def synchronize(self, viewer: Hashable, locks: int) -> None:
        """A viewer says which of its lights are on; the guest's follow.

        Args:
            locks: 1 scroll, 2 num, 4 caps lock.
        """
        self.release(viewer)
        if self._leds is None:  # until the guest tells, it is what a viewer said
            self._leds = locks
        for light, code in _LOCKS:
            if (self._leds ^ locks) & light:
                self._send(code, True)
                self._send(code, False)
        self._leds = locks

    def _expect(self, code: int) -> None:
        """A lock key goes down: its light changes, though the guest has not said so.

        xfreerdp tells its lights right after caps lock; the key would be pressed again.
        """
        if self._leds is not None:
            self._leds ^= sum(light for light, key in _LOCKS if key == code)

    def leds_changed(self, leds: int) -> None:
        """The guest switched its lights."""
        self._leds = leds

    def release(self, viewer: Hashable) -> None:
        """Release what a viewer holds: it left, or may not type any more."""
        for code, holders in list(self._held.items()):
            if viewer in holders:
                self.key(viewer, code, is_down=False)
