"""A server sends its client to another one: the redirection packet
(MS-RDPBCGR 2.2.13)."""

import ipaddress
import struct
from typing import Final

from rusb.errors import LocalProtocolError, ParseError

from .per import Reader

__all__ = ["may_be_said", "parse_redirection", "redirection", "takes_redirection"]

MAX_ADDRESS: Final = 39
"""Characters of an address: FreeRDP takes no more than 80 bytes with the zero."""

MAX_NAME: Final = 253
"""Characters of a name, as DNS has it."""

SUPPORTED: Final = 1
VERSION_3: Final = 2
"""REDIRECTION_SUPPORTED, and the version of today's packet, in bits 2 to 5 of the
flags of CS_CLUSTER (2.2.1.3.5). Older ones do not know it as it is built here."""

_PACKET = 0x0400  # SEC_REDIRECTION_PKT
_ADDRESS, _NAME = 0x00000001, 0x00000100  # LB_TARGET_NET_ADDRESS, LB_TARGET_FQDN
_BETWEEN = 0x00000002, 0x00000004, 0x00000008, 0x00000010
"""LB_LOAD_BALANCE_INFO, LB_USERNAME, LB_DOMAIN, LB_PASSWORD: between these two."""
_PADDING = 8


def takes_redirection(cluster: int | None) -> bool:
    """Do the flags of CS_CLUSTER say that a client goes where it is sent?"""
    if cluster is None or not cluster & SUPPORTED:
        return False
    return cluster >> 2 & 0xF >= VERSION_3


def may_be_said(host: str) -> bool:
    """Is it an address or a name that fits the packet?"""
    limit = MAX_ADDRESS if _is_address(host) else MAX_NAME
    return host.isascii() and host.isprintable() and 0 < len(host) <= limit


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def redirection(host: str) -> bytes:
    """Return what follows the share control header, to a client with TLS.

    Args:
        host: see :func:`may_be_said`; the packet has no field for a port.

    Raises:
        LocalProtocolError: it may not.
    """
    if not may_be_said(host):
        raise LocalProtocolError(f"no client can be sent to {host[:80]!r}")
    flag = _ADDRESS if _is_address(host) else _NAME
    text = f"{host}\0".encode("utf-16-le")
    fields = struct.pack("<III", 0, flag, len(text)) + text
    head = struct.pack("<HH", _PACKET, 4 + len(fields))
    return b"\0\0" + head + fields + bytes(_PADDING)


def parse_redirection(body: bytes) -> str:
    """Return the address or name of the server that a client is sent to.

    Args:
        body: what follows the share control header.

    Raises:
        ParseError: it is malformed, or names no server.
    """
    reader = Reader(body, "redirection")
    reader.take(2 + 4 + 4)  # padding, flags, length, session
    flags = reader.u32()
    found: dict[int, bytes] = {}
    for flag in (_ADDRESS, *_BETWEEN, _NAME):
        if flags & flag:
            found[flag] = reader.take(reader.u32())
    text = found.get(_ADDRESS) or found.get(_NAME) or b""
    host = text.decode("utf-16-le", "replace").rstrip("\0")
    if not may_be_said(host):
        raise ParseError(f"a redirection to {host[:80]!r}")
    return host
