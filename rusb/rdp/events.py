"""What an RDP core tells the shell around it."""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Activated",
    "ChannelData",
    "ChannelOpened",
    "ClientDescription",
    "Credentials",
    "Disconnected",
    "Event",
    "Ignored",
    "LogonRequested",
    "Noted",
    "RefreshRequested",
    "TlsRequested",
]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client info says of the user.

    Attributes:
        screen: zero-based index from the ``@N`` at the end of the domain, which
            ``domain`` no longer has (vrdp-server.md 4.2).
    """

    user: str
    domain: str
    password: str
    screen: int = 0

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, domain={self.domain!r})"


@dataclass(frozen=True, slots=True)
class ClientDescription:
    """What a client says of itself.

    Attributes:
        kind: ``"rdesktop"`` or ``"MSFT"`` (vrdp-server.md 1.9).
        address: as the client claims, not the socket's.
    """

    name: str
    address: str
    build: int
    kind: str


@dataclass(slots=True)
class TlsRequested:
    """Send what there is to send, start TLS, then call ``tls_started``."""


@dataclass(slots=True)
class LogonRequested:
    """Server: call ``accept_logon``, or close the connection."""

    credentials: Credentials
    client: ClientDescription


@dataclass(slots=True)
class Activated:
    """Both sides: the connection is active; also after each re-activation."""

    width: int
    height: int
    depth: int


@dataclass(slots=True)
class ChannelOpened:
    """A static channel is operational; told once, after the first activation."""

    channel: int
    name: str


@dataclass(slots=True)
class ChannelData:
    """One whole message arrived on a static channel."""

    channel: int
    data: bytes


@dataclass(slots=True)
class RefreshRequested:
    """Server: the client wants the screen again."""


@dataclass(slots=True)
class Disconnected:
    """The peer said goodbye.

    Attributes:
        reason: error-info code of the server (vrdp-server.md 8.5), if it sent one.
        clean: it ended in the orderly way.
    """

    reason: int | None
    clean: bool


@dataclass(slots=True)
class Noted:
    """Server: a fact for the log, without prefix (vrdp-server.md 7.3)."""

    text: str


@dataclass(slots=True)
class Ignored:
    """Something of the peer's was skipped."""

    reason: str


Event: TypeAlias = (
    TlsRequested
    | LogonRequested
    | Activated
    | ChannelOpened
    | ChannelData
    | RefreshRequested
    | Disconnected
    | Noted
    | Ignored
)
