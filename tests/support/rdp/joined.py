"""Two RDP cores joined in memory."""

from collections.abc import Callable
from typing import TypeVar

from rusb.rdp.client import ClientConnection, ClientSettings
from rusb.rdp.events import Event, LogonRequested, TlsRequested
from rusb.rdp.security import Method
from rusb.rdp.server import ServerConnection, ServerSettings

__all__ = ["Joined", "clear", "no_random", "whole"]

E = TypeVar("E")
Cut = Callable[[bytes], list[bytes]]


def no_random(count: int) -> bytes:
    return bytes(count)


def whole(data: bytes) -> list[bytes]:
    return [data]


class Joined:
    """A client and a server; what one sends the other receives.

    Args:
        cut: divides what is sent into the pieces that arrive.
    """

    def __init__(
        self,
        client: ClientSettings | None = None,
        server: ServerSettings | None = None,
        *,
        cut: Cut = whole,
    ) -> None:
        self.client = ClientConnection(
            client or ClientSettings(), random_bytes=no_random
        )
        self.server = ServerConnection(
            server or ServerSettings(), random_bytes=no_random
        )
        self.cut = cut
        self.client_events: list[Event] = []
        self.server_events: list[Event] = []
        self.sent_by_client: list[bytes] = []
        self.sent_by_server: list[bytes] = []
        self.client.start()

    def run(self) -> "Joined":
        """Move bytes and answer events until nothing is left to do."""
        while self.step():
            pass
        return self

    def step(self) -> bool:
        """Move what both have to send once; False if there was nothing."""
        up = b"".join(self.client.data_to_send())
        down = b"".join(self.server.data_to_send())
        if up:
            self.sent_by_client.append(up)
            for piece in self.cut(up):
                self.server.receive_data(piece)
        if down:
            self.sent_by_server.append(down)
            for piece in self.cut(down):
                self.client.receive_data(piece)
        self._take()
        return bool(up or down)

    def _take(self) -> None:
        for event in self.server.events():
            self.server_events.append(event)
            if isinstance(event, LogonRequested):
                self.server.accept_logon()
        for event in self.client.events():
            self.client_events.append(event)
            if isinstance(event, TlsRequested):
                self.server.tls_started()
                self.client.tls_started()

    def of_client(self, kind: type[E]) -> list[E]:
        return [e for e in self.client_events if isinstance(e, kind)]

    def of_server(self, kind: type[E]) -> list[E]:
        return [e for e in self.server_events if isinstance(e, kind)]


def clear() -> tuple[ClientSettings, ServerSettings]:
    """Settings for a connection without TLS."""
    methods = frozenset({Method.TLS, Method.RDP})
    return (
        ClientSettings(wants_tls=False, encryption=False),
        ServerSettings(methods, has_certificate=False),
    )
