"""rusb's own channel on a client's connection, whose devices may outlive it.

Until such a client has said whether it begins a session or goes on with one, its USB
waits (docs/spec/resume.md 3).
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Protocol

from rusb.aio.stream import RdpStream
from rusb.errors import ConnectionLost, ParseError, RemoteProtocolError
from rusb.rdp import rusbext
from rusb.rdp.channels import ChannelHandler
from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import Lane
from rusb.rdp.rusbext import Feature, Refusal
from rusb.rdp.server import ServerConnection

from .elsewhere import Elsewhere
from .parking import WINDOW, Holder, Parking, Ticket
from .remote_devices import RemoteDevices
from .sessions import Owner

__all__ = ["Extension"]

HOLD_BACK = 5.0
"""Seconds that a client has to say whether it begins or goes on; then it begins, and
will not be waited for."""

SILENCE, LOOK = 6.0, 1.0
"""Seconds without a byte of a client, which promises one every two, after which its
connection is given up; and between looks."""

MOST_KEPT = 2 * WINDOW
"""Bytes that may be kept for a client. The guest waits at half of that, but transfers
that wait for a device to say something are asked for again whenever one comes back."""


class _Session(Holder, Protocol):
    """What it asks of the connection's session."""

    def begin_usb(self, lane: Lane | None) -> RemoteDevices:
        """The client begins: return its devices, which it reaches over *lane*."""

    def go_on(self, ticket: Ticket) -> None:
        """The client goes on with the devices that it had."""

    def tell_resumed(self, outage: float, messages: int) -> None:
        """It does, after so many seconds, with so many messages sent again."""

    def tell_refused(self, why: str) -> None:
        """A client wanted to go on, and may not."""


