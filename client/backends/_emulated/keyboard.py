"""A USB keyboard: HID with the boot protocol (HID 1.11, appendices B and F.5)."""

import struct
from collections import deque

from rusb.errors import BackendError
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import ClassCode, DescriptorType, Request, Speed

from .core import Data, EmulatedDevice
from .describe import describe, interrupt

__all__ = ["Keyboard"]

MAX_REPORTS = 8192
"""Reports that wait for a host that does not read them."""

SHIFT = 0x02
"""Modifier bit of the left shift key."""

_REPORT_DESCRIPTOR = bytes.fromhex(  # HID 1.11, B.1
    "05010906a101050719e029e71500250175019508810295017508810195057501050819012905"
    "91029501750391019506750815002565050719002965 8100c0"
)
_HID_DESCRIPTOR = struct.pack(
    "<BBHBBBH",
    9,
    DescriptorType.HID,
    0x0111,
    0,  # no country
    1,
    DescriptorType.HID_REPORT,
    len(_REPORT_DESCRIPTOR),
)
_INPUT, _OUTPUT = 1, 2  # report types
_NO_KEYS = bytes(8)

# what the US layout has on a key, without and with shift (HID usage tables, 10)
_ROWS = (
    (
        0x04,
        "abcdefghijklmnopqrstuvwxyz1234567890",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ!@#$%^&*()",
    ),
    (0x28, "\n\x1b\b\t -=[]\\", "\0\0\0\0\0_+{}|"),
    (0x33, ";'`,./", ':"~<>?'),
)
_KEYS: dict[str, tuple[int, int]] = {}
for _first, _plain, _shifted in _ROWS:
    _KEYS |= {c: (SHIFT, _first + n) for n, c in enumerate(_shifted) if c != "\0"}
    _KEYS |= {c: (0, _first + n) for n, c in enumerate(_plain)}


class Keyboard(EmulatedDevice):
    """A full-speed boot keyboard, 1209:0002, that types what the program says.

    Reports go out when something happens, as fast as the host reads them; the idle
    rate is kept but nothing is repeated.

    Attributes:
        leds: what the host lit: bit 0 Num Lock, 1 Caps Lock, 2 Scroll Lock, 3
            Compose, 4 Kana.
        protocol: what the host selected: 0 boot, 1 report.
    """

    IN = 0x81
    """Its endpoint."""

    def __init__(self, *, port: int = 0, serial: str = "525553420002") -> None:
        endpoints = (interrupt(self.IN, Speed.FULL, 8, 8),)
        descriptors = describe(
            Speed.FULL,
            0x0002,
            InterfaceDescriptor(
                0, 0, ClassCode.HID, 1, 1, endpoints=endpoints, extra=_HID_DESCRIPTOR
            ),
            attributes=0xA0,  # remote wakeup
        )
        strings = ("rusb", "Keyboard", serial)
        super().__init__(descriptors, strings, speed=Speed.FULL, port=port)
        self._reports: deque[bytes] = deque()
        self.was_reset()

    # ---------------------------------------------------------- for programs ----

    def type_text(self, text: str) -> None:
        """Press and release the keys of a US keyboard for *text*.

        Raises:
            ValueError: there is no key for a character; nothing was typed.
            BackendError: too much is waiting for the host; nothing was typed.
        """
        if missing := set(text) - set(_KEYS):
            raise ValueError(f"no key for {''.join(sorted(missing))!r}")
        if len(self._reports) + 2 * len(text) > MAX_REPORTS:
            raise BackendError("the host does not read what the keyboard typed")
        for character in text:
            modifiers, key = _KEYS[character]
            self._report(bytes((modifiers, 0, key)).ljust(8, b"\0"))
            self._report(_NO_KEYS)

    def press(self, *keys: int, modifiers: int = 0) -> None:
        """Report that exactly these keys are down.

        Args:
            keys: up to six HID usages of page 7; none: all are released.
            modifiers: left control, shift, alt, GUI are bits 0 to 3, right ones 4 to 7.

        Raises:
            ValueError: more than six keys.
            BackendError: too much is waiting for the host.
        """
        if len(keys) > 6:
            raise ValueError(f"{len(keys)} keys at once; the maximum is 6")
        if len(self._reports) >= MAX_REPORTS:
            raise BackendError("the host does not read what the keyboard typed")
        self._report(bytes((modifiers, 0, *keys)).ljust(8, b"\0"))

    def _report(self, report: bytes) -> None:
        self._last = report
        if self.state.configuration is not None:  # else nobody is there to see it
            self._reports.append(report)
            self.kick(self.IN)

    # ----------------------------------------------------------------- hooks ----

    def was_reset(self) -> None:
        """Everything is released and dark."""
        self._reports.clear()
        self._last = _NO_KEYS
        self._idle = 125  # 500 ms (7.2.4)
        self.leds = 0
        self.protocol = 1

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Give the oldest report."""
        return self._reports.popleft() if self._reports else None

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer the requests of HID 1.11, 7."""
        if setup.index or setup.request_type & 0x1F != 1:
            return None
        high, low = setup.value >> 8, setup.value & 0xFF
        match setup.request_type, setup.request:
            case 0x81, Request.GET_DESCRIPTOR if setup.value == 0x2100:
                return _HID_DESCRIPTOR
            case 0x81, Request.GET_DESCRIPTOR if setup.value == 0x2200:
                return _REPORT_DESCRIPTOR
            case 0xA1, 1 if not low:  # GET_REPORT
                return {_INPUT: self._last, _OUTPUT: bytes((self.leds,))}.get(high)
            case 0xA1, 2:  # GET_IDLE
                return bytes((self._idle,))
            case 0xA1, 3:  # GET_PROTOCOL
                return bytes((self.protocol,))
            case 0x21, 9 if (high, low) == (_OUTPUT, 0) and len(data) == 1:
                self.leds = data[0] & 0x1F
                return b""
            case 0x21, 10:  # SET_IDLE
                self._idle = high
                return b""
            case 0x21, 11 if setup.value <= 1:  # SET_PROTOCOL
                self.protocol = setup.value
                return b""
        return None
