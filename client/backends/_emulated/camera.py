"""A camera that sees a known picture (USB Video Class 1.0)."""

import asyncio
import struct
from collections.abc import Sequence

from rusb.usb.descriptors import (
    EndpointDescriptor,
    InterfaceAssociation,
    InterfaceDescriptor,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.types import ClassCode, Speed, TransferType

from .core import Data, EmulatedDevice
from .describe import describe

__all__ = ["Camera", "frame"]

WIDTH, HEIGHT, RATE = 320, 240, 30
FRAME_BYTES, PACKET = 12_000, 1024

MAX_BEHIND = 2
"""Pictures that wait for a host which does not poll; older ones are lost."""

_INTERVAL = 10_000_000 // RATE  # units of 100 ns
_END_OF_HEADER, _END_OF_FRAME = 0x80, 0x02  # bits of bmHeaderInfo (2.4.3.3)

_PATTERN = bytes(range(251)) * 50

# UVC 1.0, 3.7.2: header (1.0, 6 MHz, interface 1), camera terminal 1 without controls,
# output terminal 2 (USB streaming) fed by it
_CONTROL = bytes.fromhex(
    "0d24010001 2800 808d5b00 01 01"
    "12240201010200000000000000000300 0000"
    "092403020101000100"
)
_CONTROL = _CONTROL[:5] + struct.pack("<H", len(_CONTROL)) + _CONTROL[7:]


def _streaming(endpoint: int) -> bytes:
    """Input header, a format of Motion JPEG, one frame size, the colours (3.9.2)."""
    rate = WIDTH * HEIGHT * 16 * RATE
    size = struct.pack(
        "<BBBBBHHIIIIBI",
        *(30, 0x24, 7, 1, 0, WIDTH, HEIGHT, rate, rate),
        *(FRAME_BYTES, _INTERVAL, 1, _INTERVAL),
    )
    frames = (
        bytes.fromhex("0b240601010101000000 00") + size + bytes.fromhex("06240d010104")
    )
    head = struct.pack(
        "<BBBBHBBBBBBB", 14, 0x24, 1, 1, 14 + len(frames), endpoint, 0, 2, 0, 0, 0, 1
    )
    return head + b"\0" + frames


def frame(number: int) -> bytes:
    """Return a picture: a JPEG comment with its number and a pattern that goes with it.

    It is 12,000 bytes long. Nothing that transports or stores it looks inside.
    """
    start = number % 251
    body = struct.pack(">I", number & 0xFFFFFFFF)
    body += _PATTERN[start : start + FRAME_BYTES - 12]
    return b"\xff\xd8\xff\xfe" + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


class Camera(EmulatedDevice):
    """A high-speed camera, 1209:0006: 320x240, Motion JPEG, 30 pictures a second.

    One packet of at most 1024 bytes in a microframe. Picture *n* since streaming began
    is :func:`frame` of *n*. Its clock is the one of the event loop.

    Attributes:
        lost: pictures that no host has fetched in time.
    """

    STREAM = 0x81
    """Its endpoint, in alternate setting 1 of interface 1."""

    def __init__(self, *, port: int = 0, serial: str = "525553420006") -> None:
        video = ClassCode.VIDEO
        endpoint = EndpointDescriptor(
            self.STREAM, TransferType.ISOCHRONOUS | 4, PACKET, 1
        )
        descriptors = describe(
            Speed.HIGH,
            0x0006,
            InterfaceAssociation(0, 2, video, 3, 0),
            InterfaceDescriptor(0, 0, video, 1, 0, extra=_CONTROL),
            InterfaceDescriptor(1, 0, video, 2, 0, extra=_streaming(self.STREAM)),
            InterfaceDescriptor(1, 1, video, 2, 0, endpoints=(endpoint,)),
            device_class=(ClassCode.MISCELLANEOUS, 2, 1),  # it has an association
        )
        strings = ("rusb", "Camera", serial)
        super().__init__(descriptors, strings, speed=Speed.HIGH, port=port)
        self.lost = 0
        self.was_reset()

    def was_reset(self) -> None:
        """Begin anew."""
        self._begun: float | None = None
        self._number = 0
        self._left = memoryview(b"")

    def set_interface(self, number: int, alternate: int) -> bool:
        """Begin anew with each stream."""
        self.was_reset()
        return super().set_interface(number, alternate)

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer probe and commit, which leave no choice (UVC 1.0, 4.3.1.1)."""
        if setup.index != 1 or setup.value not in (0x0100, 0x0200):
            return None
        state = struct.pack(
            "<HBBIHHHHHII", 1, 1, 1, _INTERVAL, 0, 0, 0, 0, 0, FRAME_BYTES, PACKET
        )
        match setup.request_type, setup.request:
            case 0x21, 0x01:  # SET_CUR
                return b""
            case 0xA1, 0x81 | 0x82 | 0x83 | 0x87:  # GET_CUR, GET_MIN, GET_MAX, GET_DEF
                return state
            case 0xA1, 0x85:  # GET_LEN
                return struct.pack("<H", len(state))
            case 0xA1, 0x86:  # GET_INFO: can be read and written
                return b"\x03"
        return None

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        """Supply what is left of the picture, or begin the next when its time comes."""
        now = asyncio.get_running_loop().time()
        if self._begun is None:
            self._begun = now
        return [self._packet(now - self._begun, length) for length in lengths]

    def _packet(self, seconds: float, length: int) -> Data:
        """A payload with its header (2.4.3.3); empty: nothing to send."""
        due = int(seconds * RATE)
        if not self._left:
            if self._number > due or length <= 2:
                return b""
            if (behind := due - self._number) > MAX_BEHIND:
                self.lost += behind
                self._number = due
            self._left = memoryview(frame(self._number))
        payload, self._left = self._left[: length - 2], self._left[length - 2 :]
        info = _END_OF_HEADER | self._number & 1
        if not self._left:
            info |= _END_OF_FRAME
            self._number += 1
        return bytes((2, info)) + payload
