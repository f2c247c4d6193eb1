"""What the client of QEMU's VNC server reports."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "ClipboardNoticed",
    "ClipboardProvided",
    "ClipboardRequested",
    "ClipboardTooLong",
    "Connected",
    "Cursor",
    "CursorChanged",
    "Damaged",
    "Event",
    "Frame",
    "LedsChanged",
    "PointerModeChanged",
    "Rectangle",
    "Resized",
    "SizeRefused",
    "SoundEnded",
    "SoundReceived",
    "SoundStarted",
]

Frame: TypeAlias = npt.NDArray[np.uint32]
"""Pixels 0x00RRGGBB in rows, top down; the highest byte has no meaning."""

Rectangle: TypeAlias = tuple[int, int, int, int]
"""Left, top, width and height, in pixels."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake is done; the frame has its first size."""

    width: int
    height: int
    name: str


@dataclass(frozen=True, slots=True)
class Resized:
    """The screen has another size, and ``frame`` is a new, black array."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SizeRefused:
    """A wish for another size is not fulfilled.

    Attributes:
        status: 3: the card cannot; others are in RFC 6143's registry.
    """

    status: int


@dataclass(frozen=True, slots=True)
class Damaged:
    """An update was read: these parts of the frame are new."""

    rectangles: list[Rectangle]


@dataclass(frozen=True, slots=True, eq=False)
class Cursor:
    """The shape of the guest's pointer.

    Attributes:
        x, y: its hot spot.
        pixels: 0xAARRGGBB in rows, top down, colours multiplied by alpha; none: the
            pointer is hidden.
    """

    x: int
    y: int
    pixels: Frame


@dataclass(frozen=True, slots=True)
class CursorChanged:
    """The pointer has another shape."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class LedsChanged:
    """The keyboard's lights.

    Attributes:
        leds: 1 scroll lock, 2 num lock, 4 caps lock.
    """

    leds: int


@dataclass(frozen=True, slots=True)
class PointerModeChanged:
    """The guest's pointer takes positions, or movements."""

    is_absolute: bool


@dataclass(frozen=True, slots=True)
class SoundStarted:
    """The guest begins to play something."""


@dataclass(frozen=True, slots=True)
class SoundReceived:
    """A piece of it: signed 16 bit, 2 channels, 44100 Hz, little-endian."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SoundEnded:
    """The guest plays nothing more."""


@dataclass(frozen=True, slots=True)
class ClipboardNoticed:
    """The guest copied something; *has_text* says whether it is text."""

    has_text: bool


@dataclass(frozen=True, slots=True)
class ClipboardRequested:
    """The guest pastes: it wants our text."""


@dataclass(frozen=True, slots=True)
class ClipboardProvided:
    """The guest's text, with its own line ends."""

    text: str


@dataclass(frozen=True, slots=True)
class ClipboardTooLong:
    """The guest's text has more than ``MAX_TEXT`` bytes, and was skipped.

    Attributes:
        size: in bytes, as it is, or packed.
    """

    size: int


Event: TypeAlias = (
    Connected
    | Resized
    | SizeRefused
    | Damaged
    | CursorChanged
    | LedsChanged
    | PointerModeChanged
    | SoundStarted
    | SoundReceived
    | SoundEnded
    | ClipboardNoticed
    | ClipboardRequested
    | ClipboardProvided
    | ClipboardTooLong
)
