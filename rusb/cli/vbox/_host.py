"""The USB devices of this machine, for ``list usbhost`` and ``controlvm … usbattach``.

``RUSB_BACKENDS`` says where they are; without it libusb knows.
"""

import asyncio
import os

from rusb.client.devices import load_backend
from rusb.server.machine.host_devices import HostDevices
from rusb.usb.backend import LocalDevice

__all__ = ["host_devices", "open_host"]


def open_host() -> HostDevices:
    """Return the devices of this machine, to be closed by the caller."""
    names = os.environ.get("RUSB_BACKENDS", "libusb").split()
    return HostDevices([load_backend(name) for name in names])


def host_devices() -> list[LocalDevice]:
    """List the devices of this machine.

    Raises:
        BackendError: they cannot be enumerated.
    """

    async def look() -> list[LocalDevice]:
        devices = open_host()
        try:
            return [device for device, _ in await devices.list()]
        finally:
            await devices.aclose()

    return asyncio.run(look())
