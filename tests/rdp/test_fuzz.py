"""Whatever arrives, the cores give events or the two errors they document."""

import copy
import random
from collections.abc import Callable, Iterator

import pytest

from rusb.errors import NegotiationError, RemoteProtocolError
from rusb.rdp.client import ClientConnection
from rusb.rdp.connection import Connection
from rusb.rdp.events import LogonRequested, TlsRequested
from rusb.rdp.server import ServerConnection
from rusb.rdp.tpkt import packet_size
from tests.support.amount import chance, inputs
from tests.support.rdp.joined import Joined, clear, no_random

pytestmark = pytest.mark.fuzz

ROUNDS = inputs(1500)


def session() -> tuple[list[bytes], list[bytes]]:
    """Return what a client and a server send in a whole session in clear."""
    joined = Joined(*clear()).run()
    for _ in range(2):
        for core in (joined.client, joined.server):
            core.send_channel(1006, bytes(5000))  # a first chunk, some, and a last
    joined.run()
    joined.server.resize(640, 480)
    joined.run()
    joined.server.disconnect(1)
    joined.run()
    return joined.sent_by_client, joined.sent_by_server


BY_CLIENT, BY_SERVER = session()


def new_server() -> Connection:
    return ServerConnection(clear()[1], random_bytes=no_random)


def new_client() -> Connection:
    client = ClientConnection(clear()[0], random_bytes=no_random)
    client.start()
    return client


def mutate(source: random.Random, flights: list[bytes]) -> list[bytes]:
    """Damage a session: flip, cut, insert, repeat, or grow lengths."""
    flights = list(flights)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(flights))
        data = bytearray(flights[at])
        where = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0 if where < len(data):
                data[where] ^= 1 << source.randrange(8)
            case 1:
                del data[where : where + source.randint(1, 20)]
            case 2:
                data[where:where] = source.randbytes(source.randint(1, 20))
            case 3:
                data += data[where : where + 40]
            case 4 if where + 2 < len(data):
                data[where : where + 2] = source.choice(
                    (b"\xff\xff", b"\0\0", b"\x7f\xff")
                )
            case _:
                flights.insert(at, flights[source.randrange(len(flights))])
                continue
        flights[at] = bytes(data)
    return flights


def run(core: Connection, flights: list[bytes]) -> None:
    """Feed a core until it fails in a documented way, or there is no more."""
    try:
        for flight in flights:
            core.receive_data(flight)
            for event in core.events():
                if isinstance(event, TlsRequested):
                    core.tls_started()
                if isinstance(event, LogonRequested):
                    assert isinstance(core, ServerConnection)
                    core.accept_logon()
            core.data_to_send()
            assert len(core._buffer) <= 0xFFFF
    except (RemoteProtocolError, NegotiationError):
        with pytest.raises(RemoteProtocolError):
            core.receive_data(b"\x03")


SIDES = [(new_server, BY_CLIENT), (new_client, BY_SERVER)]


@pytest.mark.parametrize(("new", "flights"), SIDES)
def test_mutated_sessions(new: Callable[[], Connection], flights: list[bytes]) -> None:
    source = chance(20100)
    for _ in range(ROUNDS):
        run(new(), mutate(source, flights))


@pytest.mark.parametrize(("new", "flights"), SIDES)
def test_noise_at_any_moment(
    new: Callable[[], Connection], flights: list[bytes]
) -> None:
    source = chance(20101)
    for _ in range(ROUNDS // 3):
        noise = source.randbytes(source.randint(1, 400))
        if source.random() < 0.7:  # in a frame, or most of it ends at once
            noise = b"\x03\x00" + (len(noise) + 7).to_bytes(2) + b"\x02\xf0\x80" + noise
        run(new(), [*flights[: source.randrange(len(flights))], noise])


def packets(flights: list[bytes]) -> Iterator[bytes]:
    for flight in flights:
        pos = 0
        while pos < len(flight):
            size = packet_size(flight, pos)
            yield flight[pos : pos + size]
            pos += size


@pytest.mark.parametrize(("new", "flights"), SIDES)
def test_every_field_at_its_extremes(
    new: Callable[[], Connection], flights: list[bytes]
) -> None:
    sent = list(packets(flights))
    core = new()
    for number, packet in enumerate(sent):
        for at in range(min(len(packet), 300) if packet != sent[number - 1] else 0):
            for value in (b"\0\0", b"\xff\xff"):
                damaged = packet[:at] + value + packet[at + 2 :]
                run(copy.deepcopy(core), [damaged, *sent[number + 1 :]])
        run(core, [packet])


@pytest.mark.parametrize(("new", "flights"), SIDES)
def test_an_undamaged_session_runs_to_its_end(
    new: Callable[[], Connection], flights: list[bytes]
) -> None:
    core = new()
    run(core, flights)
    assert core._failure is None
    assert core.is_active
