"""What of a client and its devices goes to another server, with their machine.

It is what is left when nothing is in flight any more (docs/spec/teleport.md, 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rusb.rdp.cookie import Cookie
from rusb.rdp.lane import LaneState
from rusb.usb.device import DeviceInfo
from rusb.wire.usbredir import StreamState
from rusb.wire.vrdpusb import WireState

from .posted import Brought
from .sessions import Owner
from .state import ClientState

__all__ = ["AttachmentState", "MovedClient", "MovedDevice"]


@dataclass(frozen=True, slots=True)
class AttachmentState:
    """A device in use.

    Attributes:
        info: as it was listed, but strings as they were read.
        device: its descriptor, as it was read.
        configurations: likewise.
        strings: names of those that were read.
        mask: interfaces that the guest does not see.
        configuration: value of the one that is selected; None: none is.
        alternates: alternate setting of each interface of it.
    """

    info: DeviceInfo
    device: bytes
    configurations: tuple[bytes, ...]
    strings: tuple[str, ...]
    mask: int
    configuration: int | None
    alternates: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class MovedDevice:
    """A device that the guest has.

    Attributes:
        number: what the client calls it.
        place: what its usb-redir in the machine is called.
        of: what is known of it.
        stream: towards the guest.
        unsent: what was said to the guest and is still to be written.
        brought: by endpoint, what was read ahead for the guest.
    """

    number: int
    place: str
    of: AttachmentState
    stream: StreamState
    unsent: bytes
    brought: Mapping[int, tuple[Brought, ...]]


@dataclass(frozen=True, slots=True)
class MovedClient:
    """A client that may come back, and all that it has in the guest.

    Attributes:
        session: what it calls its session.
        key: by which it is known.
        features: what both ends can do.
        cookie: what it shows at the logon when it comes back.
        channel: of its wire, as the wire's core knows it.
    """

    session: bytes
    key: bytes
    features: int
    cookie: Cookie
    owner: Owner
    before: ClientState
    network: str
    channel: int
    lane: LaneState
    wire: WireState
    devices: tuple[MovedDevice, ...]
