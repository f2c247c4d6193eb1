"""What is known about a device before it is opened."""

from dataclasses import dataclass

from .text import clean_text
from .types import Speed

__all__ = ["MAX_NAME", "DeviceInfo"]

MAX_NAME = 256
"""Characters of a string of a device; USB has 126 at most, VRDP 255 bytes."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Identity of a device, as ``lsusb`` shows it and filters see it.

    Attributes:
        id: the number by which the two ends of one connection call the device; 0
            while no connection has given it one.
        vendor_id: idVendor.
        product_id: idProduct.
        bcd_device: bcdDevice, the device's own release number.
        bcd_usb: bcdUSB.
        device_class, device_subclass, device_protocol: of the device descriptor.
        manufacturer, product, serial: strings, cleaned and cut to MAX_NAME here,
            whoever gives them; None when the device has none or it could not be read.
        speed: bus speed.
        port: port number on its hub; 0 if unknown.
        bus: bus number, 0 if unknown.
        address: device address on its bus, 0 if unknown.
        port_path: port numbers from the root hub down, empty if unknown.
        remote: announced by a remote client; filters ask (filters.md 1.4).
    """

    id: int
    vendor_id: int
    product_id: int
    bcd_device: int = 0
    bcd_usb: int = 0x0200
    device_class: int = 0
    device_subclass: int = 0
    device_protocol: int = 0
    manufacturer: str | None = None
    product: str | None = None
    serial: str | None = None
    speed: Speed = Speed.UNKNOWN
    port: int = 0
    bus: int = 0
    address: int = 0
    port_path: tuple[int, ...] = ()
    remote: bool = False

    def __post_init__(self) -> None:
        for name in ("manufacturer", "product", "serial"):
            if text := getattr(self, name):
                object.__setattr__(self, name, clean_text(text)[:MAX_NAME])

    def __str__(self) -> str:
        """``1209:2303 Acme Widgets Blinker 3000``, as logs and messages name it."""
        names = " ".join(n for n in (self.manufacturer, self.product) if n)
        return f"{self.vendor_id:04x}:{self.product_id:04x} {names}".rstrip()
