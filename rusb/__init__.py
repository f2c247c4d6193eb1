"""rusb: a USB device plugged in here, used by a virtual machine over there."""

__version__ = "0.1.0"

from rusb.errors import (
    AuthenticationError,
    BackendError,
    ConnectionLost,
    FilterError,
    GuestError,
    LocalProtocolError,
    NegotiationError,
    ParseError,
    PluginError,
    ProtocolError,
    RemoteProtocolError,
    RusbError,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Direction, Speed, TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus

__all__ = [
    "AuthenticationError",
    "BackendError",
    "ConnectionLost",
    "DeviceInfo",
    "Direction",
    "FilterError",
    "GuestError",
    "IsoPacket",
    "LocalProtocolError",
    "NegotiationError",
    "ParseError",
    "PluginError",
    "ProtocolError",
    "RemoteProtocolError",
    "RusbError",
    "SetupPacket",
    "Speed",
    "TransferType",
    "Urb",
    "UrbResult",
    "UrbStatus",
    "__version__",
]
