"""TPKT, X.224, BER and PER lengths, MCS: the envelopes (vrdp-server.md 1.2 to 1.7).

Big-endian throughout, as T.123, X.224 and T.125 are.
"""

import struct
from dataclasses import dataclass

from rusb.errors import NegotiationError, ParseError

__all__ = [
    "GLOBAL_CHANNEL",
    "MAX_PACKET",
    "Negotiation",
    "Reader",
    "ber",
    "connection_confirm",
    "connection_request",
    "data_packet",
    "parse_connection_confirm",
    "parse_connection_request",
    "per_length",
    "x224_data",
]

MAX_PACKET = 0x3FFF
"""Bytes of one TPKT or fast-path packet that we send (1.2)."""

GLOBAL_CHANNEL = 1003
"""The I/O channel."""

USER_BASE = 1001
"""User ids on the wire count from here."""

PROTOCOL_RDP, PROTOCOL_TLS = 0, 1
NEG_REQUEST, NEG_RESPONSE, NEG_FAILURE = 1, 2, 3
FLAG_EXTENDED_DATA = 0x01

FAILURES = {
    1: "the server demands TLS, which the request did not offer",
    2: "the server does not allow TLS",
    3: "the server has no certificate for TLS",
    4: "the server found the negotiation flags inconsistent",
    5: "the server demands network level authentication (CredSSP)",
    6: "the server demands TLS with client authentication",
}

_TPKT = struct.Struct(">BBH")
_CR = struct.Struct(">BBHHB")
_NEG = struct.Struct("<BBHI")


class Reader:
    """A bounds-checked cursor over bytes of a peer."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, offset: int = 0, end: int | None = None) -> None:
        self.data = data
        self.offset = offset
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return self.end - self.offset

    def take(self, count: int) -> bytes:
        """Take *count* bytes.

        Raises:
            ParseError: there are fewer.
        """
        if not 0 <= count <= self.left:
            raise ParseError(f"want {count} bytes, have {self.left}", self.offset)
        start = self.offset
        self.offset += count
        return self.data[start : self.offset]

    def rest(self) -> bytes:
        """Take everything that is left."""
        return self.take(self.left)

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Little-endian."""
        return int.from_bytes(self.take(2), "little")

    def u16be(self) -> int:
        """Big-endian."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Little-endian."""
        return int.from_bytes(self.take(4), "little")

    def ber(self, tag: int) -> "Reader":
        """Enter a BER element with that tag (one byte, or two above 0xFF)."""
        found = self.u16be() if tag > 0xFF else self.u8()
        if found != tag:
            raise ParseError(f"BER tag {found:#x}, wanted {tag:#x}", self.offset)
        length = self.u8()
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:  # indefinite, or longer than anything here
                raise ParseError(f"BER length of {size} bytes", self.offset)
            length = int.from_bytes(self.take(size), "big")
        if length > self.left:
            raise ParseError(f"BER length {length}, have {self.left}", self.offset)
        inner = Reader(self.data, self.offset, self.offset + length)
        self.offset += length
        return inner

    def per(self) -> int:
        """A PER length: one byte, or two with the top bit set."""
        first = self.u8()
        return (first & 0x7F) << 8 | self.u8() if first & 0x80 else first


def ber(tag: int, body: bytes) -> bytes:
    """A BER element; lengths from 0x80 on in the three-byte form (1.6)."""
    head = tag.to_bytes(2 if tag > 0xFF else 1, "big")
    if len(body) < 0x80:
        return head + bytes((len(body),)) + body
    return head + b"\x82" + len(body).to_bytes(2, "big") + body


def per_length(length: int) -> bytes:
    """A PER length in the shortest form."""
    if length < 0x80:
        return bytes((length,))
    return (0x8000 | length).to_bytes(2, "big")


def tpkt(body: bytes) -> bytes:
    """A TPKT around *body*."""
    return _TPKT.pack(3, 0, _TPKT.size + len(body)) + body


def x224_data(body: bytes) -> bytes:
    """A TPKT with an X.224 data TPDU."""
    return tpkt(b"\x02\xf0\x80" + body)


def data_packet(
    body: bytes, channel: int, user: int | None = None, *, trailer: int = 0
) -> bytes:
    """An MCS SendDataRequest of *user*, or SendDataIndication (user None).

    Args:
        body: below MAX_PACKET less the 15 bytes of the envelope.
        channel: MCS channel id.
        user: user id of the sending client; None for the server.
        trailer: unused; keeps room for a signature.
    """
    choice, initiator = (0x68, 1) if user is None else (0x64, user - USER_BASE)
    head = struct.pack(">BHHB", choice, initiator, channel, 0x70)
    return x224_data(head + per_length(len(body)) + body)


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What a connection request asks for.

    Attributes:
        present: there was an RDP_NEG_REQ.
        protocols: requestedProtocols; 0 without it.
        cookie: routing token or cookie, without CR LF.
    """

    present: bool
    protocols: int
    cookie: bytes


def connection_request(user: str, protocols: int | None) -> bytes:
    """The client's first packet; *protocols* None leaves RDP_NEG_REQ out."""
    body = b"Cookie: mstshash=" + user.encode("ascii", "replace")[:64] + b"\r\n"
    if protocols is not None:
        body += _NEG.pack(NEG_REQUEST, 0, 8, protocols)
    return tpkt(_CR.pack(6 + len(body), 0xE0, 0, 0, 0) + body)


def parse_connection_request(packet: bytes) -> Negotiation:
    """Read a connection request (1.3); flags and trailers are tolerated.

    Raises:
        ParseError: it is something else.
    """
    if not 11 <= len(packet) <= 259 or packet[5] != 0xE0:
        raise ParseError(f"not an X.224 connection request: {packet[:16].hex()}")
    body = packet[11:]
    end = body.find(b"\r\n")
    cookie = b""
    if end >= 0:
        cookie, body = body[:end], body[end + 2 :]
    if len(body) >= 8 and body[0] == NEG_REQUEST and body[2:4] == b"\x08\x00":
        return Negotiation(True, _NEG.unpack_from(body)[3], cookie)
    return Negotiation(False, 0, cookie)


def connection_confirm(
    negotiation: Negotiation, *, selected: int = 0, failure: int = 0
) -> bytes:
    """The server's answer; a failure code wins (1.3)."""
    body = b""
    if negotiation.present and failure:
        body = _NEG.pack(NEG_FAILURE, 0, 8, failure)
    elif negotiation.present:
        body = _NEG.pack(NEG_RESPONSE, FLAG_EXTENDED_DATA, 8, selected)
    return tpkt(_CR.pack(6 + len(body), 0xD0, 0, 0x3412, 0) + body)


def parse_connection_confirm(packet: bytes) -> int | None:
    """Return the selected protocol, None where the server did not negotiate.

    Raises:
        ParseError: it is something else.
        NegotiationError: the server refuses; the message says why.
    """
    if len(packet) < 11 or packet[5] != 0xD0:
        raise ParseError(f"not an X.224 connection confirm: {packet[:16].hex()}")
    body = packet[11:]
    if len(body) < 8:
        return None
    kind, _, _, value = _NEG.unpack_from(body)
    if kind == NEG_FAILURE:
        why = FAILURES.get(value, f"the server refused with code {value}")
        raise NegotiationError(f"RDP negotiation failed: {why}")
    if kind != NEG_RESPONSE:
        raise ParseError(f"X.224 negotiation of type {kind}")
    return int(value)
