"""Static channels: cut messages into chunks and put them together again (1.18).

A chunk is a Send Data PDU of MCS whose payload begins with the message's total length
and flags. Messages of many chunks are the hot path: all chunks but the last are equally
long and, between the first and the last, have equal headers, so they are cut, compared
and joined by C code in one go.
"""

import functools
import struct
from collections.abc import Iterator
from typing import TypeAlias

from rusb.errors import ParseError

from .capabilities import MIN_CHUNK
from .events import ChannelData, Event, Ignored, MessageTooLong
from .x224 import DATA_HEADER

__all__ = [
    "HEADER",
    "MAX_CHANNEL_MESSAGE",
    "SHOW_PROTOCOL",
    "WHOLE",
    "Assembly",
    "ChannelReceiver",
    "ChannelSender",
]

MAX_CHANNEL_MESSAGE = 16 << 20
"""Bytes of one channel message. The protocol has no limit; one URB of vrdpusb stays
below 9 MiB, whose largest message is 16 MiB."""

HEADER = struct.Struct("<II")  # total length, flags

SHOW_PROTOCOL = 0x10
"""Flag of a chunk: MS-RDPBCGR 2.2.6.1.1."""

_FIRST, _LAST = 0x01, 0x02
_COMPRESSED = 0x00200000

WHOLE = _FIRST | _LAST
"""Flags of a chunk that is a whole message."""

_KINDS = WHOLE | _COMPRESSED
"""The flags that say how a chunk is to be handled."""

_SMALL = 1024
"""Bytes below which pieces are gathered, or a message of 16 Mi one-byte chunks would
take 40 times its size."""

MAX_FORMS, MAX_PLANNED = 256, 8
"""Lengths of messages of which it is remembered how they are cut, and into how many
chunks at most."""

_Plan: TypeAlias = tuple[list[bytes], list[slice]]
"""How messages of a length are cut: what stands in front of each chunk, with a place
behind it; and the chunks. Without those it is one, and the place is the end."""

_Form: TypeAlias = tuple[struct.Struct, tuple[bytes, ...], list[slice]]
"""How a message comes: what takes it apart, what is in front of each chunk, those."""

_MAX_RUN = 64
"""Chunks taken in one go."""

_SEND_DATA = struct.Struct(">HH4sHHBH")
_SHORT_DATA = struct.Struct(">HH4sHHBB")
_SEND_REQUEST, _SEND_INDICATION = b"\x64", b"\x68"


@functools.lru_cache(256)
def _run(header: int, chunk: int, count: int) -> struct.Struct:
    return struct.Struct(f"{header}s{chunk}s" * count)


def _send_data(start: bytes, initiator: int, channel: int, size: int) -> bytes:
    if size < 0x80:
        return _SHORT_DATA.pack(
            *(0x0300, 14 + size, start, initiator, channel, 0x70, size)
        )
    head = (0x0300, 15 + size, start, initiator, channel, 0x70)
    return _SEND_DATA.pack(*head, 0x8000 | size)


@functools.lru_cache(256)  # transfers are often as long as those before
def _header(
    start: bytes,
    initiator: int,
    prefix: bytes,
    channel: int,
    size: int,
    total: int,
    flags: int,
) -> bytes:
    head = _send_data(start, initiator, channel, len(prefix) + HEADER.size + size)
    return head + prefix + HEADER.pack(total, flags)


@functools.lru_cache(128)  # likewise
def _form(first: bytes, chunk: int) -> _Form | None:
    """Say how a message will come whose chunks are alike but for the last, as ours are.

    Args:
        first: all that is in front of its first chunk.
        chunk: bytes of that one.

    Returns:
        None: it will not.
    """
    total, flags = HEADER.unpack_from(first, len(first) - HEADER.size)
    body = 14 + (first[13] >> 7) if len(first) > 13 else len(first)
    if chunk < _SMALL or total <= chunk or body > len(first) - HEADER.size:
        return None
    count = (total - 1) // chunk  # full ones
    if count >= _MAX_RUN:
        return None
    left = total - count * chunk
    start, initiator, channel = _SHORT_DATA.unpack_from(first)[2:5]
    prefix = first[body : -HEADER.size]
    last = _send_data(start, initiator, channel, len(prefix) + HEADER.size + left)
    last += prefix + HEADER.pack(total, flags & ~_FIRST | _LAST)
    middle = first[:-4] + (flags & ~_FIRST).to_bytes(4, "little")
    size = len(first) + chunk
    starts = range(len(first), count * size, size)
    bodies = [slice(one, one + chunk) for one in starts]
    bodies.append(slice(count * size + len(last), count * size + len(last) + left))
    return (
        struct.Struct(f"{len(first)}s{chunk}x" * count + f"{len(last)}s{left}x"),
        (first, *(middle for _ in range(count - 1)), last),
        bodies,
    )


