"""Descriptors of emulated devices, right for the speed they run at."""

from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceAssociation,
    InterfaceDescriptor,
    SsCompanion,
)
from rusb.usb.types import Speed, TransferType

__all__ = ["VENDOR_ID", "bulk", "describe", "interrupt", "isochronous"]

VENDOR_ID = 0x1209
"""pid.codes; its product ids 0001 to 0010 are there for tests."""

_BULK_SIZE = {Speed.FULL: 64, Speed.HIGH: 512, Speed.SUPER: 1024}
_ISO_SIZE = {Speed.FULL: 256, Speed.HIGH: 1024, Speed.SUPER: 1024}


def describe(
    speed: Speed,
    product_id: int,
    *members: InterfaceDescriptor | InterfaceAssociation,
    vendor_id: int = VENDOR_ID,
    device_class: tuple[int, int, int] = (0, 0, 0),
    attributes: int = 0x80,
    max_power_ma: int = 100,
) -> DeviceDescriptors:
    """Describe a device with one configuration and the strings 1 to 3.

    Args:
        speed: full, high or super.
        product_id: idProduct.
        members: what the configuration has, in order.
        vendor_id: idVendor; by default one whose product ids up to 0010 are for tests.
        device_class: class, subclass and protocol of the device descriptor.
        attributes: bmAttributes of the configuration.
        max_power_ma: what it draws, milliamperes.
    """
    is_super = speed >= Speed.SUPER
    device = DeviceDescriptor(
        0x0320 if is_super else 0x0200,
        *device_class,
        9 if is_super else 64,  # SuperSpeed states it as a power of two
        vendor_id,
        product_id,
        0x0100,
        manufacturer=1,
        product=2,
        serial=3,
    )
    power = max_power_ma // (8 if is_super else 2)
    configuration = ConfigurationDescriptor(1, attributes, power, members)
    return DeviceDescriptors(device, (configuration,))


def bulk(address: int, speed: Speed) -> EndpointDescriptor:
    """A bulk endpoint."""
    companion = SsCompanion(max_burst=15) if speed >= Speed.SUPER else None
    return EndpointDescriptor(
        address, TransferType.BULK, _BULK_SIZE[speed], 0, companion
    )


def interrupt(
    address: int, speed: Speed, size: int, milliseconds: int = 1
) -> EndpointDescriptor:
    """An interrupt endpoint, polled every 1, 2, 4, 8 or 16 milliseconds."""
    companion = None
    if speed >= Speed.SUPER:
        companion = SsCompanion(bytes_per_interval=size)
    interval = milliseconds
    if speed >= Speed.HIGH:  # 2 ** (bInterval - 1) microframes
        interval = milliseconds.bit_length() + 3
    return EndpointDescriptor(
        address, TransferType.INTERRUPT, size, interval, companion
    )


def isochronous(address: int, speed: Speed) -> EndpointDescriptor:
    """An isochronous endpoint with a packet every frame or microframe."""
    size = _ISO_SIZE[speed]
    companion = None
    if speed >= Speed.SUPER:
        companion = SsCompanion(bytes_per_interval=size)
    return EndpointDescriptor(address, TransferType.ISOCHRONOUS, size, 1, companion)
