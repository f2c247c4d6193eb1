"""The client of QEMU's VNC server: bytes in, events out, the screen as an array.

Pixels are asked for raw: over a local socket that costs both ends the least
(display.md 2.2). One request for an update is outstanding, while somebody watches.
"""

import struct
import zlib
from collections.abc import Generator

import numpy as np

from rusb.errors import LocalProtocolError, NegotiationError, RemoteProtocolError

from . import messages
from .events import (
    ClipboardNoticed,
    ClipboardProvided,
    ClipboardRequested,
    ClipboardTooLong,
    Connected,
    Cursor,
    CursorChanged,
    Damaged,
    Event,
    Frame,
    LedsChanged,
    PointerModeChanged,
    Rectangle,
    Resized,
    SizeRefused,
    SoundEnded,
    SoundReceived,
    SoundStarted,
)
from .messages import Clipboard, Encoding

__all__ = ["MAX_TEXT", "RfbClient"]

MAX_SIDE = 8192
"""Pixels of a screen's longest side."""

MAX_AREA = 8 << 20
"""Pixels of a screen, a little more than 4K has: each costs four bytes."""

MAX_RECTANGLES = 4096
"""Of one update; QEMU sends up to 620 when a console scrolls (display.md 2.2)."""

MAX_CURSOR = 256
"""Pixels of a cursor's longest side."""

MAX_SOUND = 64 << 10
"""Bytes of one piece of sound; QEMU's are 10 ms, 1764 bytes."""

MAX_TEXT = 1 << 20
"""Bytes of text of the clipboard, unpacked, and of what is packed."""

MAX_WORDS = 4096
"""Bytes of a name, or of why the server refuses."""

MAX_PIXELS = 2 * MAX_AREA
"""Pixels of one update, in which QEMU sends no place twice: it has to end."""

TURN = 256
"""Pieces of messages that are read in a turn: a few milliseconds of the smallest ones.
Then others have their turn."""

_BAND = 64 << 10
"""Pixels of a rectangle that are read at once, so that little has to be kept."""

_TILE = 64
"""Both sides of the frame are a multiple of it."""

_NO_AUTHENTICATION = 1
_INITIAL = struct.Struct(">HH16xI")
_RECTANGLE = struct.Struct(">4Hi")

_BY_CLIENT, _PASSED_ON = 1, 4  # reason and status of a size
_Parser = Generator[int, bytes, None]


