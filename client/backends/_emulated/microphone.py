"""A microphone that hears a known signal (USB Audio Class 1.0)."""

import asyncio
import struct
from collections.abc import Sequence

from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.types import ClassCode, Speed

from .core import Data, EmulatedDevice
from .describe import describe

__all__ = ["Microphone"]

RATE, FRAME_BYTES = 48_000, 4
"""Sample frames a second, and bytes of one: 16 bits for each of two channels."""

FRAMES_PER_PACKET = RATE // 1000

MAX_PACKET = (FRAMES_PER_PACKET + 1) * FRAME_BYTES
"""An asynchronous source sends one sample frame more or less, to keep its own clock."""

BUFFER = RATE // 10
"""Sample frames that wait for a host which does not poll; what is older is lost."""

# Audio devices 1.0, 4.3.2: header (collection: interface 1), input terminal 1
# (microphone, left and right), output terminal 2 (USB streaming) fed by it
_CONTROL = bytes.fromhex(
    "0924010001 1e00 01 01 0c24020101020002030000000924030201010001 00"
)
# 4.5.2: general (terminal 2, delay 1, PCM); formats 1.0, 2.2.5: type I, 2 channels of
# 2 bytes, 16 bits, one rate
_STREAMING = bytes.fromhex("072401020101000b2402010202100180bb00")
# 4.6.1.2: no controls of the endpoint
_ENDPOINT = bytes.fromhex("07250100000000")
_ASYNCHRONOUS = 0x05  # isochronous, asynchronous (USB 2.0, 9.6.6)


class Microphone(EmulatedDevice):
    """A full-speed microphone, 1209:0005: 48 kHz, 16 bits, stereo.

    Sample frame *n* since recording began is *n* as 32 bits, little-endian: so whoever
    records can tell what was lost. Its clock is the one of the event loop.

    Attributes:
        lost: sample frames that no host has fetched in time.
    """

    STREAM = 0x81
    """Its endpoint, in alternate setting 1 of interface 1."""

    def __init__(self, *, port: int = 0, serial: str = "525553420005") -> None:
        endpoint = EndpointDescriptor(
            self.STREAM, _ASYNCHRONOUS, MAX_PACKET, 1, extra=_ENDPOINT, tail=bytes(2)
        )
        audio, streaming = ClassCode.AUDIO, 2
        descriptors = describe(
            Speed.FULL,
            0x0005,
            InterfaceDescriptor(0, 0, audio, 1, 0, extra=_CONTROL),
            InterfaceDescriptor(1, 0, audio, streaming, 0),
            InterfaceDescriptor(
                1, 1, audio, streaming, 0, endpoints=(endpoint,), extra=_STREAMING
            ),
        )
        strings = ("rusb", "Microphone", serial)
        super().__init__(descriptors, strings, speed=Speed.FULL, port=port)
        self.lost = 0
        self._begun: float | None = None
        self._next = 0

    def was_reset(self) -> None:
        """Begin anew."""
        self._begun = None

    def set_interface(self, number: int, alternate: int) -> bool:
        """Begin anew with each recording."""
        self._begun = None
        return super().set_interface(number, alternate)

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        """Supply what the converter has made since: a packet more or less of it."""
        now = asyncio.get_running_loop().time()
        if self._begun is None:
            self._begun, self._next = now - len(lengths) / 1000, 0
        made = int((now - self._begun) * RATE)
        if made - self._next > BUFFER:
            kept = made - len(lengths) * FRAMES_PER_PACKET
            self.lost += kept - self._next
            self._next = kept
        packets: list[Data] = []
        for length in lengths:
            wait = made - self._next - FRAMES_PER_PACKET * (len(lengths) - len(packets))
            count = FRAMES_PER_PACKET + (wait > 0) - (wait < 0)
            count = min(count, length // FRAME_BYTES)
            numbers = range(self._next, self._next + count)
            packets.append(
                struct.pack(f"<{count}I", *(n & 0xFFFFFFFF for n in numbers))
            )
            self._next += count
        return packets
