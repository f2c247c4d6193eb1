"""What rusb's own two ends say to each other beside the wire (docs/spec/resume.md).

The messages of the static channel ``rusbext``. Everything is little-endian and packed;
a message longer than its fields is fine, a shorter one is not.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias, get_args

from rusb.errors import ParseError

__all__ = [
    "RUSBEXT",
    "VERSION",
    "Accept",
    "Ack",
    "ExtMessage",
    "Feature",
    "Hello",
    "Move",
    "Moved",
    "Ping",
    "Pong",
    "Ready",
    "Refusal",
    "Refused",
    "Resume",
    "Resumed",
    "Stay",
    "Staying",
    "parse",
    "text_to_sign",
]

RUSBEXT = "rusbext"
"""Name of the channel; clients of others never ask for it."""

MAX_CONTROL = 1024
"""Bytes of a message that is not counted: ten times the longest of version 1."""

COUNTED = 16
"""Types from here on are counted like messages of the wire."""

VERSION = 1

_HEAD = struct.Struct("<BBH")


class Feature:
    """Bits of what an end can do; in force is what both set."""

    RESUME = 1
    COMMANDS = 2  # the client runs storage commands by itself (storage.md, 5)
    MOVES = 4  # the client goes where its machine goes (teleport.md, 7.10)


class Refusal:
    """Why a session is not resumed."""

    UNKNOWN = 1  # or expired
    SIGNATURE = 2
    COUNTS = 3  # they cannot be
    POLICY = 4  # another user, or USB is off


class Staying:
    """Why a client is not asked to go where its machine is."""

    OTHER = 0
    WIRE = 1  # its devices travel over another wire than vrdpusb
    AHEAD = 2  # a device is read ahead
    STREAM = 3  # a device streams
    BUSY = 4  # a device is not at rest
    NO_DISPLAY = 5  # the machine has no remote display there
    NO_TLS = 6  # or one without TLS, or that keeps nothing for clients


class _Message:
    """What all have in common."""

    __slots__ = ()

    TYPE: ClassVar[int]
    LAYOUT: ClassVar[struct.Struct]

    def serialize(self) -> bytes:
        """Return the whole message."""
        size = _HEAD.size + self.LAYOUT.size
        fields = (getattr(self, name) for name in map(str, self.__slots__))
        return _HEAD.pack(self.TYPE, 0, size) + self.LAYOUT.pack(*fields)

    @classmethod
    def parse_body(cls, data: bytes) -> Self:
        """Read what follows the four bytes that all begin with."""
        if len(data) < _HEAD.size + cls.LAYOUT.size:
            raise ParseError(
                f"{cls.__name__} of {len(data)} bytes, not"
                f" {_HEAD.size + cls.LAYOUT.size}"
            )
        return cls(*cls.LAYOUT.unpack_from(data, _HEAD.size))


@dataclass(frozen=True, slots=True)
class Hello(_Message):
    """Server: it is willing to keep a session.

    Attributes:
        version: of the protocol.
        features: bits of :class:`Feature`.
        grace_ms: how long a session is kept without a connection.
        window: bytes that the sender is willing to keep; 0: no limit of its own.
        session: id of the new session, 16 bytes.
        nonce: 32 random bytes, for the signature of RESUME on this connection.
    """

    TYPE = 1
    LAYOUT = struct.Struct("<HIII16s32s")
    version: int
    features: int
    grace_ms: int
    window: int
    session: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Accept(_Message):
    """Client: begin a new session; it is the one with this public key (Ed25519)."""

    TYPE = 2
    LAYOUT = struct.Struct("<HII32s")
    version: int
    features: int
    window: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Resume(_Message):
    """Client: go on with a session; *received* messages of it have arrived here."""

    TYPE = 3
    LAYOUT = struct.Struct("<H16sQ64s")
    version: int
    session: bytes
    received: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Resumed(_Message):
    """Server: so be it; *received* messages have arrived there."""

    TYPE = 4
    LAYOUT = struct.Struct("<Q")
    received: int


@dataclass(frozen=True, slots=True)
class Refused(_Message):
    """Server: no; one of :class:`Refusal`."""

    TYPE = 5
    LAYOUT = struct.Struct("<H")
    reason: int


@dataclass(frozen=True, slots=True)
class Ack(_Message):
    """Both: so many messages have arrived so far."""

    TYPE = 6
    LAYOUT = struct.Struct("<Q")
    received: int


@dataclass(frozen=True, slots=True)
class Ping(_Message):
    """Client: are you there?"""

    TYPE = 7
    LAYOUT = struct.Struct("<I")
    number: int


@dataclass(frozen=True, slots=True)
class Pong(_Message):
    """Server: yes, with the number of the PING."""

    TYPE = 8
    LAYOUT = struct.Struct("<I")
    number: int


@dataclass(frozen=True, slots=True)
class Move(_Message):
    """Server: the machine runs elsewhere, at a server that I vouch for; be ready there.

    Attributes:
        port: of its remote display.
        certificate: SHA-256 of what it shows.
        name: an address or a name in ASCII, with zeros behind; see :attr:`host`.
    """

    TYPE = 10
    LAYOUT = struct.Struct("<H32s254s")
    port: int
    certificate: bytes
    name: bytes

    @property
    def host(self) -> str:
        """The address or the name; empty: it is none."""
        return _host(self.name)


@dataclass(frozen=True, slots=True)
class Ready(_Message):
    """Client: I am there, or (0) cannot be, and stay."""

    TYPE = 11
    LAYOUT = struct.Struct("<H")
    is_there: int


@dataclass(frozen=True, slots=True)
class Moved(_Message):
    """Server: what you have is there now, with the same session; go on there."""

    TYPE = 12
    LAYOUT = struct.Struct("<")


@dataclass(frozen=True, slots=True)
class Stay(_Message):
    """Server: the machine runs elsewhere, and you are not asked to go there.

    Attributes:
        reason: one of :class:`Staying`.
        device: because of this one, by the id that the client gave it; 0: of none.
        port: of its remote display there; 0: it has none.
        name: as that of :class:`Move`.
    """

    TYPE = 13
    LAYOUT = struct.Struct("<HIH254s")
    reason: int
    device: int
    port: int
    name: bytes

    @property
    def host(self) -> str:
        """The address or the name; empty: it is none."""
        return _host(self.name)


def _host(name: bytes) -> str:
    text = name.rstrip(b"\0").decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else ""


ExtMessage: TypeAlias = (
    Hello
    | Accept
    | Resume
    | Resumed
    | Refused
    | Ack
    | Ping
    | Pong
    | Move
    | Ready
    | Moved
    | Stay
)

_TYPES: dict[int, type[ExtMessage]] = {kind.TYPE: kind for kind in get_args(ExtMessage)}


def parse(data: bytes) -> ExtMessage | None:
    """Read one whole message that is not counted; None: of an unknown type.

    Raises:
        ParseError: it is too short, too long, or its size is wrong.
    """
    if len(data) < _HEAD.size:
        raise ParseError(f"message of {len(data)} bytes, not {_HEAD.size} or more")
    kind, _, size = _HEAD.unpack_from(data)
    if size != len(data) or size > MAX_CONTROL:
        raise ParseError(f"size field {size}, have {len(data)} bytes", 2)
    if kind >= COUNTED:
        raise ParseError(f"message type {kind} was not agreed on")
    found = _TYPES.get(kind)
    return None if found is None else found.parse_body(data)


def text_to_sign(
    nonce: bytes, session: bytes, received: int, certificate_hash: bytes
) -> bytes:
    """Return what a RESUME signs (4): it is void on any other connection.

    Args:
        nonce: of this connection's HELLO.
        session: the id.
        received: as in the message.
        certificate_hash: SHA-256 of the server's certificate of this connection.
    """
    count = struct.pack("<Q", received)
    return b"".join((b"rusb resume 1\0", nonce, session, count, certificate_hash))
