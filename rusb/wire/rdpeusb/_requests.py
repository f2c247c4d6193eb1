"""SETUP packets as Windows' drivers say them: one function per request (10.1)."""

import struct
from typing import Final

from rusb.errors import ParseError
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Recipient, Request

from ._urbs import Flags, Transfer, UrbFunction

__all__ = ["control", "setup_of", "typed"]

CONTROL_TIMEOUT: Final = 5000
"""Milliseconds that FreeRDP may wait for a device; its session waits, too (2.8)."""

CONTROL = struct.Struct("<II8s")
CONTROL_EX = struct.Struct("<III8s")
DESCRIPTOR = struct.Struct("<BBH")
FEATURE = struct.Struct("<HH")
STATUS = struct.Struct("<Hxx")
REQUEST = struct.Struct("<IBBHHxx")

_F = UrbFunction
_DESCRIPTORS = {  # by recipient: to read one, to write one
    0: (_F.GET_DESCRIPTOR_FROM_DEVICE, _F.SET_DESCRIPTOR_TO_DEVICE),
    1: (_F.GET_DESCRIPTOR_FROM_INTERFACE, _F.SET_DESCRIPTOR_TO_INTERFACE),
    2: (_F.GET_DESCRIPTOR_FROM_ENDPOINT, _F.SET_DESCRIPTOR_TO_ENDPOINT),
}
_FEATURES = {  # by recipient: to set one, to clear one
    0: (_F.SET_FEATURE_TO_DEVICE, _F.CLEAR_FEATURE_TO_DEVICE),
    1: (_F.SET_FEATURE_TO_INTERFACE, _F.CLEAR_FEATURE_TO_INTERFACE),
    2: (_F.SET_FEATURE_TO_ENDPOINT, _F.CLEAR_FEATURE_TO_ENDPOINT),
    3: (_F.SET_FEATURE_TO_OTHER, _F.CLEAR_FEATURE_TO_OTHER),
}
_STATUSES = {
    0: _F.GET_STATUS_FROM_DEVICE,
    1: _F.GET_STATUS_FROM_INTERFACE,
    2: _F.GET_STATUS_FROM_ENDPOINT,
    3: _F.GET_STATUS_FROM_OTHER,
}
_KINDS = {  # by type and recipient
    0x20: _F.CLASS_DEVICE,
    0x21: _F.CLASS_INTERFACE,
    0x22: _F.CLASS_ENDPOINT,
    0x23: _F.CLASS_OTHER,
    0x40: _F.VENDOR_DEVICE,
    0x41: _F.VENDOR_INTERFACE,
    0x42: _F.VENDOR_ENDPOINT,
    0x43: _F.VENDOR_OTHER,
}


def control(setup: SetupPacket, *, is_ex: bool) -> tuple[UrbFunction, bytes]:
    """Return CONTROL_TRANSFER_EX, with the time FreeRDP has, or CONTROL_TRANSFER."""
    flags = Flags.DEFAULT_PIPE | (Flags.IN | Flags.SHORT_OK if setup.direction else 0)
    raw = setup.serialize()
    if is_ex:
        body = CONTROL_EX.pack(0, flags, CONTROL_TIMEOUT, raw)
        return UrbFunction.CONTROL_TRANSFER_EX, body
    return UrbFunction.CONTROL_TRANSFER, CONTROL.pack(0, flags, raw)


