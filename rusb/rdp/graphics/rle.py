"""Interleaved RLE: what a compressed bitmap consists of (display.md 4.3).

The encoder writes three kinds of orders; the decoder reads all that there are
(MS-RDPBCGR 2.2.9.1.1.3.1.2.4).
"""

import numpy as np
import numpy.typing as npt

from rusb.errors import ParseError

from .pixels import KINDS, Pixels, from_bytes, pixel_size, to_bytes

__all__ = ["MAX_PIXELS", "decode", "encode"]

MAX_PIXELS = 0xFFFF
"""Pixels of the largest bitmap that is encoded: a run of it must fit into one order."""

_MIN_BACKGROUND, _MIN_RUN = 3, 4  # pixels from which these orders are the shorter ones
_BACKGROUND, _RUN, _IMAGE = 0, 1, 2
_SHORT = np.array([0x00, 0x60, 0x80], np.uint8)  # codes of the three
_LONG = np.array([0xF0, 0xF3, 0xF4], np.uint8)
_MAX_SHORT, _MAX_MIDDLE = 31, 287  # pixels of orders with heads of one and two bytes


def encode(tiles: Pixels, size: int) -> list[bytes]:
    """Compress bitmaps of one shape, at once, which costs much less than one by one.

    Args:
        tiles: (count, height, width) pixels, up to MAX_PIXELS each, the lowest row of
            each first.
        size: bytes of a pixel.

    Returns:
        The data of each; it may be longer than the pixels are.
    """
    count, height, width = tiles.shape
    area = height * width
    pixels = np.ascontiguousarray(tiles).reshape(count, area)
    starts, kinds, is_told = _orders(pixels, width)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = count * area - starts[-1]
    heads = 1 + (lengths > _MAX_SHORT) + (lengths > _MAX_MIDDLE)
    bodies = np.where(kinds == _IMAGE, lengths * size, 0)
    bodies[kinds == _RUN] = size
    ends = np.cumsum(heads + bodies)
    at = ends - heads - bodies
    out = np.empty(int(ends[-1]), np.uint8)
    is_body = np.ones(len(out), bool)
    _write_heads(out, is_body, at, heads, kinds, lengths)
    out[is_body] = to_bytes(pixels.reshape(-1).compress(is_told.reshape(-1)), size)
    data = out.tobytes()
    first = at[np.searchsorted(starts, np.arange(0, count * area, area))].tolist()
    return [data[a:b] for a, b in zip(first, [*first[1:], len(data)], strict=True)]


_Flags = npt.NDArray[np.bool_]  # one for each pixel


def _orders(
    pixels: Pixels, width: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8], _Flags]:
    """Divide (count, area) pixels into orders: where each begins, and its kind.

    A background run never crosses the end of a bitmap's first row, and never follows
    another one but there: it would begin with a pixel of the foreground.

    All pixels are looked at in every step, for that costs less than to gather some.

    Returns:
        also, which pixels are told: all of an image, one of a run.
    """
    above = np.empty(pixels.shape, bool)  # as the pixel above, which may be the black
    np.equal(pixels[:, :width], 0, out=above[:, :width])
    np.equal(pixels[:, width:], pixels[:, :-width], out=above[:, width:])
    background = _long(above, _MIN_BACKGROUND, width)
    other = ~background
    same = np.zeros(pixels.shape, bool)  # as the pixel before, which is told
    np.equal(pixels[:, 1:], pixels[:, :-1], out=same[:, 1:])
    same &= other
    same[:, 1:] &= other[:, :-1]
    repeats = _long(same, _MIN_RUN - 1)
    is_told = other & ~repeats
    run_begins = is_told.copy()
    run_begins[:, -1] = False
    run_begins[:, :-1] &= repeats[:, 1:]
    is_image = is_told & ~run_begins
    kinds = other.view(np.uint8) + is_image.view(np.uint8)
    begins = run_begins
    begins[:, 1:] |= kinds[:, 1:] != kinds[:, :-1]
    begins[:, 0] = True
    if pixels.shape[1] > width:
        begins[:, width] |= background[:, width]
    (starts,) = begins.reshape(-1).nonzero()
    return starts, kinds.reshape(-1).take(starts), is_told


def _long(flags: _Flags, least: int, cut: int = 0) -> _Flags:
    """Return which of (count, area) flags are set in a row of at least so many.

    Args:
        cut: where each row is cut in two.
    """
    found = np.zeros(flags.shape, bool)
    windows = flags.shape[1] - least + 1
    if windows <= 0:
        return found
    begins = flags[:, :windows].copy()
    for shift in range(1, least):
        begins &= flags[:, shift : shift + windows]
    begins[:, max(0, cut - least + 1) : cut] = False
    for shift in range(least):
        found[:, shift : shift + windows] |= begins
    return found


def _write_heads(
    out: npt.NDArray[np.uint8],
    is_body: _Flags,
    at: npt.NDArray[np.intp],
    heads: npt.NDArray[np.intp],
    kinds: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.intp],
) -> None:
    """Write code and length of each order, in one, two or three bytes."""
    out[at] = _SHORT.take(kinds) | np.where(heads == 1, lengths, 0).astype(np.uint8)
    is_body[at] = False
    (middle,) = (heads == 2).nonzero()
    if middle.size:
        where = at[middle] + 1
        out[where] = lengths[middle] - (_MAX_SHORT + 1)
        is_body[where] = False
    (long,) = (heads == 3).nonzero()
    if long.size:
        where = at[long]
        out[where] = _LONG[kinds[long]]
        for byte in (1, 2):
            out[where + byte] = lengths[long] >> 8 * (byte - 1) & 0xFF
            is_body[where + byte] = False


