#!/usr/bin/env python3
"""Measure what the guest's screen costs a server (docs/performance.md).

    .venv/bin/python tools/screen_figures.py [--seconds N] [--rounds N] [--check]

The server runs in this process, between a VNC server that is made up and viewers that
draw nothing, which run in another one. With --check, the exit status is 1 if a figure
exceeds its target.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import statistics
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from rusb.client import wires
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import ClientSession, connect
from rusb.filters.model import Filter
from rusb.rdp import capabilities, gfx
from rusb.rdp.channels import (
    ChannelHandler,
    ChannelLimits,
    ChannelListener,
    ChannelRegistry,
)
from rusb.rdp.graphics.pixels import to_bytes, to_depth
from rusb.rdp.graphics.updates import CELL, Damage, Encoder, Form
from rusb.rdp.share import DataType
from rusb.server.config import ServerConfig
from rusb.server.display.h264 import H264Encoder
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay
from tests.support.rdp.pictures import desktop, film
from tests.support.rdp.surfaces import AVC_8_1, unwrap
from tests.support.screen_guest import ScreenGuest
from tests.support.vnc import handshake, rect, update
from tests.support.whole_path import rdp_of, say, stream_of

WIDTH, HEIGHT = 1280, 800
FILM = X, Y, W, H = 320, 160, 640, 480
REFRESH = 0.03
"""Seconds between two looks of QEMU at the guest's screen."""

LINE = 16
Place = tuple[int, int, int, int]
DEPTHS = (8, 15, 16, 24)
SCRBLT = 2
"""Where a client says that it moves parts of its screen (MS-RDPBCGR 2.2.7.1.3)."""


# ------------------------------------------------------------------ encoding ----


def cpu(work: Callable[[], object], times: int = 15) -> float:
    """Return the least seconds of processor time that something takes."""
    best = 1e9
    for _ in range(times):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


def encoding() -> dict[str, float]:
    """Milliseconds for parts of a desktop of text, and what compares them."""
    frame = desktop(WIDTH, HEIGHT)

    def draw(depth: int, *part: int) -> list[Any]:
        damage = Damage(WIDTH, HEIGHT)
        damage.add(*(part or (0, 0, WIDTH, HEIGHT)))
        return Encoder(frame, WIDTH, HEIGHT).updates(damage.take(), Form(depth))

    raw = to_bytes(to_depth(frame[:HEIGHT, :WIDTH], 16), 2).tobytes()
    yardstick = cpu(lambda: zlib.compress(raw, 1))
    whole, whole_24 = cpu(lambda: draw(16)), cpu(lambda: draw(24))
    character = cpu(lambda: draw(16, 320, 320, 16, 16), 100)
    window = cpu(lambda: draw(16, 320, 320, 208, 208), 50)
    encoder, numbers = H264Encoder(W, H, 75), itertools.count()
    films = itertools.cycle([film(W, H, number) for number in range(8)])
    picture = cpu(lambda: encoder.encode(next(films), is_key=not next(numbers)), 30)
    size = sum(len(one.body) for one in draw(16))
    return {
        "whole desktop, 16 bpp, ms": whole * 1e3,
        "200x200, 16 bpp, ms": window * 1e3,
        "one character, 16 bpp, ms": character * 1e3,
        "whole desktop, 24 bpp / zlib": whole_24 / yardstick,
        "200x200 / whole": window / whole,
        "one character / whole": character / whole,
        "AVC420 of 640x480 / whole, 24 bpp": picture / whole_24,
        "bytes of the desktop / raw": size / len(raw),
    }


# ------------------------------------------------------- the other process: far ----


