"""WCH's CH340 and CH341 in their serial mode, as drivers of the BSDs use them."""

from collections.abc import Sequence

from rusb.usb.setup import SetupPacket

from .driver import (
    Flow,
    Line,
    Modem,
    Parity,
    Request,
    SerialDriver,
    SerialInterface,
    StopBits,
)

__all__ = ["Ch340", "baud_registers"]

_VERSION, _READ, _WRITE, _START, _OUTPUTS = 0x5F, 0x95, 0x9A, 0xA1, 0xA4
_STATUS, _BAUD, _FORMAT = 0x0706, 0x1312, 0x2518  # two registers each
_BREAK, _FLOW = 0x1805, 0x2727

_RECEIVE, _SEND = 0x80, 0x40  # bits of the format
_PARITIES = {
    Parity.NONE: 0x00,
    Parity.ODD: 0x08,
    Parity.EVEN: 0x18,
    Parity.MARK: 0x28,
    Parity.SPACE: 0x38,
}
_TWO_STOP_BITS = 0x04
_DTR, _RTS = 0x20, 0x40
_CLOCK = 48_000_000
_AT_ONCE = 0x80
"""Bytes are passed on as they come, not in packets of 32."""


def baud_registers(baud: int) -> int:
    """Return divisor (high byte) and prescaler of a bit rate.

    The clock is divided by 4096, 512, 64 or 8 and then by up to 256; with bit 2 of the
    prescaler it is halved less.
    """
    baud = max(baud, 1)
    for scale in (3, 2, 1, 0):
        clock = _CLOCK >> 12 - 3 * scale
        by = (clock + baud // 2) // baud
        if by <= 256:
            break
    by = min(max(by, 1), 256)
    fast = 0
    if by < 9:
        fast, by = 4, min(max((2 * clock + baud // 2) // baud, 2), 256)
    return (256 - by) << 8 | fast | scale


class Ch340(SerialDriver):
    """Such a chip."""

    name = "CH340"
    flows = frozenset((Flow.NONE, Flow.HARDWARE))
    ends_reads = False

    def __init__(self, interface: SerialInterface) -> None:
        super().__init__(interface)
        self._format = _RECEIVE | _SEND | 3

    def opening(self) -> Sequence[Request]:
        """Read the version, as is usual, and start."""
        return [
            (SetupPacket(0xC0, _VERSION, 0, 0, 2), b""),
            (SetupPacket(0x40, _START), b""),
        ]

    def set_line(self, line: Line) -> Sequence[Request]:
        """Divisor and format; it has no one and a half stop bits."""
        self._format = _RECEIVE | _SEND | _PARITIES[line.parity] | line.bits - 5
        if line.stop is not StopBits.ONE:
            self._format |= _TWO_STOP_BITS
        return [
            self._write(_BAUD, baud_registers(line.baud) | _AT_ONCE),
            self._write(_FORMAT, self._format),
        ]

    def set_outputs(self, *, dtr: bool, rts: bool) -> Sequence[Request]:
        """A bit that is 0 asserts its line."""
        value = ~(_DTR * dtr | _RTS * rts) & 0xFF
        return [(SetupPacket(0x40, _OUTPUTS, value), b"")]

    def set_break(self, *, is_on: bool) -> Sequence[Request]:
        """The transmitter is switched off meanwhile."""
        value = (self._format & ~_SEND) << 8 if is_on else self._format << 8 | 1
        return [self._write(_BREAK, value)]

    def set_flow(self, flow: Flow) -> Sequence[Request]:
        """RTS and CTS, or nothing."""
        return [self._write(_FLOW, 0x0101 if flow is Flow.HARDWARE else 0)]

    def asking(self) -> Request:
        """Read the status; changes come by themselves."""
        return SetupPacket(0xC0, _READ, _STATUS, 0, 2), b""

    def answered(self, data: bytes) -> None:
        """A bit that is 0 means an asserted line."""
        if data:
            self.modem = Modem((~data[0] & 0x0F) << 4)

    def notified(self, data: bytes) -> None:
        """The same, third byte."""
        if len(data) > 2:
            self.answered(data[2:3])

    def _write(self, registers: int, values: int) -> Request:
        return SetupPacket(0x40, _WRITE, registers, values), b""
