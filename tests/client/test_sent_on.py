"""A server sends a session to another one, where its machine runs now."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.connections import MAX_SENT_ON
from rusb.client.events import SessionEvent, SessionSentOn
from rusb.client.screenshot import screenshot
from rusb.client.session import ClientSession, connect
from rusb.errors import ConnectionLost
from rusb.rdp.server import ServerConnection
from rusb.server.config import ServerConfig
from rusb.server.elsewhere import Elsewhere
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.breaking import until
from tests.support.rusbserver import free_port
from tests.support.whole_path import machine, sessions_of

NEAR, FAR = "127.0.0.1", "127.0.0.2"


class Place:
    """Two hosts whose displays have the same port, and a client of one of them."""

    def __init__(self, folder: Path, method: str) -> None:
        self.folder, self.port = folder, free_port()
        self.guests = LoopbackGuest(), LoopbackGuest()
        self.near, self.far = (
            self._server(address, guest, method)
            for address, guest in zip((NEAR, FAR), self.guests, strict=True)
        )
        self.events: list[SessionEvent] = []

    def _server(self, address: str, guest: LoopbackGuest, method: str) -> Server:
        folder = self.folder / address
        folder.mkdir()
        display = RemoteDisplay(
            properties={"Security/Method": method}, allow_multi_connection=True
        )
        config = ServerConfig(
            machine(remote_display=display),
            ports=[self.port],
            address=address,
            log=str(folder / "VBox.log"),
            state=folder,
        )
        return Server(config, guest=guest)

    def config(self) -> ClientConfig:
        known = self.folder / "known"
        return ClientConfig(NEAR, self.port, known_servers=known, usb=False)

    @contextlib.asynccontextmanager
    async def client(
        self, config: ClientConfig, *devices: Loopback
    ) -> AsyncIterator[ClientSession]:
        backend = EmulatedBackend(devices=list(devices))
        async with connect(
            config, backends=[backend], on_event=self.events.append
        ) as session:
            yield session

    def send_on(self, *, back: bool = False) -> None:
        """The machine is at the other host."""
        from_, to = (self.far, NEAR) if back else (self.near, FAR)
        from_.send_on(Elsewhere(to, self.port))

    @property
    def moves(self) -> list[str]:
        return [str(e) for e in self.events if isinstance(e, SessionSentOn)]


@pytest.fixture
def method() -> str:
    return "Negotiate"


@pytest.fixture
async def place(tmp_path: Path, method: str) -> AsyncIterator[Place]:
    place = Place(tmp_path, method)
    async with asyncio.timeout(60), place.near, place.far:
        yield place


async def test_a_session_goes_where_its_machine_is(place: Place) -> None:
    async with place.client(place.config()) as session:
        place.send_on()
        await until(lambda: place.moves)
        assert place.moves == [
            f"the machine has moved from {NEAR}:{place.port} to {FAR}:{place.port}"
        ]
        await until(lambda: session.is_connected)
        assert (session.config.host, session.peer) == (FAR, FAR)
        await until(lambda: not sessions_of(place.near))
        (there,) = sessions_of(place.far)
        assert there.is_active


async def test_devices_that_nobody_uses_are_offered_there(place: Place) -> None:
    """The filters of the first host want none of them."""
    place.near.machine.filters = ()
    config = place.config()
    config.usb = True
    async with place.client(config, Loopback()):
        await until(lambda: sessions_of(place.near)[0].usb.devices)
        place.send_on()
        await place.guests[1].wait_for(1)
        await until(lambda: place.moves)


async def test_who_has_devices_in_the_guest_stays(place: Place) -> None:
    config = place.config()
    config.usb = True
    async with place.client(config, Loopback()) as session:
        await place.guests[0].wait_for(1)
        place.send_on()
        await asyncio.sleep(0.2)  # or it would be gone by now
        assert session.is_connected
        assert sessions_of(place.near)
        assert not place.moves


async def test_a_picture_is_of_the_machine_where_it_is(place: Place) -> None:
    looking = asyncio.create_task(screenshot(place.config(), wait=1.0))
    await until(lambda: any(one.is_active for one in sessions_of(place.near)))
    place.send_on()
    assert (await looking).any()
    assert not sessions_of(place.near)
    assert "VRDP: Logon:" in (place.folder / FAR / "VBox.log").read_text()


async def test_hosts_cannot_send_a_session_around_for_ever(place: Place) -> None:
    async with place.client(place.config()) as session:
        for count in range(MAX_SENT_ON):
            place.send_on(back=bool(count % 2))
            await until(lambda: len(place.moves) > count)  # noqa: B023
            await until(lambda: session.is_connected)
        place.send_on(back=bool(MAX_SENT_ON % 2))
        with pytest.raises(ConnectionLost, match=rf"before, {MAX_SENT_ON} times"):
            await session.wait_closed()


async def test_where_there_is_nobody_the_session_ends_and_says_so(
    place: Place,
) -> None:
    async with place.client(place.config()) as session:
        await place.far.aclose()
        place.send_on()
        with pytest.raises(ConnectionLost, match=rf"{FAR}:{place.port}"):
            await session.wait_closed()


@pytest.mark.parametrize("method", ["RDP"])
async def test_nobody_is_believed_without_tls(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own server does not say it; somebody between could."""
    monkeypatch.setattr(ServerConnection, "may_be_sent_to", lambda *_: True)
    config = place.config()
    config.security = ("rdp",)
    async with place.client(config) as session:
        place.send_on()
        await session.wait_closed()
    assert not place.moves
    assert not (place.folder / FAR / "VBox.log").read_text().count("Logon:")
