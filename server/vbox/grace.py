"""How long devices stay in the guest without their client, as settings say it."""

from collections.abc import Mapping

from rusb.errors import SettingsError

from .own_keys import check_words, find_word

__all__ = [
    "MAX_SECONDS",
    "check_grace",
    "find_hold",
    "find_resume",
    "parse_seconds",
]

RESUME, HOLD = "Resume", "Hold"
"""What is said: the ends of the keys. Filters say nothing of the first one."""

DEFAULT_RESUME, DEFAULT_HOLD = 60.0, 0.0

MAX_SECONDS = 600
"""Seconds after which no guest waits for its device any more."""


def parse_seconds(text: str) -> float:
    """Read a number of seconds; 0 switches it off.

    Raises:
        SettingsError: it is none, or too many.
    """
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= MAX_SECONDS:
        raise SettingsError(f"{text!r} is invalid; give 0 to {MAX_SECONDS} seconds")
    return found


def find_resume(extra_data: Mapping[str, str]) -> float:
    """Return the seconds for which a client that may come back is waited for."""
    text = find_word(extra_data, RESUME, "")
    return parse_seconds(text) if text else DEFAULT_RESUME


def find_hold(extra_data: Mapping[str, str], filter_name: str) -> float:
    """Return the seconds for which the guest keeps what a filter admitted of any other
    client; empty name: what none did."""
    text = find_word(extra_data, HOLD, filter_name)
    return parse_seconds(text) if text else DEFAULT_HOLD


def check_grace(extra_data: Mapping[str, str]) -> None:
    """Check what all keys say.

    Raises:
        SettingsError: one is no number of seconds.
    """
    check_words(extra_data, RESUME, parse_seconds, has_filters=False)
    check_words(extra_data, HOLD, parse_seconds)
