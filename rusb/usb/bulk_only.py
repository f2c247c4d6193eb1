"""Mass storage, bulk-only transport 1.0: its interfaces, commands, statuses."""

import struct
from dataclasses import dataclass
from typing import Self

from .descriptors import InterfaceDescriptor
from .setup import SetupPacket
from .types import ClassCode, Feature, Request, TransferType
from .urb import Urb, UrbResult, UrbStatus

__all__ = [
    "COMMAND_WRAPPER",
    "STATUS_WRAPPER",
    "BulkOnly",
    "Command",
    "Status",
    "needs_quiet",
]

COMMAND_WRAPPER = struct.Struct("<4sIIBBB16s")
"""Signature, tag, length, flags, LUN, size of the command block, the block (5.1)."""

STATUS_WRAPPER = struct.Struct("<4sIIB")
"""Signature, tag, residue, status (5.2)."""

_COMMAND = struct.Struct("<4sIIBBB16x")
_STATUS = struct.Struct("<4sI4xB")
_PROTOCOL, _SUBCLASSES = 0x50, (0x02, 0x05, 0x06)


@dataclass(frozen=True, slots=True)
class BulkOnly:
    """An interface, and the endpoints by which its data come and go.

    Attributes:
        number: of the interface.
        incoming, outgoing: addresses of its bulk endpoints.
        packet: bytes of a packet of the incoming one.
    """

    number: int
    incoming: int
    outgoing: int
    packet: int

    @classmethod
    def of(cls, setting: InterfaceDescriptor) -> Self | None:
        """Return what a setting is; None: something else, or not as 4.4 wants it."""
        if (
            setting.interface_class != ClassCode.MASS_STORAGE
            or setting.interface_subclass not in _SUBCLASSES
            or setting.interface_protocol != _PROTOCOL
        ):
            return None
        bulk = [e for e in setting.endpoints if e.transfer_type is TransferType.BULK]
        incoming = [e for e in bulk if e.is_in]
        outgoing = [e for e in bulk if not e.is_in]
        if len(incoming) != 1 or len(outgoing) != 1:
            return None
        packet = incoming[0].packet_size or 1
        return cls(setting.number, incoming[0].address, outgoing[0].address, packet)


@dataclass(frozen=True, slots=True)
class Command:
    """What the transport has to know of a command block wrapper (5.1).

    Attributes:
        length: bytes of the data stage.
        is_in: the data go to the host.
    """

    SIZE = _COMMAND.size

    tag: int
    length: int
    is_in: bool

    @classmethod
    def of(cls, urb: Urb) -> Self | None:
        """Return what a transfer carries; None: no wrapper, or an invalid one (6.2)."""
        if len(urb.data) != _COMMAND.size:
            return None
        signature, tag, length, flags, lun, size = _COMMAND.unpack(urb.data)
        if signature != b"USBC" or flags & 0x7F or lun > 15 or not 1 <= size <= 16:
            return None
        return cls(tag, length, flags != 0)


@dataclass(frozen=True, slots=True)
class Status:
    """A command status wrapper (5.2).

    Attributes:
        code: 0: good, 1: failed, 2: phase error.
    """

    SIZE = _STATUS.size
    PHASE_ERROR = 2

    tag: int
    code: int

    @classmethod
    def of(cls, result: UrbResult) -> Self | None:
        """Return what a transfer has brought; None: something else."""
        if result.status is not UrbStatus.OK or result.length != _STATUS.size:
            return None
        signature, tag, code = _STATUS.unpack(result.data)
        return cls(tag, code) if signature == b"USBS" else None


def needs_quiet(setup: SetupPacket) -> bool:
    """Is a request one during which nothing may be under way on the endpoints?"""
    match setup.request_type, setup.request:
        case (0x00, Request.SET_CONFIGURATION) | (0x01, Request.SET_INTERFACE):
            return True
        case 0x02, Request.CLEAR_FEATURE:
            return setup.value == Feature.ENDPOINT_HALT
        case 0x21, 0xFF:  # Bulk-Only Mass Storage Reset (3.1)
            return True
    return False
