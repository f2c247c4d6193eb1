"""The licence step, of which VRDP has one message: all is well (1.11)."""

import enum
import struct

from rusb.errors import NegotiationError

from .per import Reader

__all__ = ["VALID_CLIENT", "check_licence"]

VALID_CLIENT = struct.pack("<BBHIIHH", 0xFF, 3, 16, 7, 2, 4, 0)
"""Error alert, version 3: STATUS_VALID_CLIENT, ST_NO_TRANSITION, empty blob."""

_STATUS_VALID_CLIENT = 7
_NO_TRANSITION = 2


class _Message(enum.IntEnum):
    REQUEST = 1
    CHALLENGE = 2
    NEW = 3
    UPGRADE = 4
    ALERT = 0xFF


def check_licence(message: bytes) -> None:
    """Read a server's licence message; return if the connection may go on.

    Raises:
        ParseError: it is too short.
        NegotiationError: the server wants a licence from us, or refuses one.
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
    elif kind in (_Message.REQUEST, _Message.CHALLENGE):
        raise NegotiationError(
            "the server wants a Terminal Services licence, which this client does not"
            " have; remote USB needs a VRDP server"
        )
    elif kind not in (_Message.NEW, _Message.UPGRADE):
        raise NegotiationError(f"the server sent an unknown licence message {kind}")
