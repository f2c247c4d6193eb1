"""A program that is cancelled while it ends leaves nothing behind."""

import asyncio
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Keyboard, Loopback
from rusb.client.screenshot import screenshot
from rusb.client.session import connect
from rusb.errors import BackendError
from rusb.server import Server, ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.rusbserver import free_port
from tests.support.whole_path import Lab, machine, sessions_of


def cancel_me() -> None:
    """Be cancelled at the next await."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def only(before: set["asyncio.Task[object]"]) -> None:
    """Wait until no other tasks are there."""
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


class Closing(EmulatedBackend):
    """Notes that it was closed; may fail at that."""

    is_closed = is_bad = False

    async def aclose(self) -> None:
        await super().aclose()
        self.is_closed = True
        if self.is_bad:
            raise BackendError("the cable is stuck")


async def test_a_client_gives_everything_back(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    backends = [Closing(devices=[Keyboard()]), Closing(devices=[Loopback()])]

    async def work() -> None:
        async with connect(lab.config(), backends=backends):
            await lab.guest.wait_for(2)
            cancel_me()

    async with asyncio.timeout(20), lab.server:
        before = asyncio.all_tasks()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work())
        assert all(backend.is_closed for backend in backends)
        await lab.guest.wait_for(0)
        while sessions_of(lab.server):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        await only(before)


async def test_a_backend_that_fails_does_not_keep_the_others(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    backends = [Closing(devices=[Keyboard()]), Closing(devices=[Loopback()])]
    backends[0].is_bad = True
    async with asyncio.timeout(20), lab.server:
        with pytest.raises(BackendError, match="the cable is stuck"):
            async with connect(lab.config(), backends=backends):
                await lab.guest.wait_for(2)
    assert backends[1].is_closed


async def test_a_server_closes_its_guest_and_its_log(tmp_path: Path) -> None:
    class Guest(LoopbackGuest):
        is_closed = False

        async def aclose(self) -> None:
            await super().aclose()
            self.is_closed = True

    guest = Guest()
    lab = Lab(tmp_path, machine(), guest=guest)
    before = asyncio.all_tasks()

    async def serve() -> None:
        async with lab.server:
            backend = EmulatedBackend(devices=[Keyboard()])
            async with connect(lab.config(), backends=[backend]):
                await guest.wait_for(1)
                cancel_me()
                await lab.server.aclose()

    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(serve())
        assert guest.is_closed
        assert lab.server.log._file is None
        await only(before)


async def test_a_server_that_is_cancelled_as_it_starts_frees_its_ports(
    tmp_path: Path,
) -> None:
    port = free_port()
    config = ServerConfig(machine(), ports=[port], log=tmp_path / "log", state=tmp_path)

    async def serve() -> None:
        cancel_me()
        await Server(config, guest=LoopbackGuest()).start()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(serve())
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)


async def test_a_screenshot_waits_for_nothing_more(tmp_path: Path) -> None:
    display = RemoteDisplay(properties={"Client/DisableDisplay": "1"})
    lab = Lab(tmp_path, machine(remote_display=display))
    async with asyncio.timeout(20), lab.server:
        before = asyncio.all_tasks()
        looking = asyncio.create_task(screenshot(lab.config()))
        await lab.wait_log("VRDP: Logon")
        await asyncio.sleep(0.1)  # it waits for a picture
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        while sessions_of(lab.server):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        await only(before)
