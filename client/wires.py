"""Which wire protocol a server speaks: all are offered, the first one heard counts."""

from collections.abc import Callable, Sequence

from rusb.aio.link import WireLink
from rusb.aio.protocols import listeners, load_protocol
from rusb.rdp.channels import ChannelRegistry
from rusb.rdp.client import ClientConnection
from rusb.rdp.dvc import FIRST_DYNAMIC
from rusb.wire.base import DeviceSide, Event, WireProtocol

__all__ = ["WireChoice"]


class WireChoice:
    """The wires of one connection, each with a core, until one of them is taken.

    Servers open whatever static channel they are asked for, and most of these stay
    mute. So it is a core's first event that says which wire the server has: nearly
    always after its first message. The others are closed then.

    Args:
        names: of the wire protocols to offer.
        taken: called with its core and link, once it is known which one.
        on_event: gets the events of its core.

    Attributes:
        channels: the channels of all of them.
        protocol: the one that is taken, or None.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        taken: Callable[[DeviceSide, WireLink], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.channels = ChannelRegistry(
            listener
            for name in names
            for listener in listeners(load_protocol(name), self._opened)
        )
        self.protocol: WireProtocol | None = None
        self._taken = taken
        self._on_event = on_event
        self._rdp: ClientConnection | None = None
        self._flush: Callable[[], None] = lambda: None
        self._links: dict[str, WireLink] = {}  # by name

    @property
    def is_possible(self) -> bool:
        """Is a channel of a wire open, or may one be opened later?"""
        return bool(self._links or self.channels.dynamic)

    @property
    def has_heard(self) -> bool:
        """Has the server said something on a channel of a wire?"""
        return any(link.has_heard for link in self._links.values())

    def connect(self, rdp: ClientConnection, flush: Callable[[], None]) -> None:
        """Say what carries the channels; before any of them opens."""
        self._rdp, self._flush = rdp, flush

    def close(self) -> None:
        """The connection is over. Idempotent."""
        for link in self._links.values():
            link.close()
        self.channels.end()
        self._rdp = None  # it is not to live as long as this

    def _opened(
        self, protocol: WireProtocol, channel: int, name: str
    ) -> WireLink | None:
        if self.protocol not in (None, protocol):
            return None
        link = self._links.get(protocol.name)
        if link is None:
            if name.lower() != protocol.channel.name.lower():
                return None
            link = self._links[protocol.name] = self._link(protocol)
        link.opened(channel, name)
        return link

    def _link(self, protocol: WireProtocol) -> WireLink:
        assert self._rdp is not None
        core = protocol.device_side()

        def first(event: Event) -> None:
            if self.protocol is None:
                self._take(protocol, core, link)
            if self.protocol is protocol:
                self._on_event(event)

        link = WireLink(
            core,
            send=self._rdp.send_channel,
            flush=self._flush,
            on_event=first,
            open_channel=self._rdp.open_channel,
            close_channel=self._close_channel,
        )
        return link

    def _take(self, protocol: WireProtocol, core: DeviceSide, link: WireLink) -> None:
        self.protocol = protocol
        link.on_event = self._on_event
        others = [one for one in self._links.values() if one is not link]
        for other in others:
            other.close()
        for channel, handler in list(self.channels.open.items()):
            if handler in others:
                if channel >= FIRST_DYNAMIC:
                    self._close_channel(channel)
                self.channels.forget(channel)
        self._taken(core, link)

    def _close_channel(self, channel: int) -> None:
        assert self._rdp is not None
        self.channels.forget(channel)
        self._rdp.close_channel(channel)
