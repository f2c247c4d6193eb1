"""Descriptors: device, configuration, interface, endpoint.

USB 2.0 chapter 9.6 and USB 3.2 chapter 9.6, all little-endian. Parsing is strict about
lengths (a device is as hostile as any peer) and keeps what it does not know in
``extra``, in place, so that ``serialize(parse(data)) == data`` unless a count is wrong
or a descriptor is longer than its specification says.

Real devices get counts and lengths wrong and work with every host. With a list of
*notes* the parsers of device and configuration note what is odd there, skip what cannot
be read and go on; :meth:`~ConfigurationDescriptor.serialize` then has the right counts.
"""

import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Self

from rusb.errors import ParseError

from .types import DescriptorType, Direction, TransferType

__all__ = [
    "MAX_CONFIGURATION_SIZE",
    "ConfigurationDescriptor",
    "DeviceDescriptor",
    "DeviceDescriptors",
    "EndpointDescriptor",
    "InterfaceAssociation",
    "InterfaceDescriptor",
    "SsCompanion",
]

MAX_CONFIGURATION_SIZE = 8184
"""Bytes of the largest configuration read at attach (vrdpusb.md 1.11)."""

MAX_NOTES = 8
"""Oddities of one device that are told; a hostile one has thousands."""

_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_CONFIGURATION = struct.Struct("<BBHBBBBB")
_INTERFACE = struct.Struct("<9B")
_ENDPOINT = struct.Struct("<BBBBHB")
_COMPANION = struct.Struct("<BBBBH")
_ASSOCIATION = struct.Struct("<8B")


def _odd(text: str, notes: list[str] | None, offset: int | None = None) -> None:
    """Note what is wrong; without *notes* it is refused."""
    if notes is None:
        raise ParseError(text, offset)
    if len(notes) < MAX_NOTES:
        notes.append(text)


