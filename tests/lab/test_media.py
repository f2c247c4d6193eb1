"""Sound and clipboard in real viewers: a Linux with AC97 and spice-vdagent in QEMU."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from rusb.rdp import rdpsnd
from rusb.rdp.cliprdr import ClipboardServer
from rusb.rfb import events as rfb
from rusb.server.channels import audio
from rusb.server.channels.clipboard import ClipboardMode
from rusb.server.config import ServerConfig
from rusb.server.machine.command_line import _agent, _screens, _sound
from rusb.server.server import Server
from rusb.server.vbox.model import Audio
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.lab.assets import CLIENT
from tests.support.lab.peers import Display, Program, wait
from tests.support.lab.usblab import Client
from tests.support.rdp.viewer import until
from tests.support.whole_path import sessions_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
    pytest.mark.xdist_group("media"),
]

RATE, SECONDS, PITCH, LOUD = 44100, 2.0, 440, 12000

PLAY = f"""
import fcntl, struct
card = open("/dev/dsp", "wb", buffering=0)
for request, value in ((0xC0045005, 0x10), (0xC0045006, 2), (0xC0045002, {RATE})):
    fcntl.ioctl(card, request, struct.pack("i", value))
card.write(open("/tmp/tone", "rb").read())
fcntl.ioctl(card, 0x5001)  # until it was played
"""

AGENT = (
    "mkdir -p /run/spice-vdagentd /dev/virtio-ports;"
    " for p in /sys/class/virtio-ports/*; do ln -sf ../${p##*/}"
    " /dev/virtio-ports/$(cat $p/name); done;"
    " (Xvfb :77 -screen 0 320x200x24 -nolisten tcp -noreset >/tmp/xvfb 2>&1 &);"
    " : >/tmp/uinput; (spice-vdagentd -X -x -f -u /tmp/uinput >/tmp/vdagentd 2>&1 &)"
)

Make = Callable[[int], list[str]]
"""Makes the command of a viewer, of a port."""


class MediaGuest(Client):
    """A guest with a sound card and the agent of the clipboard, as our machines have
    them."""

    modules = (*CLIENT, "bochs", "snd_intel8x0", "snd_pcm_oss")
    has_tablets = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "0"
        super().__init__(
            *_screens([self.path], has_sound=True),
            *_sound(Audio()),
            *_agent(waits=False),
            memory=384,
        )
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self.sh("mount -t tmpfs tmp /tmp")  # the host's has a lot
        times = np.arange(int(RATE * SECONDS)) / RATE
        tone = (LOUD * np.sin(2 * np.pi * PITCH * times)).astype("<i2")
        self.put("/tmp/tone", np.repeat(tone, 2).tobytes())
        self.put("/tmp/play.py", PLAY.encode())
        self.sh(AGENT)
        self.wait("test -S /tmp/.X11-unix/X77")
        self.wait("test -S /run/spice-vdagentd/spice-vdagent-sock")
        self.sh("(DISPLAY=:77 spice-vdagent -x >/tmp/vdagent 2>&1 &)")
        self.wait("grep -q 'opening vdagent virtio channel' /tmp/vdagentd")

    def said(self) -> str:
        """What the agent says."""
        return self.sh("cat /tmp/vdagentd /tmp/vdagent")

    async def open_screen(self, head: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(str(self.path))
        return sock

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        raise AssertionError("nobody clicks")

    def copy(self, text: str) -> None:
        """Copy a text, as a program in the guest does."""
        self.put("/tmp/text", text.encode())
        self.sh(
            "DISPLAY=:77 setsid xclip -selection clipboard -i /tmp/text >/dev/null 2>&1"
        )

    def pasted(self) -> str:
        """What a program in the guest pastes; empty: there is nothing."""
        return self.sh(
            "DISPLAY=:77 timeout 8 xclip -selection clipboard -o 2>/dev/null || true"
        )


@pytest.fixture(scope="module")
def guest(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaGuest]:
    with MediaGuest(tmp_path_factory.mktemp("m")) as guest:
        yield guest


@pytest.fixture
async def server(guest: MediaGuest, tmp_path: Path) -> AsyncIterator[Server]:
    display = RemoteDisplay(
        enabled=True,
        allow_multi_connection=True,
        properties={"Security/Method": "Negotiate"},
    )
    machine = Machine("Media", remote_display=display)
    config = ServerConfig(
        *(machine, "loopback"),
        ports=[0],
        address="127.0.0.1",
        log=str(tmp_path / "VBox.log"),
        state=tmp_path,
    )
    async with Server(config, screens=guest) as server:
        yield server


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that does a lot besides, viewers may be seconds late."""
    monkeypatch.setattr(rdpsnd, "MOST", 200)


