"""The exception tree (docs/architecture.md, section 7).

A USB failure (stall, timeout, unplugged) is a :class:`rusb.usb.urb.UrbStatus`, never
an exception.
"""

import enum

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "AuthenticationError",
    "BackendError",
    "CertificateError",
    "ConnectionLost",
    "ControlError",
    "DeviceBusy",
    "DeviceGone",
    "FilterError",
    "GuestError",
    "HandshakeError",
    "Hint",
    "ListenError",
    "LocalProtocolError",
    "NegotiationError",
    "NoPermission",
    "ParseError",
    "PluginError",
    "ProtocolError",
    "RemoteProtocolError",
    "RusbError",
    "ServerBusy",
    "SettingsError",
]


class Hint(enum.Enum):
    """What the user could do about an error; the command says which option does it."""

    ACCEPT_CLEARTEXT = enum.auto()
    """Connect to a server that does not encrypt."""
    ACCEPT_RC4 = enum.auto()
    """Connect to a server that has nothing better than standard RDP security."""
    ALLOW_SEVERAL_CLIENTS = enum.auto()
    """Let the machine serve several clients at a time."""
    DROP_AUTHORITY = enum.auto()
    """Trust the server on first use instead of an authority."""
    OTHER_AUTHORITY = enum.auto()
    """Name the authority that signed the server's certificate."""
    OTHER_KNOWN_SERVERS = enum.auto()
    """Keep the certificates of servers in another file."""
    TAKE_FROM_SYSTEM = enum.auto()
    """Offer a device although this machine uses it."""
    OTHER_ADDRESS = enum.auto()
    """Listen on another address."""
    OTHER_PORT = enum.auto()
    """Listen on another port."""
    OTHER_LOG = enum.auto()
    """Write the log to another file."""
    OTHER_GUEST_ADDRESS = enum.auto()
    """Say where the guest is, or offer it devices elsewhere."""


class RusbError(Exception):
    """The base class of every error that rusb raises on purpose.

    Attributes:
        hint: what the user could do, if the message does not say it; None: nothing.
        subject: what it is about, in front of the message; empty: the message says it.
    """

    hint: Hint | None = None
    subject: str = ""

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.subject}: {text}" if self.subject else text

    def hinting(self, hint: Hint | None) -> "Self":
        """Set the hint; return the error, to raise it."""
        self.hint = hint
        return self


class ParseError(RusbError, ValueError):
    """Bytes that do not have the required form.

    Attributes:
        offset: where in the parsed bytes the trouble was found, if known.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class ProtocolError(RusbError):
    """A rule of a protocol was broken; only the two subclasses are raised."""


class LocalProtocolError(ProtocolError):
    """Our own caller broke the rules."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules; the channel or connection is finished."""


class NegotiationError(RusbError):
    """The two ends have no security or protocol in common.

    Attributes:
        stage: where it ended: ``"rdp"``, ``"tls"`` or ``"version"``.
    """

    def __init__(self, message: str, stage: str = "rdp") -> None:
        super().__init__(message)
        self.stage = stage


class HandshakeError(NegotiationError):
    """The handshake of TLS failed.

    Attributes:
        reason: OpenSSL's name for it; empty: the peer closed the connection.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, "tls")
        self.reason = reason


class CertificateError(NegotiationError):
    """The server's certificate is not trusted."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "tls")


class AuthenticationError(RusbError):
    """The server refused the credentials."""


class ConnectionLost(RusbError, ConnectionError):  # noqa: N818 - the tree's own name
    """The transport ended or never began.

    Attributes:
        clean: the peer said goodbye before it closed.
    """

    def __init__(self, message: str, *, clean: bool = False) -> None:
        super().__init__(message)
        self.clean = clean


class ServerBusy(ConnectionLost):
    """The server already serves as many clients as it may; try again later."""


class BackendError(RusbError):
    """The device side could not do what was requested."""


class NoPermission(BackendError):  # noqa: N818
    """The user may not open the device; the message says how to fix that."""


class DeviceGone(BackendError):  # noqa: N818
    """The device was unplugged."""


class DeviceBusy(BackendError):  # noqa: N818
    """Something else uses the device (a mounted file system, another program)."""


class GuestError(RusbError):
    """The guest could not use the device: no free port, or the guest has ended."""


class ControlError(RusbError):
    """A machine is running, is not running, or refused a command."""


class ListenError(RusbError):
    """No port to listen on is free, or this user may not use it."""


class FilterError(RusbError, ValueError):
    """A filter is invalid.

    Attributes:
        column: zero-based position of the trouble in the text, if known.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class SettingsError(RusbError, ValueError):
    """A machine's settings file cannot be used."""


class PluginError(RusbError, LookupError):
    """There is no such plugin, or it is broken."""
