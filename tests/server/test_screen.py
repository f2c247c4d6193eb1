"""When viewers get a picture, and of what (1.14, 1.15)."""

import asyncio
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.session import connect
from rusb.errors import ServerBusy
from rusb.rdp.graphics.pixels import Frame
from rusb.rdp.share import DataType
from rusb.server.display.status import HELP, status_frame
from rusb.server.release_log import BRING_USB
from tests.support.whole_path import Lab, machine, say, sessions_of

ALLOW, SUPPRESS = b"\1\0\0\0" + bytes(8), bytes(4)
ONE_RECTANGLE = b"\1" + bytes(7) + struct.pack("<2H", 799, 599)
ONE_CELL = b"\1" + bytes(3) + struct.pack("<4H", 32, 32, 40, 40)


class Screen:
    """Notes the lines of each picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[list[str]] = []
        monkeypatch.setattr("rusb.server.display.status.status_frame", self._draw)
        monkeypatch.setattr("rusb.server.display.status._MAX_FRAMES", 1)
        monkeypatch.setattr("rusb.server.display.pace.TICK", 0.0)

    def _draw(
        self,
        width: int,
        height: int,
        name: str,
        devices: Sequence[str],
        problem: str,
    ) -> Frame:
        self.drawn.append(list(devices))
        return status_frame(width, height, name, devices, problem)

    async def follows(self, act: Callable[[], object], *devices: str) -> None:
        """Do something, and wait for a picture with these devices."""
        await self.settle()
        before = len(self.drawn)
        act()
        while list(devices) not in self.drawn[before:]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def settle(self) -> None:
        """Wait until no more pictures come."""
        count = -1
        while count != len(self.drawn):
            count = len(self.drawn)
            await asyncio.sleep(0.2)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


async def test_a_viewer_sees_devices_come_and_go(
    tmp_path: Path, screen: Screen
) -> None:
    """The viewer is a client that shows what it gets, and the others' devices."""
    display = machine().remote_display
    display.allow_multi_connection = True
    lab = Lab(tmp_path, machine(remote_display=display))
    backend, loopback = EmulatedBackend(devices=[]), Loopback()
    line = "1209:0004 rusb Loopback"
    async with (
        asyncio.timeout(20),
        lab.server,
        lab.client(EmulatedBackend(devices=[])) as viewer,
        lab.client(backend),
    ):
        say(viewer, DataType.SUPPRESS_OUTPUT, ALLOW)
        for _ in range(2):
            await screen.follows(lambda: backend.plug(loopback), line)
            await screen.follows(lambda: backend.unplug(loopback))


async def test_a_viewer_that_asks_gets_the_picture_again(
    tmp_path: Path, screen: Screen
) -> None:
    lab = Lab(tmp_path, machine())
    async with (
        asyncio.timeout(20),
        lab.server,
        connect(lab.config(), backends=[]) as viewer,
    ):
        (session,) = sessions_of(lab.server)

        async def ask(*bodies: tuple[DataType, bytes]) -> Callable[[], bool]:
            """Say something; return what tells whether a picture has followed."""
            await screen.settle()
            sent = session.stream.bytes_sent
            for kind, body in bodies:
                say(viewer, kind, body)
            return lambda: session.stream.bytes_sent > sent + 5_000

        async def draws(*bodies: tuple[DataType, bytes]) -> None:
            is_drawn = await ask(*bodies)
            while not is_drawn():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        async def draws_nothing(*bodies: tuple[DataType, bytes]) -> None:
            is_drawn = await ask(*bodies)
            await asyncio.sleep(0.5)
            assert not is_drawn()

        allow = DataType.SUPPRESS_OUTPUT, ALLOW
        suppress = DataType.SUPPRESS_OUTPUT, SUPPRESS
        refresh = DataType.REFRESH_RECT, ONE_RECTANGLE
        await draws(allow)  # it suppressed output by itself
        for _ in range(2):
            await draws(refresh)
        await draws_nothing((DataType.REFRESH_RECT, ONE_CELL))
        # 1.15: exactly one
        await draws_nothing((DataType.REFRESH_RECT, b"\2" + bytes(19)))
        await draws_nothing(suppress, refresh)
        await draws(allow)


async def test_a_part_of_the_picture_is_what_was_asked_for(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    async with (
        asyncio.timeout(20),
        lab.server,
        connect(lab.config(), backends=[]) as viewer,
    ):
        (session,) = sessions_of(lab.server)
        say(viewer, DataType.SUPPRESS_OUTPUT, ALLOW)
        shown = session.viewer
        assert shown is not None
        frames = -1
        while not shown.frames or shown._refreshing or shown.frames != frames:
            frames = shown.frames
            await asyncio.sleep(0.3)
        sent = shown.bytes_sent
        say(viewer, DataType.REFRESH_RECT, ONE_CELL)
        while shown.frames == frames:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert 0 < shown.bytes_sent - sent < 16 * 16 * 2 + 64


async def test_a_storm_of_refreshes_is_a_few_pictures(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    async with (
        asyncio.timeout(20),
        lab.server,
        connect(lab.config(), backends=[]) as viewer,
    ):
        (session,) = sessions_of(lab.server)
        say(viewer, DataType.SUPPRESS_OUTPUT, ALLOW)
        shown = session.viewer
        assert shown is not None
        while not shown.frames:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        frames, begin = shown.frames, loop.time()
        while loop.time() - begin < 0.5:
            for _ in range(20):
                say(viewer, DataType.REFRESH_RECT, ONE_RECTANGLE)
            await asyncio.sleep(0)
        assert shown.frames - frames <= 2 + (loop.time() - begin) / 0.25


async def test_a_viewer_beside_a_connection_for_usb_is_the_same_client(
    tmp_path: Path,
) -> None:
    """With default settings, which allow a single client."""
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        usb = lab.config()
        usb.is_usb_only = True
        async with connect(usb, backends=[EmulatedBackend(devices=[Loopback()])]) as c:
            say(c, DataType.SUPPRESS_OUTPUT, ALLOW)  # which counts for nothing
            async with connect(lab.config(), backends=[]) as viewer:
                (first, second) = sessions_of(lab.server)
                assert first.viewer is None
                assert second.viewer is not None
                say(viewer, DataType.SUPPRESS_OUTPUT, ALLOW)
                while second.stream.bytes_sent < 5_000:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            with pytest.raises(ServerBusy):
                async with connect(usb, backends=[]):
                    pass


@pytest.mark.parametrize("way", ["rusb connect ", "xfreerdp /usb:id:", "RemoteFX USB"])
def test_the_status_page_says_how_to_bring_devices(way: str) -> None:
    assert way in " ".join(HELP)
    assert way in BRING_USB
