"""Remote devices of a machine that moved: their way over the source (teleport.md 7)."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from rusb.aio.tasks import TaskSet
from rusb.errors import RemoteProtocolError, RusbError

from .link import Link
from .messages import MAX_REASON, Answer, DeviceBytes, Gone, Reads, What
from .seam import PIECE, Stream, receive, send, unheard, unread, wake

__all__ = ["Relay"]

WAITING: Final = 64
"""Messages that wait for a device that takes none; then nothing more is read."""

LAST_TIMEOUT: Final = 5.0
"""Seconds for devices to be unplugged at the end."""

POLL: Final = 0.005
"""Seconds between two looks at how far a device is."""

CLOSE_TIMEOUT: Final = 60.0
"""Seconds for the other host to close, once it has taken all devices home."""


class _Device:
    """A device on its way.

    Attributes:
        over: set when the other host said GONE, or the link is lost.
        taken: None: nobody takes it home; else gets its stream, or None if it left.
        dropped: set when whoever took it needs the link no longer.
        came, written: bytes that the other host has said, and those of them that are in
            the socket.
        read: bytes that came out of the socket.
    """

    def __init__(self, number: int, stream: Stream) -> None:
        self.number, self.stream = number, stream
        self.queue = asyncio.Queue[bytes](WAITING)
        self.over = asyncio.Event()
        self.taken: asyncio.Future[Stream | None] | None = None
        self.dropped = asyncio.Event()
        self.reading: asyncio.Task[bool] | None = None
        self.came, self.written, self.read = len(stream.unwritten), 0, 0

    @property
    def is_ending(self) -> bool:
        """Has it left, or is it about to go another way?"""
        return self.over.is_set() or self.taken is not None

    @property
    def said(self) -> int:
        """How many bytes the socket has had for the other host."""
        stream = self.stream
        return self.read + len(stream.unread) + unread(stream.sock)


class Relay:
    """Carries streams between sockets and a link, until all of them have ended.

    Args:
        link: to the other host.
        streams: by number of the device; they are closed at the end.
        gone: called with the number of a device that has ended, whoever ended it.
        asked: called when the other host asks about reads that wait at the devices;
            raises RusbError why the machine cannot go on from there.

    Attributes:
        before: each waits until a host has closed over which devices come here. When
            all have that were taken home, what was said here has arrived.
    """

    def __init__(
        self,
        link: Link,
        streams: Mapping[int, Stream],
        gone: Callable[[int], Awaitable[None]],
        asked: Callable[[What], Awaitable[None]] | None = None,
    ) -> None:
        self._link = link
        self._devices = {n: _Device(n, stream) for n, stream in streams.items()}
        self._gone, self._asked = gone, asked
        self.before: Sequence[Callable[[], Awaitable[None]]] = ()
        self._questions: deque[asyncio.Future[str]] = deque()  # ours
        self._answering: asyncio.Task[None] | None = None
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
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await _first(_over(self._link), self._wait_before())
        finally:
            for question in self._questions:
                if not question.done():
                    question.set_result("")
            self._give_up_answering()
            for device in self._devices.values():
                device.over.set()
                if device.taken is None or not device.taken.done():
                    wake(device.stream.sock)
            for task in (taking, empty):
                task.cancel()
            # all of the above is done even if we are cancelled once more
            await asyncio.shield(self._tasks.drain(LAST_TIMEOUT))
            await asyncio.wait({taking, empty})

    async def take_home(self, number: int) -> Stream | None:
        """Have a device's stream end here: all that was on the way has come.

        The link is needed until :meth:`drop` is called.

        Returns:
            The stream, which is the caller's now; None: the device has left. If this is
            cancelled, the stream is closed.
        """
        device = self._devices.get(number)
        if device is None:
            return None
        device.taken = asyncio.get_running_loop().create_future()
        if device.reading is not None:
            device.reading.cancel()
        try:
            return await asyncio.shield(device.taken)
        except asyncio.CancelledError:
            device.taken.add_done_callback(_close)
            raise

    def drop(self, number: int) -> None:
        """Carry a device no longer that was taken home."""
        if number in self._devices:
            self._devices[number].dropped.set()

    async def _wait_before(self) -> None:
        for wait in self.before:
            await wait()
        if not self.before:
            await asyncio.Event().wait()

    # ------------------------------------ reads that wait at the devices (7.9) ----

    @property
    def numbers(self) -> list[int]:
        """Those of the devices that it carries."""
        return [n for n, device in self._devices.items() if not device.is_ending]

    async def ask(self, what: What) -> str:
        """Ask the other host about them; what was said here before gets there first.
        What it says before it has suspended them has been read here then.

        Returns:
            Why the machine cannot go on from here; empty: it can, or no device is left.
        """
        said = {number: self._devices[number].said for number in self.numbers}
        await self._wait(said, lambda device: device.read)
        if not self.numbers:
            return ""
        loop = asyncio.get_running_loop()
        question: asyncio.Future[str] = loop.create_future()
        with contextlib.suppress(RusbError):  # the devices leave
            self._questions.append(question)
            try:
                await self._link.send(Reads(what))
                answer = await question
            except asyncio.CancelledError:
                self.resume()  # nobody waits for the answer any more
                raise
            if what is What.SUSPEND:  # a QEMU that stands still reads nothing
                await self._wait(self._came(), _heard)
            return answer
        return ""

    def resume(self) -> None:
        """Have the other host resume them."""
        if self._devices:
            self._link.say(Reads(What.RESUME))

    async def _answer(self, what: What, came: Mapping[int, int]) -> None:
        """Answer a question, before which so much had come."""
        assert self._asked is not None
        why = ""
        try:
            await self._wait(came, _heard)
            await self._asked(what)
        except RusbError as error:
            why = str(error)
        self._link.say(Answer(why[:MAX_REASON]))

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.done()

    def _give_up_answering(self) -> None:
        if self._answering is not None and self._is_answering:
            self._answering.cancel()
            self._link.say(Answer("it was not waited for"))
            self._answering = None

    def _came(self) -> dict[int, int]:
        return {number: self._devices[number].came for number in self.numbers}

    async def _wait(
        self, wanted: Mapping[int, int], count: Callable[[_Device], int]
    ) -> None:
        """Wait until each device counts so many bytes, or ends."""
        for number, size in wanted.items():
            while (  # noqa: ASYNC110
                (device := self._devices.get(number)) is not None
                and not device.is_ending
                and count(device) < size
            ):
                await asyncio.sleep(POLL)

    # ------------------------------------------------------------- one device ----

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
                device.read += len(data)
                await self._link.send(DeviceBytes(number, data))
            while data := await receive(stream.sock):
                device.read += len(data)
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
            device.written += len(data)
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
                    self._devices[number].came += len(data)
                    await self._devices[number].queue.put(data)
                case Gone(number) if number in self._devices:
                    self._devices[number].over.set()
                case Reads(What.RESUME) if self._asked is not None:
                    self._give_up_answering()
                    await self._asked(What.RESUME)  # before what comes next
                case Reads(what):
                    if self._is_answering:
                        raise RemoteProtocolError("the other host asks twice")
                    answering = self._answer(what, self._came())
                    name = "teleport: reads that wait"
                    self._answering = self._tasks.start(answering, name)
                case Answer(reason) if self._questions:
                    question = self._questions.popleft()
                    if not question.done():
                        question.set_result(reason)


def _heard(device: _Device) -> int:
    """How many bytes of the other host's have been read at the socket's other end?"""
    return device.written - unheard(device.stream.sock)


def _close(taken: asyncio.Future[Stream | None]) -> None:
    stream = taken.result()
    if stream is not None:
        stream.sock.close()


async def _over(link: Link) -> None:
    with contextlib.suppress(RusbError):
        await link.wait_over()


async def _first(*awaited: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> None:
    """Wait for one of them; tasks go on, the others do not."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, one in zip(tasks, awaited, strict=True):
            if task is not one:
                task.cancel()
