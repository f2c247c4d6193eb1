"""Hostile clients at a running server: it stays what it was, the others go on."""

import asyncio
import contextlib
import gc
import logging
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rusb.aio.stream import PRICE, TURN
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.session import ClientSession, connect
from rusb.errors import ConnectionLost
from rusb.rdp import mcs, share
from rusb.rdp.gcc import ChannelRequest, ClientBlocks, ClientCore
from rusb.rdp.info import ClientInfo
from rusb.rdp.security import SecurityFlag, header
from rusb.rdp.server import MAX_AT_ONCE
from rusb.rdp.share import DataType
from rusb.rdp.x224 import ConnectionRequest
from rusb.server import session
from rusb.server.display import rounds as display_rounds
from rusb.server.display.hub import MAX_PICTURES
from rusb.server.quotas import MAX_NETWORKS, NetworkQuotas
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.memory import memory_below
from tests.support.others import others_go_on
from tests.support.rdp.pictures import noise
from tests.support.rdp.raw import RawClient
from tests.support.whole_path import (
    Lab,
    machine,
    rdp_of,
    sessions_of,
    stream_of,
    transport_of,
    wires_of,
)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a peer sends is never a bug of ours."""
    yield
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.fixture
async def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> AsyncIterator[Lab]:
    """A server for many clients, with standard security too.

    It waits two seconds, which those who mean well have even in a crowd.
    """
    monkeypatch.setattr(session, "LOGON_TIMEOUT", 2.0)
    display = RemoteDisplay(
        properties={"Security/Method": "Negotiate"}, allow_multi_connection=True
    )
    found = Lab(tmp_path, machine(remote_display=display))
    async with asyncio.timeout(30), found.server:
        yield found


# ------------------------------------------------ T01 to T08 before the logon ----


def hostile_conversations() -> list[list[bytes]]:
    """Flights of clients that go wrong in every phase; each waits for an answer."""
    raw = RawClient()
    blocks = ClientBlocks(
        ClientCore("x", 0xFFFF, 0xFFFF, 16), channels=[ChannelRequest("vrdpusb", 0)]
    ).serialize()
    request = ConnectionRequest(protocols=0).serialize()
    connect = mcs.serialize_connect_initial(blocks)
    info = raw.io(header(SecurityFlag.INFO) + ClientInfo(user="x").serialize())
    long_info = struct.pack("<II5H", 0, 0x133, 0, 0xFFFE, 0, 0, 0) + bytes(9000)
    joins = mcs.attach_request() + b"".join(map(mcs.join_request, [1] * 3, range(3)))
    chunk = struct.pack("<II", 0xFFFFFFFF, 3) + bytes(1600)
    return [
        [b"\x03\0\0\0"],  # T01
        [b"\x03\0\xff\xff" + bytes(60000)],
        [bytes(range(256)) * 250],
        [request[:9]],  # T02
        [request + request],
        [ConnectionRequest(protocols=1).serialize() + request],
        [ConnectionRequest(protocols=1).serialize(), request],
        [ConnectionRequest(protocols=1).serialize(), b"\x16\3\1\xff\xff" + bytes(9)],
        [request, connect[:40] + b"\x84\xff\xff\xff\xff" + connect[45:]],  # T03
        [request, connect, mcs.attach_request() * 5000],
        [request, connect, joins * 1000],
        [request, connect.replace(b"\x03\xc0", b"\x03\xc0\0\0")],  # T04
        [request, connect, raw.io(header(0x0848) + bytes(100))],  # T05
        [request, connect, raw.io(header(SecurityFlag.INFO) + long_info)],  # T06
        [request, connect, info, raw.io(struct.pack("<HH", 0, 0x13)) * 9],  # T07
        [request, connect, info, raw.data(DataType.INPUT, b"\xff" * 9)],
        [request, connect, info, raw.sender.send_data(1004, len(chunk)) + chunk],  # T10
    ]


async def attack(port: int, flights: list[bytes]) -> None:
    """Send flights, each after something came back; end as rudely as possible."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        for flight in flights:
            writer.write(flight)
            async with asyncio.timeout(0.2):
                await reader.read(100)
    writer.transport.abort()


