"""A client core and a server core joined in memory."""

import itertools

import pytest

from rusb.errors import RemoteProtocolError
from rusb.rdp.client import ClientConnection, ClientSettings
from rusb.rdp.connection import Connection
from rusb.rdp.events import (
    Activated,
    ChannelData,
    ChannelOpened,
    Disconnected,
    Event,
    LogonRequested,
    TlsRequested,
)
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.rdp.svc import CHUNK_DEFAULT, CHUNK_MAX

SETTINGS = ClientSettings(
    "server",
    user="anna",
    domain="WORK@2",
    password="secret",
    client_name="desk",
    channels=("cliprdr", "vrdpusb"),
)


class Pair:
    """Both cores, a wire that cuts what it carries, and what happened."""

    def __init__(
        self, settings: ClientSettings = SETTINGS, piece: int = 1 << 20
    ) -> None:
        self.client = ClientConnection(settings, random_bytes=bytes)
        self.server = ServerConnection(ServerSettings(), random_bytes=bytes)
        self.piece = piece
        self.seen: dict[Connection, list[Event]] = {self.client: [], self.server: []}
        self.client.start()
        self.move()

    def _carry(self, source: Connection, target: Connection) -> bool:
        data = b"".join(source.data_to_send())
        for start in range(0, len(data), self.piece):
            target.receive_data(data[start : start + self.piece])
        return bool(data)

    def move(self) -> None:
        while True:
            moved = self._carry(self.client, self.server)
            moved |= self._carry(self.server, self.client)
            wants_tls = 0
            for core in (self.client, self.server):
                for event in core.events():
                    self.seen[core].append(event)
                    wants_tls += isinstance(event, TlsRequested)
                    if isinstance(event, LogonRequested):
                        self.server.accept_logon()
                        moved = True
            if wants_tls:
                self.client.tls_started()
                self.server.tls_started()
            elif not moved:
                return

    def of(self, core: Connection, kind: type[Event]) -> list[Event]:
        return [e for e in self.seen[core] if isinstance(e, kind)]


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 20])
def test_the_sequence_ends_active_with_channels_whatever_the_pieces(
    piece: int,
) -> None:
    pair = Pair(piece=piece)
    for core in (pair.client, pair.server):
        assert pair.of(core, Activated) == [Activated(800, 600, 16)]
        assert pair.of(core, ChannelOpened) == [
            ChannelOpened(1004, "cliprdr"),
            ChannelOpened(1005, "vrdpusb"),
        ]


def test_the_logon_carries_credentials_screen_and_client() -> None:
    pair = Pair()
    (event,) = pair.of(pair.server, LogonRequested)
    assert isinstance(event, LogonRequested)
    who = event.credentials
    assert (who.user, who.domain, who.password, who.screen) == (
        "anna",
        "WORK",
        "secret",
        1,
    )
    assert "secret" not in repr(event)
    assert (event.client.name, event.client.build) == ("desk", 2600)


SIZES = (
    0,
    1,
    119,
    120,
    121,
    1599,
    1600,
    1601,
    CHUNK_MAX,
    CHUNK_MAX + 1,
    65565,
    3 << 20,
)


@pytest.mark.parametrize("chunk", [CHUNK_DEFAULT, CHUNK_MAX])
@pytest.mark.parametrize(
    ("size", "piece"), list(itertools.product(SIZES, (4000, 1 << 20)))
)
def test_messages_of_every_size_arrive_whole(size: int, piece: int, chunk: int) -> None:
    pair = Pair(piece=piece)
    message = bytes(range(256)) * (size // 256 + 1)
    for source, target in (
        (pair.client, pair.server),
        (pair.server, pair.client),
    ):
        source._chunk = chunk
        for _ in range(2):
            source.send_channel(1005, message[:size])
        source.send_channel(1004, b"other")
        pair.move()
        assert pair.of(target, ChannelData) == [
            ChannelData(1005, message[:size]),
            ChannelData(1005, message[:size]),
            ChannelData(1004, b"other"),
        ]


def test_both_ends_use_the_large_chunks_that_both_advertise() -> None:
    pair = Pair()
    assert pair.client._chunk == pair.server._chunk == CHUNK_MAX


def test_t02_plaintext_behind_the_negotiation_is_refused() -> None:
    server = ServerConnection(ServerSettings(), random_bytes=bytes)
    client = ClientConnection(SETTINGS, random_bytes=bytes)
    client.start()
    request = b"".join(client.data_to_send())
    with pytest.raises(RemoteProtocolError, match="in clear"):
        server.receive_data(request + b"\x03\x00\x00\x08\x02\xf0\x80\x28")
    with pytest.raises(RemoteProtocolError):
        server.receive_data(b"more")


def test_a_server_that_stops_says_so_in_order() -> None:
    pair = Pair()
    pair.server.disconnect(1)
    pair.move()
    assert pair.of(pair.client, Disconnected) == [Disconnected(1, True)]


def test_a_client_that_leaves_is_a_clean_end() -> None:
    pair = Pair()
    pair.client.disconnect()
    pair.move()
    assert pair.of(pair.server, Disconnected) == [Disconnected(0, True)]


def test_a_resize_activates_again_and_keeps_the_channels() -> None:
    pair = Pair()
    pair.server.resize(1024, 768)
    pair.move()
    assert pair.of(pair.client, Activated)[-1] == Activated(1024, 768, 16)
    assert len(pair.of(pair.client, ChannelOpened)) == 2
    pair.client.send_channel(1005, b"still here")
    pair.move()
    assert pair.of(pair.server, ChannelData) == [ChannelData(1005, b"still here")]
