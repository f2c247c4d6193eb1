"""Read a device before it is listed: descriptors and strings (rdpeusb.md 5.1, 9).

ADD_DEVICE has names only, which prove nothing; filters want to know what it is.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Final, TypeAlias

from rusb.errors import ParseError
from rusb.usb.descriptors import (
    MAX_CONFIGURATION_SIZE,
    ConfigurationDescriptor,
    DeviceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import parse_languages, parse_string
from rusb.usb.text import clean_text
from rusb.usb.types import DescriptorType, Speed, TransferType
from rusb.usb.urb import UrbResult, UrbStatus

__all__ = ["Configurations", "Steps", "read_device"]

MAX_CONFIGURATIONS: Final = 8
"""As many as Linux takes."""

DEVICE_SIZE, HEAD_SIZE, STRING_SIZE, QUALIFIER_SIZE, ATTEMPTS = 18, 9, 255, 10, 2

FULL_SPEED_MOST: Final = {
    TransferType.BULK: 64,
    TransferType.INTERRUPT: 64,
    TransferType.ISOCHRONOUS: 1023,
}
"""Bytes of a packet at full speed (USB 2.0, 5.6.3, 5.7.3, 5.8.3). The other bits of
wMaxPacketSize are for high speed."""

_QUALIFIER: Final = DescriptorType.DEVICE_QUALIFIER

_NOTHING: Final = UrbResult(UrbStatus.NO_DEVICE)

Steps: TypeAlias = Generator[SetupPacket, UrbResult | None, DeviceInfo]
"""Yields what is to be asked, and takes the answers."""

Configurations: TypeAlias = dict[int, tuple[ConfigurationDescriptor, bytes]]
"""By value: as it is understood, and as the device has it."""

_Bytes: TypeAlias = Generator[SetupPacket, UrbResult | None, bytes]


def read_device(info: DeviceInfo, configurations: Configurations) -> Steps:
    """Read a device.

    Args:
        info: what is known so far; what is returned has the rest.
        configurations: gets the configurations.

    Raises:
        ParseError: it does not answer, or has no configuration.
    """
    notes: list[str] = []
    data = yield from _descriptor(DescriptorType.DEVICE, 0, DEVICE_SIZE, DEVICE_SIZE)
    device = DeviceDescriptor.parse(data, notes)
    for index in range(min(device.num_configurations, MAX_CONFIGURATIONS)):
        try:
            data = yield from _configuration(index)
            parsed = ConfigurationDescriptor.parse(data, notes)
        except ParseError:
            if not configurations:
                raise
            break
        configurations[parsed.value] = parsed, data
    found = [configuration for configuration, _ in configurations.values()]
    speed = _speed(device, found)
    if speed is None:
        setup = SetupPacket.get_descriptor(_QUALIFIER, 0, QUALIFIER_SIZE)
        result = (yield setup) or _NOTHING
        is_high = result.status is UrbStatus.OK and len(result.data) == QUALIFIER_SIZE
        speed = Speed.HIGH if is_high else Speed.FULL
    texts = yield from _strings(device)
    return replace(
        info,
        vendor_id=device.vendor_id,
        product_id=device.product_id,
        bcd_device=device.bcd_device,
        bcd_usb=device.bcd_usb,
        device_class=device.device_class,
        device_subclass=device.device_subclass,
        device_protocol=device.device_protocol,
        manufacturer=texts[0],
        product=texts[1],
        serial=texts[2],
        speed=speed,
    )


def _configuration(index: int) -> _Bytes:
    kind = DescriptorType.CONFIGURATION
    data = yield from _descriptor(kind, index, HEAD_SIZE, HEAD_SIZE)
    total = int.from_bytes(data[2:4], "little")
    if total > MAX_CONFIGURATION_SIZE:
        raise ParseError(f"configuration {index} claims {total} bytes")
    if total > HEAD_SIZE:
        data = yield from _descriptor(kind, index, total, HEAD_SIZE)
    return data


def _strings(
    device: DeviceDescriptor,
) -> Generator[SetupPacket, UrbResult | None, list[str | None]]:
    """Manufacturer, product, serial number; None: there is none, or it is broken."""
    indexes = device.manufacturer, device.product, device.serial
    language = 0
    texts: list[str | None] = []
    if any(indexes):
        try:
            language = next(iter(parse_languages((yield from _string(0, 0)))), 0)
        except ParseError:
            pass
    for index in indexes:
        text = None
        if language and index:
            try:
                text = clean_text(parse_string((yield from _string(index, language))))
            except ParseError:
                pass
        texts.append(text or None)
    return texts


def _descriptor(kind: int, index: int, length: int, least: int) -> _Bytes:
    """Read one, in two attempts; fewer than *least* bytes are useless."""
    setup = SetupPacket.get_descriptor(kind, index, length)
    result = _NOTHING
    for _ in range(ATTEMPTS):
        result = (yield setup) or _NOTHING
        if result.status is UrbStatus.OK and len(result.data) >= least:
            return bytes(result.data[:length])
    status, size = result.status.name, len(result.data)
    raise ParseError(f"descriptor {kind}/{index}: {status}, {size} of {length} bytes")


def _string(index: int, language: int) -> _Bytes:
    """Read one; what fails is empty."""
    kind = DescriptorType.STRING
    setup = SetupPacket.get_descriptor(kind, index, STRING_SIZE, language)
    return bytes(((yield setup) or _NOTHING).data)


def _speed(
    device: DeviceDescriptor, configurations: list[ConfigurationDescriptor]
) -> Speed | None:
    """What the descriptors tell of the bus (5.1); ADD_DEVICE cannot be relied on.

    None: full or high; only a device that can do high speed has a device qualifier
    (USB 2.0, 9.6.2).
    """
    endpoints = [
        endpoint
        for configuration in configurations
        for interface in configuration.interfaces
        for endpoint in interface.endpoints
    ]
    bulk = {e.packet_size for e in endpoints if e.transfer_type is TransferType.BULK}
    if 1024 in bulk or any(e.companion for e in endpoints):
        return Speed.SUPER
    if any(
        e.max_packet_size > FULL_SPEED_MOST.get(e.transfer_type, e.max_packet_size)
        for e in endpoints
    ):
        return Speed.HIGH
    is_small = endpoints and all(
        e.transfer_type is TransferType.INTERRUPT and e.packet_size <= 8
        for e in endpoints
    )
    if device.max_packet_size0 == 8 and is_small:
        return Speed.LOW
    return Speed.FULL if bulk or device.bcd_usb < 0x0200 else None
