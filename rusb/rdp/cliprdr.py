"""The server's end of the clipboard: MS-RDPECLIP on the static channel ``cliprdr``.

Text only (display.md 8). Nothing is asked for because a client has copied something:
rdesktop 1.9 announces its formats again after each request, so that this would never
end. What is asked for is what the guest pastes.
"""

import enum
import struct
from array import array
from dataclasses import dataclass
from typing import TypeAlias

from rusb.errors import ParseError

__all__ = [
    "MAX_MESSAGE",
    "MAX_TEXT",
    "ClipboardEvent",
    "ClipboardNoted",
    "ClipboardServer",
    "TextOffered",
    "TextReceived",
    "TextWanted",
]

MAX_TEXT = 1 << 20
"""Bytes of a text in UTF-8."""

MAX_MESSAGE = 4 * MAX_TEXT + 64
"""Bytes of a client's message: UTF-16 with CR and LF, of a text of empty lines."""

MAX_LIST, MAX_FORMATS = 64 << 10, 256
"""Bytes of a list of formats, and how many there may be."""

MAX_SETS = 16
"""Capability sets that a client may have; there is one kind of them."""

PATIENCE = 5.0
"""Seconds that an answer may take."""

ECHO = 0.5
"""Seconds after an answer in which the same list again is no news: rdesktop 1.9 sends
it after each request, and a guest that reads whatever is copied would ask for ever."""

_HEAD = struct.Struct("<HHI")
_UNICODE_TEXT = 13
_LONG_NAMES = 2
_SHORT_NAME = 32


class Kind(enum.IntEnum):
    """What a message is."""

    READY = 1
    LIST = 2
    LIST_RESPONSE = 3
    REQUEST = 4
    RESPONSE = 5
    CAPABILITIES = 7


_OK, _FAILED = 1, 2


@dataclass(frozen=True, slots=True)
class TextOffered:
    """Somebody copied something at the client; *has_text* says whether it is text.

    Attributes:
        is_echo: it only says again what it said before a request of ours.
    """

    has_text: bool
    is_echo: bool = False


@dataclass(frozen=True, slots=True)
class TextWanted:
    """The client pastes; answer with :meth:`ClipboardServer.provide`."""


@dataclass(frozen=True, slots=True)
class TextReceived:
    """The answer to a request; None: there is no text."""

    text: str | None


@dataclass(frozen=True, slots=True)
class ClipboardNoted:
    """Something is wrong.

    Attributes:
        problem: what, in a sentence without its subject.
    """

    problem: str


ClipboardEvent: TypeAlias = TextOffered | TextWanted | TextReceived | ClipboardNoted


