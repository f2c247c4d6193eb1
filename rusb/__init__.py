"""rusb: a USB device plugged in here, used by a virtual machine over there."""

__version__ = "0.1.0"

from rusb.errors import (
    AuthenticationError,
    BackendError,
    CertificateError,
    ConnectionLost,
    ControlError,
    DeviceBusy,
    DeviceGone,
    FilterError,
    GuestError,
    HandshakeError,
    Hint,
    ListenError,
    LocalProtocolError,
    NegotiationError,
    NoPermission,
    ParseError,
    PluginError,
    ProtocolError,
    RemoteProtocolError,
    RusbError,
    ServerBusy,
    SettingsError,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Direction, Speed, TransferType
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus

__all__ = [
    "AuthenticationError",
    "BackendError",
    "CertificateError",
    "ConnectionLost",
    "ControlError",
    "DeviceBusy",
    "DeviceGone",
    "DeviceInfo",
    "Direction",
    "FilterError",
    "GuestError",
    "HandshakeError",
    "Hint",
    "IsoPacket",
    "ListenError",
    "LocalProtocolError",
    "NegotiationError",
    "NoPermission",
    "ParseError",
    "PluginError",
    "ProtocolError",
    "RemoteProtocolError",
    "RusbError",
    "ServerBusy",
    "SettingsError",
    "SetupPacket",
    "Speed",
    "TransferType",
    "Urb",
    "UrbResult",
    "UrbStatus",
    "__version__",
]
