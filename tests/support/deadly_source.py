"""A host that is killed as soon as it has said something to the target of a teleport:
``python -m tests.support.deadly_source FOLDER PORT END|RUN``."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from rusb.server.machine.running import RunningMachine
from rusb.server.machine.teleport.link import Link
from rusb.server.machine.teleport.messages import Kind, Message
from tests.support.teleporting import SOURCE, Host, hardware, teleport


async def _main(folder: Path, port: int, last: Kind) -> None:
    send = Link.send

    async def say(self: Link, message: Message) -> None:
        await send(self, message)
        if message.kind is last:
            os.kill(os.getpid(), signal.SIGKILL)

    Link.send = say  # type: ignore[method-assign]
    host = Host(folder / "source", SOURCE, hardware(folder))
    await RunningMachine.__aenter__(host)  # it is watched from outside
    await teleport(port)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]), Kind[sys.argv[3]]))