class ChannelSender:
    """Makes Send Data PDUs.

    Attributes:
        chunk_size: bytes of payload per chunk, as the peer's capabilities allow.
        prefix: the security header in front of every payload, if any.
        initiator: set before the first message of a channel.
    """

    def __init__(self, *, is_server: bool, initiator: int) -> None:
        self.chunk_size = MIN_CHUNK
        self.prefix = b""
        self.initiator = initiator
        self._start = DATA_HEADER + (_SEND_INDICATION if is_server else _SEND_REQUEST)
        # transfers are often as long as those before
        self._forms: dict[tuple[int, int, int, bytes, int, bytes], _Plan] = {}

    def send_data(self, channel: int, size: int) -> bytes:
        """Return all headers up to the payload, whose length is *size*."""
        return _send_data(self._start, self.initiator, channel, size)

    def cut(
        self, channel: int, message: bytes, flags: int = 0, head: bytes = b""
    ) -> list[bytes]:
        """Return the bytes that carry a message, in pieces.

        Args:
            channel: its channel.
            message: bytes of it, but for *head*.
            flags: in each chunk.
            head: what the message begins with, shorter than a chunk.
        """
        form = channel, len(message), flags, head, self.chunk_size, self.prefix
        found = self._forms.get(form)
        if found is None:
            found = self._plan(channel, len(message), flags, head)
            if len(found[1]) <= MAX_PLANNED:
                if len(self._forms) >= MAX_FORMS:
                    self._forms.clear()
                self._forms[form] = found
        heads, slices = found
        if not slices:
            return [*heads, message]
        pieces = heads.copy()
        pieces[1::2] = map(message.__getitem__, slices)
        return pieces

    def _plan(self, channel: int, size: int, flags: int, head: bytes) -> _Plan:
        """Say how a message of *size* bytes behind its head is cut."""
        total, chunk = len(head) + size, self.chunk_size
        if total <= chunk:
            return [self.header(channel, total, total, flags | WHOLE) + head], []
        ends = range(chunk - len(head), size, chunk)
        pieces = [self.header(channel, chunk, total, flags)] * (2 + 2 * len(ends))
        pieces[0] = self.header(channel, chunk, total, flags | _FIRST) + head
        pieces[-2] = self.header(channel, size - ends[-1], total, flags | _LAST)
        return pieces, list(map(slice, (0, *ends), (*ends, size)))

    def chunks(self, message: bytes, flags: int = 0) -> Iterator[bytes]:
        """Yield the chunks of a message with their headers, to be encrypted singly."""
        total, chunk = len(message), self.chunk_size
        for start in range(0, total or 1, chunk):
            mine = flags if start else flags | _FIRST
            if start + chunk >= total:
                mine |= _LAST
            yield HEADER.pack(total, mine) + message[start : start + chunk]

    def header(self, channel: int, size: int, total: int, flags: int) -> bytes:
        """Return all that is in front of *size* bytes of a message of *total*."""
        return _header(
            *(self._start, self.initiator, self.prefix),
            *(channel, size, total, flags),
        )


