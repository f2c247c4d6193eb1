"""A client with a disk, a keyboard that is typed on without a break, and a serial echo.

Usage: python -m tests.support.lab.typist PORT IMAGE [reconnect]

With ``reconnect`` there is a second client, which does not, with another serial echo.
It types while a line has been read and until the next; then it says how many keys.
"""

import asyncio
import contextlib
import string
import sys
from dataclasses import replace
from pathlib import Path

from rusb.cli.connect import WIRES
from rusb.client.backends.emulated import (
    EmulatedBackend,
    FlashDrive,
    Keyboard,
    SerialLoopback,
)
from rusb.client.config import ClientConfig
from rusb.client.session import connect

PERIOD = 0.1
"""Seconds between two keys."""


async def _type(keyboard: Keyboard) -> None:
    """Press the letters in turn, until the second line comes."""
    loop, count = asyncio.get_running_loop(), 0
    await loop.run_in_executor(None, sys.stdin.readline)
    end = loop.run_in_executor(None, sys.stdin.readline)
    while not end.done():
        keyboard.type_text(string.ascii_lowercase[count % 26])
        count += 1
        await asyncio.sleep(PERIOD)
    print(count, flush=True)


async def main(port: int, image: Path, *more: str) -> None:
    """Stay connected until the input ends."""
    keyboard = Keyboard()
    devices = [FlashDrive(image), keyboard, SerialLoopback()]
    backend = EmulatedBackend(devices=devices)
    wires = WIRES["auto"]  # as a user's client does
    config = ClientConfig("localhost", port, reconnect="reconnect" in more, wires=wires)
    async with contextlib.AsyncExitStack() as stack:
        session = connect(config, backends=[backend], on_event=print)
        await stack.enter_async_context(session)
        if config.reconnect:
            backend = EmulatedBackend(devices=[SerialLoopback()])
            other = connect(replace(config, reconnect=False), backends=[backend])
            await stack.enter_async_context(other)
        await _type(keyboard)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
