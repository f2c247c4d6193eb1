"""A vendor-specific device for tests and measurements: every type of transfer."""

import struct
from collections.abc import Sequence

from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import ClassCode, Speed

from .core import Data, EmulatedDevice
from .describe import bulk, describe, interrupt, isochronous
from .echo import Echo

__all__ = ["Loopback"]

MAX_STORED = 4096
"""Bytes that the vendor request *store* takes."""

_PATTERN = memoryview(bytes(range(251)) * 4178)[: 1 << 20]  # 251 is prime


class Loopback(EmulatedDevice):
    """Vendor-specific device, by default 1209:0004.

    Interface 0 has the endpoints below but the isochronous ones, which are in
    alternate setting 1 of interface 1. What is written to an OUT endpoint of a
    loopback comes back, packet by packet, from its IN endpoint. Vendor requests to
    the device: 1 (IN) identifies, 2 (OUT) stores up to 4096 bytes, 3 (IN) reads them
    back, 4 (no data) halts endpoint wIndex.

    Attributes:
        received: bytes that the sinks have swallowed.
    """

    SOURCE = 0x81
    """Bulk: fills every transfer, from the start of a pattern of 1 MiB."""
    SINK = 0x01
    """Bulk: takes everything."""
    BULK_IN, BULK_OUT = 0x82, 0x02
    """Bulk loopback."""
    INTERRUPT_IN, INTERRUPT_OUT = 0x83, 0x03
    """Interrupt loopback."""
    ISO_IN, ISO_OUT = 0x84, 0x04
    """Isochronous source, each packet starts with its number (32 bits, little-endian,
    if there is room), and sink."""

    IDENTIFY, STORE, READ_BACK, HALT = 1, 2, 3, 4
    """Vendor requests."""

    IDENTITY = b"rusb loopback 1"

    def __init__(
        self,
        *,
        speed: Speed = Speed.HIGH,
        port: int = 0,
        serial: str = "525553420004",
    ) -> None:
        vendor = ClassCode.VENDOR_SPECIFIC
        bulks = (self.SOURCE, self.SINK, self.BULK_IN, self.BULK_OUT)
        interrupts = (self.INTERRUPT_IN, self.INTERRUPT_OUT)
        isos = tuple(isochronous(a, speed) for a in (self.ISO_IN, self.ISO_OUT))
        endpoints = tuple(bulk(a, speed) for a in bulks)
        endpoints += tuple(interrupt(a, speed, 64) for a in interrupts)
        descriptors = describe(
            speed,
            0x0004,
            InterfaceDescriptor(0, 0, vendor, 0, 0, endpoints=endpoints),
            InterfaceDescriptor(1, 0, vendor, 1, 0),
            InterfaceDescriptor(1, 1, vendor, 1, 0, endpoints=isos),
            device_class=(vendor, 0, 0),
        )
        super().__init__(
            descriptors, ("rusb", "Loopback", serial), speed=speed, port=port
        )
        self.received = 0
        self._stored = b""
        self._frame = 0
        self._queues: dict[int, Echo] = {}

    def was_reset(self) -> None:
        """Forget what waits."""
        bulks, interrupts = Echo(), Echo()
        self._queues = {
            self.BULK_IN: bulks,
            self.BULK_OUT: bulks,
            self.INTERRUPT_IN: interrupts,
            self.INTERRUPT_OUT: interrupts,
        }
        self._frame = 0

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer the vendor requests."""
        match setup.request_type, setup.request:
            case 0xC0, self.IDENTIFY:
                return self.IDENTITY
            case 0x40, self.STORE if len(data) <= MAX_STORED:
                self._stored = bytes(data)
                return b""
            case 0xC0, self.READ_BACK:
                return self._stored
            case 0x40, self.HALT if setup.index in self.state.endpoints:
                self.halt(setup.index)
                return b""
        return None

    def data_out(self, endpoint: int, data: Data) -> bool:
        """Swallow, or queue for the way back."""
        if endpoint == self.SINK:
            self.received += len(data)
            return True
        queue = self._queues[endpoint]
        if queue.is_full:
            return False
        queue.put(data)
        self.kick(endpoint | 0x80)
        return True

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Supply the pattern, or what was written."""
        if endpoint == self.SOURCE:
            return _PATTERN[:room] if room else _PATTERN
        queue = self._queues[endpoint]
        was_full = queue.is_full
        piece = queue.take()
        if was_full and not queue.is_full:
            self.kick(endpoint & 0x7F)
        return piece

    def iso_out(self, endpoint: int, packets: list[Data]) -> None:
        """Swallow."""
        self.received += sum(map(len, packets))

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        """Supply full packets."""
        packets: list[Data] = []
        for length in lengths:
            number = struct.pack("<I", self._frame)
            packets.append((number + _PATTERN[: max(length - 4, 0)])[:length])
            self._frame = self._frame + 1 & 0xFFFFFFFF
        return packets
