"""What happens in a client's session, as typed events.

``str()`` of an event is a line for people; programs read its attributes.
"""

from dataclasses import dataclass
from pathlib import Path

from rusb.errors import BackendError, RusbError
from rusb.usb.device import DeviceInfo

__all__ = [
    "CertificateTrusted",
    "ConnectionBroken",
    "ConnectionHeard",
    "DeviceClosed",
    "DeviceEvent",
    "DeviceLeftOut",
    "DeviceLost",
    "DeviceNotOpened",
    "DeviceOffered",
    "DeviceOpened",
    "DeviceRefused",
    "DeviceWithdrawn",
    "SecurityLowered",
    "SessionEvent",
    "SessionForgotten",
    "SessionMoved",
    "SessionRenewed",
    "SessionResumed",
    "SessionSentOn",
    "SessionStays",
]


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class CertificateTrusted(SessionEvent):
    """First connection to a server; from now on its certificate is trusted.

    Attributes:
        server: ``host:port``.
        fingerprint: of the certificate.
        path: the file that keeps it.
    """

    server: str
    fingerprint: str
    path: Path

    def __str__(self) -> str:
        return (
            f"First connection to {self.server}: its certificate {self.fingerprint} is"
            f" now trusted (saved in {self.path})."
        )


@dataclass(frozen=True, slots=True)
class SecurityLowered(SessionEvent):
    """A server does not offer TLS; the next kind of security is tried.

    Attributes:
        error: why TLS failed.
        security: ``rdp`` or ``none``, as in :attr:`ClientConfig.security`.
    """

    error: RusbError
    security: str

    def __str__(self) -> str:
        weaker = {
            "rdp": "standard RDP security, which is weak",
            "none": "no encryption: your password and data are sent in the clear",
        }
        return f"{self.error}. Trying {weaker[self.security]}"


@dataclass(frozen=True, slots=True)
class ConnectionBroken(SessionEvent):
    """The connection is lost or silent; another one is tried.

    Attributes:
        server: ``host:port``.
        error: what is known of it.
        seconds: for which the server will keep the devices in the guest; 0: it does
            not.
    """

    server: str
    error: RusbError
    seconds: int

    def __str__(self) -> str:
        if not self.seconds:
            return f"{self.error}. Connecting again"
        return (
            f"{self.error}. Connecting again; the guest keeps the devices for"
            f" {self.seconds} s"
        )


@dataclass(frozen=True, slots=True)
class ConnectionHeard(SessionEvent):
    """A connection that had been silent goes on."""

    server: str

    def __str__(self) -> str:
        return f"{self.server} answers again; nothing was lost"


@dataclass(frozen=True, slots=True)
class SessionResumed(SessionEvent):
    """There is a connection again, and the guest has the devices still.

    Attributes:
        server: ``host:port``.
        seconds: since the last byte of the connection before.
    """

    server: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"connected to {self.server} again after {self.seconds:g} s; the guest kept"
            " the devices"
        )


@dataclass(frozen=True, slots=True)
class SessionMoved(SessionEvent):
    """The machine runs at another host, and so the devices are used there.

    Attributes:
        before, server: ``host:port``.
    """

    before: str
    server: str

    def __str__(self) -> str:
        return (
            f"the machine has moved from {self.before}; its devices are connected to"
            f" {self.server} now, and the guest has kept them"
        )


@dataclass(frozen=True, slots=True)
class SessionSentOn(SessionEvent):
    """The machine runs at another host, and nothing of the session was in use.

    Attributes:
        before, server: ``host:port``.
    """

    before: str
    server: str

    def __str__(self) -> str:
        return f"the machine has moved from {self.before} to {self.server}"


@dataclass(frozen=True, slots=True)
class SessionStays(SessionEvent):
    """The machine runs at another host, where the session cannot go on.

    Attributes:
        server: ``host:port``, which goes on passing everything on.
        there: where the machine runs.
        reason: why the session stays.
    """

    server: str
    there: str
    reason: RusbError

    def __str__(self) -> str:
        why = str(self.reason).rstrip(".")  # some are sentences
        return (
            f"the machine has moved to {self.there}, but the devices stay connected to"
            f" {self.server}, which passes everything on: {why}. To do without"
            f" {self.server}, end this program and connect to {self.there}; the guest"
            " then sees the devices plugged in again"
        )


