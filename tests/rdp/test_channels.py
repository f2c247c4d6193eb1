"""Listeners and handlers, and dynamic channels over whole connections."""

import itertools
import random
import struct
from collections.abc import Callable
from functools import partial
from math import inf

import pytest

from rusb.errors import LocalProtocolError, RemoteProtocolError
from rusb.rdp import svc
from rusb.rdp.channels import (
    DRDYNVC,
    ChannelHandler,
    ChannelLimits,
    ChannelListener,
    ChannelRegistry,
)
from rusb.rdp.client import ClientSettings
from rusb.rdp.dvc import FIRST_DYNAMIC, PDU_SIZE
from rusb.rdp.dvc_messages import Close, CreateRequest, CreateResponse
from rusb.rdp.events import (
    ChannelClosed,
    ChannelData,
    ChannelOpened,
    ChannelRefused,
    DynamicReady,
    Ignored,
    MessageTooLong,
)
from rusb.rdp.gcc import ChannelRequest, ClientBlocks, ClientCore
from rusb.rdp.security import Method
from rusb.rdp.server import ServerSettings
from rusb.rdp.svc import SHOW_PROTOCOL, WHOLE
from tests.support.amount import seeds
from tests.support.rdp.joined import Cut, Joined, clear, whole
from tests.support.rdp.raw import RawClient, RawServer
from tests.support.rdp.standard import encrypted

USB = "URBDRC"
OTHER = "Microsoft::Windows::RDS::DisplayControl"
LIMITS = {USB: ChannelLimits(16 << 20, 33), OTHER: ChannelLimits(64 << 10)}
CARRIER = 1005  # second of the channels asked for
ONE, TWO = FIRST_DYNAMIC + 1, FIRST_DYNAMIC + 2

Settings = tuple[ClientSettings, ServerSettings]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def join(settings: Settings | None = None, *, cut: Cut = whole) -> Joined:
    """Return two ends that both have dynamic channels."""
    client, server = settings or clear()
    client.channels = ("vrdpusb", DRDYNVC)
    server.channels = ("vrdpusb", DRDYNVC)
    client.dynamic = server.dynamic = LIMITS
    return Joined(client, server, cut=cut).run()


def open_one(joined: Joined, name: str = USB) -> int:
    """Open a channel, return what both know it by."""
    before = len(joined.of_server(ChannelOpened))
    joined.server.open_channel(name)
    joined.run()
    (opened,) = joined.of_server(ChannelOpened)[before:]
    assert joined.of_client(ChannelOpened)[-1] == opened
    assert opened.is_dynamic
    return opened.channel


def foreign(joined: Joined) -> Joined:
    """Let the two ends take each other for something else than rusb."""
    for end in (joined.client, joined.server):
        assert end._dynamic is not None
        end._dynamic.is_own = False
    return joined


# ----------------------------------------------------------------- registry ----


class Handler(ChannelHandler):
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def received(self, channel: int, data: bytes) -> None:
        self.calls.append((channel, data))

    def closed(self, channel: int) -> None:
        self.calls.append((channel,))


def test_a_registry_tells_the_listener_of_a_message_that_was_skipped() -> None:
    sizes: list[int] = []
    registry = ChannelRegistry(
        [
            ChannelListener("vrdpusb", lambda channel, name: None),
            ChannelListener(
                *("cliprdr", lambda channel, name: None),
                limits=ChannelLimits(4),
                too_long=sizes.append,
            ),
        ]
    )
    assert registry.limits == {"cliprdr": 4}
    for name in ("CLIPRDR", "vrdpusb", "other"):
        registry.handle(MessageTooLong(name, 5), lambda channel: None)
    assert sizes == [5]


