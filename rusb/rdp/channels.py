"""Who serves which channel of a connection, static or dynamic.

A listener stands for a name and says what its channels may cost; it gives every channel
that opens a handler, which takes the channel's messages until it closes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from .events import ChannelClosed, ChannelOpened, ChannelRefused
from .svc import MAX_CHANNEL_MESSAGE

__all__ = ["ChannelHandler", "ChannelLimits", "ChannelListener", "ChannelRegistry"]


class ChannelHandler(Protocol):
    """What serves channels that are open; one may serve several."""

    def received(self, channel: int, data: bytes) -> None:
        """Take one whole message. What it raises ends the connection."""

    def closed(self, channel: int) -> None:
        """Forget the channel: it is gone, or the connection is."""


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What the channels of one name may cost.

    Attributes:
        message: bytes of one message that the peer may send.
        channels: how many of them may be open at once.
    """

    message: int = MAX_CHANNEL_MESSAGE
    channels: int = 1


@dataclass(frozen=True, slots=True)
class ChannelListener:
    """What a name stands for.

    Attributes:
        name: of a static channel in any case, of a dynamic one exactly.
        opened: called with the number and the name of each channel that opens; returns
            who serves it, or None: nobody does, and a dynamic one is closed.
        is_dynamic: which kind of channel.
        limits: what its channels may cost.
        refused: called when the peer will not open a dynamic channel that we asked for.
    """

    name: str
    opened: Callable[[int, str], ChannelHandler | None]
    is_dynamic: bool = False
    limits: ChannelLimits = ChannelLimits()
    refused: Callable[[], None] = lambda: None


class ChannelRegistry:
    """The listeners of one connection, and the handlers of its open channels.

    Attributes:
        static: names of the static channels that are served, in the order given.
        dynamic: the limits of the dynamic ones, by name.
        open: who serves a channel, by its number.
    """

    def __init__(self, listeners: Iterable[ChannelListener]) -> None:
        self._listeners = {
            (one.is_dynamic, one.name if one.is_dynamic else one.name.lower()): one
            for one in listeners
        }
        known = self._listeners.values()
        self.static = tuple(one.name for one in known if not one.is_dynamic)
        self.dynamic = {one.name: one.limits for one in known if one.is_dynamic}
        self.open: dict[int, ChannelHandler] = {}

    def opened(self, event: ChannelOpened) -> bool:
        """Let the listener of its name find a handler; False: there is none."""
        name = event.name if event.is_dynamic else event.name.lower()
        listener = self._listeners.get((event.is_dynamic, name))
        if listener is None:
            return False
        handler = listener.opened(event.channel, event.name)
        if handler is not None:
            self.open[event.channel] = handler
        return handler is not None

    def closed(self, event: ChannelClosed) -> None:
        """Tell the handler of a channel that it is gone."""
        handler = self.open.pop(event.channel, None)
        if handler is not None:
            handler.closed(event.channel)

    def refused(self, event: ChannelRefused) -> None:
        """Tell the listener that the peer does not open a channel of its name."""
        listener = self._listeners.get((True, event.name))
        if listener is not None:
            listener.refused()

    def close(self) -> None:
        """Tell every handler that its channels are gone: the connection is over."""
        while self.open:
            channel, handler = self.open.popitem()
            handler.closed(channel)
