"""Videos and new sizes of a guest, in xfreerdp (display.md 9.3, 10)."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageGrab

from rusb.client.config import ClientConfig
from rusb.client.screenshot import screenshot
from rusb.rdp.graphics.pixels import Frame, frame_of
from rusb.server.config import ServerConfig
from rusb.server.display import video
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.lab.peers import HEIGHT, WIDTH, Display
from tests.support.lab.screens import TwoHeads
from tests.support.lab.viewing import rdesktop, xfreerdp
from tests.support.rdp.pictures import desktop, film, quality
from tests.support.screen_guest import ScreenGuest
from tests.support.vnc import VncServer, rect, update

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("programs"),
]

PLACE = X, Y, W, H = 100, 150, 320, 240
INSIDE = np.s_[Y : Y + H, X : X + W]
"""Where the video is; its cells begin at 96, 144 and end at 432, 400."""


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


@contextlib.asynccontextmanager
async def serve(folder: Path, screens: object) -> AsyncIterator[Server]:
    remote = RemoteDisplay(
        allow_multi_connection=True, properties={"VideoChannel/Enabled": "true"}
    )
    config = ServerConfig(
        *(Machine(name="Video", remote_display=remote, monitors=2), "loopback"),
        ports=[0],
        address="127.0.0.1",
        log=str(folder / "VBox.log"),
        state=folder,
    )
    async with asyncio.timeout(270), Server(config, screens=screens) as server:  # type: ignore[arg-type]
        yield server


def grabbed(display: Display) -> Frame:
    image = ImageGrab.grab(xdisplay=display.name).convert("RGB")
    return frame_of(*image.size, image.tobytes())[: image.height, : image.width]


async def until(held: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait; what is asked takes a while by itself."""
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(held):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"waited for {what} in vain")


def resize_window(display: Display, width: int, height: int) -> None:
    env = {"DISPLAY": display.name, "PATH": "/usr/bin:/bin"}
    search = ["xdotool", "search", "--class", "xfreerdp"]
    found = subprocess.run(
        search, env=env, check=True, timeout=20, capture_output=True, text=True
    )
    window = found.stdout.split()[-1]
    resize = ["xdotool", "windowsize", window, str(width), str(height)]
    subprocess.run(resize, env=env, check=True, timeout=20)


