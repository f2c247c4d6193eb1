"""The far process of ``rusb bench``: a client with its emulated devices.

``python -m rusb.cli._bench.far HOST PORT KNOWN_SERVERS WIRE return|once`` reads JSON
orders from its standard input, one a line, and answers each with a line: CPU seconds so
far, largest resident set in MB. With ``once`` it would not come back to the server.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from rusb.aio.tasks import TaskSet
from rusb.aio.tls import client_context
from rusb.client.backends.emulated import (
    EmulatedBackend,
    EmulatedDevice,
    FlashDrive,
    Loopback,
)
from rusb.client.config import ClientConfig
from rusb.client.session import connect

from .._common import run_async
from .clock import Clock
from .raw import RawPeer

__all__ = ["usage"]

KINDS = {"loopback": Loopback, "drive": FlashDrive, "clock": Clock}


def usage() -> dict[str, float]:
    """CPU seconds of this process so far and its largest resident set in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss / 1024}


class _Far:
    """What orders are done with."""

    def __init__(self, backend: EmulatedBackend) -> None:
        self._backend = backend
        self._tasks = TaskSet()
        self._raw = RawPeer()

    async def obey(self, order: dict[str, Any]) -> None:
        match order.pop("do"):
            case "plug":
                self._plug(**order)
            case "tick":
                self._clock().start(**order)
            case "silence":
                self._clock().stop()
            case "raw":
                await self._connect_raw(**order)
            case "pour":
                self._raw.expect(1)
                self._tasks.start(self._pour(**order), "pour")
            case "swallow":
                self._raw.expect(**order)
                self._tasks.start(self._confirm(), "swallow")
            case "echo":
                self._raw.is_echoing = True

    def _plug(self, kind: str, count: int) -> None:
        for _ in range(count):
            self._backend.plug(KINDS[kind]())

    def _clock(self) -> Clock:
        clocks: list[EmulatedDevice] = self._backend.devices
        return next(device for device in clocks if isinstance(device, Clock))

    async def _connect_raw(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(
            lambda: self._raw, "127.0.0.1", port, ssl=client_context(None)
        )

    async def _pour(self, total: int) -> None:
        await self._raw.all_expected()  # the word to go
        await self._raw.pour(total)

    async def _confirm(self) -> None:
        await self._raw.all_expected()
        self._raw.write(b"D")

    async def aclose(self) -> None:
        self._raw.close()
        await self._tasks.aclose()


async def main(host: str, port: int, known_servers: Path, wire: str, how: str) -> None:
    """Connect, then obey until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    backend = EmulatedBackend(devices=[])
    config = ClientConfig(
        host,
        port,
        known_servers=known_servers,
        wires=(wire,),
        reconnect=how == "return",
    )
    async with connect(config, backends=[backend]):
        far = _Far(backend)
        try:
            while line := await reader.readline():
                await far.obey(json.loads(line))
                print(json.dumps(usage()), flush=True)
        finally:
            await far.aclose()


if __name__ == "__main__":
    _, host, port, known_servers, wire, how = sys.argv
    run_async(main(host, int(port), Path(known_servers), wire, how))