@dataclass(frozen=True, slots=True)
class SessionForgotten(SessionEvent):
    """The server does not keep the devices any more; they will be offered anew.

    Attributes:
        server: ``host:port``.
        is_late: the time for which it does was over.
    """

    server: str
    is_late: bool

    def __str__(self) -> str:
        why = (
            "it was restarted, its guest ended, or they are for sound or video, which"
            " cannot wait"
        )
        if self.is_late:
            why = "the connection was lost for too long"
        return f"{self.server} no longer keeps the devices: {why}. Connecting again"


@dataclass(frozen=True, slots=True)
class SessionRenewed(SessionEvent):
    """There is a connection again; the devices are offered anew.

    Attributes:
        server: ``host:port``.
        security: of the connection.
    """

    server: str
    security: str

    def __str__(self) -> str:
        return f"connected to {self.server} again ({self.security})"


@dataclass(frozen=True, slots=True)
class DeviceEvent(SessionEvent):
    """Something happened to a device.

    Attributes:
        device: its identity; ``id`` is unique per plug-in.
    """

    device: DeviceInfo


@dataclass(frozen=True, slots=True)
class DeviceOffered(DeviceEvent):
    """The server may use the device from now on.

    Attributes:
        problem: why it cannot be used at present; None if it can.
        lacks_isochronous: it has isochronous endpoints, which the wire does not carry.
    """

    problem: BackendError | None = None
    lacks_isochronous: bool = False

    def __str__(self) -> str:
        text = f"offering {self.device}"
        if self.problem is not None:
            text += f"; it cannot be used now: {self.problem}"
        if self.lacks_isochronous:
            text += (
                "; its isochronous endpoints (sound, video) will not work:"
                " VirtualBox's remote USB does not carry them, MS-RDPEUSB does"
            )
        return text


@dataclass(frozen=True, slots=True)
class DeviceLeftOut(DeviceEvent):
    """It is not offered, because this machine uses it.

    Attributes:
        reason: what it is used for.
    """

    reason: str

    def __str__(self) -> str:
        return f"left out {self.device}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DeviceWithdrawn(DeviceEvent):
    """It is still plugged in, and no longer offered."""

    def __str__(self) -> str:
        return f"{self.device} is no longer offered"


@dataclass(frozen=True, slots=True)
class DeviceLost(DeviceEvent):
    """It was unplugged, or stopped answering.

    Attributes:
        reason: the backend's message; empty if it is simply no longer listed.
    """

    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.device} is gone: {self.reason}"
        return f"{self.device} was unplugged"


@dataclass(frozen=True, slots=True)
class DeviceNotOpened(DeviceEvent):
    """The server has not opened the device so far; the protocol cannot say why.

    Attributes:
        server: ``host:port``.
    """

    server: str

    def __str__(self) -> str:
        return (
            f"{self.server} has not opened {self.device} yet: no filter of the machine"
            " admits it, or its guest cannot use it. The machine's VBox.log says why,"
            " and 'rusb usbfilter explain' shows what would change it"
        )


@dataclass(frozen=True, slots=True)
class DeviceOpened(DeviceEvent):
    """The server uses it.

    Attributes:
        server: ``host:port``.
    """

    server: str

    def __str__(self) -> str:
        return f"{self.device} is in use by {self.server}"


@dataclass(frozen=True, slots=True)
class DeviceRefused(DeviceEvent):
    """The server wanted to open the device, but could not.

    Attributes:
        reason: why not, and what to do about it.
        error: what the backend raised.
    """

    reason: str
    error: Exception

    def __str__(self) -> str:
        return f"cannot open {self.device}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DeviceClosed(DeviceEvent):
    """The server no longer uses it; this machine has it back. Not of one that is lost.

    Attributes:
        reason: what went wrong; empty if nothing did.
    """

    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.device} was not given back cleanly: {self.reason}"
        return f"{self.device} was given back"
