"""Standard RDP security: keys, RC4, checksums, certificates (2.3, 2.4; MS-RDPBCGR 5.3).

Old and weak: RC4, and anybody can make a proprietary certificate. It is there for
clients and servers that have nothing else.
"""

import enum
import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
except ImportError:  # before version 43
    from cryptography.hazmat.primitives.ciphers.algorithms import (
        ARC4,
    )

from rusb.errors import NegotiationError, ParseError, RemoteProtocolError

from .per import Reader

__all__ = [
    "CHECKSUM_SIZE",
    "MAX_CERTIFICATES",
    "MAX_CHAIN",
    "MAX_MODULUS",
    "METHODS",
    "MIN_MODULUS",
    "RANDOM_SIZE",
    "Direction",
    "Encryption",
    "Keys",
    "RsaKey",
    "checksum",
    "decrypt_random",
    "derive_keys",
    "encrypt_random",
    "parse_certificate",
    "proprietary_certificate",
    "salted_checksum",
    "x509_chain",
]

RANDOM_SIZE = 32
"""Bytes of the random numbers of client and server."""

CHECKSUM_SIZE = 8

UPDATE_AFTER = 4096
"""Packets of one direction after which its key is changed."""

MIN_MODULUS, MAX_MODULUS = 64, 256
"""Bytes of an RSA modulus (2.4)."""

MAX_CERTIFICATES = 16
"""Certificates of a chain."""

MAX_CHAIN = 12 << 10
"""Bytes of a chain that we show: Connect-Response is one packet, of less than 16 KiB
(1.2)."""

_PADDING = 8
_PAD1, _PAD2 = b"\x36" * 40, b"\x5c" * 48
_CERTIFICATE = struct.Struct("<IIIHH4sIIII")
_SIGNATURE_BLOB = 8

# The Terminal Services signing key, which is public (MS-RDPBCGR 5.3.3.1.1).
_SIGNING_MODULUS = int.from_bytes(
    bytes.fromhex(
        "3d3a5ebd72433ec94dbbc11e4aba5fcb3e882087eff5c1e2d7b76b9af2524595"
        "ce63656b583afeef7ce7bffe3df65c7d6c5e06091af561bb2093095f056dea87"
    ),
    "little",
)
_SIGNING_EXPONENT = int.from_bytes(
    bytes.fromhex(
        "87a71932da11875558001616256568f8243ee6fae9674994cf92cc3399e80860"
        "179a129f24ddb12499c73ab80a7b0ddd350779170b519bb3c7100113e73ff35f"
    ),
    "little",
)


class Encryption(enum.IntEnum):
    """Encryption methods of CS_SECURITY and SC_SECURITY; a client may offer several."""

    NONE = 0
    BITS_40 = 1
    BITS_128 = 2
    BITS_56 = 8
    FIPS = 0x10

    @property
    def label(self) -> str:
        """As messages name it."""
        numbers = {1: "RC4, 40 bit", 2: "RC4, 128 bit", 8: "RC4, 56 bit", 0x10: "FIPS"}
        return numbers.get(self.value, "none")


METHODS = (Encryption.BITS_128, Encryption.BITS_56, Encryption.BITS_40)
"""The methods we know, the strongest first."""


