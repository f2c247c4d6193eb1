"""Dynamic channels, inside the static channel ``drdynvc`` (rdpeusb.md 2; MS-RDPEDYC).

The server opens channels by name, the client has or refuses them, both send messages of
any length, cut into data messages that fit a chunk of the static channel. What is sent
in bulk is cut and joined as in :mod:`.svc`: full pieces differ in their payload only.
Between two ends of ours a data message is as long as what it carries, and the static
channel cuts it.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from rusb.errors import LocalProtocolError, ParseError

from .channels import ChannelLimits
from .dvc_messages import (
    MAX_NAME,
    VERSION,
    Capabilities,
    Close,
    Command,
    CreateRequest,
    CreateResponse,
    number_width,
)
from .events import (
    ChannelClosed,
    ChannelData,
    ChannelOpened,
    ChannelRefused,
    DynamicReady,
    Event,
    Ignored,
)
from .svc import HEADER, SHOW_PROTOCOL, WHOLE, Assembly, ChannelReceiver

__all__ = [
    "FIRST_DYNAMIC",
    "MAX_ASSEMBLED",
    "MAX_DYNAMIC_CHANNELS",
    "PDU_SIZE",
    "DynamicChannel",
    "DynamicChannels",
    "DynamicReceiver",
]

FIRST_DYNAMIC = 0x10000
"""What is added to the number of a dynamic channel: those of static ones are below."""

MAX_DYNAMIC_CHANNELS = 64
"""Open at once, or on their way: 33 of USB, and one each of what else there is."""

MAX_ASSEMBLED = 64 << 20
"""Bytes of unfinished messages in all channels of a connection: as much as a client of
ours lets be in flight."""

PDU_SIZE = 1600
"""Bytes of a message with its header that everybody takes (MS-RDPEDYC 3.1.5.1)."""

OFFER = Capabilities(VERSION, (3276, 9362, 21845, 0x7572))
ANSWER = Capabilities(VERSION, (0, 0, 0, 0x6273))
"""What tells a peer of our own, which takes data messages of any length. Nobody looks
at charges; a client answers with charges only where the server offered ours."""

NOT_FOUND = -0x3FFFFDDB  # 0xC0000225: nobody listens to that name
NO_ROOM = -0x3FFFFF66  # 0xC000009A: insufficient resources

_NUMBERS = struct.Struct("<xB"), struct.Struct("<xH"), struct.Struct("<xI")
_LENGTHS = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I")
_MAX_HEADER = 1 + 4 + 4
_DATA: Final = Command.DATA
_SHORT_DATA: Final = Command.DATA << 4
"""How a data message to a number of one byte begins."""


class DynamicChannel(Assembly):
    """A channel that is open, or that the client was asked to open.

    Attributes:
        number: on the wire; ``channel`` is what others know it by.
        limit: bytes of one message.
        total: of the message that is being put together.
        head: what a data message to it begins with.
    """

    def __init__(self, number: int, name: str, limit: int) -> None:
        super().__init__()
        self.number = number
        self.channel = FIRST_DYNAMIC + number
        self.name = name
        self.limit = limit
        self.total = 0
        self.head = _head(Command.DATA, number)

    def cut(
        self, message: bytes, size: int, header: Callable[[int], bytes]
    ) -> list[bytes]:
        """Return the bytes that carry a message, in pieces (2.5).

        Args:
            message: of any length.
            size: bytes of a data message at most.
            header: returns what is to be in front of a data message of a length.
        """
        head, total = self.head, len(message)
        if len(head) + total <= size:
            return [header(len(head) + total) + head, message]
        width = number_width(total)
        first = _head(Command.DATA_FIRST, self.number, width)
        first += _LENGTHS[width].pack(total)
        start, room = size - len(first), size - len(head)
        starts = range(start, total, room)
        ends = range(start + room, total + room, room)
        full = header(size)
        pieces = [full + head] * (2 * len(starts))
        pieces[-2] = header(len(head) + total - starts[-1]) + head
        pieces[1::2] = map(message.__getitem__, map(slice, starts, ends))
        return [full + first, message[:start], *pieces]


def _head(command: Command, number: int, extra: int = 0) -> bytes:
    """Return a header: command, what *extra* means there, and number."""
    width = number_width(number)
    first = command << 4 | extra << 2 | width
    return bytes((first,)) + _NUMBERS[width].pack(number)[1:]


class DynamicChannels:
    """The dynamic channels of a connection, at one of its ends.

    Args:
        is_server: which end.
        limits: of the channels that are served, by name.
        events: where events go.

    Attributes:
        is_own: the peer is rusb, too.
        opened: the channels that are open, by ``channel``.
        output: what :meth:`messages_to_send` will give.
    """

    def __init__(
        self,
        *,
        is_server: bool,
        limits: Mapping[str, ChannelLimits],
        events: list[Event],
    ) -> None:
        self.is_own = False
        self.opened: dict[int, DynamicChannel] = {}
        self.output: list[tuple[int, bytes]] = []
        self._is_server = is_server
        self._is_ready = False
        self._limits = limits
        self._events = events
        self._last = 0  # number; none is used again (2.6)
        self._channels: dict[int, DynamicChannel] = {}  # by number, also if asked for
        self._assembled = 0

    # ------------------------------------------------- for the connection ----

    @property
    def max_message(self) -> int:
        """Bytes of the longest message that a peer may send, with its header."""
        most = max(limits.message for limits in self._limits.values())
        return max(most, MAX_NAME) + _MAX_HEADER

    def messages_to_send(self) -> list[tuple[int, bytes]]:
        """Take what is to be sent on the static channel, and clear it.

        Each message has the number of the dynamic channel that it is about: what that
        one sends keeps its place around it.
        """
        taken, self.output = self.output, []
        return taken

    def start(self) -> None:
        """The static channel is operational; the server speaks first."""
        if self._is_server:
            self._say(0, OFFER.serialize())

    def open(self, name: str) -> bool:
        """Ask the client for a channel; ChannelOpened or ChannelRefused follows.

        Returns:
            False: there is no room for a further one, and nothing follows.

        Raises:
            LocalProtocolError: we are the client, there was no DynamicReady, or no
                limits are known for the name.
        """
        limits = self._limits.get(name)
        if not self._is_ready or limits is None:
            raise LocalProtocolError(f"cannot open a dynamic channel {name!r}")
        if not self._has_room(name, limits):
            return False
        self._last += 1
        self._add(self._last, name, limits)
        self._say(self._last, CreateRequest(self._last, name).serialize())
        return True

    def close(self, channel: int) -> None:
        """Close a channel, if it is still open. No event follows."""
        known = self._channels.get(channel - FIRST_DYNAMIC)
        if known is not None:
            self._forget(known)
            self._say(known.number, Close(known.number).serialize())

    def receive(self, message: bytes) -> None:
        """Take one whole message of the static channel.

        Raises:
            ParseError: it ends the connection: a malformed one, compressed data, a
                channel opened twice, or too much that is unfinished.
        """
        if not message:
            raise ParseError("empty message of dynamic channels")
        match message[0] >> 4:
            case Command.DATA:
                self._data(message)
            case Command.DATA_FIRST:
                self._data_first(message)
            case Command.CREATE if self._is_server:
                self._answered(CreateResponse.parse(message))
            case Command.CREATE:
                self._asked(CreateRequest.parse(message))
            case Command.CLOSE:
                self._closed(Close.parse(message))
            case Command.CAPABILITIES:
                self._capable(Capabilities.parse(message))
            case Command.DATA_FIRST_COMPRESSED | Command.DATA_COMPRESSED:
                raise ParseError(
                    f"compressed data on dynamic channels, which version {VERSION}"
                    " does not have"
                )
            case command:
                self._ignore(f"command {command}")

    def receive_joined(self, pieces: list[bytes | bytearray | memoryview]) -> None:
        """Take one whole message of the static channel, which came in pieces.

        Raises:
            ParseError: as :meth:`receive`.
        """
        first = bytes(pieces[0][:_MAX_HEADER]) if pieces else b""
        if len(first) < _MAX_HEADER or first[0] >> 4 != Command.DATA:
            self.receive(b"".join(pieces))
            return
        number, start = self._number(first)
        pieces[0] = memoryview(pieces[0])[start:]
        known = self.opened.get(FIRST_DYNAMIC + number)
        self._deliver(known, number, b"".join(pieces))

    def refuse(self, total: int, first: bytes) -> bool:
        """A message of the static channel is longer than any may be: close the dynamic
        one that it is for. False: none can be told.

        Raises:
            ParseError: as :meth:`receive`.
        """
        if len(first) < _MAX_HEADER or first[0] >> 4 != Command.DATA:
            return False
        number, start = self._number(first)
        known = self._find(number)
        if known is not None:
            self._fail(known, _too_long(known, total - start))
        return True

    def receive_packet(
        self, data: bytes, start: int, message: int, end: int, limit: int
    ) -> int:
        """Take one whole message of the static channel, and those after it that are
        full pieces of the same message of a dynamic one, all at once.

        Args:
            data, start, end, limit: as of :meth:`.ChannelReceiver.receive`.
            message: where it begins.

        Returns:
            where the next packet begins.

        Raises:
            ParseError: as :meth:`receive`.
        """
        if end - message < _MAX_HEADER or data[message] >> 4 != _DATA:
            self.receive(data[message:end])
            return end
        if data[message] == _SHORT_DATA:  # as nearly always
            number, payload = data[message + 1], message + 2
        else:
            number, width = self._number(data, message)
            payload = message + width
        known = self.opened.get(FIRST_DYNAMIC + number)
        if known is not None and not known.left and end - payload <= known.limit:
            self._events.append(ChannelData(known.channel, data[payload:end]))
            return end
        if known is not None and known.left and limit > end:
            header = data[start:payload]
            if data.startswith(header, end):
                left = known.left
                after = known.take_run(data, header, end - payload, start, limit)
                if after != start:
                    self._count(left - known.left)
                    return after
        self._deliver(known, number, data[payload:end])
        return end

    # ---------------------------------------------------------- messages ----

    def _capable(self, found: Capabilities) -> None:
        """Take the server's offer, or the client's answer to ours (2.3)."""
        if not found.version:
            raise ParseError("version 0 of dynamic channels")
        if not self._is_server:
            self.is_own = found == OFFER
            version = min(found.version, VERSION)
            answer = ANSWER if self.is_own else Capabilities(version)
            self._say(0, answer.serialize())
        elif self._is_ready:
            self._ignore("repeated capabilities")
        else:
            self.is_own = found == ANSWER
            self._is_ready = True
            self._events.append(DynamicReady(found.version))

    def _asked(self, request: CreateRequest) -> None:
        """Client: open a channel, or say why not (2.4)."""
        number, name = request.number, request.name
        if number in self._channels:
            raise ParseError(f"dynamic channel {number} was opened twice")
        limits = self._limits.get(name)
        status = 0
        if limits is None:
            status = NOT_FOUND
        elif not self._has_room(name, limits):
            status = NO_ROOM
        else:
            self._use(self._add(number, name, limits))
        if status:
            self._ignore(f"request for {name!r}: status 0x{status & 0xFFFFFFFF:08X}")
        self._say(number, CreateResponse(number, status).serialize())

    def _answered(self, response: CreateResponse) -> None:
        """Server: the client has opened a channel, or refused to."""
        known = self._channels.get(response.number)
        if known is None or known.channel in self.opened:
            self._ignore(f"answer about {response.number}, which was not asked for")
        elif response.status < 0:
            self._forget(known)
            self._events.append(ChannelRefused(known.name, response.status))
        else:
            self._use(known)

    def _use(self, known: DynamicChannel) -> None:
        """It is open from now on."""
        self.opened[known.channel] = known
        self._events.append(ChannelOpened(known.channel, known.name, is_dynamic=True))

    def _closed(self, close: Close) -> None:
        """The peer closes a channel, or answers our close (2.6)."""
        known = self._find(close.number)
        if known is None:
            return
        self._forget(known)
        self._events.append(ChannelClosed(known.channel))
        if not self._is_server:
            # MS-RDPEDYC 3.3.5.2: the server does not
            self._say(close.number, close.serialize())

    def _say(self, number: int, message: bytes) -> None:
        self.output.append((FIRST_DYNAMIC + number, message))

    def _data_first(self, message: bytes) -> None:
        """Begin to put a message together."""
        width = message[0] >> 2 & 3
        number, start = self._number(message)
        if width == 3 or len(message) < start + _LENGTHS[width].size:
            raise ParseError(f"first data without its length: {message[:16].hex()}")
        (total,) = _LENGTHS[width].unpack_from(message, start)
        known = self._find(number)
        if known is None:
            return
        if known.left:
            self._fail(known, f"a message begins, {known.left} bytes are missing")
        elif total > known.limit:
            self._fail(known, _too_long(known, total))
        else:
            known.total = known.left = total
            self._collect(known, memoryview(message)[start + _LENGTHS[width].size :])

    def _data(self, message: bytes) -> None:
        """Take a whole message, or the next piece of one."""
        number, start = self._number(message)
        known = self.opened.get(FIRST_DYNAMIC + number)
        self._deliver(known, number, message[start:])

    def _deliver(self, known: DynamicChannel | None, number: int, data: bytes) -> None:
        """Hand out a message, or collect a piece of one."""
        if known is None:
            self._cross(number)
        elif known.left:
            self._collect(known, memoryview(data))
        elif len(data) > known.limit:
            self._fail(known, _too_long(known, len(data)))
        else:
            self._events.append(ChannelData(known.channel, data))

    def _collect(self, known: DynamicChannel, piece: memoryview) -> None:
        if len(piece) > known.left:
            self._fail(known, f"piece of {len(piece)} bytes, {known.left} are missing")
            return
        known.add(piece)
        self._count(len(piece))
        if not known.left:
            pieces, known.pieces = known.pieces, []
            self._assembled -= known.total
            self._events.append(ChannelData(known.channel, b"".join(pieces)))

    # -------------------------------------------------------------- parts ----

    def _number(self, data: bytes, start: int = 0) -> tuple[int, int]:
        """Return the number in a header that begins at *start*, and its length."""
        width = data[start] & 3
        layout = _NUMBERS[width] if width < 3 else None
        if layout is None or len(data) < start + layout.size:
            raise ParseError(f"no channel in {data[start : start + 16].hex()}")
        return layout.unpack_from(data, start)[0], layout.size

    def _find(self, number: int) -> DynamicChannel | None:
        known = self.opened.get(FIRST_DYNAMIC + number)
        if known is None:
            self._cross(number)
        return known

    def _cross(self, number: int) -> None:
        """2.6: it crosses our close, or answers it."""
        self._ignore(f"message for {number}, which is not open")

    def _has_room(self, name: str, limits: ChannelLimits) -> bool:
        mine = sum(known.name == name for known in self._channels.values())
        return mine < limits.channels and len(self._channels) < MAX_DYNAMIC_CHANNELS

    def _add(self, number: int, name: str, limits: ChannelLimits) -> DynamicChannel:
        known = self._channels[number] = DynamicChannel(number, name, limits.message)
        return known

    def _forget(self, known: DynamicChannel) -> None:
        del self._channels[known.number]
        self.opened.pop(known.channel, None)
        if known.left:
            self._assembled -= known.total - known.left

    def _fail(self, known: DynamicChannel, why: str) -> None:
        """Close a channel on which the peer broke a rule (2.5)."""
        self.close(known.channel)
        self._events.append(ChannelClosed(known.channel, why))

    def _count(self, size: int) -> None:
        self._assembled += size
        if self._assembled > MAX_ASSEMBLED:
            raise ParseError(
                f"{self._assembled} bytes of unfinished messages on dynamic channels,"
                f" at most {MAX_ASSEMBLED}"
            )

    def _ignore(self, what: str) -> None:
        self._events.append(Ignored(f"dynamic channels: {what}"))


def _too_long(known: DynamicChannel, size: int) -> str:
    return f"message of {size} bytes, at most {known.limit}"


class DynamicReceiver(ChannelReceiver):
    """Takes what arrives on the static channel of dynamic ones.

    Args:
        channel, name, events: as of :class:`.ChannelReceiver`.
        dynamic: gets the messages.
    """

    def __init__(
        self, channel: int, name: str, events: list[Event], dynamic: DynamicChannels
    ) -> None:
        super().__init__(channel, name, events, dynamic.max_message)
        self._dynamic = dynamic

    def receive(self, data: bytes, start: int, body: int, end: int, limit: int) -> int:
        """Take a chunk, and those after it that belong to the same run."""
        message = body + HEADER.size
        if message < end and not self._is_open:
            total, flags = HEADER.unpack_from(data, body)
            if flags & ~SHOW_PROTOCOL == WHOLE and total == end - message:
                if total <= self._max_message:  # as nearly always: a whole message
                    return self._dynamic.receive_packet(
                        data, start, message, end, limit
                    )
        return super().receive(data, start, body, end, limit)

    def _refuse(self, total: int, first: bytes) -> None:
        """Skip it, and close the channel that it is for."""
        if self._dynamic.refuse(total, first):
            self._skip()
        else:
            super()._refuse(total, first)

    def _deliver(self, pieces: list[bytes | bytearray | memoryview]) -> None:
        self._dynamic.receive_joined(pieces)
