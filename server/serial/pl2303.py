"""Prolific's PL2303, as drivers of the BSDs use it."""

from collections.abc import Sequence

from rusb.usb.descriptors import DeviceDescriptor
from rusb.usb.setup import SetupPacket

from .cdc_acm import CODING
from .driver import (
    Flow,
    Line,
    Modem,
    Request,
    SerialDriver,
    SerialInterface,
    serial_state,
)

__all__ = ["Pl2303", "baud_code"]

_RATES = (
    *(75, 150, 300, 600, 1200, 1800, 2400, 3600, 4800, 7200, 9600, 14400, 19200),
    *(28800, 38400, 57600, 115200, 230400, 460800, 614400, 921600, 1228800),
    *(2457600, 3000000, 6000000),
)
"""Bit rates that the chip knows by themselves."""

_NEW = frozenset((0x23A3, 0x23B3, 0x23C3, 0x23D3, 0x23E3, 0x23F3))
"""Products of the G series (HXN), whose registers are others."""

_FINE = frozenset(((0x0200, 0x0300), (0x0200, 0x0500)))
"""bcdUSB and bcdDevice of TA and TB, whose divisors have other fields."""

_STATUS = 8
"""Where its interrupt endpoint says it."""


def baud_code(baud: int, device: DeviceDescriptor) -> int:
    """Return what a line coding has in place of a bit rate: itself, or a divisor."""
    if device.product_id in _NEW or baud in _RATES:
        return baud
    mantissa, exponent = 12_000_000 * 32 // max(baud, 1), 0
    if (device.bcd_usb, device.bcd_device) in _FINE:
        if mantissa < 2048:
            return 1 << 31 | max(mantissa, 1)
        return min(_RATES, key=lambda rate: abs(rate - baud))
    while mantissa >= 512 and exponent < 7:
        mantissa, exponent = mantissa >> 2, exponent + 1
    return 1 << 31 | exponent << 9 | min(max(mantissa, 1), 511)


class Pl2303(SerialDriver):
    """Such a chip: the first kind, HX and its successors, or G."""

    name = "PL2303"
    flows = frozenset((Flow.NONE, Flow.HARDWARE))

    def __init__(self, interface: SerialInterface) -> None:
        super().__init__(interface)
        device = interface.device
        self._is_new = device.product_id in _NEW
        self._is_old = device.device_class == 2 or device.max_packet_size0 != 64

    def opening(self) -> Sequence[Request]:
        """What its maker's own driver begins with."""
        if self._is_new:
            return []
        first = [self._read(0x8484), self._write(0x0404, 0), self._read(0x8484)]
        first += [self._read(0x8383), self._read(0x8484), self._write(0x0404, 1)]
        first += [self._read(0x8484), self._read(0x8383)]
        kind = 0x24 if self._is_old else 0x44
        return [*first, self._write(0, 1), self._write(1, 0), self._write(2, kind)]

    def set_line(self, line: Line) -> Sequence[Request]:
        """A line coding as CDC's."""
        baud = baud_code(line.baud, self.interface.device)
        data = CODING.pack(baud, line.stop, line.parity, line.bits)
        return [(SetupPacket(0x21, 0x20, 0, 0, len(data)), data)]

    def set_outputs(self, *, dtr: bool, rts: bool) -> Sequence[Request]:
        """As CDC."""
        return [(SetupPacket(0x21, 0x22, dtr | rts << 1), b"")]

    def set_break(self, *, is_on: bool) -> Sequence[Request]:
        """As CDC."""
        return [(SetupPacket(0x21, 0x23, 0xFFFF if is_on else 0), b"")]

    def set_flow(self, flow: Flow) -> Sequence[Request]:
        """RTS and CTS, or nothing."""
        is_on = flow is Flow.HARDWARE
        if self._is_new:
            return [self._write(0x0A, 0xFA if is_on else 0xFF)]
        return [self._write(0, (0x41 if self._is_old else 0x61) if is_on else 0)]

    def purge(self, *, received: bool, sent: bool) -> Sequence[Request]:
        """The first kind cannot."""
        if self._is_new:
            return [self._write(7, received << 1 | sent)]
        if self._is_old:
            return []
        return [self._write(n, 0) for n, on in ((8, received), (9, sent)) if on]

    def notified(self, data: bytes) -> None:
        """The bits of CDC, and CTS."""
        if len(data) > _STATUS:
            state = data[_STATUS]
            self.modem, errors = serial_state(state)
            self._errors |= errors
            if state & 0x80:
                self.modem |= Modem.CTS

    def _read(self, register: int) -> Request:
        return SetupPacket(0xC0, 0x01, register, 0, 1), b""

    def _write(self, register: int, value: int) -> Request:
        request = 0x80 if self._is_new else 0x01
        return SetupPacket(0x40, request, register, value), b""