class RfbClient:
    """One connection to QEMU's VNC server; does no I/O.

    Attributes:
        frame: pixels 0x00RRGGBB, both sides of the screen rounded up to a multiple of
            64, with zeros. It is written to while an update is read; a new size makes
            a new one.
        width, height: of the screen; 0 before it is known.
        is_absolute: does the guest's pointer take positions?
        has_sound: does the server send what the guest plays?
        has_more: received bytes were left for the next turn.
    """

    def __init__(self) -> None:
        self.frame: Frame = np.zeros((0, 0), np.uint32)
        self.width = self.height = 0
        self.is_absolute = True
        self.has_sound = False
        self.has_more = False
        self._events: list[Event] = []
        self._output: list[bytes] = []
        self._buffer = bytearray()
        self._failure = ""
        self._is_connected = False
        self._is_watched = self._wants_sound = False
        self._damage: list[Rectangle] = []
        self._pixels = 0  # that the update may still have
        # None: an update is on its way
        self._is_next_incremental: bool | None = False
        self._parser = self._read_all()
        self._needed = next(self._parser)

    # -------------------------------------------------------- for the shell ----

    def receive_data(self, data: bytes) -> None:
        """Take received bytes, in any pieces, and read on for a turn.

        While ``has_more`` is true, call this again with no bytes; pass on what has been
        received meanwhile only after that.

        Raises:
            RemoteProtocolError: the server broke a rule; so does every later call.
            NegotiationError: the server does not let us in.
        """
        if self._failure:
            raise RemoteProtocolError(f"the connection has failed: {self._failure}")
        self._buffer += data
        position = pieces = 0
        try:
            while pieces < TURN and len(self._buffer) - position >= self._needed:
                pieces += 1
                end = position + self._needed
                piece = bytes(memoryview(self._buffer)[position:end])
                position = end
                self._needed = self._parser.send(piece)
        except (RemoteProtocolError, NegotiationError) as error:
            self._failure = str(error)
            raise
        finally:
            del self._buffer[:position]
            self.has_more = not self._failure and len(self._buffer) >= self._needed

    def events(self) -> list[Event]:
        """Take the events that piled up, oldest first, and clear them."""
        taken, self._events = self._events, []
        return taken

    def data_to_send(self) -> bytes:
        """Take what is to be sent, and clear it."""
        taken, self._output = self._output, []
        return b"".join(taken)

    def watch(self, *, is_watched: bool) -> None:
        """Ask for the next update, or for none from now on.

        The first one is of the whole screen. As long as one is on its way, no other is
        asked for; after one that has damage or another size, none until the next call:
        who shows it says when there is time for more.
        """
        if not self._is_watched:
            self._is_next_incremental = False
        self._is_watched = is_watched
        self._request()

    def key(self, code: int, *, is_down: bool) -> None:
        """Press or release a key.

        Args:
            code: its scan code of set 1, with bit 7 set for those behind E0.
        """
        self._say(messages.key(code, is_down=is_down))

    def pointer(self, buttons: int, x: int, y: int) -> None:
        """Say where the pointer is, and which buttons are down.

        Args:
            buttons: 1 left, 2 middle, 4 right, 8 wheel up, 16 wheel down.
            x, y: pixels, or, unless ``is_absolute``, 0x7FFF and the movement.
        """
        self._say(messages.pointer(buttons, x, y))

    def resize(self, width: int, height: int) -> None:
        """Ask for another size; Resized or SizeRefused follows.

        Raises:
            LocalProtocolError: it is too large.
        """
        if problem := _size_problem(width, height):
            raise LocalProtocolError(problem)
        self._say(messages.size(width, height))

    def poke(self) -> None:
        """Let QEMU look for changes soon: it waits longer, the longer nothing happens.

        A message that says what holds already (display.md 2.4). Without sound there is
        none; what is typed has the same effect.
        """
        if self.has_sound:
            self._say(messages.SOUND_FORMAT)

    def want_sound(self, *, is_wanted: bool) -> None:
        """Let the server send what the guest plays as soon as it can, or stop it."""
        self._wants_sound = is_wanted
        if self.has_sound:
            self._say(messages.SOUND_FORMAT + messages.sound(is_on=is_wanted))

    def offer_text(self, *, has_text: bool) -> None:
        """Tell the guest that our clipboard has text, or has none."""
        self._say(messages.clipboard(Clipboard.NOTIFY | has_text))

    def request_text(self) -> None:
        """Ask for the text of the guest's clipboard."""
        self._say(messages.clipboard(Clipboard.REQUEST | Clipboard.TEXT))

    def provide_text(self, text: str) -> None:
        """Answer ClipboardRequested; LF ends lines, and no NUL the text.

        Raises:
            LocalProtocolError: it is longer than MAX_TEXT.
        """
        if len(text.encode()) > MAX_TEXT:
            raise LocalProtocolError(f"more than {MAX_TEXT} bytes of text")
        self._say(messages.text_provided(text))

    # -------------------------------------------------------------- sending ----

    def _say(self, message: bytes) -> None:
        """Send something, once there is somebody to understand it."""
        if self._is_connected and not self._failure:
            self._output.append(message)

    def _request(self) -> None:
        """Ask for the next update, if it is wanted and not on its way."""
        is_incremental = self._is_next_incremental
        if is_incremental is None or not (self._is_watched and self._is_connected):
            return
        self._is_next_incremental = None
        self._say(
            messages.request(self.width, self.height, is_incremental=is_incremental)
        )

    # -------------------------------------------------------------- reading ----

    def _read_all(self) -> _Parser:
        """Parse the connection: yields how many bytes it needs, and is sent them."""
        yield from self._read_handshake()
        while True:
            (kind,) = yield 1
            match kind:
                case 0:
                    yield from self._read_update()
                case 1:  # a colour map, which our pixels do not need
                    head = yield 5
                    yield from self._skip(6 * int.from_bytes(head[3:5]))
                case 2:  # bell
                    pass
                case 3:
                    yield from self._read_cut_text()
                case 255:
                    yield from self._read_sound()
                case _:
                    raise RemoteProtocolError(f"VNC message {kind}")

    def _read_handshake(self) -> _Parser:
        version = yield 12
        if version[:4] != b"RFB " or version[11:] != b"\n":
            raise RemoteProtocolError(f"not a VNC server: it says {version!r}")
        if version < messages.VERSION:
            raise NegotiationError(f"VNC of {version[4:11].decode('latin-1')}")
        self._output.append(messages.VERSION)
        (count,) = yield 1
        if not count:
            yield from self._read_refusal()
        types = yield count
        if _NO_AUTHENTICATION not in types:
            raise NegotiationError(
                "QEMU's VNC server asks for authentication, of kind"
                f" {', '.join(map(str, types))}"
            )
        self._output.append(bytes([_NO_AUTHENTICATION]))
        result = yield 4
        if any(result):
            yield from self._read_refusal()
        self._output.append(b"\1")  # others may watch, too
        initial = yield _INITIAL.size
        width, height, length = _INITIAL.unpack(initial)
        name = yield self._check(length, MAX_WORDS, "bytes of name")
        self._new_frame(width, height)
        self._is_connected = True
        self._say(messages.pixel_format() + messages.encodings())
        self._say(messages.clipboard(Clipboard.CAPS | 0x1F << 24 | 1, _TEXT_LIMIT))
        self._events.append(Connected(width, height, name.decode(errors="replace")))
        self._request()

    def _read_refusal(self) -> _Parser:
        length = yield 4
        reason = yield self._check(int.from_bytes(length), MAX_WORDS, "bytes of reason")
        raise NegotiationError(
            f"QEMU's VNC server refused us: {reason.decode(errors='replace')}"
        )

    def _skip(self, count: int) -> _Parser:
        while count:
            step = min(count, _BAND)
            yield step
            count -= step

    def _read_update(self) -> _Parser:
        head = yield 3
        count = self._check(int.from_bytes(head[1:]), MAX_RECTANGLES, "rectangles")
        self._damage, self._pixels = [], MAX_PIXELS
        is_resized = False
        for _ in range(count):
            rectangle = yield _RECTANGLE.size
            x, y, width, height, encoding = _RECTANGLE.unpack(rectangle)
            match encoding:
                case Encoding.RAW:
                    yield from self._read_pixels(x, y, width, height)
                case Encoding.DESKTOP_SIZE:
                    is_resized |= self._resized(width, height)
                case Encoding.EXTENDED_SIZE:
                    screens = yield 4
                    yield from self._skip(16 * screens[0])
                    if x == _BY_CLIENT and y:  # ours, and the guest's size stays
                        if y != _PASSED_ON:
                            self._events.append(SizeRefused(y))
                    else:
                        is_resized |= self._resized(width, height)
                case Encoding.ALPHA_CURSOR | Encoding.CURSOR:
                    yield from self._read_cursor(x, y, width, height, encoding)
                case Encoding.KEYS:
                    pass
                case Encoding.POINTER_TYPE:
                    self.is_absolute = x == 1
                    self._events.append(PointerModeChanged(self.is_absolute))
                case Encoding.LEDS:
                    (leds,) = yield 1
                    self._events.append(LedsChanged(leds & 7))
                case Encoding.SOUND:
                    self.has_sound = True
                    self._say(messages.SOUND_FORMAT)
                    if self._wants_sound:
                        self._say(messages.sound(is_on=True))
                case _:
                    raise RemoteProtocolError(f"VNC encoding {encoding}")
        self._is_next_incremental = not is_resized
        if self._damage:
            self._events.append(Damaged(self._damage))
        elif not is_resized:
            self._request()

    def _read_pixels(self, x: int, y: int, width: int, height: int) -> _Parser:
        if x + width > self.width or y + height > self.height:
            raise RemoteProtocolError(
                f"rectangle of {width}x{height} at {x}, {y} of a screen of"
                f" {self.width}x{self.height}"
            )
        self._pixels -= width * height
        if self._pixels < 0:
            raise RemoteProtocolError(f"an update of more than {MAX_PIXELS} pixels")
        if not (width and height):
            return
        frame, lines = self.frame, max(1, _BAND // width)
        for top in range(y, y + height, lines):
            some = min(lines, y + height - top)
            data = yield 4 * width * some
            pixels = np.frombuffer(data, "<u4").reshape(some, width)
            frame[top : top + some, x : x + width] = pixels
        self._damage.append((x, y, width, height))

    def _read_cursor(
        self, x: int, y: int, width: int, height: int, encoding: int
    ) -> _Parser:
        self._check(max(width, height), MAX_CURSOR, "pixels of a cursor's side")
        area = width * height
        if encoding == Encoding.ALPHA_CURSOR:
            within = yield 4
            if any(within):
                raise RemoteProtocolError(f"cursor of encoding {within.hex()}")
            data = yield 4 * area
            pixels = np.frombuffer(data, "<u4").reshape(height, width)
        else:
            row = (width + 7) // 8
            data = yield 4 * area + row * height
            colours = np.frombuffer(data, "<u4", area).reshape(height, width)
            mask = np.frombuffer(data, np.uint8, row * height, 4 * area)
            bits = np.unpackbits(mask.reshape(height, row), axis=1)[:, :width]
            pixels = np.where(bits == 1, colours | 0xFF000000, 0)
        hot_x, hot_y = min(x, max(width - 1, 0)), min(y, max(height - 1, 0))
        self._events.append(CursorChanged(Cursor(hot_x, hot_y, pixels)))

    def _read_cut_text(self) -> _Parser:
        head = yield 7
        length = int.from_bytes(head[3:], signed=True)
        size = abs(length)
        if length >= 0:  # the old form, which cannot tell all of a text
            yield from self._skip(size)
            return
        if size > MAX_TEXT + 64:
            yield from self._skip(size)
            self._events.append(ClipboardTooLong(size))
            return
        if size < 4:
            raise RemoteProtocolError(f"clipboard message of {size} bytes")
        data = yield size
        flags = int.from_bytes(data[:4])
        has_text = bool(flags & Clipboard.TEXT)
        if flags & Clipboard.CAPS:
            pass
        elif flags & Clipboard.NOTIFY:
            self._events.append(ClipboardNoticed(has_text))
        elif flags & Clipboard.REQUEST and has_text:
            self._events.append(ClipboardRequested())
        elif flags & Clipboard.PROVIDE and has_text:
            self._events.append(_unpack_text(data[4:]))

    def _read_sound(self) -> _Parser:
        head = yield 3
        if head[0] != 1:
            raise RemoteProtocolError(f"QEMU's VNC message {head[0]}")
        match int.from_bytes(head[1:]):
            case 0:
                self._events.append(SoundEnded())
            case 1:
                self._events.append(SoundStarted())
            case 2:
                length = yield 4
                size = self._check(int.from_bytes(length), MAX_SOUND, "bytes of sound")
                data = yield size
                self._events.append(SoundReceived(data))
            case operation:
                raise RemoteProtocolError(f"operation {operation} of sound")

    # -------------------------------------------------------------- our own ----

    def _check(self, count: int, limit: int, what: str) -> int:
        if count > limit:
            raise RemoteProtocolError(f"{count} {what}, at most {limit}")
        return count

    def _resized(self, width: int, height: int) -> bool:
        """Take another size; the same one changes nothing."""
        if (width, height) == (self.width, self.height):
            return False
        self._damage = []
        self._new_frame(width, height)
        self._events.append(Resized(width, height))
        return True

    def _new_frame(self, width: int, height: int) -> None:
        if problem := _size_problem(width, height):
            raise RemoteProtocolError(problem)
        self.width, self.height = width, height
        shape = -(-height // _TILE) * _TILE, -(-width // _TILE) * _TILE
        self.frame = np.zeros(shape, np.uint32)


_TEXT_LIMIT = MAX_TEXT.to_bytes(4)


def _size_problem(width: int, height: int) -> str:
    """Say what is wrong with the size of a screen; empty: nothing."""
    if width and height and max(width, height) <= MAX_SIDE:
        if width * height <= MAX_AREA:
            return ""
    return (
        f"a screen of {width}x{height}, which should be 1x1 to {MAX_SIDE} a side and"
        f" {MAX_AREA} pixels"
    )


def _unpack_text(data: bytes) -> ClipboardProvided | ClipboardTooLong:
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(data, MAX_TEXT + 5)
    except zlib.error as error:
        raise RemoteProtocolError(f"clipboard: {error}") from error
    size = int.from_bytes(found[:4])
    if size > MAX_TEXT:
        return ClipboardTooLong(size)
    if len(found) < 4 + size:
        raise RemoteProtocolError(f"clipboard text of {size} bytes in {len(found)}")
    return ClipboardProvided(found[4 : 4 + size].decode(errors="replace"))
