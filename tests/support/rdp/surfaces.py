"""The client's end of the graphics pipeline, written from MS-RDPEGFX."""

import struct
from typing import Any

import numpy as np

from rusb.rdp.graphics.pixels import Frame

__all__ = [
    "AVC_8_1",
    "AVC_10",
    "NO_AVC",
    "GraphicsClient",
    "advertise",
    "layout",
    "unwrap",
]


def advertise(*sets: tuple[int, int]) -> bytes:
    """What a client can: version and flags."""
    body = struct.pack("<H", len(sets))
    body += b"".join(struct.pack("<III", version, 4, flags) for version, flags in sets)
    return struct.pack("<HHI", 0x12, 0, 8 + len(body)) + body


# what xfreerdp 2.11 /gfx:AVC420 says, FreeRDP 3 without an option, and with /gfx:rfx
AVC_8_1 = advertise((0x00080004, 1), (0x00080105, 0x13))
AVC_10 = advertise((0x00080004, 2), (0x00080105, 2), (0x000A0002, 2), (0x000A0301, 0))
NO_AVC = advertise((0x00080004, 2), (0x00080105, 2), (0x000A0002, 0x22))


def layout(*monitors: tuple[int, int, int], each: int = 40) -> bytes:
    """A layout of display control: flags, width and height of each monitor."""
    body = struct.pack("<II", each, len(monitors))
    for flags, width, height in monitors:
        body += struct.pack("<IiiII5I", flags, 0, 0, width, height, 0, 0, 0, 100, 100)
    return struct.pack("<II", 2, 8 + len(body)) + body


def unwrap(message: bytes) -> bytes:
    """The PDUs in a message."""
    if message[0] == 0xE0:
        assert message[1] == 4
        return message[2:]
    kind, count, total = struct.unpack_from("<BHI", message)
    assert kind == 0xE1
    found, position = b"", 7
    for _ in range(count):
        (size,) = struct.unpack_from("<I", message, position)
        assert message[position + 4] == 4
        found += message[position + 5 : position + 4 + size]
        position += 4 + size
    assert (len(found), position) == (total, len(message))
    return found


class GraphicsClient:
    """Draws what it is sent.

    Attributes:
        screen: (height, width); None: there is none.
        kinds: commands, in their order.
        codecs: of the bitmaps.
        acknowledgements: to be sent; one for each frame.
    """

    def __init__(self) -> None:
        self.screen: Frame | None = None
        self.surfaces: dict[int, Frame] = {}
        self.shown = 0
        self.kinds: list[int] = []
        self.codecs: list[int] = []
        self.acknowledgements: list[bytes] = []
        self._decoder: Any = None
        self._next = 0  # ClearCodec's number
        self._frame: int | None = None
        self._frames = 0

    def receive(self, message: bytes) -> None:
        """Take one message."""
        pdus, position = unwrap(message), 0
        while position < len(pdus):
            kind, flags, size = struct.unpack_from("<HHI", pdus, position)
            assert flags == 0
            body = pdus[position + 8 : position + size]
            assert len(body) == size - 8
            self.kinds.append(kind)
            getattr(self, f"_on_{kind:02x}")(body)
            position += size

    def _on_13(self, body: bytes) -> None:
        assert len(body) == 12

    def _on_0e(self, body: bytes) -> None:
        assert len(body) == 332
        assert not self.surfaces  # the server deletes what there was
        self.size = struct.unpack_from("<II", body)

    def _on_09(self, body: bytes) -> None:
        number, width, height, kind = struct.unpack("<HHHB", body)
        assert kind == 0x20
        assert number not in self.surfaces
        self.surfaces[number] = np.zeros((height, width), np.uint32)

    def _on_0a(self, body: bytes) -> None:
        del self.surfaces[struct.unpack("<H", body)[0]]
        self._decoder = None

    def _on_0f(self, body: bytes) -> None:
        self.shown, *rest = struct.unpack("<HHII", body)
        assert rest == [0, 0, 0]

    def _on_0b(self, body: bytes) -> None:
        assert self._frame is None
        _, self._frame = struct.unpack("<II", body)

    def _on_0c(self, body: bytes) -> None:
        assert struct.unpack("<I", body)[0] == self._frame
        self._frames += 1
        pdu = struct.pack("<HHIIII", 0x0D, 0, 20, 0, self._frame or 0, self._frames)
        self.acknowledgements.append(pdu)
        self.screen = self.surfaces[self.shown].copy()  # of whole frames
        self._frame = None

    def _on_05(self, body: bytes) -> None:
        source, target, *part = struct.unpack_from("<HH4H", body)
        count, x, y = struct.unpack_from("<Hhh", body, 12)
        assert (count, len(body), self._frame is None) == (1, 18, False)
        left, top, right, bottom = part
        pixels = self.surfaces[source][top:bottom, left:right]
        assert pixels.shape == (bottom - top, right - left)
        place = np.s_[y : y + bottom - top, x : x + right - left]
        assert self.surfaces[target][place].shape == pixels.shape
        self.surfaces[target][place] = pixels

    def _on_01(self, body: bytes) -> None:
        surface, codec, kind = struct.unpack_from("<HHB", body)
        left, top, right, bottom, size = struct.unpack_from("<4HI", body, 5)
        data = body[17:]
        assert (kind, size, self._frame is None) == (0x20, len(data), False)
        self.codecs.append(codec)
        place = np.s_[top:bottom, left:right]
        target = self.surfaces[surface][place]
        assert target.shape == (bottom - top, right - left)
        decode = {8: self._clear, 10: self._planar, 11: self._avc}[codec]
        self.surfaces[surface][place] = decode(data, *target.shape)

    def _clear(self, data: bytes, height: int, width: int) -> Frame:
        flags, number = data[:2]
        assert (flags, number) == (0, self._next % 256)
        self._next += 1
        size, bands, codecs = struct.unpack_from("<III", data, 2)
        assert (size, bands, codecs) == (len(data) - 14, 0, 0)
        found: list[int] = []
        position = 14
        while position < len(data):
            blue, green, red, run = data[position : position + 4]
            position += 4
            if run == 0xFF:
                (run,) = struct.unpack_from("<H", data, position)
                position += 2
                assert run != 0xFFFF
            found += [red << 16 | green << 8 | blue] * run
        return np.array(found, np.uint32).reshape(height, width)

    def _planar(self, data: bytes, height: int, width: int) -> Frame:
        assert (data[0], data[-1], len(data)) == (0x20, 0, 2 + 3 * height * width)
        planes = np.frombuffer(data[1:-1], np.uint8).reshape(3, height, width)
        red, green, blue = planes.astype(np.uint32)
        pixels: Frame = (red << 16 | green << 8 | blue).astype(np.uint32)
        return pixels

    def _avc(self, data: bytes, height: int, width: int) -> Frame:
        import av

        count, *place, quality, _ = struct.unpack_from("<I4HBB", data)
        assert (count, place, quality) == (1, [0, 0, width, height], 22)
        if self._decoder is None:
            self._decoder = av.CodecContext.create("h264", "r")
            self._decoder.options = {"flags": "low_delay"}
            self._decoder.thread_count = 1
        (picture,) = self._decoder.decode(av.Packet(data[14:]))
        rgb = picture.reformat(
            format="bgra", src_colorspace="ITU709", src_color_range="JPEG"
        )
        pixels: Frame = rgb.to_ndarray().view(np.uint32)[:, :, 0] & 0xFFFFFF
        return pixels
