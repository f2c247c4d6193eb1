"""A server that asks for a password."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import ClientSession, connect
from rusb.errors import AuthenticationError, ServerBusy
from rusb.server.auth.hashes import hash_legacy
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.whole_path import ALL

TELLING = str(Path(__file__).with_name("telling_library.py"))
SLOW = str(Path(__file__).with_name("slow_library.py"))
USERS = {"VBoxAuthSimple/users/vera": hash_legacy("secret")}


class Place:
    """A server with a loopback guest, and what it logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guest = LoopbackGuest()
        self.host = "127.0.0.1"
        self.server: Server

    @contextlib.asynccontextmanager
    async def serve(
        self,
        *,
        monitors: int = 1,
        extra: dict[str, str] | None = None,
        **display: object,
    ) -> AsyncIterator[Server]:
        settings: dict[str, object] = {
            "auth_type": "External",
            "auth_library": "VBoxAuthSimple",
        }
        machine = Machine(
            name="Door",
            filters=ALL,
            usb_controllers=("XHCI",),
            remote_display=RemoteDisplay(**(settings | display)),  # type: ignore[arg-type]
            extra_data=USERS | (extra or {}),
            monitors=monitors,
        )
        config = ServerConfig(
            machine,
            ports=[0],
            address=self.host,
            log=str(self.folder / "VBox.log"),
            state=self.folder,
        )
        async with asyncio.timeout(30), Server(config, guest=self.guest) as server:
            self.server = server
            yield server

    @contextlib.asynccontextmanager
    async def visit(
        self,
        user: str = "vera",
        password: str = "secret",
        domain: str = "",
        *,
        is_usb_only: bool = False,
    ) -> AsyncIterator[ClientSession]:
        config = ClientConfig(
            self.host,
            self.server.port,
            user=user,
            password=password,
            domain=domain,
            known_servers=self.folder / "known",
            is_usb_only=is_usb_only,
        )
        backend = EmulatedBackend(devices=[Loopback()])
        async with connect(config, backends=[backend]) as session:
            yield session

    async def is_refused(
        self, user: str = "vera", password: str = "secret", domain: str = ""
    ) -> None:
        with pytest.raises(AuthenticationError, match="refused the logon"):
            async with self.visit(user, password, domain):
                pass

    async def is_busy(self) -> None:
        with pytest.raises(ServerBusy):
            async with self.visit():
                pass

    def log(self) -> str:
        return (self.folder / "VBox.log").read_text()

    __str__ = log

    async def wait_log(self, text: str) -> None:
        await wait_text(self, text)


class Told:
    """What ``telling_library.py`` writes down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return self.path.read_text() if self.path.exists() else ""


async def wait_text(where: Told | Place, text: str) -> None:
    while text not in str(where):  # noqa: ASYNC110 - it is a file
        await asyncio.sleep(0.02)
