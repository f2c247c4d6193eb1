"""The client as a viewer: what it sees is what the server shows."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.screenshot import screenshot
from rusb.errors import ConnectionLost, RemoteProtocolError
from rusb.rdp.graphics.pixels import DEPTHS, PALETTE, Frame, from_depth, to_depth
from rusb.rdp.graphics.updates import Update, UpdateKind
from rusb.rdp.server import ServerConnection
from rusb.server.display.status import status_frame
from tests.support.whole_path import Lab, machine, resize, sessions_of


def status(config: ClientConfig, *lines: str) -> Frame:
    """The status screen as a client is to see it."""
    frame = status_frame(config.width, config.height, "Lab", lines)
    seen = to_depth(frame[: config.height, : config.width], config.depth)
    return from_depth(seen, config.depth, PALETTE)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("depth", DEPTHS)
async def test_the_status_screen_is_equal_in_every_pixel(
    tmp_path: Path, depth: int, version: int
) -> None:
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        config = lab.config()
        config.depth, config.version = depth, version
        config.width, config.height = 1021, 701
        assert np.array_equal(await screenshot(config), status(config))


async def test_a_device_of_another_client_is_seen(tmp_path: Path) -> None:
    display = machine().remote_display
    display.allow_multi_connection = True
    lab = Lab(tmp_path, machine(remote_display=display))
    async with asyncio.timeout(20), lab.server:
        config = lab.config()
        async with lab.client(EmulatedBackend(devices=[Loopback()])):
            await lab.guest.wait_for(1)
            wanted = status(config, "1209:0004 rusb Loopback")
            for pause in (0.5, 2, 5):  # the first is enough but for a crowd
                seen = await screenshot(config, wait=pause)
                if np.array_equal(seen, wanted):
                    break
    assert np.array_equal(seen, wanted)


async def test_what_changes_while_it_looks_on_is_seen(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        config = lab.config()
        looking = asyncio.create_task(screenshot(config, wait=2.0))
        while not sessions_of(lab.server) or not sessions_of(lab.server)[0].is_active:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.7)
        resize(lab.server, 640, 480)
        seen = await looking
    config.width, config.height = 640, 480
    assert np.array_equal(seen, status(config))


async def test_a_server_that_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerConnection, "send_update", lambda *_: None)
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        config = lab.config()
        config.timeout = 1.0
        with pytest.raises(ConnectionLost, match=r"no whole picture.*DisableDisplay"):
            await screenshot(config)
        looking = asyncio.create_task(screenshot(lab.config()))
        while not sessions_of(lab.server):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        (session,) = sessions_of(lab.server)
        while not session.is_active:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        session.drop("the test wants it")
        with pytest.raises(ConnectionLost):
            await looking


async def test_the_timeout_is_of_all_that_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for a first picture, and then as long again for a second one."""
    monkeypatch.setattr(ServerConnection, "send_update", lambda *_: None)
    lab = Lab(tmp_path, machine())
    loop = asyncio.get_running_loop()
    async with lab.server:
        config = lab.config()
        config.timeout = 6.0
        begin = loop.time()
        with pytest.raises(ConnectionLost, match="no whole picture"):
            await screenshot(config)
        assert 6.0 <= loop.time() - begin < 12.0


async def test_a_server_that_draws_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = ServerConnection.send_update
    nonsense = Update(UpdateKind.BITMAP, b"\1\0\1\0" + bytes(18))
    monkeypatch.setattr(
        ServerConnection, "send_update", lambda core, _: send(core, nonsense)
    )
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        with pytest.raises(RemoteProtocolError, match="bitmap of 0x0"):
            await screenshot(lab.config())
