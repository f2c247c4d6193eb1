"""TS_URBs and their results (rdpeusb.md 6 to 8).

Structures that travel with every transfer; see _messages.py for the others.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Final

from rusb.errors import ParseError
from rusb.usb.urb import UrbStatus

from ._messages import HEADER_SIZE, PROXY, Call, Done

__all__ = [
    *("BULK", "LIBUSB_CANCELLED", "LIBUSB_TIMED_OUT", "MAX_REQUEST", "MAX_SIZE"),
    *("NOT_SUPPORTED", "PIPE", "Completion", "Flags", "HResult", "Transfer"),
    *("UrbFunction", "completion", "pack_completion", "parse_completion"),
    *("parse_transfer", "status_of", "transfer", "usbd_of"),
]

MAX_REQUEST: Final = 0x3FFFFFFF
"""FreeRDP returns no more bits of a RequestId (6)."""

MAX_SIZE: Final = (16 << 20) - (64 << 10)
"""Bytes of a transfer: what a message may have, and room for what stands around."""


class UrbFunction(enum.IntEnum):
    """Function of a TS_URB (6)."""

    SELECT_CONFIGURATION = 0x00
    SELECT_INTERFACE = 0x01
    ABORT_PIPE = 0x02
    GET_CURRENT_FRAME_NUMBER = 0x07
    CONTROL_TRANSFER = 0x08
    BULK_OR_INTERRUPT_TRANSFER = 0x09
    ISOCH_TRANSFER = 0x0A
    GET_DESCRIPTOR_FROM_DEVICE = 0x0B
    SET_DESCRIPTOR_TO_DEVICE = 0x0C
    SET_FEATURE_TO_DEVICE = 0x0D
    SET_FEATURE_TO_INTERFACE = 0x0E
    SET_FEATURE_TO_ENDPOINT = 0x0F
    CLEAR_FEATURE_TO_DEVICE = 0x10
    CLEAR_FEATURE_TO_INTERFACE = 0x11
    CLEAR_FEATURE_TO_ENDPOINT = 0x12
    GET_STATUS_FROM_DEVICE = 0x13
    GET_STATUS_FROM_INTERFACE = 0x14
    GET_STATUS_FROM_ENDPOINT = 0x15
    VENDOR_DEVICE = 0x17
    VENDOR_INTERFACE = 0x18
    VENDOR_ENDPOINT = 0x19
    CLASS_DEVICE = 0x1A
    CLASS_INTERFACE = 0x1B
    CLASS_ENDPOINT = 0x1C
    SYNC_RESET_PIPE_AND_CLEAR_STALL = 0x1E
    CLASS_OTHER = 0x1F
    VENDOR_OTHER = 0x20
    GET_STATUS_FROM_OTHER = 0x21
    CLEAR_FEATURE_TO_OTHER = 0x22
    SET_FEATURE_TO_OTHER = 0x23
    GET_DESCRIPTOR_FROM_ENDPOINT = 0x24
    SET_DESCRIPTOR_TO_ENDPOINT = 0x25
    GET_CONFIGURATION = 0x26
    GET_INTERFACE = 0x27
    GET_DESCRIPTOR_FROM_INTERFACE = 0x28
    SET_DESCRIPTOR_TO_INTERFACE = 0x29
    OS_FEATURE_DESCRIPTOR_REQUEST = 0x2A
    SYNC_RESET_PIPE = 0x30
    SYNC_CLEAR_STALL = 0x31
    CONTROL_TRANSFER_EX = 0x32
    CLOSE_STATIC_STREAMS = 0x36


class Flags(enum.IntFlag):
    """TransferFlags."""

    IN = 1
    SHORT_OK = 2
    ASAP = 4
    DEFAULT_PIPE = 8


class HResult(enum.IntEnum):
    """What went wrong with a message; without bit 31 nothing did."""

    OK = 0
    INVALID = 0x80070057
    FAILED = 0x8007001F
    NO_INTERFACE = 0x80004002


_TRANSFER = struct.Struct("<IIIIHHI")  # header, CbTsUrb, header of the TS_URB
_URB = struct.Struct("<IHHI")
_SIZE = struct.Struct("<I")
_COMPLETION = struct.Struct("<IIIIIHHI")  # header, RequestId, CbTsUrbResult, header
_RESULT = struct.Struct("<IIHHI")
_END = struct.Struct("<II")
_NO_ACK: Final = 0x80000000
_IN, _OUT = Call.TRANSFER_IN, Call.TRANSFER_OUT
_DATA, _NO_DATA = Done.URB, Done.URB_NO_DATA
_BODY, _REPLY = HEADER_SIZE + _URB.size, HEADER_SIZE + _RESULT.size
"""Where the body of a TS_URB begins, and that of a result, if nothing is cut short."""

_LEAST, _LEAST_REPLY = _BODY + _SIZE.size, _REPLY + _END.size

PIPE = struct.Struct("<I")
BULK = struct.Struct("<II")


@dataclass(slots=True)
class Transfer:
    """A TS_URB and what it travels with.

    Attributes:
        function: see UrbFunction.
        request: RequestId.
        body: what follows the header of the TS_URB.
        size: OutputBufferSize: bytes wanted, or those of *data*.
        data: what an OUT transfer carries; None: it is an IN transfer.
        no_ack: no completion is wanted.
    """

    function: int
    request: int
    body: bytes | memoryview
    size: int
    data: bytes | memoryview | None = None
    no_ack: bool = False


def transfer(interface: int, message: int, urb: Transfer) -> bytes:
    """Return TRANSFER_IN_REQUEST or TRANSFER_OUT_REQUEST (5.5)."""
    size = 8 + len(urb.body)
    head = _TRANSFER.pack(
        interface | PROXY,
        message,
        _IN if urb.data is None else _OUT,
        size,
        size,
        urb.function,
        urb.request | (_NO_ACK if urb.no_ack else 0),
    )
    return b"".join((head, urb.body, _SIZE.pack(urb.size), urb.data or b""))


def parse_transfer(message: bytes, *, is_out: bool) -> Transfer:
    """Read a request, whose header has been looked at.

    Raises:
        ParseError: lengths that do not fit.
    """
    have = len(message)
    if have < _LEAST:
        raise ParseError(f"transfer of {have - HEADER_SIZE} bytes")
    total, size, function, request = _URB.unpack_from(message, HEADER_SIZE)
    end = _BODY - 8 + total
    start = end + _SIZE.size
    if not 8 <= total == size or start > have:
        raise ParseError(f"TS_URB of {size} bytes in {total}, have {have - _BODY + 8}")
    (wanted,) = _SIZE.unpack_from(message, end)
    if wanted > MAX_SIZE or have - start != (wanted if is_out else 0):
        raise ParseError(f"transfer of {wanted} bytes, have {have - start}")
    return Transfer(
        function,
        request & ~_NO_ACK,
        message[_BODY:end],
        wanted,
        memoryview(message)[start:] if is_out else None,
        request & _NO_ACK != 0,
    )


@dataclass(slots=True)
class Completion:
    """URB_COMPLETION, URB_COMPLETION_NO_DATA (5.6).

    Attributes:
        request: RequestId.
        usbd: UsbdStatus, or a status of libusb.
        hresult: see HResult.
        size: OutputBufferSize: bytes moved.
        data: what came with it; None: without data.
        result: what follows the header of the result.
    """

    request: int
    usbd: int = 0
    hresult: int = 0
    size: int = 0
    data: bytes | memoryview | None = None
    result: bytes | memoryview = b""


def completion(interface: int, message: int, done: Completion) -> bytes:
    """Return the message; the function says whether there are data."""
    return pack_completion(
        *(interface, message, done.request, done.usbd, done.hresult, done.size),
        *(done.data, done.result),
    )


def pack_completion(
    interface: int,
    message: int,
    request: int,
    usbd: int,
    hresult: int,
    size: int,
    data: bytes | memoryview | None,
    result: bytes | memoryview,
) -> bytes:
    """The same, of the attributes of a Completion: of nearly all there never is one."""
    total = 8 + len(result)
    head = _COMPLETION.pack(
        interface | PROXY,
        message,
        _NO_DATA if data is None else _DATA,
        request,
        total,
        total,
        0,
        usbd,
    )
    return b"".join((head, result, _END.pack(hresult, size), data or b""))


def parse_completion(message: bytes, *, has_data: bool) -> Completion:
    """Read a completion, whose header has been looked at. The padding may be a function
    (7).

    Raises:
        ParseError: lengths that do not fit.
    """
    have = len(message)
    if have < _LEAST_REPLY:
        raise ParseError(f"completion of {have - HEADER_SIZE} bytes")
    request, total, size, _, usbd = _RESULT.unpack_from(message, HEADER_SIZE)
    end = _REPLY - 8 + total
    start = end + _END.size
    if not 8 <= total == size or start > have:
        raise ParseError(f"result of {size} bytes in {total}, have {have - _REPLY + 8}")
    hresult, moved = _END.unpack_from(message, end)
    if have - start != (moved if has_data else 0):
        raise ParseError(f"completion with {moved} bytes, have {have - start}")
    data = memoryview(message)[start:] if has_data else None
    return Completion(request, usbd, hresult, moved, data, message[_REPLY:end])


# -------------------------------------------------------------- status ----

_USBD = {
    0x00000000: UrbStatus.OK,
    0xC0000004: UrbStatus.STALL,
    0xC0000030: UrbStatus.STALL,
    0xC0000009: UrbStatus.OK,  # short, as is the next
    0x80000900: UrbStatus.OK,
    0xC0000008: UrbStatus.OVERFLOW,
    0xC000000C: UrbStatus.OVERFLOW,
    0xC0000012: UrbStatus.OVERFLOW,
    0xC0000001: UrbStatus.CRC,
    0xC0006000: UrbStatus.TIMEOUT,
    0xC0007000: UrbStatus.NO_DEVICE,
    0xC0010000: UrbStatus.CANCELLED,
    0x80000300: UrbStatus.INVALID,
    0x80000600: UrbStatus.INVALID,
    0xC0000E00: UrbStatus.INVALID,
    # of libusb, as FreeRDP sends them (8)
    1: UrbStatus.IO_ERROR,
    2: UrbStatus.TIMEOUT,
    3: UrbStatus.CANCELLED,
    4: UrbStatus.STALL,
    5: UrbStatus.NO_DEVICE,
    6: UrbStatus.OVERFLOW,
}

LIBUSB_TIMED_OUT, LIBUSB_CANCELLED = 2, 3
NOT_SUPPORTED = 0xC0000E00

_FAILED: Final = 0x80000500  # REQUEST_FAILED
_USBD_OF = {
    UrbStatus.OK: 0,
    UrbStatus.STALL: 0xC0000004,
    UrbStatus.TIMEOUT: 0xC0006000,
    UrbStatus.CANCELLED: 0xC0010000,
    UrbStatus.NO_DEVICE: 0xC0007000,
    UrbStatus.CRC: 0xC0000001,
    UrbStatus.OVERFLOW: 0xC0000008,
    UrbStatus.INVALID: 0x80000300,
    UrbStatus.IO_ERROR: 0xC0000011,
}


def status_of(usbd: int, hresult: int = 0) -> UrbStatus:
    """Return what became of a transfer (8)."""
    if usbd == 0 and hresult & 0x80000000:
        is_ours = hresult == HResult.INVALID
        return UrbStatus.INVALID if is_ours else UrbStatus.IO_ERROR
    return _USBD.get(usbd, UrbStatus.IO_ERROR)


def usbd_of(status: UrbStatus) -> int:
    """Return the UsbdStatus that says it."""
    return _USBD_OF.get(status, _FAILED)
