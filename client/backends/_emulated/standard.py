"""The standard requests as a device answers them (USB 2.0, 9.4; USB 3.2, 9.4)."""

from dataclasses import dataclass, replace
from typing import Protocol

from rusb.usb.bos import BosDescriptor
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.state import DeviceState
from rusb.usb.strings import serialize_languages, serialize_string
from rusb.usb.types import DescriptorType, Feature, Request, Speed, TransferType

from .endpoints import Data

__all__ = ["SUPER_SPEED_BOS", "US_ENGLISH", "Features", "answer"]

US_ENGLISH = 0x0409

_SELF_POWERED, _REMOTE_WAKEUP = 0x40, 0x20  # bmAttributes of a configuration

SUPER_SPEED_BOS = BosDescriptor(
    (
        bytes.fromhex("07 10 02 02000000"),  # USB 2.0 extension: link power management
        # SuperSpeed: full, high and 5 Gbit/s; all of it from full speed on; exit
        # latencies of U1 10 us, U2 2047 us
        bytes.fromhex("0a 10 03 00 0e00 01 0a ff07"),
    )
)


@dataclass(slots=True)
class Features:
    """What the host has enabled since the last reset."""

    remote_wakeup: bool = False
    u1: bool = False
    u2: bool = False


class Device(Protocol):
    """What the answers depend on; see :class:`.core.EmulatedDevice`."""

    descriptors: DeviceDescriptors
    strings: tuple[str, ...]
    speed: Speed
    bos: BosDescriptor | None
    state: DeviceState
    features: Features

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer what is not standard."""

    def set_configuration(self, value: int) -> bool:
        """Select a configuration."""

    def set_interface(self, number: int, alternate: int) -> bool:
        """Select an alternate setting."""

    def halt(self, endpoint: int) -> None:
        """Halt an endpoint."""

    def clear_halt(self, endpoint: int) -> bool:
        """Clear a halt."""

    def is_halted(self, endpoint: int) -> bool:
        """Is it halted?"""


def answer(device: Device, setup: SetupPacket, data: Data) -> Data | None:
    """Answer a control request; what chapter 9 leaves open goes to the device.

    Args:
        device: asked and changed.
        setup: the request.
        data: its OUT data stage.

    Returns:
        The IN data stage, not yet cut at wLength; ``b""`` for none; None stalls.
    """
    if not setup.is_standard:
        return device.control(setup, data)
    value, index = setup.value, setup.index
    match setup.request_type, setup.request:
        case 0x80, Request.GET_DESCRIPTOR:
            return _descriptor(device, value >> 8, value & 0xFF, index)
        case 0x80, Request.GET_CONFIGURATION:
            active = device.state.configuration
            return bytes((active.value if active else 0,))
        case 0x81, Request.GET_INTERFACE:
            alternate = device.state.alternates.get(index)
            return None if alternate is None else bytes((alternate,))
        case 0x80, Request.GET_STATUS:
            return _device_status(device)
        case 0x81, Request.GET_STATUS:
            return b"\0\0" if index & 0xFF in device.state.alternates else None
        case 0x82, Request.GET_STATUS:
            if not _is_endpoint(device, index):
                return None
            return bytes((device.is_halted(index), 0))
        case 0x00, Request.SET_CONFIGURATION:
            return _ok(value < 256 and device.set_configuration(value))
        case 0x01, Request.SET_INTERFACE:
            return _ok(device.set_interface(index, value))
        case 0x00 | 0x01 | 0x02, Request.SET_FEATURE | Request.CLEAR_FEATURE:
            return _ok(_feature(device, setup))
        case 0x00, Request.SET_ADDRESS:
            return _ok(value < 128)
        case 0x00, Request.SET_SEL if device.speed >= Speed.SUPER:
            return _ok(len(data) == 6)
        case 0x00, Request.SET_ISOCH_DELAY if device.speed >= Speed.SUPER:
            return b""
    return device.control(setup, data)


def _descriptor(device: Device, kind: int, index: int, language: int) -> bytes | None:
    if kind == DescriptorType.STRING:  # mostly
        return _string(device, index, language)
    configurations = device.descriptors.configurations
    configuration = configurations[index] if index < len(configurations) else None
    is_high = device.speed is Speed.HIGH
    match kind:
        case DescriptorType.DEVICE:
            return device.descriptors.device.serialize()
        case DescriptorType.CONFIGURATION if configuration is not None:
            return configuration.serialize()
        case DescriptorType.DEVICE_QUALIFIER if is_high:
            # as the device descriptor, without its ids and strings (9.6.2)
            same = device.descriptors.device.serialize()[2:7]
            return b"\x0a\x06" + same + bytes((64, len(configurations), 0))
        case DescriptorType.OTHER_SPEED_CONFIGURATION if is_high and configuration:
            return _at_full_speed(configuration)
        case DescriptorType.BOS if device.bos is not None:
            return device.bos.serialize()
    return None


def _string(device: Device, index: int, language: int) -> bytes | None:
    if not 0 <= index <= len(device.strings) or not device.strings:
        return None
    if not index:
        return serialize_languages(US_ENGLISH)
    if language != US_ENGLISH:
        return None
    return serialize_string(device.strings[index - 1])


def _device_status(device: Device) -> bytes:
    active, features = device.state.configuration, device.features
    is_self_powered = bool(active and active.attributes & _SELF_POWERED)
    status = is_self_powered | features.remote_wakeup << 1
    return bytes((status | features.u1 << 2 | features.u2 << 3, 0))


def _feature(device: Device, setup: SetupPacket) -> bool:
    """Set or clear a feature; False if that is not possible."""
    is_set = setup.request == Request.SET_FEATURE
    is_super = device.speed >= Speed.SUPER
    active, features = device.state.configuration, device.features
    match setup.request_type & 0x1F, setup.value:
        case 2, Feature.ENDPOINT_HALT:
            if not is_set:
                return device.clear_halt(setup.index)
            if _is_endpoint(device, setup.index):
                device.halt(setup.index)
                return True
        case 1, 0 if is_super:  # FUNCTION_SUSPEND
            return setup.index & 0xFF in device.state.alternates
        case 0, Feature.DEVICE_REMOTE_WAKEUP:
            if active is not None and active.attributes & _REMOTE_WAKEUP:
                features.remote_wakeup = is_set
                return True
        case 0, 48 if is_super and active is not None:  # U1_ENABLE
            features.u1 = is_set
            return True
        case 0, 49 if is_super and active is not None:  # U2_ENABLE
            features.u2 = is_set
            return True
    return False


def _is_endpoint(device: Device, address: int) -> bool:
    return not address & 0x7F or address in device.state.endpoints


def _ok(is_done: bool) -> bytes | None:
    """An empty data stage, or a stall."""
    return b"" if is_done else None


def _at_full_speed(configuration: ConfigurationDescriptor) -> bytes:
    """Describe a high-speed configuration as it would be at full speed (9.6.4)."""

    def endpoint(high: EndpointDescriptor) -> EndpointDescriptor:
        is_isochronous = high.transfer_type is TransferType.ISOCHRONOUS
        largest = 1023 if is_isochronous else 64
        return replace(
            high,
            max_packet_size=min(high.packet_size, largest),
            interval=1 if is_isochronous else high.interval,
        )

    members = tuple(
        replace(m, endpoints=tuple(map(endpoint, m.endpoints)))
        if isinstance(m, InterfaceDescriptor)
        else m
        for m in configuration.members
    )
    data = bytearray(replace(configuration, members=members).serialize())
    data[1] = DescriptorType.OTHER_SPEED_CONFIGURATION
    return bytes(data)
