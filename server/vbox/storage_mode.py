"""How much of a storage command is done ahead, as settings and options say it."""

import enum
from collections.abc import Mapping

from rusb.errors import SettingsError

__all__ = ["STORAGE_WORDS", "StorageMode", "check_storage", "find_storage"]

KEY = "rusb/Storage"
"""Key of the extra data, for all filters of a machine."""


class StorageMode(enum.IntEnum):
    """How much is done ahead; more is faster (docs/spec/storage.md)."""

    OFF = 0
    STRICT = 1
    """Data and status are asked for ahead; every completion is the device's."""
    EARLY = 2
    """The command completes at once, so that the guest asks for the data itself."""

    @property
    def word(self) -> str:
        """What users call it."""
        return self.name.lower()


DEFAULT = StorageMode.EARLY

STORAGE_WORDS = {mode.word: mode for mode in StorageMode}


def _filter_key(name: str) -> str:
    """Return the key of the extra data for what a filter admits."""
    return f"rusb/Filter/{name}/Storage"


def find_storage(extra_data: Mapping[str, str], filter_name: str) -> StorageMode:
    """Return the mode of what a filter admits; empty name: of what none did."""
    keys = (_filter_key(filter_name), KEY) if filter_name else (KEY,)
    words = (extra_data.get(key, "") for key in keys)
    return next((STORAGE_WORDS[word] for word in words if word), DEFAULT)


def check_storage(extra_data: Mapping[str, str]) -> None:
    """Check what all keys say.

    Raises:
        SettingsError: one names no mode.
    """
    head, _, tail = _filter_key("\0").partition("\0")
    for key, word in extra_data.items():
        is_ours = key == KEY or (key.startswith(head) and key.endswith(tail))
        if is_ours and word and word not in STORAGE_WORDS:
            words = ", ".join(STORAGE_WORDS)
            raise SettingsError(
                f"extra data {key}: {word!r} is invalid; choose one of {words}"
            )