def split(data: bytes, notes: list[str] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (bDescriptorType, whole descriptor) of each descriptor in *data*."""
    offset = 0
    while offset < len(data):
        size = data[offset]
        if size < 2 or offset + size > len(data):
            left = len(data) - offset
            _odd(f"descriptor with bLength {size}, have {left}", notes, offset)
            return
        yield data[offset + 1], data[offset : offset + size]
        offset += size


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """Device descriptor (USB 2.0, 9.6.1), 18 bytes on the bus."""

    bcd_usb: int
    device_class: int
    device_subclass: int
    device_protocol: int
    max_packet_size0: int
    vendor_id: int
    product_id: int
    bcd_device: int
    manufacturer: int = 0
    product: int = 0
    serial: int = 0
    num_configurations: int = 1

    @classmethod
    def parse(cls, data: bytes, notes: list[str] | None = None) -> Self:
        """Read the descriptor; bytes after its bLength are ignored.

        Args:
            data: what GET_DESCRIPTOR(device) returned.
            notes: gets what is odd; without it what is odd is refused.

        Raises:
            ParseError: fewer than 18 bytes, or not a device descriptor.
        """
        if len(data) < _DEVICE.size:
            raise ParseError(f"device descriptor of {len(data)} bytes, not 18")
        size, kind, *fields = _DEVICE.unpack_from(data)
        if kind != DescriptorType.DEVICE:
            raise ParseError(f"not a device descriptor: type {kind}, bLength {size}")
        if size < _DEVICE.size:
            _odd(f"not a device descriptor: bLength {size}", notes)
        return cls(*fields)

    def serialize(self) -> bytes:
        """Return the 18 bytes."""
        return _DEVICE.pack(_DEVICE.size, DescriptorType.DEVICE, *astuple(self))


@dataclass(frozen=True, slots=True)
class SsCompanion:
    """SuperSpeed endpoint companion (USB 3.2, 9.6.7)."""

    max_burst: int = 0
    attributes: int = 0
    bytes_per_interval: int = 0

    def serialize(self) -> bytes:
        """Return the 6 bytes."""
        head = _COMPANION.size, DescriptorType.SS_ENDPOINT_COMPANION
        return _COMPANION.pack(*head, *astuple(self))


@dataclass(frozen=True, slots=True)
class EndpointDescriptor:
    """Endpoint descriptor (USB 2.0, 9.6.6).

    Attributes:
        address: bEndpointAddress with its direction bit.
        attributes: bmAttributes.
        max_packet_size: wMaxPacketSize as it is, with the bits of high bandwidth.
        interval: bInterval as it is.
        companion: the SuperSpeed companion that follows it, if any.
        extra: class-specific descriptors that follow, unparsed; also the bytes of
            this descriptor beyond the seventh (audio endpoints have nine).
        tail: bytes 8 and 9 of an audio endpoint descriptor.
    """

    address: int
    attributes: int
    max_packet_size: int
    interval: int
    companion: SsCompanion | None = None
    extra: bytes = b""
    tail: bytes = b""

    @property
    def is_in(self) -> bool:
        """Does data flow from the device?"""
        return self.address & Direction.IN != 0

    @property
    def transfer_type(self) -> TransferType:
        """Transfer type from bmAttributes."""
        return TransferType(self.attributes & 3)

    @property
    def packet_size(self) -> int:
        """Bytes per packet, without the high-bandwidth multiplier."""
        return self.max_packet_size & 0x7FF

    @property
    def bytes_per_interval(self) -> int:
        """Bytes per (micro)frame, with high-bandwidth multiplier or companion."""
        if self.companion is not None and self.companion.bytes_per_interval:
            return self.companion.bytes_per_interval
        return self.packet_size * (1 + (self.max_packet_size >> 11 & 3))

    def serialize(self) -> bytes:
        """Return this descriptor and those that hang on it."""
        head = _ENDPOINT.pack(
            _ENDPOINT.size + len(self.tail),
            DescriptorType.ENDPOINT,
            self.address,
            self.attributes,
            self.max_packet_size,
            self.interval,
        )
        companion = self.companion.serialize() if self.companion else b""
        return head + self.tail + companion + self.extra


@dataclass(frozen=True, slots=True)
class InterfaceDescriptor:
    """One alternate setting of an interface (USB 2.0, 9.6.5) with its endpoints.

    Attributes:
        extra: class-specific descriptors between it and its first endpoint.
    """

    number: int
    alternate: int
    interface_class: int
    interface_subclass: int
    interface_protocol: int
    string: int = 0
    endpoints: tuple[EndpointDescriptor, ...] = ()
    extra: bytes = b""

    def serialize(self) -> bytes:
        """Return this descriptor, its extras and its endpoints."""
        head = _INTERFACE.pack(
            _INTERFACE.size,
            DescriptorType.INTERFACE,
            self.number,
            self.alternate,
            len(self.endpoints),
            self.interface_class,
            self.interface_subclass,
            self.interface_protocol,
            self.string,
        )
        return head + self.extra + b"".join(e.serialize() for e in self.endpoints)


@dataclass(frozen=True, slots=True)
class InterfaceAssociation:
    """Interface association (USB 3.2, 9.6.4); it precedes its first interface.

    Attributes:
        extra: other descriptors between it and the next interface.
    """

    first_interface: int
    count: int
    function_class: int
    function_subclass: int
    function_protocol: int
    string: int = 0
    extra: bytes = b""

    def serialize(self) -> bytes:
        """Return the 8 bytes and the extras."""
        head = _ASSOCIATION.pack(
            _ASSOCIATION.size,
            DescriptorType.INTERFACE_ASSOCIATION,
            self.first_interface,
            self.count,
            self.function_class,
            self.function_subclass,
            self.function_protocol,
            self.string,
        )
        return head + self.extra


@dataclass(frozen=True, slots=True)
class ConfigurationDescriptor:
    """A configuration (USB 2.0, 9.6.3) with everything that GET_DESCRIPTOR returns.

    Attributes:
        value: bConfigurationValue.
        attributes: bmAttributes.
        max_power: bMaxPower, raw.
        members: interfaces (every alternate setting is one) and associations, in
            the order of the descriptor.
        string: iConfiguration.
        extra: descriptors between it and its first member.
    """

    value: int
    attributes: int
    max_power: int
    members: tuple[InterfaceDescriptor | InterfaceAssociation, ...] = ()
    string: int = 0
    extra: bytes = b""

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """Every alternate setting of every interface, in descriptor order."""
        return tuple(m for m in self.members if isinstance(m, InterfaceDescriptor))

    @property
    def interface_numbers(self) -> tuple[int, ...]:
        """The distinct bInterfaceNumber values, ascending."""
        return tuple(sorted({i.number for i in self.interfaces}))

    def interface(self, number: int, alternate: int = 0) -> InterfaceDescriptor | None:
        """Return one alternate setting, or None where there is none."""
        for candidate in self.interfaces:
            if candidate.number == number and candidate.alternate == alternate:
                return candidate
        return None

    @classmethod
    def parse(cls, data: bytes, notes: list[str] | None = None) -> Self:
        """Read a whole configuration.

        Args:
            data: what GET_DESCRIPTOR(configuration) returned; bytes after
                wTotalLength are ignored.
            notes: gets what is odd and was corrected or skipped; without it what is
                odd is refused.

        Raises:
            ParseError: it is no configuration; without *notes* also if lengths do not
                fit or an endpoint count is not kept.
        """
        if len(data) < 9:
            raise ParseError(f"configuration descriptor of {len(data)} bytes")
        size, kind, total, count, value, string, attributes, power = (
            _CONFIGURATION.unpack_from(data)
        )
        if kind != DescriptorType.CONFIGURATION:
            raise ParseError(f"not a configuration: type {kind}, bLength {size}")
        if size < 9:
            _odd(f"configuration with bLength {size}", notes)
            size = 9
        if not size <= total <= len(data):
            _odd(f"wTotalLength {total}, have {len(data)}", notes)
        reader = _ConfigurationReader(notes)
        for kind, descriptor in split(data[size:total], notes):
            reader.feed(kind, descriptor)
        members = reader.finish()
        found = cls(value, attributes, power, members, string, reader.extra)
        if notes is not None and count != len(found.interface_numbers):
            has = len(found.interface_numbers)
            _odd(f"configuration {value} claims {count} interfaces, has {has}", notes)
        return found

    def serialize(self) -> bytes:
        """Return the whole configuration; wTotalLength is computed."""
        body = self.extra + b"".join(m.serialize() for m in self.members)
        head = _CONFIGURATION.pack(
            _CONFIGURATION.size,
            DescriptorType.CONFIGURATION,
            _CONFIGURATION.size + len(body),
            len(self.interface_numbers),
            self.value,
            self.string,
            self.attributes,
            self.max_power,
        )
        return head + body


class _ConfigurationReader:
    """Put the flat run of descriptors back into a tree."""

    def __init__(self, notes: list[str] | None = None) -> None:
        self.extra = b""
        self._notes = notes
        self._members: list[InterfaceDescriptor | InterfaceAssociation] = []
        self._interface: bytes | None = None
        self._interface_extra = b""
        self._endpoints: list[EndpointDescriptor] = []
        self._is_skipping = False  # what belongs to an interface that is unreadable
        self._settings: set[tuple[int, int]] = set()

    def feed(self, kind: int, data: bytes) -> None:
        if kind == DescriptorType.INTERFACE:
            self._close()
            self._is_skipping = not self._is_new_setting(data)
            self._interface = None if self._is_skipping else data
        elif kind == DescriptorType.INTERFACE_ASSOCIATION:
            self._close()
            self._is_skipping = False
            if self._has(data, _ASSOCIATION.size, "interface association"):
                fields = _ASSOCIATION.unpack_from(data)[2:]
                self._members.append(InterfaceAssociation(*fields))
        elif self._is_skipping:
            return
        elif kind == DescriptorType.ENDPOINT and self._interface is not None:
            if self._is_endpoint(data):
                _, _, address, attributes, size, interval = _ENDPOINT.unpack_from(data)
                tail = data[7:]
                self._endpoints.append(
                    EndpointDescriptor(address, attributes, size, interval, tail=tail)
                )
            else:
                self._keep(data)
        elif kind == DescriptorType.SS_ENDPOINT_COMPANION and self._is_companion(data):
            fields = _COMPANION.unpack_from(data)[2:]
            self._replace(companion=SsCompanion(*fields))
        else:
            self._keep(data)

    def _has(self, data: bytes, size: int, name: str) -> bool:
        """Is a descriptor as long as it must be?"""
        if len(data) < size:
            text = f"{name} descriptor of {len(data)} bytes, not {size}"
            _odd(text, self._notes)
        return len(data) >= size

    def _is_new_setting(self, data: bytes) -> bool:
        """Is it an alternate setting of an interface, and the first of its number?"""
        if not self._has(data, _INTERFACE.size, "interface"):
            return False
        setting = data[2], data[3]
        if setting in self._settings:
            text = f"interface {data[2]} alternate {data[3]} is there twice"
            _odd(text, self._notes)
            return False
        self._settings.add(setting)
        return True

    def _is_endpoint(self, data: bytes) -> bool:
        """Can it be an endpoint? Number 0 belongs to the device."""
        if not self._has(data, _ENDPOINT.size, "endpoint"):
            return False
        if not data[2] & 0x0F:
            _odd(f"interface with an endpoint {data[2]:#04x}", self._notes)
        return data[2] & 0x0F != 0

    def _is_companion(self, data: bytes) -> bool:
        """Does it follow an endpoint directly, with the size it must have?"""
        last = self._endpoints[-1] if self._endpoints else None
        return (
            len(data) == _COMPANION.size
            and last is not None
            and last.companion is None
            and not last.extra
        )

    def _replace(
        self, companion: SsCompanion | None = None, extra: bytes | None = None
    ) -> None:
        last = self._endpoints[-1]
        self._endpoints[-1] = replace(
            last,
            companion=companion or last.companion,
            extra=last.extra if extra is None else extra,
        )

    def _keep(self, data: bytes) -> None:
        if self._endpoints:
            self._replace(extra=self._endpoints[-1].extra + data)
        elif self._interface is not None:
            self._interface_extra += data
        elif self._members and isinstance(self._members[-1], InterfaceAssociation):
            last = self._members[-1]
            self._members[-1] = replace(last, extra=last.extra + data)
        else:
            self.extra += data

    def _close(self) -> None:
        if self._interface is None:
            return
        fields = _INTERFACE.unpack_from(self._interface)
        number, alternate, count, code, subclass, protocol, string = fields[2:9]
        if count != len(self._endpoints):
            text = (
                f"interface {number} alternate {alternate} claims {count} endpoints,"
                f" has {len(self._endpoints)}"
            )
            _odd(text, self._notes)
        self._members.append(
            InterfaceDescriptor(
                number,
                alternate,
                code,
                subclass,
                protocol,
                string,
                tuple(self._endpoints),
                self._interface_extra,
            )
        )
        self._interface, self._interface_extra, self._endpoints = None, b"", []

    def finish(self) -> tuple[InterfaceDescriptor | InterfaceAssociation, ...]:
        self._close()
        return tuple(self._members)


@dataclass(frozen=True, slots=True)
class DeviceDescriptors:
    """The device descriptor and every configuration of one device."""

    device: DeviceDescriptor
    configurations: tuple[ConfigurationDescriptor, ...]

    def configuration(self, value: int) -> ConfigurationDescriptor | None:
        """Return the configuration with that bConfigurationValue, if any."""
        for candidate in self.configurations:
            if candidate.value == value:
                return candidate
        return None

    @property
    def has_isochronous(self) -> bool:
        """Is there an isochronous endpoint, in any alternate setting?"""
        return any(
            endpoint.attributes & 3 == TransferType.ISOCHRONOUS
            for configuration in self.configurations
            for interface in configuration.interfaces
            for endpoint in interface.endpoints
        )