def test_a_registry_finds_handlers_by_name_and_number() -> None:
    usb, display = Handler(), Handler()
    refused: list[str] = []
    closed: list[int] = []
    registry = ChannelRegistry(
        [
            ChannelListener("vrdpusb", lambda channel, name: usb),
            ChannelListener("nobody", lambda channel, name: None),
            ChannelListener(
                *(OTHER, lambda channel, name: display, True, LIMITS[OTHER]),
                refused=lambda: refused.append(OTHER),
            ),
            ChannelListener(USB, lambda channel, name: None, is_dynamic=True),
        ]
    )
    assert registry.static == ("vrdpusb", "nobody", DRDYNVC)
    assert registry.dynamic == {OTHER: LIMITS[OTHER], USB: ChannelLimits()}
    for event in (
        ChannelOpened(1004, "VrdpUSB"),  # in any case
        ChannelOpened(ONE, OTHER, is_dynamic=True),
        ChannelOpened(1005, "nobody"),
        ChannelOpened(1006, "rdpsnd"),
        ChannelOpened(1007, OTHER),
        ChannelOpened(TWO, "vrdpusb", is_dynamic=True),
        ChannelOpened(TWO + 1, OTHER.lower(), is_dynamic=True),
        ChannelOpened(TWO + 2, USB, is_dynamic=True),
        ChannelRefused(OTHER, -1),
        ChannelRefused("vrdpusb", -1),
    ):
        registry.handle(event, closed.append)
    assert registry.open == {1004: usb, ONE: display}
    assert closed == [TWO, TWO + 1, TWO + 2]
    assert refused == [OTHER]
    for _ in range(2):
        registry.handle(ChannelClosed(ONE), closed.append)
    assert display.calls == [(ONE,)]
    registry.handle(ChannelOpened(TWO, OTHER, is_dynamic=True), closed.append)
    registry.forget(TWO)
    registry.end()
    registry.end()
    assert (usb.calls, display.calls) == ([(1004,)], [(ONE,)])
    registry.handle(ChannelRefused(OTHER, -1), closed.append)
    assert (registry.open, refused) == ({}, [OTHER])


def test_without_dynamic_channels_nobody_asks_for_their_carrier() -> None:
    assert ChannelRegistry([]).static == ()


# -------------------------------------------------------------- connections ----


@pytest.mark.parametrize("cut", [whole, byte_by_byte])
@pytest.mark.parametrize("settings", [clear, encrypted], ids=["clear", "RC4"])
@pytest.mark.parametrize("is_own", [True, False])
def test_messages_of_any_length_go_both_ways(
    cut: Cut, settings: Callable[[], Settings], is_own: bool
) -> None:
    joined = join(settings(), cut=cut)
    assert joined.of_server(DynamicReady) == [DynamicReady(2)]
    first, second = open_one(joined), open_one(joined)
    if not is_own:
        foreign(joined)
    sizes = (0, 1, 1597, 1598, 1600, 5000, 40_000)
    sent = [
        (channel, random.Random(size).randbytes(size))
        for channel in (first, second)
        for size in sizes
    ]
    for channel, message in sent:
        joined.server.send_channel(channel, message)
        joined.client.send_channel(channel, message)
    joined.server.send_channel(1004, b"static")
    joined.run()
    for events in (joined.of_client(ChannelData), joined.of_server(ChannelData)):
        got = [(e.channel, e.data) for e in events if e.channel >= FIRST_DYNAMIC]
        assert got == sent
    assert [e.data for e in joined.of_client(ChannelData)][-1] == b"static"
    assert joined.of_client(Ignored) == joined.of_server(Ignored) == []


def test_channels_close_alone() -> None:
    joined = join()
    first, second, third = open_one(joined), open_one(joined), open_one(joined, OTHER)
    joined.server.close_channel(first)
    joined.client.close_channel(third)
    joined.server.send_channel(first, b"nobody")
    joined.client.send_channel(second, b"still there")
    joined.run()
    assert joined.of_client(ChannelClosed) == [ChannelClosed(first)]
    assert joined.of_server(ChannelClosed) == [ChannelClosed(third)]
    assert joined.of_server(ChannelData) == [ChannelData(second, b"still there")]
    joined.server.close_channel(first)
    joined.client.close_channel(FIRST_DYNAMIC + 4711)
    assert not joined.step()


