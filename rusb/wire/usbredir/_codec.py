"""Packets of usbredir: framing, capabilities, layouts (usbredir.md 1 to 5).

Little-endian, packed. A packet is a main header (type u32, length u32, id u32 or
u64), a header of its type, and for some types data.
"""

import enum
import struct
from dataclasses import dataclass

from rusb.errors import ParseError, RemoteProtocolError
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import UrbStatus

__all__ = ["Cap", "Packet", "Splitter", "Type", "endpoint_index", "parse_packet"]

MAX_LENGTH = (16 << 20) + 1024
"""Bytes of one packet that are taken; the reference parser takes 128 MiB, guests send
1 MiB at most."""

VERSION_SIZE = 64


class Type(enum.IntEnum):
    """Packet types."""

    HELLO = 0
    DEVICE_CONNECT = 1
    DEVICE_DISCONNECT = 2
    RESET = 3
    INTERFACE_INFO = 4
    EP_INFO = 5
    SET_CONFIGURATION = 6
    GET_CONFIGURATION = 7
    CONFIGURATION_STATUS = 8
    SET_ALT_SETTING = 9
    GET_ALT_SETTING = 10
    ALT_SETTING_STATUS = 11
    START_ISO = 12
    STOP_ISO = 13
    ISO_STATUS = 14
    START_INTERRUPT = 15
    STOP_INTERRUPT = 16
    INTERRUPT_STATUS = 17
    ALLOC_STREAMS = 18
    FREE_STREAMS = 19
    STREAMS_STATUS = 20
    CANCEL = 21
    FILTER_REJECT = 22
    FILTER_FILTER = 23
    DISCONNECT_ACK = 24
    START_BULK_RECEIVING = 25
    STOP_BULK_RECEIVING = 26
    BULK_RECEIVING_STATUS = 27
    CONTROL = 100
    BULK = 101
    ISO = 102
    INTERRUPT = 103
    BUFFERED_BULK = 104


class Cap(enum.IntEnum):
    """Capabilities; one counts when both sides announced it.

    Sets of them are plain numbers: flags of ``enum`` would make an object of each
    comparison, six for every URB.
    """

    BULK_STREAMS = 1
    DEVICE_VERSION = 2
    FILTER = 4
    DISCONNECT_ACK = 8
    MAX_PACKET_SIZE = 16
    IDS_64 = 32
    LENGTH_32 = 64
    BULK_RECEIVING = 128


HOST_CAPS = 0x7E
"""What both our sides announce: no bulk streams, no buffered bulk input (2)."""

SUCCESS, CANCELLED, INVAL, IOERROR, STALL, TIMEOUT, BABBLE = range(7)

STATUS_CODES = {
    UrbStatus.OK: SUCCESS,
    UrbStatus.CANCELLED: CANCELLED,
    UrbStatus.INVALID: INVAL,
    UrbStatus.STALL: STALL,
    UrbStatus.TIMEOUT: TIMEOUT,
    UrbStatus.OVERFLOW: BABBLE,
}
STATUSES = {code: status for status, code in STATUS_CODES.items()}

SPEED_CODES = {Speed.LOW: 0, Speed.FULL: 1, Speed.HIGH: 2, Speed.SUPER: 3}
SPEEDS = {code: speed for speed, code in SPEED_CODES.items()}
NO_ENDPOINT = 255
ENDPOINTS = 32

_HEADERS = {False: struct.Struct("<III"), True: struct.Struct("<IIQ")}

_FROM_HOST, _FROM_GUEST, _FROM_BOTH = 1, 2, 3


def _fixed(
    layout: str, sender: int, cap: Cap | None = None
) -> tuple[struct.Struct, int, Cap | None]:
    return struct.Struct("<" + layout), sender, cap


