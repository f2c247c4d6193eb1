"""An FT232R whose TXD and RXD are joined, as programs for FTDI chips know it."""

import asyncio
from collections import deque

from rusb.client.backends.emulated import Data, EmulatedDevice
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType

IN, OUT, PACKET = 0x81, 0x02, 64
STATUS = b"\x01\x60"  # modem status; transmitter empty


class Ftdi(EmulatedDevice):
    """0403:6001 at full speed; every IN packet starts with two bytes of status.

    Attributes:
        requests: (request, value, index) of the vendor requests so far.
        eeprom: 128 bytes.
    """

    def __init__(self, serial: str = "RUSB0001") -> None:
        ends = tuple(
            EndpointDescriptor(a, TransferType.BULK, PACKET, 0) for a in (IN, OUT)
        )
        interface = InterfaceDescriptor(0, 0, 0xFF, 0xFF, 0xFF, endpoints=ends)
        device = DeviceDescriptor(
            0x0200, 0, 0, 0, 8, 0x0403, 0x6001, 0x0600, 1, 2, 3, 1
        )
        configuration = ConfigurationDescriptor(1, 0xA0, 45, (interface,))
        descriptors = DeviceDescriptors(device, (configuration,))
        strings = ("FTDI", "FT232R USB UART", serial)
        super().__init__(descriptors, strings, speed=Speed.FULL)
        self.requests: list[tuple[int, int, int]] = []
        self.eeprom = bytearray(range(128))
        self.was_reset()

    def was_reset(self) -> None:
        self._latency = 16
        self._waiting: deque[int] = deque()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        self.requests.append((setup.request, setup.value, setup.index))
        match setup.request_type, setup.request:
            case 0x40, 0x09:
                self._latency = setup.value & 0xFF or 1
                return b""
            case 0x40, request if request <= 0x0B:
                return b""
            case 0xC0, 0x05:
                return STATUS
            case 0xC0, 0x0A:
                return bytes((self._latency,))
            case 0xC0, 0x90 if setup.index < 64:
                return bytes(self.eeprom[2 * setup.index : 2 * setup.index + 2])
        return None

    def data_out(self, endpoint: int, data: Data) -> bool:
        self._waiting.extend(data)
        self.kick(IN)
        return True

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if not self._waiting and not self._is_due:
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._latency / 1000, self._late)
            return None
        self._is_due = False
        count = min(len(self._waiting), PACKET - len(STATUS))
        return STATUS + bytes(self._waiting.popleft() for _ in range(count))

    def _late(self) -> None:
        """The latency timer ran out: send the status alone."""
        self._timer, self._is_due = None, True
        self.kick(IN)
