"""Scan codes of a PC keyboard, and those that type a text on a US one."""

from rusb.errors import ParseError

__all__ = ["MAX_KEYS", "parse_scancodes", "typed"]

MAX_KEYS = 256
"""Presses and releases in one request: at their pace, about five seconds."""

_RELEASED, _EXTENDED, _LONG = 0x80, 0xE0, 0xE1

_PAUSE = 0xC6
"""QEMU's number of the key whose codes begin with E1."""

_ROWS = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)
"""Code of the first key, characters without and with the shift key."""

_PLAIN = {" ": 0x39, "\n": 0x1C, "\t": 0x0F} | {
    character: first + n for first, row, _ in _ROWS for n, character in enumerate(row)
}
_SHIFTED = {
    character: first + n for first, _, row in _ROWS for n, character in enumerate(row)
}
_SHIFT = 0x2A


def parse_scancodes(data: bytes) -> list[tuple[int, bool]]:
    """Read scan codes of set 1 as a keyboard sends them.

    Returns:
        QEMU's number of each key, the code with bit 7 for those that begin with E0, and
        whether it is pressed.

    Raises:
        ParseError: the last key is not complete, or E1 begins another than Pause.
    """
    found, rest = [], list(data)
    while rest:
        code, extension = rest.pop(0), 0
        if code == _LONG:
            sequence = bytes(rest[:2])
            if sequence not in (b"\x1d\x45", b"\x9d\xc5"):
                raise ParseError("e1 must be followed by 1d 45 or 9d c5, the Pause key")
            del rest[:2]
            found.append((_PAUSE, sequence[0] < _RELEASED))
            continue
        if code == _EXTENDED:
            if not rest:
                raise ParseError("the code after e0 is missing")
            code, extension = rest.pop(0), _RELEASED
        found.append((code & ~_RELEASED | extension, code < _RELEASED))
    return found


def typed(text: str) -> list[bytes]:
    """Return the scan codes that type each character of *text* on a US keyboard.

    Raises:
        ParseError: it has no key for a character.
    """
    found = []
    for character in text:
        code = _PLAIN.get(character) or _SHIFTED.get(character)
        if code is None:
            raise ParseError(
                f"a US keyboard has no key for {character!r}; keyboardputscancode sends"
                " any key"
            )
        press = bytes((code, code | _RELEASED))
        is_shifted = character in _SHIFTED
        shift = bytes((_SHIFT, *press, _SHIFT | _RELEASED))
        found.append(shift if is_shifted else press)
    return found
