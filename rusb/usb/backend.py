"""The contract of a device: where devices come from, and what they must do."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rusb.errors import BackendError

from .device import DeviceInfo
from .urb import Completion, Urb

__all__ = ["DeviceBackend", "DeviceCalls", "LocalDevice", "OpenDevice", "UrbTarget"]


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """A device that a backend has now.

    Attributes:
        key: what the backend knows it by; equal keys mean the same plug-in of the
            same device, a device plugged in again has another key.
        info: identity; ``id`` is 0.
        problem: what opening it would raise at present, which says how to fix it
            (NoPermission and its udev rule, DeviceBusy for a mounted file system);
            None if it can be used.
        kept: what this machine itself uses it for, so that it is offered only to
            those who name it (``its root file system is on /dev/sda2``).
        has_isochronous: it has isochronous endpoints, which not every wire carries.
    """

    key: str
    info: DeviceInfo
    problem: BackendError | None = None
    kept: str | None = None
    has_isochronous: bool = False


class UrbTarget(Protocol):
    """What takes transfers. Both calls return at once, on the event loop's thread."""

    @abstractmethod
    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer; it never raises.

        Every outcome, also a stall, an unplug, a transfer that cannot be started
        or a bug, is told by calling *complete* exactly once, perhaps before this
        returns. Per endpoint, completions keep the order of submission. ``urb.data``
        belongs to the callee until then. ``urb.id`` is unique among what is in flight.
        """

    @abstractmethod
    def cancel(self, urb_id: int) -> None:
        """Abort a transfer; unknown ids are ignored.

        It still completes, with what it had moved, within the time that the device
        needs to stop.
        """


class OpenDevice(UrbTarget):
    """A device in use. All methods are called on the event loop's thread.

    The coroutines are called one at a time and never while a call of another one is
    running; :class:`~rusb.usb.queue.DeviceQueue` sees to that.
    """

    def drops(self, urb: Urb) -> bool:
        """Is an isochronous transfer that had to wait dropped, rather than started?

        It is the drop policy: asked when the request is done that the transfer waited
        behind. What is dropped completes as :meth:`UrbResult.dropped`.
        """
        return False

    async def frame_number(self) -> int | None:
        """Return the frame that the device's bus is in, counted in milliseconds.

        ``Urb.start_frame`` is in this count. None: nobody knows, and every transfer
        starts as soon as possible.
        """
        return None

    @abstractmethod
    async def set_configuration(self, value: int) -> None:
        """Select a configuration, 0 for none.

        Raises:
            DeviceGone: unplugged; the same goes for every call below.
            BackendError: it did not work; the device stays usable.
        """

    @abstractmethod
    async def claim_interface(self, interface: int) -> None:
        """Take the interface from its kernel driver and claim it; idempotent."""

    @abstractmethod
    async def release_interface(self, interface: int) -> None:
        """Release it; the kernel driver comes back with :meth:`aclose` only."""

    @abstractmethod
    async def set_interface(self, interface: int, alternate: int) -> None:
        """Select an alternate setting."""

    @abstractmethod
    async def clear_halt(self, endpoint: int) -> None:
        """Clear a halted endpoint; *endpoint* has its direction bit."""

    @abstractmethod
    async def reset(self) -> None:
        """Reset the port; claims and configuration are restored."""

    @abstractmethod
    async def aclose(self) -> None:
        """Abort and complete everything, release it, give it back to its drivers.

        Idempotent; it does not fail.
        """


class DeviceCalls(ABC):
    """What a guest requests from devices, which it names by number.

    All calls return at once and are executed in order with the URBs around them.
    URBs are answered by their completion. A request is answered where *request* names
    it: it completes exactly once, perhaps before the call returns, also when the device
    is closed or gone before it was done. None: nobody waits for it. Numbers of requests
    are chosen by whoever asks, unique among those of the device that wait.
    """

    @abstractmethod
    def open_device(self, device: int) -> None:
        """Take a device into use; what is asked meanwhile waits.

        Raises:
            LocalProtocolError: there is no such device, or it is open.
        """

    @abstractmethod
    def close_device(self, device: int) -> None:
        """Give it back. Open URBs complete with CANCELLED first."""

    @abstractmethod
    def reset_device(self, device: int, *, request: int | None = None) -> None:
        """Reset its port. Open URBs complete with CANCELLED first."""

    @abstractmethod
    def set_configuration(
        self, device: int, value: int, *, request: int | None = None
    ) -> None:
        """Select a configuration."""

    @abstractmethod
    def claim_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Claim an interface."""

    @abstractmethod
    def release_interface(
        self, device: int, interface: int, *, request: int | None = None
    ) -> None:
        """Release an interface."""

    @abstractmethod
    def set_interface(
        self, device: int, interface: int, alternate: int, *, request: int | None = None
    ) -> None:
        """Select an alternate setting."""

    @abstractmethod
    def clear_halt(
        self, device: int, endpoint: int, *, request: int | None = None
    ) -> None:
        """Clear a halted endpoint; *endpoint* with its direction bit."""

    @abstractmethod
    def submit_urb(self, device: int, urb: Urb, *, now: float) -> None:
        """Start a transfer. A type that cannot be carried completes INVALID."""

    @abstractmethod
    def cancel_urb(self, device: int, urb_id: int) -> None:
        """Abort a transfer; it completes with what it had moved, and with CANCELLED
        unless it was finished. That may have to be waited for, but not long."""


class DeviceBackend(ABC):
    """A source of devices.

    A plugin's class takes one argument, the text after the colon of ``--backend
    NAME:ADDRESS`` (None without one); it raises
    :class:`~rusb.errors.BackendError` if it cannot make sense of it.

    Attributes:
        force: use devices even if they are in use (mounted file systems).
        peer: address of the server, once it is known: what leads there is kept.
    """

    force: bool = False
    peer: str = ""

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    @abstractmethod
    async def list_devices(self) -> list[LocalDevice]:
        """Return what is plugged in now, hubs left out; opens nothing for long.

        Raises:
            BackendError: enumeration failed; the previous list stays in effect.
        """

    @abstractmethod
    async def open(self, device: LocalDevice) -> OpenDevice:
        """Open a listed device; kernel drivers are detached when it is claimed.

        Raises:
            NoPermission, DeviceBusy, DeviceGone: with what to do about it.
            BackendError: anything else.
        """

    def limits(self) -> str | None:
        """Say in a sentence what bounds the transfers of its devices, if anything."""
        return None

    @abstractmethod
    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* on the loop whenever ``list_devices`` may differ."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop watching, close every open device. Idempotent."""
