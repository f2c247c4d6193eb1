"""The contract of a wire protocol: roles, events and outputs.

A *guest side* core sits next to the guest and asks; a *device side* core sits next to
the devices and answers. Cores do no I/O and read no clock: bytes and times come in
through methods, events and bytes come out of :meth:`Side.events` and
:meth:`Side.outputs`. Use one from one thread.

What a core promises (docs/architecture.md, invariants):

* A message the protocol says to end the session for raises
  :class:`~rusb.errors.RemoteProtocolError`; from then on so does every
  ``receive_data``. A message it says to skip becomes an :class:`Ignored` event.
* On the guest side, every ``submit_urb`` is followed by exactly one
  :class:`UrbCompleted`, and every request that was named by exactly one
  :class:`RequestCompleted`, whatever the peer does; after ``channel_closed`` all that
  are open complete with NO_DEVICE.
* On the device side, every :class:`UrbSubmitted` wants exactly one ``complete_urb``,
  also after :class:`CancelRequested`; when its device is closed, it may be dropped.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from rusb.usb.backend import DeviceCalls
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus

__all__ = [
    "AlternateRequested",
    "CancelRequested",
    "ChannelKind",
    "ChannelSpec",
    "ClaimRequested",
    "ClearHaltRequested",
    "CloseChannel",
    "CloseRequested",
    "ConfigurationRequested",
    "DeviceFailed",
    "DeviceRequest",
    "DeviceSide",
    "DevicesListed",
    "DevicesRequested",
    "Event",
    "GuestSide",
    "Ignored",
    "Negotiated",
    "OpenChannel",
    "OpenRequested",
    "Output",
    "ReleaseRequested",
    "RequestCompleted",
    "ResetRequested",
    "Send",
    "Side",
    "UrbCompleted",
    "UrbSubmitted",
    "WireProtocol",
    "carries_more",
]


class ChannelKind(enum.Enum):
    """What carries a protocol."""

    STATIC = "static virtual channel"
    DYNAMIC = "dynamic virtual channels"
    STREAM = "byte stream"


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """What a protocol needs from the channels that carry it.

    Attributes:
        name: of the channel whose opening says that the peer has the protocol; empty
            for a stream.
        kind: of all its channels.
        further: names of further channels: static ones are asked for with the first,
            dynamic ones may be opened, as may more of the first name.
        max_message: bytes of one message that a peer may send.
        max_channels: dynamic ones of each name that may be open at once.
    """

    name: str
    kind: ChannelKind
    further: tuple[str, ...] = ()
    max_message: int = 16 << 20
    max_channels: int = 1


# ------------------------------------------------------------- outputs ----


@dataclass(slots=True)
class Send:
    """Send one whole message (a piece of the stream, for STREAM) on a channel.

    Attributes:
        channel: which one.
        data: of the message.
        is_urgent: it may go before messages that wait and are not urgent: what belongs
            to interrupt transfers.
        is_fence: no message may go past it, in either direction: what changes a device,
            where urgent messages around it depend on that.
        device: whose it is, so that devices share what a slow network takes; messages
            of one device keep their order. 0: of none, or the channel is the device's.
    """

    channel: int
    data: bytes
    is_urgent: bool = False
    is_fence: bool = False
    device: int = 0


@dataclass(slots=True)
class OpenChannel:
    """Guest side: open a dynamic channel of that name.

    ``channel_opened`` or ``channel_refused`` follows.
    """

    name: str


@dataclass(slots=True)
class CloseChannel:
    """Close a dynamic channel; ``channel_closed`` does not follow."""

    channel: int


Output: TypeAlias = Send | OpenChannel | CloseChannel

# -------------------------------------------------------------- events ----


@dataclass(slots=True)
class Negotiated:
    """Both sides: the two ends agreed.

    Attributes:
        version: protocol version in force.
        flags: what the peer said about itself, raw, for the log.
        error: None, or why the negotiation failed and the channel stays mute.
    """

    version: int
    flags: int = 0
    error: str | None = None


@dataclass(slots=True)
class Ignored:
    """Both sides: a message of the peer was skipped, as the protocol says."""

    reason: str


@dataclass(slots=True)
class DevicesListed:
    """Guest side: the complete list of devices that the peer offers now."""

    devices: tuple[DeviceInfo, ...]


@dataclass(slots=True)
class DeviceFailed:
    """Guest side: the device can no longer be used.

    Its open URBs have been completed with NO_DEVICE before this event; so are all
    that are submitted from now on.

    Attributes:
        request: what was refused: ``"open"``, ``"reset"``…
        removed: the peer said that the device is gone (not: refused).
    """

    device: int
    request: str
    removed: bool = False


@dataclass(slots=True)
class UrbCompleted:
    """Guest side: the one completion of a URB."""

    device: int
    urb_id: int
    result: UrbResult


@dataclass(slots=True)
class RequestCompleted:
    """Guest side: the one completion of a request that was named.

    Attributes:
        request: as the call named it.
        status: what a control transfer that asks the same would report.
    """

    device: int
    request: int
    status: UrbStatus


@dataclass(slots=True)
class DevicesRequested:
    """Device side: the peer wants the list; answer with ``announce``."""


@dataclass(slots=True)
class OpenRequested:
    """Device side: open it; on failure call ``open_failed``."""

    device: int


@dataclass(slots=True)
class CloseRequested:
    """Device side: abort everything, release and forget it; nothing is answered."""

    device: int


@dataclass(slots=True)
class ResetRequested:
    """Device side: reset the port; if the device is gone call ``device_lost``."""

    device: int


@dataclass(slots=True)
class ConfigurationRequested:
    """Device side: select a configuration, 0 for none."""

    device: int
    value: int


@dataclass(slots=True)
class ClaimRequested:
    """Device side: take the interface from its kernel driver and claim it."""

    device: int
    interface: int


@dataclass(slots=True)
class ReleaseRequested:
    """Device side: release the interface."""

    device: int
    interface: int


@dataclass(slots=True)
class AlternateRequested:
    """Device side: select an alternate setting."""

    device: int
    interface: int
    alternate: int


@dataclass(slots=True)
class ClearHaltRequested:
    """Device side: clear the halt; *endpoint* has its direction bit."""

    device: int
    endpoint: int


@dataclass(slots=True)
class UrbSubmitted:
    """Device side: start a transfer, answer with ``complete_urb``."""

    device: int
    urb: Urb


@dataclass(slots=True)
class CancelRequested:
    """Device side: abort a transfer; its completion has what it had moved."""

    device: int
    urb_id: int


DeviceRequest: TypeAlias = (
    ResetRequested
    | ConfigurationRequested
    | ClaimRequested
    | ReleaseRequested
    | AlternateRequested
    | ClearHaltRequested
)
"""Device side: what may block, and is done in order with the URBs around it."""

Event: TypeAlias = (
    Negotiated
    | Ignored
    | DevicesListed
    | DeviceFailed
    | UrbCompleted
    | RequestCompleted
    | DevicesRequested
    | OpenRequested
    | CloseRequested
    | DeviceRequest
    | UrbSubmitted
    | CancelRequested
)

# ---------------------------------------------------------------- roles ----


class Side(ABC):
    """What both roles have in common. Times are monotonic seconds."""

    @abstractmethod
    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        """The channel is operational; a stream is channel 0 with an empty name."""

    def channel_refused(self, name: str) -> None:
        """The peer does not open a channel of that name; see :class:`OpenChannel`."""
        raise NotImplementedError(f"{type(self).__name__} opens no channels")

    @abstractmethod
    def channel_closed(self, channel: int) -> None:
        """The channel is gone; every open URB of it is completed or forgotten."""

    @abstractmethod
    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        """Take one whole message, or for a STREAM protocol any piece of it.

        Raises:
            RemoteProtocolError: the peer broke a rule that ends the session.
        """

    @abstractmethod
    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called, if ever."""

    @abstractmethod
    def handle_deadline(self, now: float) -> None:
        """Do what is due by *now*; calling too early is harmless."""

    @abstractmethod
    def events(self) -> list[Event]:
        """Take the events that piled up, oldest first, and clear them."""

    @abstractmethod
    def outputs(self) -> list[Output]:
        """Take the outputs that piled up, oldest first, and clear them."""


