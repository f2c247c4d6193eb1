"""How long devices stay in the guest without their client, as settings say it."""

from collections.abc import Mapping

from rusb.errors import SettingsError

__all__ = [
    "MAX_SECONDS",
    "check_grace",
    "find_hold",
    "find_resume",
    "parse_seconds",
]

RESUME_KEY, HOLD_KEY = "rusb/Resume", "rusb/Hold"

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
    text = extra_data.get(RESUME_KEY, "")
    return parse_seconds(text) if text else DEFAULT_RESUME


def find_hold(extra_data: Mapping[str, str], filter_name: str) -> float:
    """Return the seconds for which the guest keeps what a filter admitted of any other
    client; empty name: what none did."""
    keys = (_filter_key(filter_name), HOLD_KEY) if filter_name else (HOLD_KEY,)
    texts = (extra_data.get(key, "") for key in keys)
    return next((parse_seconds(text) for text in texts if text), DEFAULT_HOLD)


def check_grace(extra_data: Mapping[str, str]) -> None:
    """Check what all keys say.

    Raises:
        SettingsError: one is no number of seconds.
    """
    head, _, tail = _filter_key("\0").partition("\0")
    for key, text in extra_data.items():
        is_filter = key.startswith(head) and key.endswith(tail)
        if text and (key in (RESUME_KEY, HOLD_KEY) or is_filter):
            try:
                parse_seconds(text)
            except SettingsError as error:
                raise SettingsError(f"extra data {key}: {error}") from error


def _filter_key(name: str) -> str:
    return f"rusb/Filter/{name}/Hold"
