"""What the RDP cores report."""

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from .notices import Notice

__all__ = [
    "Activated",
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
    "InputKind",
    "InputReceived",
    "LogonRequested",
    "RefreshRequested",
    "TlsRequested",
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
    """

    name: str
    address: str
    build: int
    width: int
    height: int
    depth: int
    kind: str


@dataclass(slots=True)
class LogonRequested:
    """Server: call ``accept_logon()``, or close the TCP connection to refuse."""

    credentials: Credentials
    client: ClientDescription


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
    """Server: the client wants the whole screen again."""


class InputKind(enum.Enum):
    """What an input event is about."""

    SYNCHRONIZE = 0
    KEY = 4
    MOUSE = 0x8001


@dataclass(slots=True)
class InputReceived:
    """Server: keyboard or mouse, with the flags of slow-path input (1.15).

    Attributes:
        x: scancode of a key, lock states of a synchronize, or mouse position.
        y: mouse position.
    """

    kind: InputKind
    flags: int
    x: int
    y: int = 0


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
    | Disconnected
    | RefreshRequested
    | InputReceived
    | Ignored
    | Notice
)
