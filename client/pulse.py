"""Is the server still there? Silence, sleep and changes of the network are noticed."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from rusb.aio.stream import RdpStream

from .extension import clock

__all__ = ["NetworkWatch", "Pulse"]

QUIET = 2.0
"""Seconds without a byte in either direction after which the server is asked for one;
it gives a connection up after three of these."""

SILENCE = 6.0
"""Seconds without a byte after which another connection is tried beside this one."""

DOUBT = 1.0
"""The same once the network has changed or this machine has slept."""

LOOK = 0.5
"""Seconds between looks."""

_GROUPS = 0x01 | 0x10 | 0x40 | 0x100 | 0x400
"""Of rtnetlink: links, addresses and routes of IPv4 and IPv6."""


class Pulse:
    """Watches one connection.

    Args:
        stream: its bytes.
        ping: asks the server for a sign of life.
        is_deaf: is nothing read at present? Then silence means nothing.
        heard: called with :func:`clock` whenever something has come.
        on_silent: called once when nothing has come for too long.
        on_back: called when something comes after that.
    """

    def __init__(
        self,
        stream: RdpStream,
        *,
        ping: Callable[[], None],
        is_deaf: Callable[[], bool],
        heard: Callable[[float], None],
        on_silent: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._ping = ping
        self._is_deaf = is_deaf
        self._heard = heard
        self._on_silent = on_silent
        self._on_back = on_back
        now = self._heard_at = self._sent_at = self._asked_at = clock()
        self._received = self._sent = 0
        self._deadline = now + SILENCE
        self._is_silent = False
        self._planned = now + LOOK
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOOK, self._look)

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        self._timer.cancel()
        self._look_once()

    def doubt(self) -> None:
        """Something has changed: ask at once, and wait less."""
        now = clock()
        self._deadline = min(self._deadline, now + DOUBT)
        if now - self._asked_at > DOUBT / 4:
            self._asked_at = now
            self._ping()

    def _look_once(self) -> float:
        now = clock()
        if self._stream.bytes_received != self._received or self._is_deaf():
            self._received = self._stream.bytes_received
            self._heard_at = now
            self._deadline = now + SILENCE
            self._heard(now)
        return now

    def _look(self) -> None:
        late = clock() - self._planned
        if late > QUIET:  # we slept, or were stopped
            self.doubt()
        now = self._look_once()
        if self._stream.bytes_sent != self._sent:
            self._sent, self._sent_at = self._stream.bytes_sent, now
        quiet = now - min(self._heard_at, self._sent_at)
        if quiet >= QUIET <= now - self._asked_at:
            self._asked_at = now
            self._ping()
        is_silent = now >= self._deadline
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            (self._on_silent if is_silent else self._on_back)()
        self._planned = now + LOOK
        self._timer = self._loop.call_later(LOOK, self._look)


class NetworkWatch:
    """Tells when an address, a route or a link of this machine changes, on Linux.

    Args:
        changed: called then, perhaps often.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket: socket.socket | None = None
        if not hasattr(socket, "AF_NETLINK"):
            return
        with contextlib.suppress(OSError):  # a container may not have it
            found = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK
            )
            try:
                found.bind((0, _GROUPS))
            except OSError:
                found.close()
                raise
            self._socket = found
            asyncio.get_running_loop().add_reader(found, self._read)

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        found, self._socket = self._socket, None
        if found is not None:
            asyncio.get_running_loop().remove_reader(found)
            found.close()

    def _read(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):  # too many: some are lost
            while self._socket.recv(65536):
                pass
        self._changed()
