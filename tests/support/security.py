"""A server whose machine has some VRDE properties."""

import asyncio
from pathlib import Path
from typing import Any

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import RemoteDisplay
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import machine


class Place:
    """A server whose machine has some VRDE properties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guest = LoopbackGuest()
        self.said: list[str] = []
        self.at_terminal: list[str] = []  # of the server
        self.has_told = asyncio.Event()
        self.security = ""  # what the client says of its last connection

    def server(self, **properties: str) -> Server:
        names = {f"Security/{name}": value for name, value in properties.items()}
        config = ServerConfig(
            machine(remote_display=RemoteDisplay(properties=names)),
            ports=[0],
            address="127.0.0.1",
            log=str(self.folder / "VBox.log"),
            state=self.folder,
        )
        return Server(config, guest=self.guest, report=self._tell)

    def _tell(self, line: str) -> None:
        self.at_terminal.append(line)
        self.has_told.set()

    async def visit(
        self, server: Server, *security: str, host: str = "127.0.0.1", **options: Any
    ) -> None:
        """Connect, and move data through a device."""
        config = ClientConfig(
            host,
            server.port,
            security=security,
            known_servers=self.folder / "known",
            **options,
        )
        backend = EmulatedBackend(devices=[Loopback()])
        async with connect(
            config,
            backends=[backend],
            on_event=lambda event: self.said.append(str(event)),
        ) as session:
            self.security = session.security
            (device,) = await self.guest.wait_for(1)
            result = await device.read(Loopback.SOURCE, 65536)
            assert (result.status, result.length) == (UrbStatus.OK, 65536)
            result = await device.write(Loopback.SINK, bytes(65536))
            assert result.status is UrbStatus.OK
        await self.guest.wait_for(0)

    def log(self) -> str:
        return (self.folder / "VBox.log").read_text()
