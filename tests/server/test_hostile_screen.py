"""A VNC server that breaks the rules: its head says why, and all others go on.

Viewers of another head, a client whose device is in use, and the viewers of the head
itself, which have its picture or the status page, and the picture again afterwards.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rusb.client.session import connect
from rusb.rdp.graphics.canvas import Canvas
from rusb.rfb import client
from rusb.server.display import guest_screen
from rusb.server.display.status import BACKGROUND
from tests.support.memory import process_below
from tests.support.others import others_go_on
from tests.support.screen_guest import ScreenGuest, ScreenLab
from tests.support.vnc import VncServer, cut, handshake, led, raw, rect, update

SIZE = WIDTH, HEIGHT = 320, 200
PAGE = int.from_bytes(BACKGROUND)
RULE = "QEMU's VNC server breaks the protocol: "
ENDED = "QEMU ended the connection to its screen"


class TwoScreens(ScreenGuest):
    """A guest with two screens, each a VNC server of the test."""

    async def open_screen(self, head: int) -> socket.socket | None:
        self.path = self.path.with_name(f"vnc{head}")
        return await super().open_screen(0)


class Place(ScreenLab):
    """Its clients see what it sends."""

    @contextlib.asynccontextmanager
    async def viewer(self, head: int) -> AsyncIterator[Canvas]:
        """What a client of ours sees of a head."""
        config = self.config()
        config.domain, config.depth, config.usb = f"@{head + 1}", 24, False
        config.screen = canvas = Canvas()
        async with connect(config, backends=[]):
            yield canvas


@pytest.fixture
async def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr(guest_screen, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(client, "MAX_PIXELS", 1 << 20)
    place = Place(tmp_path, TwoScreens(tmp_path / "vnc"))
    async with place.server:
        yield place


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said of the first head, but for its size."""
    caplog.set_level(logging.INFO, guest_screen.__name__)
    size = f"{WIDTH}x{HEIGHT}"

    def found() -> list[str]:
        said = [r.getMessage() for r in caplog.records if r.name.endswith("t_screen")]
        ours = [line for line in said if line.startswith("screen 0: ")]
        return [line[10:] for line in ours if line[10:] != size]

    return found


def vnc(place: Place, head: int, colour: int) -> VncServer:
    """A good one, with a screen of one colour."""
    picture = update(raw(0, 0, *SIZE, colour))
    return VncServer(place.folder / f"vnc{head}", *SIZE, picture)