class Extension(ChannelHandler):
    """Serves ``rusbext``, and the channel of the wire as long as it may be exchanged.

    Args:
        session: of the connection.
        connection: its core.
        stream: its bytes.
        parking: where clients are waited for.
        owner: who logged on.
        wire: the channel of the wire.
        name: of that channel.
        control: that of ``rusbext``.
        serve: gets the handler of the wire's channel, once it is another one.
        only: the ticket that the client may come back with, and do nothing else; None:
            it may begin, too.

    Attributes:
        ticket: what the client may come back with; None: nothing so far.
        heard: when the last byte came, by the loop's clock.
    """

    def __init__(
        self,
        session: _Session,
        connection: ServerConnection,
        stream: RdpStream,
        parking: Parking,
        owner: Owner,
        *,
        wire: int,
        name: str,
        control: int,
        serve: Callable[[ChannelHandler], None],
        only: Ticket | None,
    ) -> None:
        self.ticket: Ticket | None = None
        self._session = session
        self._connection = connection
        self._stream = stream
        self._parking = parking
        self._owner = owner
        self._wire, self._control = wire, control
        self._name = name
        self._serve, self._only = serve, only
        self._cookie = Cookie(session.number, secrets.token_bytes(16))
        connection.give_cookie(self._cookie)
        self._nonce, self._id = secrets.token_bytes(32), secrets.token_bytes(16)
        loop = self._loop = asyncio.get_running_loop()
        self.heard = loop.time()
        self._received = 0
        self._is_begun = False
        self._on_ready: Callable[[bool], None] | None = None
        self._planned = 0.0
        self._timer = loop.call_later(HOLD_BACK, self._on_mute)
        grace_ms = int(parking.grace * 1000)
        self._send(
            rusbext.Hello(
                rusbext.VERSION,
                Feature.RESUME | Feature.COMMANDS | Feature.MOVES,
                grace_ms,
                WINDOW,
                self._id,
                self._nonce,
            )
        )

    def received(self, channel: int, data: bytes) -> None:
        """Take a message of one of the two channels."""
        if channel != self._control:
            return  # nothing was agreed on
        try:
            message = rusbext.parse(data)
        except ParseError as error:
            raise RemoteProtocolError(f"rusbext: {error}") from error
        match message:
            case rusbext.Ack() if self.ticket is not None:
                self.ticket.lane.acknowledged(message.received)
            case rusbext.Accept():
                self._accept(message)
            case rusbext.Resume():
                self._resume(message)
            case rusbext.Ping():
                self._send(rusbext.Pong(message.number))
            case rusbext.Ready() if self._on_ready is not None:
                on_ready, self._on_ready = self._on_ready, None
                on_ready(bool(message.is_there))

    def closed(self, channel: int) -> None:
        """The connection is over."""
        self._timer.cancel()
        if self._on_ready is not None:
            self._on_ready(False)

    def invite(self, to: Elsewhere, ready: Callable[[bool], None]) -> bool:
        """Have the client get ready to go on elsewhere; False: it does not know how.

        Args:
            to: where.
            ready: called once, with whether it is.
        """
        ticket = self.ticket
        if ticket is None or not ticket.features & Feature.MOVES:
            return False
        self._on_ready = ready
        name = to.host.encode("ascii", "replace")
        self._send(rusbext.Move(to.port, to.certificate, name))
        return True

    def tell_moved(self) -> None:
        """All that the client has is there now."""
        self.ticket = None
        self._send(rusbext.Moved())

    def look(self) -> float:
        """Return when the last byte came, by the loop's clock; to about a second."""
        if self._stream.bytes_received != self._received:
            self._received = self._stream.bytes_received
            self.heard = self._loop.time()
        return self.heard

    # -------------------------------------------------------------- our own ----

    def _send(self, message: rusbext.ExtMessage) -> None:
        data = message.serialize()
        self._connection.send_channel(self._control, data, is_urgent=True)
        self._stream.flush()

    def _on_mute(self) -> None:
        if self._only is None:  # else the session's own time runs out
            self._begin_plainly()

    def _begin_plainly(self) -> None:
        self._timer.cancel()
        self._is_begun = True
        devices = self._session.begin_usb(None)
        devices.link.opened(self._wire, self._name)

    def _accept(self, message: rusbext.Accept) -> None:
        self._must_be_new()
        self._may_begin()
        if not message.features & Feature.RESUME:
            self._begin_plainly()
            return
        lane = Lane(
            window=min(WINDOW, message.window or WINDOW),
            later=self._loop.call_later,
            on_full=lambda is_full: None,
        )
        self._timer.cancel()
        devices = self._session.begin_usb(lane)
        if message.features & Feature.COMMANDS:
            devices.have_commands_run()
        lane.on_full = devices.set_full
        lane.serve(devices.link)
        self._bind(lane, 0)
        ticket = Ticket(
            *(self._id, message.key, self._owner),
            lane=lane,
            devices=devices,
            holder=self._session,
            cookie=self._cookie,
        )
        ticket.features = message.features
        self._parking.add(ticket)
        self._is_live(ticket)
        devices.link.opened(self._wire, self._name)

    def _resume(self, message: rusbext.Resume) -> None:
        self._must_be_new()
        ticket = self._parking.find(message.session)
        if ticket is None or self._only not in (None, ticket):
            self._refuse(Refusal.UNKNOWN, "there is no such session, or no longer")
            return
        assert self._stream.tls is not None
        fingerprint = self._stream.tls.fingerprint.partition(":")[2]
        text = rusbext.text_to_sign(
            self._nonce, message.session, message.received, bytes.fromhex(fingerprint)
        )
        if not ticket.is_signed(message.signature, text):
            self._refuse(Refusal.SIGNATURE, "the signature is wrong")
            self._stream.fail(ConnectionLost("its signature is not the session's"))
        elif not self._owner.may_resume(ticket.owner):
            self._refuse(Refusal.POLICY, "another user or screen had it")
        elif not ticket.lane.can_resume(message.received):
            self._refuse(Refusal.COUNTS, f"{message.received} messages cannot be")
            self._parking.give_up(ticket, "the client counts otherwise")
        else:
            self._timer.cancel()
            lane, outage = ticket.lane, self._loop.time() - ticket.holder.heard
            lane.unbind()
            self._send(rusbext.Resumed(lane.received))
            ticket.owner = self._owner
            self._session.go_on(ticket)
            self._bind(lane, message.received)
            self._is_live(ticket)
            self._session.tell_resumed(outage, lane.replayed)

    def _bind(self, lane: Lane, received: int) -> None:
        flush = self._stream.flush
        channels = self._wire, self._control
        lane.bind(self._connection, *channels, flush, self._serve, received=received)

    def _may_begin(self) -> None:
        if self._only is not None:
            raise RemoteProtocolError("rusbext: it was let in to go on, and begins")

    def _must_be_new(self) -> None:
        if self._is_begun:
            raise RemoteProtocolError("rusbext: a second session on a connection")

    def _refuse(self, reason: int, why: str) -> None:
        self._send(rusbext.Refused(reason))
        self._session.tell_refused(why)

    def _is_live(self, ticket: Ticket) -> None:
        self.ticket, self._is_begun = ticket, True
        self._stream.be_impatient()
        self._set_timer()

    def _set_timer(self) -> None:
        self._planned = self._loop.time() + LOOK
        self._timer = self._loop.call_at(self._planned, self._on_look)

    def _on_look(self) -> None:
        """Has the client been silent for too long? Not while we slept ourselves."""
        now = self._loop.time()
        heard = self.look()
        if now - self._planned > LOOK:
            self.heard = heard = now
        if now - heard > SILENCE:
            self._stream.fail(ConnectionLost(f"nothing came for {SILENCE:g} s"))
            self._stream.abort()
        elif self.ticket is not None and self.ticket.lane.size > MOST_KEPT:
            error = RemoteProtocolError("rusbext: the client acknowledges nothing")
            self._stream.fail(error)
        else:
            self._set_timer()