LAYOUTS = {
    Type.DEVICE_DISCONNECT: _fixed("", _FROM_HOST),
    Type.RESET: _fixed("", _FROM_GUEST),
    Type.INTERFACE_INFO: _fixed("I32s32s32s32s", _FROM_HOST),
    Type.SET_CONFIGURATION: _fixed("B", _FROM_GUEST),
    Type.GET_CONFIGURATION: _fixed("", _FROM_GUEST),
    Type.CONFIGURATION_STATUS: _fixed("BB", _FROM_HOST),
    Type.SET_ALT_SETTING: _fixed("BB", _FROM_GUEST),
    Type.GET_ALT_SETTING: _fixed("B", _FROM_GUEST),
    Type.ALT_SETTING_STATUS: _fixed("BBB", _FROM_HOST),
    Type.START_ISO: _fixed("BBB", _FROM_GUEST),
    Type.STOP_ISO: _fixed("B", _FROM_GUEST),
    Type.ISO_STATUS: _fixed("BB", _FROM_HOST),
    Type.START_INTERRUPT: _fixed("B", _FROM_GUEST),
    Type.STOP_INTERRUPT: _fixed("B", _FROM_GUEST),
    Type.INTERRUPT_STATUS: _fixed("BB", _FROM_HOST),
    Type.ALLOC_STREAMS: _fixed("II", _FROM_GUEST, Cap.BULK_STREAMS),
    Type.FREE_STREAMS: _fixed("I", _FROM_GUEST, Cap.BULK_STREAMS),
    Type.STREAMS_STATUS: _fixed("IIB", _FROM_HOST, Cap.BULK_STREAMS),
    Type.CANCEL: _fixed("", _FROM_GUEST),
    Type.FILTER_REJECT: _fixed("", _FROM_GUEST, Cap.FILTER),
    Type.FILTER_FILTER: _fixed("", _FROM_BOTH, Cap.FILTER),
    Type.DISCONNECT_ACK: _fixed("", _FROM_GUEST, Cap.DISCONNECT_ACK),
    Type.START_BULK_RECEIVING: _fixed("IIBB", _FROM_GUEST, Cap.BULK_RECEIVING),
    Type.STOP_BULK_RECEIVING: _fixed("IB", _FROM_GUEST, Cap.BULK_RECEIVING),
    Type.BULK_RECEIVING_STATUS: _fixed("IBB", _FROM_HOST, Cap.BULK_RECEIVING),
    Type.CONTROL: _fixed("BBBBHHH", _FROM_BOTH),
    Type.ISO: _fixed("BBH", _FROM_BOTH),
    Type.INTERRUPT: _fixed("BBH", _FROM_BOTH),
    Type.BUFFERED_BULK: _fixed("IIBB", _FROM_HOST, Cap.BULK_RECEIVING),
}
"""Layout of the type's header, who may send it, the capability it needs."""

_BULK = {False: struct.Struct("<BBHI"), True: struct.Struct("<BBHIH")}
_CONNECT = {False: struct.Struct("<BBBBHH"), True: struct.Struct("<BBBBHHH")}
_WITH_DATA = frozenset(
    (
        Type.FILTER_FILTER,
        Type.CONTROL,
        Type.BULK,
        Type.ISO,
        Type.INTERRUPT,
        Type.BUFFERED_BULK,
    )
)
_NEEDS_IN = frozenset(
    (
        Type.START_INTERRUPT,
        Type.STOP_INTERRUPT,
        Type.START_BULK_RECEIVING,
        Type.STOP_BULK_RECEIVING,
    )
)
_TYPES = frozenset(Type)


def endpoint_index(address: int) -> int:
    """Return the index of an endpoint in arrays (3)."""
    return (address & 0x80) >> 3 | (address & 0x0F)


def layout_of(kind: int, caps: int) -> struct.Struct:
    """Return the layout of a type's header under the active *caps*."""
    if kind == Type.BULK:
        return _BULK[bool(caps & Cap.LENGTH_32)]
    if kind == Type.DEVICE_CONNECT:
        return _CONNECT[bool(caps & Cap.DEVICE_VERSION)]
    if kind == Type.EP_INFO:
        layout = "<32s32s32s"
        if caps & Cap.MAX_PACKET_SIZE:
            layout += "64s128s" if caps & Cap.BULK_STREAMS else "64s"
        return struct.Struct(layout)
    return LAYOUTS[Type(kind)][0]


