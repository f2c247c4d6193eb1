"""The far process of ``rusb bench``: the client with its emulated devices.

``python -m rusb.cli._bench_client PORT KNOWN_SERVERS`` reads JSON orders from standard
input, one a line, and answers each with a line: CPU seconds so far, largest resident
set in MB.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from rusb.aio.tls import client_context
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.session import connect

from ._bench_raw import answer
from ._common import run_async

__all__ = ["usage"]


def usage() -> dict[str, float]:
    """CPU seconds of this process so far and its largest resident set in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss / 1024}


async def main(port: int, known_servers: Path) -> None:
    """Connect, then obey until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    backend = EmulatedBackend(devices=[])
    config = ClientConfig("127.0.0.1", port, known_servers=known_servers)
    raw: set[asyncio.Task[None]] = set()
    async with connect(config, backends=[backend]):
        while line := await reader.readline():
            order: dict[str, Any] = json.loads(line)
            if order["do"] == "raw":
                work = answer(
                    order["port"], client_context(None), order["order"], order["total"]
                )
                raw.add(asyncio.ensure_future(work))
            elif order["do"] == "plug":
                for _ in range(order["count"]):
                    backend.plug(Loopback())
            print(json.dumps(usage()), flush=True)
        for task in raw:
            task.cancel()
        await asyncio.gather(*raw, return_exceptions=True)


if __name__ == "__main__":
    run_async(main(int(sys.argv[1]), Path(sys.argv[2])))
