"""Texts that devices and peers supply, and how many of them."""

__all__ = ["LineQuota", "clean_lines", "clean_text"]


def clean_text(data: bytes | str, most: int | None = None) -> str:
    """Make a text that a device or peer supplied fit for logs and terminals.

    Bytes that are not UTF-8 become ``?``, a TAB becomes a blank, every other control
    character (C0, DEL, C1) and the line and paragraph separators are removed
    (vrdpusb.md 4.4, bad-inputs T42).

    Args:
        data: the text.
        most: characters that are looked at; None: all.
    """
    if isinstance(data, bytes):
        text = data.decode("utf-8", "replace").replace("\ufffd", "?")
    else:
        text = data
    text = text[:most].replace("\t", " ")
    if text.isprintable():  # as nearly always
        return text
    return "".join(c for c in text if c.isprintable() or c == " ")


def clean_lines(text: str) -> str:
    """Make a text of several lines fit for terminals; its line ends stay."""
    return "\n".join(map(clean_text, text.split("\n")))


class LineQuota:
    """How many lines a peer may cause: some at once, and then some a second.

    Args:
        most: lines at once.
        rate: lines a second that come back.

    Attributes:
        untold: lines that were left out, and nobody has said so.
    """

    def __init__(self, most: int, rate: float) -> None:
        self.untold = 0
        self._most, self._rate = most, rate
        self._left, self._since = float(most), 0.0

    def is_full(self, now: float) -> bool:
        """Has nothing of it been used, or has all come back?"""
        return self._refilled(now) >= self._most

    def take(self, now: float) -> bool:
        """Take a line; return whether there was one."""
        self._left, self._since = self._refilled(now), now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _refilled(self, now: float) -> float:
        return min(self._most, self._left + (now - self._since) * self._rate)
