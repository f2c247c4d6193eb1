"""What secures the connection: the choice (1.3) and the security header (1.20).

A security layer wraps what goes into an MCS payload and unwraps what comes out of it.
The plain one serves TLS, and standard security without encryption.
"""

import enum
import struct

from rusb.errors import ParseError, RemoteProtocolError

from .standard import CHECKSUM_SIZE, Direction, Keys
from .x224 import Failure, Protocol

__all__ = [
    "HEADER_SIZE",
    "NLA_ADVICE",
    "Method",
    "PlainSecurity",
    "SecurityFlag",
    "StandardSecurity",
    "advise",
    "header",
    "name_wish",
    "parse_header",
    "select_protocol",
]

_HEADER = struct.Struct("<HH")
HEADER_SIZE = _HEADER.size

_NOT_ENCRYPTED = "an encrypted packet, and nothing is encrypted"


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
    SALTED = 0x0800


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
    if wanted and Method.TLS not in methods:
        return Failure.TLS_NOT_ALLOWED  # CredSSP is TLS, too: MS-RDPBCGR 2.2.1.2.2
    if wanted & Protocol.TLS:
        return Protocol.TLS if has_certificate else Failure.NO_CERTIFICATE
    if wanted == 0 and Method.RDP in methods:
        return Protocol.RDP
    return Failure.TLS_REQUIRED


def name_wish(protocols: int) -> str:
    """Say what a client asks for, bits of :class:`Protocol`."""
    if protocols & Protocol.TLS:
        return "enhanced RDP security"
    if protocols == 0:
        return "standard RDP security"
    if protocols & Protocol.CREDSSP:
        return "network level authentication (NLA) only"
    return f"unsupported security 0x{protocols:08X}"


NLA_ADVICE = (
    "rusb does not support network level authentication (NLA); switch it off in the"
    " client (xfreerdp: /sec:tls)"
)