class Source:
    """A VNC server of one client, with QEMU's pace."""

    def __init__(self) -> None:
        self.frame = np.ascontiguousarray(desktop(WIDTH, HEIGHT)[:HEIGHT, :WIDTH])
        self.sent = 0
        self._is_asked = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._echoes = False

    async def start(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writer = writer
        writer.write(handshake(WIDTH, HEIGHT))
        await reader.readexactly(12 + 1 + 1)
        sizes = {0: 19, 3: 9, 4: 7, 5: 5, 251: 23}
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind = (await reader.readexactly(1))[0]
                if kind == 2:
                    head = await reader.readexactly(3)
                    await reader.readexactly(4 * int.from_bytes(head[1:]))
                elif kind == 255:
                    head = await reader.readexactly(3)
                    size = 8 if not head[0] else 6 if head[2] == 2 else 0
                    body = await reader.readexactly(size)
                    if not head[0] and head[2]:
                        asyncio.ensure_future(self._echo(body))  # noqa: RUF006
                elif kind == 6:
                    head = await reader.readexactly(7)
                    await reader.readexactly(abs(struct.unpack(">i", head[3:])[0]))
                else:
                    body = await reader.readexactly(sizes[kind])
                    if kind == 3:
                        if not body[0]:
                            self._say([(0, 0, WIDTH, HEIGHT)])
                        else:
                            self._is_asked.set()

    async def _echo(self, body: bytes) -> None:
        """Show a key when QEMU next looks at the screen."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(REFRESH - now % REFRESH)
        column = int(now * 1000) % (WIDTH // 16) * 16
        self.frame[400:416, column : column + 16] ^= 0xFFFFFF
        await self._show([(column, 400, 16, 16)])

    def _say(self, places: list[Place]) -> None:
        assert self._writer is not None
        parts = [
            rect(0, x, y, w, h, self.frame[y : y + h, x : x + w].tobytes())
            for x, y, w, h in places
        ]
        self._writer.write(update(*parts))
        self.sent += 1

    async def _show(self, places: list[Place]) -> None:
        await self._is_asked.wait()
        self._is_asked.clear()
        self._say(places)

    async def play(self, steps: Iterator[Any], rate: float, seconds: float) -> int:
        """Show one step after the other; return how many."""
        loop = asyncio.get_running_loop()
        begin, count = loop.time(), 0
        while loop.time() - begin < seconds:
            places = next(steps)
            await self._show(places)
            count += 1
            await asyncio.sleep(max(0.0, begin + count / rate - loop.time()))
        return count

    def console(self) -> Iterator[list[Place]]:
        """Text that scrolls by a line; told in QEMU's columns of 16 pixels."""
        text = self.frame.copy()
        shape = HEIGHT // LINE, LINE, WIDTH // CELL, CELL
        changes = np.asarray(np.roll(text, -LINE, 0) ^ text).reshape(shape)
        cells = np.asarray(changes.any((1, 3)))
        places = []
        for row in range(HEIGHT // LINE):
            edges = np.flatnonzero(np.diff(cells[row], prepend=0, append=0))
            for left, right in edges.reshape(-1, 2).tolist():
                places.append((left * CELL, row, (right - left) * CELL, LINE))
        for line in itertools.cycle(range(1, HEIGHT // LINE)):
            np.copyto(self.frame, np.roll(text, -LINE * line, 0))
            lines = HEIGHT // LINE
            yield [
                (x, (row - line + 1) % lines * LINE, w, h) for x, row, w, h in places
            ]

    def film(self) -> Iterator[list[Place]]:
        number = 0
        while True:
            number += 1
            self.frame[Y : Y + H, X : X + W] = film(W, H, number)
            yield [FILM]


class Blind:
    """Takes pictures and draws none; says when one came."""

    def __init__(self) -> None:
        self.came = asyncio.Event()

    def begin(self, width: int, height: int) -> None: ...

    def draw(self, update: bytes) -> None:
        self.came.set()


class Pipeline(ChannelHandler):
    """Acknowledges frames of the graphics pipeline."""

    def __init__(self) -> None:
        self.send: Callable[[int, bytes], None] = lambda channel, data: None
        self.listener = ChannelListener(
            gfx.CHANNEL, self._opened, is_dynamic=True, limits=ChannelLimits()
        )

    def _opened(self, channel: int, name: str) -> "Pipeline":
        asyncio.get_running_loop().call_soon(self.send, channel, AVC_8_1)
        return self

    def received(self, channel: int, data: bytes) -> None:
        pdus, at = unwrap(data), 0
        while at < len(pdus):
            kind, _, size = struct.unpack_from("<HHI", pdus, at)
            if kind == 0x0C:
                (frame,) = struct.unpack_from("<I", pdus, at + 8)
                head = struct.pack("<HHIIII", 0x0D, 0, 20, 0, frame, frame)
                self.send(channel, head)
            at += size

    def closed(self, channel: int) -> None: ...


class Far:
    """Does what it is told, in lines of JSON."""

    def __init__(self) -> None:
        self._source = Source()
        self._viewers: list[tuple[ClientSession, Blind]] = []
        self._stack = contextlib.AsyncExitStack()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            call = json.loads(line)
            answer = await getattr(self, call.pop("do"))(**call)
            print(json.dumps(answer), flush=True)
        await self._stack.aclose()

    async def source(self, path: str) -> None:
        await self._source.start(path)

    async def view(
        self, port: int, depth: int, folder: str, avc: bool, moves: bool
    ) -> None:
        pipeline = Pipeline()
        order = capabilities._order
        orders = bytes(number == SCRBLT and moves for number in range(32))
        capabilities._order = lambda **fields: order(**{**fields, "orders": orders})
        if avc:
            vars(wires)["ChannelRegistry"] = lambda given: ChannelRegistry(
                [*given, pipeline.listener]
            )
        screen = Blind()
        config = ClientConfig("127.0.0.1", port, known_servers=Path(folder, "known"))
        config = dataclasses.replace(
            config, depth=depth, screen=screen, wires=("rdpeusb",), is_usb_only=False
        )
        session = await self._stack.enter_async_context(connect(config, backends=[]))
        vars(wires)["ChannelRegistry"] = ChannelRegistry
        capabilities._order = order

        def send(channel: int, data: bytes) -> None:
            rdp_of(session).send_channel(channel, data)
            stream_of(session).flush()

        pipeline.send = send
        self._viewers.append((session, screen))
        if not avc:
            await asyncio.wait_for(screen.came.wait(), 20)

    async def usb(self, port: int, folder: str) -> None:
        config = ClientConfig("127.0.0.1", port, known_servers=Path(folder, "known"))
        backend = EmulatedBackend(devices=[Loopback()])
        await self._stack.enter_async_context(connect(config, backends=[backend]))

    async def leave(self) -> None:
        await self._stack.aclose()
        self._viewers.clear()

    async def play(self, what: str, rate: float, seconds: float) -> int:
        steps = getattr(self._source, what)()
        return await self._source.play(steps, rate, seconds)

    async def keys(self, count: int) -> list[float]:
        """Milliseconds from a key to the first picture after it."""
        session, screen = self._viewers[0]
        found = []
        loop = asyncio.get_running_loop()
        for number in range(count):
            await asyncio.sleep(0.1 + number % 7 * 0.007)
            screen.came.clear()
            begin = loop.time()
            events = b"".join(
                struct.pack("<IHHHH", 0, 4, flags, 0x1E, 0) for flags in (0, 0x8000)
            )
            say(session, DataType.INPUT, struct.pack("<HH", 2, 0) + events)
            await asyncio.wait_for(screen.came.wait(), 5)
            found.append((loop.time() - begin) * 1e3)
        return found


# -------------------------------------------------------------------- near ----


class Near:
    """The server, and the line to the other process."""

    def __init__(self, folder: Path, seconds: float, rounds: int) -> None:
        self.folder, self.seconds, self.rounds = folder, seconds, rounds
        self._far: dict[str, asyncio.subprocess.Process] = {}
        self.guest = ScreenGuest(folder / "vnc")
        remote = RemoteDisplay(
            allow_multi_connection=True, properties={"VideoChannel/Enabled": "true"}
        )
        machine = Machine(
            "Figures",
            filters=(Filter(name="all"),),
            usb_controllers=("XHCI",),
            remote_display=remote,
        )
        config = ServerConfig(
            machine,
            ports=[0],
            address="127.0.0.1",
            log=str(folder / "VBox.log"),
            state=folder,
        )
        self.server = Server(config, guest=self.guest, report=lambda text: None)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            await self.tell("source", path=str(self.guest.path))
            async with self.server:
                while self.server._screens[0].size is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                yield
        finally:
            for far in self._far.values():
                assert far.stdin is not None
                far.stdin.close()
                await far.wait()

    async def tell(self, do: str, *, to: str = "screen", **how: Any) -> Any:
        """Let another process do something; return what it says."""
        if to not in self._far:
            self._far[to] = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "--far"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 20,
            )
        far = self._far[to]
        assert far.stdin is not None
        assert far.stdout is not None
        far.stdin.write(json.dumps({"do": do, **how}).encode() + b"\n")
        return json.loads(await far.stdout.readline())

    async def view(self, depth: int, *, avc: bool = False, moves: bool = True) -> None:
        """Let somebody watch, who moves parts of the screen, as rdesktop does."""
        before = len(self.viewers)
        how = {"depth": depth, "avc": avc, "moves": moves}
        where = {"port": self.server.port, "folder": str(self.folder)}
        await self.tell("view", to="screen", **how, **where)
        while len(self.viewers) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def leave(self) -> None:
        """Let all go who watch."""
        await self.tell("leave")
        while self.viewers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    @property
    def viewers(self) -> Collection[Any]:
        """Who watches."""
        return self.server._screens[0]._viewers

    @property
    def pictures(self) -> int:
        """How many a viewer has been sent, of those who watch."""
        return max(int(viewer.frames) for viewer in self.viewers)

    async def share(self, what: str, rate: float) -> float:
        """Return the share of a core that showing something takes.

        A machine with other work shows less of it: what one picture takes counts.
        """
        await self.tell("play", what=what, rate=rate, seconds=self.seconds / 4)
        before, begin = self.pictures, time.process_time()
        count = await self.tell("play", what=what, rate=rate, seconds=self.seconds)
        shown = min(count, self.pictures - before)
        return float((time.process_time() - begin) / shown * rate)

    async def flood(self, device: Any) -> tuple[int, float]:
        """Read from a device; return the transfers and the processor's seconds."""
        loop = asyncio.get_running_loop()
        end, count = loop.time() + self.seconds, 0

        async def read() -> None:
            nonlocal count
            while loop.time() < end:
                await device.read(Loopback.SOURCE, 65536)
                count += 1

        begin = time.process_time()
        await asyncio.gather(*(read() for _ in range(4)))
        return count, time.process_time() - begin

    async def late(self) -> float:
        """Return how late a timer of 1 ms is: the 99th percentile, in ms."""
        loop = asyncio.get_running_loop()
        end, found = loop.time() + self.seconds, []
        while loop.time() < end:
            due = loop.time() + 0.001
            await asyncio.sleep(0.001)
            found.append((loop.time() - due) * 1e3)
        return statistics.quantiles(found, n=100)[98]

    def scroll(self) -> "asyncio.Task[int]":
        """Let the console scroll meanwhile; its result is how many screens came."""
        playing = self.tell("play", what="console", rate=30, seconds=self.seconds)
        return asyncio.ensure_future(playing)


async def measure(seconds: float, rounds: int) -> dict[str, float]:
    """Return the figures of whole servers."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="screen") as folder:
        near = Near(Path(folder), seconds, rounds)
        async with near.running():
            for depth in DEPTHS:
                await near.view(depth)
                share = await near.share("console", 30)
                found[f"scrolling console, {depth} bpp, cores"] = share
                await near.leave()
                await near.view(depth, moves=False)
                share = await near.share("console", 30)
                found[f"the same drawn anew, {depth} bpp, cores"] = share
                await near.leave()
            await near.view(16)
            one = await near.share("console", 30)
            await near.view(16)
            two = await near.share("console", 30)
            found["two viewers / one"] = two / one
            await near.leave()
            await near.view(24, avc=True)
            found["video 640x480, 24/s, cores"] = await near.share("film", 24)
            await near.leave()
            await near.view(16)
            keys = await near.tell("keys", count=8 * near.rounds)
            found["key to picture, median, ms"] = statistics.median(keys)
            found["key to picture, p90, ms"] = statistics.quantiles(keys, n=10)[8]
            found |= await beside_usb(near)
    return found


async def beside_usb(near: Near) -> dict[str, float]:
    """Return what a screen that scrolls does to USB, and USB to a screen."""
    where = {"port": near.server.port, "folder": str(near.folder)}
    await near.tell("usb", to="usb", **where)
    (device,) = await near.guest.wait_for(1)
    found = await scrolling_beside_usb(near, device)
    late = []
    for _ in range(near.rounds):
        alone = await near.late()
        playing = near.scroll()
        late.append(await near.late() - alone)
        await playing
    found["1 ms timer beside it, p99, ms later"] = statistics.median(late)
    near.seconds, seconds = 2.0, near.seconds
    keys: list[float] = []
    for _ in range(near.rounds):
        flood = asyncio.ensure_future(near.flood(device))
        keys += await near.tell("keys", count=8)
        await flood
    near.seconds = seconds
    found["key to picture beside USB, median, ms"] = statistics.median(keys)
    found["key to picture beside USB, p90, ms"] = statistics.quantiles(keys, n=10)[8]
    await near.leave()
    await near.view(16, moves=False)
    anew = await scrolling_beside_usb(near, device)
    return found | {f"drawn anew: {name}": value for name, value in anew.items()}


async def scrolling_beside_usb(near: Near, device: Any) -> dict[str, float]:
    """Return what a transfer takes beside a screen that scrolls, less the pictures."""
    ratios, costs, rates = [], [], []
    for _ in range(near.rounds):  # in turns, for the machine has other things to do
        screen = await near.share("console", 30) / 30
        count, used = await near.flood(device)
        costs.append(used / count)
        playing, before = near.scroll(), near.pictures
        count, used = await near.flood(device)
        shown = min(await playing, near.pictures - before)
        ratios.append((used - screen * shown) / count / costs[-1])
        rates.append(shown / near.seconds)
    return {
        "transfer of 64 KiB, us": statistics.median(costs) * 1e6,
        "the same beside a scrolling screen / without": statistics.median(ratios),
        "screens a second beside it": statistics.median(rates),
    }


TARGETS = {
    "whole desktop, 24 bpp / zlib": 3.5,
    "200x200 / whole": 0.2,
    "one character / whole": 0.02,
    "AVC420 of 640x480 / whole, 24 bpp": 0.35,
    "bytes of the desktop / raw": 0.2,
    **{f"scrolling console, {depth} bpp, cores": 0.35 for depth in DEPTHS},
    **{f"the same drawn anew, {depth} bpp, cores": 0.35 for depth in DEPTHS},
    "two viewers / one": 1.3,
    "video 640x480, 24/s, cores": 0.15,
    "key to picture, median, ms": 30.0,
    "key to picture, p90, ms": 60.0,
    "key to picture beside USB, median, ms": 30.0,
    "key to picture beside USB, p90, ms": 60.0,
    "the same beside a scrolling screen / without": 1.1,
    "1 ms timer beside it, p99, ms later": 5.0,
}
"""What none may exceed (display.md 12)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each figure")
    parser.add_argument("--rounds", type=int, default=5, help="of USB beside it")
    parser.add_argument("--check", action="store_true", help="fail beyond a target")
    parser.add_argument("--far", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.far:
        asyncio.run(Far().run())
        return 0
    found = encoding() | asyncio.run(measure(given.seconds, given.rounds))
    bad = 0
    for name, value in found.items():
        target = TARGETS.get(name)
        is_bad = target is not None and value > target
        bad += is_bad
        limit = "" if target is None else f"at most {target:g}"
        print(f"{name:<58} {value:10.3f}  {limit:<14}{'  <--' if is_bad else ''}")
    return 1 if bad and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
