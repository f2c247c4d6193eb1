"""What the two ends of an RDP connection share: packets in, packets out, channels."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import inf
from typing import Protocol

from rusb.errors import (
    LocalProtocolError,
    NegotiationError,
    ParseError,
    RemoteProtocolError,
)

from .channels import DRDYNVC, ChannelLimits
from .dvc import (
    FIRST_DYNAMIC,
    PDU_SIZE,
    DynamicChannel,
    DynamicChannels,
    DynamicReceiver,
)
from .events import (
    ChannelData,
    ChannelOpened,
    Disconnected,
    Event,
    Ignored,
    TlsRequested,
)
from .mcs import IO_CHANNEL
from .outbox import Message, Outbox
from .security import PlainSecurity, StandardSecurity
from .svc import HEADER, MAX_CHANNEL_MESSAGE, WHOLE, ChannelReceiver, ChannelSender
from .tpkt import TPKT, packet_size
from .x224 import DATA, DATA_HEADER, DISCONNECT

__all__ = ["Connection"]

MAX_SEGMENTS = 1 << 16
"""Bytes of one message on the I/O channel in several MCS segments; none needs more."""

_SEND_DATA = struct.Struct(">4sHHBB")
_PACKET = struct.Struct(">BxH4s2xHxB")  # a TPKT, and the fields of that which matter
_BEGIN, _END = 0x20, 0x10  # segmentation bits


class _OnTurn(Protocol):
    def __call__(self, *, is_sending: bool) -> None: ...


class Connection(ABC):
    """One end of an RDP connection; does no I/O.

    Args:
        is_server: which end.
        dynamic: limits of the dynamic channels that are served, by name.
        limits: of messages of static channels, by name in lower case; longer ones are
            skipped. On others they end the connection.
        random_bytes: source of randomness, ``secrets.token_bytes``.

    Attributes:
        room: bytes of messages that may leave before the next one has to wait; whoever
            moves the bytes sets it, or none ever waits.
        turn: packets, or runs of them, that are handled before the others have their
            turn; likewise.
        has_more: some that have come were not: ``receive_data(b"")`` goes on.
        is_active: the session has begun.
        bytes_received: how many have come so far.
        mark: as many must have come until *on_turn* of :meth:`keep_channel` is called,
            which sets it.
    """

    room: float = inf
    turn: float = inf
    mark: float = 0

    def __init__(
        self,
        *,
        is_server: bool,
        dynamic: Mapping[str, ChannelLimits],
        random_bytes: Callable[[int], bytes],
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._random_bytes = random_bytes
        self._limits = limits or {}
        self._events: list[Event] = []
        self._outbox = Outbox()
        self._kept_channel = -1
        self._kept_count = 0  # messages in the output
        self._keep: Callable[[bytes, int], None]
        self._on_turn: _OnTurn | None = None
        self._output: list[bytes] = []  # cut, in the order of its encryption
        self._buffer = bytearray()
        self._needed = 0
        self.has_more = False
        self.bytes_received = 0
        self._failure: str | None = None
        self._segments = b""
        self._is_over = False
        self._waits_for_tls = False
        self.is_active = False
        self._has_session = False  # MCS is connected
        self._channels: dict[int, ChannelReceiver] = {}
        self._chunk_flags: dict[int, int] = {}
        self._is_server = is_server
        self._dynamic_limits = dynamic
        self._dynamic: DynamicChannels | None = None
        self._dynamic_carrier = 0  # the static channel
        # 1.20: servers that write headers want them, too; clients misread them
        self._security: PlainSecurity | StandardSecurity
        self._security = PlainSecurity(echoes=not is_server)
        self._sender = ChannelSender(is_server=is_server, initiator=1)
        self._io_channel = IO_CHANNEL
        self._peer_data = DATA_HEADER + (b"\x64" if is_server else b"\x68")

    # -------------------------------------------------------- for the shell ----

    @abstractmethod
    def start(self) -> None:
        """The transport is connected; the client speaks first."""

    def receive_data(self, data: bytes) -> None:
        """Take received bytes, in any pieces.

        Raises:
            RemoteProtocolError: the peer broke a rule; so does every later call.
            NegotiationError: no common ground. Send what there is to send, close.
        """
        if self._failure is not None:
            raise RemoteProtocolError(f"the connection has failed: {self._failure}")
        if self._is_over or not (data or self.has_more):
            return
        self.bytes_received += len(data)
        self.has_more = False
        try:
            if self._buffer:
                self._complete(data)
            else:
                self._walk(data, 0)
        except ParseError as error:
            self._failure = str(error)
            raise RemoteProtocolError(self._failure) from error
        except (RemoteProtocolError, NegotiationError) as error:
            self._failure = str(error)
            raise
        if self._dynamic is not None and self._dynamic.output:
            self._control_dynamic(self._dynamic)

    def events(self) -> list[Event]:
        """Take the events that piled up, oldest first, and clear them."""
        taken = self._events.copy()
        self._events.clear()
        return taken

    @property
    def bytes_waiting(self) -> int:
        """Messages that :meth:`data_to_send` has not given, and what they cost."""
        return self._outbox.size

    def data_to_send(self) -> list[bytes]:
        """Take what is to be sent, in pieces, and clear it.

        Of messages, only what there is :attr:`room` for. Whole ones leave; the last may
        exceed it. What is on no channel of its own, such as pictures, never waits.
        """
        outbox = self._outbox
        while outbox.size and self.room > 0:
            message = outbox.take()
            self.room -= len(message.data)
            self._leave(message.channel, message.data, message.inner)
        if self._on_turn is not None and self.bytes_received >= self.mark:
            self._on_turn(is_sending=bool(self._output))
        taken, self._output = self._output, []
        if self._kept_count:
            data, count = b"".join(taken), self._kept_count
            self._kept_count = 0
            self._keep(data, count)
            return [data]
        return taken

    def tls_started(self) -> None:
        """TLS is up; go on with the connection.

        Raises:
            LocalProtocolError: there was no TlsRequested.
        """
        if not self._waits_for_tls:
            raise LocalProtocolError("TLS was not asked for, or is already up")
        self._waits_for_tls = False
        self._tls_is_up()

    def send_channel(
        self,
        channel: int,
        message: bytes,
        *,
        flow: int = 0,
        is_urgent: bool = False,
        is_fence: bool = False,
    ) -> None:
        """Send one whole message on a channel, as soon as there is room.

        A dynamic one that has been closed takes it and sends nothing.

        Args:
            channel: which one.
            message: bytes of it.
            flow: messages of one number keep their order, and those with different
                numbers share what leaves. A dynamic channel is a flow of its own.
            is_urgent: it goes before what waits and is not urgent.
            is_fence: nothing goes past it, in either direction.

        Raises:
            LocalProtocolError: there is no such channel, it is not open yet, or the
                message is longer than MAX_CHANNEL_MESSAGE.
        """
        size = len(message)
        if size > MAX_CHANNEL_MESSAGE:
            raise LocalProtocolError(f"channel message of {size} bytes")
        inner = None
        if channel not in self._channels or not self.is_active:
            if channel < FIRST_DYNAMIC:
                raise LocalProtocolError(f"channel {channel} is not open")
            inner = (self._dynamic or self._need_dynamic()).opened.get(channel)
            if inner is None:
                return
            channel, flow = self._dynamic_carrier, channel
        if self._is_over:
            return
        if self.room > 0 and not self._outbox.size:
            self.room -= size
            self._leave(channel, message, inner)
        else:
            group = channel, flow
            self._outbox.add(
                Message(channel, message, inner, group, is_urgent, is_fence)
            )

    def find_channel(self, name: str) -> int | None:
        """Return the static channel of that name, if there is one."""
        found = (n for n, r in self._channels.items() if r.name.lower() == name.lower())
        return next(found, None)

    def keep_channel(
        self, channel: int, keep: Callable[[bytes, int], None], on_turn: _OnTurn
    ) -> None:
        """Have all that leaves kept, if there are messages of a static channel in it.

        Args:
            channel: the only one.
            keep: ``keep(data, count)``, gets what :meth:`data_to_send` gives, and how
                many messages begin in it, which end there, too.
            on_turn: called when all that there is room for has left, if :attr:`mark`
                is reached; says whether that was anything. It may send.
        """
        assert not self._security.is_encrypted  # then nobody could read it
        self._kept_channel, self._keep, self._on_turn = channel, keep, on_turn

    def keep_no_channel(self) -> None:
        """Have it kept no longer."""
        if self._kept_count:
            self._keep(b"".join(self._output), self._kept_count)
        self._kept_channel, self._kept_count, self._on_turn = -1, 0, None

    def messages_in(self, data: bytes, channel: int) -> list[bytes]:
        """Return the messages of a static channel in what :meth:`data_to_send` gave."""
        found: list[Event] = []
        receiver, pos = ChannelReceiver(channel, "", found), 0
        while pos < len(data):
            start, end = pos, pos + packet_size(data, pos)
            pos = end
            if data[start] != TPKT or end - start < 14:
                continue
            head, _, number, _, size = _SEND_DATA.unpack_from(data, start + 4)
            if head[:3] == DATA_HEADER and number == channel:
                body = start + 14 + (size >> 7) + len(self._sender.prefix)
                receiver.receive(data, start, body, end, end)
        return [one.data for one in found if isinstance(one, ChannelData)]

    def take_back(self, channel: int) -> list[Message]:
        """Take the messages of a static channel that have not left, in their order."""
        return self._outbox.remove(channel)

    def open_channel(self, name: str) -> bool:
        """Server: open a dynamic channel; ChannelOpened or ChannelRefused follows.

        Returns:
            False: there is no room for a further one, and nothing follows.

        Raises:
            LocalProtocolError: there was no DynamicReady, or the name is not among
                those that are served.
        """
        dynamic = self._need_dynamic()
        has_room = dynamic.open(name)
        self._control_dynamic(dynamic)
        return has_room

    def close_channel(self, channel: int) -> None:
        """Close a dynamic channel, if it is still open.

        Raises:
            LocalProtocolError: it is not a dynamic one.
        """
        if channel < FIRST_DYNAMIC:
            raise LocalProtocolError(f"channel {channel} lasts as long as the session")
        dynamic = self._need_dynamic()
        dynamic.close(channel)
        self._control_dynamic(dynamic)

    def _need_dynamic(self) -> DynamicChannels:
        if self._dynamic is None:
            raise LocalProtocolError("this connection has no dynamic channels")
        return self._dynamic

    def _control_dynamic(self, dynamic: DynamicChannels) -> None:
        """Send what opens and closes dynamic channels."""
        for channel, message in dynamic.messages_to_send():
            self.send_channel(self._dynamic_carrier, message, flow=channel)

    def _leave(
        self, channel: int, message: bytes, inner: DynamicChannel | None
    ) -> None:
        """Cut a message, and encrypt it: it is next."""
        head = b""
        if inner is not None:
            assert self._dynamic is not None
            if not self._dynamic.is_own:
                self._leave_inner(channel, message, inner)
                return
            head = inner.head
        elif channel == self._kept_channel:
            self._kept_count += 1
        flags = self._chunk_flags.get(channel, 0)
        if not self._security.is_encrypted:
            self._output += self._sender.cut(channel, message, flags, head)
            return
        for chunk in self._sender.chunks(head + message, flags):
            self._send(channel, self._security.wrap(0, chunk))

    def _leave_inner(self, carrier: int, message: bytes, inner: DynamicChannel) -> None:
        """The same in data messages that everybody takes."""
        sender = self._sender
        flags = self._chunk_flags.get(carrier, 0) | WHOLE
        if not self._security.is_encrypted:
            self._output += inner.cut(
                *(message, PDU_SIZE),
                lambda size: sender.header(carrier, size, size, flags),
            )
            return
        pieces = inner.cut(message, PDU_SIZE, lambda size: HEADER.pack(size, flags))
        for head, piece in zip(pieces[::2], pieces[1::2], strict=True):
            self._send(carrier, self._security.wrap(0, head + piece))

    def _leave_all(self) -> None:
        """Nothing waits any longer: what comes now is the end."""
        self.room = inf
        while self._outbox.size:
            message = self._outbox.take()
            self._leave(message.channel, message.data, message.inner)

    # ----------------------------------------------------- for the two ends ----

    @abstractmethod
    def _tls_is_up(self) -> None:
        """Go on behind TLS."""

    @abstractmethod
    def _connection_packet(self, body: bytes) -> None:
        """Handle an X.224 packet that is not data, without its TPKT header."""

    @abstractmethod
    def _domain_packet(self, body: bytes) -> None:
        """Handle an MCS PDU that is not data."""

    @abstractmethod
    def _io_payload(self, payload: bytes) -> None:
        """Handle what arrived on the I/O channel."""

    @abstractmethod
    def _fast_path(self, head: int, body: bytes) -> None:
        """Handle a fast-path packet: its action bits, and what is in it."""

    def _ask_for_tls(self) -> None:
        self._waits_for_tls = True
        self._events.append(TlsRequested())

    def _send_io(self, payload: bytes, flags: int = 0) -> None:
        """Send on the I/O channel, with a security header if it has *flags*."""
        self._send(self._io_channel, self._security.wrap(flags, payload))

    def _send(self, channel: int, payload: bytes) -> None:
        """Send a payload as it is."""
        self._output.append(self._sender.send_data(channel, len(payload)) + payload)

    def _add_channel(self, channel: int, name: str) -> None:
        """A static channel was agreed on; it opens with the session."""
        if name.lower() != DRDYNVC or not self._dynamic_limits:
            limit = self._limits.get(name.lower())
            self._channels[channel] = ChannelReceiver(
                *(channel, name, self._events, limit or MAX_CHANNEL_MESSAGE),
                is_lenient=limit is not None,
            )
            return
        self._dynamic_carrier = channel
        dynamic = self._dynamic = DynamicChannels(
            is_server=self._is_server,
            limits=self._dynamic_limits,
            events=self._events,
        )
        receiver = DynamicReceiver(channel, name, self._events, dynamic)
        self._channels[channel] = receiver

    def _open_channels(self) -> None:
        """The session is active: channels are operational, the first time."""
        if self.is_active:
            return
        self.is_active = True
        for channel, receiver in self._channels.items():
            self._events.append(ChannelOpened(channel, receiver.name))
        if self._dynamic is not None:
            self._dynamic.start()

    def _end(self, reason: int | None = None) -> None:
        """The peer said goodbye."""
        if not self._is_over:
            self._is_over = True
            self._events.append(Disconnected(reason, self.is_active))

    def _ignore(self, reason: str) -> None:
        self._events.append(Ignored(reason))

    # -------------------------------------------------------------- framing ----

    def _walk(self, data: bytes, pos: int) -> None:
        """Handle every whole packet, as far as our turn goes, and keep the rest."""
        limit = len(data)
        while pos < limit and not self._is_over:
            if self.is_active and not self._security.is_encrypted:
                pos = self._take_chunks(data, pos)
                if pos == limit:
                    return  # as nearly always
            if self.turn <= 0:
                self._buffer += data[pos:]
                self._needed = 0
                self.has_more = True
                return
            self.turn -= 1
            if self._waits_for_tls:
                # what comes in clear before TLS could be anybody's (T02)
                raise RemoteProtocolError(f"{limit - pos} unencrypted bytes before TLS")
            size = packet_size(data, pos)
            if not size or size > limit - pos:
                self._buffer += data[pos:] if pos else data
                self._needed = size
                return
            if data[pos] == TPKT:
                pos = self._tpkt(data, pos, pos + size, limit)
            elif self.is_active:
                packet = data[pos : pos + size]
                self._fast_path(*self._security.unwrap_fast(packet))
                pos += size
            else:
                raise RemoteProtocolError(f"first byte 0x{data[pos]:02X}, not RDP")

    def _complete(self, data: bytes) -> None:
        """Do as :meth:`_walk` does; part of a packet was kept from before."""
        buffer = self._buffer
        # what completes the packet; all else stays where it is
        pos = max(self._needed - len(buffer), 0) if self._needed else len(data)
        buffer += data[:pos] if pos < len(data) else data
        if len(buffer) < self._needed:
            return
        first = bytes(buffer)
        buffer.clear()
        self._walk(first, 0)
        if buffer or self._is_over:
            buffer += data[pos:]
        else:
            self._walk(data, pos)

    def _take_chunks(self, data: bytes, pos: int) -> int:
        """Handle packets of open channels, up to one that has to be looked at closely;
        return where that begins. All transfers come this way."""
        channels, wanted = self._channels, self._peer_data
        skipped, limit, turn = self._security.skipped, len(data), self.turn
        while turn > 0 and pos + 15 <= limit:
            kind, size, start, channel, length = _PACKET.unpack_from(data, pos)
            body, end = pos + 14, pos + size
            if length & 0x80:
                length = (length & 0x7F) << 8 | data[body]
                body += 1
            receiver = channels.get(channel)
            if (
                receiver is None
                or start != wanted
                or kind != TPKT
                or end > limit
                or length > end - body
            ):
                break
            turn -= 1
            pos = receiver.receive(data, pos, body + skipped, end, limit)
        self.turn = turn
        return pos

    def _tpkt(self, data: bytes, start: int, end: int, limit: int) -> int:
        """Handle a TPKT, and the chunks of a run after it; return where to go on."""
        kind = data[start + 5]
        if kind != DATA:
            if kind == DISCONNECT:
                self._end()
            else:
                self._connection_packet(data[start + 4 : end])
            return end
        if data[start + 4 : start + 7] != DATA_HEADER:
            raise ParseError(f"X.224 header {data[start + 4 : start + 7].hex()}", start)
        if end - start < 14 or data[start + 4 : start + 8] != self._peer_data:
            self._domain_packet(data[start + 7 : end])
            return end
        _, _, channel, segment, size = _SEND_DATA.unpack_from(data, start + 4)
        body = start + 14
        if size & 0x80 and body < end:
            size = (size & 0x7F) << 8 | data[body]
            body += 1
        if not self._has_session:
            raise ParseError("data before the MCS connection", start)
        if size > end - body:
            raise ParseError(f"MCS data of {size} bytes, have {end - body}", start)
        if channel == self._io_channel:
            self._segment(segment, data[body:end])  # 1.2: TPKT knows best
            return end
        receiver = self._channels.get(channel)
        if receiver is None or not self.is_active:
            self._ignore(f"{size} bytes on channel {channel}, which is not open")
            return end
        if self._security.is_encrypted:
            chunk = self._security.unwrap(data[body:end])[1]
            receiver.receive(chunk, 0, 0, len(chunk), len(chunk))
            return end
        body += self._security.skipped
        return receiver.receive(data, start, body, end, limit)

    def _segment(self, flags: int, payload: bytes) -> None:
        """Handle a piece of what is sent on the I/O channel, mostly the only one."""
        if flags & _BEGIN:
            self._segments = b""
        if len(self._segments) + len(payload) > MAX_SEGMENTS:
            raise ParseError(f"MCS data in segments beyond {MAX_SEGMENTS} bytes")
        payload = self._segments + payload
        self._segments = b""
        if flags & _END:
            self._io_payload(payload)
        else:
            self._segments = payload
