"""rusb's own channel on a connection to a server that may wait for us
(docs/spec/resume.md)."""

import asyncio
import hashlib
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rusb.aio.link import WireLink
from rusb.errors import ConnectionLost, ParseError, RemoteProtocolError
from rusb.rdp import rusbext
from rusb.rdp.channels import ChannelHandler
from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import Lane
from rusb.rdp.rusbext import Feature
from rusb.wire.base import WireProtocol

from .connection import Connection

__all__ = ["Extension", "Ticket", "clock"]

WINDOW = 128 << 20
"""Bytes of messages that are kept; twice what a server may have in flight. One that
asks and acknowledges nothing is left."""

MAX_GRACE = 600.0
"""Seconds for which devices are kept for a server at most, whatever it says."""

EARLY = 2.0
"""Seconds by which we give up before the server does."""


def clock() -> float:
    """Return seconds that pass also while this machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Ticket:
    """What we may come back to a server with.

    Attributes:
        id: of the session.
        grace: seconds for which the server waits, from the last byte it heard.
        protocol: of the wire that is kept.
        link: of it.
        lane: what carries it.
        heard: when the last byte of the server came, by :func:`clock`.
        is_void: the server does not know it any more.
        cookie: what to show at the logon; None: the server gave none.
    """

    def __init__(
        self, session: bytes, grace: float, protocol: WireProtocol, link: WireLink
    ) -> None:
        self.id = session
        self.grace = grace
        self.protocol = protocol
        self.link = link
        self.heard = clock()
        self.is_void = False
        self.cookie: Cookie | None = None
        self.lane = Lane(
            window=WINDOW,
            later=asyncio.get_running_loop().call_later,
            on_full=lambda is_full: None,
        )
        self._key = Ed25519PrivateKey.generate()  # in memory only

    @property
    def public_key(self) -> bytes:
        """What the server knows us by."""
        return self._key.public_key().public_bytes_raw()

    @property
    def left(self) -> float:
        """Seconds in which it is still good."""
        return self.heard + self.grace - EARLY - clock()

    @property
    def is_good(self) -> bool:
        """May the server still wait for us?"""
        return self.left > 0 and not self.is_void

    def sign(self, text: bytes) -> bytes:
        """Show that it is ours."""
        return self._key.sign(text)

    def was_heard(self, now: float) -> None:
        """Something of the server came."""
        self.heard = now

    def suspend(self) -> None:
        """No connection carries the wire any more. Idempotent."""
        self.lane.unbind()
        self.link.suspend()

    def close(self) -> None:
        """All is over; the core's last events are handed out. Idempotent."""
        self.lane.unbind()
        self.link.close()


