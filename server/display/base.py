"""What clients are shown: the contract of a display.

A screen goes one way: a display says that it has changed, the pacer decides when it is
drawn for whom, a viewer sends the picture as its client takes it.
"""

import abc
from collections.abc import Callable

from rusb.rdp.graphics.pixels import Frame

__all__ = ["Display"]


class Display(abc.ABC):
    """Where pictures come from."""

    def __init__(self) -> None:
        self._watchers: list[Callable[[], None]] = []

    @abc.abstractmethod
    def frame(self, width: int, height: int) -> Frame:
        """Return what there is to see now; nobody changes it any more.

        Args:
            width, height: pixels, as the client's desktop.
        """

    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* when there is something else to see."""
        self._watchers.append(changed)

    def changed(self) -> None:
        """There is something else to see."""
        for tell in self._watchers:
            tell()