@pytest.mark.parametrize("number", [255, 256, 0x10000])
@pytest.mark.parametrize("more", [0, 1])
def test_each_message_has_a_limit_whatever_the_number(number: int, more: int) -> None:
    """A message that comes whole, in one packet, as nearly all do."""
    joined = join()
    for end in (joined.client, joined.server):
        assert end._dynamic is not None
        end._dynamic._last = number - 1
        end._dynamic._limits = {USB: ChannelLimits(7 + 100)}
    channel = open_one(joined)
    assert channel == FIRST_DYNAMIC + number
    for message in (b"before", bytes(7 + 100 + more), b"after"):
        joined.server.send_channel(channel, message)
    joined.run()
    taken = [e.data for e in joined.of_client(ChannelData)]
    if more:
        assert taken == [b"before"]
        (closed,) = joined.of_client(ChannelClosed)
        assert "at most 107" in str(closed)
    else:
        assert taken == [b"before", bytes(107), b"after"]


def test_what_the_client_does_not_serve_is_refused() -> None:
    joined = join()
    assert joined.client._dynamic is not None
    joined.client._dynamic._limits = {USB: LIMITS[USB]}
    joined.server.open_channel(OTHER)
    joined.run()
    (refused,) = joined.of_server(ChannelRefused)
    assert (refused.name, refused.status & 0xFFFFFFFF) == (OTHER, 0xC0000225)


def test_a_connection_without_dynamic_channels_says_so() -> None:
    joined = Joined(*clear()).run()
    calls: list[Callable[[], object]] = [
        lambda: joined.server.open_channel(USB),
        lambda: joined.server.close_channel(ONE),
        lambda: joined.client.send_channel(ONE, b"x"),
        lambda: joined.client.close_channel(1004),  # a static one stays
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError):
            call()


@pytest.mark.parametrize("has_server", [True, False])
def test_both_ends_must_serve_dynamic_channels(has_server: bool) -> None:
    """Granted and mute, as any other channel that is not known."""
    client, server = clear()
    one = server if has_server else client
    client.channels = ("vrdpusb", DRDYNVC)
    server.channels = ("vrdpusb", DRDYNVC) if has_server else ("vrdpusb",)
    one.dynamic = LIMITS
    joined = Joined(client, server).run()
    assert joined.of_server(DynamicReady) == []
    assert joined.of_client(ChannelOpened)[-1].name == DRDYNVC
    with pytest.raises(LocalProtocolError):
        joined.server.open_channel(USB)


def test_a_static_channel_that_is_not_open_takes_nothing() -> None:
    joined = join()
    for channel in (1004 + 31, 0, -1):
        with pytest.raises(LocalProtocolError):
            joined.server.send_channel(channel, b"x")


def test_nothing_is_sent_once_the_connection_is_over() -> None:
    joined = join()
    channel = open_one(joined)
    joined.server.disconnect(1)
    joined.server.data_to_send()
    joined.server.send_channel(channel, b"late")
    joined.server.close_channel(channel)
    assert joined.server.data_to_send() == []


def test_a_dynamic_channel_closes_after_what_waits_on_it() -> None:
    joined = join()
    first, second = open_one(joined), open_one(joined)
    joined.server.room = 0
    long = random.Random(1).randbytes(40_000)
    for _ in range(3):  # more than a flow's share
        joined.server.send_channel(first, long)
    joined.server.close_channel(first)
    joined.server.send_channel(second, b"key", is_urgent=True)
    assert joined.server.data_to_send() == []
    joined.server.room = inf
    joined.run()
    assert [e.data for e in joined.of_client(ChannelData)] == [b"key", *[long] * 3]
    assert joined.of_client(ChannelClosed) == [ChannelClosed(first)]


# --------------------------------------------------------- sizes, and runs ----


