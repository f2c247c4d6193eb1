"""A viewer's own channels: the graphics pipeline, and what size it wants."""

from collections.abc import Callable
from functools import partial

from rusb.errors import ParseError
from rusb.rdp import dispcontrol, gfx
from rusb.rdp.channels import ChannelHandler, ChannelLimits, ChannelListener

from ..display import h264
from ..display.viewer import Viewer

__all__ = ["ScreenChannels"]

Send = Callable[[int, bytes], None]
Close = Callable[[int], None]


class ScreenChannels:
    """Opens and serves the channels of one client.

    Args:
        viewer: returns who draws for the client; None: nobody does yet.
        size: returns what the guest should have from the start; None: what it has.
        quality: returns the quality of videos; None: they are pictures as others.
        open: asks the client for a channel.
        send: sends messages on a channel.
        close: closes a channel.
        note: gets a line for the log.
        changed: called when pictures go another way.

    Attributes:
        listeners: for the client's registry.
    """

    def __init__(
        self,
        *,
        viewer: Callable[[], Viewer | None],
        size: Callable[[], tuple[int, int] | None],
        quality: Callable[[], int | None],
        open: Callable[[str], object],
        send: Send,
        close: Close,
        note: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._viewer = viewer
        self._changed = changed
        self._size = size
        self._quality = quality
        self._open = open
        self._send = send
        self._close = close
        self._note = note
        self._is_ready = self._has_graphics = False
        self.listeners: tuple[ChannelListener, ...] = (
            ChannelListener(
                *(gfx.CHANNEL, self._graphics_opened),
                is_dynamic=True,
                limits=ChannelLimits(gfx.MAX_MESSAGE),
            ),
            ChannelListener(
                *(dispcontrol.CHANNEL, self._control_opened),
                is_dynamic=True,
                limits=ChannelLimits(dispcontrol.MAX_MESSAGE),
            ),
        )

    def ready(self) -> None:
        """Dynamic channels may be opened."""
        self._is_ready = True
        self._open(dispcontrol.CHANNEL)
        self.settings_changed()

    def settings_changed(self) -> None:
        """Open the graphics pipeline, if the machine wants it now and did not before.

        Videos end with the setting, the pipeline with the session.
        """
        is_wanted = self._is_ready and self._quality() is not None
        if not is_wanted or self._has_graphics:
            return
        self._has_graphics = True
        if missing := h264.missing():
            self._note(f"VRDP: no video channel: {missing}")
        else:
            self._open(gfx.CHANNEL)

    def end(self) -> None:
        """The connection is over; hold nothing of it."""
        self.listeners = ()
        self._viewer = self._size = self._quality = _nothing
        self._open = self._send = self._close = self._note = _nothing
        self._changed = _nothing

    def _graphics_opened(self, channel: int, name: str) -> ChannelHandler | None:
        viewer = self._viewer()
        if viewer is None:
            return None
        return _Graphics(viewer, self._send, self._close, self._note, self._changed)

    def _control_opened(self, channel: int, name: str) -> ChannelHandler | None:
        viewer = self._viewer()
        if viewer is None:
            return None
        self._send(channel, dispcontrol.capabilities())
        if size := self._size():
            viewer.wish(*size)
        return _Control(viewer, self._close, self._note)


def _nothing(*_: object) -> None:
    pass


class _Graphics(ChannelHandler):
    """The graphics pipeline of a client, from its capabilities to its viewer."""

    def __init__(
        self,
        viewer: Viewer,
        send: Send,
        close: Close,
        note: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._viewer = viewer
        self._changed = changed
        self._send = send
        self._close = close
        self._note = note
        self._pipeline = gfx.Pipeline()

    def received(self, channel: int, data: bytes) -> None:
        """Take a message of the client; a bad one closes the channel, no more."""
        pipeline = self._pipeline
        restarts = pipeline.restarts
        try:
            pipeline.receive(data)
        except ParseError as error:
            self._leave(channel, f"{error}; the channel is closed")
            return
        for message in pipeline.messages():
            self._send(channel, message)
        if pipeline.is_useless:
            self._leave(channel, "the client does not take AVC420")
        elif pipeline.restarts != restarts:
            self._viewer.use(pipeline, partial(self._send, channel))
            self._changed()
        else:
            self._viewer.acknowledged()

    def closed(self, channel: int) -> None:
        """The channel is gone."""
        self._viewer.use(None)
        self._changed()

    def _leave(self, channel: int, why: str) -> None:
        self._note(f"VRDP: graphics pipeline: {why}")
        self._close(channel)
        self.closed(channel)


class _Control(ChannelHandler):
    """Tells the viewer which size its client wants."""

    def __init__(
        self, viewer: Viewer, close: Close, note: Callable[[str], None]
    ) -> None:
        self._viewer = viewer
        self._close = close
        self._note = note

    def received(self, channel: int, data: bytes) -> None:
        """Take a message of the client; a bad one closes the channel, no more."""
        try:
            size = dispcontrol.parse_layout(data)
        except ParseError as error:
            self._note(f"VRDP: display control: {error}; the channel is closed")
            self._close(channel)
            return
        if size is not None:
            self._viewer.wish(*size)

    def closed(self, channel: int) -> None:
        """Nothing: there is nothing to be undone."""