def rdesktop(port: int) -> list[str]:
    sound = ["-r", "sound:local:alsa", "-r", "clipboard:CLIPBOARD"]
    return ["rdesktop", *sound, "-g", "640x480", f"127.0.0.1:{port}"]


def xfreerdp(port: int) -> list[str]:
    # its ALSA wants a mixer, which only a real card has; this one confirms what comes
    options = ["/sound:sys:fake", "+clipboard", "/size:640x480", "/cert:ignore"]
    return ["xfreerdp", f"/v:127.0.0.1:{port}", *options]


async def test_a_tone_of_the_guest_arrives_without_a_gap(
    guest: MediaGuest,
    server: Server,
    display: Display,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the file that rdesktop's ALSA writes, in whole once its device is closed.

    Byte for byte what QEMU sent; if the guest, which is emulated, was too slow, a
    silence is in there.
    """
    monkeypatch.setattr(audio, "CLOSES_AFTER", 1.0)
    home = tmp_path / "viewer"
    home.mkdir()
    played = home / "played"
    (home / ".asoundrc").write_text(
        f'pcm.!default {{ type file slave.pcm null file "{played}" format raw }}\n'
    )
    screen, sent, ended = server._screens.first, bytearray(), threading.Event()
    handle = screen.heard

    def listen(event: rfb.Event) -> None:
        if isinstance(event, rfb.SoundReceived):
            sent.extend(event.data)
        elif isinstance(event, rfb.SoundEnded):
            ended.set()
        handle(event)

    monkeypatch.setattr(screen, "heard", listen)

    def play() -> None:
        command = rdesktop(server.port)
        with Program(command, home, display.name, b"yes\n") as viewer:
            wait(lambda: server._host.media.sound._is_wanted, "sound", viewer.said)
            guest.sh("python3 /tmp/play.py")
            assert ended.wait(20)
            wait(
                lambda: played.exists() and played.read_bytes() == sent,
                "the tone",
                lambda: f"{played.stat().st_size} of {len(sent)}; {viewer.said()}",
            )

    await asyncio.to_thread(play)
    found = np.frombuffer(bytes(sent), "<i2").reshape(-1, 2)
    loud = np.flatnonzero(abs(found[:, 0]) > LOUD // 10)
    tone = found[loud[0] : loud[-1] + 1]
    assert SECONDS - 0.1 < len(tone) / RATE < SECONDS + 1
    assert np.array_equal(tone[:, 0], tone[:, 1])
    assert LOUD * 0.9 < abs(tone).max() < LOUD * 1.1
    spectrum = abs(np.fft.rfft(tone[:, 0]))
    assert abs(spectrum.argmax() * RATE / len(tone) - PITCH) < 5


async def test_freerdp_confirms_what_it_hears_while_rdesktop_hears_it_too(
    guest: MediaGuest, server: Server, display: Display, tmp_path: Path
) -> None:
    home = tmp_path / "viewer"
    home.mkdir()
    (home / ".asoundrc").write_text("pcm.!default { type null }\n")
    sound = server._host.media.sound
    loop = asyncio.get_running_loop()

    def play() -> None:
        with (
            Program(rdesktop(server.port), home, display.name, b"yes\n") as one,
            Program(xfreerdp(server.port), home, display.name) as two,
        ):
            wait(lambda: len(sound._listeners) == 2, "both", one.said)
            for times in (1, 2):
                guest.sh("python3 /tmp/play.py")
                wait(
                    lambda: not any(c._core._open for c in sound._listeners),
                    "confirmations",
                    two.said,
                )
                states = [client.state().sound for client in sessions_of(server)]
                for state in states:
                    assert state is not None
                    assert state.dropped == 0
                    assert state.blocks >= times * (SECONDS / 0.04 - 3)
                for value in ("1", "0"):
                    properties = server.machine.remote_display.properties
                    properties["Client/DisableAudio"] = value
                    loop.call_soon_threadsafe(server.settings_changed)
                    count = 2 if value == "0" else 0
                    wait(
                        lambda: len(sound._listeners) == count,  # noqa: B023
                        "the switch",
                        two.said,
                    )

    await asyncio.to_thread(play)
    assert "confirms sound" not in (tmp_path / "VBox.log").read_text()


class Desktop:
    """The clipboard where the viewer runs."""

    def __init__(self, display: Display) -> None:
        self._env = {"DISPLAY": display.name, "PATH": "/usr/bin:/bin"}

    def copy(self, text: str) -> None:
        subprocess.run(
            ["xclip", "-selection", "clipboard", "-i"],
            input=text.encode(),
            env=self._env,
            check=True,
            timeout=20,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def pasted(self) -> str:
        done = subprocess.run(
            ["timeout", "8", "xclip", "-selection", "clipboard", "-o"],
            env=self._env,
            check=False,
            timeout=20,
            capture_output=True,
        )
        return done.stdout.decode()


TEXT = "Grüße an alle 😀👍\nzweite Zeile – ß €\n"


@pytest.mark.parametrize("make", [xfreerdp, rdesktop])
async def test_text_crosses_the_clipboard_both_ways(
    make: Make,
    guest: MediaGuest,
    server: Server,
    display: Display,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As soon as the mode lets it; the viewer is there already.

    Without a loop: rdesktop says again after each request what it has.
    """
    times: list[float] = []
    request = ClipboardServer.request

    def count(core: ClipboardServer, *, now: float) -> None:
        times.append(now)
        request(core, now=now)

    monkeypatch.setattr(ClipboardServer, "request", count)
    home = tmp_path / "viewer"
    home.mkdir()
    desktop = Desktop(display)
    clipboard = server._host.media.clipboard
    sound = server._host.media.sound
    desktop.copy("before")
    loop = asyncio.get_running_loop()

    def share() -> None:
        with Program(make(server.port), home, display.name, b"yes\n") as viewer:
            wait(lambda: bool(sound._listeners), "the viewer", viewer.said)
            assert clipboard.mode is ClipboardMode.DISABLED
            server.machine.clipboard = "bidirectional"
            loop.call_soon_threadsafe(server.settings_changed)
            wait(lambda: clipboard._owner is not None, "the viewer's list", viewer.said)
            wait(lambda: guest.pasted() == "before", "the first text", guest.said)
            for number in range(2):
                text = f"{TEXT}{number}"
                guest.copy(f"guest {text}")
                wait(lambda: clipboard.has_text, "the guest's notice", viewer.said)
                wait(
                    lambda: desktop.pasted() == f"guest {text}",  # noqa: B023
                    "the guest's text",
                    lambda: repr(desktop.pasted()),
                )
                desktop.copy(f"viewer {text}")
                wait(lambda: not clipboard.has_text, "the viewer's list", viewer.said)
                wait(
                    lambda: guest.pasted() == f"viewer {text}",  # noqa: B023
                    "the viewer's text",
                    lambda: repr(guest.pasted()),
                )
            os.kill(viewer.process.pid, signal.SIGSTOP)
            try:  # it does not answer, and the guest does not wait for ever
                desktop.copy("never read")
                assert guest.pasted() in ("", f"viewer {TEXT}1")
            finally:
                os.kill(viewer.process.pid, signal.SIGCONT)

    await asyncio.to_thread(share)
    assert 3 <= len(times) < 10 + 2 * (times[-1] - times[0])  # display.md 12
    await until(lambda: clipboard.is_free)
    assert await asyncio.to_thread(guest.pasted) == ""
