"""Remote devices of a machine that moved: their way over the source (teleport.md 7)."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from rusb.aio.tasks import TaskSet
from rusb.errors import RusbError

from .link import Link
from .messages import DeviceBytes, Gone
from .seam import PIECE, Stream, receive, send, wake

__all__ = ["Relay"]

WAITING: Final = 64
"""Messages that wait for a device that takes none; then nothing more is read."""

LAST_TIMEOUT: Final = 5.0
"""Seconds for devices to be unplugged at the end."""

CLOSE_TIMEOUT: Final = 60.0
"""Seconds for the other host to close, once it has taken all devices home."""


class _Device:
    """A device on its way.

    Attributes:
        over: set when the other host said GONE, or the link is lost.
        taken: None: nobody takes it home; else gets its stream, or None if it left.
        dropped: set when whoever took it needs the link no longer.
    """

    def __init__(self, number: int, stream: Stream) -> None:
        self.number, self.stream = number, stream
        self.queue = asyncio.Queue[bytes](WAITING)
        self.over = asyncio.Event()
        self.taken: asyncio.Future[Stream | None] | None = None
        self.dropped = asyncio.Event()
        self.reading: asyncio.Task[bool] | None = None


class Relay:
    """Carries streams between sockets and a link, until all of them have ended.

    Args:
        link: to the other host.
        streams: by number of the device; they are closed at the end.
        gone: called with the number of a device that has ended, whoever ended it.
    """

    def __init__(
        self,
        link: Link,
        streams: Mapping[int, Stream],
        gone: Callable[[int], Awaitable[None]],
    ) -> None:
        self._link = link
        self._devices = {n: _Device(n, stream) for n, stream in streams.items()}
        self._gone = gone
        self._tasks = TaskSet()
        self._is_empty = asyncio.Event()
        self._is_taken_there = False  # the last one was taken home by the other host

    async def run(self) -> None:
        """Carry.

        Raises:
            RusbError: the link ended before the devices did.
        """
        for device in self._devices.values():
            device.stream.sock.setblocking(False)
            self._tasks.start(self._carry(device), "teleport: a device")
        taking = asyncio.ensure_future(self._take())
        empty = asyncio.ensure_future(self._is_empty.wait())
        try:
            if self._devices:
                await asyncio.wait({taking, empty}, return_when=asyncio.FIRST_COMPLETED)
                if not empty.done():
                    await taking
            if self._is_taken_there:  # what we said last is to arrive
                with contextlib.suppress(TimeoutError, RusbError):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await self._link.wait_over()
        finally:
            for task in (taking, empty):
                task.cancel()
            await asyncio.wait({taking, empty})
            for device in self._devices.values():
                device.over.set()
                if device.taken is None or not device.taken.done():
                    wake(device.stream.sock)
            await asyncio.shield(self._tasks.drain(LAST_TIMEOUT))

    async def take_home(self, number: int) -> Stream | None:
        """Have a device's stream end here: all that was on the way has come.

        The link is needed until :meth:`drop` is called.

        Returns:
            The stream, which is the caller's now; None: the device has left.
        """
        device = self._devices.get(number)
        if device is None:
            return None
        device.taken = asyncio.get_running_loop().create_future()
        if device.reading is not None:
            device.reading.cancel()
        return await asyncio.shield(device.taken)

    def drop(self, number: int) -> None:
        """Carry a device no longer that was taken home."""
        if number in self._devices:
            self._devices[number].dropped.set()

    async def _carry(self, device: _Device) -> None:
        """Carry a device until it ends, or is taken home by either host."""
        number, sock = device.number, device.stream.sock
        reading = device.reading = asyncio.ensure_future(self._read(device))
        if device.taken is not None:
            reading.cancel()
        writing = asyncio.ensure_future(self._write(device))
        is_through = False
        try:
            with contextlib.suppress(RusbError):
                is_through = await self._mark(device, reading, writing)
            if device.taken is not None and is_through:
                device.taken.set_result(device.stream)
                await _first(device.dropped.wait(), device.over.wait())
        finally:
            is_ours = device.taken is None or not device.taken.done()
            if device.taken is not None and is_ours:
                device.taken.set_result(None)
            if is_ours and not is_through:
                wake(sock)
            for task in (reading, writing):
                task.cancel()
            await asyncio.wait({reading, writing})
            if is_ours:
                sock.close()
            del self._devices[number]
            while not device.queue.empty():  # whoever waits for room there goes on
                device.queue.get_nowait()
        if not is_through:
            await self._gone(number)
            with contextlib.suppress(RusbError):
                await self._link.send(Gone(number))
        if not self._devices:
            self._is_taken_there = is_through and is_ours
            self._is_empty.set()

    async def _mark(
        self, device: _Device, reading: asyncio.Task[bool], writing: asyncio.Task[None]
    ) -> bool:
        """Wait; is it taken home, and everything through, in both directions (7.8)?

        Raises:
            RusbError: the link is over.
        """
        await _first(reading, device.over.wait())
        is_cut = reading.cancelled() or (reading.done() and reading.result())
        if device.over.is_set() or not is_cut:
            return False
        await self._link.send(DeviceBytes(device.number, b""))
        await _first(writing, device.over.wait())
        return writing.done()

    async def _read(self, device: _Device) -> bool:
        """What a device's socket says goes to the other host, until its end.

        Returns:
            Its way was cut behind the socket; False: the device has ended.
        """
        stream, number = device.stream, device.number
        with contextlib.suppress(OSError, RusbError):
            while stream.unread:
                data, stream.unread = stream.unread[:PIECE], stream.unread[PIECE:]
                await self._link.send(DeviceBytes(number, data))
            while data := await receive(stream.sock):
                await self._link.send(DeviceBytes(number, data))
            return stream.is_cut
        return False

    async def _write(self, device: _Device) -> None:
        """What the other host says goes to the device's socket, until its mark."""
        stream = device.stream
        data, stream.unwritten = stream.unwritten, b""
        while True:
            with contextlib.suppress(OSError):  # then its end is read there, too
                await send(stream.sock, bytearray(data))
            data = await device.queue.get()
            if not data:
                break
        stream.is_marked = True
        if device.taken is None:
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_WR)

    async def _take(self) -> None:
        """Give each device what the other host says of it."""
        while True:
            match await self._link.receive_any():
                case DeviceBytes(number, data) if number in self._devices:
                    await self._devices[number].queue.put(data)
                case Gone(number) if number in self._devices:
                    self._devices[number].over.set()


async def _first(*awaited: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> None:
    """Wait for one of them; tasks go on, the others do not."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, one in zip(tasks, awaited, strict=True):
            if task is not one:
                task.cancel()
