"""Binary device object store: what a SuperSpeed device says about its capabilities."""

import struct
from dataclasses import dataclass
from typing import Self

from rusb.errors import ParseError

from .descriptors import split
from .types import DescriptorType

__all__ = ["BosDescriptor"]

_BOS = struct.Struct("<BBHB")


@dataclass(frozen=True, slots=True)
class BosDescriptor:
    """Binary device object store (USB 3.2, 9.6.2).

    Attributes:
        capabilities: each device capability, whole, with its three-byte head.
    """

    capabilities: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a BOS; bytes after wTotalLength are ignored.

        Raises:
            ParseError: lengths or the capability count do not fit.
        """
        if len(data) < _BOS.size:
            raise ParseError(f"BOS descriptor of {len(data)} bytes")
        size, kind, total, count = _BOS.unpack_from(data)
        if kind != DescriptorType.BOS or size < _BOS.size:
            raise ParseError(f"not a BOS descriptor: type {kind}, bLength {size}")
        if not size <= total <= len(data):
            raise ParseError(f"BOS wTotalLength {total}, have {len(data)}")
        found = tuple(d for _, d in split(data[size:total]))
        if any(len(capability) < 3 for capability in found):
            raise ParseError("BOS with a capability of 2 bytes")
        if len(found) != count:
            raise ParseError(f"BOS claims {count} capabilities, has {len(found)}")
        return cls(found)

    def serialize(self) -> bytes:
        """Return the whole BOS."""
        body = b"".join(self.capabilities)
        head = _BOS.pack(
            _BOS.size,
            DescriptorType.BOS,
            _BOS.size + len(body),
            len(self.capabilities),
        )
        return head + body
