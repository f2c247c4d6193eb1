"""MS-RDPEUSB: USB over dynamic channels, as FreeRDP and Windows' client speak it."""

from rusb.usb.types import TransferType
from rusb.wire.base import ChannelKind, ChannelSpec

from ._device import RdpeusbDeviceSide
from ._guest import CHANNEL, MAX_DEVICES, RdpeusbGuestSide

__all__ = ["PLUGIN", "Rdpeusb", "RdpeusbDeviceSide", "RdpeusbGuestSide"]


class Rdpeusb:
    """The plugin; see :class:`~rusb.wire.base.WireProtocol`."""

    name = "rdpeusb"
    channel = ChannelSpec(CHANNEL, ChannelKind.DYNAMIC, max_channels=1 + MAX_DEVICES)
    transfer_types = frozenset(TransferType)

    @staticmethod
    def guest_side() -> RdpeusbGuestSide:
        """Return a core for the server."""
        return RdpeusbGuestSide()

    @staticmethod
    def device_side() -> RdpeusbDeviceSide:
        """Return a core for the client."""
        return RdpeusbDeviceSide()


PLUGIN = Rdpeusb()
