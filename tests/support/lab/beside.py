"""How late a key is beside a disk, over a network that has a rate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rusb.cli._bench.hearing import Heard, LoopbackEar, Source, hear
from rusb.cli._bench.plan import Job
from rusb.cli._bench.processes import run_far
from rusb.cli._bench.work import Flood
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackDevice, LoopbackGuest
from rusb.server.server import Server
from tests.support.lab.network import Network
from tests.support.whole_path import machine

__all__ = ["Beside", "beside"]


@dataclass
class Beside:
    """A client behind a network, with a keyboard and a disk."""

    source: Source
    disk: LoopbackDevice

    async def lags(self, job: Job, count: int, interval: float) -> Heard:
        """Have *count* keys pressed while the disk works, once its work fills the way.

        The disk works on until the client ends: to let what is under way come takes
        longer than all else.

        Args:
            job: what the disk does.
            count: keys.
            interval: seconds between two of them: the guest may ask for 32 that wait.
        """
        flood = Flood(job, [self.disk])
        await asyncio.sleep(1)
        before = flood.moved
        start = asyncio.get_running_loop().time()
        found = await hear(self.source, job, count, interval)
        elapsed = asyncio.get_running_loop().time() - start
        found.moved = round((flood.moved - before) / elapsed)
        return found


@contextlib.asynccontextmanager
async def beside(
    network: Network, folder: Path, wire: str = "vrdpusb"
) -> AsyncIterator[Beside]:
    """Serve a client in the network's namespace."""
    config = ServerConfig(
        machine(),
        ports=[0],
        address=network.server,
        log=str(folder / "log"),
        state=folder,
    )
    guest = LoopbackGuest()
    async with (
        Server(config, guest=guest, report=lambda *said: None) as server,
        run_far(
            *(server.port, folder, wire), host=network.server, inside=network.words
        ) as far,
    ):
        await far.order("plug", kind="loopback", count=1)
        (disk,) = await guest.wait_for(1)
        await far.order("plug", kind="clock", count=1)
        devices = await guest.wait_for(2)
        keyboard = next(device for device in devices if device is not disk)
        yield Beside(Source(far, LoopbackEar(keyboard)), disk)
