"""Whole messages that wait until the transport has room, and which of them is next."""

from collections import deque
from dataclasses import dataclass

from .dvc import DynamicChannel

__all__ = ["MESSAGE_COST", "Message", "Outbox"]

MAX_AHEAD = 64 << 10
"""Bytes of urgent messages that go before one that waits: hundreds of reports. A device
whose interrupts fill the network leaves the others half of it or more."""

MESSAGE_COST = 256
"""What a message that waits takes besides its bytes: short ones count, too."""


@dataclass(slots=True)
class Message:
    """One message of a channel.

    Attributes:
        channel: a static one.
        data: the whole message.
        inner: the dynamic channel that it is for, on the static one.
        is_urgent: it goes before what waits and is not urgent.
        is_fence: no message goes before it that came later, and none that came before
            it goes after it.
    """

    channel: int
    data: bytes
    inner: DynamicChannel | None
    is_urgent: bool
    is_fence: bool


class Outbox:
    """What waits. Urgent messages keep their order, and so do the others.

    Attributes:
        size: bytes that wait, with :data:`MESSAGE_COST` for each message.
    """

    def __init__(self) -> None:
        self.size = 0
        self._urgent: deque[Message] = deque()
        self._others: deque[Message] = deque()
        self._later: deque[Message] = deque()  # a fence, and all that came after it
        self._ahead = 0

    def add(self, message: Message) -> None:
        """Let a message wait."""
        self.size += len(message.data) + MESSAGE_COST
        if self._later or message.is_fence:
            self._later.append(message)
        else:
            self._sort(message)

    def take(self) -> Message:
        """Return the next message; there is one."""
        if not (self._urgent or self._others):
            message = self._later.popleft()
            while self._later and not self._later[0].is_fence:
                self._sort(self._later.popleft())
        elif self._urgent and (self._ahead < MAX_AHEAD or not self._others):
            message = self._urgent.popleft()
            self._ahead += len(message.data) + MESSAGE_COST
        else:
            message = self._others.popleft()
            self._ahead = 0
        self.size -= len(message.data) + MESSAGE_COST
        return message

    def remove(self, channel: int) -> list[Message]:
        """Take all messages of a channel, in an order in which they may leave."""
        taken: list[Message] = []
        for name in ("_urgent", "_others", "_later"):
            queue: deque[Message] = getattr(self, name)
            taken += (one for one in queue if one.channel == channel)
            left = deque(one for one in queue if one.channel != channel)
            setattr(self, name, left)
        self.size -= sum(len(one.data) + MESSAGE_COST for one in taken)
        return taken

    def _sort(self, message: Message) -> None:
        (self._urgent if message.is_urgent else self._others).append(message)
