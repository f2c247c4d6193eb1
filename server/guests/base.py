"""The contract of a guest backend: a place where devices go."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

from rusb.errors import GuestError
from rusb.usb.backend import UrbTarget
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo

__all__ = ["AttachedDevice", "GuestBackend"]


class AttachedDevice(UrbTarget, Protocol):
    """A remote device, as the guest backend it is attached to sees it.

    It takes the URBs of a host controller, standard requests included:
    SET_CONFIGURATION, SET_INTERFACE, CLEAR_FEATURE(ENDPOINT_HALT),
    GET_CONFIGURATION, GET_INTERFACE and SET_ADDRESS are control URBs like any other
    (it turns them into what the wire wants and keeps track of what is selected).

    Attributes:
        info: identity; ``id`` is unique within one guest backend.
        descriptors: as read from the device at attach.
        name: a short unique name for messages and file names, ``usb-3``.
    """

    info: DeviceInfo
    descriptors: DeviceDescriptors
    name: str

    @property
    def round_trip(self) -> float | None:
        """Seconds to the device and back, as measured; None: not known yet."""
        return None

    def reset(self) -> None:
        """Reset the port; URBs in flight complete with CANCELLED."""

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """Call ``changed(True)`` when the guest should stop submitting.

        It is the back-pressure of a slow network: URBs or bytes in flight reached
        their limit. ``changed(False)`` when it may go on. Stop reading from the
        guest meanwhile; what is submitted nevertheless is still taken.
        """


class GuestBackend(ABC):
    """Puts devices into one guest.

    A plugin's class takes one argument, the text after the colon of ``--guest
    KIND:ADDRESS`` (None without one); it raises :class:`~rusb.errors.GuestError` if
    it cannot make sense of it.

    Attributes:
        has_tablets: does each of several screens have a tablet of its own?
        carries_streams: do bulk streams reach the guest? Without them disks are shown
            to it without UAS.
    """

    carries_streams: ClassVar[bool] = False
    has_tablets: bool = False

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    @abstractmethod
    async def start(self) -> None:
        """Get ready.

        Raises:
            GuestError: the guest cannot be reached, and what to do about it.
        """

    @abstractmethod
    async def attach(self, device: AttachedDevice) -> str:
        """Plug the device in.

        Returns:
            Where it went, for the log: ``port 3 on xhci.0``.

        Raises:
            GuestError: no free port, the guest refused, or the guest has ended.
        """

    @abstractmethod
    async def detach(self, device: AttachedDevice) -> None:
        """Unplug the device completely. Idempotent; it does not fail.

        The backend may be detached from a device whose URBs are still open: they
        complete with NO_DEVICE around this call.
        """

    async def open_screen(self, head: int) -> socket.socket | None:
        """Return a connection to the VNC server of a screen, counted from 0.

        None: this kind of guest has no screens.

        Raises:
            GuestError: it has none now, and what to do about it.
        """
        return None

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        """Send input events of QMP (``input-send-event``) to a screen.

        Raises:
            GuestError: the guest did not take them.
        """
        raise GuestError("this kind of guest has no screens")

    @abstractmethod
    async def aclose(self) -> None:
        """Unplug everything and release the guest. Idempotent."""

    def watch_lost(self, lost: Callable[[AttachedDevice, str], None]) -> None:
        """Call *lost* with the reason when the guest dropped a device by itself.

        For instance because QEMU ended or someone used ``device_del``; the device
        counts as detached then.
        """
        self._lost = lost

    def watch_guest(
        self, ended: Callable[[str], None], returned: Callable[[], None]
    ) -> None:
        """Call *ended* with the reason when a guest that may come back has ended, after
        its devices were told with *lost*, and *returned* when it is there again.
        """
        self._ended, self._returned = ended, returned
