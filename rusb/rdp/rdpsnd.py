"""The server's end of sound: MS-RDPEA on the static channel ``rdpsnd`` (display.md 7).

What the guest plays goes out in blocks of 40 ms. A client confirms each; one that does
not keep up misses blocks, so that what it hears is never late and nothing piles up.
"""

import enum
import struct
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rusb.errors import ParseError

__all__ = [
    "BLOCK",
    "FORMATS",
    "MAX_MESSAGE",
    "SoundAgreed",
    "SoundEvent",
    "SoundFormat",
    "SoundNoted",
    "SoundServer",
]

MAX_MESSAGE = 16 << 10
"""Bytes of a client's message: 64 formats with all that they may have are 5268."""

MAX_FORMATS, MAX_EXTRA = 64, 64
"""Formats that a client may have, and bytes behind each."""

RATE, FRAME = 44100, 4
"""Of what is played: signed 16 bit, 2 channels, little-endian; bytes of a frame."""

BLOCK = RATE // 25 * FRAME
"""Bytes of 40 ms."""

MOST, FEW = 10, 5
"""Blocks that may be unconfirmed, 400 ms; and those below which it goes on."""

GRACE, CONFIRMS_SINCE = 1.0, 5
"""Seconds after which a block counts as confirmed, for clients of a version below this
that have never confirmed one."""

ODD_CONFIRMATIONS = 256
"""Confirmations in a row of what is not under way that are noted: with two for each
block, as FreeRDP's device for tests sends them, every second one is."""

VERSION, WAVE2_SINCE = 8, 8

TRAINING = 1024
"""Bytes of the training message; both its size and its stamp come back."""

_HEAD = struct.Struct("<BxH")
_LIST = struct.Struct("<IIIHHBHx")
_FORMAT = struct.Struct("<HHIIHHH")
_PCM = 1


class Kind(enum.IntEnum):
    """What a message is."""

    CLOSE = 1
    WAVE = 2
    CONFIRMATION = 5
    TRAINING = 6
    FORMATS = 7
    WAVE2 = 13


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """How sound is encoded.

    Attributes:
        tag: 1: PCM.
        rate: frames a second.
        bits: of a sample.
    """

    tag: int
    channels: int
    rate: int
    bits: int

    def serialize(self) -> bytes:
        """Return the AUDIO_FORMAT of PCM (MS-RDPEA 2.2.2.1.1)."""
        block = self.channels * self.bits // 8
        speed = self.rate * block
        return _FORMAT.pack(
            *(self.tag, self.channels, self.rate, speed, block, self.bits, 0)
        )


