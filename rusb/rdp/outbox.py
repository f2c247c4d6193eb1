"""Whole messages that wait until the transport has room, and which of them is next."""

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from .dvc import DynamicChannel

__all__ = ["MESSAGE_COST", "Message", "Outbox"]

MAX_AHEAD = 64 << 10
"""Bytes of urgent messages that go before one that waits: hundreds of reports. A device
whose interrupts fill the network leaves the others half of it or more."""

SHARE = 64 << 10
"""Bytes of one flow that leave before the next flow has its turn: a bulk transfer."""

MESSAGE_COST = 256
"""What a message that waits takes besides its bytes: short ones count, too."""

Flow: TypeAlias = tuple[int, int]
"""Messages that keep their order and share what leaves with other flows: a static
channel, and what it is about there, such as a device or a dynamic channel."""


@dataclass(slots=True)
class Message:
    """One message of a channel.

    Attributes:
        channel: a static one.
        data: the whole message.
        inner: the dynamic channel that it is for, on the static one.
        flow: it keeps its order with the others of this one.
        is_urgent: it goes before what waits and is not urgent.
        is_fence: no message goes before it that came later, and none that came before
            it goes after it.
    """

    channel: int
    data: bytes
    inner: DynamicChannel | None
    flow: Flow
    is_urgent: bool
    is_fence: bool


@dataclass(slots=True)
class _Waiting:
    """What waits of one flow, and bytes that it may still send in this turn."""

    flow: Flow
    messages: deque[Message] = field(default_factory=deque)
    share: int = SHARE


class Outbox:
    """What waits. Urgent messages keep their order, and so do the others of a flow.

    Flows take turns (deficit round robin): a message that exceeds the share of its flow
    leaves, and what it took too much is missing in the turns that follow.

    Attributes:
        size: bytes that wait, with :data:`MESSAGE_COST` for each message.
    """

    def __init__(self) -> None:
        self.size = 0
        self._urgent: deque[Message] = deque()
        self._flows: dict[Flow, _Waiting] = {}
        self._turns: deque[_Waiting] = deque()  # the same; the first one has its turn
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
        turns, urgent = self._turns, self._urgent
        if urgent and (self._ahead < MAX_AHEAD or not turns):
            message = urgent.popleft()
            cost = len(message.data) + MESSAGE_COST
            self._ahead += cost
        elif turns:
            while (waiting := turns[0]).share <= 0:
                waiting.share += SHARE
                turns.rotate(-1)
            message = waiting.messages.popleft()
            cost = len(message.data) + MESSAGE_COST
            waiting.share -= cost
            self._ahead = 0
            if not waiting.messages:
                turns.popleft()
                del self._flows[waiting.flow]
        else:
            message = self._later.popleft()
            cost = len(message.data) + MESSAGE_COST
            while self._later and not self._later[0].is_fence:
                self._sort(self._later.popleft())
        self.size -= cost
        return message

    def remove(self, channel: int) -> list[Message]:
        """Take all messages of a channel, in an order in which they may leave."""
        waiting = []
        while self.size:
            waiting.append(self.take())
        for message in waiting:
            if message.channel != channel:
                self.add(message)
        return [message for message in waiting if message.channel == channel]

    def _sort(self, message: Message) -> None:
        if message.is_urgent:
            self._urgent.append(message)
            return
        waiting = self._flows.get(message.flow)
        if waiting is None:
            waiting = self._flows[message.flow] = _Waiting(message.flow)
            self._turns.append(waiting)
        waiting.messages.append(message)
