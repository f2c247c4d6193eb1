"""Which wire protocols a server speaks: all are offered, those heard count."""

from collections.abc import Callable, Sequence
from functools import partial

from rusb.aio.link import WireLink
from rusb.aio.protocols import listeners, load_protocol
from rusb.rdp.channels import ChannelHandler, ChannelListener, ChannelRegistry
from rusb.rdp.client import ClientConnection
from rusb.rdp.dvc import FIRST_DYNAMIC
from rusb.rdp.rusbext import RUSBEXT
from rusb.wire.base import (
    ChannelKind,
    DeviceSide,
    Event,
    WireProtocol,
    carries_more,
)

from .extension import Extension, Ticket

__all__ = ["WireChoice"]

_STATIC = ChannelKind.STATIC


class WireChoice:
    """The wires of one connection, each with a core, until it is known which to take.

    Servers open whatever static channel they are asked for, and most of these stay
    mute. So it is a core's first event that says that the server has its wire: nearly
    always after its first message. It is taken then, unless those before it carry all
    that it does; and wires that carry nothing more are closed.

    Args:
        names: of the wire protocols to offer.
        taken: called with a protocol, its core and its link, once it is taken; returns
            what gets the events of the core from then on.
        extension: serves rusb's own channel; None: it is not asked for.
        kept: the wire that a former connection carried.

    Attributes:
        channels: the channels of all of them.
        taken: those that are, in this order.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        taken: Callable[[WireProtocol, DeviceSide, WireLink], Callable[[Event], None]],
        extension: Extension | None = None,
        kept: Ticket | None = None,
    ) -> None:
        self._offered = [load_protocol(name) for name in names]
        found = [
            listener
            for protocol in self._offered
            for listener in listeners(protocol, self._opened)
        ]
        if extension is not None:
            found.append(ChannelListener(RUSBEXT, extension.opened))
        self.channels = ChannelRegistry(found)
        self._extension = extension
        self._kept = kept
        self.taken: list[WireProtocol] = [] if kept is None else [kept.protocol]
        self._on_taken = taken
        self._rdp: ClientConnection | None = None
        self._flush: Callable[[], None] = lambda: None
        self._links: dict[str, WireLink] = {}  # by name

    @property
    def may_take_more(self) -> bool:
        """May a further wire be taken, if the server has it?"""
        return any(carries_more(protocol, self.taken) for protocol in self._offered)

    @property
    def is_possible(self) -> bool:
        """Is a channel of a wire open, or may one be opened later?"""
        return bool(self._links or self._kept or self.channels.dynamic)

    @property
    def has_heard(self) -> bool:
        """Has the server said something on a channel of a wire?"""
        if self._kept is not None and self._kept.link.has_heard:
            return True
        return any(link.has_heard for link in self._links.values())

    def keep(self, ticket: Ticket) -> None:
        """A wire outlives this connection."""
        self._kept = ticket
        del self._links[ticket.protocol.name]

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
    ) -> ChannelHandler | None:
        extension, is_static = self._extension, protocol.channel.kind is _STATIC
        if self._kept is not None and protocol is self._kept.protocol:
            assert extension is not None
            extension.carries(channel, self._serve(channel))
            return extension
        if protocol not in self.taken and not carries_more(protocol, self.taken):
            return None
        link = self._links.get(protocol.name)
        if link is None:
            if name.lower() != protocol.channel.name.lower():
                return None
            link = self._links[protocol.name] = self._link(protocol)
        link.opened(channel, name)
        if extension is not None and is_static:
            extension.may_carry(protocol, link, channel, self._serve(channel))
        return link

    def _serve(self, channel: int) -> Callable[[ChannelHandler], None]:
        """Return what changes the handler of a channel."""
        return partial(self.channels.open.__setitem__, channel)

    def _link(self, protocol: WireProtocol) -> WireLink:
        assert self._rdp is not None
        core = protocol.device_side()

        def first(event: Event) -> None:
            if carries_more(protocol, self.taken):
                link.on_event = self._on_taken(protocol, core, link)
                self._take(protocol)
                link.on_event(event)

        link = WireLink(
            core,
            send=self._rdp.send_channel,
            flush=self._flush,
            on_event=first,
            open_channel=self._rdp.open_channel,
            close_channel=self._close_channel,
        )
        return link

    def _take(self, protocol: WireProtocol) -> None:
        """Close the others that carry nothing more."""
        self.taken.append(protocol)
        others = [
            self._links[one.name]
            for one in self._offered
            if one.name in self._links
            and one not in self.taken
            and not carries_more(one, self.taken)
        ]
        for other in others:
            other.close()
        for channel, handler in list(self.channels.open.items()):
            if handler in others:
                if channel >= FIRST_DYNAMIC:
                    self._close_channel(channel)
                self.channels.forget(channel)

    def _close_channel(self, channel: int) -> None:
        assert self._rdp is not None
        self.channels.forget(channel)
        self._rdp.close_channel(channel)
