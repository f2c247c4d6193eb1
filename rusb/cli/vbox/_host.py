"""The USB devices of this machine, for ``list usbhost`` and ``controlvm … usbattach``.

``RUSB_BACKENDS`` says where they are; without it libusb knows.
"""

import asyncio
import os
import uuid
from collections.abc import Callable, Sequence

from rusb.aio.tasks import TaskSet
from rusb.client.devices import load_backend
from rusb.errors import BackendError, DeviceGone
from rusb.server.machine.host_devices import HostDevice
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice

__all__ = ["HostDevices", "host_devices", "identify"]

_NAMESPACE = uuid.UUID("6c1c0d9e-6f0e-4b52-9d0a-1f6f0b0a7c11")


def _backends() -> list[DeviceBackend]:
    return [load_backend(n) for n in os.environ.get("RUSB_BACKENDS", "libusb").split()]


def identify(device: LocalDevice) -> HostDevice:
    """Return what commands call a device by; the same as long as it is plugged in."""
    info = device.info
    identity = f"{info.bus}/{info.address}/{device.key}/{info.vendor_id}"
    number = str(uuid.uuid5(_NAMESPACE, identity))
    return HostDevice(number, f"{info.bus:03}/{info.address:03}", info)


def host_devices() -> list[LocalDevice]:
    """The USB devices of this machine.

    Raises:
        BackendError: they cannot be enumerated.
    """

    async def look() -> list[LocalDevice]:
        devices = HostDevices()
        try:
            return [device for device, _ in await devices.list()]
        finally:
            await devices.aclose()

    return asyncio.run(look())


class HostDevices:
    """A :class:`~rusb.server.machine.host_devices.HostUsb` over device backends.

    Args:
        backends: closed by :meth:`aclose`; None: those of ``RUSB_BACKENDS``.
    """

    def __init__(self, backends: Sequence[DeviceBackend] | None = None) -> None:
        self._backends = _backends() if backends is None else list(backends)
        self._tasks = TaskSet()
        self._known: set[str] = set()

    async def list(self) -> list[tuple[LocalDevice, DeviceBackend]]:
        """What is plugged in now, and where it is."""
        return [(d, b) for b in self._backends for d in await b.list_devices()]

    async def find(self, text: str) -> HostDevice:
        """Return the device with a UUID or address."""
        for device, _ in await self.list():
            found = identify(device)
            if text.strip("{}").lower() in (found.uuid, found.address):
                if device.problem is not None:
                    raise BackendError(f"{found.info}: {device.problem}")
                return found
        raise BackendError(
            f"this machine has no USB device {text}: 'list usbhost' shows UUIDs and"
            " addresses"
        )

    async def open(self, device: HostDevice) -> OpenDevice:
        """Open it."""
        for known, backend in await self.list():
            if identify(known) == device:
                opened = await backend.open(known)
                self._known.add(device.uuid)
                return opened
        raise DeviceGone(f"{device.info} was unplugged")

    def watch(self, unplugged: Callable[[str], None]) -> None:
        """Call *unplugged* with the UUID of each device that was opened and goes."""

        async def look() -> None:
            here = {identify(device).uuid for device, _ in await self.list()}
            gone, self._known = self._known - here, self._known & here
            for number in gone:
                unplugged(number)

        def changed() -> None:
            self._tasks.start(look(), "look at this machine's devices")

        for backend in self._backends:
            backend.watch(changed)

    async def aclose(self) -> None:
        """Stop watching, close every open device. Idempotent."""
        await self._tasks.aclose()
        for backend in self._backends:
            await backend.aclose()
