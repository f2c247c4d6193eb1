"""Messages of ``vrdpusb``: numbers, layouts, device lists (vrdpusb.md, section 1).

Everything is little-endian and packed. A message is ``length u32, code u8, body``;
``length`` counts what follows it.
"""

import enum
import struct
from collections.abc import Sequence

from rusb.errors import ParseError
from rusb.usb.device import DeviceInfo
from rusb.usb.text import clean_text
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import UrbStatus

VERSION = 3
"""The highest version we speak."""

MAX_URB_LENGTH = 8 << 20
"""Bytes of one transfer; eight times what guests ask for."""

MAX_DEVICES = 1024
"""Entries of one list; a bus holds 127 devices."""

MAX_STRING = 256
"""Characters of one string; USB strings have 126."""


class Code(enum.IntEnum):
    """Message codes (1.5)."""

    OPEN = 0
    CLOSE = 1
    RESET = 2
    SET_CONFIGURATION = 3
    CLAIM_INTERFACE = 4
    RELEASE_INTERFACE = 5
    SET_INTERFACE = 6
    SUBMIT_URB = 7
    URB_RESULT = 8  # client to server
    POLL_URBS = 8  # server to client
    CLEAR_HALT = 9
    CANCEL_URB = 10
    DEVICE_LIST = 11
    NEGOTIATE = 12


SUBMIT_URB, URB_RESULT = int(Code.SUBMIT_URB), int(Code.URB_RESULT)
"""The same of what travels with each transfer, without the way over the class."""


class Status(enum.IntEnum):
    """Status of a reply (1.4)."""

    SUCCESS = 0
    DENIED = 1
    REMOVED = 2


HEADER = struct.Struct("<IB")
STATUS_REPLY = struct.Struct("<IBBI")
REQUEST = struct.Struct("<IBI")  # length, code, id
SUBMIT = struct.Struct("<IBIIBBBII")  # …, id, handle, type, endpoint, direction, lens
RESULT = struct.Struct("<IBIBBII")  # …, id, flags, error, handle, len
RECORD = struct.Struct("<IBBII")  # the same without length and code
CANCEL = struct.Struct("<IBII")  # length, code, id, handle
NEGOTIATE = struct.Struct("<IBHH")
ENTRY = struct.Struct("<HIHBBBHHHHHHH")
SPEED = struct.Struct("<H")

FLAG_LAST = 1
FLAG_FRAGMENT = 2
POLL = 1
HAS_VERSION = 2
HAS_FLAGS = 4
EXTENDED = 1  # server_flags and client_flags bit 0

URB_CONTROL, URB_BULK, URB_INTERRUPT = 4, 2, 3
URB_TYPES = {
    TransferType.CONTROL: URB_CONTROL,
    TransferType.BULK: URB_BULK,
    TransferType.INTERRUPT: URB_INTERRUPT,
}
TRANSFER_TYPES = {v: k for k, v in URB_TYPES.items()}
DIRECTION_IN, DIRECTION_OUT = 1, 2

ERRORS = {
    UrbStatus.OK: 0,
    UrbStatus.STALL: 1,
    UrbStatus.CRC: 3,
    UrbStatus.OVERFLOW: 8,
    UrbStatus.UNDERRUN: 9,
    # VirtualBox takes these for 2, we need not think the device is gone
    UrbStatus.INVALID: 10,  # "buffer overrun"
    UrbStatus.IO_ERROR: 11,  # "buffer underrun"
    UrbStatus.TIMEOUT: 12,  # "protocol error"
}
STALLED, NOT_RESPONDING = 1, 2

_STATUSES = {0: UrbStatus.OK, 1: UrbStatus.STALL, 3: UrbStatus.CRC}
_STATUSES_2 = _STATUSES | {
    8: UrbStatus.OVERFLOW,
    9: UrbStatus.UNDERRUN,
    10: UrbStatus.INVALID,
    11: UrbStatus.IO_ERROR,
    12: UrbStatus.TIMEOUT,
}
# C10: version 1 clients put VirtualBox's internal numbers on the wire
_STATUSES_1 = _STATUSES | {4: UrbStatus.UNDERRUN, 5: UrbStatus.OVERFLOW}

_SPEEDS = {1: Speed.LOW, 2: Speed.FULL, 3: Speed.HIGH, 4: Speed.HIGH, 5: Speed.SUPER}
_SPEED_CODES = {Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 5}


def parse_error(error: int, version: int) -> UrbStatus:
    """Translate a wire status; what is not known is "not responding"."""
    table = _STATUSES_1 if version < 2 else _STATUSES_2
    return table.get(error, UrbStatus.NO_DEVICE)


def serialize_error(status: UrbStatus, version: int) -> int:
    """Translate a status; version 1 knows 0 to 3 only (S14)."""
    error = ERRORS.get(status, NOT_RESPONDING)
    return error if version > 1 or error <= 3 else NOT_RESPONDING