@dataclass(frozen=True, slots=True, repr=False)
class RsaKey:
    """The server's key.

    Attributes:
        p, q: its primes.
        exponent: the public one.
        chain: X.509 certificates to show, DER, root first, the key's own last; at
            least two. None: a proprietary certificate is made.
    """

    p: int
    q: int
    exponent: int = 65537
    chain: tuple[bytes, ...] = ()

    @property
    def modulus(self) -> int:
        """The public number."""
        return self.p * self.q

    @property
    def size(self) -> int:
        """Bytes of the modulus."""
        return (self.modulus.bit_length() + 7) // 8

    @property
    def certificate(self) -> bytes:
        """What SC_SECURITY shows of it."""
        if self.chain:
            return x509_chain(self.chain)
        return proprietary_certificate(self.modulus, self.exponent)

    def decrypt(self, number: int, blind: int) -> int:
        """Do the private operation; by the Chinese remainder theorem, a quarter of
        the time that it takes without.

        Args:
            number: what the public operation gave.
            blind: a random number: how long it takes must say nothing of the key.
        """
        p, q, modulus = self.p, self.q, self.modulus
        number = number * pow(blind, self.exponent, modulus) % modulus
        of_p = pow(number, pow(self.exponent, -1, p - 1), p)
        of_q = pow(number, pow(self.exponent, -1, q - 1), q)
        clear = of_q + q * ((of_p - of_q) * pow(q, -1, p) % p)
        return clear * pow(blind, -1, modulus) % modulus


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Session keys, as long as the method wants them."""

    mac: bytes
    server_to_client: bytes
    client_to_server: bytes


def derive_keys(client_random: bytes, server_random: bytes, method: int) -> Keys:
    """Derive the session keys (2.3).

    Args:
        client_random, server_random: 32 bytes each.
        method: 40, 56 or 128 bits.
    """
    both = client_random + server_random

    def three(secret: bytes, letters: bytes) -> bytes:
        parts = (letters[i : i + 1] * (i + 1) for i in range(3))
        return b"".join(
            _md5(secret, hashlib.sha1(part + secret + both).digest()) for part in parts
        )

    master = three(client_random[:24] + server_random[:24], b"ABC")
    block = three(master, b"XYZ")
    return Keys(
        *(
            _weaken(key, method)
            for key in (
                block[:16],
                _md5(block[16:32], both),
                _md5(block[32:48], both),
            )
        )
    )


def _md5(*pieces: bytes) -> bytes:
    return hashlib.md5(b"".join(pieces)).digest()


def _weaken(key: bytes, method: int) -> bytes:
    if method == Encryption.BITS_40:
        return b"\xd1\x26\x9e" + key[3:8]
    if method == Encryption.BITS_56:
        return b"\xd1" + key[1:8]
    return key


def checksum(key: bytes, data: bytes) -> bytes:
    """Return the checksum of a packet in clear."""
    size = struct.pack("<I", len(data))
    inner = hashlib.sha1(b"".join((key, _PAD1, size, data))).digest()
    return _md5(key, _PAD2, inner)[:CHECKSUM_SIZE]


def salted_checksum(key: bytes, data: bytes, count: int) -> bytes:
    """Return the checksum that includes how many packets went before."""
    size = struct.pack("<I", len(data))
    tail = struct.pack("<I", count)
    inner = hashlib.sha1(b"".join((key, _PAD1, size, data, tail))).digest()
    return _md5(key, _PAD2, inner)[:CHECKSUM_SIZE]


class _Stream(Protocol):
    """What the library's cipher has."""

    def update(self, data: bytes) -> bytes: ...


def _rc4(key: bytes) -> _Stream:
    try:
        return Cipher(ARC4(key), mode=None).encryptor()
    except UnsupportedAlgorithm as error:
        raise NegotiationError(
            "this machine's OpenSSL has no RC4, which standard RDP security needs; use"
            " TLS"
        ) from error


class Direction:
    """The packets of one direction: encrypted or decrypted in order.

    Args:
        key: the initial key of the direction.
        mac: the key of the checksums.
        method: 40, 56 or 128 bits.
    """

    def __init__(self, key: bytes, mac: bytes, method: int) -> None:
        self.key = key
        self.count = 0
        self._initial = key
        self._mac = mac
        self._method = method
        self._stream = _rc4(key)
        self._left = UPDATE_AFTER

    def encrypt(self, data: bytes) -> bytes:
        """Return checksum and ciphertext of a packet."""
        return checksum(self._mac, data) + self._apply(data)

    def decrypt(self, sealed: bytes, *, is_salted: bool = False) -> bytes:
        """Return a packet in clear.

        Args:
            sealed: checksum and ciphertext.
            is_salted: the checksum includes the packet's number.

        Raises:
            ParseError: shorter than a checksum.
            RemoteProtocolError: the checksum is not that of the packet.
        """
        if len(sealed) < CHECKSUM_SIZE:
            raise ParseError(f"encrypted packet of {len(sealed)} bytes, not 8 or more")
        number = self.count
        data = self._apply(sealed[CHECKSUM_SIZE:])
        right = (
            salted_checksum(self._mac, data, number)
            if is_salted
            else checksum(self._mac, data)
        )
        if not hmac.compare_digest(right, sealed[:CHECKSUM_SIZE]):
            raise RemoteProtocolError(
                f"the checksum of encrypted packet {number + 1} is wrong: someone"
                " changed it, or the two ends are out of step"
            )
        return data

    def _apply(self, data: bytes) -> bytes:
        if not self._left:
            self._update()
        self._left -= 1
        self.count += 1
        return self._stream.update(data)

    def _update(self) -> None:
        """Change the key (2.3)."""
        inner = hashlib.sha1(self._initial + _PAD1 + self.key).digest()
        mixed = _md5(self._initial, _PAD2, inner)[: len(self.key)]
        self.key = _weaken(_rc4(mixed).update(mixed), self._method)
        self._stream = _rc4(self.key)
        self._left = UPDATE_AFTER


