"""What the cores of protocols over a byte stream have in common: usbredir, USB/IP.

A stream is channel 0; the protocols have no clock.
"""

from abc import abstractmethod

from .base import Event, Output, Send, Side

__all__ = ["AskedStream", "StreamSide"]


class StreamSide(Side):
    """A core on one stream: what it has for its caller, and no deadlines."""

    def __init__(self) -> None:
        self._is_open = False
        self._events: list[Event] = []
        self._outputs: list[Output] = []
        self._emit = self._events.append
        self._output = self._outputs.append

    def next_deadline(self) -> float | None:
        """It has no clock."""
        return None

    def handle_deadline(self, now: float) -> None:
        """It has no clock."""

    def events(self) -> list[Event]:
        """Take the events."""
        taken = self._events.copy()
        self._events.clear()
        return taken

    def outputs(self) -> list[Output]:
        """Take the outputs."""
        taken = self._outputs.copy()
        self._outputs.clear()
        return taken

    def _send(self, data: bytes) -> None:
        if self._is_open:
            self._output(Send(0, data))


class AskedStream(StreamSide):
    """A device side on one stream, which the guest may ask only as much as there is
    room for.

    The rest of what was received waits while :meth:`is_full`; ``receive_data`` of
    nothing goes on with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_paused = self._is_congested = False

    @abstractmethod
    def is_busy(self) -> bool:
        """Is too much in flight?"""

    def is_full(self) -> bool:
        """Must the guest wait now?"""
        return self.is_busy() or self._is_paused or self._is_congested

    def pause(self) -> None:
        """The way to the device is too slow: ask nothing of it."""
        self._is_paused = True

    def resume(self) -> None:
        """The way to the device is free again."""
        self._is_paused = False

    def congest(self, is_congested: bool) -> None:
        """The guest does not take what it is sent, or does again."""
        self._is_congested = is_congested
