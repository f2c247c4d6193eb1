"""What MS-RDPEUSB costs beside ``vrdpusb``: CPU of both ends, and bytes a second.

``python tools/wires.py`` runs a server with the loopback guest, and for each wire a
client of ours with a loopback device, in processes of their own. Rounds of the wires
alternate, and each line has the medians of their ratios, above 1 where MS-RDPEUSB is
better. With real-time priority (``chrt -r 5``) the clock means something, too.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from rusb.cli._bench.far import usage  # noqa: E402
from rusb.cli._bench.plan import Job  # noqa: E402
from rusb.cli._bench.processes import Far, run_far  # noqa: E402
from rusb.cli._bench.work import Flood  # noqa: E402
from rusb.cli._common import run_async  # noqa: E402
from rusb.filters.model import Filter  # noqa: E402
from rusb.server.config import ServerConfig  # noqa: E402
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest  # noqa: E402
from rusb.server.server import Server  # noqa: E402
from rusb.server.vbox.settings import Machine  # noqa: E402

WIRES = "vrdpusb", "rdpeusb"
SIZES = ((512, 8), (65536, 1), (65536, 8), (1 << 20, 8))
JOBS = tuple(Job(f"bulk-{way}", *size) for size in SIZES for way in ("in", "out"))
BYTES = 32 << 20
"""Of a round at most."""

TARGET = 0.8
"""What ``--check`` wants of each ratio."""


async def measure(
    job: Job, most: int, far: Far, device: LoopbackDevice
) -> tuple[float, float]:
    """Do a round of *most* transfers at most; return seconds of CPU for each, and by
    the clock."""
    count = min(most, BYTES // job.size)
    await Flood(job, [device], count // 8).finish()
    before = usage()["cpu"] + (await far.usage())["cpu"]
    start = time.perf_counter()
    await Flood(job, [device], count).finish()
    elapsed = time.perf_counter() - start
    used = usage()["cpu"] + (await far.usage())["cpu"] - before
    return used / count, elapsed / count


async def main(rounds: int, transfers: int, *, is_checked: bool) -> None:
    """Measure, print, and judge if that is wanted."""
    machine = Machine(
        name="wires", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
    )
    machine.remote_display.allow_multi_connection = True
    guest = LoopbackGuest()
    found: dict[tuple[Job, str], list[tuple[float, float]]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = ServerConfig(
            machine,
            ports=[0],
            address="127.0.0.1",
            log=str(folder / "log"),
            state=folder,
        )
        server = Server(config, guest=guest, report=lambda *said: None)
        await stack.enter_async_context(server)
        ends: dict[str, tuple[Far, LoopbackDevice]] = {}
        for wire in WIRES:
            far = await stack.enter_async_context(run_far(server.port, folder, wire))
            await far.order("plug", kind="loopback", count=1)
            async with asyncio.timeout(30):
                device = (await guest.wait_for(len(ends) + 1))[-1]
            ends[wire] = far, device
        for n in range(rounds):
            for job in JOBS:
                for wire in WIRES[:: 1 if n % 2 else -1]:
                    figures = found.setdefault((job, wire), [])
                    figures.append(await measure(job, transfers, *ends[wire]))
    print(f"load {os.getloadavg()[0]:.1f}; medians of {rounds} rounds")
    print("what | size | in flight | CPU us, vrdpusb / rdpeusb | ratio | MB/s | ratio")
    missed = []
    for job in JOBS:
        old, new = (found[job, wire] for wire in WIRES)
        cpu = median(a[0] / b[0] for a, b in zip(old, new, strict=True))
        speed = median(a[1] / b[1] for a, b in zip(old, new, strict=True))
        used = [f"{median(f[0] for f in e) * 1e6:.0f}" for e in (old, new)]
        rate = [f"{job.size / median(f[1] for f in e) / 1e6:.0f}" for e in (old, new)]
        columns = f"{' / '.join(used)} | {cpu:.2f} | {' / '.join(rate)} | {speed:.2f}"
        print(f"{job.name} | {job.size} | {job.depth} | {columns}")
        if min(cpu, speed) < TARGET:
            missed.append(job)
    if is_checked and missed:
        sys.exit(f"below {TARGET}: {missed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--transfers", type=int, default=3000, help="of a round")
    parser.add_argument("--check", action="store_true", help="fail below 0.8")
    args = parser.parse_args()
    run_async(main(args.rounds, args.transfers, is_checked=args.check))
