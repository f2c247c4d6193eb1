"""rdesktop and xfreerdp at a server in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.lab.peers import HEIGHT, WIDTH, Display, Program
from tests.support.whole_path import ALL

__all__ = ["rdesktop", "server_here", "xfreerdp"]


def rdesktop(
    port: int, folder: Path, display: Display, *options: str, depth: int = 16
) -> Program:
    """Run it; it trusts every certificate."""
    folder.mkdir(exist_ok=True)
    size = f"{WIDTH}x{HEIGHT}"
    command = ["rdesktop", "-a", str(depth), "-g", size, *options, f"127.0.0.1:{port}"]
    return Program(command, folder, display.name, b"yes\n")


def xfreerdp(
    port: int, folder: Path, display: Display, *options: str, depth: int = 16
) -> Program:
    """Run it; it trusts every certificate."""
    folder.mkdir(exist_ok=True)
    size = f"/size:{WIDTH}x{HEIGHT}"
    command = [
        "xfreerdp",
        f"/v:127.0.0.1:{port}",
        size,
        f"/bpp:{depth}",
        "/cert:ignore",
    ]
    return Program([*command, *options], folder, display.name)


@contextlib.asynccontextmanager
async def server_here(folder: Path, name: str = "Accepted") -> AsyncIterator[Server]:
    """A server of a machine in this process, whose inside can be looked at."""
    properties = {"Security/Method": "Negotiate"}
    remote = RemoteDisplay(allow_multi_connection=True, properties=properties)
    machine = Machine(
        name=name, filters=ALL, usb_controllers=("XHCI",), remote_display=remote
    )
    config = ServerConfig(
        machine,
        ports=[0],
        address="127.0.0.1",
        log=str(folder / "VBox.log"),
        state=folder,
    )
    async with asyncio.timeout(150), Server(config, guest=LoopbackGuest()) as server:
        yield server
