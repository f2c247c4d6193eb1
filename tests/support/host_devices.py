"""Devices of the server's own machine."""

import asyncio
from pathlib import Path

from rusb.client.backends.emulated import EmulatedBackend, Loopback, SerialLoopback
from rusb.filters.model import Filter
from rusb.server.event_log import EventLog
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.machine.host_devices import HostDevice, HostDevices, HostPlugs
from rusb.server.release_log import ReleaseLog


class Host:
    """A machine with two emulated devices, and a guest beside them."""

    def __init__(self, folder: Path) -> None:
        self.serial, self.loopback = SerialLoopback(), Loopback()
        self.backend = EmulatedBackend(devices=[self.serial, self.loopback])
        self.devices = HostDevices([self.backend])
        self.guest = LoopbackGuest()
        self.log = ReleaseLog(str(folder / "VBox.log"))
        self.path = folder / "VBox.log"
        self.filters: list[Filter] = []
        self.happened = EventLog("Lab")
        self.plugs = HostPlugs(
            self.devices, self.guest, self.log, self.happened, lambda: self.filters
        )

    async def uuids(self) -> list[str]:
        return [HostDevice.of(device).uuid for device, _ in await self.devices.list()]

    async def wait_empty(self) -> None:
        async with asyncio.timeout(20):
            while self.plugs.devices():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            async with self.plugs._changing:
                pass  # and until the last of them is detached
