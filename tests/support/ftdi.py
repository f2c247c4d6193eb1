"""An FT232R whose plug has its pins joined, as programs for FTDI chips know it."""

import asyncio

from rusb.client.backends.emulated import Data
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from tests.support.chips import PARITIES, STOPS, SerialChip, bulk

IN, OUT, PACKET = 0x81, 0x02, 64
_EIGHTHS = (0, 4, 2, 1, 3, 5, 6, 7)
"""Of the divisor, by their code."""


class Ftdi(SerialChip):
    """0403:6001 at full speed; every IN packet starts with two bytes of status.

    Attributes:
        requests: (request, value, index) of the vendor requests so far.
        eeprom: 128 bytes.
    """

    IN, OUT = IN, OUT

    def __init__(self, serial: str = "RUSB0001") -> None:
        ends = bulk(IN, PACKET), bulk(OUT, PACKET)
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(
            (0x0403, 0x6001, 0x0600),
            ("FTDI", "FT232R USB UART", serial),
            InterfaceDescriptor(0, 0, 0xFF, 0xFF, 0xFF, endpoints=ends),
        )
        self.eeprom = bytearray(range(128))

    def was_reset(self) -> None:
        super().was_reset()
        self._latency = 16
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    @property
    def status(self) -> bytes:
        """Modem lines; transmitter empty, and errors, which are told once."""
        errors, self.errors = self.errors, 0
        return bytes((0x01 | self.modem, 0x60 | errors))

    def vendor(self, setup: SetupPacket, data: Data) -> Data | None:
        value = setup.value
        match setup.request_type, setup.request:
            case 0x40, 0x00:
                if value == 1:
                    self._waiting.clear()
            case 0x40, 0x01:
                dtr = bool(value & 1) if value & 0x100 else self.dtr
                rts = bool(value & 2) if value & 0x200 else self.rts
                self.set_lines(dtr, rts)
            case 0x40, 0x02:
                self.flow = {1: "hardware", 4: "software"}.get(setup.index >> 8, "")
            case 0x40, 0x03:
                code = value | (setup.index & 1) << 16
                eighths = (code & 0x3FFF) << 3 | _EIGHTHS[code >> 14]
                self.baud = 24_000_000 // {0: 8, 8: 12}.get(eighths, eighths)
            case 0x40, 0x04:
                self.bits, self.parity = value & 0xFF, PARITIES[value >> 8 & 7]
                self.stop = STOPS[value >> 11 & 3]
                self.set_break(bool(value >> 14 & 1))
            case 0x40, 0x09:
                self._latency = value & 0xFF or 1
            case 0x40, request if request <= 0x0B:
                pass
            case 0xC0, 0x05:
                return self.status
            case 0xC0, 0x0A:
                return bytes((self._latency,))
            case 0xC0, 0x90 if setup.index < 64:
                return bytes(self.eeprom[2 * setup.index : 2 * setup.index + 2])
            case _:
                return None
        return b""

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if not self._waiting and not self._is_due:
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._latency / 1000, self._late)
            return None
        self._is_due = False
        status = self.status
        return status + self.take(PACKET - len(status))

    def told(self) -> None:
        self._is_due = True
        self.kick(IN)

    def _late(self) -> None:
        """The latency timer ran out: send the status alone."""
        self._timer, self._is_due = None, True
        self.kick(IN)
