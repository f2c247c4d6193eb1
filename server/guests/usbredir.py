"""Others that speak usbredir as guests: QEMU's chardevs, usbredir's own programs.

Either we connect, once for each device, or they do, and each gets the next device that
is free (docs/spec/usbredir.md 1).
"""

import asyncio
import contextlib
import logging
from collections import deque
from pathlib import Path
from typing import cast

from rusb.errors import GuestError, Hint
from rusb.oserrors import reason

from ._listening import listen, listen_at, parse_place
from ._stream import DeviceStream, usbredir_core
from .base import AttachedDevice, GuestBackend

__all__ = ["UsbredirGuest"]

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0

MAX_SAID = 4096
"""Bytes of a caller that has no device yet; a hello has 80."""

MAX_WAITING = 64
"""Callers that wait for a device; further ones are hung up on."""


class _Plug:
    """A device, and the stream to whoever has it."""

    def __init__(self, device: AttachedDevice) -> None:
        self.device = device
        self.stream: DeviceStream | None = None


class _Waiting(asyncio.Protocol):
    """A caller that waits for a device; what it says meanwhile is for that."""

    def __init__(self, guest: "UsbredirGuest") -> None:
        self._guest = guest
        self.said = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._guest.came(self)

    def data_received(self, data: bytes) -> None:
        self.said += data
        if len(self.said) > MAX_SAID:
            assert self.transport is not None
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guest.went(self)


class UsbredirGuest(GuestBackend):
    """Gives devices to others that speak usbredir.

    Args:
        address: ``HOST:PORT`` or ``PATH`` to connect to, for each device anew;
            ``listen=[ADDRESS:]PORT`` or ``listen=PATH`` to wait for them.
    """

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        text = address or ""
        self._is_listening = text.startswith("listen=")
        text = text.removeprefix("listen=")
        if not text:
            raise GuestError(
                "usbredir needs HOST:PORT or PATH to connect to, or"
                " listen=[ADDRESS:]PORT or listen=PATH"
            ).hinting(Hint.OTHER_GUEST_ADDRESS)
        self._path = Path(text) if "/" in text else None
        self._place = ("", 0) if self._path else parse_place(text)
        self._server: asyncio.Server | None = None
        self._plugs: list[_Plug] = []
        self._waiting: deque[_Waiting] = deque()

    @property
    def port(self) -> int:
        """The TCP port that is listened at."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen, if we are to."""
        if not self._is_listening:
            return
        if self._path:
            self._server = await listen_at(self._path, lambda: _Waiting(self))
        else:
            self._server = await listen(*self._place, lambda: _Waiting(self))

    async def attach(self, device: AttachedDevice) -> str:
        """Connect for the device, or have it ready for the next caller.

        Raises:
            GuestError: nobody answers there.
        """
        plug = _Plug(device)
        where = str(self._path or f"{self._place[0]} port {self._place[1]}")
        if self._is_listening:
            self._plugs.append(plug)
            self._match()
            return f"for the next program that connects to {where}"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._connect(plug)
        except TimeoutError:
            raise GuestError(f"nobody answers at {where}") from None
        except (OSError, UnicodeError) as error:
            raise GuestError(f"cannot connect to {where}: {reason(error)}") from error
        if plug.stream is None:
            raise GuestError(f"the other end at {where} refused the device or hung up")
        self._plugs.append(plug)
        return where

    async def detach(self, device: AttachedDevice) -> None:
        """Unplug it from whoever has it."""
        for plug in [p for p in self._plugs if p.device is device]:
            self._plugs.remove(plug)
            stream, plug.stream = plug.stream, None
            if stream is not None:
                await stream.aclose()

    async def aclose(self) -> None:
        """Unplug everything and hang up."""
        if self._server is not None:
            self._server.close()
            if self._path:
                self._path.unlink(missing_ok=True)
            self._server = None
        for caller in list(self._waiting):
            assert caller.transport is not None
            caller.transport.abort()
        await asyncio.sleep(0)  # they end in the loop's next turn
        for plug in list(self._plugs):
            await self.detach(plug.device)

    # ------------------------------------------------------------ callers ----

    def came(self, caller: _Waiting) -> None:
        """Somebody wants a device."""
        if len(self._waiting) >= MAX_WAITING:
            assert caller.transport is not None
            caller.transport.abort()
            return
        self._waiting.append(caller)
        self._match()

    def went(self, caller: _Waiting) -> None:
        """It does not want one any more."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(caller)

    def _match(self) -> None:
        """Give the devices that are free to those who wait."""
        free = deque(plug for plug in self._plugs if plug.stream is None)
        while free and self._waiting:
            caller, plug = self._waiting.popleft(), free.popleft()
            assert caller.transport is not None
            stream = self._stream(plug)
            caller.transport.set_protocol(stream)
            stream.connection_made(caller.transport)
            stream.data_received(caller.said)

    # ------------------------------------------------------------- our own ----

    async def _connect(self, plug: _Plug) -> None:
        loop = asyncio.get_running_loop()
        if self._path:
            await loop.create_unix_connection(
                lambda: self._stream(plug), str(self._path)
            )
        else:
            await loop.create_connection(lambda: self._stream(plug), *self._place)

    def _stream(self, plug: _Plug) -> DeviceStream:
        """The protocol of a new connection, which has the device from now on."""

        def dropped(why: str) -> None:
            if plug.stream is stream:  # who was refused hangs up as well
                self._dropped(plug, stream, why)

        plug.stream = stream = DeviceStream(
            plug.device,
            usbredir_core(plug.device),
            on_refused=lambda: dropped("the other end refused the device"),
            on_ended=lambda: dropped("the other end hung up"),
        )
        return stream

    def _dropped(self, plug: _Plug, stream: DeviceStream, why: str) -> None:
        """Whoever had it has it no more; when we listen, the next may come."""
        plug.stream = None
        stream.abort()
        log.info("%s: %s", plug.device.name, why)
        if self._is_listening:
            if stream.was_used:
                plug.device.reset()
            self._match()
        elif plug in self._plugs:  # else it is being attached
            self._plugs.remove(plug)
            self._lost(plug.device, why)


PLUGIN = UsbredirGuest
