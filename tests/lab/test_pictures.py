"""Pictures, sizes and pointers in real viewers, compared with what was sent."""

import asyncio
import ctypes
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rusb.client.config import ClientConfig
from rusb.client.screenshot import screenshot
from rusb.rdp.graphics.pixels import (
    DEPTHS,
    Frame,
)
from rusb.rdp.graphics.pointers import HIDDEN_POINTER, Cursor, PointerCache
from rusb.rdp.graphics.scrolling import Shadow
from rusb.rdp.graphics.updates import Damage, Encoder, UpdateKind
from rusb.server.server import Server
from tests.support.lab.peers import (
    HEIGHT,
    ROUNDING,
    WIDTH,
    Display,
    Program,
    Xrdp,
    wait,
)
from tests.support.lab.viewing import rdesktop, server_here, xfreerdp
from tests.support.rdp.pictures import desktop, noise
from tests.support.whole_path import resize, sessions_of

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("programs"),
]

VIEWERS = [
    *((rdesktop, (), depth) for depth in (8, 15, 16, 24)),
    *((rdesktop, ("-4",), depth) for depth in (8, 16)),
    *((xfreerdp, (), depth) for depth in (16, 24)),
    (xfreerdp, ("/sec:rdp",), 24),
]


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as display:
        yield display


def screen(width: int, height: int) -> Frame:
    """A desktop with a photograph, or nearly so."""
    frame = desktop(width, height)
    frame[: height // 3, width // 2 : width] = noise(width, height)[
        : height // 3, width // 2 : width
    ]
    return frame


@pytest.mark.parametrize(("viewer", "options", "depth"), VIEWERS)
async def test_pictures_of_every_size_are_equal(
    viewer: Callable[..., Program],
    options: tuple[str, ...],
    depth: int,
    display: Display,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "rusb.server.display.status.status_frame",
        lambda width, height, *_: screen(width, height),
    )
    async with server_here(tmp_path) as server:
        with viewer(server.port, tmp_path, display, *options, depth=depth) as program:
            for size in ((WIDTH, HEIGHT), (641, 431), (640, 480)):
                resize(server, *size)
                picture = screen(*size)[: size[1], : size[0]]
                await asyncio.to_thread(
                    wait,
                    partial(display.shows, picture, depth),
                    f"a picture of {size}",
                    program.said,
                )
            assert program.process.poll() is None


SCROLLING = [(rdesktop, (), 8), (rdesktop, ("-4",), 16), (xfreerdp, (), 24)]


