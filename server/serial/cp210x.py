"""Silicon Laboratories' CP2101 to CP2108 (their application note AN571)."""

import struct
from collections.abc import Sequence

from rusb.usb.setup import SetupPacket

from .driver import Flow, Line, Modem, Request, SerialDriver, SerialInterface

__all__ = ["Cp210x"]

_ENABLE, _LINE, _BREAK, _MODEM, _STATUS = 0x00, 0x03, 0x05, 0x07, 0x08
_PURGE, _FLOW, _CHARACTERS, _BAUD = 0x12, 0x13, 0x19, 0x1E
_FLOW_LAYOUT = struct.Struct("<IIII")
_CTS, _TX_XON, _RX_XON = 0x08, 0x01, 0x02
_RTS_HELD, _RTS_FLOW = 0x40, 0x80
_LIMIT = 128
"""Bytes of room in its buffer at which it has the other end stop, or go on."""


class Cp210x(SerialDriver):
    """A port of such a chip, which tells the modem lines when it is asked."""

    name = "CP210x"
    flows = frozenset(Flow)
    tells_modem = False

    def __init__(self, interface: SerialInterface) -> None:
        super().__init__(interface)
        self._dtr = self._rts = False
        self._flow = Flow.NONE

    def opening(self) -> Sequence[Request]:
        """IFC_ENABLE."""
        return [self._request(_ENABLE, 1)]

    def closing(self) -> Sequence[Request]:
        """IFC_ENABLE."""
        return [self._request(_ENABLE, 0)]

    def set_line(self, line: Line) -> Sequence[Request]:
        """SET_BAUDRATE and SET_LINE_CTL."""
        value = line.stop | line.parity << 4 | line.bits << 8
        baud = line.baud.to_bytes(4, "little")
        return [self._request(_BAUD, 0, baud), self._request(_LINE, value)]

    def set_outputs(self, *, dtr: bool, rts: bool) -> Sequence[Request]:
        """SET_MHS; the high byte says which are meant: RTS is not ours with RTS flow
        control."""
        self._dtr, self._rts = dtr, rts
        meant = 0x0100 if self._flow is Flow.HARDWARE else 0x0300
        return [self._request(_MODEM, meant | dtr | rts << 1)]

    def set_break(self, *, is_on: bool) -> Sequence[Request]:
        """SET_BREAK."""
        return [self._request(_BREAK, int(is_on))]

    def set_flow(self, flow: Flow) -> Sequence[Request]:
        """SET_FLOW, which says how DTR and RTS are used, too."""
        self._flow = flow
        control = int(self._dtr)
        replace = _RTS_HELD if self._rts else 0
        if flow is Flow.HARDWARE:
            control |= _CTS
            replace = _RTS_FLOW
        elif flow is Flow.SOFTWARE:
            replace |= _TX_XON | _RX_XON
        data = _FLOW_LAYOUT.pack(control, replace, _LIMIT, _LIMIT)
        characters = bytes((0, 0, 0, 0, 0x11, 0x13))  # XON and XOFF are the last
        return [
            self._request(_CHARACTERS, 0, characters),
            self._request(_FLOW, 0, data),
        ]

    def purge(self, *, received: bool, sent: bool) -> Sequence[Request]:
        """PURGE: two bits for each direction."""
        value = (0x0A if received else 0) | (0x05 if sent else 0)
        return [self._request(_PURGE, value)]

    def asking(self) -> Request:
        """GET_MDMSTS."""
        return SetupPacket(0xC1, _STATUS, 0, self.interface.number, 1), b""

    def answered(self, data: bytes) -> None:
        """Its high half is that of a 16550."""
        if data:
            self.modem = Modem(data[0] & 0xF0)

    def _request(self, request: int, value: int, data: bytes = b"") -> Request:
        number = self.interface.number
        return SetupPacket(0x41, request, value, number, len(data)), data
