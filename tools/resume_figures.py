#!/usr/bin/env python3
"""Measure what it costs that a client may come back (docs/spec/resume.md).

    .venv/bin/python tools/resume_figures.py [--rounds N] [--size MIB]

Two clients of one server, with `rusbext` and without, take turns with what `rusb bench`
does. Each line has the medians of both in microseconds of CPU of both ends for each
transfer, and by the clock, and the median of the ratios, with over without, of rounds
that follow each other.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))

from rusb.cli._bench.far import usage
from rusb.cli._bench.plan import STREAM_IN, STREAM_OUT, Job
from rusb.cli._bench.processes import Far, run_far
from rusb.cli._bench.work import control, transfer
from rusb.cli._common import run_async
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine

SMALL_IN, SMALL_OUT = Job("bulk-in", 512, 32), Job("bulk-out", 512, 32)
CONTROL = Job("control", 18)
JOBS = STREAM_IN, STREAM_OUT, SMALL_IN, SMALL_OUT, CONTROL

Side: TypeAlias = tuple[Far, LoopbackDevice]


async def measure(job: Job, side: Side, count: int) -> tuple[float, float]:
    """Return microseconds for each transfer: CPU of both ends, clock."""
    far, device = side
    work = control if job is CONTROL else transfer
    before = (await far.usage())["cpu"] + usage()["cpu"]
    start = time.perf_counter()
    await work(job, [device], count)
    clock = time.perf_counter() - start
    cpu = (await far.usage())["cpu"] + usage()["cpu"] - before
    return cpu / count * 1e6, clock / count * 1e6


def show(job: Job, rounds: list[list[tuple[float, float]]]) -> None:
    parts = [f"{job.name} {job.size} x {job.depth}:"]
    for at, name in enumerate(("CPU", "clock")):
        found = [[one[at] for one in side] for side in zip(*rounds, strict=True)]
        ratios = [a / b for a, b in zip(*found, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        parts.append(
            f"{name} {median(found[0]):.1f} and {median(found[1]):.1f} us,"
            f" ratio {median(ratios):.3f} ({low:.2f} to {high:.2f})"
        )
    print("  ".join(parts), flush=True)


async def run(rounds: int, size: int) -> None:
    machine = Machine(
        name="bench", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
    )
    machine.remote_display.allow_multi_connection = True
    guest = LoopbackGuest()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = ServerConfig(
            machine, ports=[0], address="127.0.0.1", log=f"{folder}/log", state=folder
        )
        server = Server(config, guest=guest, report=lambda text: None)
        await stack.enter_async_context(server)
        sides: list[Side] = []
        for may_return in (True, False):
            one = run_far(server.port, folder, may_return=may_return)
            far = await stack.enter_async_context(one)
            await far.order("plug", kind="loopback", count=1)
            devices = await guest.wait_for(len(sides) + 1)
            sides.append((far, devices[-1]))
        for job in JOBS:
            count = (size << 20) // job.size if job.size > 1000 else size * 100
            found = []
            for n in range(rounds + 1):
                order = (0, 1) if n % 2 else (1, 0)
                pair = {at: await measure(job, sides[at], count) for at in order}
                found.append([pair[0], pair[1]])
            show(job, found[1:])
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--size", type=int, default=16, help="MiB of a round")
    args = parser.parse_args()
    run_async(run(args.rounds, args.size))


if __name__ == "__main__":
    main()
