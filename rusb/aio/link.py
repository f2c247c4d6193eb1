"""Join a wire core to the channels that carry it and to its own clock."""

import asyncio
import struct
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from rusb.errors import LocalProtocolError
from rusb.rdp.channels import ChannelHandler
from rusb.wire.base import CloseChannel, Event, OpenChannel, Output, Send, Side

__all__ = ["Sender", "WireLink", "no_channels"]


_FRAME, _BESIDE = struct.Struct("<Ic"), b"\x52"
"""How a message beside the core begins: as one of ``vrdpusb``, of a code that is not
used there."""


def no_channels(_: object) -> NoReturn:
    """Open or close a channel where there can be none."""
    raise LocalProtocolError("this link cannot open or close channels")


def _forget(
    channel: int, message: bytes, *, flow: int, is_urgent: bool, is_fence: bool
) -> None:
    """Send nothing any more."""


class Sender(Protocol):
    """Takes messages; see :class:`~rusb.wire.base.Send`."""

    def __call__(
        self,
        channel: int,
        message: bytes,
        /,
        *,
        flow: int,
        is_urgent: bool,
        is_fence: bool,
    ) -> None: ...


class WireLink(ChannelHandler):
    """One wire core and the channels under it.

    Args:
        core: the wire core; call :meth:`flush` after every call to it.
        send: hands a message to what is below.
        flush: sends what is below has to send.
        on_event: called for each event of the core; it may call the core.
        open_channel: ``open_channel(name)``, asks for a dynamic channel; False: there
            is no room for it.
        close_channel: ``close_channel(channel)``, closes a dynamic channel.

    Attributes:
        on_event: see above; it may be changed.
        messages: how many the peer has sent.
        beside: takes what the peer says beside the core (docs/spec/storage.md, 5), with
            a wire whose messages begin as those of ``vrdpusb`` do; None: nobody does.
    """

    def __init__(
        self,
        core: Side,
        *,
        send: Sender,
        flush: Callable[[], None],
        on_event: Callable[[Event], None],
        open_channel: Callable[[str], bool] = no_channels,
        close_channel: Callable[[int], None] = no_channels,
    ) -> None:
        self.core = core
        self.messages = 0
        self.beside: Callable[[memoryview], None] | None = None
        self._send = send
        self._flush = flush
        self.on_event = on_event
        self._open_channel = open_channel
        self._close_channel = close_channel
        self._loop = asyncio.get_running_loop()
        self._channels: set[int] = set()
        self._is_flushing = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._stopped: float | None = None  # when the clock was
        self._lag = 0.0  # how long it has stood still so far

    @property
    def has_heard(self) -> bool:
        """Has the peer sent a message?"""
        return self.messages > 0

    def now(self) -> float:
        """Return the core's time: seconds that never count while it is suspended."""
        now = time.monotonic() if self._stopped is None else self._stopped
        return now - self._lag

    def carry(self, send: Sender, flush: Callable[[], None]) -> None:
        """Send another way from now on, one that outlives what is below."""
        self._send, self._flush = send, flush
        self._open_channel = self._close_channel = no_channels

    def suspend(self) -> None:
        """Nothing carries the channels for a time; the core's clock stands still, so
        that nothing is late when they go on. Idempotent."""
        if self._stopped is None:
            self._stopped = time.monotonic()
            self._set_timer(None)

    def go_on(self) -> None:
        """The channels are carried again. Idempotent."""
        if self._stopped is not None:
            self._lag += time.monotonic() - self._stopped
            self._stopped = None
            self.flush()

    def opened(self, channel: int, name: str) -> None:
        """A channel is operational."""
        self._channels.add(channel)
        self.core.channel_opened(channel, name, now=self.now())
        self.flush()

    def adopt(self, channel: int) -> None:
        """A channel is operational that the core has adopted."""
        self._channels.add(channel)

    def refused(self, name: str) -> None:
        """The peer does not open a channel that the core wanted."""
        self.core.channel_refused(name)
        self.flush()

    def received(self, channel: int, data: bytes) -> None:
        """A whole message arrived; raises what the core raises.

        More may follow: events and outputs wait for :meth:`finished`. One on a channel
        that is not open here is ignored: it has crossed a close.
        """
        self.messages += 1
        if channel not in self._channels:
            return
        if self.beside is not None and data[4:5] == _BESIDE:
            self.flush()  # in order with the core's
            self.beside(memoryview(data)[_FRAME.size :])
            return
        self.core.receive_data(channel, data, now=self.now())

    def send_beside(self, device: int, message: bytes) -> None:
        """Say something about a device beside the core, in order with its messages."""
        if self._channels:
            head = _FRAME.pack(len(message) + 1, _BESIDE)
            self._send(
                *(min(self._channels), head + message),
                flow=device,
                is_urgent=False,
                is_fence=False,
            )
            self._flush()

    def closed(self, channel: int) -> None:
        """A channel is gone, the others stay. Idempotent."""
        if channel in self._channels:
            self._channels.remove(channel)
            self.core.channel_closed(channel)
            self.flush()

    def close(self) -> None:
        """All is over; the core's last events are handed out. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for channel in sorted(self._channels):
            self.closed(channel)
        # what is below is not to live as long as this
        self._send, self._flush = _forget, lambda: None
        self._open_channel = self._close_channel = no_channels
        if self._timer is not None:
            self._timer.cancel()

    def flush(self) -> None:
        """Hand out events and send outputs until there are no more."""
        if self._is_flushing:
            return  # the call further out goes on with it
        core = self.core
        if events := core.events():
            self._is_flushing = True
            try:
                while events:
                    for event in events:
                        self.on_event(event)
                    events = core.events()
            finally:
                self._is_flushing = False
        outputs = core.outputs()
        if self._is_closed:
            return
        if outputs:
            send = self._send
            for output in outputs:
                if isinstance(output, Send):
                    send(
                        output.channel,
                        output.data,
                        flow=output.device,
                        is_urgent=output.is_urgent,
                        is_fence=output.is_fence,
                    )
                else:
                    self._execute(output)
            self._flush()
        due = core.next_deadline() if self._stopped is None else None
        if due != self._due:
            self._set_timer(due)

    finished = flush
    """The last of some messages has arrived."""

    def _execute(self, output: Output) -> None:
        """Do what an output asks for other than sending."""
        match output:
            case OpenChannel():
                if not self._open_channel(output.name):
                    self._loop.call_soon(self._was_refused, output.name)
            case CloseChannel():
                self._channels.discard(output.channel)
                self._close_channel(output.channel)
            case _:
                raise AssertionError(f"not an output: {output}")

    def _was_refused(self, name: str) -> None:
        if not self._is_closed:
            self.refused(name)

    def _set_timer(self, due: float | None) -> None:
        self._due = due
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if due is not None:
            # not call_at: while a Mac sleeps, uvloop's clock goes on, and this does not
            left = max(due - self.now(), 0.0)
            self._timer = self._loop.call_later(left, self._on_due, due)

    def _on_due(self, due: float) -> None:
        self._timer = self._due = None
        if not self._is_closed:
            # a timer of uvloop ends up to half a millisecond early
            self.core.handle_deadline(max(self.now(), due))
            self.flush()
