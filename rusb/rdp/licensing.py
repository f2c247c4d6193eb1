"""The licence step: VRDP has one message, all is well (1.11).

Other RDP servers first send a request. A client without a licence asks for a new one
(MS-RDPELE 2.2.2.2); xrdp then says that all is well, a licence server would go on with
a challenge, for which we have no answer.
"""

import enum
import struct
from collections.abc import Callable

from rusb.errors import NegotiationError

from .per import Reader

__all__ = ["VALID_CLIENT", "answer_licence"]

VALID_CLIENT = struct.pack("<BBHIIHH", 0xFF, 3, 16, 7, 2, 4, 0)
"""Error alert, version 3: STATUS_VALID_CLIENT, ST_NO_TRANSITION, empty blob."""

_STATUS_VALID_CLIENT = 7
_NO_TRANSITION = 2


_RSA = 1  # preferred key exchange
_PLATFORM = 0x04000000  # other than Windows
_SECRET_SIZE = 72  # a modulus of 64 bytes and its padding


class _Message(enum.IntEnum):
    REQUEST = 1
    CHALLENGE = 2
    NEW = 3
    UPGRADE = 4
    NEW_REQUEST = 0x13
    ALERT = 0xFF


class _Blob(enum.IntEnum):
    RANDOM = 2
    USER = 15
    MACHINE = 16


def answer_licence(
    message: bytes, *, user: str, machine: str, random_bytes: Callable[[int], bytes]
) -> bytes | None:
    """Answer a server's licence message; None: the connection goes on.

    Args:
        message: without its security header.
        user, machine: names to ask with.
        random_bytes: source of randomness.

    Raises:
        ParseError: it is too short.
        NegotiationError: the server wants to see a licence, or refuses us.
    """
    reader = Reader(message, "licence message")
    kind = reader.u8()
    reader.take(3)  # flags, size
    if kind == _Message.ALERT:
        code, transition = reader.u32(), reader.u32()
        if code != _STATUS_VALID_CLIENT and transition != _NO_TRANSITION:
            raise NegotiationError(
                f"the server ended the connection in the licence step, code {code}"
            )
    elif kind == _Message.REQUEST:
        return _new_request(user, machine, random_bytes)
    elif kind == _Message.CHALLENGE:
        raise NegotiationError(
            "the server wants a Terminal Services licence, which this client does not"
            " have; for remote USB connect to a VRDP server"
        )
    elif kind not in (_Message.NEW, _Message.UPGRADE):
        raise NegotiationError(f"the server sent an unknown licence message {kind}")
    return None


def _new_request(
    user: str, machine: str, random_bytes: Callable[[int], bytes]
) -> bytes:
    """Ask for a licence. The secret is random: nobody who needs it gets an answer."""
    body = struct.pack("<II", _RSA, _PLATFORM) + random_bytes(32)
    for kind, data in (
        (_Blob.RANDOM, random_bytes(_SECRET_SIZE)),
        (_Blob.USER, user.encode(errors="replace") + b"\0"),
        (_Blob.MACHINE, machine.encode(errors="replace") + b"\0"),
    ):
        body += struct.pack("<HH", kind, len(data)) + data
    return struct.pack("<BBH", _Message.NEW_REQUEST, 3, 4 + len(body)) + body