class ClipboardServer:
    """The clipboard of one client; does no I/O.

    Attributes:
        is_started: is the client told that there is a clipboard?
        is_in_step: does it take part? It has sent its first list.
    """

    def __init__(self) -> None:
        self.is_started = False
        self._is_mute = False
        self._events: list[ClipboardEvent] = []
        self._outputs: list[bytes] = []
        self._has_long_names = False
        self.is_in_step = False
        self._last_list = b""
        self._offer: bool | None = None  # what the client is still to be told
        self._is_offered = False  # what was copied last, as the client knows, is ours
        self._list_until: float | None = None  # when it must have answered ours
        self._text_until: float | None = None  # when it must have sent its text
        self._echo_until: float | None = None
        self._owes_text = False

    def events(self) -> list[ClipboardEvent]:
        """Take the events that piled up, oldest first, and clear them."""
        taken, self._events = self._events, []
        return taken

    def outputs(self) -> list[bytes]:
        """Take the messages to send, and clear them."""
        taken, self._outputs = self._outputs, []
        return taken

    def start(self) -> None:
        """Tell the client that there is a clipboard. Once."""
        if self.is_started:
            return
        self.is_started = True
        general = struct.pack("<HHHHII", 1, 0, 1, 12, 2, _LONG_NAMES)
        self._say(Kind.CAPABILITIES, 0, general)
        self._say(Kind.READY, 0, b"")

    def offer(self, *, has_text: bool, now: float) -> None:
        """Tell the client that the guest has text, or nothing.

        As soon as it has sent its own list, and answered the list before. Nothing
        takes the place of what was copied at the client meanwhile.
        """
        self._offer = has_text if has_text or self._is_offered else None
        self._send_list(now)

    def request(self, *, now: float) -> None:
        """Ask for the client's text; TextReceived follows, within 5 s.

        While an answer is awaited, there is only that one.
        """
        if self._text_until is not None:
            return
        if self._is_mute or not self.is_in_step:
            self._events.append(TextReceived(None))
            return
        self._text_until = now + PATIENCE
        self._echo_until = now + PATIENCE + ECHO
        self._say(Kind.REQUEST, 0, struct.pack("<I", _UNICODE_TEXT))

    def provide(self, text: str | None) -> None:
        """Answer TextWanted; None: there is no text. LF ends lines."""
        if not self._owes_text:
            return
        self._owes_text = False
        if text is None:
            self._say(Kind.RESPONSE, _FAILED, b"")
        else:
            self._say(Kind.RESPONSE, _OK, _to_client(text))

    def receive_data(self, data: bytes, *, now: float) -> None:
        """Take one message of the client; a wrong one makes the channel mute."""
        if self._is_mute or not self.is_started:
            return
        try:
            self._receive(data, now)
        except ParseError as error:
            self._is_mute = True
            self._fail_request()
            self._events.append(ClipboardNoted(f"has no clipboard: {error}"))

    def too_long(self, size: int) -> None:
        """A message was not read, because it has more than MAX_MESSAGE bytes."""
        if self._text_until is not None:
            self._fail_request()
            self._note_size(size)

    def next_deadline(self) -> float | None:
        """When to call :meth:`handle_deadline`; None: never."""
        return min(filter(None, (self._list_until, self._text_until)), default=None)

    def handle_deadline(self, now: float) -> None:
        """Go on without an answer that did not come."""
        if self._list_until is not None and now >= self._list_until:
            self._list_until = None
            self._send_list(now)
        if self._text_until is not None and now >= self._text_until:
            self._fail_request()

    # ------------------------------------------------------------- our own ----

    def _say(self, kind: Kind, flags: int, body: bytes) -> None:
        self._outputs.append(_HEAD.pack(kind, flags, len(body)) + body)

    def _send_list(self, now: float) -> None:
        is_due = self.is_in_step and self._list_until is None and not self._is_mute
        if self._offer is None or not is_due:
            return
        formats = b""
        if self._offer:
            formats = struct.pack("<I", _UNICODE_TEXT)
            formats += bytes(2 if self._has_long_names else _SHORT_NAME)
        self._say(Kind.LIST, 0, formats)
        self._is_offered, self._offer = self._offer, None
        self._list_until = now + PATIENCE

    def _fail_request(self) -> None:
        if self._text_until is not None:
            self._text_until = None
            self._events.append(TextReceived(None))

    def _note_size(self, size: int) -> None:
        self._events.append(
            ClipboardNoted(
                f"has a text of {size} bytes in its clipboard, which is not pasted: at"
                f" most {MAX_TEXT}"
            )
        )

    def _receive(self, data: bytes, now: float) -> None:
        if len(data) < _HEAD.size:
            raise ParseError(f"clipboard message of {len(data)} bytes")
        kind, flags, size = _HEAD.unpack_from(data)
        if size > len(data) - _HEAD.size:
            have = len(data) - _HEAD.size
            raise ParseError(f"clipboard message of {size} bytes, have {have}")
        body = data[_HEAD.size : _HEAD.size + size]
        match kind:
            case Kind.CAPABILITIES:
                self._has_long_names = _says_long_names(body)
            case Kind.LIST:
                self._take_list(body, now)
            case Kind.LIST_RESPONSE:
                self._list_until = None
                self._send_list(now)
            case Kind.REQUEST:
                self._take_request(body)
            case Kind.RESPONSE:
                self._take_response(body, flags, now)

    def _take_list(self, body: bytes, now: float) -> None:
        formats = _read_list(body, has_long_names=self._has_long_names)
        is_echo = self.is_in_step and body == self._last_list
        is_echo = is_echo and self._echo_until is not None and now < self._echo_until
        self._echo_until = None
        self._last_list = body
        self.is_in_step = True
        if formats and not is_echo:
            self._offer, self._is_offered = None, False
        self._say(Kind.LIST_RESPONSE, _OK, b"")
        self._events.append(TextOffered(_UNICODE_TEXT in formats, is_echo))
        self._send_list(now)

    def _take_request(self, body: bytes) -> None:
        if len(body) != 4:
            raise ParseError(f"request for a format of {len(body)} bytes, not 4")
        if self._owes_text or int.from_bytes(body, "little") != _UNICODE_TEXT:
            self._say(Kind.RESPONSE, _FAILED, b"")
            return
        self._owes_text = True
        self._events.append(TextWanted())

    def _take_response(self, body: bytes, flags: int, now: float) -> None:
        if self._text_until is None:  # too late, or not asked for
            return
        self._text_until = None
        self._echo_until = now + ECHO
        text = None
        if flags & _OK:
            text = _from_client(body)
            if (size := len(text.encode())) > MAX_TEXT:
                self._note_size(size)
                text = None
        self._events.append(TextReceived(text))


