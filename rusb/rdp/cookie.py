"""The auto-reconnect cookie (MS-RDPBCGR 2.2.4, 5.5): who comes back says so.

Here it is a hint and no more: it stands for no password, and proves nothing that
``rusbext`` does not prove again (docs/spec/resume.md 9).
"""

import hmac
import struct
from dataclasses import dataclass, field
from typing import Self

__all__ = ["COOKIE_SIZE", "Cookie"]

COOKIE_SIZE = 28
"""Bytes of one, in either direction."""

_COOKIE = struct.Struct("<III16s")
_INFO = struct.Struct("<IHII")
_VERSION, _EXTENDED, _PRESENT = 1, 3, 1
_PADDING = 570  # MS-RDPBCGR 2.2.10.1.1.4; FreeRDP insists on it


@dataclass(frozen=True, slots=True)
class Cookie:
    """What a server gives a client.

    Attributes:
        logon: a number of the server's.
        secret: 16 random bytes.
    """

    logon: int
    secret: bytes = field(repr=False)

    def serialize(self) -> bytes:
        """Return the body of a Save Session Info PDU."""
        cookie = _COOKIE.pack(COOKIE_SIZE, _VERSION, self.logon, self.secret)
        size = _INFO.size - 4 + COOKIE_SIZE
        head = _INFO.pack(_EXTENDED, size, _PRESENT, COOKIE_SIZE)
        return head + cookie + bytes(_PADDING)

    @classmethod
    def parse(cls, body: bytes) -> Self | None:
        """Read such a body; None: it says something else."""
        if len(body) < _INFO.size + COOKIE_SIZE:
            return None
        kind, _, present, size = _INFO.unpack_from(body)
        length, version, logon, secret = _COOKIE.unpack_from(body, _INFO.size)
        wanted = _EXTENDED, COOKIE_SIZE, COOKIE_SIZE, _VERSION
        if (kind, size, length, version) != wanted or not present & _PRESENT:
            return None
        return cls(logon, secret)

    def show(self) -> bytes:
        """Return what a client shows of it in Client Info, under TLS.

        Without TLS a client random would go in; there it would be zeros.
        """
        mac = hmac.digest(self.secret, bytes(32), "md5")
        return _COOKIE.pack(COOKIE_SIZE, _VERSION, self.logon, mac)

    def is_shown_by(self, packet: bytes) -> bool:
        """Is that what a client shows of it?"""
        return hmac.compare_digest(self.show(), packet)