@dataclass(slots=True)
class Packet:
    """One packet.

    Attributes:
        fields: of the type's header, in the order of the specification.
        data: what follows it.
    """

    type: int
    id: int
    fields: tuple[int, ...]
    data: bytes | memoryview = b""


def bulk_length(fields: tuple[int, ...]) -> int:
    """Return the length that a bulk header states."""
    return fields[2] | fields[4] << 16 if len(fields) == 5 else fields[2]


def parse_packet(
    kind: int, id: int, body: memoryview, caps: int, *, from_host: bool
) -> Packet:
    """Read a packet's body and check it as the reference parser does.

    Raises:
        ParseError: the receiver must drop it.
    """
    if kind not in _TYPES:
        raise ParseError(f"packet of unknown type {kind}")
    if kind == Type.HELLO:
        return _parse_hello(id, body)
    _check_sender(Type(kind), caps, from_host)
    layout = layout_of(kind, caps)
    if len(body) < layout.size or (len(body) != layout.size and kind not in _WITH_DATA):
        raise ParseError(f"packet of type {kind} with {len(body)} bytes")
    fields = layout.unpack_from(body)
    data = body[layout.size :]
    if kind >= Type.CONTROL:
        _check_data(kind, fields, data, from_host)
    elif kind == Type.FILTER_FILTER and bytes(data[-1:]) != b"\0":
        raise ParseError("filter text without its terminating zero")
    elif kind == Type.INTERFACE_INFO and fields[0] > ENDPOINTS:
        raise ParseError(f"{fields[0]} interfaces, at most {ENDPOINTS} are allowed")
    elif kind in _NEEDS_IN and not fields[2 if kind == 25 else -1] & 0x80:
        raise ParseError(f"packet of type {kind} for an OUT endpoint")
    return Packet(kind, id, fields, data)


def _parse_hello(id: int, body: memoryview) -> Packet:
    if len(body) < VERSION_SIZE:
        raise ParseError(f"hello of {len(body)} bytes")
    words = (len(body) - VERSION_SIZE) // 4
    caps = struct.unpack_from(f"<{min(words, 1)}I", body, VERSION_SIZE)
    return Packet(Type.HELLO, id, tuple(caps), body[:VERSION_SIZE])


def _check_sender(kind: Type, caps: int, from_host: bool) -> None:
    if kind in (Type.DEVICE_CONNECT, Type.EP_INFO):
        sender, cap = _FROM_HOST, None
    elif kind == Type.BULK:
        sender, cap = _FROM_BOTH, None
    else:
        _, sender, cap = LAYOUTS[kind]
    if not sender & (_FROM_HOST if from_host else _FROM_GUEST):
        raise ParseError(f"{kind.name} from the wrong side")
    if cap is not None and not caps & cap:
        raise ParseError(f"{kind.name} without the capability for it")


def _check_data(
    kind: int, fields: tuple[int, ...], data: memoryview, from_host: bool
) -> None:
    """The extra-data rule (5)."""
    if kind == Type.BUFFERED_BULK:
        endpoint, length = fields[2], fields[1]
    else:
        endpoint = fields[0]
        length = bulk_length(fields) if kind == Type.BULK else fields[-1]
    is_in = endpoint & 0x80 != 0
    if kind in (Type.ISO, Type.INTERRUPT) and is_in and not from_host:
        raise ParseError(f"data packet of type {kind} for an IN endpoint from a guest")
    if kind == Type.ISO and not is_in and from_host:
        raise ParseError("iso packet for an OUT endpoint from a host")
    expected = length if is_in == from_host else 0
    if len(data) != expected:
        raise ParseError(f"{len(data)} bytes of data, the header says {expected}")


