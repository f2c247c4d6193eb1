"""One end of the connection over which a machine moves, without the connection.

Both ends take the same steps; who may say what is in one table (teleport.md 4.2).
"""

import enum
import struct
from typing import Final

from rusb.errors import LocalProtocolError, ParseError, RemoteProtocolError

from .messages import MAX_BODY, Data, End, Kind, Message, parse, serialize

__all__ = ["GREETING", "Step", "TeleportCore", "check_greeting"]

GREETING: Final = b"rusb-teleport 1 (rusb's own protocol, not VirtualBox's)\n"
"""The first line of the target (2.1)."""

MAX_GREETING: Final = 200
"""Bytes of a first line."""

_HEAD = struct.Struct(">IB")


class Step(enum.IntEnum):
    """What is awaited."""

    HELLO = 0
    LOGON = 1
    WELCOME = 2
    OFFER = 3
    ACCEPT = 4
    STREAM = 5
    LOADED = 6
    RUN = 7
    RUNNING = 8
    MOVED = 9
    OVER = 10


_SOURCE, _TARGET = (True,), (False,)
_BOTH = (True, False)
_ALL = tuple(step for step in Step if step is not Step.OVER)

_TABLE: Final[dict[Kind, tuple[tuple[bool, ...], tuple[Step, ...], Step | None]]] = {
    # who (is it the source?), when, and what is awaited next; None: as before
    Kind.FAILED: (_BOTH, _ALL, Step.OVER),
    Kind.ALIVE: (_BOTH, _ALL, None),
    Kind.HELLO: (_TARGET, (Step.HELLO,), Step.LOGON),
    Kind.LOGON: (_SOURCE, (Step.LOGON,), Step.WELCOME),
    Kind.WELCOME: (_TARGET, (Step.WELCOME,), Step.OFFER),
    Kind.OFFER: (_SOURCE, (Step.OFFER,), Step.ACCEPT),
    Kind.ACCEPT: (_TARGET, (Step.ACCEPT,), Step.STREAM),
    Kind.PROGRESS: (_SOURCE, (Step.STREAM,), None),
    Kind.DATA: (_SOURCE, (Step.STREAM,), None),
    Kind.END: (_SOURCE, (Step.STREAM,), Step.LOADED),
    Kind.LOADED: (_TARGET, (Step.LOADED,), Step.RUN),
    Kind.RUN: (_SOURCE, (Step.RUN,), Step.RUNNING),
    Kind.RUNNING: (_TARGET, (Step.RUNNING,), Step.MOVED),
    Kind.DISPLAY: (_TARGET, (Step.MOVED,), None),
    Kind.TAKE: (_SOURCE, (Step.MOVED,), None),
    Kind.CLIENT: (_SOURCE, (Step.MOVED,), None),
    Kind.TAKEN: (_TARGET, (Step.MOVED,), None),
    Kind.NOT_TAKEN: (_TARGET, (Step.MOVED,), None),
    Kind.READS: (_TARGET, (Step.MOVED,), None),
    Kind.ANSWER: (_SOURCE, (Step.MOVED,), None),
    Kind.DEVICE: (_BOTH, (Step.MOVED,), None),
    Kind.GONE: (_BOTH, (Step.MOVED,), None),
}


def check_greeting(line: bytes) -> None:
    """Check the first line of a peer (2.3, 2.4).

    Raises:
        RemoteProtocolError: it does not speak this; the message says so.
    """
    words = line[:MAX_GREETING].split()
    if words[:1] != [b"rusb-teleport"]:
        raise RemoteProtocolError(
            "the other side does not speak rusb's teleporting; VirtualBox's own"
            " teleporting is not compatible"
        )
    if words[1:2] != [b"1"]:
        number = words[1].decode("ascii", "replace") if words[1:] else "none"
        raise RemoteProtocolError(
            f"the other host speaks version {number[:20]} of rusb's teleporting, and"
            " this one version 1; install the same rusb on both"
        )


class TeleportCore:
    """Bytes in, messages out, and back. Any order that the table forbids is refused.

    Args:
        is_source: which end this is.

    Attributes:
        step: what is awaited.
        streamed: bytes of QEMU's stream so far.
    """

    def __init__(self, *, is_source: bool) -> None:
        self.step = Step.HELLO
        self.streamed = 0
        self._is_source = is_source
        self._in = bytearray()
        self._out: list[bytes] = []
        self._events: list[Message] = []
        self._is_broken = False

    def send(self, message: Message) -> None:
        """Say something; ``outputs`` has its bytes.

        Raises:
            LocalProtocolError: it is not our turn to say that.
        """
        if not self._take(message, self._is_source):
            raise LocalProtocolError(
                f"{message.kind.name} cannot be sent while {self.step.name} is awaited"
            )
        body = serialize(message)
        if len(body) > MAX_BODY:
            raise LocalProtocolError(f"{message.kind.name} of {len(body)} bytes")
        self._out += (_HEAD.pack(len(body) + 1, message.kind), body)

    def receive_data(self, data: bytes) -> None:
        """Take what the peer says, in any pieces; see ``events``.

        Raises:
            RemoteProtocolError: it says what it must not; nothing is taken any more.
        """
        if self._is_broken:
            raise RemoteProtocolError("the connection is finished")
        self._in += data
        try:
            while self._next():
                pass
        except ParseError as error:
            self._is_broken = True
            raise RemoteProtocolError(f"the other host: {error}") from error

    def events(self) -> list[Message]:
        """Return what came in, and forget it."""
        found, self._events = self._events, []
        return found

    def outputs(self) -> bytes:
        """Return what is to be sent, and forget it."""
        found, self._out = self._out, []
        return b"".join(found)

    def _next(self) -> bool:
        """Take a message, if there is a whole one.

        Raises:
            ParseError: it is malformed, or not its turn.
        """
        if len(self._in) < _HEAD.size:
            return False
        length, kind = _HEAD.unpack_from(self._in)
        if not 1 <= length <= MAX_BODY + 1:
            raise ParseError(f"a message of {length} bytes; 1 to {MAX_BODY + 1} wanted")
        end = _HEAD.size - 1 + length
        if len(self._in) < end:
            return False
        message = parse(kind, bytes(self._in[_HEAD.size : end]))
        del self._in[:end]
        if not self._take(message, not self._is_source):
            raise ParseError(
                f"{message.kind.name} came while {self.step.name} was awaited"
            )
        self._events.append(message)
        return True

    def _take(self, message: Message, is_source: bool) -> bool:
        """Go on by a message; False: it may not be said now."""
        who, when, then = _TABLE[message.kind]
        if is_source not in who or self.step not in when:
            return False
        match message:
            case Data(data):
                self.streamed += len(data)
            case End(size) if size != self.streamed:
                raise ParseError(f"END of {size} bytes, but {self.streamed} came")
        if then is not None:
            self.step = then
        return True
