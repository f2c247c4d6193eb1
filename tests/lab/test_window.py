"""One command, window and USB: rdesktop-vrdp with the viewers of Debian."""

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from rusb.aio import tls
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.client.viewer import find_viewer, view
from rusb.errors import CertificateError, ConnectionLost
from tests.support.lab.peers import MACHINE, Program, wait
from tests.support.lab.screens import ManagedDisplay, ScreenGuest
from tests.support.lab.viewing import server_here
from tests.support.rusbserver import RusbServer
from tests.support.whole_path import Lab, machine

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
    pytest.mark.xdist_group("window"),
]

SECRET = "a-word-that-nobody-else-knows"
BIN = Path(sys.executable).parent
DISK = "grep -q Flash /sys/block/sd*/device/model"
VIEWERS = ("xfreerdp", "rdesktop")


@pytest.fixture(scope="module")
def guest(lab: None) -> Iterator[ScreenGuest]:
    with ScreenGuest() as guest:
        yield guest


@pytest.fixture
def server(guest: ScreenGuest, tmp_path: Path) -> Iterator[RusbServer]:
    """One that has the default settings: a single client, no password."""
    text = MACHINE.replace(' allowMultiConnection="true"', "").replace("PROPERTIES", "")
    folder = tmp_path / "server"
    folder.mkdir()
    server = RusbServer(folder, text, "--guest", f"qemu:{guest.monitor}")
    try:
        server.wait_log("TCP server listening")
        yield server
    finally:
        server.stop()


@pytest.fixture
def display(tmp_path: Path) -> Iterator[ManagedDisplay]:
    folder = tmp_path / "display"
    folder.mkdir()
    with ManagedDisplay(folder) as display:
        yield display


def ours(
    words: Sequence[str],
    folder: Path,
    display: str = "",
    stdin: bytes = b"",
    **env: str,
) -> Program:
    """Run a command of ours at a machine with a USB stick."""
    folder.mkdir(exist_ok=True)
    env |= {"RUSB_BACKENDS": "emulated:flash-drive"}
    names = [f"{name}={value}" for name, value in env.items()]
    return Program(["env", *names, *words], folder, display, stdin)


def who_knows(secret: str) -> list[str]:
    """Names of the processes that show it to others, or to their own user."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if secret.encode() in (process / name).read_bytes():
                    found.append((process / "comm").read_text())
            except OSError:
                continue
    return found


class OtherAddress:
    """Passes one connection after the other on, from 127.0.0.2."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        place = ("127.0.0.1", self._port)
        # until it is closed; then each thread ends before what it reads is closed
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            while True:
                near = stack.enter_context(self._listener.accept()[0])
                far = socket.create_connection(place, source_address=("127.0.0.2", 0))
                stack.enter_context(far)
                for pair in ((near, far), (far, near)):
                    pump = threading.Thread(target=self._pump, args=pair, daemon=True)
                    pump.start()
                    stack.callback(pump.join)

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(1 << 16):
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Clients are gone by now."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept; close does not
        self._thread.join()
        self._listener.close()


def another_person(port: int, folder: Path) -> str:
    """Try to look at the screen from another address; return what was said."""
    relay = OtherAddress(port)
    try:
        words = [str(BIN / "rusb"), "screenshot", f"127.0.0.1:{relay.port}", "no.png"]
        with ours(words, folder) as other:
            assert other.wait_end(30) != 0
            return other.said()
    finally:
        relay.close()


@pytest.mark.parametrize("viewer", VIEWERS)
def test_one_command_shows_the_screen_and_brings_a_disk(
    viewer: str,
    guest: ScreenGuest,
    server: RusbServer,
    display: ManagedDisplay,
    tmp_path: Path,
) -> None:
    place = f"127.0.0.1:{server.port}"
    command = [str(BIN / "rdesktop-vrdp"), "-r", "usb", "-a", "16", "-N", place]
    if viewer != "xfreerdp":  # that one is found
        command += ["--viewer", viewer]
    with ours(
        [*command, "-u", "anna", "-p", "-"],
        tmp_path / "client",
        display.name,
        f"{SECRET}\n".encode(),
    ) as program:
        wait(
            lambda: display.shows(guest.picture(), 16),
            "the guest's screen",
            program.said,
            60,
        )
        guest.wait(DISK, 60)
        assert f"{viewer} shows the screen" in program.said()
        assert display.windows(f"{place} - rusb")
        assert who_knows(SECRET) == []
        assert "brings no USB devices" not in server.log()
        said = another_person(server.port, tmp_path / "other")
        assert "already has as many clients as it accepts" in said
        display.close_window(f"{place} - rusb")
        assert program.wait_end() == 62, program.said()
        guest.wait(f"! {DISK}", 30)
        server.wait_log("Connection closed: ", 3)


