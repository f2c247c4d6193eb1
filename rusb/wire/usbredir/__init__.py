"""usbredir 0.7: towards QEMU's usb-redir, and from programs that act like it."""

from rusb.usb.types import TransferType
from rusb.wire.base import ChannelKind, ChannelSpec

from ._device import StreamState, UsbredirDeviceSide
from ._guest import UsbredirGuestSide

__all__ = [
    "PLUGIN",
    "StreamState",
    "Usbredir",
    "UsbredirDeviceSide",
    "UsbredirGuestSide",
]


class Usbredir:
    """The plugin; see :class:`~rusb.wire.base.WireProtocol`."""

    name = "usbredir"
    channel = ChannelSpec("", ChannelKind.STREAM)
    transfer_types = frozenset(TransferType)

    @staticmethod
    def guest_side() -> UsbredirGuestSide:
        """Return a core that acts as QEMU's usb-redir does."""
        return UsbredirGuestSide()

    @staticmethod
    def device_side() -> UsbredirDeviceSide:
        """Return a core that offers one device."""
        return UsbredirDeviceSide()


PLUGIN = Usbredir()
