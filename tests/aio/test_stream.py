"""What a stream asks of the kernel, and what it counts as waiting."""

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from rusb.aio.below_tls import Handshake
from rusb.aio.stream import (
    MARK,
    PRICE,
    ROOM,
    TURN,
    WRITE_HIGH,
    RdpStream,
    TlsUpgrade,
)
from rusb.aio.tls import make_self_signed, server_context
from rusb.aio.turns import Turns
from rusb.errors import HandshakeError, RemoteProtocolError, RusbError
from rusb.rdp.channels import ChannelHandler
from rusb.rdp.events import ChannelData, Event, TlsRequested
from rusb.rdp.security import Method
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.rdp.x224 import ConnectionRequest

SOON = [
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 2),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 30_000),
    (socket.IPPROTO_TCP, "TCP_NOTSENT_LOWAT", 16 << 10),
]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_peer_that_vanished_is_noticed_within_20_s(host: str) -> None:
    """With data under way, too: then no keepalive probe is ever sent."""
    found: list[int] = []

    def look() -> None:
        assert stream.transport is not None
        sock = stream.transport.get_extra_info("socket")
        for level, option, _ in SOON:
            found.append(sock.getsockopt(level, getattr(socket, option)))

    settings = ServerSettings(frozenset({Method.RDP}))
    stream = RdpStream(
        ServerConnection(settings, random_bytes=bytes),
        on_event=lambda event: None,
        on_lost=lambda error: None,
        on_connected=look,
        tls=None,
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: stream, host, 0)
    async with asyncio.timeout(20), server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        while not found:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.close()
    assert found == [value for _, _, value in SOON]


SIZE = 2 * WRITE_HIGH


class Feeder:
    """A core that wants TLS at the first byte, and sends what a test gives it.

    Attributes:
        outputs: what leaves at once.
        messages: what leaves when there is room.
    """

    room = turn = 0.0
    has_more = False
    is_active = True
    bytes_received = 0

    def __init__(self) -> None:
        self.is_secured = False
        self.outputs: list[bytes] = []
        self.messages: deque[bytes] = deque()
        self._events: list[Event] = []

    def start(self) -> None: ...

    def receive_data(self, data: bytes) -> None:
        if not self.is_secured:
            self._events.append(TlsRequested())
            self.outputs.append(b"y")

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    @property
    def bytes_waiting(self) -> int:
        return sum(map(len, self.messages))

    def data_to_send(self) -> list[bytes]:
        outputs, self.outputs = self.outputs, []
        while self.messages and self.room > 0:
            outputs.append(self.messages.popleft())
            self.room -= len(outputs[-1])
        return outputs

    def tls_started(self) -> None:
        self.is_secured = True


@contextlib.contextmanager
def talking(port: int, *, is_tls: bool) -> Iterator[socket.socket]:
    """Be a peer with a small window, with or without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.connect(("127.0.0.1", port))
        if not is_tls:
            yield sock
            return
        sock.sendall(b"x")
        sock.recv(1)
        with context.wrap_socket(sock) as secured:
            yield secured


def read_when_told(
    port: int, told: threading.Event, over: threading.Event, *, is_tls: bool = True
) -> bytes:
    """Read nothing before the test tells so, then everything."""
    found = bytearray()
    with talking(port, is_tls=is_tls) as sock:
        told.wait(20)
        while len(found) < SIZE and (data := sock.recv(1 << 16)):
            found += data
        over.wait(20)
    return bytes(found)


@contextlib.asynccontextmanager
async def pressing(
    core: Feeder, folder: Path
) -> AsyncIterator[tuple[RdpStream, int, list[bool]]]:
    """Serve one peer; yield the stream, its port, and what is said of pressure."""
    pressed: list[bool] = []
    stream = RdpStream(
        core,
        on_event=lambda event: None,
        on_lost=lambda error: None,
        on_pressure=pressed.append,
        tls=TlsUpgrade(server_context(*make_self_signed(folder), None)),
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: stream, "127.0.0.1", 0)
    async with asyncio.timeout(20), server:
        try:
            yield stream, server.sockets[0].getsockname()[1], pressed
        finally:  # uvloop waits for ever for what is open at its end
            stream.abort()


async def connected(stream: RdpStream, core: Feeder, *, is_tls: bool = True) -> None:
    while stream.transport is None or core.is_secured != is_tls:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    sock = stream.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)


LOOPS = pytest.mark.parametrize(
    "loops", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


async def test_a_core_that_fails_once_tls_is_up_ends_the_connection(
    tmp_path: Path,
) -> None:
    class Failing(Feeder):
        def tls_started(self) -> None:
            raise ValueError("a bug")

    def be_peer(port: int) -> bytes:
        with talking(port, is_tls=True) as sock:
            sock.settimeout(20)
            try:
                return sock.recv(1)
            except ConnectionResetError:
                return b""

    async with pressing(Failing(), tmp_path) as (_, port, _):
        assert await asyncio.to_thread(be_peer, port) == b""


@LOOPS
def test_what_tls_has_taken_waits_all_the_same(
    tmp_path: Path, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Its transport counts as sent what it gave to the one below."""

    async def work() -> None:
        core, told, over = Feeder(), threading.Event(), threading.Event()
        async with pressing(core, tmp_path) as (stream, port, pressed):
            peer = asyncio.ensure_future(
                asyncio.to_thread(read_when_told, port, told, over)
            )
            await connected(stream, core)
            core.outputs.append(bytes(SIZE))
            stream.flush()
            while not pressed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert WRITE_HIGH < stream.bytes_waiting < SIZE * 1.01
            assert pressed == [True]
            told.set()
            while pressed != [True, False]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert stream.bytes_waiting <= WRITE_HIGH >> 2
            over.set()
            await peer

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(work())


