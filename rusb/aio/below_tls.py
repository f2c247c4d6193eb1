"""What stands between a transport and TLS, which keeps much to itself."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

from .turns import Turns

__all__ = ["BelowTls", "Handshake"]


class BelowTls(asyncio.BufferedProtocol):
    """Between a transport and TLS, which keeps to itself when there is room again.

    Args:
        tls: asyncio's or uvloop's protocol of TLS.
        on_room: called with False when the transport is full, then with True.
    """

    def __init__(
        self, tls: asyncio.BufferedProtocol, on_room: Callable[[bool], None]
    ) -> None:
        self._tls = tls
        self._on_room = on_room
        # what comes in takes no detour
        vars(self).update(get_buffer=tls.get_buffer, buffer_updated=tls.buffer_updated)

    def eof_received(self) -> bool | None:
        return self._tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tls.connection_lost(exc)

    def pause_writing(self) -> None:
        self._tls.pause_writing()
        self._on_room(False)

    def resume_writing(self) -> None:
        self._tls.resume_writing()
        self._on_room(True)


class Handshake(asyncio.BufferedProtocol):
    """Between a transport and TLS that is about to start: each step waits for its turn.

    The first one takes the server a millisecond, and anybody can ask for hundreds at
    once.

    Args:
        plain: the transport.
        tls: as of :class:`BelowTls`.
        turns: shared with others.
    """

    def __init__(
        self, plain: asyncio.Transport, tls: asyncio.BufferedProtocol, turns: Turns
    ) -> None:
        self._plain = plain
        self.tls = tls
        self._turns = turns

    def get_buffer(self, sizehint: int) -> memoryview:
        return cast(memoryview, self.tls.get_buffer(sizehint))

    def buffer_updated(self, nbytes: int) -> None:
        self._plain.pause_reading()  # what has come stays in the buffer
        self._turns.wait(partial(self._take, nbytes))

    def _take(self, nbytes: int) -> None:
        if not self._plain.is_closing():
            self.tls.buffer_updated(nbytes)
        if not self._plain.is_closing():
            self._plain.resume_reading()

    def eof_received(self) -> bool | None:
        return self.tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tls.connection_lost(exc)

    def pause_writing(self) -> None:
        self.tls.pause_writing()

    def resume_writing(self) -> None:
        self.tls.resume_writing()
