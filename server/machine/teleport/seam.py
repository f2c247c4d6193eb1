"""Where the streams of remote devices are cut and joined when a machine moves (7.3)."""

import asyncio
import contextlib
import socket
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ...guests._stream import waiting

__all__ = ["PIECE", "Splice", "Stream", "receive", "send", "unheard", "unread", "wake"]

PIECE: Final = 64 << 10
"""Bytes that are read at once."""


@dataclass(eq=False, slots=True)
class Stream:
    """One end of a device's stream at this host.

    Attributes:
        sock: does not block.
        unread: came before what is in the socket.
        unwritten: goes into the socket before anything else.
        other: what is carried at the other end of the socket pair; None: a server or
            a QEMU is there.
        is_marked: no more comes into this end, which is no end of the device (7.8).
    """

    sock: socket.socket
    unread: bytes = b""
    unwritten: bytes = b""
    other: "Stream | None" = None
    is_marked: bool = False

    @property
    def is_cut(self) -> bool:
        """Does the end of what can be read mean that the device's way is shortened?"""
        return self.other is not None and self.other.is_marked


class Splice:
    """A device whose machine came home: its stream meets the one of the new QEMU.

    Args:
        stream: to the device.
        ours: an end of the pair whose other end QEMU has.
        theirs: a copy of QEMU's end. All three are closed by :meth:`close`.
    """

    def __init__(
        self, stream: Stream, ours: socket.socket, theirs: socket.socket
    ) -> None:
        self._stream, self._ours, self._theirs = stream, ours, theirs
        self._to_guest = bytearray(stream.unread)
        self._to_device = bytearray(stream.unwritten)
        stream.unread = stream.unwritten = b""
        self._pumps: set[asyncio.Task[None]] = set()

    async def run(self) -> bool:
        """Carry until one of both ends; False: :meth:`let_go` was called."""
        device, ours = self._stream.sock, self._ours
        guest_ward = self._pump(device, ours, self._to_guest)
        device_ward = self._pump(ours, device, self._to_device)
        self._pumps = {
            asyncio.ensure_future(pump) for pump in (guest_ward, device_ward)
        }
        try:
            done, _ = await asyncio.wait(
                self._pumps, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await self._stop()
        return not any(pump.cancelled() for pump in done)

    async def _pump(
        self, source: socket.socket, sink: socket.socket, waiting: bytearray
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                await send(sink, waiting)
                if not (data := await receive(source)):
                    break
                waiting += data
        if source is self._stream.sock and self._stream.is_cut:
            await asyncio.Event().wait()  # it has not ended: it is about to be let go

    async def _stop(self) -> None:
        pumps = self._pumps
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps)

    @property
    def is_through(self) -> bool:
        """Is nothing under way between the two?"""
        ends = self._stream.sock, self._ours
        is_here = self._to_guest or self._to_device
        return not is_here and not any(unheard(end) or unread(end) for end in ends)

    async def let_go(self) -> Stream:
        """QEMU has ended: return the stream, with what was between them."""
        await self._stop()
        stream = self._stream
        stream.unread = _drain(self._theirs) + bytes(self._to_guest)
        stream.unwritten = bytes(self._to_device) + _drain(self._ours)
        self._ours.close()
        self._theirs.close()
        return stream

    def end(self) -> None:
        """QEMU has deleted the device: let :meth:`run` return."""
        wake(self._ours)

    def close(self) -> None:
        """The device is gone, at whichever end."""
        for sock in (self._stream.sock, self._ours, self._theirs):
            wake(sock)
            sock.close()


def unheard(sock: socket.socket) -> int:
    """Return how many bytes its peer has not read, or more; 0 if it is closed."""
    return waiting(sock, termios.TIOCOUTQ)


def unread(sock: socket.socket) -> int:
    """Return how many bytes of its peer wait in a socket; 0 if it is closed."""
    return waiting(sock, termios.FIONREAD)


def _drain(sock: socket.socket) -> bytes:
    """Return what is in a socket now."""
    found = []
    with contextlib.suppress(OSError):
        while data := sock.recv(PIECE, socket.MSG_DONTWAIT):
            found.append(data)
    return b"".join(found)


async def receive(sock: socket.socket) -> bytes:
    """Return the next bytes, or none at the end; nothing is lost when it is cancelled.

    Raises:
        OSError: the socket broke.
    """
    while True:
        try:
            return sock.recv(PIECE)
        except (BlockingIOError, InterruptedError):
            loop = asyncio.get_running_loop()
            await _until(sock, loop.add_reader, loop.remove_reader)


async def send(sock: socket.socket, data: bytearray) -> None:
    """Send; *data* is what was not sent, also when it is cancelled.

    Raises:
        OSError: the socket broke.
    """
    while data:
        try:
            del data[: sock.send(data)]
        except (BlockingIOError, InterruptedError):
            loop = asyncio.get_running_loop()
            await _until(sock, loop.add_writer, loop.remove_writer)


async def _until(
    sock: socket.socket, add: Callable[..., Any], remove: Callable[[int], Any]
) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    number = sock.fileno()
    add(number, _wake_up, ready)
    try:
        await ready
    finally:
        remove(number)


def _wake_up(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def wake(sock: socket.socket) -> None:
    """Let whoever reads or writes there see the end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