def _says_long_names(body: bytes) -> bool:
    """Read the client's capabilities (MS-RDPECLIP 2.2.2.1)."""
    if len(body) < 4:
        raise ParseError(f"capabilities of {len(body)} bytes")
    count, at, found = int.from_bytes(body[:2], "little"), 4, False
    if count > MAX_SETS:
        raise ParseError(f"{count} capability sets, at most {MAX_SETS}")
    for _ in range(count):
        if at + 4 > len(body):
            raise ParseError("capabilities end too soon")
        kind, size = struct.unpack_from("<HH", body, at)
        if size < 4 or at + size > len(body):
            raise ParseError(f"capability set of {size} bytes")
        if kind == 1 and size >= 12:
            (flags,) = struct.unpack_from("<I", body, at + 8)
            found = bool(flags & _LONG_NAMES)
        at += size
    return found


def _read_list(body: bytes, *, has_long_names: bool) -> set[int]:
    """Return the numbers of the formats in a list; their names mean nothing to us."""
    if len(body) > MAX_LIST:
        raise ParseError(f"list of formats of {len(body)} bytes, at most {MAX_LIST}")
    units = array("H", body[: len(body) // 2 * 2])
    found, at = list[int](), 0
    while at < len(body):
        if len(found) == MAX_FORMATS:
            raise ParseError(f"more than {MAX_FORMATS} formats")
        if at + 4 > len(body):
            raise ParseError("the list of formats ends too soon")
        found.append(int.from_bytes(body[at : at + 4], "little"))
        at += 4
        try:
            at = 2 * units.index(0, at // 2) + 2 if has_long_names else at + _SHORT_NAME
        except ValueError:
            raise ParseError("the name of a format has no end") from None
        if at > len(body):
            raise ParseError("the name of a format has no end")
    return set(found)


def _from_client(body: bytes) -> str:
    """Return a text up to its NUL, with LF at the end of lines."""
    text = body[: len(body) // 2 * 2].decode("utf-16-le", errors="replace")
    return text.partition("\0")[0].replace("\r\n", "\n")


def _to_client(text: str) -> bytes:
    """Return a text as Windows has it: CR and LF, and a NUL at the end."""
    lines = text.partition("\0")[0].replace("\r\n", "\n").replace("\n", "\r\n")
    return (lines + "\0").encode("utf-16-le", errors="replace")
