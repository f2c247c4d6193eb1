"""Server, client and devices in one process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from rusb.aio.stream import RdpStream
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.session import ClientSession, connect
from rusb.client.wires import WireChoice
from rusb.filters.model import Filter
from rusb.rdp.client import ClientConnection
from rusb.rdp.share import DataType
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.session import ServerSession
from rusb.server.vbox.settings import Machine

ALL = (Filter(name="all"),)


class Lab:
    """A server with a loopback guest, and what it logged.

    Args:
        folder: where it keeps everything.
        machine: what it serves.
        wires: names of the wire protocols it knows; clients offer devices over the
            first.
        guest: where devices go.
    """

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        wires: tuple[str, ...] = ("vrdpusb",),
        guest: LoopbackGuest | None = None,
    ) -> None:
        self.folder = folder
        self.wires = wires
        self.guest = guest or LoopbackGuest()
        config = ServerConfig(
            machine,
            ports=[0],
            address="127.0.0.1",
            log=str(folder / "VBox.log"),
            state=folder,
            wires=wires,
        )
        self.server = Server(config, guest=self.guest)

    def log(self) -> str:
        return (self.folder / "VBox.log").read_text()

    async def wait_log(self, text: str, count: int = 1) -> None:
        while self.log().count(text) < count:  # noqa: ASYNC110 - it is a file
            await asyncio.sleep(0.02)

    def config(self) -> ClientConfig:
        """Of a client that may also ask for pictures and type, as viewers do."""
        known, wires = self.folder / "known", self.wires[:1]
        config = ClientConfig(
            "127.0.0.1", self.server.port, known_servers=known, wires=wires
        )
        config.is_usb_only = False
        return config

    @contextlib.asynccontextmanager
    async def client(self, backend: EmulatedBackend) -> AsyncIterator[ClientSession]:
        async with connect(self.config(), backends=[backend]) as session:
            yield session


def machine(**changes: object) -> Machine:
    settings: dict[str, object] = {
        "name": "Lab",
        "filters": ALL,
        "usb_controllers": ("XHCI",),
    }
    return Machine(**(settings | changes))  # type: ignore[arg-type]


def say(client: ClientSession, kind: DataType, body: bytes) -> None:
    """Send a share data PDU."""
    rdp_of(client)._send_data(kind, body)
    stream_of(client).flush()


def sessions_of(server: Server) -> list[ServerSession]:
    """The connections of a server."""
    return [s for s in server._sessions if isinstance(s, ServerSession)]


def resize(server: Server, width: int, height: int) -> None:
    """Give the screen that clients see another size."""
    hub = server._screens[0]
    hub._status.size = width, height
    hub.changed()


def rdp_of(client: ClientSession) -> ClientConnection:
    """The core of a client's connection."""
    assert client._connections.current is not None
    return client._connections.current.rdp


def stream_of(client: ClientSession) -> RdpStream:
    """The bytes of a client's connection."""
    assert client._connections.current is not None
    assert client._connections.current.stream is not None
    return client._connections.current.stream


def transport_of(client: ClientSession) -> asyncio.Transport:
    """What carries the bytes of a client's connection."""
    found = stream_of(client).transport
    assert found is not None
    return found


def wires_of(client: ClientSession) -> WireChoice:
    """The wires of a client's connection."""
    assert client._connections.wires is not None
    return client._connections.wires
