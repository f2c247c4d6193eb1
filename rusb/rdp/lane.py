"""A channel that outlives its connections: each message arrives once, and in order.

Both ends count what leaves and what arrives, and keep what the peer has not
acknowledged. After a drop they agree on the two counts over a new connection, and send
the rest again (docs/spec/resume.md). So the wire's cores never learn of the drop.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from rusb.errors import RemoteProtocolError

from .channels import ChannelHandler
from .connection import Connection
from .outbox import MESSAGE_COST, Message, Outbox
from .rusbext import Ack

__all__ = ["Lane", "LaneState", "Timer"]

ACK_MESSAGES, ACK_BYTES, ACK_SECONDS = 256, 1 << 20, 0.1
"""What is acknowledged at the latest after so many messages, bytes, seconds."""

ACK_BESIDE = ACK_BYTES // 8
"""If something leaves at that moment, it is so much earlier: a packet that has nothing
else in it costs both ends as much as some transfers."""

_ACK_COST = ACK_BYTES // ACK_MESSAGES
"""What a message counts for besides its bytes, so that there is one count."""

_MAX_RATE = 1 + _ACK_COST // 22
"""What each byte that comes counts for at most: headers of a message are no shorter."""


def _no_flush() -> None:
    """There is nothing to send to."""


class Timer(Protocol):
    """What runs later, unless it is cancelled."""

    def cancel(self) -> None: ...


class _Later(Protocol):
    def __call__(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Carried(Protocol):
    """A wire's link.

    Attributes:
        messages: how many it has taken.
    """

    messages: int

    def carry(self, send: Callable[..., None], flush: Callable[[], None], /) -> None:
        """Send with these from now on."""

    def received(self, channel: int, data: bytes, /) -> None:
        """Take a message; what it raises ends the session."""

    def finished(self) -> None:
        """Do what the messages so far ask for."""


class _Way:
    """What arrives over one connection; what it raises ends the session.

    What a connection before the present one still brings comes again over that.

    Attributes:
        received: takes each message; the wire's own, for it is what each of them costs.
        finished: likewise, for some of them.
    """

    def __init__(
        self, received: Callable[[int, bytes], None], finished: Callable[[], None]
    ) -> None:
        self.received = received
        self.finished = finished

    def closed(self, channel: int) -> None:
        """The connection is over."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """An end that no connection carries; another one goes on with it.

    Attributes:
        received: how many messages have arrived.
        acknowledged: how many the peer is known to have.
        kept: those that left after them, in order.
        waiting: those that have never left.
    """

    received: int
    acknowledged: int
    kept: tuple[bytes, ...]
    waiting: tuple[bytes, ...]


_Piece: TypeAlias = tuple[int, int, bytes]
"""What left in one turn, be it of the channel or not, for that costs less than each
message would: the number of the last message in it; its bytes, with what each message
costs besides; itself."""


def _ignore(channel: int, data: bytes) -> None:
    """Take what comes again."""


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
        sent: how many messages have left so far.
        replayed: how many left once more, the last time.
    """

    def __init__(
        self,
        *,
        window: int,
        later: _Later,
        on_full: Callable[[bool], None],
    ) -> None:
        self.replayed = 0
        self._window = window
        self._later = later
        self.on_full = on_full
        self._is_full = False
        self.sent = 0
        self._freed = 0  # messages that need not be kept
        self._kept: deque[_Piece] = deque()  # in which the others left
        self._again: list[bytes] = []  # the same, while there is no connection
        self._size = 0  # of both
        self._waiting = Outbox()  # has never left: there is no connection
        self._connection: Connection | None = None
        self._channel = self._control = self.channel = 0
        self._flush: Callable[[], None] = _no_flush
        self._carried: Carried | None = None
        self._way = _Way(_ignore, _no_flush)
        self._told = self._told_at = 0  # messages acknowledged; bytes until then
        self._timer: Timer | None = None

    @property
    def received(self) -> int:
        """How many messages have arrived so far."""
        return self._carried.messages if self._carried is not None else 0

    @property
    def size(self) -> int:
        """Bytes that are kept, or wait for a connection."""
        return self._size + self._waiting.size

    # -------------------------------------------------- for the wire's link ----

    def serve(self, carried: Carried) -> None:
        """Carry a wire; before any connection."""
        self._carried = carried

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

    def acknowledged(self, received: int) -> None:
        """The peer has so many messages: those need not be kept.

        Raises:
            RemoteProtocolError: it cannot have.
        """
        if received > self.sent:
            raise RemoteProtocolError(
                f"{received} messages acknowledged, {self.sent} sent"
            )
        self._freed = max(self._freed, received)
        kept = self._kept
        while kept and kept[0][0] <= received:
            self._size -= kept.popleft()[1]
        if self._is_full:
            self._look()

    # -------------------------------------------------------- to another end ----

    def state(self) -> LaneState:
        """Return what another end needs to go on, and be of no more use here; once it
        is not bound."""
        assert self._connection is None
        waiting = []
        while self._waiting.size:
            waiting.append(self._waiting.take().data)
        kept = tuple(self._again)
        return LaneState(self.received, self._freed, kept, tuple(waiting))

    def adopt(self, channel: int, state: LaneState) -> None:
        """Go on with the messages of another end; once it carries a wire.

        Args:
            channel: of its messages, to the wire.
            state: of the other end.
        """
        assert self._carried is not None
        self.channel, self._carried.messages = channel, state.received
        self._freed, self._again = state.acknowledged, list(state.kept)
        self.sent = self._freed + len(self._again)
        self._size = sum(map(len, self._again)) + MESSAGE_COST * len(self._again)
        for message in state.waiting:
            group = channel, 0
            self._waiting.add(Message(channel, message, None, group, False, True))
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
        assert self._carried is not None
        self.unbind()
        self.acknowledged(received)
        again = self._again[received - self.sent + len(self._again) :]
        self._again, self._size, self.sent = [], 0, received
        self.replayed = len(again)
        self._connection, self._flush = connection, flush
        self._channel, self._control = channel, control
        self.channel = self.channel or channel
        connection.keep_channel(channel, self._keep, self._on_turn)
        take, mine = self._carried.received, self.channel
        if channel != mine:
            self._way = _Way(lambda _, data: take(mine, data), self._carried.finished)
        else:
            self._way = _Way(take, self._carried.finished)
        serve(self._way)
        self._told, self._told_at = self.received, connection.bytes_received
        connection.mark = 0
        is_idle = not (again or self._waiting.size)
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
        if is_idle:  # else the peer's next acknowledgement tells
            self._look()
        flush()

    def unbind(self) -> None:
        """The connection is over; what it has not sent waits. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._flush, self._way.received = _no_flush, _ignore
        self._tell_carried()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection.keep_no_channel()
        for _, _, data in self._kept:
            self._again += connection.messages_in(data, self._channel)
        del self._again[: len(self._again) - self.sent + self._freed]
        self._kept.clear()
        self._size = sum(map(len, self._again)) + MESSAGE_COST * len(self._again)
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

    def _keep(self, data: bytes, count: int) -> None:
        """Keep what leaves in a turn."""
        self.sent += count
        size = len(data) + count * MESSAGE_COST
        self._kept.append((self.sent, size, data))
        self._size += size
        if self._size > self._window:
            self._look()

    def _on_turn(self, *, is_sending: bool) -> None:
        """Acknowledge what has come, now or later."""
        connection, carried = self._connection, self._carried
        assert connection is not None
        assert carried is not None
        count = carried.messages - self._told
        if not count:
            return  # with the first one, the time begins
        received = connection.bytes_received
        left = ACK_BYTES - received + self._told_at - count * _ACK_COST
        if left <= (ACK_BESIDE if is_sending else 0):
            self._acknowledge(connection)
            return
        if self._timer is None:
            self._timer = self._later(ACK_SECONDS, self._on_late)
        if connection.has_more:
            connection.mark = received
        else:
            connection.mark = received + max(0, left - ACK_BESIDE) // _MAX_RATE

    def _on_late(self) -> None:
        """Something may have waited for long; a timer for each would cost more."""
        self._timer = None
        if self._connection is not None and self.received > self._told:
            self._acknowledge(self._connection)
            self._flush()

    def _acknowledge(self, connection: Connection) -> None:
        self._told, self._told_at = self.received, connection.bytes_received
        connection.mark = 0
        message = Ack(self._told).serialize()
        connection.send_channel(self._control, message, is_urgent=True)

    def _look(self) -> None:
        """Compare what is kept with the window."""
        limit = self._window // 2 if self._is_full else self._window
        is_full = self.size > limit
        if is_full != self._is_full:
            self._is_full = is_full
            self.on_full(is_full)
