"""Criteria: what one attribute of a device must be (filters.md 1.2, 1.3, 1.5)."""

import re

from rusb.errors import FilterError

__all__ = [
    "Criterion",
    "NumberExpression",
    "NumberIs",
    "Present",
    "Text",
    "Value",
    "parse_expression",
    "parse_number",
    "parse_text",
]

MAX_NUMBER = 0xFFFF
OLD_ANY = 0xFFFFFFFF
"""Old files contain this; it is read as 0xFFFF."""

Value = int | str | None
"""An attribute of a device; None: the device has no such attribute."""

_LONE = re.compile(r"([+-]*)(?:0[xX])?([0-9a-fA-F]+)")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_BLANKS = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[| \t]*")
_MAX_EXPRESSION = 254
"""Bytes of the longest text that fits a filter (1.6)."""


class Criterion:
    """What one attribute must be. Plain classes: to make five dataclasses takes longer
    than to read a machine's settings, and most commands read some.

    Attributes:
        required: a device without the attribute does not match.
    """

    __slots__ = ("required",)

    def __init__(self, *, required: bool = True) -> None:
        self.required = required

    def accepts(self, value: int | str) -> bool:
        """Does a value that is there satisfy it?"""
        raise TypeError(f"{type(self).__name__} compares nothing")

    def matches(self, value: Value) -> bool:
        """Does the attribute satisfy it, be it there or not?"""
        return not self.required if value is None else self.accepts(value)

    @property
    def stored(self) -> str:
        """The text that counts towards the budget of a filter (1.6), or empty."""
        return ""

    @property
    def is_substantial(self) -> bool:
        """Does it name something, rather than anything (1.7)?"""
        return True


class Present(Criterion):
    """The attribute must be there."""

    __slots__ = ()

    def accepts(self, value: int | str) -> bool:
        """It is there."""
        return True

    def __str__(self) -> str:
        return "anything"


class NumberIs(Criterion):
    """Exactly this number."""

    __slots__ = ("number",)

    def __init__(self, *, number: int, required: bool = True) -> None:
        super().__init__(required=required)
        self.number = number

    def accepts(self, value: int | str) -> bool:
        """Is it the number?"""
        return value == self.number

    def __str__(self) -> str:
        return f"{self.number:04X}"


class NumberExpression(Criterion):
    """One of several inclusive ranges.

    Attributes:
        text: as it was entered.
        ranges: pairs of first and last.
    """

    __slots__ = ("ranges", "text")

    def __init__(
        self, *, text: str, ranges: tuple[tuple[int, int], ...], required: bool = True
    ) -> None:
        super().__init__(required=required)
        self.text = text
        self.ranges = ranges

    def accepts(self, value: int | str) -> bool:
        """Is it in one of the ranges?"""
        return isinstance(value, int) and any(a <= value <= b for a, b in self.ranges)

    @property
    def stored(self) -> str:
        """Leading bars and blanks are not stored."""
        return self.text.lstrip("| \t")

    @property
    def is_substantial(self) -> bool:
        """Is there any member?"""
        return bool(self.ranges)

    def __str__(self) -> str:
        return self.text


class Text(Criterion):
    """This text, or this pattern of ``*`` and ``?``."""

    __slots__ = ("is_pattern", "text")

    def __init__(self, *, text: str, is_pattern: bool, required: bool = True) -> None:
        super().__init__(required=required)
        self.text = text
        self.is_pattern = is_pattern

    def accepts(self, value: int | str) -> bool:
        """Compare bytes of UTF-8; nothing is folded or trimmed."""
        if not isinstance(value, str):
            return False
        if not self.is_pattern:
            return value == self.text
        return _match(
            self.text.encode("utf-8", "surrogatepass"), value.encode("utf-8", "replace")
        )

    @property
    def stored(self) -> str:
        """All of it."""
        return self.text

    @property
    def is_substantial(self) -> bool:
        """Is there anything besides wildcards?"""
        return not self.is_pattern or self.text.strip("*?") != ""

    def __str__(self) -> str:
        return self.text


def parse_number(text: str) -> Criterion:
    """Read a numeric text: a single number is hexadecimal, all else an expression.

    Raises:
        FilterError: neither of them, or a single number that is too big.
    """
    match = _LONE.fullmatch(text)
    if match is not None:
        is_positive = True
        for sign in match[1]:
            is_positive = sign == "+" or not is_positive
        digits = match[2].lstrip("0") or "0"
        if is_positive and len(digits) <= 16:
            number = int(digits, 16)
            if number <= MAX_NUMBER or number == OLD_ANY:
                return NumberIs(number=min(number, MAX_NUMBER))
            raise FilterError(
                f"{text!r}: a single number is hexadecimal and at most FFFF"
            )
    return parse_expression(text)


def parse_expression(text: str) -> NumberExpression:
    """Read an expression: ``0x1200-0x12FF|930|-20``, decimal unless prefixed.

    Raises:
        FilterError: with the column of what does not belong there.
    """
    if len(text.encode("utf-8", "replace")) > _MAX_EXPRESSION:
        raise FilterError(f"an expression of more than {_MAX_EXPRESSION} bytes")
    ranges = []
    position = _skip(_SEPARATORS, text, 0)
    while position < len(text):
        if text[position] == "-":
            first = 0
            position, last = _number(text, _skip(_BLANKS, text, position + 1))
        else:
            position, first = _number(text, position)
            last = first
            position = _skip(_BLANKS, text, position)
            if text[position : position + 1] == "-":
                position, last = _number(text, _skip(_BLANKS, text, position + 1))
        position = _skip(_BLANKS, text, position)
        if position < len(text) and text[position] != "|":
            raise FilterError(
                f"{text!r}: {text[position]!r} at column {position + 1} is not part of"
                " a number; separate numbers with '|', and begin hexadecimal ones"
                " with 0x",
                position,
            )
        ranges.append((min(first, last), max(first, last)))
        position = _skip(_SEPARATORS, text, position)
    return NumberExpression(text=text, ranges=tuple(ranges))


def _skip(what: re.Pattern[str], text: str, position: int) -> int:
    match = what.match(text, position)
    assert match is not None  # both patterns match the empty text
    return match.end()


def _number(text: str, position: int) -> tuple[int, int]:
    match = _NUMBER.match(text, position)
    if match is None:
        raise FilterError(f"{text!r}: no number at column {position + 1}", position)
    digits = match[0]
    base = 16 if digits[1:2] in ("x", "X") else 8 if digits[0] == "0" else 10
    return match.end(), min(int(digits, base), MAX_NUMBER)


def parse_text(text: str) -> Text:
    """Read a text: a pattern if it has a wildcard, else exact."""
    return Text(text=text, is_pattern="*" in text or "?" in text)


def _match(pattern: bytes, text: bytes) -> bool:
    """Match without backtracking, each run at its last occurrence (1.3)."""
    position, at = 0, 0
    while position < len(pattern):
        wildcard = pattern[position : position + 1]
        if wildcard == b"?":
            position += 1
            at = min(at + 1, len(text))
        elif wildcard == b"*":
            while pattern[position : position + 1] in (b"*", b"?"):
                position += 1
            end = position
            while end < len(pattern) and pattern[end : end + 1] not in (b"*", b"?"):
                end += 1
            run = pattern[position:end]
            found = text.rfind(run, at)
            if found < 0:
                return False
            position, at = end, found + len(run)
        else:
            if text[at : at + 1] != wildcard:
                return False
            position += 1
            at += 1
    return at == len(text)
