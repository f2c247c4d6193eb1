"""VirtualBox remote USB, versions 1 to 3, over the static channel ``vrdpusb``."""

from rusb.usb.types import TransferType
from rusb.wire.base import ChannelKind, ChannelSpec

from ._device import VrdpUsbDeviceSide
from ._guest import VrdpUsbGuestSide, WireState

__all__ = ["PLUGIN", "VrdpUsb", "VrdpUsbDeviceSide", "VrdpUsbGuestSide", "WireState"]


class VrdpUsb:
    """The plugin; see :class:`~rusb.wire.base.WireProtocol`."""

    name = "vrdpusb"
    channel = ChannelSpec("vrdpusb", ChannelKind.STATIC)
    transfer_types = frozenset(
        (TransferType.CONTROL, TransferType.BULK, TransferType.INTERRUPT)
    )

    @staticmethod
    def guest_side() -> VrdpUsbGuestSide:
        """Return a core for the server."""
        return VrdpUsbGuestSide()

    @staticmethod
    def device_side() -> VrdpUsbDeviceSide:
        """Return a core for the client."""
        return VrdpUsbDeviceSide()


PLUGIN = VrdpUsb()