async def test_a_video_is_near_and_everything_else_equal(
    display: Display, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rdesktop beside it, which has no pipeline, sees it without loss."""
    # a loaded machine plays more slowly than a video does, or makes up for it
    monkeypatch.setattr(video, "LONGEST", 2.0)
    monkeypatch.setattr(video, "SHORTEST", 0.0)
    screen = desktop(WIDTH, HEIGHT)[:HEIGHT, :WIDTH]

    def whole() -> bytes:
        return update(rect(0, 0, 0, WIDTH, HEIGHT, screen.astype("<u4").tobytes()))

    other = tmp_path / "other"
    other.mkdir()
    vnc = VncServer(tmp_path / "vnc", WIDTH, HEIGHT, whole())
    guest = ScreenGuest(tmp_path / "vnc")
    outside = np.ones(screen.shape, bool)
    outside[144:400, 96:432] = False
    async with vnc, serve(tmp_path, guest) as server:
        with (
            xfreerdp(server.port, tmp_path / "x", display, "/gfx:AVC420", depth=24),
            Display(other) as second,
            rdesktop(server.port, tmp_path / "r", second, depth=24),
        ):

            def are_equal() -> bool:
                return all(
                    np.array_equal(grabbed(one), screen) for one in (display, second)
                )

            await until(are_equal, "the desktop")
            forms = {s.state().view.form for s in server._sessions}  # type: ignore[union-attr]
            assert "graphics pipeline with AVC420" in forms
            hub = server._screens[0]
            number, near = 0, 0.0
            while near <= 35 and number < 600:
                number += 1
                screen[INSIDE] = film(W, H, number)
                data = screen[INSIDE].astype("<u4").tobytes()
                vnc.say(update(rect(0, *PLACE, data)))
                await asyncio.sleep(0.04)
                if number % 24 == 0 and hub._stream is not None:
                    seen = await asyncio.to_thread(grabbed, display)
                    assert np.array_equal(seen[outside], screen[outside])
                    near = quality(seen[INSIDE], screen[INSIDE])
                    assert near < 90  # it is not without loss
            assert near > 35
            await until(are_equal, "the end without loss")
            assert hub._stream is None


@pytest.mark.xdist_group("two heads")
async def test_the_guest_follows_the_window_and_the_window_the_guest(
    lab: None,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with TwoHeads(tmp_path_factory.mktemp("s")) as guest:
        async with serve(tmp_path, guest) as server:
            hub = server._screens[0]
            await until(lambda: hub.size == (1280, 800), "the guest's screen")
            wide = tmp_path / "wide"
            wide.mkdir()
            with (
                Display(wide, 1400, 1000) as display,
                xfreerdp(
                    *(server.port, tmp_path / "x", display, "/dynamic-resolution"),
                    depth=24,
                ),
            ):

                def is_equal(size: tuple[int, int], colour: int) -> bool:
                    picture = guest.picture()
                    if picture.shape != (size[1], size[0]) or picture[0, 0] != colour:
                        return False
                    seen = grabbed(display)[: size[1], : size[0]]
                    return bool(np.array_equal(seen, picture))

                # The window's own size from the start. With every size another colour:
                # a viewer that shows it has put its window to that size; one that has
                # still to do so would undo the next.
                for size, number, colour in (
                    ((WIDTH, HEIGHT), 41, 0xAA0000),
                    ((1000, 700), 42, 0x00AA00),
                    ((640, 480), 44, 0x0000AA),
                ):
                    if size != (WIDTH, HEIGHT):
                        await asyncio.to_thread(resize_window, display, *size)
                    await until(lambda size=size: hub.size == size, f"{size}")  # type: ignore[misc]
                    paint = f"printf '\\033[{number}m\\033[2J' >/dev/tty1"
                    await asyncio.to_thread(guest.sh, paint)
                    held = partial(is_equal, size, colour)
                    await until(held, f"the picture of {size}")


@pytest.mark.xdist_group("two heads")
async def test_viewers_follow_a_guest_that_changes_its_size(
    lab: None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each at every depth, the one with the pipeline, and our own, all at once."""
    async with contextlib.AsyncExitStack() as stack:
        guest = stack.enter_context(TwoHeads(tmp_path_factory.mktemp("s")))
        server = await stack.enter_async_context(serve(tmp_path, guest))
        hub = server._screens[0]
        await until(lambda: hub.size == (1280, 800), "the guest's screen")
        known = tmp_path / "known"
        ours = ClientConfig("127.0.0.1", server.port, known_servers=known, depth=24)
        displays = []
        for number, (run, options, depth) in enumerate(
            (
                *((rdesktop, (), depth) for depth in (8, 15, 16, 24)),
                *((xfreerdp, (), depth) for depth in (16, 24)),
                (xfreerdp, ("/gfx:AVC420",), 24),
            )
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            display = stack.enter_context(Display(folder, 1400, 1000))
            viewer = run(server.port, folder / "x", display, *options, depth=depth)
            stack.enter_context(viewer)
            displays.append((display, depth))

        def are_equal() -> bool:
            picture = guest.picture()
            if hub.size != (picture.shape[1], picture.shape[0]):
                return False
            return all(display.shows(picture, depth) for display, depth in displays)

        await until(are_equal, "the first picture in all of them")
        for width, height in ((800, 600), (1280, 800)):
            hub._resize(width, height)
            await until(lambda: hub.size == (width, height), "the new size")  # noqa: B023
            await until(are_equal, f"the picture of {width}x{height}")
            seen = await screenshot(ours, wait=0.5)
            assert np.array_equal(seen, await asyncio.to_thread(guest.picture))
