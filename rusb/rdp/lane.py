"""A channel that outlives its connections: each message arrives once, and in order.

Both ends count what leaves and what arrives, and keep what the peer has not
acknowledged. After a drop they agree on the two counts over a new connection, and send
the rest again (docs/spec/resume.md). So the wire's cores never learn of the drop.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from rusb.errors import RemoteProtocolError

from .channels import ChannelHandler
from .connection import Connection
from .outbox import MESSAGE_COST, Kept, Message, Outbox
from .rusbext import Ack

__all__ = ["Lane", "Timer"]

ACK_MESSAGES, ACK_BYTES, ACK_SECONDS = 256, 1 << 20, 0.1
"""What is acknowledged at the latest after so many messages, bytes, seconds."""

_ACK_COST = ACK_BYTES // ACK_MESSAGES
"""What a message counts for besides its bytes, so that there is one count."""


def _no_flush() -> None:
    """There is nothing to send to."""


class Timer(Protocol):
    """What runs later, unless it is cancelled."""

    def cancel(self) -> None: ...


class _Later(Protocol):
    def __call__(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Carried(Protocol):
    """A wire's link."""

    def carry(self, send: Callable[..., None], flush: Callable[[], None], /) -> None:
        """Send with these from now on."""

    def received(self, channel: int, data: bytes, /) -> None:
        """Take a message; what it raises ends the session."""


class _Way:
    """What arrives over one connection; it counts once the core has taken it.

    What a connection before the present one still brings comes again over that.

    Args:
        lane: where to; None: nowhere any more.
    """

    def __init__(self, lane: "Lane | None") -> None:
        self.lane = lane

    def received(self, channel: int, data: bytes) -> None:
        """A whole message has arrived."""
        lane = self.lane
        if lane is None:
            return
        lane.deliver(lane.channel, data)
        lane.received += 1
        lane.credit -= len(data) + _ACK_COST
        if lane.credit <= 0 or lane.timer is None:
            lane.look_at_credit()

    def closed(self, channel: int) -> None:
        """The connection is over."""


class Lane:
    """One end of such a channel; does no I/O.

    Args:
        window: bytes that may be kept, with what each message costs besides; above it
            *on_full* is called.
        later: ``later(seconds, callback)``, as that of an event loop.
        on_full: called with True while there is no room for more, then with False.

    Attributes:
        on_full: see above; it may be changed.
        channel: of its messages, to the wire: what the first connection had.
        received: how many messages have arrived so far.
        replayed: how many left once more, the last time.
        deliver: takes each message that arrives; what it raises ends the session.
        credit, timer: what may arrive, and how long it may take, until it is
            acknowledged.
    """

    deliver: Callable[[int, bytes], None]

    def __init__(
        self,
        *,
        window: int,
        later: _Later,
        on_full: Callable[[bool], None],
    ) -> None:
        self.received = self.replayed = 0
        self._window = window
        self._later = later
        self.on_full = on_full
        self._is_full = False
        self._kept = Kept(window, self._look)  # the last ones that left
        self._freed = 0  # those before them
        self._waiting = Outbox()  # has never left: there is no connection
        self._connection: Connection | None = None
        self._channel = self._control = self.channel = 0
        self._flush: Callable[[], None] = _no_flush
        self._carried: Carried | None = None
        self._way = _Way(None)
        self.credit = ACK_BYTES  # until the next acknowledgement
        self.timer: Timer | None = None

    @property
    def is_bound(self) -> bool:
        """Does a connection carry it?"""
        return self._connection is not None

    @property
    def sent(self) -> int:
        """How many messages have left so far."""
        return self._freed + len(self._kept.messages)

    @property
    def size(self) -> int:
        """Bytes that are kept, or wait for a connection."""
        return self._kept.size + self._waiting.size

    # -------------------------------------------------- for the wire's link ----

    def serve(self, carried: Carried) -> None:
        """Carry a wire; before any message arrives."""
        self._carried, self.deliver = carried, carried.received
        self._tell_carried()

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
                self._channel,
                message,
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

    def look_at_credit(self) -> None:
        """Acknowledge what has come, now or later."""
        if self.credit <= 0:
            self._acknowledge()
        else:
            self.timer = self._later(ACK_SECONDS, self._acknowledge)

    def acknowledged(self, received: int) -> None:
        """The peer has so many messages: those need not be kept.

        Raises:
            RemoteProtocolError: it cannot have.
        """
        if received > self.sent:
            raise RemoteProtocolError(
                f"{received} messages acknowledged, {self.sent} sent"
            )
        count = received - self._freed
        if count > 0:
            take, kept = self._kept.messages.popleft, self._kept
            kept.size -= sum(len(take()) for _ in range(count)) + MESSAGE_COST * count
            self._freed = received
        if self._is_full:
            self._look()

    # ------------------------------------------------------- connections ----

    def can_resume(self, received: int) -> bool:
        """Is what the peer has not got all here?"""
        return self._freed <= received <= self.sent

    def bind(
        self,
        connection: Connection,
        channel: int,
        control: int,
        flush: Callable[[], None],
        serve: Callable[[ChannelHandler], None],
        *,
        received: int,
    ) -> None:
        """Go on over a connection; what the peer has not got leaves first.

        Args:
            connection: an active one.
            channel: which carries the messages.
            control: which carries acknowledgements.
            flush: sends what *connection* has to send.
            serve: gets the handler of what arrives on *channel*.
            received: how many messages the peer has; see :meth:`can_resume`.
        """
        self.unbind()
        self.acknowledged(received)
        kept = self._kept
        again, kept.messages, kept.size = kept.messages, deque(), 0
        self.replayed = len(again)
        self._connection, self._flush = connection, flush
        self._channel, self._control = channel, control
        self.channel = self.channel or channel
        connection.keep_channel(channel, kept)
        self._way = _Way(self)
        serve(self._way)
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
        self._tell_carried()
        self._look()
        flush()

    def unbind(self) -> None:
        """The connection is over; what it has not sent waits. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._flush, self._way.lane = _no_flush, None
        self._tell_carried()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.credit = ACK_BYTES
        connection.keep_channel(self._channel, None)
        for message in connection.take_back(self._channel):
            self._waiting.add(message)
        self._look()

    # -------------------------------------------------------------- our own ----

    def _tell_carried(self) -> None:
        """Have the wire send to the connection itself, if it can: it costs less."""
        if self._carried is not None:
            if self._connection is not None and self._channel == self.channel:
                self._carried.carry(self._connection.send_channel, self._flush)
            else:
                self._carried.carry(self.send, self.flush)

    def _acknowledge(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.credit = ACK_BYTES
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
