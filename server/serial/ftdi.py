"""FTDI's chips, from the FT232B to the FT4232H (FTDI's AN 120 and AN 232B-05)."""

from collections.abc import Sequence

from rusb.usb.setup import SetupPacket

from .driver import (
    Flow,
    Line,
    LineErrors,
    Modem,
    Request,
    SerialDriver,
    SerialInterface,
)

__all__ = ["Ftdi", "divisor"]

_RESET, _MODEM, _FLOW, _BAUD, _DATA = range(5)
_EIGHTHS = (0, 3, 2, 4, 1, 5, 6, 7)
"""How eighths of a divisor are coded."""

_FLOWS = {Flow.NONE: (0, 0), Flow.SOFTWARE: (0x1311, 4), Flow.HARDWARE: (0, 1)}
"""Characters XOFF and XON, and the mode."""

_HEAD = 2
"""Bytes of status that each packet begins with."""

_HIGH_SPEED = frozenset((7, 8, 9, *range(0x28, 0x37)))
"""High bytes of bcdDevice of the FT2232H, FT4232H, FT232H and their successors."""

_FAST = 0x20000
"""A divisor of 12 MHz rather than 3 MHz."""

_ERRORS = LineErrors.OVERRUN | LineErrors.PARITY | LineErrors.FRAMING | LineErrors.BREAK


def divisor(baud: int, *, is_high_speed: bool = False) -> int:
    """Return the divisor of a bit rate as the chip wants it, 17 or 18 bits."""
    is_fast = is_high_speed and baud >= 1200
    clock = 12_000_000 if is_fast else 3_000_000
    eighths = min(max((8 * clock + baud // 2) // max(baud, 1), 8), 0x1FFFF)
    if 8 < eighths < 12:  # between 2 and 3 MHz there is nothing
        eighths = 8
    elif eighths < 16 and eighths != 8:
        eighths = 12
    code = eighths >> 3 | _EIGHTHS[eighths & 7] << 14
    code = {1: 0, 0x4001: 1}.get(code, code)
    return code | _FAST if is_fast else code


class Ftdi(SerialDriver):
    """A port of such a chip; those with several number them from 1."""

    name = "FTDI"
    flows = frozenset(Flow)

    def __init__(self, interface: SerialInterface) -> None:
        super().__init__(interface)
        self._port = interface.number + 1 if interface.count > 1 else 0
        self._line = Line()

    def opening(self) -> Sequence[Request]:
        """Reset the port."""
        return [self._request(_RESET, 0)]

    def set_line(self, line: Line) -> Sequence[Request]:
        """Divisor and format."""
        self._line = line
        is_high_speed = self.interface.device.bcd_device >> 8 in _HIGH_SPEED
        code = divisor(line.baud, is_high_speed=is_high_speed)
        index = code >> 16
        if self._port or is_high_speed:
            index = index << 8 | self._port
        setup = SetupPacket(0x40, _BAUD, code & 0xFFFF, index)
        return [(setup, b""), *self.set_break(is_on=False)]

    def set_outputs(self, *, dtr: bool, rts: bool) -> Sequence[Request]:
        """Both at once: the high byte says which are meant."""
        return [self._request(_MODEM, 0x0300 | dtr | rts << 1)]

    def set_break(self, *, is_on: bool) -> Sequence[Request]:
        """It is a part of the format."""
        line = self._line
        value = line.bits | line.parity << 8 | line.stop << 11 | is_on << 14
        return [self._request(_DATA, value)]

    def set_flow(self, flow: Flow) -> Sequence[Request]:
        """With the usual XON and XOFF."""
        characters, mode = _FLOWS[flow]
        return [self._request(_FLOW, characters, mode)]

    def purge(self, *, received: bool, sent: bool) -> Sequence[Request]:
        """One request for each direction."""
        return [self._request(_RESET, n) for n, on in ((1, received), (2, sent)) if on]

    def take(self, data: bytes) -> bytes:
        """Take the status out of each packet."""
        size = self.interface.data_in.packet_size
        for start in range(0, len(data), size):
            self.modem = Modem(data[start] & 0xF0)
        for start in range(1, len(data), size):
            self._errors |= LineErrors(data[start]) & _ERRORS
        packets = range(0, len(data), size)
        return b"".join(data[start + _HEAD : start + size] for start in packets)

    def _request(self, request: int, value: int, mode: int = 0) -> Request:
        return SetupPacket(0x40, request, value, mode << 8 | self._port), b""
