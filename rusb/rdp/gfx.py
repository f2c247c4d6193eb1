"""The graphics pipeline of a client, at the server's end (display.md 10.3; MS-RDPEGFX).

It runs on a dynamic channel. The client says what it can, the server draws on surfaces,
in frames, which the client acknowledges.
"""

import struct
from collections.abc import Sequence

from rusb.errors import ParseError

from .graphics.surfaces import Codec, Picture, Tile

__all__ = ["CHANNEL", "MAX_MESSAGE", "MAX_UNACKNOWLEDGED", "Pipeline"]

CHANNEL = "Microsoft::Windows::RDS::Graphics"

MAX_MESSAGE = 64 << 10
"""Bytes of what a client says at once: a few hundred."""

MAX_SETS = 32
"""Capability sets that a client may have; FreeRDP 3 has eight."""

MAX_RESTARTS = 8
"""Times that a client may say again what it can, which makes everything new."""

MAX_UNACKNOWLEDGED = 2
"""Frames on their way above which no further one should begin."""

_HEAD = struct.Struct("<HHI")
_ADVERTISE, _CONFIRM, _ACKNOWLEDGE = 0x12, 0x13, 0x0D
_BITMAP, _COPY, _CREATE, _DELETE = 0x01, 0x05, 0x09, 0x0A
_START, _END, _RESET, _MAP = 0x0B, 0x0C, 0x0E, 0x0F

_VERSION_8_1, _VERSION_10 = 0x00080105, 0x000A0002
_HAS_AVC, _HAS_NO_AVC = 0x10, 0x20  # flags of 8.1; of 10

_SUSPENDED = 0xFFFFFFFF
"""As the depth of its queue: a client that acknowledges nothing any more."""

_RESET_SIZE = 340
"""Bytes of a reset, whatever there is in it (MS-RDPEGFX 2.2.2.14)."""

_XRGB = 0x20
_SCREEN = 1
"""The surface that is the client's screen."""

_VIDEOS = 2, 3
"""Surfaces of the video, which is copied from there; each stream has the other one."""

_SEGMENT = 65534
"""Bytes of a part of a message (MS-RDPEGFX 2.2.5.1)."""

_SINGLE, _PARTS, _AS_IT_IS = 0xE0, 0xE1, 0x04

_QUALITY = bytes((22, 100))  # of an AVC420 rectangle, which no decoder looks at


