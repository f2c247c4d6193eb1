"""What read-ahead has to know of SCSI commands (SPC-3, SBC-3)."""

import enum
import struct
from dataclasses import dataclass
from typing import Self

from rusb.usb.bulk_only import COMMAND_WRAPPER

__all__ = ["HARMLESS", "Block", "Code", "SenseKey", "sense_key"]


class Code(enum.IntEnum):
    """Operation codes."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    READ_CAPACITY_16 = 0x9E
    REPORT_LUNS = 0xA0


class SenseKey(enum.IntEnum):
    """Why a command failed, as far as it matters here."""

    NOT_READY = 2
    UNIT_ATTENTION = 6


HARMLESS = frozenset(
    (
        *(Code.TEST_UNIT_READY, Code.INQUIRY, Code.MODE_SENSE_6, Code.MODE_SENSE_10),
        *(Code.READ_CAPACITY_10, Code.READ_CAPACITY_16),
    )
)
"""Commands after which what was read before is as good as before."""


@dataclass(frozen=True, slots=True)
class Block:
    """A command block in its wrapper.

    Attributes:
        tag, length, is_in: see :class:`~rusb.usb.bulk_only.Command`.
        lun: the logical unit.
        size: bytes of the command block.
        code: the operation code.
        cdb: the command block, filled up with zeros to 16 bytes.
    """

    tag: int
    length: int
    is_in: bool
    lun: int
    size: int
    cdb: bytes

    @property
    def code(self) -> int:
        """The operation code."""
        return self.cdb[0]

    @classmethod
    def parse(cls, wrapper: bytes) -> Self:
        """Read a wrapper that :class:`~rusb.usb.bulk_only.Command` could be made of."""
        _, tag, length, flags, lun, size, cdb = COMMAND_WRAPPER.unpack(wrapper)
        return cls(tag, length, flags != 0, lun, size, cdb[:size].ljust(16, b"\0"))

    def serialize(self) -> bytes:
        """Return the wrapper."""
        head = b"USBC", self.tag, self.length, 0x80 if self.is_in else 0
        return COMMAND_WRAPPER.pack(*head, self.lun, self.size, self.cdb)

    @classmethod
    def sense(cls, tag: int, lun: int) -> Self:
        """REQUEST SENSE in the form that every device has."""
        cdb = bytes((Code.REQUEST_SENSE, lun << 5, 0, 0, 18, 0))
        return cls(tag, 18, True, lun, 6, cdb.ljust(16, b"\0"))

    @property
    def extent(self) -> tuple[int, int] | None:
        """First block and number of blocks of a READ that may come from memory.

        None: something else, or one that asks for the medium itself (FUA) or for
        protection.
        """
        if not self.is_in or self.cdb[1] & 0xE8:
            return None
        match self.code, self.size:
            case Code.READ_10, size if size >= 10:
                first, count = struct.unpack(">2xIxH", self.cdb[:9])
            case Code.READ_16, 16:
                first, count = struct.unpack(">2xQI", self.cdb[:14])
            case _:
                return None
        return (first, count) if count else None

    def reading(self, tag: int, first: int, count: int, block: int) -> "Block":
        """Return the same READ of other blocks, of *block* bytes each."""
        if self.code == Code.READ_10:
            cdb = struct.pack(">BxIxHx", Code.READ_10, first, count)
        else:
            cdb = struct.pack(">BxQIxx", Code.READ_16, first, count)
        cdb = cdb.ljust(16, b"\0")
        return Block(tag, count * block, True, self.lun, self.size, cdb)

    def capacity(self, data: bytes) -> tuple[int, int] | None:
        """Last block and bytes of a block, as this command's data say.

        None: it asks for something else, or the medium is too large for the answer.
        """
        match self.code, self.cdb[1] & 0x1F:
            case Code.READ_CAPACITY_10, _ if len(data) >= 8:
                last, block = struct.unpack_from(">II", data)
                known = last != 0xFFFFFFFF
            case Code.READ_CAPACITY_16, 0x10 if len(data) >= 12:
                last, block = struct.unpack_from(">QI", data)
                known = True
            case _:
                return None
        return (last, block) if known and block else None

    def removable(self, data: bytes) -> bool | None:
        """Is it a direct-access device with a medium that can be removed?

        None: this command's data do not say that it is one at all.
        """
        if self.code != Code.INQUIRY or self.cdb[1] & 1 or len(data) < 2:
            return None
        return bool(data[1] & 0x80) if data[0] == 0 else None


def sense_key(data: bytes) -> int | None:
    """Return the sense key of sense data in either format; None: there is none."""
    if len(data) >= 3 and data[0] & 0x7F in (0x70, 0x71):
        return data[2] & 0x0F
    if len(data) >= 2 and data[0] & 0x7F in (0x72, 0x73):
        return data[1] & 0x0F
    return None
