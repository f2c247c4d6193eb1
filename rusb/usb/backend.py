"""The contract of a device backend: a place where devices come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from rusb.errors import BackendError

from .device import DeviceInfo
from .urb import Completion, Urb

__all__ = ["DeviceBackend", "LocalDevice", "OpenDevice"]


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """A device that a backend has now.

    Attributes:
        key: what the backend knows it by; equal keys mean the same plug-in of the
            same device, a device plugged in again has another key.
        info: identity; ``id`` is 0.
        problem: what opening it would raise as things stand, with what cures it
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


class OpenDevice(ABC):
    """A device in use. All methods are called on the event loop's thread.

    ``submit`` and ``cancel`` return at once. The coroutines are called one at a time
    and never while a call of another one is running.
    """

    @abstractmethod
    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer; it never raises.

        Every outcome, also a stall, an unplug, a transfer that cannot be started
        or a bug, is told by calling *complete* exactly once, perhaps before this
        returns. Per endpoint, completions keep the order of submission. ``urb.data``
        belongs to the callee until then.
        """

    @abstractmethod
    def cancel(self, urb_id: int) -> None:
        """Abort a transfer, which still completes; unknown ids are ignored."""

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


class DeviceBackend(ABC):
    """A place where devices come from.

    A plugin's class takes one argument, the text after the colon of ``--backend
    NAME:ADDRESS`` (None without one); it raises
    :class:`~rusb.errors.BackendError` if it cannot make sense of it.

    Attributes:
        force: take devices that are in use (mounted file systems) all the same.
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
            BackendError: enumeration failed; what was listed before stands.
        """

    @abstractmethod
    async def open(self, device: LocalDevice) -> OpenDevice:
        """Open a listed device; kernel drivers are detached when it is claimed.

        Raises:
            NoPermission, DeviceBusy, DeviceGone: with what to do about it.
            BackendError: anything else.
        """

    @abstractmethod
    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* on the loop whenever ``list_devices`` may differ."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop watching, close every open device. Idempotent."""
