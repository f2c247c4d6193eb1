"""SETUP packets: the eight bytes that open every control transfer."""

import struct
from dataclasses import dataclass
from typing import Self

from rusb.errors import ParseError

from .types import Direction, Request

__all__ = ["SetupPacket"]

_LAYOUT = struct.Struct("<BBHHH")


@dataclass(frozen=True, slots=True)
class SetupPacket:
    """A control request without its data stage (USB 2.0, 9.3).

    Attributes:
        request_type: bmRequestType; bit 7 set means device to host.
        request: bRequest.
        value: wValue, 0 to 65535.
        index: wIndex; the interface or endpoint when that is the recipient.
        length: wLength, bytes the data stage may carry, 0 to 65535.
    """

    request_type: int
    request: int
    value: int = 0
    index: int = 0
    length: int = 0

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read a SETUP packet as it is on the bus.

        Args:
            data: exactly 8 bytes, little-endian.

        Raises:
            ParseError: *data* has another length.
        """
        if len(data) != _LAYOUT.size:
            raise ParseError(f"SETUP packet of {len(data)} bytes, not 8")
        return cls(*_LAYOUT.unpack(data))

    def serialize(self) -> bytes:
        """Return the 8 bytes as they are on the bus."""
        return _LAYOUT.pack(
            self.request_type, self.request, self.value, self.index, self.length
        )

    @property
    def direction(self) -> Direction:
        """Direction of the data stage; OUT when there is none."""
        return Direction(self.request_type & 0x80)

    @property
    def is_possible(self) -> bool:
        """Do all its fields have values that fit on the bus?"""
        words = self.value | self.index | self.length
        return not (words >> 16 or (self.request_type | self.request) >> 8)

    @property
    def is_standard(self) -> bool:
        """Is it one of the requests of USB 2.0, 9.4?"""
        return self.request_type & 0x60 == 0

    @classmethod
    def get_descriptor(
        cls, kind: int, index: int = 0, length: int = 255, language: int = 0
    ) -> Self:
        """GET_DESCRIPTOR (9.4.3) to the device."""
        return cls(0x80, Request.GET_DESCRIPTOR, kind << 8 | index, language, length)

    @classmethod
    def set_configuration(cls, value: int) -> Self:
        """SET_CONFIGURATION (9.4.7)."""
        return cls(0x00, Request.SET_CONFIGURATION, value)

    @classmethod
    def get_configuration(cls) -> Self:
        """GET_CONFIGURATION (9.4.2)."""
        return cls(0x80, Request.GET_CONFIGURATION, 0, 0, 1)

    @classmethod
    def set_interface(cls, interface: int, alternate: int) -> Self:
        """SET_INTERFACE (9.4.10)."""
        return cls(0x01, Request.SET_INTERFACE, alternate, interface)

    @classmethod
    def get_interface(cls, interface: int) -> Self:
        """GET_INTERFACE (9.4.4)."""
        return cls(0x81, Request.GET_INTERFACE, 0, interface, 1)

    @classmethod
    def clear_halt(cls, endpoint: int) -> Self:
        """CLEAR_FEATURE(ENDPOINT_HALT) (9.4.1); *endpoint* with its direction bit."""
        return cls(0x02, Request.CLEAR_FEATURE, 0, endpoint)
