"""When QEMUs run a machine, as they say themselves: never two at a time."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from time import time as now
from typing import Any

from rusb.server.machine.control import control_path

__all__ = ["GONE", "Watched", "check_apart", "watched"]

GONE = "gone"
"""What :meth:`Watched.status` says of a QEMU that has ended."""


class Watched:
    """A QEMU on a monitor that nobody else uses (that for this machine's own devices).

    Attributes:
        spans: from when to when it ran its machine, by the system's clock.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.spans: list[tuple[float, float]] = []
        self._reader, self._writer = reader, writer
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._is_gone = False

    async def status(self) -> str:
        """How it says that its machine is; ``gone``: it has ended."""
        return GONE if self._is_gone else (await self.ask("query-status"))["status"]

    async def ask(self, command: str) -> Any:
        """Run a command of its monitor."""
        self._writer.write(json.dumps({"execute": command}).encode())
        return await self._answers.get()

    async def begin(self) -> None:
        """See how it is."""
        await self.ask("qmp_capabilities")
        if await self.status() == "running" and not self.spans:
            self.spans.append((0.0, math.inf))

    async def read(self) -> None:
        """Take what it says, until its end."""
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                self._take(json.loads(line))
        self._is_gone = True
        self._stopped(now())
        self._answers.put_nowait({"status": GONE})

    def _take(self, said: dict[str, Any]) -> None:
        if "return" in said:
            self._answers.put_nowait(said["return"])
        elif "event" in said:
            time = said["timestamp"]
            when = time["seconds"] + time["microseconds"] / 1e6
            if said["event"] == "RESUME":
                self._stopped(when)
                self.spans.append((when, math.inf))
            elif said["event"] == "STOP":
                self._stopped(when)

    def _stopped(self, when: float) -> None:
        if self.spans and self.spans[-1][1] == math.inf:
            self.spans[-1] = self.spans[-1][0], when


@contextlib.asynccontextmanager
async def watched(uuid: str) -> AsyncIterator[Watched]:
    """Watch the QEMU of a machine from now on, or from its start."""
    path = control_path(uuid).with_suffix(".qmp-host")
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(path)
            break
        await asyncio.sleep(0.02)
    found = Watched(reader, writer)
    reading = asyncio.ensure_future(found.read())
    try:
        await found.begin()
        yield found
    finally:
        reading.cancel()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def check_apart(one: Watched, other: Watched) -> None:
    """At no time did both run it."""
    for begin, end in one.spans:
        for start, stop in other.spans:
            assert end <= start or stop <= begin, (one.spans, other.spans)