@LOOPS
@pytest.mark.parametrize("is_tls", [True, False], ids=["TLS", "clear"])
def test_a_transport_holds_little_and_a_slow_reader_stops_its_writer(
    tmp_path: Path, loops: Callable[[], asyncio.AbstractEventLoop], is_tls: bool
) -> None:
    size = 64 << 10
    blocks = [random.Random(n).randbytes(size) for n in range(SIZE // size)]
    most = (MARK + ROOM + size) * 1.01

    async def work() -> bytes:
        core, told, over = Feeder(), threading.Event(), threading.Event()
        async with pressing(core, tmp_path) as (stream, port, pressed):
            peer = asyncio.ensure_future(
                asyncio.to_thread(read_when_told, port, told, over, is_tls=is_tls)
            )
            await connected(stream, core, is_tls=is_tls)
            core.messages += blocks
            stream.flush()
            while not pressed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert MARK < stream.bytes_waiting - core.bytes_waiting < most
            assert WRITE_HIGH < stream.bytes_waiting
            assert pressed == [True]
            told.set()
            while pressed != [True, False]:  # noqa: ASYNC110
                assert stream.bytes_waiting - core.bytes_waiting < most
                await asyncio.sleep(0.001)
            while stream.bytes_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert stream.bytes_taken == stream.bytes_sent
            over.set()
            return await peer

    with asyncio.Runner(loop_factory=loops) as runner:
        assert runner.run(work()) == b"".join(blocks)


# ----------------------------------------------------------------- turns ----


class Transport(asyncio.Transport):
    """One that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = True
        self.is_gone = False
        self.written = 0

    def close(self) -> None:
        self.is_gone = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None: ...

    def pause_reading(self) -> None:
        assert self.is_read
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_read
        self.is_read = True

    def is_closing(self) -> bool:
        return self.is_gone


class Slow(Feeder):
    """A core that handles a packet in each byte, as many as its turn has."""

    def __init__(self) -> None:
        super().__init__()
        self.handled = 0
        self._left = 0

    def receive_data(self, data: bytes) -> None:
        self._left += len(data)
        done = int(min(self._left, self.turn))
        self.handled += done
        self._left -= done
        self.has_more = self._left > 0


def open_stream(
    core: Feeder,
    turns: Turns | None = None,
    on_lost: Callable[[RusbError | None], None] = lambda error: None,
) -> tuple[RdpStream, Transport]:
    transport = Transport()
    stream = RdpStream(
        core, on_event=lambda event: None, on_lost=on_lost, tls=None, turns=turns
    )
    stream.connection_made(transport)
    return stream, transport


async def test_packets_beyond_a_turn_wait_for_the_next_one() -> None:
    core = Slow()
    stream, transport = open_stream(core)
    stream.data_received(bytes(2 * TURN + 1))
    for handled in (TURN, 2 * TURN):
        assert (core.handled, transport.is_read) == (handled, False)
        await asyncio.sleep(0)
    assert (core.handled, transport.is_read) == (2 * TURN + 1, True)


class Letters(Feeder):
    """A core that has a message in each byte, of the channel of that number."""

    def receive_data(self, data: bytes) -> None:
        self._events += [ChannelData(channel, data) for channel in data]


class Reader(ChannelHandler):
    """Serves a channel, until it has read a message."""

    def __init__(self, serving: dict[int, ChannelHandler]) -> None:
        self.read: list[int] = []
        self._serving = serving

    def received(self, channel: int, data: bytes) -> None:
        self.read.append(channel)
        del self._serving[channel]

    def closed(self, channel: int) -> None: ...


async def test_messages_go_to_those_who_serve_their_channel_by_now() -> None:
    """What nobody serves is an event like others."""
    serving: dict[int, ChannelHandler] = {}
    reader, others = Reader(serving), list[Event]()
    serving |= {1: reader, 2: reader}
    stream = RdpStream(
        Letters(),
        on_event=others.append,
        channels=serving,
        on_lost=lambda error: None,
        tls=None,
    )
    stream.connection_made(Transport())
    stream.data_received(bytes((2, 3, 1, 2)))
    assert reader.read == [2, 1]
    assert [event.channel for event in others if isinstance(event, ChannelData)] == [
        *(3, 2)
    ]


async def test_what_came_before_the_end_is_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it takes, unless it was typed."""
    monkeypatch.setattr("rusb.aio.stream.CLOSE_TIMEOUT", -1.0)
    core = Slow()
    ends: list[int] = []
    stream = RdpStream(
        core,
        on_event=lambda event: None,
        on_lost=lambda error: ends.append(core.handled),
        tls=None,
    )
    transport = Transport()
    stream.connection_made(transport)
    stream.data_received(bytes(9 * TURN))
    transport.is_gone = True
    stream.connection_lost(None)
    await asyncio.sleep(0)  # the turn that it would have had
    for turns in range(2, 9):
        assert (core.handled, ends) == (turns * TURN, [])
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (core.handled, ends) == (9 * TURN, [9 * TURN])


async def test_what_is_wrong_before_the_end_is_the_end() -> None:
    class Wrong(Slow):
        def receive_data(self, data: bytes) -> None:
            super().receive_data(data)
            if not data:
                raise RemoteProtocolError("nonsense")

    errors: list[RusbError | None] = []
    core = Wrong()
    stream = RdpStream(
        core, on_event=lambda event: None, on_lost=errors.append, tls=None
    )
    stream.connection_made(Transport())
    stream.data_received(bytes(9 * TURN))
    stream.connection_lost(None)
    for _ in range(2):
        await asyncio.sleep(0)
    assert [str(error) for error in errors] == ["nonsense"]
    assert core.handled == 2 * TURN


class Greedy(Feeder):
    """A core that is given packets of a thousand keys each, without end."""

    def __init__(self) -> None:
        super().__init__()
        self.handled = 0

    def receive_data(self, data: bytes) -> None:
        self.handled += 1
        self.turn -= 1000 + TURN
        self.has_more = True


async def test_who_takes_more_than_a_turn_waits_for_as_long_as_it_is_worth() -> None:
    core, loop = Greedy(), asyncio.get_running_loop()
    stream, transport = open_stream(core)
    start = loop.time()
    stream.data_received(bytes(1))
    while core.handled < 4:  # noqa: ASYNC110
        assert not transport.is_read
        await asyncio.sleep(0)
    assert loop.time() - start >= 2.9 * 1000 * PRICE


async def test_who_has_said_all_and_more_than_a_turn_waits_all_the_same() -> None:
    class Once(Greedy):
        def receive_data(self, data: bytes) -> None:
            super().receive_data(data)
            self.has_more = False

    core, loop = Once(), asyncio.get_running_loop()
    stream, transport = open_stream(core)
    start = loop.time()
    stream.data_received(bytes(1))
    while not transport.is_read:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert loop.time() - start >= 0.9 * 1000 * PRICE
    assert core.handled == 1


async def test_what_was_typed_without_end_is_left_when_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rusb.aio.stream.CLOSE_TIMEOUT", 0.2)
    core, ends = Greedy(), list[RusbError | None]()
    stream, transport = open_stream(core, on_lost=ends.append)
    stream.data_received(bytes(1))
    transport.is_gone = True
    stream.connection_lost(None)
    async with asyncio.timeout(5):
        while not ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert ends == [None]
    assert 2 < core.handled < 8


async def test_connections_with_more_go_on_one_in_a_turn_of_the_loop() -> None:
    """Three that flood keep the loop no longer from others than one does.

    The first turn waits, too: hundreds may begin at once, each with a packet that is
    long to read.
    """
    turns, cores = Turns(), [Slow() for _ in range(3)]
    for core in cores:
        stream, _ = open_stream(core, turns)
        stream.data_received(bytes(9 * TURN))
    handled = [0, 0, 0]
    for number in range(3 * 9):
        await asyncio.sleep(0)
        handled[number % 3] += TURN
        assert [core.handled for core in cores] == handled
    assert handled == [9 * TURN] * 3


async def test_connections_that_end_together_are_over_one_in_a_turn() -> None:
    turns, ends = Turns(), list[RusbError | None]()
    for _ in range(3):
        stream, _ = open_stream(Slow(), turns, ends.append)
        stream.connection_lost(None)
    for number in range(3):
        assert ends == [None] * number
        await asyncio.sleep(0)
    assert ends == [None] * 3


def accepting(
    folder: Path, on_lost: Callable[[RusbError | None], None]
) -> Callable[[], RdpStream]:
    """Return what makes the streams of a server that shares turns among them."""
    tls = TlsUpgrade(server_context(*make_self_signed(folder), None))
    settings, turns = ServerSettings(frozenset({Method.TLS})), Turns()

    def accept() -> RdpStream:
        return RdpStream(
            ServerConnection(settings, random_bytes=bytes),
            on_event=lambda event: None,
            on_lost=on_lost,
            tls=tls,
            turns=turns,
        )

    return accept


@LOOPS
def test_handshakes_of_many_are_steps_one_in_a_turn_of_the_loop(
    tmp_path: Path,
    loops: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody can ask for 200 at once, each of which takes a millisecond or more."""
    steps: list[int] = []
    take = Handshake._take

    def counting(self: Handshake, nbytes: int) -> None:
        steps[-1] += 1
        take(self, nbytes)

    monkeypatch.setattr(Handshake, "_take", counting)
    accept = accepting(tmp_path, lambda error: None)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for reader, writer in pairs:
            writer.write(ConnectionRequest(protocols=1).serialize())
            await reader.readexactly(19)
        greeting = client_hello()
        for _, writer in pairs:
            writer.write(greeting)
        answers = asyncio.gather(*(reader.readexactly(5) for reader, _ in pairs))
        while not answers.done():
            steps.append(0)
            await asyncio.sleep(0)
        assert {answer[0] for answer in await answers} == {22}  # of a handshake
        assert (max(steps), sum(steps)) == (1, 20)
        for _, writer in pairs:
            writer.transport.abort()
        server.close()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(work(), 20))


@LOOPS
def test_a_handshake_that_fails_is_no_bug_of_ours(
    tmp_path: Path,
    loops: Callable[[], asyncio.AbstractEventLoop],
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[RusbError | None] = []
    accept = accepting(tmp_path, errors.append)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ConnectionRequest(protocols=1).serialize())
        await reader.readexactly(19)
        writer.write(b"\x16\3\1\0\4nope")
        await reader.read()
        while not errors:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.close()
        server.close()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(work(), 20))
    assert isinstance(errors[0], HandshakeError)
    assert caplog.records == []


def client_hello() -> bytes:
    """What TLS begins with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


async def test_a_peer_that_fills_what_the_loop_reads_at_once_has_had_its_turn() -> None:
    """libuv would read 32 times as much before it looks at anybody else."""
    core = Feeder()
    core.is_secured = True
    stream, transport = open_stream(core)
    full = 15 << 14  # whole TLS records in what it reads at once
    for size, is_read in ((1000, True), (200 << 10, True), (full, False)):
        stream.data_received(bytes(size))
        assert transport.is_read is is_read
    await asyncio.sleep(0)
    assert transport.is_read


async def test_a_peer_that_is_held_is_not_read_in_the_next_turn() -> None:
    core = Slow()
    stream, transport = open_stream(core)
    stream.data_received(bytes(TURN + 1))
    stream.hold(is_held=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (core.handled, transport.is_read) == (TURN + 1, False)
    stream.hold(is_held=False)
    assert transport.is_read


async def test_what_a_quick_peer_reads_is_written_in_several_turns() -> None:
    core = Feeder()
    stream, transport = open_stream(core)
    core.messages += [bytes(ROOM)] * 40
    stream.flush()
    turns = []
    while core.messages:
        before = transport.written
        await asyncio.sleep(0)
        turns.append(transport.written - before)
    assert turns == [4 * ROOM] * 10


async def test_the_last_words_do_not_wait_for_a_turn() -> None:
    core = Feeder()
    stream, transport = open_stream(core)
    core.messages += [bytes(ROOM)] * 40
    stream.send_now()
    assert transport.written == 40 * ROOM
