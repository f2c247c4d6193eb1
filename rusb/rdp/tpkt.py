"""Packet framing: TPKT (RFC 1006) and fast-path (vrdp-server.md 1.2)."""

from rusb.errors import ParseError

__all__ = ["MAX_PACKET", "TPKT", "packet_size", "tpkt"]

TPKT = 3
"""First byte of a TPKT; any other begins a fast-path packet."""

MAX_PACKET = 0x3FFF
"""Bytes of the longest packet we send, as rdesktop needs it (1.2)."""


def tpkt(*parts: bytes) -> bytes:
    """Frame X.224 bytes."""
    body = b"".join(parts)
    assert len(body) + 4 <= MAX_PACKET
    return b"\x03\x00" + (len(body) + 4).to_bytes(2) + body


def packet_size(data: bytes, pos: int) -> int:
    """Return the size of the packet that begins at *pos*, 0 if that is not known yet.

    Raises:
        ParseError: a size that no packet can have (1.2: more than four bytes).
    """
    have = len(data) - pos
    if have < 2:
        return 0
    if data[pos] == TPKT:
        if have < 4:
            return 0
        size = data[pos + 2] << 8 | data[pos + 3]
        least = 7  # and the shortest X.224 header
    else:
        size = data[pos + 1]
        least = 3
        if size & 0x80:
            if have < 3:
                return 0
            size = (size & 0x7F) << 8 | data[pos + 2]
            least = 4
    if size < least:
        raise ParseError(f"packet of {size} bytes, not {least} or more", pos)
    return size
