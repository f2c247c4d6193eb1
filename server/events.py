"""What happens at a server, as typed events.

The lines of ``VBox.log`` and of the terminal are made of them in ``release_log.py``;
``rusb events`` prints those with a name (docs/spec/events.md).
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from rusb.usb.device import DeviceInfo

from .state import StreamState, ViewState

__all__ = [
    "ChannelNoted",
    "ClientAdmitted",
    "ClientArrived",
    "ClientConnected",
    "ClientGivenUp",
    "ClientLeft",
    "ClientParked",
    "ClientRefused",
    "ClientResumed",
    "ClientSentOn",
    "ClientStays",
    "Crowded",
    "Cure",
    "DeviceAdmitted",
    "DeviceAttached",
    "DeviceDetached",
    "DeviceEvent",
    "DeviceFailed",
    "DeviceGone",
    "DeviceLeft",
    "DeviceListed",
    "DeviceNoted",
    "DeviceRefused",
    "DeviceUnfit",
    "Event",
    "FeatureSwitched",
    "FiltersChanged",
    "GuestEnded",
    "GuestReturned",
    "LinkHeld",
    "LoggedOff",
    "LogonAsked",
    "OthersDisconnected",
    "PlaceDenied",
    "ResumeRefused",
    "ScreenMissing",
    "ScreenShown",
    "ServerStarted",
    "ServerFailed",
    "ServerStopped",
    "ServerStopping",
    "SoundAgreed",
    "StreamEnded",
    "Subject",
    "TlsAgreed",
    "Warned",
    "WireAgreed",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        NAME: what it is called in JSON; empty: it is for the log only.
    """

    NAME: ClassVar[str] = ""

    def members(self) -> dict[str, object]:
        """What JSON has of it besides its name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


# ------------------------------------------------------------------- server ----


@dataclass(frozen=True, slots=True)
class ServerStarted(Event):
    """The server listens.

    Attributes:
        families: ``IPv4``, ``IPv6``, or both joined by "and".
    """

    NAME: ClassVar[str] = "server.started"
    port: int
    families: str

    def members(self) -> dict[str, object]:
        """Which port."""
        return {"port": self.port}


@dataclass(frozen=True, slots=True)
class ServerStopping(Event):
    """Everybody is about to be disconnected."""

    NAME: ClassVar[str] = "server.stopping"


@dataclass(frozen=True, slots=True)
class ServerStopped(Event):
    """It listens no more, and everybody is disconnected."""


@dataclass(frozen=True, slots=True)
class ServerFailed(Event):
    """It could not start.

    Attributes:
        problem: a sentence.
    """

    problem: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """There is something that its owner should fix.

    Attributes:
        text: a sentence.
    """

    NAME: ClassVar[str] = "server.warned"
    text: str


@dataclass(frozen=True, slots=True)
class FiltersChanged(Event):
    """Other filters count from now on.

    Attributes:
        count: how many there are.
    """

    NAME: ClassVar[str] = "filters.changed"
    count: int


@dataclass(frozen=True, slots=True)
class GuestEnded(Event):
    """The guest has ended, and may be started again.

    Attributes:
        why: a sentence.
    """

    NAME: ClassVar[str] = "guest.ended"
    why: str


@dataclass(frozen=True, slots=True)
class GuestReturned(Event):
    """It was started again: devices are attached again."""

    NAME: ClassVar[str] = "guest.returned"


# ------------------------------------------------------------------ clients ----


@dataclass(frozen=True, slots=True)
class ClientConnected(Event):
    """Somebody connected, and has yet to log on."""

    NAME: ClassVar[str] = "client.connected"
    client: int
    address: str


@dataclass(frozen=True, slots=True)
class Crowded(Event):
    """A connection was closed at once: too many of its network wait for their logon.

    Attributes:
        waiting: how many do.
    """

    network: str
    waiting: int


@dataclass(frozen=True, slots=True)
class PlaceDenied(Event):
    """A client passed its logon, and there is no place for it.

    Attributes:
        problem: a sentence.
    """

    problem: str


@dataclass(frozen=True, slots=True)
class OthersDisconnected(Event):
    """A client takes the only place, and the others have to go (4.1)."""


@dataclass(frozen=True, slots=True)
class TlsAgreed(Event):
    """The connection is encrypted with TLS.

    Attributes:
        version: of TLS, and the cipher.
        issuer: of the certificate.
    """

    version: str
    issuer: str


@dataclass(frozen=True, slots=True)
class LogonAsked(Event):
    """A client wants to log on.

    Attributes:
        title: what the log calls it: name, address and build, as it says.
        address: where it connects from.
        claimed: what it believes its address is.
    """

    client: int
    title: str
    user: str
    domain: str
    screen: int
    address: str
    claimed: str


@dataclass(frozen=True, slots=True)
class ScreenMissing(Event):
    """A client asked for a screen that the machine does not have."""

    screen: int


@dataclass(frozen=True, slots=True)
class ClientAdmitted(Event):
    """A client logged on.

    Attributes:
        name: of its machine, as it says.
    """

    NAME: ClassVar[str] = "client.admitted"
    client: int
    address: str
    user: str
    name: str


@dataclass(frozen=True, slots=True)
class ClientRefused(Event):
    """A client's logon was refused."""

    NAME: ClassVar[str] = "client.refused"
    client: int
    address: str
    user: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FeatureSwitched(Event):
    """The machine's properties switch a feature off for the client, or on (4.4)."""

    feature: str
    is_off: bool