class Pipeline:
    """One client's pipeline; does no I/O.

    Attributes:
        is_ready: the client can do what we want: pictures may be drawn, after a
            :meth:`reset`.
        is_useless: it cannot.
        restarts: times that it has said what it can.
        unacknowledged: frames that the client has yet to draw.
    """

    def __init__(self) -> None:
        self.is_ready = self.is_useless = False
        self.restarts = 0
        self._frame = 0
        self._acknowledged = 0
        self._acknowledges = True
        self._clear_codec = 0  # bitmaps so far
        self._size: tuple[int, int] | None = None
        self._video: tuple[int, int] | None = None  # stream and surface
        self._output: list[bytes] = []

    # ---------------------------------------------------------- from the client ----

    def receive(self, message: bytes) -> None:
        """Take one whole message.

        Raises:
            ParseError: it is malformed; close the channel.
        """
        position = 0
        while position < len(message):
            if len(message) - position < _HEAD.size:
                raise ParseError(f"{len(message) - position} bytes of a graphics PDU")
            kind, _, size = _HEAD.unpack_from(message, position)
            if not _HEAD.size <= size <= len(message) - position:
                raise ParseError(
                    f"graphics PDU 0x{kind:02X} of {size} bytes, have"
                    f" {len(message) - position}"
                )
            body = message[position + _HEAD.size : position + size]
            if kind == _ADVERTISE:
                self._advertised(body)
            elif kind == _ACKNOWLEDGE:
                self._was_acknowledged(body)
            position += size  # others are about caches and times

    @property
    def unacknowledged(self) -> int:
        """Frames that the client has yet to draw; 0: it does not say."""
        return self._frame - self._acknowledged if self._acknowledges else 0

    def _advertised(self, body: bytes) -> None:
        """Take what the client can, and choose what both do."""
        if self.restarts > MAX_RESTARTS:
            raise ParseError(f"capabilities of graphics more than {MAX_RESTARTS} times")
        sets = _parse_sets(body)
        chosen = None
        if not sets.get(_VERSION_10, _HAS_NO_AVC) & _HAS_NO_AVC:
            chosen = _VERSION_10
        elif sets.get(_VERSION_8_1, 0) & _HAS_AVC:
            chosen = _VERSION_8_1
        self.restarts += 1
        self._size = self._video = None
        self._acknowledged, self._acknowledges = self._frame, True
        self.is_ready, self.is_useless = chosen is not None, chosen is None
        if chosen is not None:
            self._say(_CONFIRM, struct.pack("<3I", chosen, 4, sets[chosen]))

    def _was_acknowledged(self, body: bytes) -> None:
        if len(body) != 12:
            raise ParseError(f"acknowledgement of {len(body)} bytes, not 12")
        depth, frame, _ = struct.unpack("<3I", body)
        self._acknowledges = depth != _SUSPENDED
        if self._acknowledged < frame <= self._frame:
            self._acknowledged = frame

    # ------------------------------------------------------------ to the client ----

    def reset(self, width: int, height: int) -> None:
        """Begin with a black screen of this size."""
        if self._size is not None:
            self._delete(_SCREEN)
        self._forget_video()
        self._size = width, height
        monitor = struct.pack("<IiiiiI", 1, 0, 0, width - 1, height - 1, 1)
        body = struct.pack("<II", width, height) + monitor
        self._say(_RESET, body.ljust(_RESET_SIZE - _HEAD.size, b"\0"))
        self._create(_SCREEN, width, height)
        self._say(_MAP, struct.pack("<HHII", _SCREEN, 0, 0, 0))

    def begin(self) -> None:
        """A frame begins."""
        self._frame += 1
        self._say(_START, struct.pack("<II", 0, self._frame))

    def draw(self, what: Tile | Picture) -> None:
        """Draw something on the screen, in a frame."""
        if isinstance(what, Tile):
            data = what.body
            if what.codec is Codec.CLEAR:
                data = bytes((0, self._clear_codec & 0xFF)) + data
                self._clear_codec += 1
            self._bitmap(_SCREEN, what.codec, what.place, data)
        else:
            self._draw_picture(what)

    def end(self) -> None:
        """The frame is complete."""
        self._say(_END, struct.pack("<I", self._frame))

    def messages(self) -> list[bytes]:
        """Take what is to be sent on the channel, and clear it."""
        pieces, self._output = self._output, []
        found: list[bytes] = []
        joined: list[bytes] = []
        size = 0
        for piece in pieces:
            if joined and size + len(piece) > _SEGMENT:
                found.append(_wrap(b"".join(joined)))
                joined, size = [], 0
            joined.append(piece)
            size += len(piece)
        if joined:
            found.append(_wrap(b"".join(joined)))
        return found

    # -------------------------------------------------------------------- parts ----

    def _draw_picture(self, what: Picture) -> None:
        """Decode a picture of a video beside the screen, and copy it.

        FreeRDP takes the rectangles of AVC420 as places on the surface, too, and does
        not look at the bitmap's (10.3).
        """
        width, height = what.size
        if self._video is None or self._video[0] != what.stream:
            surface = _VIDEOS[what.stream % 2]
            self._forget_video()
            self._video = what.stream, surface
            self._create(surface, width, height)
        _, surface = self._video
        whole = struct.pack("<4H", 0, 0, width, height)
        data = struct.pack("<I", 1) + whole + _QUALITY + what.body
        self._bitmap(surface, Codec.AVC420, (0, 0, width, height), data)
        left, top, right, bottom = what.place
        self._say(
            _COPY,
            struct.pack("<HH4H", surface, _SCREEN, 0, 0, right - left, bottom - top)
            + struct.pack("<Hhh", 1, left, top),
        )

    def _forget_video(self) -> None:
        if self._video is not None:
            self._delete(self._video[1])
            self._video = None

    def _create(self, surface: int, width: int, height: int) -> None:
        self._say(_CREATE, struct.pack("<HHHB", surface, width, height, _XRGB))

    def _delete(self, surface: int) -> None:
        self._say(_DELETE, struct.pack("<H", surface))

    def _bitmap(
        self, surface: int, codec: Codec, place: tuple[int, int, int, int], data: bytes
    ) -> None:
        head = struct.pack("<HHB4HI", surface, codec, _XRGB, *place, len(data))
        self._say(_BITMAP, head + data)

    def _say(self, kind: int, body: bytes) -> None:
        self._output.append(_HEAD.pack(kind, 0, _HEAD.size + len(body)) + body)


def _parse_sets(body: bytes) -> dict[int, int]:
    """Read what a client can: versions, and the flags of each."""
    if len(body) < 2:
        raise ParseError("capabilities of graphics without their number")
    count, position = int.from_bytes(body[:2], "little"), 2
    if count > MAX_SETS:
        raise ParseError(f"{count} capability sets of graphics, at most {MAX_SETS}")
    found: dict[int, int] = {}
    for _ in range(count):
        if len(body) - position < 8:
            raise ParseError(f"{count} capability sets of graphics end early")
        version, size = struct.unpack_from("<II", body, position)
        position += 8
        if size > len(body) - position:
            raise ParseError(
                f"capability set of graphics of {size} bytes, have"
                f" {len(body) - position}"
            )
        if size >= 4:
            (found[version],) = struct.unpack_from("<I", body, position)
        position += size
    return found


def _wrap(data: bytes) -> bytes:
    """Return what carries PDUs: in one part, or in several (MS-RDPEGFX 2.2.5.1)."""
    if len(data) <= _SEGMENT:
        return bytes((_SINGLE, _AS_IT_IS)) + data
    parts = [data[at : at + _SEGMENT] for at in range(0, len(data), _SEGMENT)]
    return struct.pack("<BHI", _PARTS, len(parts), len(data)) + _join_parts(parts)


def _join_parts(parts: Sequence[bytes]) -> bytes:
    return b"".join(
        struct.pack("<IB", len(part) + 1, _AS_IT_IS) + part for part in parts
    )
