"""The messages of dynamic channels that come once per connection or channel.

MS-RDPEDYC 2.2; rdpeusb.md 2.2 to 2.4, 2.6. All but capabilities name a channel by a
number of one, two or four bytes; the shortest that holds it is written, any is read.
"""

import enum
from dataclasses import dataclass
from typing import Any, Self

from construct import (
    Array,
    BitsInteger,
    BitStruct,
    CString,
    Error,
    Int8ul,
    Int16ul,
    Int32sl,
    Int32ul,
    Nibble,
    Optional,
    Padding,
    Struct,
    Switch,
    Terminated,
    this,
)

from rusb.errors import ParseError

from .layout import parse

__all__ = [
    "MAX_NAME",
    "VERSION",
    "Capabilities",
    "Close",
    "Command",
    "CreateRequest",
    "CreateResponse",
    "number_width",
]

VERSION = 2
"""What we speak at most: later ones send compressed data."""

MAX_NAME = 255
"""Bytes of a channel's name; the longest in use have some 50."""


class Command(enum.IntEnum):
    """What a message is: the upper half of its first byte."""

    CREATE = 1
    DATA_FIRST = 2
    DATA = 3
    CLOSE = 4
    CAPABILITIES = 5
    DATA_FIRST_COMPRESSED = 6
    DATA_COMPRESSED = 7


_HEAD = BitStruct(
    "command" / Nibble,
    "extra" / BitsInteger(2),  # not used, or a priority
    "width" / BitsInteger(2),
)
_NUMBER = Switch(this.head.width, {0: Int8ul, 1: Int16ul, 2: Int32ul}, default=Error)

_CREATE_REQUEST = Struct(
    "head" / _HEAD, "channel" / _NUMBER, "name" / CString("ascii"), Terminated
)
_CREATE_RESPONSE = Struct(
    "head" / _HEAD, "channel" / _NUMBER, "status" / Int32sl, Terminated
)
_CLOSE = Struct("head" / _HEAD, "channel" / _NUMBER, Terminated)
_CAPABILITIES = Struct(
    "head" / _HEAD,
    Padding(1),
    "version" / Int16ul,
    "charges" / Optional(Array(4, Int16ul)),  # later versions may say more
)


def number_width(number: int) -> int:
    """Return how the length of a channel's number is written: 0, 1 or 2."""
    return 0 if number < 0x100 else 1 if number < 0x10000 else 2


def _build(layout: Any, command: Command, number: int, **fields: object) -> bytes:
    head = {"command": command, "extra": 0, "width": number_width(number)}
    built: bytes = layout.build({"head": head, "channel": number, **fields})
    return built


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an end can do: the server's, then the client's answer.

    Attributes:
        version: of the protocol.
        charges: of the four priorities, four times 16 bits; None: there are none.
    """

    version: int
    charges: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a whole message.

        Raises:
            ParseError: it is too short.
        """
        found = parse(_CAPABILITIES, data, "capabilities")
        return cls(found.version, found.charges and tuple(found.charges))

    def serialize(self) -> bytes:
        """Return the whole message."""
        version, charges = self.version, self.charges
        command = Command.CAPABILITIES
        return _build(_CAPABILITIES, command, 0, version=version, charges=charges)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """The server opens a channel."""

    number: int
    name: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a whole message.

        Raises:
            ParseError: it has another form, or a name of more than MAX_NAME bytes.
        """
        if len(data) > 1 + 4 + MAX_NAME + 1:
            raise ParseError(f"request for a channel with a name of {len(data)} bytes")
        found = parse(_CREATE_REQUEST, data, "request for a channel")
        return cls(found.channel, found.name)

    def serialize(self) -> bytes:
        """Return the whole message."""
        return _build(_CREATE_REQUEST, Command.CREATE, self.number, name=self.name)


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """The client's answer; *status* is an HRESULT, negative if it does not open it."""

    number: int
    status: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a whole message.

        Raises:
            ParseError: it has another form.
        """
        found = parse(_CREATE_RESPONSE, data, "answer about a channel")
        return cls(found.channel, found.status)

    def serialize(self) -> bytes:
        """Return the whole message."""
        status = self.status
        return _build(_CREATE_RESPONSE, Command.CREATE, self.number, status=status)


@dataclass(frozen=True, slots=True)
class Close:
    """A channel is closed, or its closing answered."""

    number: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a whole message.

        Raises:
            ParseError: it has another form.
        """
        return cls(parse(_CLOSE, data, "close").channel)

    def serialize(self) -> bytes:
        """Return the whole message."""
        return _build(_CLOSE, Command.CLOSE, self.number)
