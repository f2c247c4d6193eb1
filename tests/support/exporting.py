"""A server that gives others what a client brings, by USB/IP or usbredir."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.devices import load_backend
from rusb.client.session import connect
from rusb.server.config import ServerConfig
from rusb.server.guests.usbip import UsbipGuest
from rusb.server.guests.usbredir import UsbredirGuest
from rusb.server.server import Server
from rusb.usb.backend import DeviceBackend, LocalDevice
from tests.support.whole_path import machine

__all__ = ["Exporting", "exporting"]

KINDS = "usbip", "usbredir"


@dataclass
class Exporting:
    """What is exported.

    Attributes:
        backend: whose devices they are.
        port: of 127.0.0.1, where they can be had.
        kind: the protocol.
    """

    backend: EmulatedBackend
    port: int
    kind: str

    def backend_of_it(self) -> DeviceBackend:
        """A backend that has them."""
        return load_backend(f"{self.kind}:127.0.0.1:{self.port}")

    async def listed(self, backend: DeviceBackend, count: int = 1) -> list[LocalDevice]:
        """Wait until a backend has as many devices."""
        while len(found := await backend.list_devices()) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return found


@contextlib.asynccontextmanager
async def exporting(
    folder: Path, kind: str, backend: EmulatedBackend, wire: str = "vrdpusb"
) -> AsyncIterator[Exporting]:
    """Bring the devices of a backend to a server, from where others get them."""
    guest: UsbipGuest | UsbredirGuest
    if kind == "usbip":
        guest = UsbipGuest("127.0.0.1:0")
    else:
        guest = UsbredirGuest("listen=127.0.0.1:0")
    config = ServerConfig(
        machine(),
        ports=[0],
        address="127.0.0.1",
        log=str(folder / "VBox.log"),
        state=folder,
        wires=(wire,),
    )
    async with Server(config, guest=guest) as server:
        client = ClientConfig("127.0.0.1", server.port, known_servers=folder / "known")
        client = replace(client, reconnect=False, wires=(wire,))
        async with connect(client, backends=[backend]):
            yield Exporting(backend, guest.port, kind)