def shows(canvas: Canvas, colour: int, size: tuple[int, int] | None = None) -> bool:
    """Is the middle of the screen of this colour, and the screen of this size?"""
    width, height = canvas.width, canvas.height
    if not canvas.is_complete or size not in (None, (width, height)):
        return False
    return bool(canvas.pixels()[height // 2 + 4, width - 4] == colour)


async def until(held: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not held():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def endless(piece: bytes) -> Iterator[bytes]:
    """As much as fits into the kernel a thousand times."""
    for _ in range(max(1, (64 << 20) // len(piece))):
        yield piece


def whole() -> bytes:
    return raw(0, 0, *SIZE, 7)


BREAKS: dict[str, tuple[bytes, bytes, str]] = {
    # what it says, what it goes on with as long as it can, and what is wrong with that
    "no size": (update(rect(-223)), b"", "a screen of 0x0, which"),
    "large size": (
        update(rect(-223, w=65535, h=65535)),
        b"",
        "a screen of 65535x65535",
    ),
    "beyond the frame": (
        *(update(rect(0, 65535, 65535, 65535, 65535)), bytes(1 << 16)),
        "rectangle of 65535x65535 at 65535, 65535 of a screen of 320x200",
    ),
    "sound of 4 GiB": (
        *(b"\xff\1\0\2\xff\xff\xff\xff", bytes(1 << 16)),
        "4294967295 bytes of sound, at most 65536",
    ),
    "an update without end": (
        *(b"\0\0\x10\0", whole()),
        "an update of more than 1048576 pixels",
    ),
    "65535 rectangles": (b"\0\0\xff\xff", whole(), "65535 rectangles, at most 4096"),
    "a large cursor": (update(rect(-314, w=65535, h=65535)), b"", "65535 pixels of a"),
    "nonsense": (bytes(range(7, 100)), b"", "VNC message 7"),
}

KEEPS: dict[str, tuple[bytes, bytes]] = {
    # what it says, and what it goes on with, while the picture stays
    "cut text without end": (b"\3\0\0\0\x7f\xff\xff\xff", bytes(1 << 20)),
    "clipboard without end": (b"\3\0\0\0\x80\0\0\0", bytes(1 << 20)),
    "silence in an update": (b"\0\0\0\1" + whole()[:1000], b""),
    "silence in a length": (b"\3\0\0", b""),
    "bells": (b"", b"\2" * 4096),
    "updates of nothing": (b"", update() * 1024),
    "sound is there": (b"", update(rect(-259)) * 1024),
    "lights": (b"", update(led(4), led(0)) * 512),
    "pastes": (b"", cut(0x02000001) * 1024),
}

GREETINGS: dict[str, tuple[bytes, str]] = {
    # what it says from the start, and why there is no picture then
    "endless name": (
        *(handshake(*SIZE)[:38] + b"\xff" * 4, f"{RULE}4294967295 bytes of name"),
    ),
    "endless reason": (
        *(b"RFB 003.008\n\0\xff\xff\xff\xff", f"{RULE}4294967295 bytes of reason"),
    ),
    "no screen": (handshake(0, 0), f"{RULE}a screen of 0x0"),
    "something else": (b"HTTP/1.1 400 Bad\r\n", f"{RULE}not a VNC server"),
    "silence": (b"RFB 003.", "QEMU's VNC server does not answer"),
}


@contextlib.asynccontextmanager
async def all_watch(place: Place) -> AsyncIterator[Canvas]:
    """Viewers of both heads and a device in use; the other head's picture changes.

    Yields:
        what the viewer of the first head sees.
    """
    async with (
        vnc(place, 1, 0x10) as other,
        others_go_on(place, is_usb_only=True) as transfers,
        place.viewer(0) as canvas,
        place.viewer(1) as others,
    ):
        await until(lambda: shows(others, 0x10))
        yield canvas
        count = len(transfers)
        await until(lambda: len(transfers) > count + 10)
        other.say(update(raw(0, 0, *SIZE, 0x2020)))
        await until(lambda: shows(others, 0x2020, SIZE))


async def rave(vnc: VncServer, first: bytes, more: bytes) -> None:
    """Say something that breaks the rules, and go on until it is cut off."""
    writer = vnc._writer
    assert writer is not None
    writer.write(first)
    with contextlib.suppress(ConnectionError):
        for piece in endless(more) if more else ():
            if writer.transport.is_closing():
                return
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", BREAKS)
async def test_who_breaks_a_rule_is_cut_off_and_reached_again(
    place: Place, lines: Callable[[], list[str]], name: str
) -> None:
    first, more, problem = BREAKS[name]
    async with vnc(place, 0, 0x30) as hostile, all_watch(place) as canvas:
        for turn in range(2):
            await until(lambda: hostile.is_joined and shows(canvas, 0x30, SIZE))
            clients = hostile.clients
            with process_below(32 << 20):
                await rave(hostile, first, more)
                await until(lambda: hostile.clients > clients)  # noqa: B023
            assert [line.startswith(RULE + problem) for line in lines()] == [True], turn
        await until(lambda: hostile.is_joined and shows(canvas, 0x30, SIZE))


@pytest.mark.parametrize("name", KEEPS)
async def test_who_talks_or_is_silent_keeps_its_picture(
    place: Place, lines: Callable[[], list[str]], name: str
) -> None:
    """And the picture of QEMU that is there afterwards is shown."""
    first, more = KEEPS[name]
    async with all_watch(place) as canvas:
        async with vnc(place, 0, 0x30) as hostile:
            await until(lambda: shows(canvas, 0x30, SIZE))
            assert hostile._writer is not None
            hostile._writer.transport.pause_reading()  # type: ignore[attr-defined]
            with process_below(32 << 20):
                work = asyncio.create_task(rave(hostile, first, more))
                await asyncio.wait([work], timeout=0.4)
                assert shows(canvas, 0x30, SIZE)
                work.cancel()
                await asyncio.wait([work])
            hostile._writer.transport.abort()
        await until(lambda: shows(canvas, PAGE))
        assert lines()[:1] == [ENDED]
        async with vnc(place, 0, 0x40):
            await until(lambda: shows(canvas, 0x40, SIZE))


@pytest.mark.parametrize("name", GREETINGS)
async def test_who_does_not_even_greet_is_told_on_the_page(
    place: Place,
    lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    first, problem = GREETINGS[name]
    if name == "silence":
        monkeypatch.setattr(guest_screen, "HANDSHAKE_TIMEOUT", 0.2)
    visits: list[asyncio.StreamWriter] = []

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(writer)
        writer.write(first)

    path = place.folder / "vnc0"
    async with all_watch(place) as canvas:
        async with await asyncio.start_unix_server(greet, path):
            await until(lambda: len(visits) > 1)
            await until(lambda: shows(canvas, PAGE))
            page = place.server._screens.first.problem
        assert page.startswith(problem)
        assert lines().count(page) == 1
        monkeypatch.setattr(guest_screen, "HANDSHAKE_TIMEOUT", 5.0)
        async with vnc(place, 0, 0x40):
            await until(lambda: shows(canvas, 0x40, SIZE))
        for writer in visits:
            writer.close()
