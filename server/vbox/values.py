"""Values of attributes, as settings files have them (filters.md 2.1)."""

import re

__all__ = ["boolean", "read_boolean", "read_number"]

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,22}|[1-9][0-9]{0,9}")

_BOOLEANS = {
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}


def read_boolean(text: str | None) -> bool | None:
    """Read a boolean of a settings file; any other text counts as absent (2.1)."""
    return None if text is None else _BOOLEANS.get(text)


def read_number(text: str | None) -> int | None:
    """Read an unsigned 32-bit number: decimal, ``0x`` hex, leading-0 octal.

    What is entirely no such number counts as absent (2.1).
    """
    if text is None or _NUMBER.fullmatch(text) is None:
        return None
    base = 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" else 10
    number = int(text, base)
    return number if number <= 0xFFFFFFFF else None


def boolean(value: bool) -> str:
    """Return a boolean as it is written."""
    return "true" if value else "false"
