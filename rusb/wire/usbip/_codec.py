"""Messages of USB/IP (usbip.md 2 to 5); all integers are big-endian."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rusb.errors import RemoteProtocolError
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.text import clean_text
from rusb.usb.types import Speed
from rusb.usb.urb import IsoPacket, UrbStatus

__all__ = [
    "BUSID",
    "CMD_SUBMIT",
    "CMD_UNLINK",
    "ERRNO",
    "HEADER",
    "IMPORT",
    "LIST",
    "MAX_DEVICES",
    "MAX_LENGTH",
    "MAX_PACKETS",
    "OPERATION",
    "RECORD",
    "RET_SUBMIT",
    "RET_UNLINK",
    "VERSION",
    "Code",
    "DeviceList",
    "Flag",
    "Place",
    "Record",
    "check_operation",
    "device_list",
    "import_reply",
    "import_request",
    "import_status",
    "list_request",
    "pack_iso",
    "status_of",
    "unpack_iso",
]

VERSION = 0x0111
"""1.1.1; clients and servers compare for equality (2)."""

MAX_LENGTH = 16 << 20
"""Bytes of one transfer; drivers ask for 1 MiB at most, the protocol has no limit."""

MAX_PACKETS = 1024
"""Packets of one isochronous transfer (4)."""

MAX_DEVICES = 1024
"""Devices of a list."""

OPERATION = struct.Struct(">HHI")
"""Version, code, status (2)."""

BUSID = struct.Struct(">32s")
_COUNT = struct.Struct(">I")
_RECORD = struct.Struct(">256s32sIIIHHHBBBBBB")
RECORD = _RECORD.size
_INTERFACE = struct.Struct(">BBBx")

CMD_SUBMIT = struct.Struct(">IIIIIIiiii8s")
"""Command, seqnum, devid, direction, ep, flags, length, start frame, packets, interval,
setup (3.1)."""

RET_SUBMIT = struct.Struct(">IIIIIiiiii8x")
"""Command, seqnum, 0, 0, 0, status, actual length, start frame, packets, errors
(3.2)."""

CMD_UNLINK = struct.Struct(">IIIIII24x")
"""Command, seqnum, devid, direction, ep, seqnum of what is cancelled (3.3)."""

RET_UNLINK = struct.Struct(">IIIIIi24x")
"""Command, seqnum, 0, 0, 0, status (3.3)."""

HEADER = CMD_SUBMIT.size
_ISO = struct.Struct(">IIIi")


class Code:
    """What a message is: operations (2), then commands (3)."""

    REQ_LIST, REP_LIST = 0x8005, 0x0005
    REQ_IMPORT, REP_IMPORT = 0x8003, 0x0003
    CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4


LIST, IMPORT = Code.REQ_LIST, Code.REQ_IMPORT


class Flag:
    """Flags of a transfer that mean something to a server (4)."""

    SHORT_NOT_OK = 0x0001
    ISO_ASAP = 0x0002
    ZERO_PACKET = 0x0040
    DIR_IN = 0x0200


ERRNO = {
    UrbStatus.OK: 0,
    UrbStatus.STALL: -32,
    UrbStatus.TIMEOUT: -110,
    UrbStatus.CANCELLED: -104,
    UrbStatus.NO_DEVICE: -108,
    UrbStatus.CRC: -84,
    UrbStatus.OVERFLOW: -75,
    UrbStatus.UNDERRUN: -121,
    UrbStatus.INVALID: -22,
    UrbStatus.IO_ERROR: -71,
    UrbStatus.DENIED: -1,
}
"""Linux's numbers, whatever system this is (5)."""

_LOST = -18
"""EXDEV, of an isochronous packet."""

_STATUSES = {number: status for status, number in ERRNO.items()} | {
    -2: UrbStatus.CANCELLED,
    _LOST: UrbStatus.IO_ERROR,
    -19: UrbStatus.NO_DEVICE,
    -62: UrbStatus.TIMEOUT,
    -63: UrbStatus.UNDERRUN,
    -70: UrbStatus.OVERFLOW,
    -113: UrbStatus.NO_DEVICE,
}