@pytest.mark.parametrize(("viewer", "options", "depth"), SCROLLING)
async def test_what_has_moved_is_moved_by_the_viewer(
    viewer: Callable[..., Program],
    options: tuple[str, ...],
    depth: int,
    display: Display,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [desktop(WIDTH, HEIGHT) for _ in range(2)]
    window = frames[1][208:560, 256:704]
    window[:] = np.roll(window, -37, 0)
    monkeypatch.setattr("rusb.server.display.status.status_frame", lambda *_: frames[0])
    shadow, cells = Shadow(WIDTH, HEIGHT), Damage(WIDTH, HEIGHT)
    cells.add_all()
    shadow.advance(frames[0], cells.take())
    cells.add(256, 208, 448, 352)
    change = shadow.advance(frames[1], cells.take())
    assert change.order is not None
    async with server_here(tmp_path) as server:
        with viewer(server.port, tmp_path, display, *options, depth=depth) as program:
            for number, frame in enumerate(frames):
                if number:
                    (session,) = sessions_of(server)
                    core = session._rdp
                    assert core.takes_scrblt
                    core.send_update(change.order)
                    encoder = Encoder(shadow.frame, WIDTH, HEIGHT)
                    for update in encoder.updates(change.rest, core.form):
                        core.send_update(update)
                    session.stream.flush()
                picture = frame[:HEIGHT, :WIDTH]
                await asyncio.to_thread(
                    wait,
                    partial(display.shows, picture, depth),
                    f"picture {number}",
                    program.said,
                )
            assert program.process.poll() is None


# ---------------------------------------------------------------- pointers ----


class _Image(ctypes.Structure):
    """XFixesCursorImage; longs have eight bytes, though pixels have four."""

    _fields_ = [
        ("x", ctypes.c_short),
        ("y", ctypes.c_short),
        ("width", ctypes.c_ushort),
        ("height", ctypes.c_ushort),
        ("hot_x", ctypes.c_ushort),
        ("hot_y", ctypes.c_ushort),
        ("serial", ctypes.c_ulong),
        ("pixels", ctypes.POINTER(ctypes.c_ulong)),
    ]


def shown_pointer(display: Display) -> tuple[int, int, npt.NDArray[np.uint32]]:
    """Hot spot and pixels, multiplied by alpha, of the pointer on a screen."""
    x11, fixes = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXfixes.so.3")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    fixes.XFixesGetCursorImage.restype = ctypes.POINTER(_Image)
    handle = ctypes.c_void_p(x11.XOpenDisplay(display.name.encode()))
    assert handle
    first, second = ctypes.c_int(), ctypes.c_int()
    fixes.XFixesQueryExtension(handle, ctypes.byref(first), ctypes.byref(second))
    image = fixes.XFixesGetCursorImage(handle).contents
    count = image.width * image.height
    pixels = np.array(image.pixels[:count], np.uint64).astype(np.uint32)
    x11.XCloseDisplay(handle)
    return image.hot_x, image.hot_y, pixels.reshape(image.height, image.width)


def triangle(side: int) -> Cursor:
    """A shape in two colours that looks different from every side."""
    rows, columns = np.mgrid[:side, :side]
    pixels = np.where(columns <= rows // 2, 0xFF2040C0, 0)
    pixels[side // 2, : side // 4] = 0xFFFFFFFF
    return Cursor(side // 8, side // 4, pixels.astype(np.uint32))


POINTERS = [
    (rdesktop, (), 32),
    (rdesktop, ("-4",), 32),
    (xfreerdp, (), 32),
    (xfreerdp, (), 96),
]


@pytest.mark.parametrize(("viewer", "options", "side"), POINTERS)
async def test_pointers_are_equal(
    viewer: Callable[..., Program],
    options: tuple[str, ...],
    side: int,
    display: Display,
    tmp_path: Path,
) -> None:
    def draw(server: Server, cursor: Cursor | None) -> UpdateKind:
        (session,) = sessions_of(server)
        core = session._rdp
        assert core.pointer_limits.side >= side
        update = HIDDEN_POINTER if cursor is None else cache.show(cursor)
        core.send_update(update)
        session.stream.flush()
        return update.kind

    def has(cursor: Cursor) -> bool:
        hot_x, hot_y, pixels = shown_pointer(display)
        height, width = cursor.pixels.shape
        padded = np.zeros_like(pixels)  # colour pointers: on the right
        if pixels.shape[0] != height or pixels.shape[1] < width:
            return False
        padded[:, :width] = cursor.pixels
        is_there = (hot_x, hot_y) == (cursor.hot_x, cursor.hot_y)
        return is_there and np.array_equal(pixels, padded)

    async with server_here(tmp_path) as server:
        with viewer(server.port, tmp_path, display, *options) as program:
            while not any(s._rdp.takes_output for s in sessions_of(server)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            (session,) = sessions_of(server)
            cache = PointerCache(session._rdp.pointer_limits)
            await asyncio.to_thread(
                wait, lambda: not display.is_blank(), "its window", program.said
            )
            await asyncio.to_thread(
                subprocess.run,
                ["xdotool", "mousemove", "200", "200"],
                env={"PATH": "/usr/bin", "DISPLAY": display.name},
                check=True,
            )
            shapes = [triangle(side), triangle(24), triangle(9)]
            kinds = []
            for shape in (*shapes, shapes[0]):
                kinds.append(draw(server, shape))
                await asyncio.to_thread(
                    wait, partial(has, shape), "a pointer", program.said
                )
            assert kinds[-1] is UpdateKind.CACHED_POINTER
            draw(server, None)
            await asyncio.to_thread(
                wait,
                lambda: not shown_pointer(display)[2].any(),
                "a hidden pointer",
                program.said,
            )
            assert program.process.poll() is None


# ------------------------------------------------- our client, and others' orders ----


async def test_what_xrdp_draws_is_the_same_at_every_depth(tmp_path: Path) -> None:
    """Its dialog, in orders of compression that we do not write."""
    found = {}
    for depth in DEPTHS:
        folder = tmp_path / str(depth)
        folder.mkdir()
        with Xrdp(folder, "negotiate") as xrdp:
            config = ClientConfig("127.0.0.1", xrdp.port, user="x", depth=depth)
            config.known_servers = folder / "known"
            for pause in (1, 1, 3, 10, 30):  # there is a logo
                found[depth] = await screenshot(config, wait=pause)
                if len(np.unique(found[depth])) > (10 if depth == 8 else 1000):
                    break
    assert len(np.unique(found[24])) > 1000  # there is a logo
    assert found[24][0, 0] == found[24][-1, -1] == 0x009CB5
    assert len(np.unique(found[8])) > 10  # another logo
    assert found[8][0, 0] == found[8][-1, -1] == 0x0092AA
    for depth in (15, 16):
        far = np.zeros(found[24].shape, bool)
        for shift in (16, 8, 0):
            seen = found[depth].astype(np.int32) >> shift & 0xFF
            far |= abs(seen - (found[24] >> shift & 0xFF)) > ROUNDING
        assert np.count_nonzero(far) < 0.001 * far.size  # the caret blinks
