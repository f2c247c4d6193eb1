"""What the RDP cores report."""

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from .notices import Notice

__all__ = [
    "Activated",
    "Button",
    "ChannelClosed",
    "ChannelData",
    "ChannelOpened",
    "ChannelRefused",
    "ClientDescription",
    "Credentials",
    "Disconnected",
    "DynamicReady",
    "Event",
    "Ignored",
    "Input",
    "KeyInput",
    "LocksInput",
    "LogonRequested",
    "MessageTooLong",
    "PointerInput",
    "Redirected",
    "RefreshRequested",
    "TlsRequested",
    "UnicodeInput",
    "WheelInput",
]


@dataclass(slots=True)
class TlsRequested:
    """Write what there is to send, do TLS, then call ``tls_started()``."""


@dataclass(slots=True)
class Credentials:
    """What a client logs on with.

    Attributes:
        user: as typed.
        domain: without its ``@N``.
        password: never shown by ``repr``.
        screen: which screen it wants, counted from 0.
    """

    user: str
    domain: str
    password: str = field(repr=False)
    screen: int = 0


@dataclass(slots=True)
class ClientDescription:
    """What a client says about itself.

    Attributes:
        name: of its machine.
        address: what it believes its address is, not the peer of the socket.
        build: clientBuild.
        width, height, depth: the screen it asked for.
        kind: ``"rdesktop"``, ``"MSFT"`` or ``"RDP4"``, a guess (1.9).
        is_usb_only: it says that it neither shows nor types.
    """

    name: str
    address: str
    build: int
    width: int
    height: int
    depth: int
    kind: str
    is_usb_only: bool = False


@dataclass(slots=True)
class LogonRequested:
    """Server: call ``accept_logon()``, or close the TCP connection to refuse.

    Attributes:
        cookie: what the client shows of a :class:`~rusb.rdp.cookie.Cookie`; empty: of
            none.
    """

    credentials: Credentials
    client: ClientDescription
    cookie: bytes = field(default=b"", repr=False)


@dataclass(slots=True)
class Activated:
    """The connection is usable. Comes again after each change of the screen's size."""

    width: int
    height: int
    depth: int


@dataclass(slots=True)
class ChannelOpened:
    """A channel is operational; a static one once, after the first Activated."""

    channel: int
    name: str
    is_dynamic: bool = False


@dataclass(slots=True)
class ChannelData:
    """One whole message of a channel."""

    channel: int
    data: bytes


@dataclass(slots=True)
class ChannelClosed:
    """A dynamic channel is gone; not after ``close_channel()``.

    Attributes:
        reason: what the peer did wrong; empty: it closed the channel.
    """

    channel: int
    reason: str = ""


@dataclass(slots=True)
class ChannelRefused:
    """Server: the client does not open a dynamic channel of that name.

    Attributes:
        status: an HRESULT, negative.
    """

    name: str
    status: int


@dataclass(slots=True)
class DynamicReady:
    """Server: dynamic channels may be opened now; once, or never.

    Attributes:
        version: of MS-RDPEDYC, as the client has it.
    """

    version: int


@dataclass(slots=True)
class Redirected:
    """Client: the server sends us to another one; Disconnected follows.

    Attributes:
        host: an address or a name; the port is that of this server.
    """

    host: str


@dataclass(slots=True)
class Disconnected:
    """The peer ended the connection; close the transport. Nothing follows.

    Attributes:
        reason: the server's error-info code (8.5), if it gave one.
        clean: an active session ended in order.
    """

    reason: int | None
    clean: bool


@dataclass(slots=True)
class RefreshRequested:
    """Server: the client wants its screen again, or a part of it.

    Attributes:
        area: x, y, width, height, perhaps beyond the screen; None: all of it.
    """

    area: tuple[int, int, int, int] | None = None


class Button(enum.Enum):
    """Buttons of a mouse."""

    LEFT = "left"
    RIGHT = "right"
    MIDDLE = "middle"
    BACK = "4"
    FORWARD = "5"


class Input:
    """Server: what somebody did with keyboard or mouse."""

    __slots__ = ()


@dataclass(slots=True)
class KeyInput(Input):
    """A key; while it is held down, the client may press it again and again.

    Attributes:
        code: its scan code, 1 to 0x7F; with 0x80 set where the code has the prefix E0;
            0xC6 is Pause, which is pressed and released at once.
    """

    code: int
    is_pressed: bool


@dataclass(slots=True)
class UnicodeInput(Input):
    """A character, in place of the key that would type it.

    Attributes:
        code: a unit of UTF-16.
    """

    code: int
    is_pressed: bool


@dataclass(slots=True)
class PointerInput(Input):
    """Where the mouse is, and perhaps a button that has changed there.

    Attributes:
        x, y: pixels, on the client's screen.
        button: None: it was only moved.
    """

    x: int
    y: int
    button: Button | None = None
    is_pressed: bool = False


@dataclass(slots=True)
class WheelInput(Input):
    """A wheel was turned.

    Attributes:
        notches: up or to the right; less than 0: down or to the left.
    """

    notches: int
    is_horizontal: bool = False


@dataclass(slots=True)
class LocksInput(Input):
    """The lock keys of the client's keyboard; it has released all other keys.

    Attributes:
        locks: 1 Scroll Lock, 2 Num Lock, 4 Caps Lock, 8 Kana Lock, added up.
    """

    locks: int


@dataclass(slots=True)
class MessageTooLong:
    """A message of a channel with a limit was skipped.

    Attributes:
        name: of the channel.
        size: bytes of the message.
    """

    name: str
    size: int


@dataclass(slots=True)
class Ignored:
    """Something of the peer's was skipped, as the protocol says."""

    reason: str


Event: TypeAlias = (
    TlsRequested
    | LogonRequested
    | Activated
    | ChannelOpened
    | ChannelData
    | ChannelClosed
    | ChannelRefused
    | DynamicReady
    | Redirected
    | Disconnected
    | RefreshRequested
    | Input
    | MessageTooLong
    | Ignored
    | Notice
)
