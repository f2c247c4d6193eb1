"""What there is to know about a connection, for a log (vrdp-server.md 7.3).

Nothing follows from them: who keeps no log ignores each :class:`Notice`.
"""

from dataclasses import dataclass

from .security import Method
from .standard import Encryption

__all__ = [
    "ChannelAsked",
    "ClientDescribed",
    "DisconnectAsked",
    "EncryptionChosen",
    "EncryptionOffered",
    "ErrorInfoReceived",
    "Notice",
    "SecurityAsked",
    "SecurityChosen",
    "UnknownBlock",
    "UsbUnreachable",
    "X509Chosen",
]


@dataclass(frozen=True, slots=True)
class Notice:
    """A fact."""


@dataclass(frozen=True, slots=True)
class SecurityAsked(Notice):
    """Server: what it allows, and what the client asked for.

    Attributes:
        protocols: bits of :class:`~rusb.rdp.x224.Protocol`.
    """

    methods: frozenset[Method]
    protocols: int


@dataclass(frozen=True, slots=True)
class SecurityChosen(Notice):
    """Server: what the connection goes on with."""

    method: Method


@dataclass(frozen=True, slots=True)
class EncryptionOffered(Notice):
    """Server: the client's methods of standard RDP security, a bit each (1.6)."""

    methods: int


@dataclass(frozen=True, slots=True)
class ChannelAsked(Notice):
    """Server: the client wants a static channel.

    Attributes:
        is_known: it gets it.
    """

    name: str
    channel: int
    is_known: bool


@dataclass(frozen=True, slots=True)
class UsbUnreachable(Notice):
    """Server: the client has dynamic channels, and none for the devices of ours.

    Whether it has devices would show inside the dynamic channels alone (rdpeusb.md).
    """


@dataclass(frozen=True, slots=True)
class UnknownBlock(Notice):
    """Server: a GCC block of the client's was skipped."""

    kind: int


@dataclass(frozen=True, slots=True)
class EncryptionChosen(Notice):
    """Server: how standard RDP security encrypts."""

    encryption: Encryption


@dataclass(frozen=True, slots=True)
class X509Chosen(Notice):
    """Server: the client gets a chain of X.509 certificates (MS-RDPELE)."""


@dataclass(frozen=True, slots=True)
class ClientDescribed(Notice):
    """Server: what the client is.

    Attributes:
        kind: see :class:`~rusb.rdp.events.ClientDescription`.
    """

    kind: str
    width: int
    height: int
    depth: int


@dataclass(frozen=True, slots=True)
class DisconnectAsked(Notice):
    """Server: the client wants to end the connection in order."""


@dataclass(frozen=True, slots=True)
class ErrorInfoReceived(Notice):
    """Client: the server says why it is about to end the connection (8.5)."""

    code: int
