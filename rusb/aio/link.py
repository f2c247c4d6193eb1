"""Join a wire core to the channel that carries it and to its own clock."""

import asyncio
from collections.abc import Callable

from rusb.wire.base import Event, Send, Side

__all__ = ["WireLink"]


class WireLink:
    """One wire core and the RDP channel under it.

    Args:
        core: the wire core; call :meth:`move` after every call to it.
        send: ``send(channel, message)``, hands a message to the RDP core.
        flush: sends what the RDP core has to send.
        on_event: called for each event of the core; it may call the core.

    Attributes:
        has_heard: the peer has sent a message.
    """

    def __init__(
        self,
        core: Side,
        *,
        send: Callable[[int, bytes], None],
        flush: Callable[[], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.core = core
        self.has_heard = False
        self._send = send
        self._flush = flush
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._channel: int | None = None
        self._is_moving = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None

    def opened(self, channel: int, name: str) -> None:
        """The channel is operational."""
        self._channel = channel
        self.core.channel_opened(channel, name, now=self._loop.time())
        self.move()

    def received(self, channel: int, data: bytes) -> None:
        """A whole message arrived; raises what the core raises.

        Messages of other channels (a VRDP server starts clipboard and sound by itself)
        are not for this core.
        """
        if channel != self._channel:
            return
        self.has_heard = True
        self.core.receive_data(channel, data, now=self._loop.time())
        self.move()

    def closed(self, channel: int) -> None:
        """The channel is gone; the core's last events are handed out. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.core.channel_closed(channel)
        self.move()
        # the connection below is not to live as long as this
        self._send, self._flush = lambda channel, data: None, lambda: None
        if self._timer is not None:
            self._timer.cancel()

    def move(self) -> None:
        """Hand out events and send outputs until there are no more."""
        if self._is_moving:
            return  # the call further out goes on with it
        self._is_moving = True
        try:
            while events := self.core.events():
                for event in events:
                    self._on_event(event)
            outputs = self.core.outputs()
        finally:
            self._is_moving = False
        if self._is_closed:
            return
        for output in outputs:
            if isinstance(output, Send):
                self._send(output.channel, output.data)
        if outputs:
            self._flush()
        due = self.core.next_deadline()
        if due != self._due:
            self._set_timer(due)

    def _set_timer(self, due: float | None) -> None:
        self._due = due
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._is_due)

    def _is_due(self) -> None:
        self._timer = self._due = None
        if not self._is_closed:
            self.core.handle_deadline(self._loop.time())
            self.move()
