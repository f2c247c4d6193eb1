"""Measure: this process is the server with its guest, the client is another one.

Rounds of everything are interleaved, so that what disturbs the machine disturbs the
path and its yardstick alike (docs/spec/speed.md).
"""

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

from rusb.aio.tls import make_self_signed, server_context
from rusb.errors import RusbError
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine

from .far import usage
from .figures import Figures, Round, Row, ratios
from .hearing import (
    REPORT_SIZE,
    Heard,
    LoopbackEar,
    Source,
    hear,
    hear_beside_flood,
    redirected,
)
from .plan import (
    DEVICE_JOBS,
    FLOOD,
    MANY,
    MANY_JOBS,
    PEUSB_JOBS,
    PING,
    RAW_IN,
    RAW_OUT,
    REPORTS,
    STREAM_IN,
    STREAM_OUT,
    STREAMS,
    Job,
    Plan,
    flood_jobs,
    storage_jobs,
)
from .processes import Far, run_far, run_relay
from .raw import RawPeer, order_for, run_raw
from .work import control, interrupt, storage, transfer

__all__ = ["measure"]

log = logging.getLogger(__name__)

ATTACH_SECONDS = 30.0
ROUND_SECONDS = 120.0
WARM_UP, STREAM_WARM_UP = 8, 2
"""Before the rounds of a job, so many times less than a round of it, unmeasured."""

Work: TypeAlias = Callable[[Job, int], Awaitable[Heard | None]]
"""Does a job so many times."""

_WORK = {
    "bulk-in": transfer,
    "bulk-out": transfer,
    "rdpeusb-in": transfer,
    "rdpeusb-out": transfer,
    "control": control,
    "interrupt": interrupt,
    "storage-read": storage,
    "storage-write": storage,
}
NAMES = [*_WORK, FLOOD, REPORTS]
_SMALL = ("control", "interrupt", PING.name)
"""What is about time, not about bytes."""


async def measure(
    plan: Plan, progress: Callable[[str], None] = lambda text: None
) -> Figures:
    """Run everything.

    Args:
        plan: how much.
        progress: is told what is being measured.

    Raises:
        RusbError: a process of the bench ended, or a device of its own failed.
    """
    figures = Figures(os.getloadavg()[0])
    with tempfile.TemporaryDirectory(prefix="rusb-bench-") as name:
        folder = Path(name)
        machine = Machine(
            name="bench", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
        )
        machine.remote_display.allow_multi_connection = True
        config = ServerConfig(
            machine, ports=[0], address="127.0.0.1", log=name + "/log", state=folder
        )
        guest = LoopbackGuest()
        server = Server(config, guest=guest, report=log.info)
        async with server, AsyncExitStack() as stack:
            bench = _Bench(plan, figures, guest, server.port, folder, stack)
            await bench.run(progress)
    return figures