def advise(failure: Failure, requested: int | None) -> str:
    """Say what would help a client that is refused, for the server's log."""
    wanted = requested or 0
    if wanted & Protocol.CREDSSP and not wanted & Protocol.TLS:
        return NLA_ADVICE
    if failure is Failure.TLS_REQUIRED:
        return (
            "to serve clients without TLS, with RC4, set the machine's"
            " Security/Method=Negotiate"
        )
    if failure is Failure.TLS_NOT_ALLOWED:
        return (
            "a client that can do without TLS connects again; for the others, set the"
            " machine's Security/Method to Negotiate or TLS"
        )
    return (
        "set Security/ServerCertificate and Security/ServerPrivateKey to readable"
        " files, or remove both"
    )


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

    Args:
        echoes: write security headers once the peer does.

    Attributes:
        prefix: what stands in front of every payload we send: nothing, or four zero
            bytes for peers that want security headers for ever (1.20).
        skipped: bytes of such a header in front of every payload of the peer's.
    """

    def __init__(self, *, echoes: bool = False) -> None:
        self.prefix = b""
        self.skipped = 0
        self._echoes = echoes

    is_encrypted = False

    def wrap(self, flags: int, payload: bytes) -> bytes:
        """Return a payload as it goes into an MCS PDU.

        Args:
            flags: of the security header; 0: a PDU that has none without encryption.
            payload: what comes after it.
        """
        return (header(flags) if flags else self.prefix) + payload

    def unwrap(self, payload: bytes) -> tuple[int, bytes]:
        """Split a payload that must have a security header.

        Raises:
            ParseError: it is too short.
            RemoteProtocolError: it is encrypted.
        """
        flags, body = parse_header(payload)
        if flags & SecurityFlag.ENCRYPT:
            raise RemoteProtocolError(_NOT_ENCRYPTED)
        return flags, body

    def wrap_fast(self, update: bytes) -> bytes:
        """Return a fast-path output packet."""
        return struct.pack(">BH", 0, 0x8000 | len(update) + 3) + update

    def unwrap_fast(self, packet: bytes) -> tuple[int, bytes]:
        """Return the action bits of a fast-path packet, and what follows its length.

        Raises:
            ParseError: it is encrypted, though nothing is.
        """
        head, body = _split_fast(packet)
        if head & _FAST_ENCRYPTED:
            raise ParseError(f"fast-path header 0x{head:02X}: nothing is encrypted")
        return head, body

    def unwrap_share(self, payload: bytes) -> bytes:
        """Return the share PDUs in a payload, and learn if the peer writes headers.

        1.20: where the length does not fit at the front but four bytes later, there
        is a header.

        Raises:
            RemoteProtocolError: the header says that it is encrypted.
        """
        if len(payload) >= HEADER_SIZE + 2:
            size = len(payload)
            front, later = (
                int.from_bytes(payload[i : i + 2], "little") for i in (0, 4)
            )
            if front != size and later == size - HEADER_SIZE:
                if front & SecurityFlag.ENCRYPT:
                    raise RemoteProtocolError(_NOT_ENCRYPTED)
                self.skipped = HEADER_SIZE
                if self._echoes:
                    self.prefix = bytes(HEADER_SIZE)
                return payload[HEADER_SIZE:]
        return payload


class StandardSecurity:
    """RC4 and a checksum for every packet (1.7, 2.3).

    Args:
        keys: of the session.
        method: 40, 56 or 128 bits.
        is_server: which end we are.
        is_low: encryption level 1: the server's packets are in clear.
    """

    is_encrypted = True
    prefix = b""
    skipped = 0

    def __init__(
        self, keys: Keys, method: int, *, is_server: bool, is_low: bool = False
    ) -> None:
        down = Direction(keys.server_to_client, keys.mac, method)
        up = Direction(keys.client_to_server, keys.mac, method)
        self._sending, self._receiving = (down, up) if is_server else (up, down)
        self._takes_clear = is_low and not is_server

    def wrap(self, flags: int, payload: bytes) -> bytes:
        """Return header, checksum and ciphertext of a payload."""
        sealed = self._sending.encrypt(payload)
        return header(flags | SecurityFlag.ENCRYPT) + sealed

    def unwrap(self, payload: bytes) -> tuple[int, bytes]:
        """Return the flags of the security header and the payload in clear.

        Raises:
            ParseError: too short.
            RemoteProtocolError: the checksum is wrong, or the packet is in clear.
        """
        flags, body = parse_header(payload)
        if flags & SecurityFlag.ENCRYPT:
            is_salted = bool(flags & SecurityFlag.SALTED)
            return flags, self._receiving.decrypt(body, is_salted=is_salted)
        if self._takes_clear:
            return flags, body
        raise RemoteProtocolError(
            f"an unencrypted packet, flags 0x{flags:04X}, where all must be encrypted"
        )

    def unwrap_share(self, payload: bytes) -> bytes:
        """Return the share PDUs in a payload; as :meth:`unwrap`."""
        return self.unwrap(payload)[1]

    def wrap_fast(self, update: bytes) -> bytes:
        """Return an encrypted fast-path output packet."""
        sealed = self._sending.encrypt(update)
        return struct.pack(">BH", 0x80, 0x8000 | len(sealed) + 3) + sealed

    def unwrap_fast(self, packet: bytes) -> tuple[int, bytes]:
        """Return the action bits of a fast-path packet, and the rest in clear.

        Raises:
            ParseError: too short.
            RemoteProtocolError: the checksum is wrong, or it is in clear.
        """
        head, body = _split_fast(packet)
        if head & _FAST_ENCRYPTED:
            if len(body) < CHECKSUM_SIZE:
                raise ParseError(f"encrypted fast-path packet of {len(body)} bytes")
            is_salted = bool(head & _FAST_SALTED)
            return head & ~_FAST_FLAGS, self._receiving.decrypt(
                body, is_salted=is_salted
            )
        if self._takes_clear:
            return head, body
        raise RemoteProtocolError(
            "an unencrypted fast-path packet where all must be encrypted"
        )


_FAST_SALTED, _FAST_ENCRYPTED = 0x40, 0x80
_FAST_FLAGS = _FAST_SALTED | _FAST_ENCRYPTED


def _split_fast(packet: bytes) -> tuple[int, bytes]:
    """Split a whole fast-path packet behind its length of one or two bytes."""
    return packet[0], packet[3:] if packet[1] & 0x80 else packet[2:]
