"""rusb: a USB device plugged in here, used by a virtual machine over there."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout the subpackages client, server and filters lie beside this folder;
# an installed copy has them inside it and skips this.
_here = _Path(__file__).resolve().parent
if not (_here / "client").is_dir():
    __path__.append(str(_here.parent))

from rusb.errors import (  # noqa: E402 - __path__ comes first
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
from rusb.usb.device import DeviceInfo  # noqa: E402
from rusb.usb.setup import SetupPacket  # noqa: E402
from rusb.usb.types import Direction, Speed, TransferType  # noqa: E402
from rusb.usb.urb import IsoPacket, Urb, UrbResult, UrbStatus  # noqa: E402

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