class _Bench:
    """One run."""

    def __init__(
        self,
        plan: Plan,
        figures: Figures,
        guest: LoopbackGuest,
        port: int,
        folder: Path,
        stack: AsyncExitStack,
    ) -> None:
        self._plan = plan
        self._figures = figures
        self._guest = guest
        self._port = port
        self._folder = folder
        self._stack = stack

    async def run(self, progress: Callable[[str], None]) -> None:
        """Fill the figures."""
        figures = self._figures
        far = await self._stack.enter_async_context(run_far(self._port, self._folder))
        raw = await self._connect_raw(far)
        loopbacks = await self._plug(far, "loopback")
        progress("transfers of one device, and the raw TLS stream")
        jobs = (*self._plan.streams(), *DEVICE_JOBS, PING)
        found = await self._rounds(far, jobs, self._transfers(loopbacks, raw))
        figures.ping = found.pop(PING)
        self._compare(found)
        self._add_rows(found)
        progress("transfers over MS-RDPEUSB")
        other = run_far(self._port, self._folder, "rdpeusb")
        async with other as over_peusb:
            devices = await self._plug(over_peusb, "loopback")
            work = self._transfers(devices)
            self._add_rows(await self._rounds(over_peusb, PEUSB_JOBS, work))
        await self._guest.wait_for(len(loopbacks))
        progress(f"transfers of {MANY} devices")
        loopbacks += await self._plug(far, "loopback", MANY - 1)
        work = self._transfers(loopbacks)
        self._add_rows(await self._rounds(far, MANY_JOBS, work))
        figures.rss_client_mb = (await far.usage())["rss"]
        figures.rss_server_mb = usage()["rss"]
        for rtt_ms in self._plan.rtts_ms:
            await self._at(rtt_ms, far, loopbacks, progress)
        figures.rows.sort(
            key=lambda r: (NAMES.index(r.name), r.devices, r.rtt_ms, -r.size, r.depth)
        )

    def _compare(self, found: dict[Job, list[Round]]) -> None:
        """Take what the ratio is made of; turns become rounds."""
        figures = self._figures
        figures.turns_in = ratios(found[STREAM_IN], found[RAW_IN])
        figures.turns_out = ratios(found[STREAM_OUT], found[RAW_OUT])
        n = self._plan.turns
        for job in STREAMS:
            turns = found[job]
            found[job] = [
                Round.of(turns[start : start + n]) for start in range(0, len(turns), n)
            ]
        figures.path_in, figures.path_out = found[STREAM_IN], found[STREAM_OUT]
        figures.raw_in.rounds = found.pop(RAW_IN)
        figures.raw_out.rounds = found.pop(RAW_OUT)

    async def _at(
        self,
        rtt_ms: int,
        far: Far,
        loopbacks: list[LoopbackDevice],
        progress: Callable[[str], None],
    ) -> None:
        """Measure the rows that are about the round trip."""
        port, suffix = self._port, ""
        if rtt_ms:
            suffix = f" at a round trip of {rtt_ms} ms"
            relay = run_relay(self._port, rtt_ms)
            port = await self._stack.enter_async_context(relay)
            far = await self._stack.enter_async_context(run_far(port, self._folder))
            loopbacks = await self._plug(far, "loopback")
        progress("storage" + suffix)
        drives = await self._plug(far, "drive")
        work = self._transfers(drives)
        self._add_rows(await self._rounds(far, storage_jobs(rtt_ms), work))
        progress("1000 reports a second" + suffix)
        clocks = await self._plug(far, "clock")
        report = Job(REPORTS, REPORT_SIZE, rtt_ms=rtt_ms)
        async with redirected(clocks[0]) as ear:
            work = partial(hear, Source(far, ear))
            self._add_rows(await self._rounds(far, [report], work))
        progress("reports beside a flood" + suffix)
        other = await self._stack.enter_async_context(run_far(port, self._folder))
        clocks += await self._plug(other, "clock")
        sources = {
            2: Source(far, LoopbackEar(clocks[0])),
            1: Source(other, LoopbackEar(clocks[1])),
        }
        work = partial(hear_beside_flood, sources, loopbacks[0])
        self._add_rows(await self._rounds(far, flood_jobs(rtt_ms), work))

    # ---------------------------------------------------------------- rounds ----

    def _transfers(
        self,
        devices: list[LoopbackDevice],
        raw: RawPeer | None = None,
    ) -> Work:
        """Return what does jobs with devices, and with the raw stream."""

        async def do(job: Job, count: int) -> None:
            if job.name in _WORK:
                await _WORK[job.name](job, devices, count)
                return
            assert raw is not None
            await run_raw(job, raw, count)

        return do

    async def _rounds(
        self, far: Far, jobs: Sequence[Job], work: Work
    ) -> dict[Job, list[Round]]:
        """Do all jobs, each round after the other, and the first without measuring."""
        found: dict[Job, list[Round]] = {job: [] for job in jobs}
        for n in range(self._plan.rounds + 1):
            for job in jobs:
                count = self._plan.count(job)
                if not n:
                    less = STREAM_WARM_UP if job in STREAMS else WARM_UP
                    count = max(2, count // less)
                try:
                    async with asyncio.timeout(ROUND_SECONDS):
                        done = await self._round(far, job, work, count)
                except TimeoutError as error:
                    text = f"{job.name} did not finish within {ROUND_SECONDS:g} s"
                    raise RusbError(text) from error
                if n:
                    found[job].append(done)
        return found

    async def _round(self, far: Far, job: Job, work: Work, count: int) -> Round:
        before, ours = await far.order(**order_for(job, count)), usage()
        start = time.perf_counter()
        heard = await work(job, count)
        elapsed = time.perf_counter() - start
        cpu_server = usage()["cpu"] - ours["cpu"]
        cpu_client = (await far.usage())["cpu"] - before["cpu"]
        if heard is None:
            moved = job.size * count if job.name not in _SMALL else 0
            return Round(count, elapsed, moved, cpu_client, cpu_server)
        return Round(
            max(len(heard.lags), 1),
            heard.seconds,
            heard.moved,
            cpu_client,
            cpu_server,
            heard.lags,
            heard.arrived,
        )

    def _add_rows(self, found: dict[Job, list[Round]]) -> None:
        figures = self._figures
        raw = {
            **dict.fromkeys(("bulk-in", "rdpeusb-in"), figures.raw_in),
            **dict.fromkeys(("bulk-out", "rdpeusb-out"), figures.raw_out),
        }
        figures.rows += [
            Row.of(job, rounds, raw.get(job.name)) for job, rounds in found.items()
        ]

    # ---------------------------------------------------------------- set-up ----

    async def _plug(self, far: Far, kind: str, count: int = 1) -> list[LoopbackDevice]:
        """Plug devices in at a client and return them as the guest has them."""
        before = set(self._guest.devices)
        await far.order("plug", kind=kind, count=count)
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                await self._guest.wait_for(len(before) + count)
        except TimeoutError as error:
            raise RusbError("the bench's own devices were not attached") from error
        return [d for name, d in self._guest.devices.items() if name not in before]

    async def _connect_raw(self, far: Far) -> RawPeer:
        """Open the raw TLS connection between the same two processes."""
        peer = RawPeer()
        context = server_context(*make_self_signed(self._folder), None)
        listener = await asyncio.get_running_loop().create_server(
            lambda: peer, "127.0.0.1", 0, ssl=context
        )
        await far.order("raw", port=listener.sockets[0].getsockname()[1])
        await peer.connected.wait()
        listener.close()
        self._stack.callback(peer.close)
        return peer
