"""A memory stick as a guest backend gets it from the server, without any wire."""

from collections.abc import Callable
from dataclasses import dataclass

from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.lab.redirpeer import HIGH, OK, SUPER, RamDisk

__all__ = ["AttachedRamDisk"]

_CONFIGURATION = 2 << 8


@dataclass
class AttachedRamDisk:
    """An AttachedDevice that answers every URB at once.

    Attributes:
        resets: how often the guest reset the port.
    """

    disk: RamDisk
    name: str = "usb-1"
    resets: int = 0
    round_trip: float | None = None

    def __post_init__(self) -> None:
        device = DeviceDescriptor.parse(self.disk.descriptor(1 << 8) or b"")
        data = self.disk.descriptor(_CONFIGURATION) or b""
        configuration = ConfigurationDescriptor.parse(data)
        self.descriptors = DeviceDescriptors(device, (configuration,))
        self.info = DeviceInfo(
            1,
            device.vendor_id,
            device.product_id,
            bcd_usb=device.bcd_usb,
            manufacturer="Lab",
            product="RAM disk",
            speed={HIGH: Speed.HIGH, SUPER: Speed.SUPER}[self.disk.speed],
        )

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer; *complete* is called before this returns."""
        complete(self._run(urb))

    def _run(self, urb: Urb) -> UrbResult:
        data = b""
        if urb.type is TransferType.CONTROL:
            assert urb.setup is not None
            setup = urb.setup
            status, data = self.disk.control(
                setup.request_type, setup.request, setup.value, setup.length
            )
        elif urb.is_in:
            status, data = self.disk.bulk_in(urb.length)
        else:
            status = self.disk.bulk_out(bytes(urb.data))
        if status != OK:
            return UrbResult(UrbStatus.STALL)
        return UrbResult(UrbStatus.OK, data, len(data) if urb.is_in else urb.length)

    def cancel(self, urb_id: int) -> None:
        """Nothing is ever in flight."""

    def reset(self) -> None:
        """Reset the port."""
        self.resets += 1

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """There never is any."""