class Assembly:
    """A message that arrives in pieces.

    Attributes:
        pieces: what there is of it.
        left: bytes that are still to come.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes | bytearray | memoryview] = []
        self.left = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Take a piece, as far as it belongs to the message."""
        if len(piece) > self.left:
            piece = piece[: self.left]
        self.left -= len(piece)
        if len(piece) >= _SMALL:
            self.pieces.append(piece)
        elif self.pieces and isinstance(self.pieces[-1], bytearray):
            self.pieces[-1] += piece
        else:
            self.pieces.append(bytearray(piece))

    def take_run(
        self, data: bytes, header: bytes, chunk: int, end: int, limit: int
    ) -> int:
        """Take packets that differ in nothing but their payload.

        The last one of a message is left: it differs.

        Args:
            data: received bytes.
            header: what all these packets begin with.
            chunk: how many bytes of the message follow it in each.
            end: where the first of them begins.
            limit: where the received bytes end.

        Returns:
            where the next packet begins.
        """
        if chunk < _SMALL:
            return end
        head = len(header)
        size = head + chunk
        while True:
            room = (limit - end) // size
            count = min(room, (self.left - 1) // chunk, _MAX_RUN)
            if count <= 0:
                return end
            parts = _run(head, chunk, count).unpack_from(data, end)
            heads = parts[::2]
            if heads.count(header) != count:
                count = [h == header for h in heads].index(False)
                limit = 0  # the run ends here
            self.pieces += parts[1 : 2 * count : 2]
            self.left -= count * chunk
            end += count * size


class ChannelReceiver(Assembly):
    """Puts the messages of one channel together.

    Args:
        channel: its number.
        name: as it was asked for.
        events: where messages and complaints go.
        max_message: bytes of a message that the peer may send.
        is_lenient: a longer one is skipped, with a MessageTooLong.
    """

    def __init__(
        self,
        channel: int,
        name: str,
        events: list[Event],
        max_message: int = MAX_CHANNEL_MESSAGE,
        *,
        is_lenient: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self._channel = channel
        self._events = events
        self._max_message = max_message
        self._is_lenient = is_lenient
        self._is_open = self._is_skipping = False

    def receive(self, data: bytes, start: int, body: int, end: int, limit: int) -> int:
        """Take the chunk of a packet, and those after it that belong to the same run.

        Args:
            data: received bytes.
            start: where the packet begins in them.
            body: where its channel header begins.
            end: where the packet ends.
            limit: where the received bytes end.

        Returns:
            where the next packet begins.

        Raises:
            ParseError: no channel header, a compressed chunk, or too long a message.
        """
        payload = body + HEADER.size
        if payload > end:
            raise ParseError(f"channel chunk of {end - body} bytes, not 8 or more")
        total, flags = HEADER.unpack_from(data, body)
        if flags & _KINDS == WHOLE and total == end - payload and not self._is_open:
            if total <= self._max_message:  # as nearly always
                self._is_skipping = False
                self._deliver([data[payload:end]])
                return end
        if flags & _COMPRESSED:
            raise ParseError(f"{self.name}: compressed chunk, flags 0x{flags:X}")
        if flags & _FIRST:
            if self._is_open:
                self._ignore("a message without an end")
            if total > self._max_message:
                self._refuse(total, data[payload:end])
                return end
            self._is_skipping = False
            if flags & _LAST:
                self._whole(data[payload : min(end, payload + total)], total)
                return end
            form = _form(data[start:payload], end - payload)
            if form is not None:
                layout, heads, bodies = form
                after = start + layout.size
                if after <= limit and layout.unpack_from(data, start) == heads:
                    self._is_open = False
                    mine = memoryview(data)[start:after]
                    self._deliver([mine[one] for one in bodies])
                    return after
            self._is_open = True
            self.pieces = []
            self.left = total
        elif not self._is_open:
            if not self._is_skipping:
                self._ignore("a chunk without a beginning")
            return end
        self.add(data[payload:end])
        if flags & _LAST:
            self._finish()
        elif limit > end:
            middle = data[start : payload - 4] + (flags & ~_FIRST).to_bytes(4, "little")
            return self.take_run(data, middle, end - payload, end, limit)
        return end

    def _refuse(self, total: int, first: bytes) -> None:
        """Skip a message that is too long, or end the connection because of it."""
        if not self._is_lenient:
            raise ParseError(
                f"{self.name}: message of {total} bytes, at most {self._max_message}"
            )
        self._skip()
        self._events.append(MessageTooLong(self.name, total))

    def _skip(self) -> None:
        self._is_open, self._is_skipping, self.pieces = False, True, []

    def _whole(self, message: bytes, total: int) -> None:
        self._is_open = False
        if len(message) < total:  # vrdpusb.md 1.2: dropped
            self._ignore(f"{len(message)} bytes of a message of {total}")
        else:
            self._deliver([message])

    def _finish(self) -> None:
        """Deliver what was collected, even if the sender said more (vrdpusb.md 1.2)."""
        pieces, self.pieces, self._is_open = self.pieces, [], False
        self._deliver(pieces)

    def _deliver(self, pieces: list[bytes | bytearray | memoryview]) -> None:
        """Hand out a message, in its pieces."""
        self._events.append(ChannelData(self._channel, b"".join(pieces)))

    def _ignore(self, what: str) -> None:
        self._events.append(Ignored(f"channel {self.name}: {what}"))
