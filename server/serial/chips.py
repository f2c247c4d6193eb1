"""Which driver a device wants, by its descriptors."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from rusb.usb.descriptors import DeviceDescriptors, InterfaceDescriptor
from rusb.usb.types import ClassCode, DescriptorType, TransferType

from .cdc_acm import CdcAcm
from .ch340 import Ch340
from .cp210x import Cp210x
from .driver import SerialDriver, SerialInterface
from .ftdi import Ftdi
from .pl2303 import Pl2303

__all__ = ["CHIPS", "find_ports"]

CHIPS = "CDC-ACM, FTDI, CP210x, CH340 and PL2303"

_ABSTRACT_CONTROL = 2
_UNION = 6


_Maker: TypeAlias = Callable[[SerialInterface], SerialDriver]


def _driver_of(vendor: int, product: int) -> _Maker:
    """Return who drives vendor-specific interfaces of a device.

    Raises:
        KeyError: nobody.
    """
    match vendor, product:
        case 0x0403, _:
            return Ftdi
        case 0x10C4, (0xEA60 | 0xEA61 | 0xEA63 | 0xEA70 | 0xEA71 | 0xEA7A | 0xEA7B):
            return Cp210x
        case ((0x1A86 | 0x4348 | 0x9986), (0x5523 | 0x7522 | 0x7523)):
            return Ch340
        case 0x067B, (0x2303 | 0x2304 | 0x04BB | 0xAAA0 | 0xAAA2):
            return Pl2303
        case 0x067B, (0x23A3 | 0x23B3 | 0x23C3 | 0x23D3 | 0x23E3 | 0x23F3):
            return Pl2303
    raise KeyError(f"{vendor:04x}:{product:04x}")


def find_ports(descriptors: DeviceDescriptors) -> list[SerialDriver]:
    """Return the serial ports of a device in its first configuration."""
    if not descriptors.configurations:
        return []
    settings = [
        setting
        for setting in descriptors.configurations[0].interfaces
        if setting.alternate == 0
    ]
    found: list[tuple[_Maker, InterfaceDescriptor, InterfaceDescriptor]] = []
    for setting in settings:
        kind = setting.interface_class, setting.interface_subclass
        if kind == (ClassCode.COMMUNICATIONS, _ABSTRACT_CONTROL):
            data = _data_interface(setting, settings)
            found.append((CdcAcm, setting, data))
        elif setting.interface_class == ClassCode.VENDOR_SPECIFIC:
            device = descriptors.device
            try:
                driver = _driver_of(device.vendor_id, device.product_id)
            except KeyError:
                continue
            found.append((driver, setting, setting))
    ports: list[SerialDriver] = []
    for driver, control, data in found:
        interface = _interface(descriptors, control, data, len(found))
        if interface is not None:
            ports.append(driver(interface))
    return ports


def _data_interface(
    control: InterfaceDescriptor, settings: Sequence[InterfaceDescriptor]
) -> InterfaceDescriptor:
    """Return the interface with the data of a CDC function: its union names it (CDC
    1.2, 5.2.3.2); otherwise it is the next one, or there is only one."""
    number = control.number + 1
    extra = control.extra
    while len(extra) > 4 and 2 < extra[0] <= len(extra):
        if extra[1] == DescriptorType.CS_INTERFACE and extra[2] == _UNION:
            number = extra[4]
        extra = extra[extra[0] :]
    return next((s for s in settings if s.number == number), control)


def _interface(
    descriptors: DeviceDescriptors,
    control: InterfaceDescriptor,
    data: InterfaceDescriptor,
    count: int,
) -> SerialInterface | None:
    bulk = [e for e in data.endpoints if e.transfer_type is TransferType.BULK]
    inputs = [e for e in bulk if e.is_in and e.packet_size]
    outputs = [e for e in bulk if not e.is_in]
    if not inputs or not outputs:
        return None
    notify = [
        e
        for e in control.endpoints
        if e.is_in and e.transfer_type is TransferType.INTERRUPT
    ]
    return SerialInterface(
        descriptors.device,
        control.number,
        count,
        inputs[0],
        outputs[0],
        notify[0] if notify else None,
    )
