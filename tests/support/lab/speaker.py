"""A loudspeaker that checks the signal it gets (USB Audio Class 1.0)."""

import struct

from rusb.client.backends.emulated import Data, EmulatedDevice, describe
from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.types import ClassCode, Speed

__all__ = ["Speaker"]

MAX_PACKET = 49 * 4

# as those of our microphone: USB streaming, which feeds a speaker
_CONTROL = bytes.fromhex(
    "0924010001 1e00 01 01 0c24020101010002030000000924030201030001 00"
)
_STREAMING = bytes.fromhex("072401010101000b2402010202100180bb00")
_ENDPOINT = bytes.fromhex("07250100000000")
_ADAPTIVE = 0x09  # isochronous, adaptive (USB 2.0, 9.6.6)


class Speaker(EmulatedDevice):
    """A full-speed loudspeaker: 48 kHz, 16 bits, stereo.

    Sample frame *n* is *n* as 32 bits; silence is 0.

    Attributes:
        frames: numbers that came.
        lost: those that are missing between them.
        bad: those that go back.
    """

    def __init__(self) -> None:
        endpoint = EndpointDescriptor(
            0x01, _ADAPTIVE, MAX_PACKET, 1, extra=_ENDPOINT, tail=bytes(2)
        )
        audio, streaming = ClassCode.AUDIO, 2
        descriptors = describe(
            Speed.FULL,
            0x000B,
            InterfaceDescriptor(0, 0, audio, 1, 0, extra=_CONTROL),
            InterfaceDescriptor(1, 0, audio, streaming, 0),
            InterfaceDescriptor(
                1, 1, audio, streaming, 0, endpoints=(endpoint,), extra=_STREAMING
            ),
        )
        strings = ("rusb", "Speaker", "525553420011")
        super().__init__(descriptors, strings, speed=Speed.FULL)
        self.frames = self.lost = self.bad = self._last = 0

    def iso_out(self, endpoint: int, packets: list[Data]) -> None:
        """Look at each number."""
        data = b"".join(packets)
        for (number,) in struct.iter_unpack("<I", data[: len(data) & ~3]):
            if number:
                self.frames += 1
                self.lost += max(0, number - self._last - 1)
                self.bad += number <= self._last
                self._last = number
