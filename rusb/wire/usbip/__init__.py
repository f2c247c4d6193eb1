"""USB/IP 1.1.1: towards Linux's vhci_hcd and other clients, and from USB/IP servers."""

from rusb.usb.types import TransferType
from rusb.wire.base import ChannelKind, ChannelSpec

from ._codec import DeviceList, Place, Record, list_request
from ._device import UsbipDeviceSide
from ._export import Export
from ._guest import UsbipGuestSide

__all__ = [
    "PLUGIN",
    "DeviceList",
    "Export",
    "Place",
    "Record",
    "Usbip",
    "UsbipDeviceSide",
    "UsbipGuestSide",
    "list_request",
]


class Usbip:
    """The plugin; see :class:`~rusb.wire.base.WireProtocol`."""

    name = "usbip"
    channel = ChannelSpec("", ChannelKind.STREAM)
    transfer_types = frozenset(TransferType)

    @staticmethod
    def guest_side() -> UsbipGuestSide:
        """Return a core that imports the first device, as vhci_hcd does."""
        return UsbipGuestSide()

    @staticmethod
    def device_side() -> UsbipDeviceSide:
        """Return a core that exports one device."""
        return UsbipDeviceSide()


PLUGIN = Usbip()
