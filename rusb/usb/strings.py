"""String descriptors (USB 2.0, 9.6.7): UTF-16LE, with a language each."""

import struct

from rusb.errors import ParseError

from .types import DescriptorType

__all__ = [
    "parse_languages",
    "parse_string",
    "serialize_languages",
    "serialize_string",
]


def _parse_text(data: bytes) -> bytes:
    if len(data) < 2 or data[1] != DescriptorType.STRING:
        raise ParseError(f"not a string descriptor: {data[:2].hex()}")
    if data[0] < 2 or data[0] % 2 or data[0] > len(data):
        raise ParseError(f"string descriptor with bLength {data[0]}, have {len(data)}")
    return data[2 : data[0]]


def parse_string(data: bytes) -> str:
    """Return the text of a string descriptor; lone surrogates become U+FFFD.

    Raises:
        ParseError: wrong type or an odd or impossible length.
    """
    return _parse_text(data).decode("utf-16-le", "replace")


def serialize_string(text: str) -> bytes:
    """Return a string descriptor; text beyond 126 UTF-16 units is cut."""
    body = text.encode("utf-16-le")[:252]
    return bytes((len(body) + 2, DescriptorType.STRING)) + body


def parse_languages(data: bytes) -> tuple[int, ...]:
    """Return the language ids of string descriptor zero; may be empty.

    Raises:
        ParseError: as :func:`parse_string`.
    """
    body = _parse_text(data)
    return struct.unpack(f"<{len(body) // 2}H", body)


def serialize_languages(*languages: int) -> bytes:
    """Return string descriptor zero."""
    body = struct.pack(f"<{len(languages)}H", *languages)
    return bytes((len(body) + 2, DescriptorType.STRING)) + body
