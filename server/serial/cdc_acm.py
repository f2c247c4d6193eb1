"""Modems and boards of the class CDC-ACM (USB CDC 1.2; PSTN 1.2, chapter 6)."""

import struct
from collections.abc import Sequence

from rusb.usb.setup import SetupPacket

from .driver import Line, Request, SerialDriver, serial_state

__all__ = ["CODING", "CdcAcm"]

CODING = struct.Struct("<IBBB")
"""Line coding: bit rate, stop bits, parity, data bits (table 17)."""

_NOTIFICATION = struct.Struct("<BBHHHH")


class CdcAcm(SerialDriver):
    """It has neither CTS nor a flow control."""

    name = "CDC-ACM"

    def set_line(self, line: Line) -> Sequence[Request]:
        """SET_LINE_CODING (6.3.10)."""
        coding = CODING.pack(line.baud, line.stop, line.parity, line.bits)
        return [self._request(0x20, 0, coding)]

    def set_outputs(self, *, dtr: bool, rts: bool) -> Sequence[Request]:
        """SET_CONTROL_LINE_STATE (6.3.12)."""
        return [self._request(0x22, dtr | rts << 1)]

    def set_break(self, *, is_on: bool) -> Sequence[Request]:
        """SEND_BREAK (6.3.13), until it is ended."""
        return [self._request(0x23, 0xFFFF if is_on else 0)]

    def notified(self, data: bytes) -> None:
        """SERIAL_STATE (6.5.4)."""
        if len(data) < _NOTIFICATION.size:
            return
        kind, code, _, _, length, state = _NOTIFICATION.unpack_from(data)
        if (kind, code) == (0xA1, 0x20) and length >= 2:
            self.modem, errors = serial_state(state)
            self._errors |= errors

    def _request(self, request: int, value: int, data: bytes = b"") -> Request:
        number = self.interface.number
        return SetupPacket(0x21, request, value, number, len(data)), data