@dataclass(frozen=True, slots=True)
class SoundAgreed(Event):
    """A client hears the guest from now on.

    Attributes:
        rate: frames a second.
    """

    NAME: ClassVar[str] = "sound.agreed"
    client: int
    rate: int


@dataclass(frozen=True, slots=True)
class ChannelNoted(Event):
    """Something is wrong with a client's sound or clipboard; all else goes on.

    Attributes:
        channel: its name.
        problem: a sentence whose subject is the client.
    """

    NAME: ClassVar[str] = "channel.noted"
    client: int
    channel: str
    problem: str


@dataclass(frozen=True, slots=True)
class ScreenShown(Event):
    """A client sees a screen, another size of it, or in another form.

    Attributes:
        screen: counted from 0.
        form: see :class:`~rusb.server.state.ViewState`.
    """

    NAME: ClassVar[str] = "screen.shown"
    client: int
    screen: int
    width: int
    height: int
    depth: int
    form: str

    @classmethod
    def of(cls, client: int, view: ViewState) -> Self:
        """Return the event of what a client sees."""
        return cls(client, view.screen, view.width, view.height, view.depth, view.form)


@dataclass(frozen=True, slots=True)
class LoggedOff(Event):
    """A client logged off, or was logged off.

    Attributes:
        title: see :class:`LogonAsked`.
        reason: 0: it wished so; else why the server did.
    """

    title: str
    reason: int