def chunks_of(joined: Joined, channel: int, size: int) -> list[tuple[int, int, int]]:
    """Send a message, return what its chunks have: bytes, total length, flags."""
    joined.server.send_channel(channel, bytes(size))
    wire = b"".join(joined.server.data_to_send())
    found, pos = [], 0
    while pos < len(wire):
        end = pos + int.from_bytes(wire[pos + 2 : pos + 4])
        start = pos + (15 if wire[pos + 13] & 0x80 else 14)
        found.append((end - start - 8, *struct.unpack_from("<II", wire, start)))
        pos = end
    joined.client.receive_data(wire)
    assert joined.client.events() == [ChannelData(channel, bytes(size))]
    return found


def test_a_peer_of_our_own_gets_whole_messages_which_the_static_channel_cuts() -> None:
    joined = join()
    channel = open_one(joined)
    total = 2 + 65536  # rdpeusb.md 2.9
    assert chunks_of(joined, channel, 65536) == [
        (16256, total, 1),
        *[(16256, total, 0)] * 3,
        (total - 4 * 16256, total, 2),
    ]
    other = chunks_of(foreign(joined), channel, 65536)
    assert other[:-1] == [(PDU_SIZE, PDU_SIZE, WHOLE)] * 41


def count_pieces(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[bytes | int, ...]]:
    """Return a list of what the client's dynamic channels look at one by one."""
    dynamic = joined.client._dynamic
    assert dynamic is not None
    seen: list[tuple[bytes | int, ...]] = []

    def counted(call: Callable[..., None], *arguments: bytes | int) -> None:
        seen.append(arguments)
        call(*arguments)

    for name in ("receive", "_deliver"):
        call = getattr(dynamic, name)
        monkeypatch.setattr(dynamic, name, partial(counted, call))
    return seen


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("parts", [1, 3, 1000])
def test_full_pieces_in_a_row_are_joined_in_one_step(
    is_own: bool, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first and the last of them are looked at one by one."""
    joined = join()
    channel = open_one(joined)
    if not is_own:
        foreign(joined)
    seen = count_pieces(joined, monkeypatch)
    message = random.Random(1).randbytes(300_000)
    joined.server.send_channel(channel, message)
    wire = b"".join(joined.server.data_to_send())
    step = len(wire) // parts + 1
    for start in range(0, len(wire), step):
        joined.client.receive_data(wire[start : start + step])
    assert joined.client.events() == [ChannelData(channel, message)]
    if parts < 1000:
        assert len(seen) <= 2 + 2 * parts


def test_equal_messages_in_a_row_stay_messages() -> None:
    """What looks like a run of full pieces, and is none."""
    joined = foreign(join())
    first, second = open_one(joined), open_one(joined)
    message = bytes(1598)
    for _ in range(5):
        joined.server.send_channel(first, message)
    joined.server.send_channel(second, bytes(5 * 1598))
    for _ in range(5):
        joined.server.send_channel(first, message)
    joined.run()
    sizes = [len(e.data) for e in joined.of_client(ChannelData)]
    assert sizes == [*[1598] * 5, 5 * 1598, *[1598] * 5]


def test_runs_of_two_channels_interleave() -> None:
    joined = foreign(join())
    dynamic = joined.server._dynamic
    assert dynamic is not None
    channels = [open_one(joined), open_one(joined)]
    messages = [random.Random(c).randbytes(100_000) for c in channels]
    for seed in range(20):
        chance = random.Random(seed)
        queues = []
        for channel, message in zip(channels, messages, strict=True):
            joined.server.send_channel(channel, message)
            pieces = joined.server.data_to_send()
            pairs = zip(pieces[::2], pieces[1::2], strict=True)
            queues.append([head + piece for head, piece in pairs])
        wire = b""
        while any(queues):
            queue = chance.choice([q for q in queues if q])
            for _ in range(chance.choice([1, 1, 2, 7, 70])):
                wire += queue.pop(0) if queue else b""
        joined.client.receive_data(wire)
        events = joined.client.events()
        assert sorted((e.channel, e.data) for e in events) == [  # type: ignore[union-attr]
            *zip(channels, messages, strict=True)
        ]


def test_runs_of_two_channels_are_joined_as_far_as_they_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined = foreign(join())
    channels = [open_one(joined), open_one(joined)]
    packets = []
    for channel in channels:
        joined.server.send_channel(channel, bytes(120_000))
        pieces = joined.server.data_to_send()
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        packets.append([head + piece for head, piece in pairs])
    seen = count_pieces(joined, monkeypatch)
    runs: list[int] = []
    make = svc._run

    def run(header: int, size: int, count: int) -> struct.Struct:
        runs.append(count)
        return make(header, size, count)

    monkeypatch.setattr(svc, "_run", run)
    one, two = packets
    joined.client.receive_data(b"".join([one[0], two[0], *one[1:21], *two[1:21]]))
    assert len(seen) == 2
    runs.clear()
    alternating = zip(one[21:71], two[21:71], strict=True)
    joined.client.receive_data(b"".join(itertools.chain(*alternating)))
    assert (len(seen), runs) == (102, [])  # there is nothing to be gained
    joined.client.receive_data(b"".join([*one[71:], *two[71:]]))
    assert joined.client.events() == [ChannelData(c, bytes(120_000)) for c in channels]


def test_show_protocol_in_every_chunk_does_not_matter() -> None:
    joined = foreign(join())
    channel = open_one(joined)
    joined.server._chunk_flags[CARRIER] = SHOW_PROTOCOL
    message = random.Random(1).randbytes(100_000)
    joined.server.send_channel(channel, message)
    joined.run()
    assert joined.of_client(ChannelData) == [ChannelData(channel, message)]


# ------------------------------------------------------------ hostile peers ----


def hostile_client() -> RawClient:
    """Return a client with a channel 1, every byte of which can be chosen."""
    raw = RawClient(
        ServerSettings(
            frozenset({Method.TLS, Method.RDP}),
            channels=(DRDYNVC,),
            dynamic=LIMITS,
        )
    )
    raw.negotiate()
    core = ClientCore("raw", 800, 600, 16)
    channels = [ChannelRequest("other", 0), ChannelRequest(DRDYNVC, 0)]
    raw.connect(ClientBlocks(core, channels=channels).serialize())
    raw.join()
    raw.log_on()
    raw.confirm()
    raw.finish()
    raw.feed(chunk(raw, bytes.fromhex("50000200")))
    raw.server.open_channel(USB)
    raw.feed(chunk(raw, CreateResponse(1, 0).serialize()))
    assert raw.seen[-1] == ChannelOpened(ONE, USB, is_dynamic=True)
    raw.server.data_to_send()
    return raw


def hostile_server() -> RawServer:
    """Return a server with a channel 1, every byte of which can be chosen."""
    settings = ClientSettings(
        wants_tls=False,
        encryption=False,
        channels=("a", DRDYNVC, "b", "c"),
        dynamic=LIMITS,
    )
    raw = RawServer(settings).until_active()
    raw.feed(chunk(raw, bytes.fromhex("50000200cc0c922455550000")))
    raw.feed(chunk(raw, CreateRequest(1, USB).serialize()))
    assert raw.seen[-1] == ChannelOpened(ONE, USB, is_dynamic=True)
    return raw


Raw = RawClient | RawServer


def chunk(
    raw: Raw, payload: bytes, flags: int = WHOLE, total: int | None = None
) -> bytes:
    """Return a packet with a chunk of the static channel."""
    head = raw.sender.send_data(CARRIER, 8 + len(payload))
    total = len(payload) if total is None else total
    return head + struct.pack("<II", total, flags) + payload


HOSTILE = pytest.mark.parametrize("make", [hostile_client, hostile_server])


@HOSTILE
def test_a_message_may_come_in_chunks_of_the_static_channel(
    make: Callable[[], Raw],
) -> None:
    raw = make()
    message = b"\x30\x01" + bytes(5000)
    for start in range(0, len(message), 1000):
        last = 2 if start + 1000 >= len(message) else 0
        flags = (0 if start else 1) | last
        raw.feed(chunk(raw, message[start : start + 1000], flags, len(message)))
    assert raw.seen[-1] == ChannelData(ONE, bytes(5000))


@HOSTILE
def test_a_message_as_long_as_the_limit_comes_in_one(make: Callable[[], Raw]) -> None:
    raw = make()
    message = b"\x32\1\0\0\0" + bytes(16 << 20)
    step = 16000
    packets = [
        chunk(raw, message[start : start + step], 1 if not start else 0, len(message))
        for start in range(0, len(message) - step, step)
    ]
    rest = message[len(packets) * step :]
    raw.feed(b"".join(packets) + chunk(raw, rest, 2, len(message)))
    assert len(raw.seen[-1].data) == 16 << 20  # type: ignore[union-attr]
    with pytest.raises(RemoteProtocolError, match="at most"):
        raw.feed(chunk(raw, b"\x32", 1, (16 << 20) + 10))


@HOSTILE
def test_a_message_too_long_for_any_channel_costs_its_channel_alone(
    make: Callable[[], Raw],
) -> None:
    """A data message as long as what it carries (rdpeusb.md 2.9), from a liar."""
    raw = make()
    total = (16 << 20) + 10
    start = chunk(raw, b"\x30\x01" + bytes(16_000), 1, total)
    raw.feed(start + 3 * chunk(raw, bytes(16_000), 0, total))
    (closed,) = [e for e in raw.seen if isinstance(e, ChannelClosed)]
    assert closed.reason == f"message of {total - 2} bytes, at most {16 << 20}"
    assert not any(isinstance(e, Ignored) for e in raw.seen)  # one is enough
    raw.feed(chunk(raw, b"end", 2, total) + start)  # it is skipped; now none is open
    assert isinstance(raw.seen[-1], Ignored)
    receiver = raw.core._channels[raw.core._dynamic_carrier]
    assert not receiver.pieces
    assert not raw.core._is_over


@HOSTILE
@pytest.mark.parametrize("begin", [b"\x30\x01\0", b"\x33" + bytes(99), b"\x20" * 99])
def test_a_message_too_long_for_nobody_ends_the_connection(
    make: Callable[[], Raw], begin: bytes
) -> None:
    raw = make()
    with pytest.raises(RemoteProtocolError):
        raw.feed(chunk(raw, begin, 1, 1 << 30))


@HOSTILE
@pytest.mark.parametrize("step", [1, 2, 5, 16_000])
def test_a_whole_message_in_chunks_of_any_length(
    make: Callable[[], Raw], step: int
) -> None:
    raw = make()
    data = random.Random(step).randbytes(3 * step + 1)
    message = b"\x31\x01\0" + data
    starts = range(0, len(message), step)
    flags = [1, *[0] * (len(starts) - 2), 2]
    for start, kind in zip(starts, flags, strict=True):
        raw.feed(chunk(raw, message[start : start + step], kind, len(message)))
    assert raw.seen[-1] == ChannelData(ONE, data)


@HOSTILE
@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        (b"", WHOLE),
        (b"\x60\x01\x04abcd", WHOLE),
        (b"\x33\x01abcd", WHOLE),
        (b"\x30\x01abcd", WHOLE | 0x200000),  # compressed by the static channel
    ],
)
def test_malformed_messages_end_the_connection(
    make: Callable[[], Raw], payload: bytes, flags: int
) -> None:
    raw = make()
    with pytest.raises(RemoteProtocolError):
        raw.feed(chunk(raw, payload, flags))
    with pytest.raises(RemoteProtocolError):
        raw.feed(chunk(raw, b"\x30\x01a"))


@HOSTILE
def test_a_lie_in_a_run_closes_the_channel_alone(make: Callable[[], Raw]) -> None:
    raw = make()
    first = chunk(raw, b"\x24\x01" + struct.pack("<H", 8000) + bytes(1596))
    full = chunk(raw, b"\x30\x01" + bytes(1598))
    answer = raw.feed(first + 6 * full + chunk(raw, b"\x30\x01late"))
    (closed,) = [e for e in raw.seen if isinstance(e, ChannelClosed)]
    assert closed.channel == ONE
    assert "missing" in closed.reason
    assert answer.endswith(Close(1).serialize())
    assert sum(isinstance(e, Ignored) for e in raw.seen) == 2  # what came after it


@HOSTILE
def test_odd_packets_in_a_row_are_taken_one_by_one(make: Callable[[], Raw]) -> None:
    """What :meth:`.DynamicChannels.receive_packet` must not take for pieces."""
    piece = b"\x30\x01" + bytes(1598)
    for payload, flags, total in (
        (piece, WHOLE, 4000),  # dropped: it is not whole
        (piece, 1, 1600),  # no last chunk
        (b"\x30\x05" + bytes(1598), WHOLE, None),  # not open
        (b"\x30\x01", WHOLE, None),
        (b"\x90\x01" + bytes(1598), WHOLE, None),
    ):
        raw = make()
        raw.feed(chunk(raw, b"\x28\x01" + struct.pack("<I", 1 << 20)))
        raw.feed(3 * chunk(raw, payload, flags, total))
        assert not any(isinstance(e, ChannelData | ChannelClosed) for e in raw.seen)
        assert raw.core._dynamic is not None
        assert raw.core._dynamic._channels[1].left == 1 << 20


@HOSTILE
@pytest.mark.parametrize(
    "payload", [b"\x33\x01" + bytes(1598), b"\x32", b"\x31\1", b""]
)
def test_malformed_messages_in_a_row_end_the_connection(
    make: Callable[[], Raw], payload: bytes
) -> None:
    for after in (b"\x03", chunk(make(), payload)):
        raw = make()
        with pytest.raises(RemoteProtocolError):
            raw.feed(chunk(raw, payload) + after)


def test_pieces_that_are_joined_are_counted() -> None:
    raw = hostile_client()
    for number in range(2, 6):
        raw.server.open_channel(USB)
        raw.feed(chunk(raw, CreateResponse(number, 0).serialize()))

    def pour() -> None:
        for number in range(1, 6):
            head = bytes((number,))
            first = b"\x28" + head + struct.pack("<I", 16 << 20)
            full = chunk(raw, b"\x30" + head + bytes(16_000))
            raw.feed(chunk(raw, first) + 1000 * full)

    with pytest.raises(RemoteProtocolError, match="unfinished"):
        pour()


@pytest.mark.fuzz
@HOSTILE
@pytest.mark.parametrize("seed", seeds(30, 200))
def test_whatever_arrives_gives_events_or_one_error(
    make: Callable[[], Raw], seed: int
) -> None:
    chance = random.Random(seed)
    raw = make()
    known = [
        b"\x24\x01" + struct.pack("<H", 8000) + bytes(1596),
        *[b"\x30\x01" + bytes(1598)] * 3,
        *(b"\x30\x01abc", b"\x40\x01", b"\x10\x02URBDRC\0", b"\x10\x02\0\0\0\0"),
        *(b"\x30\x02" + bytes(1598), b"\x20\x02\x05ab"),
    ]
    wire = bytearray()
    for _ in range(200):
        wire += chunk(raw, chance.choice(known))
    for _ in range(chance.randint(0, 5)):
        wire[chance.randrange(len(wire))] ^= 1 << chance.randrange(8)
    steps = itertools.cycle([chance.randint(1, 9), chance.randint(1000, 9000)])
    pos = 0
    try:
        while pos < len(wire):
            step = next(steps)
            raw.feed(bytes(wire[pos : pos + step]))
            pos += step
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            raw.feed(b"\x03")
