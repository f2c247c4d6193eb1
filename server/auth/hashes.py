"""Password hashes: VirtualBox's SHA-256, and scrypt with a salt.

The latter reads ``$scrypt$ln=15,r=8,p=1$SALT$HASH``, base64 without padding.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

__all__ = ["Salted", "hash_legacy", "hash_password", "is_hash", "verify"]

LOG_N, BLOCK, PARALLEL = 15, 8, 1
"""32 MiB and about 0.1 s for each check."""

MIN_LOG_N, MAX_LOG_N, MAX_BLOCK, MAX_PARALLEL = 10, 17, 8, 4
SALT_SIZE, HASH_SIZE = 16, 32

_SCRYPT = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})"
    r"\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})"
)
_LEGACY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Salted:
    """How a key is made of a password.

    Attributes:
        log_n, block, parallel: costs.
        salt: SALT_SIZE bytes.
    """

    log_n: int
    block: int
    parallel: int
    salt: bytes

    @classmethod
    def parse(cls, stored: str) -> "tuple[Salted, bytes] | None":
        """Read a salted hash: how it was made, and the key; None: it is none."""
        found = _SCRYPT.fullmatch(stored)
        if not found:
            return None
        log_n, block, parallel = (int(n) for n in found.groups()[:3])
        try:
            salt = base64.b64decode(found[4] + "==")
            key = base64.b64decode(found[5] + "=")
        except binascii.Error:
            return None
        salted = cls(log_n, block, parallel, salt)
        return (salted, key) if salted.is_bearable else None

    @property
    def is_bearable(self) -> bool:
        """Does making the key take a moment, and not minutes or no time at all?"""
        fits = MIN_LOG_N <= self.log_n <= MAX_LOG_N and 1 <= self.block <= MAX_BLOCK
        return fits and 1 <= self.parallel <= MAX_PARALLEL

    def derive(self, password: str) -> bytes:
        """Return the key; it takes about 0.1 s."""
        kdf = Scrypt(
            salt=self.salt,
            length=HASH_SIZE,
            n=1 << self.log_n,
            r=self.block,
            p=self.parallel,
        )
        return kdf.derive(_encode(password))


def hash_legacy(password: str) -> str:
    """Return the lower-case SHA-256 that VirtualBox stores (3.5); without a salt."""
    return hashlib.sha256(_encode(password)).hexdigest()


def hash_password(password: str) -> str:
    """Return a new salted scrypt hash in the form above."""
    salted = Salted(LOG_N, BLOCK, PARALLEL, os.urandom(SALT_SIZE))
    parameters = f"ln={LOG_N},r={BLOCK},p={PARALLEL}"
    digest = salted.derive(password)
    return f"$scrypt${parameters}${_to_text(salted.salt)}${_to_text(digest)}"


def is_hash(stored: str) -> bool:
    """Can there be a password that fits *stored*?"""
    return bool(_LEGACY.fullmatch(stored) or Salted.parse(stored))


def verify(stored: str, password: str) -> bool:
    """Compare in constant time.

    An empty, legacy or malformed *stored* costs as much as a salted hash, so that the
    time does not tell whether a user exists.
    """
    parsed = Salted.parse(stored)
    nobody = Salted(LOG_N, BLOCK, PARALLEL, bytes(SALT_SIZE)), bytes(HASH_SIZE)
    salted, wanted = parsed or nobody
    is_salted = hmac.compare_digest(salted.derive(password), wanted)
    legacy = hash_legacy(password).encode()
    is_legacy = hmac.compare_digest(legacy, _encode(stored))
    return is_salted if parsed else is_legacy


def _encode(text: str) -> bytes:
    # An unpaired surrogate of UTF-16 must not raise: the error would quote the text.
    return text.encode("utf-8", "surrogatepass")


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()
