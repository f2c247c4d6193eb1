"""What many devices and many clients cost: CPU for each transfer, memory of a client.

``python tools/crowd.py`` runs a server with the loopback guest, and clients in another
process. Rows: 1, 10 and 100 devices of one client, the same of a kind that is read
ahead, then 1, 10 and 64 clients with one device each. Each round measures every row's
transfers in turns: first each device keeps as many in flight as the one does, then as
many are in flight in all.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from rusb.cli._bench.plan import Job  # noqa: E402
from rusb.cli._bench.work import Flood  # noqa: E402
from rusb.cli._common import run_async  # noqa: E402
from rusb.client.backends.emulated import (  # noqa: E402
    EmulatedBackend,
    EmulatedDevice,
    Loopback,
    bulk,
    describe,
)
from rusb.client.config import ClientConfig  # noqa: E402
from rusb.client.session import connect  # noqa: E402
from rusb.filters.model import Filter  # noqa: E402
from rusb.server import admission  # noqa: E402
from rusb.server.config import ServerConfig  # noqa: E402
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest  # noqa: E402
from rusb.server.server import Server  # noqa: E402
from rusb.server.vbox.settings import Machine  # noqa: E402
from rusb.usb.descriptors import InterfaceDescriptor  # noqa: E402
from rusb.usb.types import ClassCode, Speed  # noqa: E402

DEVICES, CLIENTS = (1, 10, 100), (1, 10, 64)
EACH = (Job("bulk-in", 512), Job("bulk-in", 64 << 10), Job("bulk-in", 64 << 10, 4))
"""With so many in flight at each device."""

IN_ALL = (Job("bulk-in", 512, 32), Job("bulk-in", 64 << 10, 8))
"""With so many in flight at all devices."""

JOBS = EACH + IN_ALL
COUNTS = (40000, 12000, 12000, 40000, 12000)
"""Transfers of a round of each job."""

LEFT = 5 * (64 << 10)
"""Bytes at most that were read ahead at a device by the job before: a job begins after
they are used up."""


class Printer(Loopback):
    """One that is not read ahead, as few devices are."""

    def __init__(self) -> None:
        super().__init__()
        speed, ends = Speed.HIGH, (self.SOURCE, self.SINK)
        endpoints = tuple(bulk(address, speed) for address in ends)
        kind = ClassCode.PRINTER
        setting = InterfaceDescriptor(0, 0, kind, 1, 2, endpoints=endpoints)
        descriptors = describe(speed, 0x0005, setting)
        EmulatedDevice.__init__(self, descriptors, ("rusb", "Printer", ""))


KINDS = {"printer": Printer, "loopback": Loopback}


async def clients(port: int, count: int, devices: int, kind: str) -> None:
    """Be *count* clients with so many devices each, until standard input ends."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="crowd") as name:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                made = [KINDS[kind]() for _ in range(devices)]
                backend = EmulatedBackend(devices=made)
                known = Path(name) / "known"
                config = ClientConfig("127.0.0.1", port, known_servers=known)
                await stack.enter_async_context(connect(config, backends=[backend]))
            reader = asyncio.StreamReader()
            await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
            )
            await reader.read()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, finer than its ticks."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def resident() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Crowd:
    """A server, with clients and devices of a process."""

    def __init__(self, folder: Path) -> None:
        machine = Machine(
            name="crowd", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
        )
        machine.remote_display.allow_multi_connection = True
        folder.mkdir(parents=True)
        log = str(folder / "log")
        config = ServerConfig(
            machine, ports=[0], address="127.0.0.1", log=log, state=folder
        )
        self.guest = LoopbackGuest()
        self.server = Server(config, guest=self.guest, report=lambda *said: None)
        self.figures: list[list[float]] = [[] for _ in JOBS]

    async def come(
        self, stack: AsyncExitStack, count: int, devices: int, kind: str
    ) -> None:
        """Let clients connect and their devices be attached."""
        await stack.enter_async_context(self.server)
        words = "--clients", str(self.server.port), str(count), str(devices), kind
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, *words), stdin=asyncio.subprocess.PIPE
        )
        stack.push_async_callback(self.leave)
        async with asyncio.timeout(120):
            self.devices = await self.guest.wait_for(count * devices)

    async def leave(self) -> None:
        """Let the clients go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def round(self) -> None:
        """Do a round of each job."""
        for job, count, figures in zip(JOBS, COUNTS, self.figures, strict=True):
            left = LEFT // job.size * len(self.devices)
            await spread(job, self.devices, max(left, count // 4))
            before = cpu(os.getpid()) + cpu(self._process.pid)
            done = await spread(job, self.devices, count)
            used = cpu(os.getpid()) + cpu(self._process.pid) - before
            figures.append(used / done * 1e6)


async def spread(job: Job, devices: list[LoopbackDevice], count: int) -> int:
    """Do transfers with all devices; return how many."""
    if job in EACH:
        of_all = replace(job, depth=job.depth * len(devices))
        await Flood(of_all, devices, count).finish()
        return count
    groups = [devices[n : n + job.depth] for n in range(0, len(devices), job.depth)]
    for group in groups:
        await Flood(job, group, count // len(groups)).finish()
    return count // len(groups) * len(groups)


async def rows(
    folder: Path,
    sizes: tuple[int, ...],
    of: Callable[[int], tuple[int, int]],
    kind: str,
) -> list[str]:
    """Measure some rows, their rounds in turns; return lines of a table."""
    async with AsyncExitStack() as stack:
        crowds, grown = [], []
        for size in sizes:
            crowd = Crowd(folder / str(size))
            crowds.append(crowd)
            before = resident()
            await crowd.come(stack, *of(size), kind)
            await asyncio.sleep(1)
            grown.append((resident() - before) / size)
        idle = cpu(os.getpid())
        start = time.monotonic()
        await asyncio.sleep(5)
        idle = (cpu(os.getpid()) - idle) / (time.monotonic() - start) * 100
        for n in range(ROUNDS + 1):
            for crowd in crowds:
                await crowd.round()
                if not n:
                    crowd.figures = [[] for _ in JOBS]
        base = [median(f) for f in crowds[0].figures]
        lines = []
        for size, crowd, each in zip(sizes, crowds, grown, strict=True):
            cells = [
                f"{median(f):.1f} ({median(f) / b:.2f})"
                for f, b in zip(crowd.figures, base, strict=True)
            ]
            lines.append(f"{size} | {' | '.join(cells)} | {each:.3f}")
        return [*lines, f"(all of them idle: {idle:.2f} % of a core)"]


ROUNDS = 3


async def main() -> None:
    """Measure and print."""
    # all of them come from one address here
    admission.MAX_DEVICES_PER_CLIENT = max(DEVICES)
    admission.MAX_CLIENTS_PER_NETWORK = max(CLIENTS)
    names = (f"{job.size} bytes x {job.depth}" for job in JOBS)
    each = f"CPU us, of each device for {len(EACH)}, then of all"
    print(f"what | {each}: {' | '.join(names)} | MB of the server each")
    with tempfile.TemporaryDirectory(prefix="crowd") as name:
        folder = Path(name)
        for kind, what in (("printer", "devices"), ("loopback", "devices read ahead")):
            for line in await rows(folder / kind, DEVICES, lambda n: (1, n), kind):
                print(f"{what}: {line}", flush=True)
        for line in await rows(folder / "c", CLIENTS, lambda n: (n, 1), "printer"):
            print(f"clients: {line}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.clients:
        port, count, devices, kind = args.clients
        run_async(clients(int(port), int(count), int(devices), kind))
    else:
        run_async(main())