async def test_hostile_clients_hammer_and_the_others_go_on(lab: Lab) -> None:
    conversations = hostile_conversations()
    async with others_go_on(lab):
        await asyncio.gather(*(attack(lab.server.port, c) for c in conversations))
        with memory_below(48 << 20):
            for _ in range(8):
                attacks = [attack(lab.server.port, c) for c in conversations * 2]
                await asyncio.gather(*attacks)
            while len(sessions_of(lab.server)) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        gc.collect()
        left = [o for o in gc.get_objects() if type(o) is session.ServerSession]
        assert len(left) == 1


async def test_t02_bytes_in_clear_behind_the_reply_kill_the_session(lab: Lab) -> None:
    """STARTTLS injection in a segment of its own, where the TLS hello should be."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
    writer.write(ConnectionRequest(protocols=1).serialize())
    await reader.readexactly(19)
    writer.write(mcs.attach_request())
    with contextlib.suppress(ConnectionError):
        while await reader.read(1000):  # an alert of TLS
            pass
    writer.close()
    await lab.wait_log("TLS handshake failed")
    await lab.wait_log("Connection closed: 1")


async def test_t08_connections_that_stay_silent_end(lab: Lab) -> None:
    async with others_go_on(lab):
        pairs = [
            await asyncio.open_connection("127.0.0.1", lab.server.port)
            for _ in range(50)
        ]
        for reader, writer in pairs:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
    assert lab.log().count("no logon within 2 s") == 50


async def test_t08_a_logon_without_an_activation_ends(lab: Lab) -> None:
    raw = RawClient()
    blocks = ClientBlocks(ClientCore("raw", 800, 600, 16)).serialize()
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.port)
    writer.write(ConnectionRequest(protocols=0).serialize())
    writer.write(mcs.serialize_connect_initial(blocks))
    writer.write(raw.io(header(SecurityFlag.INFO) + ClientInfo().serialize()))
    await lab.wait_log("VRDP: Logon:")
    ping = raw.data(DataType.SYNCHRONIZE, share.synchronize(1002))
    with contextlib.suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(ping)  # bytes alone do not count
            await reader.read(10_000)
    writer.close()
    await lab.wait_log("no activation within 2 s")


# ------------------------------------------------------- T08 in the session ----


def said(client: ClientSession, kind: DataType, body: bytes) -> bytes:
    """Return the wire bytes of a share data PDU of a client."""
    rdp_of(client)._send_data(kind, body)
    return b"".join(rdp_of(client).data_to_send())


def deaf_ears(lab: Lab, client: ClientSession) -> asyncio.Transport:
    """Let a client read nothing, and the kernels keep little for it."""
    streams = [stream_of(client), *(s.stream for s in sessions_of(lab.server))]
    for one in streams:
        assert one.transport is not None
        sock = one.transport.get_extra_info("socket")
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 16)
    transport = transport_of(client)
    transport.pause_reading()
    return transport


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (DataType.SYNCHRONIZE, share.synchronize(1002)),
        (DataType.CONTROL, share.control(4)),
    ],
)
async def test_t08_a_client_that_asks_and_reads_nothing_is_dropped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: DataType, body: bytes
) -> None:
    monkeypatch.setattr(session, "MAX_WAITING", 1 << 20)
    async with others_go_on(lab):
        async with connect(lab.config(), backends=[]) as deaf:
            transport = deaf_ears(lab, deaf)
            flood = said(deaf, kind, body) * 1000
            (ours,) = (s for s in sessions_of(lab.server) if not s.in_use)
            most = 0
            while "bytes wait to be read" not in lab.log():
                transport.write(flood)
                await asyncio.sleep(0.01)
                most = max(most, ours.stream.bytes_waiting)
                assert most < 2 << 20  # or nobody ever hangs up on it
            transport.resume_reading()
            with contextlib.suppress(ConnectionLost):  # or a plain end of TCP
                await deaf.wait_closed()


async def test_t08_a_client_fills_no_disk_with_what_is_logged_of_it(lab: Lab) -> None:
    """Answers to a question that nobody asks again are logged, each of them."""
    lines = session.MAX_LINES
    async with asyncio.timeout(30), others_go_on(lab):
        async with connect(lab.config(), backends=[]) as noisy:
            while not wires_of(noisy).channels.open:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            channel = min(wires_of(noisy).channels.open)  # of the first wire
            for version in (2, 3) * (2 * lines):
                body = struct.pack("<IBBI", 6, 12, 2, version)
                rdp_of(noisy).send_channel(channel, body)
            stream_of(noisy).flush()
        await lab.wait_log("lines were left out here")
    assert lab.log().count("remote USB protocol version") <= lines + 20


def test_lines_are_counted_for_a_bounded_number_of_networks() -> None:
    lines = NetworkQuotas()
    first = lines.of("first", 1.0, is_logged_on=True)
    assert all(first.take(1.0) for _ in range(1000))
    for number in range(2 * MAX_NETWORKS):  # each of them has used one
        assert lines.of(f"net {number}", 1.0, is_logged_on=True).take(1.0)
        assert lines.of("first", 1.0, is_logged_on=True) is first
    assert len(lines) <= MAX_NETWORKS


async def test_t08_clicks_without_end_leave_the_others_their_turn(lab: Lab) -> None:
    """A packet has hundreds, and a turn had 64 packets: 14 s on a server with QEMU."""
    click = struct.pack("<IHHHH", 0, 0x8001, 0xF000, 1, 1)  # three buttons go down
    clicks = struct.pack("<HH", 80, 0) + click * 80
    async with others_go_on(lab), connect(lab.config(), backends=[]) as noisy:
        flood = said(noisy, DataType.INPUT, clicks) * 100
        (ours,) = (s for s in sessions_of(lab.server) if not s.in_use)
        transport_of(noisy).write(flood)
        most = before = 0
        while before < 100 * 240:
            await asyncio.sleep(0)  # a turn of the loop
            most = max(most, ours._inputs - before)
            before = ours._inputs
        assert most <= 64 + MAX_AT_ONCE
    assert ours.was_logged_on


async def test_t08_many_that_click_without_end_leave_the_others_most_of_the_time(
    lab: Lab,
) -> None:
    """The loop handled a packet of each of them before anybody else had his turn."""
    click = struct.pack("<IHHHH", 0, 0x8001, 0xF000, 1, 1)  # three buttons go down
    clicks = struct.pack("<HH", 80, 0) + click * 80
    async with others_go_on(lab) as transfers, contextlib.AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(connect(lab.config(), backends=[]))
            for _ in range(8)
        ]
        before, start = len(transfers), asyncio.get_running_loop().time()
        for noisy in crowd:
            transport_of(noisy).write(said(noisy, DataType.INPUT, clicks) * 20)
        ours = [s for s in sessions_of(lab.server) if not s.in_use]
        while sum(one._inputs for one in ours) < 8 * 20 * 240:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        took = asyncio.get_running_loop().time() - start
        assert took > 8 * 15 * (240 - TURN) * PRICE  # one waits after the other
        assert len(transfers) - before > 300  # some 10000; it was 10


async def test_t08_pictures_of_those_who_read_nothing_take_little(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each viewer's picture is 25 MB; 32 of them took 1.6 GB."""
    config = lab.config()
    config.width, config.height, config.depth = 8192, 1024, 24
    size = config.width * config.height * 3
    frame = noise(config.width, config.height)
    monkeypatch.setattr("rusb.server.display.status.status_frame", lambda *_: frame)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            deaf = await stack.enter_async_context(connect(config, backends=[]))
            transport = deaf_ears(lab, deaf)
            transport.write(said(deaf, DataType.SUPPRESS_OUTPUT, b"\1" + bytes(11)))
        drawn: set[object] = set()
        most = looks = 0
        while looks < 50 or not drawn:
            await asyncio.sleep(0.02)
            looks += 1
            ours = sessions_of(lab.server)
            sizes = [one.viewer.picture_size if one.viewer else 0 for one in ours]
            drawn |= {one for one, size in zip(ours, sizes, strict=True) if size}
            kept = sum(sizes) + sum(one.stream.bytes_waiting for one in ours)
            most = max(most, kept)
        assert most < MAX_PICTURES + size


