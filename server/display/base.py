"""Where a screen comes from, and where keys and the pointer go: the contract.

A screen goes one way: a source says what has changed, the hub decides when it is
encoded for whom, a viewer sends it. Input goes the other way.
"""

import abc
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.graphics.pointers import Cursor

__all__ = ["Paint", "Rectangle", "ScreenAccess", "ScreenSource", "ScreenWatcher"]

Rectangle = tuple[int, int, int, int]
"""Left, top, width and height, in pixels."""

Paint = Callable[[], Frame]
"""Makes a picture, in the thread that encodes it, since a large one takes
milliseconds."""


class ScreenAccess(Protocol):
    """What a guest's hypervisor gives us of its screens.

    Attributes:
        has_tablets: each of several screens has one, which is told by QMP where the
            pointer is: VNC does not say which screen is meant.
    """

    has_tablets: bool

    async def open_screen(self, head: int) -> socket.socket | None:
        """Return a connection to the VNC server of a screen, counted from 0.

        None: this kind of guest has no screens.

        Raises:
            GuestError: it has none now, and what to do about it.
        """

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        """Send input events of QMP (``input-send-event``) to a screen.

        Raises:
            GuestError: the guest did not take them.
        """


class ScreenWatcher(Protocol):
    """Who is told what happens to a screen."""

    def damaged(self, rectangles: Sequence[Rectangle]) -> None:
        """Parts of the picture are new."""

    def changed(self) -> None:
        """Everything is new, the size as well."""

    def cursor_changed(self) -> None:
        """The pointer has another shape."""

    def leds_changed(self, leds: int) -> None:
        """The keyboard's lights: 1 scroll, 2 num, 4 caps lock."""


class ScreenSource(abc.ABC):
    """What one head shows.

    Attributes:
        watcher: is told; whoever makes the source sets it before anything happens.
        size: width and height; None: any, it is drawn as large as a viewer is.
        cursor: the guest's pointer; None: it is unknown, or drawn by the guest itself.
        is_absolute: does the pointer take positions?
    """

    watcher: ScreenWatcher
    size: tuple[int, int] | None = None
    cursor: Cursor | None = None
    is_absolute = True

    @abc.abstractmethod
    def painter(self, width: int, height: int) -> Paint:
        """Return what makes the picture, rounded up to tiles.

        The picture may change later, and is another one after each change of the size.

        Args:
            width, height: pixels; those of ``size``, if it has one.
        """

    @abc.abstractmethod
    def watch(self, *, is_watched: bool) -> None:
        """Somebody looks, or nobody does: then it need not be up to date.

        What was damaged is about to be shown: further damage may wait for this call.
        """

    @abc.abstractmethod
    def resize(self, width: int, height: int) -> None:
        """Ask for another size, which comes as a change, if at all."""

    @abc.abstractmethod
    def key(self, code: int, *, is_down: bool) -> None:
        """Press or release a key, by QEMU's number of it."""

    @abc.abstractmethod
    def pointer(self, buttons: int, x: int, y: int) -> None:
        """Say where the pointer is, or unless ``is_absolute``, by how much it moved.

        Args:
            buttons: 1 left, 2 middle, 4 right, 8 wheel up, 16 wheel down.
        """

    @abc.abstractmethod
    def button(self, name: str, *, is_down: bool) -> None:
        """Press or release a button that ``pointer`` has not: QMP's name of it."""