class Extension(ChannelHandler):
    """Serves ``rusbext``, and the channel of the wire once it may be exchanged.

    Args:
        ticket: what to come back with; None: begin.
        comes_back: is the server to wait for us? Else it only tells us things.
        on_live: called with the ticket when we begin, or go on.
        on_resume: called before we ask to go on; no other connection may carry the
            wire from then on.
        on_move: called with where the machine runs now, and with None once all that is
            ours is there; None: we go nowhere else.
        on_stay: called when the machine runs elsewhere, and we are not to go there.
        on_hello: called instead of asking to go on, which is then for :meth:`ask`.

    Attributes:
        connection: what carries it, once there is one.
    """

    def __init__(
        self,
        ticket: Ticket | None,
        *,
        comes_back: bool = True,
        on_live: Callable[[Ticket], None],
        on_resume: Callable[[], None],
        on_move: Callable[[rusbext.Move | None], None] | None = None,
        on_stay: Callable[[rusbext.Stay], None],
        on_hello: Callable[[], None] | None = None,
    ) -> None:
        self._on_move, self._on_hello = on_move, on_hello
        self._on_stay, self._comes_back = on_stay, comes_back
        self._greeting: rusbext.Hello | None = None
        self._has_asked = False  # to go on
        self.connection: Connection | None = None
        self._ticket = ticket
        self._lane: Lane | None = None  # of the ticket, once this carries the wire
        self._on_live = on_live
        self._on_resume = on_resume
        self._control = self._wire = 0
        self._fresh: tuple[WireProtocol, WireLink] | None = None
        self._serve: Callable[[ChannelHandler], None]
        self._pings = 0

    def opened(self, channel: int, name: str) -> "Extension":
        """``rusbext`` is open."""
        self._control = channel
        return self

    def may_carry(
        self,
        protocol: WireProtocol,
        link: WireLink,
        channel: int,
        serve: Callable[[ChannelHandler], None],
    ) -> None:
        """The channel of a wire is open, which has not begun.

        Args:
            protocol: the wire.
            link: of it.
            channel: its channel.
            serve: gets the handler of the channel, once it is another one.
        """
        self._fresh = protocol, link
        self.carries(channel, serve)

    def carries(self, channel: int, serve: Callable[[ChannelHandler], None]) -> None:
        """The channel of the wire that is kept is open; see :meth:`may_carry`."""
        self._wire, self._serve = channel, serve

    def ping(self) -> None:
        """Ask whether the server is there."""
        self._pings = (self._pings + 1) & 0xFFFFFFFF
        self._send(rusbext.Ping(self._pings))

    def received(self, channel: int, data: bytes) -> None:
        """Take a message of one of the two channels."""
        if channel != self._control:
            self._refuse()  # it begins to speak without having waited for us
            return
        try:
            message = rusbext.parse(data)
        except ParseError as error:
            raise RemoteProtocolError(f"rusbext: {error}") from error
        match message:
            case rusbext.Ack() if self._lane is not None:
                self._lane.acknowledged(message.received)
            case rusbext.Hello() if self._greeting is None:
                self._hello(message)
            case rusbext.Resumed() if self._has_asked and self._lane is None:
                self._resumed(message)
            case rusbext.Refused() if self._has_asked and self._lane is None:
                self._refuse()
            case rusbext.Move() if self._lane is not None and self._on_move is not None:
                self._on_move(message)
            case rusbext.Moved() if (
                self._lane is not None and self._on_move is not None
            ):
                self._on_move(None)
            case rusbext.Stay():
                self._on_stay(message)

    def answer_move(self, *, is_there: bool) -> None:
        """Say whether we are ready to go on elsewhere, if we can say it."""
        if self.connection is not None and not self.connection.is_over:
            self._send(rusbext.Ready(is_there))

    def ask(self) -> None:
        """Ask to go on, after *on_hello* was called."""
        assert self._greeting is not None
        assert self._ticket is not None
        self._ask(self._greeting, self._ticket)

    def closed(self, channel: int) -> None:
        """The connection is over."""

    # -------------------------------------------------------------- our own ----

    def _refuse(self) -> None:
        if self._ticket is not None:
            self._ticket.is_void = True
        assert self.connection is not None
        self.connection.fail(
            ConnectionLost("the server no longer has the devices of this client")
        )

    def _send(self, message: rusbext.ExtMessage) -> None:
        assert self.connection is not None
        data = message.serialize()
        self.connection.rdp.send_channel(self._control, data, is_urgent=True)
        self.connection.flush()

    def _full(self, is_full: bool) -> None:
        if is_full and self.connection is not None:
            error = RemoteProtocolError("the server acknowledges nothing that it asked")
            # what is just leaving is to leave first
            asyncio.get_running_loop().call_soon(self.connection.fail, error)

    def _hello(self, hello: rusbext.Hello) -> None:
        if not hello.features & Feature.RESUME or not self._wire:
            return
        self._greeting = hello
        if self._ticket is not None and self._on_hello is not None:
            self._on_hello()
        elif self._ticket is not None:
            self._ask(hello, self._ticket)
        elif self._fresh is not None and not self._fresh[1].has_heard:
            self._accept(hello, *self._fresh)  # else the wire has begun without it

    def _accept(
        self, hello: rusbext.Hello, protocol: WireProtocol, link: WireLink
    ) -> None:
        if not self._comes_back:
            no_key = bytes(32)
            self._send(rusbext.Accept(rusbext.VERSION, 0, 0, no_key))
            return
        grace = min(hello.grace_ms / 1000, MAX_GRACE)
        ticket = Ticket(hello.session, grace, protocol, link)
        assert self.connection is not None
        ticket.cookie = self.connection.rdp.cookie
        key = ticket.public_key
        features = Feature.RESUME | hello.features & Feature.COMMANDS
        if self._on_move is not None:
            features |= hello.features & Feature.MOVES
        self._send(rusbext.Accept(rusbext.VERSION, features, 0, key))
        ticket.lane.serve(link)
        self._bind(ticket, 0)
        self._on_live(ticket)

    def _ask(self, hello: rusbext.Hello, ticket: Ticket) -> None:
        assert self.connection is not None
        self._has_asked = True
        ticket.grace = min(hello.grace_ms / 1000, MAX_GRACE)
        self._on_resume()
        ticket.lane.unbind()
        received = ticket.lane.received
        digest = hashlib.sha256(self.connection.certificate or b"").digest()
        text = rusbext.text_to_sign(hello.nonce, ticket.id, received, digest)
        signature = ticket.sign(text)
        self._send(rusbext.Resume(rusbext.VERSION, ticket.id, received, signature))

    def _resumed(self, message: rusbext.Resumed) -> None:
        ticket = self._ticket
        assert ticket is not None
        if not ticket.lane.can_resume(message.received):
            ticket.is_void = True
            raise RemoteProtocolError(
                f"the server resumes at {message.received} messages, which cannot be"
            )
        self._bind(ticket, message.received)
        ticket.link.go_on()
        self._on_live(ticket)

    def _bind(self, ticket: Ticket, received: int) -> None:
        assert self.connection is not None
        self._ticket, self._lane = ticket, ticket.lane
        ticket.lane.on_full = self._full
        connection = self.connection
        channels = self._wire, self._control
        ticket.lane.bind(
            *(connection.rdp, *channels, connection.flush, self._serve),
            received=received,
        )