_SPEEDS = {
    1: Speed.LOW,
    2: Speed.FULL,
    3: Speed.HIGH,
    4: Speed.HIGH,
    5: Speed.SUPER,
    6: Speed.SUPER,
}
_SPEED_CODES = {Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 5}

REFUSALS = {
    1: "it is not available",
    2: "it is in use",
    3: "it is in a state of error",
    4: "there is no such device",
}
"""Status of a reply to an import (2)."""


def status_of(number: int) -> UrbStatus:
    """What an errno in a reply means."""
    return _STATUSES.get(number, UrbStatus.IO_ERROR)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is: it gives the busid ``1-3``, and what identifies it in URBs.

    Attributes:
        bus, port: 1 to 255 each; the Linux tool keeps 8 bits of them.
    """

    bus: int = 1
    port: int = 1

    @property
    def busid(self) -> str:
        """The key that a client imports it by."""
        return f"{self.bus}-{self.port}"

    @property
    def devid(self) -> int:
        """What it is called in the header of its URBs."""
        return self.bus << 16 | self.port


@dataclass(frozen=True, slots=True)
class Record:
    """A device as servers tell of it (2.1).

    Attributes:
        busid: the key that it is imported by.
        bus, address: busnum and devnum.
        info: identity and speed; the protocol has no strings.
        configuration: value of the active one, 0 for none.
        configurations: how many it has.
        interfaces: class, subclass and protocol of each of the active configuration;
            a reply to an import has none.
        interface_count: how many there are.
    """

    busid: str
    bus: int
    address: int
    info: DeviceInfo
    configuration: int = 0
    configurations: int = 1
    interfaces: tuple[tuple[int, int, int], ...] = ()
    interface_count: int = 0

    @classmethod
    def of(
        cls, place: Place, info: DeviceInfo, descriptors: DeviceDescriptors
    ) -> "Record":
        """The record of a device of ours, whose first configuration is active."""
        first = descriptors.configurations[0] if descriptors.configurations else None
        numbers = first.interface_numbers if first else ()
        settings = [first.interface(n, 0) for n in numbers] if first else []
        classes = tuple(
            (i.interface_class, i.interface_subclass, i.interface_protocol)
            if i
            else (0, 0, 0)
            for i in settings
        )
        return cls(
            place.busid,
            place.bus,
            place.port,
            info,
            first.value if first else 0,
            len(descriptors.configurations),
            classes,
            len(classes),
        )

    def serialize(self) -> bytes:
        """The 312 bytes without interfaces. A speed that is not known is high (2.1)."""
        info = self.info
        return _RECORD.pack(
            f"/rusb/{self.busid}".encode(),
            self.busid.encode(),
            self.bus,
            self.address,
            _SPEED_CODES.get(info.speed, 3),
            info.vendor_id,
            info.product_id,
            info.bcd_device,
            info.device_class,
            info.device_subclass,
            info.device_protocol,
            self.configuration & 0xFF,
            self.configurations & 0xFF,
            self.interface_count & 0xFF,
        )

    @classmethod
    def parse(cls, data: bytes) -> "Record":
        """Read the 312 bytes."""
        (_, busid, bus, address, speed, *ids, active, count, interfaces) = (
            _RECORD.unpack(data)
        )
        vendor, product, bcd, device_class, subclass, protocol = ids
        info = DeviceInfo(
            0,
            vendor,
            product,
            bcd_device=bcd,
            device_class=device_class,
            device_subclass=subclass,
            device_protocol=protocol,
            speed=_SPEEDS.get(speed, Speed.HIGH),
            bus=bus & 0xFF,
            address=address & 0xFF,
        )
        return cls(
            clean_text(busid.split(b"\0")[0]),
            bus,
            address,
            info,
            active,
            count,
            (),
            interfaces,
        )


# ---------------------------------------------------------- operations ----


def list_request() -> bytes:
    """Ask for the devices of a server."""
    return OPERATION.pack(VERSION, Code.REQ_LIST, 0)


def import_request(busid: str) -> bytes:
    """Ask for a device."""
    return OPERATION.pack(VERSION, Code.REQ_IMPORT, 0) + BUSID.pack(busid.encode())


def device_list(records: Sequence[Record]) -> bytes:
    """The reply with all devices (2.2)."""
    parts = [OPERATION.pack(VERSION, Code.REP_LIST, 0), _COUNT.pack(len(records))]
    for record in records:
        parts.append(record.serialize())
        parts += [_INTERFACE.pack(*classes) for classes in record.interfaces]
    return b"".join(parts)


def import_reply(record: Record | None, status: int = 4) -> bytes:
    """The reply to an import; None: refused, with *status* (2.3)."""
    if record is None:
        return OPERATION.pack(VERSION, Code.REP_IMPORT, status)
    return OPERATION.pack(VERSION, Code.REP_IMPORT, 0) + record.serialize()


def check_operation(data: bytes | bytearray, *codes: int) -> tuple[int, int]:
    """Read code and status of an operation.

    Raises:
        RemoteProtocolError: another version or code.
    """
    version, code, status = OPERATION.unpack_from(data)
    if version != VERSION:
        raise RemoteProtocolError(
            f"USB/IP version {version:#06x}; only 1.1.1 (0x0111) is spoken here"
        )
    if code not in codes:
        raise RemoteProtocolError(f"unknown USB/IP operation {code:#06x}")
    return code, status


def import_status(status: int) -> str:
    """Why a server refused an import."""
    return REFUSALS.get(status, f"status {status}")


class DeviceList:
    """The reply with all devices, as it comes (2.2).

    What was read is not read again, however small the pieces are.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._records: list[Record] = []
        self._count: int | None = None

    def receive(self, data: bytes) -> tuple[Record, ...] | None:
        """Take a piece of the stream; None: the list is not complete.

        Raises:
            RemoteProtocolError: not such a reply, or more than MAX_DEVICES.
        """
        self._buffer += data
        if self._count is None:
            self._count = self._begin()
        while self._count is not None and len(self._records) < self._count:
            if not self._next():
                break
        return tuple(self._records) if len(self._records) == self._count else None

    def _begin(self) -> int | None:
        """Return how many devices follow; None: that has not come."""
        size = OPERATION.size + _COUNT.size
        if len(self._buffer) < size:
            return None
        _, status = check_operation(self._buffer, Code.REP_LIST)
        if status:
            why = import_status(status)
            raise RemoteProtocolError(f"the server gives no list: {why}")
        count: int = _COUNT.unpack_from(self._buffer, OPERATION.size)[0]
        if count > MAX_DEVICES:
            raise RemoteProtocolError(f"a list of {count} devices")
        del self._buffer[:size]
        return count

    def _next(self) -> bool:
        """Read a device; False: it is not complete."""
        buffer = self._buffer
        end = RECORD
        if len(buffer) >= end:
            end += _INTERFACE.size * buffer[RECORD - 1]
        if len(buffer) < end:
            return False
        record = Record.parse(bytes(buffer[:RECORD]))
        found = tuple(_INTERFACE.iter_unpack(bytes(buffer[RECORD:end])))
        self._records.append(replace(record, interfaces=found))
        del buffer[:end]
        return True


# --------------------------------------------------- isochronous packets ----


def pack_iso(
    lengths: Iterable[int],
    packets: Sequence[IsoPacket] = (),
    *,
    is_compact: bool = False,
) -> bytes:
    """Descriptors of packets that lie back to back (3.4).

    Args:
        lengths: what each packet was asked to carry.
        packets: what each has carried; none in a request.
        is_compact: offsets are those of the data of a reply, as VirtualBox wants (9).
    """
    parts, offset = [], 0
    for n, length in enumerate(lengths):
        done = packets[n] if n < len(packets) else IsoPacket(0)
        lost = done.status is UrbStatus.IO_ERROR
        status = _LOST if lost else ERRNO[done.status]
        place = offset if done.length or not is_compact else 0
        parts.append(_ISO.pack(place, length, done.length, status))
        offset += done.length if is_compact else length
    return b"".join(parts)


def unpack_iso(data: bytes) -> list[tuple[int, int, int, int]]:
    """Offset, length, actual length and status of each packet."""
    return list(_ISO.iter_unpack(data))
