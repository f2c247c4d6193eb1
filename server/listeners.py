"""The ports that a server listens on."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from rusb.errors import Hint, ListenError, SettingsError

from .network import BACKLOG, bind

__all__ = ["Listeners"]

_FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


class Listeners:
    """Sockets for the first port of a list that is free.

    Attributes:
        port: where they listen; 0: they do not yet.
        addresses: likewise.
        families: the same in words: ``IPv4 and IPv6``.
    """

    def __init__(self) -> None:
        self.port = 0
        self.addresses: tuple[str, ...] = ()
        self.families = ""
        self._servers: list[asyncio.Server] = []

    async def open(
        self,
        address: str | None,
        ports: Sequence[int],
        accept: Callable[[], asyncio.Protocol],
    ) -> None:
        """Listen; *accept* makes the protocol of a new connection.

        Args:
            address: host name or address; None: all.
            ports: to try, in this order; 0 lets the system choose.
            accept: makes the protocol of a new connection.

        Raises:
            SettingsError: the address is none of ours.
            ListenError: no port is free.
        """
        try:
            tried = (bind(address, port) for port in ports)
            sockets = next(filter(None, tried), None)
        except SettingsError as error:
            raise SettingsError(f"{error}; check the property TCP/Address").hinting(
                Hint.OTHER_ADDRESS
            ) from error
        if sockets is None:
            raise ListenError("all are in use, or this user may not use them")
        loop = asyncio.get_running_loop()
        for sock in sockets:  # all are ours to close, before anything is waited for
            self._servers.append(
                await loop.create_server(
                    accept, sock=sock, backlog=BACKLOG, start_serving=False
                )
            )
        for server in self._servers:
            await server.start_serving()
        self.port = sockets[0].getsockname()[1]
        self.addresses = tuple(str(sock.getsockname()[0]) for sock in sockets)
        found = {sock.family for sock in sockets}
        names = [name for family, name in _FAMILIES.items() if family in found]
        self.families = " and ".join(names)

    def close(self) -> bool:
        """Listen no more; return whether we did."""
        for server in self._servers:
            server.close()
        return bool(self._servers)
