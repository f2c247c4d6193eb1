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

TYPE_CHECKING = False  # type checkers know the name; to import typing takes too long
if TYPE_CHECKING:
    from typing import Any

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

_HOMES = {
    "DeviceInfo": "device",
    "Direction": "types",
    "IsoPacket": "urb",
    "SetupPacket": "setup",
    "Speed": "types",
    "TransferType": "types",
    "Urb": "urb",
    "UrbResult": "urb",
    "UrbStatus": "urb",
}


def __getattr__(name: str) -> "Any":
    """Import what is asked for: dataclasses cost more than some commands do."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rusb.usb.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what can be asked for, too: for ``help()`` and completion."""
    return sorted({*globals(), *__all__})