@pytest.mark.parametrize("viewer", VIEWERS)
def test_the_window_ends_with_the_server(
    viewer: str, server: RusbServer, display: ManagedDisplay, tmp_path: Path
) -> None:
    place = f"127.0.0.1:{server.port}"
    command = [str(BIN / "rusb"), "connect", "--backend", "emulated:flash-drive"]
    command += ["--view", place]
    client = tmp_path / "client"
    with ours(command, client, display.name, RUSB_VIEWER=viewer) as program:
        wait(
            lambda: bool(display.windows(f"{place} - rusb")),
            "the window",
            program.said,
            60,
        )
        server.wait_log("User: [", 2)
        server.process.terminate()
        program.wait_end()
        assert "ended the connection" in program.said()
        wait(lambda: not display.windows("rusb"), "its end", program.said)


def test_a_viewer_by_hand_beside_rusb_connect(
    guest: ScreenGuest, server: RusbServer, display: ManagedDisplay, tmp_path: Path
) -> None:
    place = f"127.0.0.1:{server.port}"
    (tmp_path / "viewer").mkdir()
    alone = "The client brings no USB devices. To bring them: xfreerdp /usb:id:"
    by_hand = ["xfreerdp", f"/v:{place}", "/cert:ignore", "/bpp:16", "/u:someone"]
    command = [str(BIN / "rusb"), "connect", "--backend", "emulated:flash-drive", place]
    with Program(by_hand, tmp_path / "viewer", display.name) as viewer:
        server.wait_log(alone)
        with ours(command, tmp_path / "client") as client:
            guest.wait(DISK, 60)
            wait(
                lambda: display.shows(guest.picture(), 16),
                "the guest's screen",
                viewer.said,
                60,
            )
            said = another_person(server.port, tmp_path / "other")
            assert "already has as many clients as it accepts" in said
            assert viewer.process.poll() is None, viewer.said()
            assert client.process.poll() is None, client.said()
    guest.wait(f"! {DISK}", 30)


class Elsewhere:
    """A session that has checked another certificate than the server shows now."""

    peer, user = "127.0.0.1", "anna"

    def __init__(self, config: ClientConfig, certificate: bytes) -> None:
        self.config, self.certificate = config, certificate


@pytest.mark.parametrize("viewer", VIEWERS)
async def test_a_viewer_takes_no_other_certificate(
    viewer: str,
    display: ManagedDisplay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISPLAY", display.name)
    monkeypatch.setenv("HOME", str(tmp_path))
    program = find_viewer(viewer)
    assert program is not None
    (tmp_path / "a").mkdir()
    lab = Lab(tmp_path / "a", machine())
    async with lab.server, connect(lab.config(), backends=[]) as session:
        certificate = session.certificate
    assert certificate is not None
    # rdesktop knows a server by its key, which servers of tests share
    monkeypatch.setattr(tls, "_new_key", cast(Any, tls._new_key).__wrapped__)
    async with server_here(tmp_path) as server:
        config = ClientConfig("127.0.0.1", server.port, user="anna", password=SECRET)
        elsewhere = cast(Any, Elsewhere(config, certificate))
        async with view(elsewhere, program) as shown:
            with pytest.raises(ConnectionLost):
                await asyncio.wait_for(shown.wait_closed(), 30)
    log = (tmp_path / "VBox.log").read_text()
    assert "connects from" not in log
    assert "User:" not in log


@pytest.mark.parametrize("viewer", VIEWERS)
async def test_nobody_talks_a_viewer_out_of_tls(
    viewer: str,
    display: ManagedDisplay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISPLAY", display.name)
    monkeypatch.setenv("HOME", str(tmp_path))
    program = find_viewer(viewer)
    assert program is not None
    (tmp_path / "a").mkdir()
    lab = Lab(tmp_path / "a", machine())
    async with lab.server, connect(lab.config(), backends=[]) as session:
        certificate = session.certificate
    assert certificate is not None
    remote = machine().remote_display
    remote.properties["Security/Method"] = "RDP"
    weak = Lab(tmp_path, machine(remote_display=remote))
    async with weak.server:
        config = weak.config()
        config.user, config.password = "anna", SECRET
        elsewhere = cast(Any, Elsewhere(config, certificate))
        async with view(elsewhere, program) as shown:
            with pytest.raises((CertificateError, ConnectionLost)):
                await asyncio.wait_for(shown.wait_closed(), 30)
    assert "User:" not in weak.log()