def decode(data: bytes, width: int, height: int, depth: int) -> Pixels:
    """Decompress a bitmap.

    Args:
        data: its orders; all kinds are known.
        width, height: pixels, one or more.
        depth: bits per pixel.

    Returns:
        (height, width) pixels, the lowest row first.

    Raises:
        ParseError: an unknown order, cut off, or other than width * height pixels.
    """
    return _Decoder(data, width, height, depth).run()


# Orders by code: regular ones of three bits, lite ones of four, mega ones of eight.
_FOREGROUND, _FG_BG, _DITHERED, _SPECIAL, _ONE = range(3, 8)
_REGULAR = {0: _BACKGROUND, 1: _FOREGROUND, 2: _FG_BG, 3: _RUN, 4: _IMAGE}
_LITE = {0xC: _FOREGROUND, 0xD: _FG_BG, 0xE: _DITHERED}
_MEGA = {
    **{0xF0 + code: kind for code, kind in _REGULAR.items()},
    **{0xF6 + n: kind for n, kind in enumerate(_LITE.values())},
}
_SETS_FOREGROUND = {*range(0xC0, 0xE0), 0xF6, 0xF7}
_MASKS = {0xF9: 0x03, 0xFA: 0x05}
_WHITE, _BLACK = 0xFD, 0xFE


class _Decoder:
    """One bitmap that is being decompressed, behind a black row."""

    def __init__(self, data: bytes, width: int, height: int, depth: int) -> None:
        self._data, self._pos = data, 0
        self._size = pixel_size(depth)
        kind = KINDS[self._size]
        self._out: Pixels = np.zeros(width * (height + 1), kind)
        self._at, self._width = width, width
        self._foreground = self._white = (1 << depth) - 1
        self._after_background = False
        self._in_first_row = True

    def run(self) -> Pixels:
        out, width = self._out, self._width
        while self._pos < len(self._data):
            if self._in_first_row and self._at >= 2 * width:
                self._in_first_row = self._after_background = False
            self._order(self._byte())
        if self._at != len(out):
            raise ParseError(
                f"bitmap of {self._at - width} pixels, not {len(out) - width}"
            )
        return out[width:].reshape(-1, width)

    def _order(self, code: int) -> None:
        kind, length = self._head(code)
        was_background, self._after_background = (
            *(self._after_background, kind == _BACKGROUND),
        )
        if code in _SETS_FOREGROUND:
            self._foreground = self._pixel()
        match kind:
            case 0:  # background
                if was_background and length:
                    self._xor(1, self._foreground)
                    length -= 1
                self._xor(length, 0)
            case 3:  # foreground
                self._xor(length, self._foreground)
            case 4:  # foreground where a bit is set
                self._xor_masked(self._take((length + 7) // 8), length)
            case 1:
                self._put(self._pixel(), length)
            case 2:
                self._put(self._pixels(length), length)
            case 5:
                pair = np.array([self._pixel(), self._pixel()], self._out.dtype)
                self._put(np.tile(pair, self._room(2 * length) // 2), 2 * length)
            case 6:
                self._xor_masked(bytes([_MASKS[code]]), length)
            case 7:
                self._put(self._white if code == _WHITE else 0, length)

    def _head(self, code: int) -> tuple[int, int]:
        """Return the kind of an order, and its length in pixels (or pairs)."""
        if code in _MASKS:
            return _SPECIAL, 8
        if code in (_WHITE, _BLACK):
            return _ONE, 1
        if code in _MEGA:
            return _MEGA[code], self._byte() | self._byte() << 8
        if code >> 4 in _LITE:
            kind, length, least = _LITE[code >> 4], code & 0x0F, 16
        elif code >> 5 in _REGULAR:
            kind, length, least = _REGULAR[code >> 5], code & 0x1F, 32
        else:
            raise ParseError(f"RLE order 0x{code:02X}", self._pos - 1)
        if kind == _FG_BG:
            return kind, 8 * length or self._byte() + 1
        return kind, length or self._byte() + least

    def _room(self, length: int) -> int:
        if length > len(self._out) - self._at:
            left = len(self._out) - self._at
            raise ParseError(f"RLE order of {length} pixels, {left} left", self._pos)
        return length

    def _put(self, what: int | Pixels, length: int) -> None:
        self._out[self._at : self._at + self._room(length)] = what
        self._at += length

    def _xor(self, length: int, change: int | Pixels) -> None:
        """Repeat what is above, changed: at most a row at once, the next one needs it.

        Args:
            length: pixels.
            change: to XOR each with, or one for each.
        """
        out, width = self._out, self._width
        changes = np.broadcast_to(np.asarray(change, out.dtype), self._room(length))
        for done in range(0, length, width):
            some = changes[done : done + width]
            at = self._at + done
            out[at : at + len(some)] = out[at - width :][: len(some)] ^ some
        self._at += length

    def _xor_masked(self, mask: bytes, length: int) -> None:
        """Change pixels where a bit is set, the lowest bit of a byte first."""
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        kind = self._out.dtype.type
        self._xor(length, bits[:length] * kind(self._foreground))

    def _take(self, size: int) -> bytes:
        found = self._data[self._pos : self._pos + size]
        if len(found) < size:
            raise ParseError(
                f"RLE data ends {size - len(found)} bytes early", self._pos
            )
        self._pos += size
        return found

    def _byte(self) -> int:
        return self._take(1)[0]

    def _pixel(self) -> int:
        return int.from_bytes(self._take(self._size), "little")

    def _pixels(self, count: int) -> Pixels:
        return from_bytes(self._take(count * self._size), self._size)
