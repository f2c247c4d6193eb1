"""What somebody meant who typed a word that there is not."""

from collections.abc import Iterable

__all__ = ["did_you_mean"]

CLOSE = 0.7
"""How like a known word an unknown one must be, to be asked about."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean WORD?`` for the end of a message, or nothing."""
    import difflib  # most words are right

    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(names), 1, CLOSE)
    return f"; did you mean {names[close[0]]}?" if close else ""
