"""A bounds-checked reader, and the little of BER and PER that RDP uses."""

import struct

from rusb.errors import ParseError

__all__ = [
    "Reader",
    "ber",
    "per_length",
    "read_ber",
    "read_per_length",
]

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")


class Reader:
    """Takes bytes from the front of a message; never reads past its end.

    Attributes:
        pos: offset of the next byte.
    """

    __slots__ = ("_data", "_what", "pos")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.pos = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self.pos

    def take(self, count: int) -> bytes:
        """Take *count* bytes.

        Raises:
            ParseError: there are fewer.
        """
        start, self.pos = self.pos, self.pos + count
        if self.pos > len(self._data):
            have = len(self._data) - start
            raise ParseError(f"{self._what}: {count} bytes wanted, have {have}", start)
        return self._data[start : self.pos]

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(self.left)

    def u8(self) -> int:
        """Take one byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Take a little-endian 16-bit number."""
        return int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        """Take a little-endian 32-bit number."""
        return int(_U32.unpack(self.take(4))[0])

    def u16be(self) -> int:
        """Take a big-endian 16-bit number."""
        return int.from_bytes(self.take(2))

    def end(self) -> None:
        """Refuse left-over bytes.

        Raises:
            ParseError: there are some.
        """
        if self.left:
            raise ParseError(f"{self._what}: {self.left} bytes too many", self.pos)


def ber(tag: int, content: bytes) -> bytes:
    """Serialize a BER element; lengths from 128 on take three bytes, as RDP has it."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2)
    return tag.to_bytes(2 if tag > 0xFF else 1) + length + content


def read_ber(reader: Reader, tag: int) -> bytes:
    """Take a BER element of a known tag and return its content.

    Raises:
        ParseError: another tag, an indefinite length, one of more than four bytes,
            or one beyond the end.
    """
    found = int.from_bytes(reader.take(2 if tag > 0xFF else 1))
    if found != tag:
        raise ParseError(f"BER tag 0x{found:X}, not 0x{tag:X}", reader.pos)
    length = reader.u8()
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ParseError(f"BER length of {size} bytes, not 1 to 4", reader.pos)
        length = int.from_bytes(reader.take(size))
    return reader.take(length)


def per_length(length: int) -> bytes:
    """Serialize a PER length in the two-byte form, up to 0x3FFF."""
    assert length <= 0x3FFF
    return (0x8000 | length).to_bytes(2)


def read_per_length(reader: Reader) -> int:
    """Take a PER length of one or two bytes.

    Raises:
        ParseError: it is fragmented, which RDP never needs.
    """
    length = reader.u8()
    if length & 0x80:
        if length & 0x40:
            raise ParseError(f"fragmented PER length 0x{length:02X}", reader.pos)
        length = (length & 0x3F) << 8 | reader.u8()
    return length