def typed(setup: SetupPacket) -> tuple[UrbFunction, bytes, bool] | None:
    """Return a request as Windows' drivers make it: function, body, is it OUT (10.1)?

    None: it can be said by CONTROL_TRANSFER only.
    """
    kind, recipient = setup.request_type & 0x7F, setup.request_type & 0x1F
    if kind in _KINDS:
        flags = Flags.IN | Flags.SHORT_OK if setup.direction else 0
        body = REQUEST.pack(flags, 0, setup.request, setup.value, setup.index)
        return _KINDS[kind], body, not setup.direction
    if kind > Recipient.OTHER:
        return None
    is_in = bool(setup.direction)
    match setup.request:
        case Request.GET_DESCRIPTOR if is_in and recipient in _DESCRIPTORS:
            return _DESCRIPTORS[recipient][0], _descriptor(setup), False
        case Request.SET_DESCRIPTOR if not is_in and recipient in _DESCRIPTORS:
            return _DESCRIPTORS[recipient][1], _descriptor(setup), True
        case Request.SET_FEATURE | Request.CLEAR_FEATURE if not (is_in or setup.length):
            function = _FEATURES[recipient][setup.request == Request.CLEAR_FEATURE]
            return function, FEATURE.pack(setup.value, setup.index), False
        case Request.GET_STATUS if (is_in, setup.value, setup.length) == (True, 0, 2):
            return _STATUSES[recipient], STATUS.pack(setup.index), False
        case Request.GET_CONFIGURATION if setup == SetupPacket.get_configuration():
            return UrbFunction.GET_CONFIGURATION, b"", False
        case Request.GET_INTERFACE if setup == SetupPacket.get_interface(setup.index):
            return UrbFunction.GET_INTERFACE, STATUS.pack(setup.index), False
    return None


def _descriptor(setup: SetupPacket) -> bytes:
    return DESCRIPTOR.pack(setup.value & 0xFF, setup.value >> 8, setup.index)


_Made = tuple[struct.Struct, int, int | None]
_UNTYPED: dict[int, _Made] = {  # layout, bmRequestType, bRequest
    **{
        f[is_out]: (DESCRIPTOR, r | (0 if is_out else 0x80), 7 if is_out else 6)
        for r, f in _DESCRIPTORS.items()
        for is_out in (0, 1)
    },
    **{
        f[is_clear]: (FEATURE, r, 1 if is_clear else 3)
        for r, f in _FEATURES.items()
        for is_clear in (0, 1)
    },
    **{f: (STATUS, r | 0x80, 0) for r, f in _STATUSES.items()},
    **{f: (REQUEST, kind, None) for kind, f in _KINDS.items()},
    _F.GET_CONFIGURATION: (struct.Struct(""), 0x80, 8),
    _F.GET_INTERFACE: (STATUS, 0x81, 10),
    _F.CONTROL_TRANSFER: (CONTROL, 0, None),
    _F.CONTROL_TRANSFER_EX: (CONTROL_EX, 0, None),
}


def setup_of(urb: Transfer) -> SetupPacket | None:
    """Return the SETUP packet that a TS_URB stands for; None: it is no such request.

    Raises:
        ParseError: its body has another size, or does not go with its data.
    """
    made = _UNTYPED.get(urb.function)
    if made is None:
        return None
    layout, kind, request = made
    if len(urb.body) != layout.size:
        raise ParseError(f"TS_URB {urb.function:#x}: a body of {len(urb.body)} bytes")
    if urb.size > 0xFFFF:
        raise ParseError(f"control transfer of {urb.size} bytes")
    fields = layout.unpack(urb.body)
    is_in = urb.data is None
    if layout is CONTROL or layout is CONTROL_EX:
        setup = SetupPacket.parse(fields[-1])
        if setup.length != urb.size or bool(setup.direction) != is_in:
            raise ParseError(f"{setup} with {urb.size} bytes")
        return setup
    if layout is DESCRIPTOR:
        index, descriptor, language = fields
        fields = descriptor << 8 | index, language
    elif layout is STATUS:
        fields = 0, fields[0]
    elif layout is REQUEST:
        _, reserved, request, value, index = fields
        fields = value, index
        kind |= reserved & 0x1C | (0x80 if is_in else 0)
    assert request is not None
    value, index = fields or (0, 0)
    if layout is FEATURE:
        is_wrong = urb.size > 0  # either envelope is right, nothing travels
    else:
        is_wrong = bool(kind & 0x80) != is_in
    if is_wrong:
        raise ParseError(f"TS_URB {urb.function:#x} in the wrong envelope")
    return SetupPacket(kind, request, value, index, urb.size)