FORMATS = (SoundFormat(_PCM, 2, RATE, 16), SoundFormat(_PCM, 2, RATE // 2, 16))
"""What is offered, the better first."""


@dataclass(frozen=True, slots=True)
class SoundAgreed:
    """The client is ready to play.

    Attributes:
        rate: frames a second.
        version: of the protocol, the client's.
    """

    rate: int
    version: int


@dataclass(frozen=True, slots=True)
class SoundNoted:
    """Something is wrong.

    Attributes:
        problem: what, in a sentence without its subject.
    """

    problem: str


SoundEvent: TypeAlias = SoundAgreed | SoundNoted


class _Phase(enum.Enum):
    IDLE = "not started"
    FORMATS = "waiting for the client's formats"
    TRAINING = "waiting for the confirmation of the training"
    READY = "ready"
    MUTE = "nothing more is said"


class SoundServer:
    """Sound for one client; does no I/O.

    Attributes:
        rate: frames a second that the client is sent; 0: it plays nothing, or not yet.
        sent, dropped: blocks so far.
    """

    def __init__(self) -> None:
        self.rate = 0
        self.sent = self.dropped = 0
        self._phase = _Phase.IDLE
        self._events: list[SoundEvent] = []
        self._outputs: list[bytes] = []
        self._version = 0
        self._ours, self._format = 0, 0  # its place in our list, and in the client's
        self._pcm = bytearray()  # less than a block
        self._block = 0
        self._open: dict[int, float] = {}  # block: when it was sent; oldest first
        self._is_dropping = False
        self._has_confirmed = False
        self._odd, self._is_odd = 0, False

    @property
    def is_ready(self) -> bool:
        """Does the client play what it is sent?"""
        return self._phase is _Phase.READY

    def events(self) -> list[SoundEvent]:
        """Take the events that piled up, oldest first, and clear them."""
        taken, self._events = self._events, []
        return taken

    def outputs(self) -> list[bytes]:
        """Take the messages to send, and clear them."""
        taken, self._outputs = self._outputs, []
        return taken

    def start(self) -> None:
        """Offer our formats. Once."""
        if self._phase is not _Phase.IDLE:
            return
        self._phase = _Phase.FORMATS
        head = _LIST.pack(0, 0, 0, 0, len(FORMATS), 0, VERSION)
        formats = b"".join(known.serialize() for known in FORMATS)
        self._say(Kind.FORMATS, head + formats)

    def receive_data(self, data: bytes, *, now: float) -> None:
        """Take one message of the client; a wrong one makes the channel mute."""
        if self._phase in (_Phase.IDLE, _Phase.MUTE):
            return
        try:
            self._receive(data, now)
        except ParseError as error:
            self.mute(str(error))

    def mute(self, problem: str) -> None:
        """Say nothing more, and why."""
        if self._phase in (_Phase.IDLE, _Phase.MUTE):
            return
        self._phase, self.rate = _Phase.MUTE, 0
        self._events.append(SoundNoted(f"plays nothing: {problem}"))

    def play(self, pcm: bytes, *, now: float) -> None:
        """Send what the guest plays, as far as the client keeps up.

        Args:
            pcm: signed 16 bit, 2 channels, 44100 Hz, little-endian.
            now: monotonic, in seconds.
        """
        if not self.is_ready:
            return
        self._pcm += pcm
        while len(self._pcm) >= BLOCK:
            self._send_block(bytes(self._pcm[:BLOCK]), now)
            del self._pcm[:BLOCK]

    def flush(self, *, now: float) -> None:
        """The guest pauses: send what is less than a block, too."""
        whole = len(self._pcm) // FRAME * FRAME
        if self.is_ready and whole:
            self._send_block(bytes(self._pcm[:whole]), now)
        self._pcm.clear()

    def stop(self) -> None:
        """Let the client close its device; what is played later opens it again."""
        self._pcm.clear()
        self._open.clear()
        if self.is_ready:
            self._say(Kind.CLOSE, b"")

    # -------------------------------------------------------------- sending ----

    def _say(self, kind: Kind, body: bytes) -> None:
        self._outputs.append(_HEAD.pack(kind, len(body)) + body)

    def _send_block(self, pcm: bytes, now: float) -> None:
        if not self._has_credit(now):
            self.dropped += 1
            return
        if self.rate != RATE:
            pcm = _halved(pcm)
        if not pcm:
            return
        stamp = int(now * 1000)
        head = struct.pack("<HHB3x", stamp & 0xFFFF, self._format, self._block)
        if self._version >= WAVE2_SINCE:
            played = struct.pack("<I", stamp & 0xFFFF_FFFF)
            self._say(Kind.WAVE2, head + played + pcm)
        else:  # its size is that of both messages, and the second one has no type
            size = _HEAD.pack(Kind.WAVE, len(head) + len(pcm))
            self._outputs += [size + head + pcm[:4], bytes(4) + pcm[4:]]
        self._open[self._block] = now
        self._block = (self._block + 1) & 0xFF
        self.sent += 1

    def _has_credit(self, now: float) -> bool:
        """May another block be under way?"""
        if self._version < CONFIRMS_SINCE and not self._has_confirmed:
            old = [block for block, when in self._open.items() if now - when >= GRACE]
            for block in old:
                del self._open[block]
            return len(self._open) * BLOCK <= GRACE * RATE * FRAME
        self._is_dropping = len(self._open) >= (FEW if self._is_dropping else MOST)
        return not self._is_dropping

    # ------------------------------------------------------------ receiving ----

    def _receive(self, data: bytes, now: float) -> None:
        if len(data) < _HEAD.size:
            raise ParseError(f"sound message of {len(data)} bytes")
        kind, size = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if size > len(body):
            raise ParseError(f"sound message of {size} bytes, have {len(body)}")
        body = body[:size]
        match kind:
            case Kind.FORMATS if self._phase is _Phase.FORMATS:
                self._choose(body, now)
            case Kind.TRAINING if self._phase is _Phase.TRAINING:
                self._phase = _Phase.READY
                self.rate = FORMATS[self._ours].rate
                self._events.append(SoundAgreed(self.rate, self._version))
            case Kind.CONFIRMATION:
                if len(body) != 4:
                    raise ParseError(f"confirmation of {len(body)} bytes, not 4")
                self._confirm(body[2])

    def _choose(self, body: bytes, now: float) -> None:
        """Take the best of our formats that the client has, and try it."""
        formats, self._version = _read_formats(body)
        places = [formats.index(f) if f in formats else None for f in FORMATS]
        for ours, place in enumerate(places):
            if place is not None:
                self._ours, self._format = ours, place
                break
        else:  # rdesktop-vrdp without a device (display.md 7)
            self.mute("it has no device for sound, or none for PCM of 16 bit")
            return
        self._phase = _Phase.TRAINING
        stamp = int(now * 1000) & 0xFFFF
        head = struct.pack("<HH", stamp, TRAINING)
        self._say(Kind.TRAINING, head + bytes(TRAINING))

    def _confirm(self, block: int) -> None:
        """The client has played a block, and so those before it.

        A late one, or one that comes twice, changes nothing.
        """
        if block not in self._open:
            self._odd += 1
            if self._odd == ODD_CONFIRMATIONS and not self._is_odd:
                self._is_odd = True
                self._events.append(SoundNoted("confirms sound that it was not sent"))
            return
        self._odd = 0
        self._has_confirmed = True
        for known in list(self._open):
            del self._open[known]
            if known == block:
                break


def _read_formats(body: bytes) -> tuple[list[SoundFormat], int]:
    """Return the client's formats, in its order, and its version."""
    if len(body) < _LIST.size:
        raise ParseError(f"list of sound formats of {len(body)} bytes")
    *_, count, _, version = _LIST.unpack_from(body)
    if count > MAX_FORMATS:
        raise ParseError(f"{count} sound formats, at most {MAX_FORMATS}")
    found, at = list[SoundFormat](), _LIST.size
    for _ in range(count):
        if at + _FORMAT.size > len(body):
            raise ParseError(f"{len(found)} sound formats, not {count}")
        tag, channels, rate, _, _, bits, extra = _FORMAT.unpack_from(body, at)
        at += _FORMAT.size + extra
        if extra > MAX_EXTRA or at > len(body):
            raise ParseError(f"sound format with {extra} bytes behind it")
        found.append(SoundFormat(tag, channels, rate, bits))
    return found, version


def _halved(pcm: bytes) -> bytes:
    """Return half as many frames, each the mean of two."""
    frames = np.frombuffer(pcm, "<i2").astype(np.int32)
    pairs = frames[: len(frames) // 4 * 4].reshape(-1, 2, 2)
    halved: bytes = (pairs.sum(1) >> 1).astype("<i2").tobytes()
    return halved
