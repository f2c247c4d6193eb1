"""What client and server connections share: framing, channels, failing once.

Bytes come in through ``receive_data`` in any pieces; packets are taken whole. All
parse errors become :class:`RemoteProtocolError` here, in one place.
"""

from abc import ABC, abstractmethod

from rusb.errors import (
    LocalProtocolError,
    NegotiationError,
    ParseError,
    RemoteProtocolError,
)

from . import svc
from .events import ChannelData, Event, Ignored
from .packets import GLOBAL_CHANNEL, Reader, data_packet

__all__ = ["Connection"]

MIN_TPKT = 7
"""TPKT and the smallest TPDU; bytes."""

_DATA = b"\x02\xf0\x80"
_ENVELOPE = 15  # TPKT 4, X.224 3, MCS 8 with a two-byte length


class Connection(ABC):
    """The part of an RDP connection that does not care which end it is."""

    choice: int
    """MCS choice byte of the data packets that come in."""

    def __init__(self) -> None:
        self.width = 0
        self.height = 0
        self.depth = 0
        self._events: list[Event] = []
        self._out: list[bytes] = []
        self._rest = b""
        self._failure: str | None = None
        self._wants_tls = False
        self._is_done = False
        self._peer_initiator = 0
        self._user: int | None = None
        self._names: dict[int, str] = {}  # granted static channels
        self._assembling: dict[int, svc.Reassembler] = {}
        self._chunk = svc.CHUNK_DEFAULT  # what we send
        self._peer_chunk = svc.CHUNK_DEFAULT  # what the peer sends, as seen

    # ------------------------------------------------------------ the shell ----

    @abstractmethod
    def start(self) -> None:
        """The transport is connected."""

    @abstractmethod
    def tls_started(self) -> None:
        """TLS is up; go on where it was requested."""

    @abstractmethod
    def disconnect(self, reason: int = 1) -> None:
        """Queue an orderly goodbye; the shell sends it and closes."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes in any pieces.

        Raises:
            RemoteProtocolError: the peer broke a rule; nothing is taken afterwards.
            NegotiationError: there is no common ground.
        """
        if self._failure is not None:
            raise RemoteProtocolError(f"the connection is finished: {self._failure}")
        if self._is_done or not data:
            return
        if self._wants_tls:
            self._fail("bytes in clear after TLS was agreed upon")
        data = self._rest + data if self._rest else data
        try:
            used = self._take_packets(data)
        except ParseError as error:
            self._fail(str(error), error)
        except NegotiationError as error:
            self._failure = str(error)
            raise
        except RemoteProtocolError as error:
            self._failure = str(error)
            raise
        self._rest = data[used:]
        if self._wants_tls and self._rest:
            self._fail("bytes in clear after TLS was agreed upon")

    def events(self) -> list[Event]:
        """Take the events, oldest first."""
        taken, self._events = self._events, []
        return taken

    def data_to_send(self) -> list[bytes]:
        """Take what is to be sent, oldest first."""
        taken, self._out = self._out, []
        return taken

    def send_channel(self, channel: int, message: bytes) -> None:
        """Queue one whole message on a static channel.

        Raises:
            LocalProtocolError: no such channel, or a message beyond the limit.
        """
        if channel not in self._names:
            raise LocalProtocolError(f"channel {channel} is not open")
        if len(message) > svc.MAX_MESSAGE:
            raise LocalProtocolError(f"message of {len(message)} bytes")
        if not self._is_done:
            self._out.append(svc.packets_of(message, channel, self._user, self._chunk))

    # -------------------------------------------------------- for both ends ----

    def _fail(self, reason: str, cause: Exception | None = None) -> None:
        self._failure = reason
        raise RemoteProtocolError(reason) from cause

    def _take_packets(self, data: bytes) -> int:
        """Take every whole packet and return how many bytes they were."""
        offset, size = 0, len(data)
        while size - offset >= 4 and not (self._is_done or self._wants_tls):
            if data[offset] == 3:
                length = int.from_bytes(data[offset + 2 : offset + 4], "big")
                if length < MIN_TPKT:
                    raise ParseError(f"TPKT of {length} bytes", offset)
                if size - offset < length:
                    break
                offset += self._take_tpkt(data, offset, length)
            else:
                length, head = data[offset + 1], 2
                if length & 0x80:
                    length = (length & 0x7F) << 8 | data[offset + 2]
                    head = 3
                if length <= head:
                    raise ParseError(f"fast-path packet of {length} bytes", offset)
                if size - offset < length:
                    break
                self._fast_path(data[offset + head : offset + length])
                offset += length
        return offset

    def _take_tpkt(self, data: bytes, offset: int, length: int) -> int:
        """Take the TPKT at *offset*, and what belongs together with it."""
        if (
            length > _ENVELOPE + 8
            and data[offset + 7] == self.choice
            and data[offset + 4 : offset + 7] == _DATA
            and data[offset + 13] & 0x80
        ):
            channel = data[offset + 10] << 8 | data[offset + 11]
            if channel in self._names:
                return self._take_channel(data, offset, length, channel)
        self._tpkt(data[offset : offset + length])
        return length

    def _take_channel(self, data: bytes, offset: int, length: int, channel: int) -> int:
        """Take one packet of a static channel, or a whole message at once."""
        flags = data[offset + _ENVELOPE + 4]
        if flags & (svc.FIRST | svc.LAST) == svc.FIRST:
            initiator = data[offset + 8] << 8 | data[offset + 9]
            run = svc.match_run(
                memoryview(data)[offset:],
                self.choice,
                initiator,
                channel,
                length - _ENVELOPE - 8,
            )
            if run is not None:
                self._events.append(ChannelData(channel, run[0]))
                return run[1]
        self._channel_packet(channel, data[offset + _ENVELOPE : offset + length])
        return length

    def _channel_packet(self, channel: int, payload: bytes) -> None:
        message, reason = self._assembling[channel].add(payload)
        if message is not None:
            self._events.append(ChannelData(channel, message))
        elif reason is not None:
            self._events.append(Ignored(f"channel {channel}: {reason}"))

    def _data_body(self, body: bytes) -> None:
        """Take an MCS data PDU, from its choice byte on."""
        reader = Reader(body, 3)
        channel = reader.u16be()
        reader.u8()
        length = reader.per()
        payload = reader.rest()
        if length > len(payload):
            raise ParseError(f"MCS data of {length} bytes, have {len(payload)}")
        payload = payload[:length]
        if channel == GLOBAL_CHANNEL:
            self._global(payload)
        elif channel in self._names:
            self._channel_packet(channel, payload)
        else:
            self._events.append(Ignored(f"data on channel {channel}, never granted"))

    def _open_names(self, names: dict[int, str]) -> None:
        self._names = names
        self._assembling = {channel: svc.Reassembler() for channel in names}

    def _send_global(self, body: bytes) -> None:
        self._out.append(data_packet(body, GLOBAL_CHANNEL, self._user))

    # --------------------------------------------------------- one end each ----

    @abstractmethod
    def _tpkt(self, packet: bytes) -> None:
        """Take a packet that is not channel data."""

    @abstractmethod
    def _fast_path(self, body: bytes) -> None:
        """Take a fast-path packet without its header."""

    @abstractmethod
    def _global(self, payload: bytes) -> None:
        """Take the payload of a packet on the I/O channel."""
