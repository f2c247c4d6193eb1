"""What QEMU's VNC server says, in bytes, and such a server over a socket."""

import asyncio
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

__all__ = [
    "VncServer",
    "cursor",
    "cut",
    "handshake",
    "led",
    "packed",
    "raw",
    "rect",
    "update",
]


def handshake(width: int, height: int, name: bytes = b"QEMU") -> bytes:
    """All that comes before the first update."""
    initial = struct.pack(">HH16xI", width, height, len(name)) + name
    return b"RFB 003.008\n" + b"\1\1" + bytes(4) + initial


def rect(
    encoding: int, x: int = 0, y: int = 0, w: int = 0, h: int = 0, data: bytes = b""
) -> bytes:
    """One rectangle of an update."""
    return struct.pack(">4Hi", x, y, w, h, encoding) + data


def raw(x: int, y: int, w: int, h: int, colour: int) -> bytes:
    """A rectangle of one colour."""
    return rect(0, x, y, w, h, colour.to_bytes(4, "little") * (w * h))


def cursor(x: int, y: int, w: int, h: int, pixels: list[int]) -> bytes:
    """A cursor with alpha."""
    return rect(-314, x, y, w, h, bytes(4) + struct.pack(f"<{len(pixels)}I", *pixels))


def led(leds: int) -> bytes:
    """The keyboard's lights."""
    return rect(-261, data=bytes([leds]))


def update(*rectangles: bytes) -> bytes:
    """An update."""
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def packed(text: bytes, *, size: int | None = None) -> bytes:
    """A text as the clipboard has it; *size* is what it says of itself."""
    data = (len(text) if size is None else size).to_bytes(4) + text
    return zlib.compress(data)


def cut(flags: int, rest: bytes = b"") -> bytes:
    """A message of the clipboard."""
    return struct.pack(">B3xiI", 3, -4 - len(rest), flags) + rest


_SIZES = {0: 20, 3: 10, 4: 8, 5: 6}


class VncServer:
    """A VNC server of one connection at a time, which does what the test says.

    Args:
        path: of its UNIX socket.
        width, height: of the screen.
        joined: sent when a client has asked for the first update.
        first: sent when a client has said what it understands.

    Attributes:
        heard: messages of the clients, whole ones.
        clients: how many there have been.
        is_joined: has the latest one been sent *joined*?
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        joined: bytes = update(),
        *,
        first: bytes = b"",
    ) -> None:
        self.path, self.width, self.height = path, width, height
        self.joined, self.first = joined, first
        self.heard: list[bytes] = []
        self.clients = 0
        self.is_joined = False
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    def say(self, data: bytes) -> None:
        """Send something to the client."""
        assert self._writer is not None
        self._writer.write(data)

    def hang_up(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()

    async def until(self, held: Callable[[], object]) -> None:
        """Wait until something holds."""
        while not held():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.clients += 1
        self._writer, self.is_joined = writer, False
        writer.write(handshake(self.width, self.height))
        try:
            await reader.readexactly(12 + 1 + 1)
            while True:
                message = await self._read(reader)
                self.heard.append(message)
                if message[0] == 2:
                    writer.write(self.first)
                if message[0] == 3 and writer is self._writer and not self.is_joined:
                    self.is_joined = True
                    writer.write(self.joined)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(1)
        match head[0]:
            case 2:
                head += await reader.readexactly(3)
                return head + await reader.readexactly(4 * head[3])
            case 6:
                head += await reader.readexactly(7)
                size = abs(int.from_bytes(head[4:], signed=True))
                return head + await reader.readexactly(size)
            case 251:
                return head + await reader.readexactly(23)
            case 255:
                head += await reader.readexactly(3)
                sizes = {b"\0": 8, b"\1": 6 if head[3] == 2 else 0}
                return head + await reader.readexactly(sizes[head[1:2]])
        return head + await reader.readexactly(_SIZES[head[0]] - 1)
