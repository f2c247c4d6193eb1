"""MCS (T.125): connect PDUs and the domain PDUs that RDP uses (1.5 to 1.7)."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

from rusb.errors import NegotiationError, ParseError

from .per import Reader, ber, read_ber
from .tpkt import tpkt
from .x224 import DATA_HEADER

__all__ = [
    "FIRST_CHANNEL",
    "IO_CHANNEL",
    "MAX_INITIATOR",
    "USER_BASE",
    "Confirm",
    "Pdu",
    "attach_confirm",
    "attach_request",
    "erect_domain",
    "join_confirm",
    "join_request",
    "parse_connect_initial",
    "parse_connect_response",
    "serialize_connect_initial",
    "serialize_connect_response",
    "ultimatum",
]

USER_BASE = 1001
"""User channel of initiator 0."""

MAX_INITIATOR = 0xFFFF - USER_BASE

IO_CHANNEL = 1003
FIRST_CHANNEL = 1004

_CONNECT_INITIAL, _CONNECT_RESPONSE = 0x7F65, 0x7F66


class Pdu(enum.IntEnum):
    """Choice numbers of domain PDUs: the upper six bits of their first byte."""

    ERECT_DOMAIN = 1
    ULTIMATUM = 8
    ATTACH_REQUEST = 10
    ATTACH_CONFIRM = 11
    JOIN_REQUEST = 14
    JOIN_CONFIRM = 15
    SEND_REQUEST = 25
    SEND_INDICATION = 26


def _integers(*values: tuple[int, int]) -> bytes:
    """Serialize domain parameters given as (value, bytes it takes)."""
    return ber(0x30, b"".join(ber(2, v.to_bytes(size)) for v, size in values))


def _parameters(channels: int, users: int, tokens: int, size: int) -> bytes:
    def number(value: int) -> tuple[int, int]:
        return value, value.bit_length() // 8 + 1

    numbers = (channels, users, tokens, 1, 0, 1, size, 2)
    return _integers(*map(number, numbers))


def serialize_connect_initial(user_data: bytes) -> bytes:
    """Return the client's connect packet with the domain parameters of rdesktop."""
    content = (
        ber(4, b"\x01")
        + ber(4, b"\x01")
        + ber(1, b"\xff")
        + _parameters(34, 2, 0, 0xFFFF)
        + _parameters(1, 1, 1, 0x420)
        + _parameters(0xFFFF, 0xFC17, 0xFFFF, 0xFFFF)
        + ber(4, user_data)
    )
    return tpkt(DATA_HEADER, ber(_CONNECT_INITIAL, content))


def parse_connect_initial(data: bytes) -> bytes:
    """Read what follows the X.224 header and return the GCC user data.

    Raises:
        ParseError: another or a malformed PDU; contents of parameters do not matter.
    """
    outer = Reader(data, "MCS Connect-Initial")
    reader = Reader(read_ber(outer, _CONNECT_INITIAL), "MCS Connect-Initial")
    outer.end()
    for tag in (4, 4, 1, 0x30, 0x30, 0x30):
        read_ber(reader, tag)
    user_data = read_ber(reader, 4)
    reader.end()
    return user_data


def serialize_connect_response(user_data: bytes) -> bytes:
    """Return the server's connect packet, byte for byte as the original (1.6)."""
    parameters = ((34, 1), (3, 1), (0, 1), (1, 1), (0, 1), (1, 1), (0xFFF8, 3), (2, 1))
    content = ber(0x0A, b"\0") + ber(2, b"\0") + _integers(*parameters)
    return tpkt(DATA_HEADER, ber(_CONNECT_RESPONSE, content + ber(4, user_data)))


def parse_connect_response(data: bytes) -> bytes:
    """Read what follows the X.224 header and return the GCC user data.

    Raises:
        ParseError: another or a malformed PDU.
        NegotiationError: the server refused.
    """
    outer = Reader(data, "MCS Connect-Response")
    reader = Reader(read_ber(outer, _CONNECT_RESPONSE), "MCS Connect-Response")
    outer.end()
    result = read_ber(reader, 0x0A)
    if len(result) != 1:
        raise ParseError(f"MCS result of {len(result)} bytes, not 1")
    read_ber(reader, 2)
    read_ber(reader, 0x30)
    user_data = read_ber(reader, 4)
    reader.end()
    if result[0]:
        raise NegotiationError(
            f"the server refused the MCS connection: result {result[0]}"
        )
    return user_data


def erect_domain() -> bytes:
    """Return the packet that begins the joining of channels."""
    return tpkt(DATA_HEADER, b"\x04\x01\x00\x01\x00")


def attach_request() -> bytes:
    """Return the packet that asks for a user channel."""
    return tpkt(DATA_HEADER, b"\x28")


def attach_confirm(initiator: int) -> bytes:
    """Return the packet that grants user channel 1001 + *initiator*."""
    return tpkt(DATA_HEADER, struct.pack(">BBH", 0x2E, 0, initiator))


def join_request(initiator: int, channel: int) -> bytes:
    """Return the packet that asks to join a channel."""
    return tpkt(DATA_HEADER, struct.pack(">BHH", 0x38, initiator, channel))


def join_confirm(initiator: int, channel: int) -> bytes:
    """Return the packet that confirms a join."""
    return tpkt(
        DATA_HEADER, struct.pack(">BBHHH", 0x3E, 0, initiator, channel, channel)
    )


def ultimatum(*, is_by_user: bool) -> bytes:
    """Return the packet that ends the domain: by a user or by the provider (1.19)."""
    return tpkt(DATA_HEADER, b"\x21\x80" if is_by_user else b"\x20\x80")


@dataclass(frozen=True, slots=True)
class Confirm:
    """Answer to an attach or join request.

    Attributes:
        result: 0 is success.
        initiator: of the user.
        channel: that was joined; None in an attach confirm.
    """

    result: int
    initiator: int
    channel: int | None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a domain PDU of type ATTACH_CONFIRM or JOIN_CONFIRM.

        Raises:
            ParseError: it is too short for its type.
        """
        reader = Reader(body, "MCS confirm")
        head = reader.u8()
        result = (head & 1) << 3 | reader.u8() >> 5
        if head >> 2 == Pdu.ATTACH_CONFIRM:
            initiator = reader.u16be() if head & 2 else 0
            return cls(result, initiator, None)
        initiator, requested = reader.u16be(), reader.u16be()
        return cls(result, initiator, reader.u16be() if head & 2 else requested)
