"""Serial chips whose plugs have their pins joined: TXD and RXD; RTS and CTS; DTR, DSR
and DCD. Drivers of Linux take them, see tests/lab/test_serial_chips.py."""

import struct
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

__all__ = ["Acm", "Ch340", "Cp210x", "Pl2303", "SerialChip"]

CODING = struct.Struct("<IBBB")
PARITIES = "NOEMS"
STOPS = (1.0, 1.5, 2.0)
CTS, DSR, RI, CD = 0x10, 0x20, 0x40, 0x80
MAX_WAITING = 4096


def bulk(address: int, size: int = 64) -> EndpointDescriptor:
    """A bulk endpoint of full speed."""
    return EndpointDescriptor(address, TransferType.BULK, size, 0)


def interrupt(address: int, size: int) -> EndpointDescriptor:
    """An interrupt endpoint of full speed."""
    return EndpointDescriptor(address, TransferType.INTERRUPT, size, 1)


class SerialChip(EmulatedDevice):
    """One port at full speed.

    Attributes:
        baud, bits, parity, stop: as the host set them.
        dtr, rts, is_break: likewise.
        flow: the flow control that the host chose: "", "hardware", "software".
        breaks: how many there were.
        requests: (request, value, index) of all that are not standard.
        is_dead: it takes no data (as where the other end's CTS forbids it).
        seen: for each byte that was sent alone, the line and the flow control then.
    """

    IN, OUT, NOTIFY = 0x81, 0x02, 0x83
    SIZE = 63  # of what it has to say at most: a short packet

    def __init__(
        self,
        ids: tuple[int, int, int],
        strings: tuple[str, str, str],
        *interfaces: InterfaceDescriptor,
        device_class: int = 0,
        bcd_usb: int = 0x0200,
    ) -> None:
        vendor, product, version = ids
        device = DeviceDescriptor(
            bcd_usb, device_class, 0, 0, 64, vendor, product, version, 1, 2, 3, 1
        )
        configuration = ConfigurationDescriptor(1, 0x80, 50, interfaces)
        descriptors = DeviceDescriptors(device, (configuration,))
        self.requests: list[tuple[int, int, int]] = []
        self.breaks = 0
        self.seen: dict[bytes, tuple[int, int, str, float, str]] = {}
        super().__init__(descriptors, strings, speed=Speed.FULL)
        self.was_reset()

    def was_reset(self) -> None:
        self.baud, self.bits, self.parity, self.stop = 0, 8, "N", 1.0
        self.dtr = self.rts = self.is_break = self.is_dead = False
        self.flow = ""
        self.errors = 0  # as a 16550 numbers them
        self._waiting: deque[int] = deque()

    @property
    def settings(self) -> tuple[int, int, str, float]:
        """Of the line."""
        return self.baud, self.bits, self.parity, self.stop

    @property
    def modem(self) -> int:
        """What comes in of the lines, as a 16550 numbers them."""
        return (CTS if self.rts else 0) | (DSR | CD if self.dtr else 0)

    def set_lines(self, dtr: bool, rts: bool) -> bytes:
        """The host sets its lines, which are the others."""
        is_new = (dtr, rts) != (self.dtr, self.rts)
        self.dtr, self.rts = dtr, rts
        if is_new:
            self.told()
        return b""

    def set_break(self, is_on: bool) -> bytes:
        """The host begins or ends a break, and gets it."""
        if is_on and not self.is_break:
            self.breaks += 1
            self.errors |= 0x10
            self.told()
        self.is_break = is_on
        return b""

    def set_coding(self, data: Data) -> bytes | None:
        """A line coding of CDC."""
        if len(data) != CODING.size:
            return None
        self.baud, stop, parity, self.bits = CODING.unpack(data)
        self.stop, self.parity = STOPS[stop], PARITIES[parity]
        return b""

    def told(self) -> None:
        """The lines have changed: tell, where the chip does so."""

    def take(self, count: int) -> bytes:
        """Take what has come back."""
        was_full = len(self._waiting) >= MAX_WAITING
        taken = bytes(
            self._waiting.popleft() for _ in range(min(count, len(self._waiting)))
        )
        if was_full:
            self.kick(self.OUT)
        return taken

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        self.requests.append((setup.request, setup.value, setup.index))
        return self.vendor(setup, data)

    def vendor(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer a request of the class or the vendor."""
        return None

    def data_out(self, endpoint: int, data: Data) -> bool:
        if self.is_dead or len(self._waiting) >= MAX_WAITING:
            return False
        if len(data) == 1:
            self.seen[bytes(data)] = *self.settings, self.flow
        self._waiting.extend(data)
        self.kick(self.IN)
        return True

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if endpoint == self.IN:
            return self.take(self.SIZE) or None
        return None


class Acm(SerialChip):
    """1209:0003, a modem of CDC-ACM at full speed."""

    def __init__(self, serial: str = "ACM1") -> None:
        functional = bytes.fromhex("0524001001 0524010001 04240206 0524060001")
        super().__init__(
            (0x1209, 0x0003, 0x0100),
            ("rusb", "Serial Loopback", serial),
            InterfaceDescriptor(
                *(0, 0, 2, 2, 1),
                endpoints=(interrupt(self.NOTIFY, 16),),
                extra=functional,
            ),
            InterfaceDescriptor(
                1, 0, 10, 0, 0, endpoints=(bulk(self.IN), bulk(self.OUT))
            ),
            device_class=2,
        )

    def vendor(self, setup: SetupPacket, data: Data) -> Data | None:
        match setup.request_type, setup.request:
            case 0x21, 0x20:
                return self.set_coding(data)
            case 0xA1, 0x21:
                stop, parity = STOPS.index(self.stop), PARITIES.index(self.parity)
                return CODING.pack(self.baud, stop, parity, self.bits)
            case 0x21, 0x22:
                return self.set_lines(bool(setup.value & 1), bool(setup.value & 2))
            case 0x21, 0x23:
                return self.set_break(setup.value != 0)
        return None

    def told(self) -> None:
        state = 3 if self.dtr else 0
        state |= 4 if self.errors & 0x10 else 0
        self.errors = 0
        notification = struct.pack("<BBHHHH", 0xA1, 0x20, 0, 0, 2, state)
        self.send(self.NOTIFY, notification)


class Cp210x(SerialChip):
    """10c4:ea60, a CP2102 (AN571)."""

    OUT = 0x01
    IN = 0x82

    def __init__(self, serial: str = "0001") -> None:
        ends = bulk(self.IN), bulk(self.OUT)
        super().__init__(
            (0x10C4, 0xEA60, 0x0100),
            ("Silicon Labs", "CP2102 USB to UART Bridge Controller", serial),
            InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=ends),
        )

    def was_reset(self) -> None:
        super().was_reset()
        self.is_enabled = False
        self._flow = bytes(16)
        self._characters = bytes(6)

    def vendor(self, setup: SetupPacket, data: Data) -> Data | None:
        value = setup.value
        if setup.request_type in (0x41, 0xC1) and setup.index:
            return None
        match setup.request_type, setup.request:
            case 0x41, 0x00:
                self.is_enabled = bool(value)
            case 0x41, 0x03:
                self.stop, self.parity = STOPS[value & 15], PARITIES[value >> 4 & 15]
                self.bits = value >> 8
            case 0xC1, 0x04:
                stop, parity = STOPS.index(self.stop), PARITIES.index(self.parity)
                return struct.pack("<H", stop | parity << 4 | self.bits << 8)
            case 0x41, 0x05:
                self.set_break(bool(value))
            case 0x41, 0x07:
                dtr = bool(value & 1) if value & 0x100 else self.dtr
                rts = bool(value & 2) if value & 0x200 else self.rts
                self.set_lines(dtr, rts)
            case 0xC1, 0x08:
                return bytes((self.modem | self.dtr | self.rts << 1,))
            case 0xC1, 0x0F:  # GET_PROPS
                return bytes(64)
            case 0xC1, 0x10:  # GET_COMM_STATUS
                return struct.pack("<IIIIBBB", 0, 0, len(self._waiting), 0, 0, 0, 0)
            case 0x41, 0x12:
                if value & 0x0A:
                    self._waiting.clear()
            case 0x41, 0x13 if len(data) == 16:
                return self._set_flow(bytes(data))
            case 0xC1, 0x14:
                return self._flow
            case 0x41, 0x19 if len(data) == 6:
                self._characters = bytes(data)
            case 0xC1, 0x0E:
                return self._characters
            case 0xC1, 0x1D:
                return struct.pack("<I", self.baud)
            case 0x41, 0x1E if len(data) == 4:
                (self.baud,) = struct.unpack("<I", data)
            case 0xC0, 0xFF if value == 0x370B:
                return b"\x02"  # it is a CP2102
            case 0x41, 0x06 | 0x15:
                pass
            case _:
                return None
        return b""

    def _set_flow(self, data: bytes) -> bytes:
        self._flow = data
        control, replace, _, _ = struct.unpack("<IIII", data)
        is_hardware = bool(control & 8) and replace >> 6 & 3 == 2
        self.flow = "hardware" if is_hardware else "software" if replace & 3 else ""
        rts = bool(replace >> 6 & 3)
        self.set_lines(bool(control & 3), rts)
        return b""


class Ch340(SerialChip):
    """1a86:7523."""

    CLOCK = 48_000_000

    def __init__(self) -> None:
        self.registers: dict[int, int] = {}
        ends = bulk(0x82, 32), bulk(0x02, 32), interrupt(0x81, 8)
        super().__init__(
            (0x1A86, 0x7523, 0x0264),
            ("", "USB Serial", ""),
            InterfaceDescriptor(0, 0, 0xFF, 1, 2, endpoints=ends),
            device_class=0xFF,
        )

    IN, OUT, NOTIFY = 0x82, 0x02, 0x81
    SIZE = 32  # a whole packet, and no empty one behind it

    def was_reset(self) -> None:
        super().was_reset()
        self.registers = {0x06: 0xFF, 0x07: 0xEE, 0x18: 0xC3, 0x05: 0x01}

    def vendor(self, setup: SetupPacket, data: Data) -> Data | None:
        value, index = setup.value, setup.index
        match setup.request_type, setup.request:
            case 0xC0, 0x5F:
                return b"\x31\x00"
            case 0x40, 0xA1:
                return b""
            case 0xC0, 0x95:
                self.registers[6] = ~(self.modem >> 4) & 0xFF
                return bytes(
                    self.registers.get(r, 0) for r in (value & 0xFF, value >> 8)
                )
            case 0x40, 0x9A:
                for register, content in (
                    (value & 0xFF, index & 0xFF),
                    (value >> 8, index >> 8),
                ):
                    self._set(register, content)
                return b""
            case 0x40, 0xA4:
                return self.set_lines(not value & 0x20, not value & 0x40)
        return None

    def _set(self, register: int, content: int) -> None:
        self.registers[register] = content
        if register in (0x12, 0x13):
            prescaler, divisor = self.registers.get(0x12, 0), self.registers.get(0x13)
            if divisor is not None:
                by = 1 << 12 - 3 * (prescaler & 3) - (prescaler >> 2 & 1)
                self.baud = self.CLOCK // by // (256 - divisor)
        elif register == 0x18:
            self.bits = 5 + (content & 3)
            self.stop = 2.0 if content & 4 else 1.0
            kind = content >> 3 & 7
            self.parity = {1: "O", 3: "E", 5: "M", 7: "S"}.get(kind, "N")
        elif register == 0x05:
            self.set_break(not content & 1)
        elif register == 0x27:
            self.flow = "hardware" if content & 1 else ""

    def told(self) -> None:
        state = ~(self.modem >> 4) & 0x0F
        self.send(self.NOTIFY, bytes((0x08, 0x3F, 0xF0 | state, 0xEE, 0, 0, 0, 0)))


class Pl2303(SerialChip):
    """067b:2303, an HX."""

    IN, OUT, NOTIFY = 0x83, 0x02, 0x81

    def __init__(self) -> None:
        ends = interrupt(self.NOTIFY, 10), bulk(self.OUT), bulk(self.IN)
        super().__init__(
            (0x067B, 0x2303, 0x0300),
            ("Prolific Technology Inc.", "USB-Serial Controller", ""),
            InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=ends),
            bcd_usb=0x0110,  # that of TA is 2.00
        )

    def was_reset(self) -> None:
        super().was_reset()
        self.registers = {0x8484: 2, 0x8383: 0}
        self._coding = bytes(7)

    def vendor(self, setup: SetupPacket, data: Data) -> Data | None:
        match setup.request_type, setup.request:
            case 0xC0, 0x01:
                register = setup.value & ~0x80 if setup.value < 256 else setup.value
                return bytes((self.registers.get(register, 0) & 0xFF,))
            case 0x40, 0x01:
                self.registers[setup.value] = setup.index
                if setup.value == 0:
                    flow = setup.index & 0xF0
                    self.flow = {0x60: "hardware", 0xC0: "software"}.get(flow, "")
                if setup.value == 8:
                    self._waiting.clear()
                return b""
            case 0x21, 0x20 if len(data) == 7:
                self._coding = bytes(data)
                self.set_coding(data)
                if self.baud >> 31:
                    mantissa, exponent = self.baud & 511, self.baud >> 9 & 7
                    self.baud = 12_000_000 * 32 // (mantissa << 2 * exponent)
                return b""
            case 0xA1, 0x21:
                return self._coding
            case 0x21, 0x22:
                return self.set_lines(bool(setup.value & 1), bool(setup.value & 2))
            case 0x21, 0x23:
                return self.set_break(setup.value != 0)
        return None

    def told(self) -> None:
        state = (3 if self.dtr else 0) | (0x80 if self.rts else 0)
        state |= 4 if self.errors & 0x10 else 0
        self.errors = 0
        self.send(self.NOTIFY, bytes((0xA1, 0x20, 0, 0, 0, 0, 2, 0, state, 0)))
