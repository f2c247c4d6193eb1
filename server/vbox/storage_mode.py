"""How much of a storage command is done ahead, as settings and options say it."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rusb.errors import SettingsError

from .own_keys import check_words, find_word

__all__ = ["STORAGE_WORDS", "Storage", "StorageMode", "check_storage", "find_storage"]

WHAT = "Storage"
"""The end of the keys of the extra data."""


class StorageMode(enum.IntEnum):
    """How much is done ahead; more is faster (docs/spec/storage.md)."""

    OFF = 0
    STRICT = 1
    """Data and status are asked for ahead; every completion is the device's."""
    EARLY = 2
    """The command completes at once, so that the guest asks for the data itself."""
    AHEAD = 3
    """Early, and a client that runs commands by itself reads on before it is asked."""

    @property
    def word(self) -> str:
        """What users call it."""
        return self.name.lower()


STORAGE_WORDS = "off, strict, early, ahead or ahead:SIZE (64K to 8M)"
"""What can be said, for messages."""

MIN_AHEAD, MAX_AHEAD = 64 << 10, 8 << 20
"""Bytes. A guest that wants something else waits until what was asked for has come."""

_WORDS = {mode.word: mode for mode in StorageMode}
_SIZE = re.compile(r"ahead:([0-9]{1,9})([KM]?)", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True, slots=True)
class Storage:
    """A mode, and what belongs to it.

    Attributes:
        mode: how much is done ahead.
        ahead: AHEAD: bytes to read ahead at most.
    """

    mode: StorageMode
    ahead: int = 4 << 20

    @classmethod
    def parse(cls, text: str) -> "Storage":
        """Read what users say: a mode, or ``ahead:SIZE``.

        Raises:
            SettingsError: it is neither.
        """
        if found := _SIZE.fullmatch(text):
            size = int(found[1]) * _UNITS[found[2].upper()]
            if MIN_AHEAD <= size <= MAX_AHEAD:
                return cls(StorageMode.AHEAD, size)
        if text not in _WORDS:
            raise SettingsError(f"{text!r} is invalid; choose one of {STORAGE_WORDS}")
        return cls(_WORDS[text])


DEFAULT = Storage(StorageMode.EARLY)


def find_storage(extra_data: Mapping[str, str], filter_name: str) -> Storage:
    """Return how what a filter admits is handled; empty name: what none did."""
    word = find_word(extra_data, WHAT, filter_name)
    return Storage.parse(word) if word else DEFAULT


def check_storage(extra_data: Mapping[str, str]) -> None:
    """Check what all keys say.

    Raises:
        SettingsError: one names no mode.
    """
    check_words(extra_data, WHAT, Storage.parse)
