"""A USB serial port whose plug has its two data pins joined (CDC 1.2, PSTN 1.2)."""

import struct

from rusb.usb.descriptors import InterfaceAssociation, InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import ClassCode, Speed

from .core import Data, EmulatedDevice
from .describe import bulk, describe, interrupt
from .echo import Echo

__all__ = ["SerialLoopback"]

_FUNCTIONAL = bytes.fromhex(
    "0524001001"  # header, CDC 1.10
    "0524010001"  # call management: none; data interface 1
    "04240202"  # abstract control: line coding and serial state
    "0524060001"  # union: interface 0 controls interface 1
)
_LINE_CODING = struct.Struct("<IBBB")
_DTR = 1
_CARRIER, _READY = 1, 2  # bits of SERIAL_STATE: DCD and DSR (PSTN, table 31)


class SerialLoopback(EmulatedDevice):
    """A CDC-ACM modem, 1209:0003: what is written to it can be read from it.

    It carries data whatever the line coding says, and holds DSR and DCD while the
    host holds DTR.

    Attributes:
        line_coding: bit rate, stop bits, parity and data bits as the host set them,
            in the codes of PSTN 1.2, table 17.
        control_lines: bit 0 DTR, bit 1 RTS.
    """

    IN, OUT, NOTIFY = 0x81, 0x01, 0x83
    """Its endpoints."""

    def __init__(
        self,
        *,
        speed: Speed = Speed.HIGH,
        port: int = 0,
        serial: str = "525553420003",
    ) -> None:
        communications = ClassCode.COMMUNICATIONS
        descriptors = describe(
            speed,
            0x0003,
            InterfaceAssociation(0, 2, communications, 2, 1),
            InterfaceDescriptor(
                0,
                0,
                communications,
                2,  # abstract control model
                1,  # AT commands
                endpoints=(interrupt(self.NOTIFY, speed, 16, 16),),
                extra=_FUNCTIONAL,
            ),
            InterfaceDescriptor(
                1,
                0,
                ClassCode.CDC_DATA,
                0,
                0,
                endpoints=(bulk(self.IN, speed), bulk(self.OUT, speed)),
            ),
            device_class=(ClassCode.MISCELLANEOUS, 2, 1),  # it has an association
        )
        strings = ("rusb", "Serial Loopback", serial)
        super().__init__(descriptors, strings, speed=speed, port=port)
        self.was_reset()

    def was_reset(self) -> None:
        """Nothing waits, 9600 8N1."""
        self._echo = Echo()
        self._is_ended = True
        self._is_news = False
        self.line_coding = (9600, 0, 0, 8)
        self.control_lines = 0

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer the requests of PSTN 1.2, 6.3."""
        if setup.index:
            return None
        match setup.request_type, setup.request:
            case 0x21, 0x20 if len(data) == _LINE_CODING.size:  # SET_LINE_CODING
                self.line_coding = _LINE_CODING.unpack(data)
                return b""
            case 0xA1, 0x21:  # GET_LINE_CODING
                return _LINE_CODING.pack(*self.line_coding)
            case 0x21, 0x22:  # SET_CONTROL_LINE_STATE
                if (setup.value ^ self.control_lines) & _DTR:
                    self._is_news = True
                self.control_lines = setup.value & 3
                self.kick(self.NOTIFY)
                return b""
            case 0x21, 0x23:  # SEND_BREAK
                return b""
        return None

    def data_out(self, endpoint: int, data: Data) -> bool:
        """Queue for the way back."""
        if self._echo.is_full:
            return False
        if data:
            self._echo.put(data)
            self.kick(self.IN)
        return True

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Give what was written; end whole packets with an empty one."""
        if endpoint == self.NOTIFY:
            return self._serial_state()
        was_full = self._echo.is_full
        piece = self._echo.take()
        if piece is None:
            piece = None if self._is_ended else b""
        packet = self.state.endpoints[self.IN].packet_size
        self._is_ended = piece is None or len(piece) % packet != 0 or not piece
        if was_full and not self._echo.is_full:
            self.kick(self.OUT)
        return piece

    def _serial_state(self) -> bytes | None:
        """Tell once that DSR and DCD changed (PSTN 1.2, 6.5.4)."""
        if not self._is_news:
            return None
        self._is_news = False
        state = _CARRIER | _READY if self.control_lines & _DTR else 0
        return struct.pack("<BBHHHH", 0xA1, 0x20, 0, 0, 2, state)
