"""How long devices stay in the guest without their client, as settings say it."""

from collections.abc import Mapping

from rusb.errors import SettingsError

__all__ = [
    "DEFAULT_RESUME",
    "MAX_SECONDS",
    "check_grace",
    "find_resume",
    "parse_seconds",
]

RESUME_KEY = "rusb/Resume"

DEFAULT_RESUME = 60.0

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
    text = extra_data.get(RESUME_KEY, "")
    return parse_seconds(text) if text else DEFAULT_RESUME


def check_grace(extra_data: Mapping[str, str]) -> None:
    """Check what all keys say.

    Raises:
        SettingsError: one is no number of seconds.
    """
    text = extra_data.get(RESUME_KEY, "")
    if text:
        try:
            parse_seconds(text)
        except SettingsError as error:
            raise SettingsError(f"extra data {RESUME_KEY}: {error}") from None
