"""A viewer's window and the session beside it: which of them ends the other."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.cli import _viewing
from rusb.cli._viewing import End, choose_viewer, stay
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.session import ClientSession
from rusb.client.viewer import ViewerProgram
from rusb.errors import ConnectionLost, SettingsError
from tests.support.breaking import Net, Wire, until
from tests.support.whole_path import machine

FAKE = f"""#!{sys.executable}
import pathlib, sys, time
place = pathlib.Path(sys.argv[0]).parent
with open(place / "starts", "a") as starts:
    print(*sys.argv[1:], file=starts)
while not (place / "status").exists():
    time.sleep(0.02)
sys.exit(int((place / "status").read_text()))
"""
"""Stays until there is a status to end with."""


class Window:
    """A session with a viewer."""

    def __init__(self, net: Net, session: ClientSession, folder: Path) -> None:
        self.net, self.session, self._folder = net, session, folder
        path = folder / "xfreerdp"
        path.write_text(FAKE)
        path.chmod(0o755)
        program = ViewerProgram(str(path), (), is_freerdp=True)
        self.over = asyncio.ensure_future(stay(session, "", program))

    def starts(self) -> int:
        path = self._folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def exit(self, status: int) -> None:
        part = self._folder / "part"
        part.write_text(str(status))
        part.rename(self._folder / "status")


@pytest.fixture
async def window(tmp_path: Path) -> AsyncIterator[Window]:
    net = Net(tmp_path, machine())
    backend = EmulatedBackend(devices=[Loopback()])
    async with asyncio.timeout(60), net.server:
        net.wire = Wire(net.server.port)
        async with net.wire.up(), net.client(backend) as session:
            window = Window(net, session, tmp_path)
            await until(window.starts)
            yield window
            window.over.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionLost):
                await window.over


async def test_the_window_is_closed(window: Window) -> None:
    window.exit(0)
    assert await window.over is End.WINDOW
    assert window.starts() == 1


async def test_a_viewer_that_fails_is_the_end(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_viewing, "NOTICED", 0.5)
    window.exit(131)
    with pytest.raises(ConnectionLost, match="xfreerdp ended with status 131"):
        await window.over


async def test_a_viewer_comes_back_with_the_session(window: Window) -> None:
    window.net.wire.cut()
    await until(lambda: window.starts() == 2)
    assert window.session.is_connected
    assert not window.over.done()
    window.exit(0)
    assert await window.over is End.WINDOW


async def test_the_server_ends_the_session(window: Window) -> None:
    await window.net.server.aclose()
    assert await window.over is End.SERVER


async def test_no_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_viewer(None, is_asked=False) is None
    assert capsys.readouterr().err == ""
    assert choose_viewer(None, is_asked=True) is None
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set" in capsys.readouterr().err
    monkeypatch.setenv("DISPLAY", ":1")
    monkeypatch.setenv("PATH", "/nowhere")
    assert choose_viewer(None, is_asked=False) is None
    assert "no viewer is installed (freerdp3-x11" in capsys.readouterr().err
    monkeypatch.setenv("RUSB_VIEWER", "krdc")
    with pytest.raises(SettingsError, match="no program 'krdc'"):
        choose_viewer(None, is_asked=False)
