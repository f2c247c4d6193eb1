"""What secures the connection: the choice (1.3) and the security header (1.20).

A security layer wraps what goes into an MCS payload after Client Info and unwraps what
comes out of it. The plain one serves TLS and standard security without encryption.
"""

import enum
import struct

from rusb.errors import ParseError

from .x224 import Failure, Protocol

__all__ = [
    "HEADER_SIZE",
    "Method",
    "PlainSecurity",
    "SecurityFlag",
    "header",
    "parse_header",
    "select_protocol",
]

_HEADER = struct.Struct("<HH")
HEADER_SIZE = _HEADER.size


class Method(enum.Enum):
    """What ``Security/Method`` may allow."""

    RDP = "RDP"
    TLS = "TLS"


class SecurityFlag(enum.IntFlag):
    """Flags of the security header (MS-RDPBCGR 2.2.8.1.1.2.1)."""

    EXCHANGE = 0x0001
    ENCRYPT = 0x0008
    INFO = 0x0040
    LICENCE = 0x0080
    REDIRECTION = 0x0400


def select_protocol(
    methods: frozenset[Method], *, has_certificate: bool, requested: int | None
) -> Protocol | Failure:
    """Choose what to go on with (table of 1.3).

    Args:
        methods: what the server allows.
        has_certificate: is there a certificate and a key for TLS?
        requested: bits of :class:`Protocol`; None: the client did not negotiate.
    """
    wanted = requested or 0
    if wanted & Protocol.TLS:
        if Method.TLS not in methods:
            return Failure.TLS_NOT_ALLOWED
        return Protocol.TLS if has_certificate else Failure.NO_CERTIFICATE
    if wanted == 0 and Method.RDP in methods:
        return Protocol.RDP
    return Failure.TLS_REQUIRED


def header(flags: int) -> bytes:
    """Serialize a security header without a checksum."""
    return _HEADER.pack(flags, 0)


def parse_header(payload: bytes) -> tuple[int, bytes]:
    """Split a payload into the flags of its security header and the rest.

    Raises:
        ParseError: it is shorter than the header.
    """
    if len(payload) < _HEADER.size:
        raise ParseError(f"security header of {len(payload)} bytes, not 4")
    return _HEADER.unpack_from(payload)[0], payload[_HEADER.size :]


class PlainSecurity:
    """No encryption; the transport, or nothing, protects the data.

    Attributes:
        prefix: what stands in front of every payload we send: nothing, or four zero
            bytes for peers that never stop writing security headers (1.20).
    """

    def __init__(self) -> None:
        self.prefix = b""

    def wrap(self, payload: bytes) -> bytes:
        """Return a payload as it goes into an MCS PDU."""
        return self.prefix + payload

    def unwrap_share(self, payload: bytes) -> bytes:
        """Return the share PDUs in a payload, and learn if the peer writes headers.

        1.20: where the length does not fit at the front but four bytes later, there
        is a header.
        """
        if len(payload) >= HEADER_SIZE + 2:
            size = len(payload)
            front, later = (
                int.from_bytes(payload[i : i + 2], "little") for i in (0, 4)
            )
            if front != size and later == size - HEADER_SIZE:
                self.prefix = bytes(HEADER_SIZE)
                return payload[HEADER_SIZE:]
        return payload
