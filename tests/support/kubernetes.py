"""An API server with KubeVirt's USB slots, in front of whatever has them."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

__all__ = ["FakeApi", "kubeconfig"]

PATH = (
    "/apis/subresources.kubevirt.io/v1/namespaces/lab"
    "/virtualmachineinstances/vm/usbredir"
)


class FakeApi:
    """It lets in who has the token ``good``, and gives the first free slot.

    Args:
        connect: returns a socket to a slot.

    Attributes:
        is_running: the machine is.
        is_late: whoever gets no slot learns it after the upgrade.
        used: slots that are in use.
        asked: status of each answer that was no upgrade.
    """

    def __init__(self, connect: Callable[[int], socket.socket]) -> None:
        self.is_running = True
        self.is_late = False
        self.used: dict[int, ServerConnection] = {}
        self.asked: list[int] = []
        self.port = 0
        self._connect = connect

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serve at a port of 127.0.0.1."""
        async with serve(
            self._serve,
            "127.0.0.1",
            self.port,
            process_request=self._check,
            subprotocols=["plain.kubevirt.io"],
            ssl=tls,
            compression=None,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self.port

    async def drop(self) -> None:
        """End all that there is, as when the machine moves."""
        for connection in list(self.used.values()):
            await connection.close(1001)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        refusals = {
            401: token not in ("good", "viewer"),
            403: token == "viewer",
            404: request.path != PATH or not self.is_running,
            503: len(self.used) >= 4 and not self.is_late,
        }
        for status, is_so in refusals.items():
            if is_so:
                self.asked.append(status)
                body = {"kind": "Status", "code": status, "message": f"fake {status}"}
                return connection.respond(status, json.dumps(body))
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        slot = next((n for n in range(4) if n not in self.used), None)
        if slot is None:
            await connection.close(1011, "no slot")
            return
        self.used[slot] = connection
        try:
            sock = await asyncio.to_thread(self._connect, slot)
            reader, writer = await asyncio.open_connection(sock=sock)
            back = asyncio.ensure_future(_back(reader, connection))
            with contextlib.suppress(ConnectionClosed, OSError):
                async for message in connection:
                    assert isinstance(message, bytes)
                    writer.write(message)
                    await writer.drain()
            back.cancel()
            await asyncio.wait([back])
            writer.close()
        finally:
            del self.used[slot]


async def _back(reader: asyncio.StreamReader, connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := await reader.read(7000):
            await connection.send(data)
        await connection.close()


def kubeconfig(
    path: Path, server: str, cluster: dict[str, Any] | None = None, **user: Any
) -> Path:
    """Write a kubeconfig for a user."""
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [
            {
                "name": "lab",
                "context": {"cluster": "c", "user": "u", "namespace": "lab"},
            }
        ],
        "clusters": [{"name": "c", "cluster": {"server": server} | (cluster or {})}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(text))
    return path