class GuestSide(Side, DeviceCalls):
    """Next to the guest: asks, as :class:`~rusb.usb.backend.DeviceCalls` says.

    URBs are answered by :class:`UrbCompleted`, requests that somebody waits for by
    :class:`RequestCompleted`. Trouble with a device shows as :class:`DeviceFailed`,
    also when it cannot be opened; no answer says that it could.
    """

    def refuse_device(self, device: int) -> bool:
        """The device is not wanted: let go of it, where the protocol holds it.

        Returns:
            True: the peer has to offer it anew before it can be opened, so that a
            change of mind is too late.
        """
        return False


class DeviceSide(Side):
    """Next to the devices: answers."""

    @abstractmethod
    def announce(
        self,
        devices: Sequence[DeviceInfo],
        descriptors: Mapping[int, DeviceDescriptors] | None = None,
    ) -> None:
        """State the complete list of what is offered now, by ``DeviceInfo.id``.

        Args:
            devices: in the order to list them; ids are unique.
            descriptors: by device id, for protocols that describe endpoints
                (usbredir, USB/IP); others ignore it.
        """

    @abstractmethod
    def open_failed(self, device: int) -> None:
        """Refuse an open."""

    @abstractmethod
    def device_lost(self, device: int) -> None:
        """The device was unplugged; the caller completes its URBs with NO_DEVICE."""

    @abstractmethod
    def complete_urb(self, device: int, urb_id: int, result: UrbResult) -> None:
        """Answer a URB; unknown and cancelled ids are ignored."""


class WireProtocol(Protocol):
    """What a module in ``rusb/wire`` exposes as ``PLUGIN``."""

    name: str
    channel: ChannelSpec
    transfer_types: frozenset[TransferType]

    def guest_side(self) -> GuestSide:
        """Return a core for the end with the guest."""

    def device_side(self) -> DeviceSide:
        """Return a core for the end with the devices."""


def carries_more(protocol: WireProtocol, taken: Sequence[WireProtocol]) -> bool:
    """Does a wire carry anything that those of a session do not?

    One connection has one wire, and another for isochronous devices if the first has
    no isochronous transfers.
    """
    return not any(protocol.transfer_types <= one.transfer_types for one in taken)