def describe(data: bytes) -> str:
    """Say why a message is not whole."""
    if len(data) < 5:
        return f"message of {len(data)} bytes"
    length = int.from_bytes(data[:4], "little")
    return f"length field {length}, have {len(data) - 4}"


def request(code: Code, device: int, *arguments: int) -> bytes:
    """A simple request (1.6): code, id and single bytes."""
    length = 5 + len(arguments)
    return REQUEST.pack(length, code, device) + bytes(arguments)


def empty(code: Code) -> bytes:
    """A request with an empty body."""
    return HEADER.pack(1, code)


def cancel(device: int, handle: int) -> bytes:
    """A CANCEL_URB request."""
    return CANCEL.pack(9, Code.CANCEL_URB, device, handle)


def negotiate_reply(version: int, client_flags: int) -> bytes:
    """A NEGOTIATE reply in the form of its version (1.10)."""
    if version >= 3:
        body = struct.pack("<BII", HAS_VERSION | HAS_FLAGS, version, client_flags)
    elif version == 2:
        body = struct.pack("<BI", HAS_VERSION, version)
    else:
        body = b"\0"
    return HEADER.pack(1 + len(body), Code.NEGOTIATE) + body


def serialize_list(devices: Sequence[DeviceInfo], *, extended: bool) -> bytes:
    """A whole DEVICE_LIST reply, correctly terminated (1.9)."""
    body = b"".join(_serialize_entry(d, extended) for d in devices) + b"\0\0"
    return HEADER.pack(1 + len(body), Code.DEVICE_LIST) + body


def _serialize_entry(device: DeviceInfo, extended: bool) -> bytes:
    fixed = ENTRY.size + (SPEED.size if extended else 0)
    strings, offsets = b"", []
    for text in (device.manufacturer, device.product, device.serial):
        encoded = clean_text(text)[:MAX_STRING].encode() if text else b""
        offsets.append(fixed + len(strings) if encoded else 0)
        strings += encoded + b"\0" if encoded else b""
    entry = ENTRY.pack(
        fixed + len(strings),
        device.id,
        device.bcd_usb,
        device.device_class,
        device.device_subclass,
        device.device_protocol,
        device.vendor_id,
        device.product_id,
        device.bcd_device,
        *offsets,
        device.port & 0xFFFF,
    )
    speed = SPEED.pack(_SPEED_CODES.get(device.speed, 0)) if extended else b""
    return entry + speed + strings


def parse_list(body: bytes, *, extended: bool) -> tuple[DeviceInfo, ...]:
    """Read the body of a DEVICE_LIST reply.

    It ends at a ``next`` of 0 or with the body; surplus bytes are ignored (C5). Of
    entries with the same id the first counts (S8).

    Raises:
        ParseError: an entry that does not hold together; nothing of the list can
            be trusted then.
    """
    found: dict[int, DeviceInfo] = {}
    offset = entries = 0
    while offset + 2 <= len(body):
        size = int.from_bytes(body[offset : offset + 2], "little")
        if size == 0:
            break
        entries += 1
        if entries > MAX_DEVICES:
            raise ParseError(f"more than {MAX_DEVICES} devices in one list", offset)
        fixed = ENTRY.size + (SPEED.size if extended else 0)
        if size < fixed or offset + size > len(body):
            raise ParseError(
                f"list entry of {size} bytes, have {len(body) - offset}", offset
            )
        device = _parse_entry(body[offset : offset + size], extended)
        found.setdefault(device.id, device)
        offset += size
    return tuple(found.values())


def _parse_entry(entry: bytes, extended: bool) -> DeviceInfo:
    fields = ENTRY.unpack_from(entry)
    bcd_usb = fields[2]
    if extended:
        (code,) = SPEED.unpack_from(entry, ENTRY.size)
        speed = _SPEEDS.get(code, Speed.FULL)
    else:  # vrdpusb.md 4.2
        speed = {3: Speed.SUPER, 2: Speed.HIGH}.get(bcd_usb >> 8, Speed.FULL)
    manufacturer, product, serial = (_string_at(entry, o) for o in fields[9:12])
    return DeviceInfo(
        id=fields[1],
        bcd_usb=bcd_usb,
        device_class=fields[3],
        device_subclass=fields[4],
        device_protocol=fields[5],
        vendor_id=fields[6],
        product_id=fields[7],
        bcd_device=fields[8],
        manufacturer=manufacturer,
        product=product,
        serial=serial,
        speed=speed,
        port=fields[12],
        remote=True,
    )


def _string_at(entry: bytes, offset: int) -> str | None:
    if offset == 0:
        return None
    end = entry.find(b"\0", offset)
    if end < 0:
        raise ParseError(f"string at {offset} does not end in its entry", offset)
    end = min(end, offset + 4 * MAX_STRING)  # bytes of so many characters
    return clean_text(entry[offset:end], MAX_STRING) or None