class Splitter:
    """Cuts a stream into packets and remembers what was negotiated.

    Args:
        from_host: the peer is the usb-host.
        caps: what we announce.
    """

    def __init__(self, *, from_host: bool, caps: int) -> None:
        self.ours = caps
        self.caps = 0  # active
        self.has_hello = False
        self.peer_version = ""
        self._from_host = from_host
        self._buffer = bytearray()
        self._need = 0  # bytes until the next packet is whole

    def feed(self, data: bytes) -> None:
        """Take bytes; :meth:`next` cuts them."""
        self._buffer += data

    @property
    def waiting(self) -> bytes:
        """What was fed and not cut."""
        return bytes(self._buffer)

    def adopt(self, caps: int, waiting: bytes) -> None:
        """Go on with a stream that another one has cut so far; before all else.

        Raises:
            ParseError: *caps* were never announced.
        """
        if caps & ~self.ours:
            raise ParseError(f"capabilities 0x{caps:x}, not of 0x{self.ours:x}")
        self.caps, self.has_hello = caps, True
        self._buffer += waiting

    def next(self) -> Packet | str | None:
        """Return the next whole packet, or why it was dropped; None: there is none.

        A packet keeps a copy of its own bytes, so that a small one that waits for its
        answer keeps nothing else alive.

        Raises:
            RemoteProtocolError: a length that is absurd.
        """
        header = _HEADERS[self.has_hello and bool(self.caps & Cap.IDS_64)]
        if len(self._buffer) < max(self._need, header.size):
            return None
        kind, length, id = header.unpack_from(self._buffer)
        if length > MAX_LENGTH:
            raise RemoteProtocolError(
                f"usbredir packet of {length} bytes, at most {MAX_LENGTH} are allowed"
            )
        self._need = header.size + length
        if len(self._buffer) < self._need:
            return None
        with memoryview(self._buffer) as view:
            body = memoryview(bytes(view[header.size : self._need]))
        del self._buffer[: self._need]
        self._need = 0
        return self._take(kind, id, body)

    def _take(self, kind: int, id: int, body: memoryview) -> Packet | str:
        if not self.has_hello and kind != Type.HELLO:
            return f"packet of type {kind} before hello"
        if self.has_hello and kind == Type.HELLO:
            return "a second hello"
        try:
            packet = parse_packet(kind, id, body, self.caps, from_host=self._from_host)
        except ParseError as error:
            return str(error)
        if kind == Type.HELLO:
            peer = packet.fields[0] if packet.fields else 0
            if not peer & Cap.MAX_PACKET_SIZE:
                peer &= ~Cap.BULK_STREAMS
            self.caps = self.ours & peer
            self.has_hello = True
            text = bytes(packet.data).partition(b"\0")[0]
            self.peer_version = text.decode("ascii", "replace")
        return packet

    def hello(self, version: str) -> bytes:
        """Our hello; always with the short header."""
        text = version.encode("ascii", "replace")[: VERSION_SIZE - 1]
        body = text.ljust(VERSION_SIZE, b"\0") + struct.pack("<I", self.ours)
        return _HEADERS[False].pack(Type.HELLO, len(body), 0) + body

    def serialize(
        self,
        kind: int,
        id: int = 0,
        *fields: int | bytes,
        data: bytes | memoryview = b"",
    ) -> bytes:
        """A packet of any other type."""
        head = layout_of(kind, self.caps).pack(*fields)
        header = _HEADERS[bool(self.caps & Cap.IDS_64)]
        length = len(head) + len(data)
        return b"".join((header.pack(kind, length, id), head, data))

    def bulk(
        self, id: int, endpoint: int, status: int, length: int, data: bytes | memoryview
    ) -> bytes:
        """A bulk packet; the length is cut to 16 bits without the capability."""
        if self.caps & Cap.LENGTH_32:
            fields = (endpoint, status, length & 0xFFFF, 0, length >> 16)
            return self.serialize(Type.BULK, id, *fields, data=data)
        return self.serialize(Type.BULK, id, endpoint, status, length, 0, data=data)


TRANSFER_CODES = {
    TransferType.CONTROL: 0,
    TransferType.ISOCHRONOUS: 1,
    TransferType.BULK: 2,
    TransferType.INTERRUPT: 3,
}
