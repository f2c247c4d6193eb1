"""Who serves which channel of a connection, static or dynamic.

A listener stands for a name and says what its channels may cost; it gives every channel
that opens a handler, which takes the channel's messages until it closes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from .events import ChannelClosed, ChannelOpened, ChannelRefused, MessageTooLong
from .svc import MAX_CHANNEL_MESSAGE

__all__ = [
    "DRDYNVC",
    "ChannelHandler",
    "ChannelLimits",
    "ChannelListener",
    "ChannelRegistry",
]

DRDYNVC = "drdynvc"
"""The static channel that carries the dynamic ones."""


class ChannelHandler(Protocol):
    """What serves channels that are open; one may serve several."""

    def received(self, channel: int, data: bytes) -> None:
        """Take one whole message. What it raises ends the connection."""

    def finished(self) -> None:
        """What has come by now has been handed out, or of this channel: do what waits
        until then. Most have nothing."""
        return

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
        too_long: called with the bytes of a message of a static channel that was
            skipped because of its limit; None: such a message ends the connection.
    """

    name: str
    opened: Callable[[int, str], ChannelHandler | None]
    is_dynamic: bool = False
    limits: ChannelLimits = ChannelLimits()
    refused: Callable[[], None] = lambda: None
    too_long: Callable[[int], None] | None = None


class ChannelRegistry:
    """The listeners of one connection, and the handlers of its open channels.

    Attributes:
        static: names of the static channels to ask for or to serve, in the order given.
        dynamic: the limits of the dynamic ones, by name.
        limits: of messages of static channels that may be skipped, by name.
        open: who serves a channel, by its number.
    """

    def __init__(self, listeners: Iterable[ChannelListener]) -> None:
        self._listeners = {
            _key(one.name, is_dynamic=one.is_dynamic): one for one in listeners
        }
        known = self._listeners.values()
        self.dynamic = {one.name: one.limits for one in known if one.is_dynamic}
        static = [one.name for one in known if not one.is_dynamic]
        self.limits = {
            one.name.lower(): one.limits.message
            for one in known
            if not one.is_dynamic and one.too_long is not None
        }
        self.static = (*static, *([DRDYNVC] if self.dynamic else []))
        self.open: dict[int, ChannelHandler] = {}

    def handle(
        self,
        event: ChannelOpened | ChannelClosed | ChannelRefused | MessageTooLong,
        close: Callable[[int], None],
    ) -> None:
        """Tell whom it concerns; *close* closes a dynamic one that nobody serves."""
        match event:
            case ChannelOpened():
                self._opened(event, close)
            case ChannelClosed():
                if event.channel in self.open:
                    self.open.pop(event.channel).closed(event.channel)
            case MessageTooLong():
                listener = self._listeners.get(_key(event.name, is_dynamic=False))
                if listener is not None and listener.too_long is not None:
                    listener.too_long(event.size)
            case ChannelRefused():
                listener = self._listeners.get(_key(event.name, is_dynamic=True))
                if listener is not None:
                    listener.refused()

    def forget(self, channel: int) -> None:
        """Its handler closes a channel itself."""
        self.open.pop(channel, None)

    def end(self) -> None:
        """Tell every handler that its channels are gone: the connection is over."""
        self._listeners = {}
        while self.open:
            channel, handler = self.open.popitem()
            handler.closed(channel)

    def _opened(self, event: ChannelOpened, close: Callable[[int], None]) -> None:
        listener = self._listeners.get(_key(event.name, is_dynamic=event.is_dynamic))
        handler = None
        if listener is not None:
            handler = listener.opened(event.channel, event.name)
        if handler is not None:
            self.open[event.channel] = handler
        elif event.is_dynamic:
            close(event.channel)


def _key(name: str, *, is_dynamic: bool) -> tuple[bool, str]:
    """Names of static channels are the same in any case."""
    return is_dynamic, name if is_dynamic else name.lower()
