"""Remote devices of a machine that moved: their way over the source (teleport.md 7)."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from rusb.aio.tasks import TaskSet
from rusb.errors import RusbError

from .link import Link
from .messages import DeviceBytes, Gone

__all__ = ["Relay"]

PIECE: Final = 64 << 10
"""Bytes of a device's stream in one message."""

WAITING: Final = 64
"""Messages that wait for a device that takes none; then nothing more is read."""


LAST_TIMEOUT: Final = 5.0
"""Seconds for devices to be unplugged at the end."""


class Relay:
    """Carries streams between sockets and a link, until all of them have ended.

    Args:
        link: to the other host.
        sockets: by number of the device; they are closed at the end.
        gone: called with the number of a device that has ended, whoever ended it.
    """

    def __init__(
        self,
        link: Link,
        sockets: Mapping[int, socket.socket],
        gone: Callable[[int], Awaitable[None]],
    ) -> None:
        self._link = link
        self._sockets = dict(sockets)
        self._gone = gone
        self._queues = {n: asyncio.Queue[bytes](WAITING) for n in sockets}
        self._tasks = TaskSet()
        self._is_empty = asyncio.Event()

    async def run(self) -> None:
        """Carry.

        Raises:
            RusbError: the link ended before the devices did.
        """
        for number, sock in self._sockets.items():
            sock.setblocking(False)
            self._tasks.start(self._carry(number, sock), "teleport: a device")
        taking = asyncio.ensure_future(self._take())
        empty = asyncio.ensure_future(self._is_empty.wait())
        try:
            if self._sockets:
                await asyncio.wait({taking, empty}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    await taking
        finally:
            for task in (taking, empty):
                task.cancel()
            await asyncio.wait({taking, empty})
            for sock in self._sockets.values():
                _wake(sock)
            await asyncio.shield(self._tasks.drain(LAST_TIMEOUT))

    async def _carry(self, number: int, sock: socket.socket) -> None:
        """What a device's socket says goes to the other host, until it ends."""
        loop = asyncio.get_running_loop()
        writing = asyncio.ensure_future(self._write(number, sock))
        try:
            with contextlib.suppress(OSError, RusbError):
                while data := await loop.sock_recv(sock, PIECE):
                    await self._link.send(DeviceBytes(number, data))
        finally:
            _wake(sock)
            writing.cancel()
            await asyncio.wait({writing})
            sock.close()
            del self._sockets[number]
        await self._gone(number)
        with contextlib.suppress(RusbError):
            await self._link.send(Gone(number))
        if not self._sockets:
            self._is_empty.set()

    async def _write(self, number: int, sock: socket.socket) -> None:
        """What the other host says goes to the device's socket."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                await loop.sock_sendall(sock, await self._queues[number].get())

    async def _take(self) -> None:
        """Give each device what the other host says of it."""
        while True:
            match await self._link.receive_any():
                case DeviceBytes(number, data) if number in self._sockets:
                    await self._queues[number].put(data)
                case Gone(number) if number in self._sockets:
                    _wake(self._sockets[number])


def _wake(sock: socket.socket) -> None:
    """Let whoever reads or writes there see the end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
