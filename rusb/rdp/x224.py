"""X.224 class 0: connection request and confirm with RDP's negotiation (1.3)."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

from rusb.errors import Hint, NegotiationError, ParseError

from .tpkt import tpkt

__all__ = [
    "CONFIRM",
    "DATA",
    "DATA_HEADER",
    "DISCONNECT",
    "REQUEST",
    "ConnectionConfirm",
    "ConnectionRequest",
    "Failure",
    "Protocol",
    "disconnect_request",
    "explain_failure",
]

REQUEST, CONFIRM, DISCONNECT, DATA = 0xE0, 0xD0, 0x80, 0xF0  # TPDU codes

DATA_HEADER = b"\x02\xf0\x80"
"""In front of every message after the connection phase."""

MAX_COOKIE = 200
"""Bytes of the cookie we send; a length indicator of one byte bounds the request."""

_NEGOTIATION = struct.Struct("<BBHI")
_HAS_EXTENDED_DATA = 0x01  # in the response: the server reads CS_MONITOR and others


class Protocol(enum.IntEnum):
    """What secures the connection; also bits of a request."""

    RDP = 0
    TLS = 1
    CREDSSP = 2


class Failure(enum.IntEnum):
    """Codes of a refused negotiation (MS-RDPBCGR 2.2.1.2.2)."""

    TLS_REQUIRED = 1
    TLS_NOT_ALLOWED = 2
    NO_CERTIFICATE = 3
    INCONSISTENT_FLAGS = 4
    CREDSSP_REQUIRED = 5
    TLS_WITH_CLIENT_CERTIFICATE_REQUIRED = 6


_MEANINGS = {
    Failure.TLS_REQUIRED: "the server insists on TLS; do not switch encryption off,"
    " and do not use RDP version 4",
    Failure.TLS_NOT_ALLOWED: "the server only allows standard RDP security; set its"
    " Security/Method to Negotiate or TLS",
    Failure.NO_CERTIFICATE: "the server has no certificate for TLS; set its"
    " Security/ServerCertificate and Security/ServerPrivateKey",
    Failure.INCONSISTENT_FLAGS: "the server rejected our request as inconsistent; this"
    " client cannot be used with it",
    Failure.CREDSSP_REQUIRED: "the server insists on network level authentication"
    " (CredSSP), which this client does not support; switch"
    " it off at the server",
    Failure.TLS_WITH_CLIENT_CERTIFICATE_REQUIRED: "the server insists on a client"
    " certificate (smart card logon),"
    " which this client does not support",
}


def explain_failure(code: int) -> NegotiationError:
    """Put a failure code into words, with what to do about it."""
    try:
        meaning = _MEANINGS[Failure(code)]
    except ValueError:
        meaning = "the server refused the connection for an unknown reason"
    stage = (
        "tls" if code in (Failure.TLS_NOT_ALLOWED, Failure.NO_CERTIFICATE) else "rdp"
    )
    error = NegotiationError(f"{meaning} (negotiation failure {code})", stage)
    return error.hinting(Hint.ACCEPT_RC4 if code == Failure.TLS_NOT_ALLOWED else None)


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    """What a client opens the connection with.

    Attributes:
        cookie: cookie or routing token without its CR LF.
        protocols: bits of :class:`Protocol`; None: it does not negotiate.
        flags: of the negotiation request, such as restricted admin.
    """

    cookie: bytes = b""
    protocols: int | None = None
    flags: int = 0

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the bytes behind the TPKT header.

        Raises:
            ParseError: not a connection request.
        """
        if len(body) < 7 or body[1] != REQUEST:
            raise ParseError(f"not an X.224 connection request: {body[:8].hex()}")
        if body[0] != len(body) - 1:
            raise ParseError(f"length indicator {body[0]}, have {len(body) - 1} bytes")
        rest, cookie = body[7:], b""
        end = rest.find(b"\r\n")
        if end >= 0:
            cookie, rest = rest[:end], rest[end + 2 :]
        # B.1: flags and correlation info are fine; other types are no negotiation
        if len(rest) >= 8:
            kind, flags, size, protocols = _NEGOTIATION.unpack_from(rest)
            if (kind, size) == (1, 8):
                return cls(cookie, protocols, flags)
        return cls(cookie)

    def serialize(self) -> bytes:
        """Return the whole packet."""
        body = self.cookie[:MAX_COOKIE] + b"\r\n" if self.cookie else b""
        if self.protocols is not None:
            body += _NEGOTIATION.pack(1, self.flags, 8, self.protocols)
        return _frame(REQUEST, 0, body)


@dataclass(frozen=True, slots=True)
class ConnectionConfirm:
    """The server's answer; both None: the request did not negotiate.

    Attributes:
        selected: the protocol to go on with.
        failure: a code of :class:`Failure`; the connection ends.
    """

    selected: int | None = None
    failure: int | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the bytes behind the TPKT header.

        Raises:
            ParseError: not a connection confirm.
        """
        if len(body) < 7 or body[1] != CONFIRM or body[0] != len(body) - 1:
            raise ParseError(f"not an X.224 connection confirm: {body[:8].hex()}")
        rest = body[7:]
        if not rest:
            return cls()
        if len(rest) != 8:
            raise ParseError(f"negotiation reply of {len(rest)} bytes, not 8")
        kind, _, size, value = _NEGOTIATION.unpack(rest)
        if kind not in (2, 3) or size != 8:
            raise ParseError(f"negotiation reply of type {kind}, length {size}")
        return cls(selected=value) if kind == 2 else cls(failure=value)

    def serialize(self) -> bytes:
        """Return the whole packet, as the original writes it."""
        body = b""
        if self.failure is not None:
            body = _NEGOTIATION.pack(3, 0, 8, self.failure)
        elif self.selected is not None:
            body = _NEGOTIATION.pack(2, _HAS_EXTENDED_DATA, 8, self.selected)
        return _frame(CONFIRM, 0x3412, body)


def disconnect_request() -> bytes:
    """Return the packet that rdesktop ends a session with (1.19)."""
    return _frame(DISCONNECT, 0, b"")


def _frame(code: int, source: int, body: bytes) -> bytes:
    return tpkt(struct.pack(">BBHHB", 6 + len(body), code, 0, source, 0), body)