# ------------------------------------------------------------- certificates ----


def proprietary_certificate(modulus: int, exponent: int) -> bytes:
    """Return the certificate of a key, signed with the signing key that is public."""
    size = (modulus.bit_length() + 7) // 8
    signed = (
        _CERTIFICATE.pack(
            *(1, 1, 1, 6, 20 + size + _PADDING, b"RSA1", size + _PADDING),
            *(8 * size, size - 1, exponent),
        )
        + modulus.to_bytes(size, "little")
        + bytes(_PADDING)
    )
    block = _md5(signed) + b"\0" + b"\xff" * 45 + b"\x01"
    number = pow(int.from_bytes(block, "little"), _SIGNING_EXPONENT, _SIGNING_MODULUS)
    signature = number.to_bytes(64, "little") + bytes(_PADDING)
    return signed + struct.pack("<HH", _SIGNATURE_BLOB, len(signature)) + signature


def x509_chain(certificates: Sequence[bytes]) -> bytes:
    """Return an X.509 certificate chain (MS-RDPELE 2.2.1.4.2).

    Args:
        certificates: DER, root first.
    """
    count = len(certificates)
    blobs = (len(der).to_bytes(4, "little") + der for der in certificates)
    return struct.pack("<II", 2, count) + b"".join(blobs) + bytes(8 + 4 * count)


def parse_certificate(data: bytes) -> tuple[int, int]:
    """Return modulus and exponent of a server's certificate of either kind.

    Signatures are not checked: the key that signs proprietary ones is public.

    Raises:
        ParseError: it is malformed, or the key is of a size that cannot be.
    """
    reader = Reader(data, "server certificate")
    version = reader.u32() & 0x7FFF_FFFF
    if version == 2:
        return _parse_chain(reader)
    if version != 1:
        raise ParseError(f"server certificate of version {version}")
    reader.take(8)  # algorithms: RSA, there is no other
    kind, length = reader.u16(), reader.u16()
    blob = Reader(reader.take(length), "public key")
    if kind != 6 or blob.take(4) != b"RSA1":
        raise ParseError(f"public key of type {kind}, not RSA")
    size = blob.u32() - _PADDING
    blob.take(8)  # bits, longest message
    exponent = blob.u32()
    if not MIN_MODULUS <= size <= MAX_MODULUS:
        raise ParseError(f"RSA modulus of {size} bytes")
    return _checked(int.from_bytes(blob.take(size), "little"), exponent)


def _parse_chain(reader: Reader) -> tuple[int, int]:
    """Take the key of the last certificate of a chain: the server's own."""
    count = reader.u32()
    if not 0 < count <= MAX_CERTIFICATES:
        raise ParseError(f"a chain of {count} certificates")
    certificate = b""
    for _ in range(count):
        certificate = reader.take(reader.u32())
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ParseError(f"the server's X.509 certificate: {error}") from error
    if not isinstance(key, RSAPublicKey):
        raise ParseError("the server's X.509 certificate has no RSA key")
    numbers = key.public_numbers()
    return _checked(numbers.n, numbers.e)


def _checked(modulus: int, exponent: int) -> tuple[int, int]:
    size = (modulus.bit_length() + 7) // 8
    if not MIN_MODULUS <= size <= MAX_MODULUS or exponent < 3 or not modulus & 1:
        raise ParseError(f"RSA key of {size} bytes, exponent {exponent}")
    return modulus, exponent


def encrypt_random(random: bytes, modulus: int, exponent: int) -> bytes:
    """Encrypt the client random; little-endian, padded with eight zero bytes (1.8)."""
    number = pow(int.from_bytes(random, "little"), exponent, modulus)
    size = (modulus.bit_length() + 7) // 8
    return number.to_bytes(size, "little") + bytes(_PADDING)


def decrypt_random(
    sealed: bytes, key: RsaKey, random_bytes: Callable[[int], bytes]
) -> bytes:
    """Decrypt what :func:`encrypt_random` made; any number gives some random.

    Args:
        sealed: little-endian, padded.
        key: the server's.
        random_bytes: source of randomness.

    Raises:
        ParseError: its length does not fit the key.
    """
    if len(sealed) != key.size + _PADDING:
        raise ParseError(f"client random of {len(sealed)} bytes for this server's key")
    number = int.from_bytes(sealed[: key.size], "little") % key.modulus
    blind = int.from_bytes(random_bytes(key.size)) % key.modulus | 1
    clear = key.decrypt(number, blind)
    return clear.to_bytes(key.size, "little")[:RANDOM_SIZE]
