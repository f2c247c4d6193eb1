"""Keyboard and mouse (1.15, display.md 6, MS-RDPBCGR 2.2.8.1)."""

import enum
import struct

from rusb.errors import ParseError

from .events import (
    Button,
    Input,
    KeyInput,
    LocksInput,
    PointerInput,
    UnicodeInput,
    WheelInput,
)
from .per import Reader

__all__ = ["PAUSE", "InputReader"]

PAUSE = 0xC6
"""Number of the Pause key, which has a sequence of scan codes instead of one."""

NOTCH = 120
"""What a wheel counts from one notch to the next."""

_SLOW = struct.Struct("<IHHHH")
_MOUSE = struct.Struct("<HHH")

_RELEASE, _EXTENDED, _EXTENDED1 = 0x8000, 0x0100, 0x0200  # of keys, on the slow path
_PRESS, _WHEEL, _SIDE_WHEEL = 0x8000, 0x0200, 0x0400  # of the mouse
_BUTTONS = {0x1000: Button.LEFT, 0x2000: Button.RIGHT, 0x4000: Button.MIDDLE}
_SIDE_BUTTONS = {0x0001: Button.BACK, 0x0002: Button.FORWARD}

_CONTROL, _NUM_LOCK = 0x1D, 0x45  # keys


class _Kind(enum.IntEnum):
    """Kinds of events on the slow path; the fast path's are translated."""

    SYNCHRONIZE = 0
    KEY = 4
    UNICODE = 5
    MOUSE = 0x8001
    EXTENDED_MOUSE = 0x8002


class InputReader:
    """Reads the input of one client: it knows what came before."""

    def __init__(self) -> None:
        self._wheels = {_WHEEL: 0, _SIDE_WHEEL: 0}  # less than a notch
        self._of_pause = 0  # codes that belong to a Pause key

    def read_slow(self, body: bytes, width: int, height: int) -> list[Input]:
        """Read the body of an Input PDU; kinds that there are not are left out.

        Args:
            width, height: pixels of the client's screen, where its mouse stays.

        Raises:
            ParseError: fewer events than announced.
        """
        reader = Reader(body, "input")
        count = reader.u16()
        reader.take(2)
        found: list[Input] = []
        for _ in range(count):
            _, kind, flags, x, y = _SLOW.unpack(reader.take(_SLOW.size))
            match kind:
                case _Kind.SYNCHRONIZE:  # flags are padding
                    found.append(LocksInput(x))
                case _Kind.KEY:
                    found += self._key(flags, x)
                case _Kind.UNICODE:
                    found.append(UnicodeInput(x, not flags & _RELEASE))
                case _Kind.MOUSE:
                    found += self._mouse(flags, min(x, width - 1), min(y, height - 1))
                case _Kind.EXTENDED_MOUSE:
                    place = min(x, width - 1), min(y, height - 1)
                    found += _press(_SIDE_BUTTONS, flags, *place)
        return found

    def read_fast(self, head: int, body: bytes, width: int, height: int) -> list[Input]:
        """Read a fast-path packet.

        Args:
            head: its first byte, without the bits for encryption.
            body: what follows its length, in clear.
            width, height: as for :meth:`read_slow`.

        Raises:
            ParseError: no input, an unknown event, or cut off.
        """
        if head & 0x43:
            raise ParseError(f"fast-path header 0x{head:02X} is not of input")
        reader = Reader(body, "fast-path input")
        count = head >> 2 & 0x0F or reader.u8()
        found: list[Input] = []
        for _ in range(count):
            code = reader.u8()
            kind, flags = code >> 5, code & 0x1F
            match kind:
                case 0:
                    found += self._key(_key_flags(flags), reader.u8())
                case 1 | 2:
                    mouse, x, y = _MOUSE.unpack(reader.take(_MOUSE.size))
                    place = min(x, width - 1), min(y, height - 1)
                    if kind == 1:
                        found += self._mouse(mouse, *place)
                    else:
                        found += _press(_SIDE_BUTTONS, mouse, *place)
                case 3:
                    found.append(LocksInput(flags))
                case 4:
                    found.append(UnicodeInput(reader.u16(), not flags & 1))
                case 6:  # a time stamp
                    reader.take(4)
                case _:
                    raise ParseError(f"fast-path input event {kind}", reader.pos)
        reader.end()
        return found

    def _key(self, flags: int, code: int) -> list[Input]:
        is_pressed = not flags & _RELEASE
        if flags & _EXTENDED1:  # Pause is E1 1D 45, E1 9D C5
            if code == _CONTROL and is_pressed:
                self._of_pause = 2
                return [KeyInput(PAUSE, True), KeyInput(PAUSE, False)]
            return []
        if code == _NUM_LOCK and not flags & _EXTENDED and self._of_pause:
            self._of_pause -= 1
            return []
        self._of_pause = 0
        if not 0 < code < 0x80:
            return []
        return [KeyInput(code | (0x80 if flags & _EXTENDED else 0), is_pressed)]

    def _mouse(self, flags: int, x: int, y: int) -> list[Input]:
        for wheel in (_WHEEL, _SIDE_WHEEL):
            if flags & wheel:  # with a position that means nothing, or with none
                return self._turn(wheel, flags)
        return _press(_BUTTONS, flags, x, y)

    def _turn(self, wheel: int, flags: int) -> list[Input]:
        """Count what a wheel was turned by: nine bits, the highest is the sign."""
        amount = (flags & 0x01FF ^ 0x0100) - 0x0100
        if flags & 0xFF in (0x00, 0x80):  # rdesktop: by one notch
            amount = -NOTCH if flags & 0x0100 else NOTCH
        total = self._wheels[wheel] + amount
        notches = int(total / NOTCH)
        self._wheels[wheel] = total - notches * NOTCH
        if not notches:
            return []
        return [WheelInput(notches, is_horizontal=wheel == _SIDE_WHEEL)]


def _press(buttons: dict[int, Button], flags: int, x: int, y: int) -> list[Input]:
    """Return the changes of buttons, or else that the mouse is there."""
    is_pressed = bool(flags & _PRESS)
    found: list[Input] = [
        PointerInput(x, y, button, is_pressed)
        for flag, button in buttons.items()
        if flags & flag
    ]
    return found or [PointerInput(x, y)]


def _key_flags(flags: int) -> int:
    """Translate the flags of a fast-path key to those of the slow path."""
    return (
        (_RELEASE if flags & 1 else 0)
        | (_EXTENDED if flags & 2 else 0)
        | (_EXTENDED1 if flags & 4 else 0)
    )
