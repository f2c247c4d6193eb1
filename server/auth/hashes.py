"""Password hashes: VirtualBox's SHA-256, and scrypt with a salt.

The latter reads ``$scrypt$ln=15,r=8,p=1$SALT$HASH``, base64 without padding.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

__all__ = ["hash_legacy", "hash_password", "verify"]

LOG_N, BLOCK, PARALLEL = 15, 8, 1
"""32 MiB and about 0.1 s for each check."""

MIN_LOG_N, MAX_LOG_N, MAX_BLOCK, MAX_PARALLEL = 10, 17, 8, 4
SALT_SIZE, HASH_SIZE = 16, 32

_SCRYPT = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})"
    r"\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})"
)


def hash_legacy(password: str) -> str:
    """Return the lower-case SHA-256 that VirtualBox stores (3.5); without a salt."""
    return hashlib.sha256(_encode(password)).hexdigest()


def hash_password(password: str) -> str:
    """Return a new salted scrypt hash in the form above."""
    salt = os.urandom(SALT_SIZE)
    digest = _scrypt(password, salt, LOG_N, BLOCK, PARALLEL)
    parameters = f"ln={LOG_N},r={BLOCK},p={PARALLEL}"
    return f"$scrypt${parameters}${_to_text(salt)}${_to_text(digest)}"


def verify(stored: str, password: str) -> bool:
    """Compare in constant time.

    An empty, legacy or malformed *stored* costs as much as a salted hash, so that the
    time does not tell whether a user exists.
    """
    parsed = _parse(stored)
    log_n, block, parallel, salt, wanted = parsed or (
        *(LOG_N, BLOCK, PARALLEL),
        bytes(SALT_SIZE),
        bytes(HASH_SIZE),
    )
    digest = _scrypt(password, salt, log_n, block, parallel)
    is_salted = hmac.compare_digest(digest, wanted)
    legacy = hash_legacy(password).encode()
    is_legacy = hmac.compare_digest(legacy, _encode(stored))
    return is_salted if parsed else is_legacy


def _parse(stored: str) -> tuple[int, int, int, bytes, bytes] | None:
    found = _SCRYPT.fullmatch(stored)
    if not found:
        return None
    log_n, block, parallel = (int(n) for n in found.groups()[:3])
    fits = MIN_LOG_N <= log_n <= MAX_LOG_N and 1 <= block <= MAX_BLOCK
    if not fits or not 1 <= parallel <= MAX_PARALLEL:
        return None
    try:
        salt = base64.b64decode(found[4] + "==")
        return log_n, block, parallel, salt, base64.b64decode(found[5] + "=")
    except binascii.Error:
        return None


def _scrypt(password: str, salt: bytes, log_n: int, block: int, parallel: int) -> bytes:
    kdf = Scrypt(salt=salt, length=HASH_SIZE, n=1 << log_n, r=block, p=parallel)
    return kdf.derive(_encode(password))


def _encode(text: str) -> bytes:
    # An unpaired surrogate of UTF-16 must not raise: the error would quote the text.
    return text.encode("utf-8", "surrogatepass")


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()