@dataclass(frozen=True, slots=True)
class ClientLeft(Event):
    """A connection is over.

    Attributes:
        reason: what went wrong; empty: nothing did.
        seconds: since it logged on, or 0.
        bytes: sent and received.
        frames, picture_bytes: pictures that were sent.
        title: see :class:`LogonAsked`; before the logon, its number.
        stage: how far it had come: ``"admitted"``, ``"refused"``, ``"waiting"``,
            or ``"silent"``, if it never said anything.
    """

    NAME: ClassVar[str] = "client.left"
    client: int
    address: str
    reason: str
    seconds: float
    bytes: int
    title: str
    stage: str
    frames: int = 0
    picture_bytes: int = 0

    def members(self) -> dict[str, object]:
        """Who left and why, after how much."""
        names = ("client", "reason", "seconds", "bytes", "frames", "picture_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ClientArrived(Event):
    """The devices of a client came with the machine; they are kept until it is here.

    Attributes:
        devices: how many the guest has.
        seconds: how long they are kept.
    """

    NAME: ClassVar[str] = "client.arrived"
    client: int
    devices: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ClientParked(Event):
    """The connection of a client broke; the guest keeps its devices for a while.

    Attributes:
        devices: how many the guest has.
        seconds: how long they are kept, from the last byte of the client.
    """

    NAME: ClassVar[str] = "client.parked"
    client: int
    devices: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ClientResumed(Event):
    """A client goes on with the devices that the guest kept.

    Attributes:
        client: its number by now.
        seconds: from the last byte before the connection broke.
        messages: how many were sent again.
    """

    NAME: ClassVar[str] = "client.resumed"
    client: int
    seconds: float
    messages: int


@dataclass(frozen=True, slots=True)
class ClientGivenUp(Event):
    """A client whose connection broke is waited for no longer.

    Attributes:
        reason: a sentence without its end.
    """

    NAME: ClassVar[str] = "client.given-up"
    client: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClientSentOn(Event):
    """The machine has left this host, and a client with it.

    Attributes:
        where: where the machine runs now.
        is_told: the client goes there by itself; else only its user can.
    """

    NAME: ClassVar[str] = "client.sent-on"
    client: int
    where: str
    is_told: bool


@dataclass(frozen=True, slots=True)
class ClientStays(Event):
    """The machine has left this host, and a client's devices go on over here.

    Attributes:
        reason: why.
    """

    client: int
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeRefused(Event):
    """A client wanted to go on with devices, and may not.

    Attributes:
        reason: why.
    """

    client: int
    reason: str


@dataclass(frozen=True, slots=True)
class LinkHeld(Event):
    """A client reads too slowly: the guest waits for it."""

    NAME: ClassVar[str] = "link.held"
    client: int


@dataclass(frozen=True, slots=True)
class WireAgreed(Event):
    """Both sides know which version of the wire they speak, or that there is none."""

    client: int
    version: int
    flags: int
    error: str | None


@dataclass(frozen=True, slots=True)
class WireMissing(Event):
    """A client does not have the dynamic channel of a wire."""

    client: int
    channel: str


# ------------------------------------------------------------------ devices ----


@dataclass(frozen=True, slots=True)
class Subject:
    """The device that something happens to.

    Attributes:
        client: whose it is; None: it is plugged in at the server's machine.
        uuid: what commands call it by.
    """

    client: int | None
    uuid: str
    info: DeviceInfo


@dataclass(frozen=True, slots=True)
class DeviceEvent(Event):
    """Something that happened to a device."""

    subject: Subject

    def members(self) -> dict[str, object]:
        """The device's own, and what is particular to the event."""
        of, info = self.subject, self.subject.info
        return {
            "client": of.client,
            "uuid": of.uuid,
            "id": f"{info.vendor_id:04x}:{info.product_id:04x}",
            "product": info.product or "",
        } | {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "subject"
        }


@dataclass(frozen=True, slots=True)
class DeviceListed(DeviceEvent):
    """A client offers it."""

    NAME: ClassVar[str] = "device.listed"


@dataclass(frozen=True, slots=True)
class DeviceGone(DeviceEvent):
    """Its client does not offer it any more."""

    NAME: ClassVar[str] = "device.gone"


@dataclass(frozen=True, slots=True)
class DeviceAdmitted(DeviceEvent):
    """The filters admit it.

    Attributes:
        filter: place of the one that does.
        verdict: the sentence.
    """

    NAME: ClassVar[str] = "device.admitted"
    filter: int | None
    verdict: str


@dataclass(frozen=True, slots=True)
class DeviceRefused(DeviceEvent):
    """The filters do not admit it."""

    NAME: ClassVar[str] = "device.refused"
    verdict: str


@dataclass(frozen=True, slots=True)
class DeviceAttached(DeviceEvent):
    """The guest has it.

    Attributes:
        device: its name in the guest: ``usb-3``.
        where: the port it is plugged into.
        verdict: why it was admitted; empty for one plugged in by hand.
    """

    NAME: ClassVar[str] = "device.attached"
    device: str
    where: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class DeviceFailed(DeviceEvent):
    """The guest cannot have it.

    Attributes:
        device: what its name in the guest would be.
    """

    NAME: ClassVar[str] = "device.failed"
    device: str
    why: str


@dataclass(frozen=True, slots=True)
class DeviceUnfit(DeviceEvent):
    """There is no room for it."""

    NAME: ClassVar[str] = "device.failed"
    why: str


@dataclass(frozen=True, slots=True)
class DeviceDetached(DeviceEvent):
    """The guest has it no more."""

    NAME: ClassVar[str] = "device.detached"
    device: str
    why: str


@dataclass(frozen=True, slots=True)
class StreamEnded(DeviceEvent):
    """An isochronous stream of it has ended; see :class:`~.state.StreamState`."""

    NAME: ClassVar[str] = "stream.ended"
    device: str
    endpoint: int
    packets: int
    bad: int
    underruns: int
    late: int
    drift: int

    @classmethod
    def of(cls, subject: Subject, device: str, state: StreamState) -> Self:
        """Return the event of a stream as it was at its end."""
        counts = state.packets, state.bad, state.underruns, state.late, state.drift
        return cls(subject, device, state.endpoint, *counts)


@dataclass(frozen=True, slots=True)
class DeviceLeft(DeviceEvent):
    """Its client says that it is gone, or that a request was refused.

    Attributes:
        why: what the client says.
    """

    why: str


@dataclass(frozen=True, slots=True)
class DeviceNoted(DeviceEvent):
    """What there is to know about it.

    Attributes:
        text: a sentence.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Cure(DeviceEvent):
    """What would let a refused device in.

    Attributes:
        command: a line for ``rusb``.
        is_bare: what it changes is made of options when the server starts.
    """

    command: str
    is_bare: bool = False
