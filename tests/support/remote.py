"""A device at a client, which offers it over TLS to a server in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests.base import GuestBackend
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine

__all__ = ["remote"]


@contextlib.asynccontextmanager
async def remote(
    backend: EmulatedBackend, guest: GuestBackend, folder: Path
) -> AsyncIterator[None]:
    """Run a block while the guest has what *backend* has."""
    filters = (Filter(name="all"),)
    machine = Machine(name="Bench", filters=filters, usb_controllers=("XHCI",))
    log = folder / "VBox.log"
    config = ServerConfig(
        machine, ports=[0], address="127.0.0.1", log=str(log), state=folder
    )
    async with Server(config, guest=guest) as server:
        client = ClientConfig(
            "127.0.0.1", server.port, known_servers=folder / "known_servers"
        )
        async with asyncio.timeout(60), connect(client, backends=[backend]):
            count = len(backend.devices)
            while log.read_text().count("VUSB: Attached") < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            yield
