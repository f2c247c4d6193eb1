"""The other processes of ``rusb bench``."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from rusb.errors import RusbError

__all__ = ["Far", "run_far", "run_relay"]

ANSWER_SECONDS, END_SECONDS = 30.0, 5.0
"""Until a process has answered, and ended once its standard input has."""


async def _line(process: asyncio.subprocess.Process) -> bytes:
    """Return the next line of a process; its errors went to our standard error."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError:
        line = b""
    if not line:
        raise RusbError("a bench process ended or is stuck; its errors are above")
    return line


@contextlib.asynccontextmanager
async def _run(
    module: str, *words: str, inside: Sequence[str] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(*inside, sys.executable, "-m", f"rusb.cli._bench.{module}", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:  # it is stuck
            process.kill()
            await process.wait()


class Far:
    """A process with a client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def order(self, do: str, **details: Any) -> dict[str, float]:
        """Give an order and return the usage of the process after it."""
        writer = self._process.stdin
        assert writer is not None
        writer.write(json.dumps({"do": do, **details}).encode() + b"\n")
        await writer.drain()
        found: dict[str, float] = json.loads(await _line(self._process))
        return found

    async def usage(self) -> dict[str, float]:
        """Ask for CPU seconds so far and the largest resident set in MB."""
        return await self.order("nothing")


@contextlib.asynccontextmanager
async def run_far(
    port: int,
    folder: Path,
    wire: str = "vrdpusb",
    *,
    may_return: bool = True,
    host: str = "127.0.0.1",
    inside: Sequence[str] = (),
) -> AsyncIterator[Far]:
    """Run a client of the server at *port*; it keeps its pins in *folder*.

    Args:
        port: of the server.
        folder: where it keeps its pins.
        wire: that it offers devices over.
        may_return: it comes back when its connection breaks.
        host: the server's address.
        inside: a command that runs it in another network.
    """
    how = "return" if may_return else "once"
    words = host, str(port), str(folder / "known"), wire, how
    async with _run("far", *words, inside=inside) as process:
        yield Far(process)


@contextlib.asynccontextmanager
async def run_relay(port: int, rtt_ms: int, rate: int = 0) -> AsyncIterator[int]:
    """Run a network in front of *port*, and return its own port.

    Args:
        port: of the server.
        rtt_ms: its round trip.
        rate: bytes a second, each way; 0: as many as there are.
    """
    async with _run("relay", str(port), str(rtt_ms), str(rate)) as process:
        yield int(await _line(process))
