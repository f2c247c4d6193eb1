"""A channel that outlives its connections: each message arrives once, and in order.

Both ends count what leaves and what arrives, and keep what the peer has not
acknowledged. After a drop they agree on the two counts over a new connection, and send
the rest again (docs/spec/resume.md). So the wire's cores never learn of the drop.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from rusb.errors import RemoteProtocolError

from .connection import Connection
from .outbox import MESSAGE_COST, Message, Outbox
from .rusbext import Ack

__all__ = ["Lane", "Timer"]

ACK_MESSAGES, ACK_BYTES, ACK_SECONDS = 64, 256 << 10, 0.1
"""What is acknowledged at the latest after so many messages, bytes, seconds."""

_ACK_COST = ACK_BYTES // ACK_MESSAGES
"""What a message counts for besides its bytes, so that there is one count."""


class Timer(Protocol):
    """What runs later, unless it is cancelled."""

    def cancel(self) -> None: ...


class _Later(Protocol):
    def __call__(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Lane:
    """One end of such a channel; does no I/O.

    Args:
        window: bytes that may be kept, with what each message costs besides; above it
            *on_full* is called.
        later: ``later(seconds, callback)``, as that of an event loop.
        on_full: called with True while there is no room for more, then with False.

    Attributes:
        on_full: see above; it may be changed.
        deliver: takes each message that arrives; what it raises ends the session.
        sent, received: how many messages have left so far, and have arrived.
        replayed: how many left once more, the last time.
    """

    deliver: Callable[[bytes], None]

    def __init__(
        self,
        *,
        window: int,
        later: _Later,
        on_full: Callable[[bool], None],
    ) -> None:
        self.sent = self.received = self.replayed = 0
        self._window = window
        self._later = later
        self.on_full = on_full
        self._is_full = False
        self._kept: deque[bytes] = deque()  # the last ones that left
        self._kept_size = 0
        self._waiting = Outbox()  # has never left: there is no connection
        self._connection: Connection | None = None
        self._channel = self._control = 0
        self._flush: Callable[[], None] = lambda: None
        self._credit = ACK_BYTES  # until the next acknowledgement
        self._timer: Timer | None = None

    @property
    def is_bound(self) -> bool:
        """Does a connection carry it?"""
        return self._connection is not None

    @property
    def size(self) -> int:
        """Bytes that are kept, or wait for a connection."""
        return self._kept_size + self._waiting.size

    # -------------------------------------------------- for the wire's link ----

    def send(
        self,
        channel: int,
        message: bytes,
        *,
        flow: int,
        is_urgent: bool,
        is_fence: bool,
    ) -> None:
        """Send one whole message, now or later."""
        connection = self._connection
        if connection is not None:
            connection.send_channel(
                *(self._channel, message),
                flow=flow,
                is_urgent=is_urgent,
                is_fence=is_fence,
            )
        else:
            group = channel, flow
            self._waiting.add(
                Message(channel, message, None, group, is_urgent, is_fence)
            )
            self._look()

    def flush(self) -> None:
        """Have the connection send what there is."""
        self._flush()

    # --------------------------------------------------- from the connection ----

    def take(self, connection: Connection, message: bytes) -> None:
        """A whole message has arrived; it counts once the core has taken it.

        What a connection before the present one still brings comes again over this one.
        """
        if connection is not self._connection:
            return
        self.deliver(message)
        self.received += 1
        self._credit -= len(message) + _ACK_COST
        if self._credit <= 0:
            self._acknowledge()
        elif self._timer is None:
            self._timer = self._later(ACK_SECONDS, self._acknowledge)

    def acknowledged(self, received: int) -> None:
        """The peer has so many messages: those need not be kept.

        Raises:
            RemoteProtocolError: it cannot have.
        """
        if received > self.sent:
            raise RemoteProtocolError(
                f"{received} messages acknowledged, {self.sent} sent"
            )
        kept, first = self._kept, self.sent - len(self._kept)
        for _ in range(received - first):
            self._kept_size -= len(kept.popleft()) + MESSAGE_COST
        if self._is_full:
            self._look()

    # ------------------------------------------------------- connections ----

    def can_resume(self, received: int) -> bool:
        """Is what the peer has not got all here?"""
        return self.sent - len(self._kept) <= received <= self.sent

    def bind(
        self,
        connection: Connection,
        channel: int,
        control: int,
        flush: Callable[[], None],
        *,
        received: int,
    ) -> None:
        """Go on over a connection; what the peer has not got leaves first.

        Args:
            connection: an active one.
            channel: which carries the messages.
            control: which carries acknowledgements.
            flush: sends what *connection* has to send.
            received: how many messages the peer has; see :meth:`can_resume`.
        """
        self.unbind()
        self.acknowledged(received)
        again, self._kept = self._kept, deque()
        self.sent, self._kept_size = received, 0
        self.replayed = len(again)
        self._connection, self._flush = connection, flush
        self._channel, self._control = channel, control
        connection.watch_channel(channel, self._left)
        for message in again:  # in their order, and before all that is new
            connection.send_channel(channel, message, is_fence=True)
        while self._waiting.size:
            one = self._waiting.take()
            self.send(
                *(channel, one.data),
                flow=one.flow[1],
                is_urgent=one.is_urgent,
                is_fence=one.is_fence,
            )
        self._look()
        flush()

    def unbind(self) -> None:
        """The connection is over; what it has not sent waits. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._flush = lambda: None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._credit = ACK_BYTES
        connection.watch_channel(self._channel, None)
        for message in connection.take_back(self._channel):
            self._waiting.add(message)
        self._look()

    # -------------------------------------------------------------- our own ----

    def _left(self, message: bytes) -> None:
        """It is on its way, and has its number now."""
        self.sent += 1
        self._kept.append(message)
        self._kept_size += len(message) + MESSAGE_COST
        if self._kept_size > self._window:
            self._look()

    def _acknowledge(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._credit = ACK_BYTES
        if self._connection is not None:
            message = Ack(self.received).serialize()
            self._connection.send_channel(self._control, message, is_urgent=True)
            self._flush()

    def _look(self) -> None:
        """Compare what is kept with the window."""
        limit = self._window // 2 if self._is_full else self._window
        is_full = self.size > limit
        if is_full != self._is_full:
            self._is_full = is_full
            self.on_full(is_full)