async def test_t08_who_reads_nothing_keeps_no_pictures_from_the_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own, as large as all may be together, is given up after a while."""
    monkeypatch.setattr("rusb.server.display.hub.MAX_PICTURES", 1 << 20)
    monkeypatch.setattr("rusb.server.display.viewer.PICTURE_PATIENCE", 0.3)
    monkeypatch.setattr(
        "rusb.server.display.status.status_frame",
        lambda width, height, *_: noise(width, height),
    )
    config = lab.config()
    config.width, config.height, config.depth = 2048, 1024, 24
    allow = b"\1" + bytes(11)
    async with (
        asyncio.timeout(30),
        connect(config, backends=[]) as deaf,
        connect(lab.config(), backends=[]) as other,
    ):
        transport = deaf_ears(lab, deaf)
        first, second = (one.viewer for one in sessions_of(lab.server))
        assert first is not None
        assert second is not None
        transport.write(said(deaf, DataType.SUPPRESS_OUTPUT, allow))
        while first.picture_size <= 1 << 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        transport_of(other).write(said(other, DataType.SUPPRESS_OUTPUT, allow))
        while not second.frames:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_nothing_of_a_client_waits_for_the_garbage_collector(
    lab: Lab,
) -> None:
    """Eight clients at a time left 1.4 GB there, which they had not read."""
    gone: list[weakref.ref[object]] = []
    gc.collect()
    gc.disable()
    try:
        async with (
            asyncio.timeout(30),
            lab.client(EmulatedBackend(devices=[Loopback()])) as deaf,
        ):
            (device,) = await lab.guest.wait_for(1)
            deaf_ears(lab, deaf)
            block = bytes(1 << 20)
            writes = [
                asyncio.ensure_future(device.write(Loopback.SINK, block))
                for _ in range(8)
            ]
            (ours,) = sessions_of(lab.server)
            while ours.stream.bytes_waiting < 4 << 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            transport = ours.stream.transport
            assert transport is not None
            gone += map(weakref.ref, (ours, ours.stream, ours._rdp))
            ours.drop("the test wants it")
            await asyncio.gather(*writes)
            del ours, transport
        while sessions_of(lab.server):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            while any(ref() for ref in gone):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_t08_pictures_are_made_for_those_who_take_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with the largest screen asks for it all the time and reads nothing."""
    drawn: list[tuple[int, int]] = []
    original = display_rounds.encode_round

    def encode(jobs: Any, *rest: Any) -> Any:
        drawn.extend(job.size for job in jobs)
        return original(jobs, *rest)

    monkeypatch.setattr("rusb.server.display.hub.encode_round", encode)
    monkeypatch.setattr(
        "rusb.server.display.status.status_frame",
        lambda width, height, *_: noise(width, height),
    )
    config = lab.config()
    config.width, config.height, config.depth = 3840, 2160, 24
    async with others_go_on(lab):
        async with connect(config, backends=[]) as greedy:
            transport = deaf_ears(lab, greedy)
            (ours,) = (s for s in sessions_of(lab.server) if s._rdp.width == 3840)
            wanted = said(greedy, DataType.SUPPRESS_OUTPUT, b"\1\0\0\0" + bytes(8))
            whole = b"\1" + bytes(7) + b"\xff\x7f" * 2
            wanted += said(greedy, DataType.REFRESH_RECT, whole) * 100
            others = drawn.count((800, 600))
            for _ in range(100):
                transport.write(wanted)
                await asyncio.sleep(0.01)
            assert ours.stream.bytes_waiting <= 1 << 20
            before = drawn.count((3840, 2160))
            assert 1 <= before <= 4
            assert drawn.count((800, 600)) == others
            transport.resume_reading()
            while drawn.count((3840, 2160)) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
