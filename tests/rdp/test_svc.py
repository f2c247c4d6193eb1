"""Static channels: chunks, and T10 of docs/spec/bad-inputs.md."""

import contextlib
import dataclasses
import itertools
import random
import struct
from collections.abc import Callable

import pytest

from rusb.errors import LocalProtocolError, ParseError, RemoteProtocolError
from rusb.rdp.client import ClientSettings
from rusb.rdp.connection import Connection
from rusb.rdp.events import ChannelData, Event, Ignored, MessageTooLong
from rusb.rdp.server import ServerSettings
from rusb.rdp.svc import MAX_CHANNEL_MESSAGE, ChannelReceiver, ChannelSender
from rusb.rdp.tpkt import MAX_PACKET, packet_size
from tests.support.memory import memory_below
from tests.support.rdp.joined import Joined, clear
from tests.support.rdp.standard import encrypted
from tests.support.rows import each_row

FIRST, LAST, SHOW, SUSPEND, RESUME = 1, 2, 0x10, 0x20, 0x40
CHANNEL = 1004
USB = 1006  # third of the default channels


class End:
    """A receiver fed with chunks that can be chosen freely."""

    def __init__(self) -> None:
        self.sender = ChannelSender(is_server=False, initiator=1)
        self.events: list[Event] = []
        self.receiver = ChannelReceiver(CHANNEL, "test", self.events)

    def packet(self, total: int, flags: int, payload: bytes) -> bytes:
        head = self.sender.send_data(CHANNEL, 8 + len(payload))
        return head + struct.pack("<II", total, flags) + payload

    def feed(self, data: bytes) -> "End":
        """Take packets as the connection does."""
        pos = 0
        while pos < len(data):
            end = pos + packet_size(data, pos)
            body = pos + (15 if data[pos + 13] & 0x80 else 14)
            pos = self.receiver.receive(data, pos, body, end, len(data))
        return self

    def chunk(self, total: int, flags: int, payload: bytes) -> "End":
        return self.feed(self.packet(total, flags, payload))

    @property
    def messages(self) -> list[bytes]:
        return [e.data for e in self.events if isinstance(e, ChannelData)]

    @property
    def complaints(self) -> int:
        return sum(isinstance(e, Ignored) for e in self.events)


# ------------------------------------------------------------------ sending ----


def test_a_short_message_is_one_chunk_as_in_the_specification() -> None:
    sender = ChannelSender(is_server=False, initiator=1)
    wire = b"".join(sender.cut(1006, b"hello"))
    assert wire.hex() == (
        "0300001b02f080640001" + "03ee700d" + "0500000003000000" + b"hello".hex()
    )


@each_row("chunk", [1600, 4000, 16256])
@each_row("extra", [-1, 0, 1])
@each_row("count", [1, 2, 5])
@each_row("begin", [b"", b"\x31\x07\0"])
def test_chunks_are_full_flagged_and_fit_a_packet(
    chunk: int, extra: int, count: int, begin: bytes
) -> None:
    sender = ChannelSender(is_server=True, initiator=1)
    sender.chunk_size = chunk
    total = count * chunk + extra
    message = bytes(total - len(begin))
    pieces = sender.cut(CHANNEL, message, 0, begin)
    assert pieces[0].endswith(begin)
    pieces[0] = pieces[0].removesuffix(begin)
    pieces[1] = begin + pieces[1]
    assert b"".join(pieces[1::2]) == begin + message
    sizes = [len(payload) for payload in pieces[1::2]]
    flags = [int.from_bytes(head[-4:], "little") for head in pieces[0::2]]
    lengths = {int.from_bytes(head[-8:-4], "little") for head in pieces[0::2]}
    assert lengths == {total}
    assert sum(sizes) == total
    assert sizes[:-1] == [chunk] * (len(sizes) - 1)
    middle = [0] * (len(flags) - 2)
    assert flags == ([3] if len(flags) == 1 else [FIRST, *middle, LAST])
    for head, payload in zip(pieces[0::2], pieces[1::2], strict=True):
        assert packet_size(head, 0) == len(head) + len(payload) <= MAX_PACKET


def test_messages_of_one_length_are_cut_as_what_was_agreed_on_by_then() -> None:
    sender = ChannelSender(is_server=False, initiator=1)
    rng = random.Random(15)
    for prefix, chunk in ((b"", 1600), (b"", 16256), (bytes(4), 16256), (b"", 1600)):
        sender.prefix, sender.chunk_size = prefix, chunk
        fresh = ChannelSender(is_server=False, initiator=1)
        fresh.prefix, fresh.chunk_size = prefix, chunk
        for size, channel, flags, head in itertools.product(
            *((20, 5000), (CHANNEL, USB), (0, SHOW), (b"", b"head"))
        ):
            message = rng.randbytes(size)
            found = b"".join(sender.cut(channel, message, flags, head))
            assert found == b"".join(
                fresh.send_data(channel, len(prefix) + len(one)) + prefix + one
                for one in fresh.chunks(head + message, flags)
            )


def test_memory_of_many_lengths_stays_small() -> None:
    sender = ChannelSender(is_server=False, initiator=1)
    message = memoryview(bytes(1 << 20))
    sizes = (*range(1, 8000, 2), *range(100_000, 1 << 20, 10_007))
    with memory_below(1 << 20):
        for size in sizes:
            sender.cut(CHANNEL, message[:size])  # type: ignore[arg-type]


def test_too_long_a_message_is_our_own_mistake() -> None:
    joined = Joined().run()
    with pytest.raises(LocalProtocolError):
        joined.client.send_channel(1006, bytes(MAX_CHANNEL_MESSAGE + 1))
    joined.client.send_channel(1006, bytes(MAX_CHANNEL_MESSAGE))
    assert len(joined.run().server_events[-1].data) == MAX_CHANNEL_MESSAGE  # type: ignore[union-attr]


# ---------------------------------------------------------------- receiving ----


@pytest.mark.parametrize("chunk", [100, 1024, 1600, 16256])
@pytest.mark.parametrize("size", [1, 1600, 1601, 3200, 65565, 300_000])
def test_runs_of_chunks_in_any_pieces_give_the_message(chunk: int, size: int) -> None:
    end = End()
    end.sender.chunk_size = chunk
    message = random.Random(size).randbytes(size)
    packets = end.sender.cut(CHANNEL, message)
    whole = [a + b for a, b in zip(packets[0::2], packets[1::2], strict=True)]
    for group in (1, 2, 3, 7, len(whole)):
        for start in range(0, len(whole), group):
            end.feed(b"".join(whole[start : start + group]))
    assert end.messages == [message] * 5
    assert end.complaints == 0


def test_show_protocol_in_every_chunk_does_not_matter() -> None:
    end = End()
    parts = [bytes([n]) * 1600 for n in range(50)]
    flags = [FIRST, *[0] * 48, LAST]
    wire = [
        end.packet(80000, flag | SHOW, p) for flag, p in zip(flags, parts, strict=True)
    ]
    end.feed(b"".join(wire))
    assert end.messages == [b"".join(parts)]


def test_a_run_ends_where_the_sender_breaks_the_rhythm() -> None:
    end = End()
    parts = [b"a" * 1600, b"b" * 1600, b"c" * 1599, b"d" * 1600, b"e" * 1600, b"f"]
    total = sum(map(len, parts))
    flags = [FIRST, 0, 0, 0, 0, LAST]
    wire = [end.packet(total, f, p) for f, p in zip(flags, parts, strict=True)]
    assert end.feed(b"".join(wire)).messages == [b"".join(parts)]


def test_t10_channels_may_be_interleaved_chunk_by_chunk() -> None:
    joined = Joined().run()
    client = joined.client
    messages = {1004: bytes(10_000), 1006: b"x" * 10_000}
    cuts = [joined.server._sender.cut(*item) for item in messages.items()]
    pairs = [[a + b for a, b in zip(c[0::2], c[1::2], strict=True)] for c in cuts]
    client.receive_data(b"".join(itertools.chain(*zip(*pairs, strict=True))))
    found = [e for e in client.events() if isinstance(e, ChannelData)]
    assert {e.channel: e.data for e in found} == messages


def test_t10_empty_message() -> None:
    assert End().chunk(0, FIRST | LAST, b"").messages == [b""]


@pytest.mark.parametrize("total", [MAX_CHANNEL_MESSAGE + 1, 1 << 31, 0xFFFFFFFF])
@pytest.mark.parametrize("flags", [FIRST, FIRST | LAST])
def test_t10_totals_beyond_the_limit(total: int, flags: int) -> None:
    with pytest.raises(ParseError, match="at most"):
        End().chunk(total, flags, b"x")


def test_t10_nothing_is_allocated_for_what_did_not_arrive() -> None:
    end = End()
    with memory_below(100_000):
        end.chunk(MAX_CHANNEL_MESSAGE, FIRST, bytes(1600))


def test_t10_memory_of_tiny_chunks_stays_near_their_sum() -> None:
    end = End()
    end.chunk(MAX_CHANNEL_MESSAGE, FIRST, b"x")
    wire = end.packet(MAX_CHANNEL_MESSAGE, 0, b"x") * 10_000
    with memory_below(60_000):
        end.feed(wire)
    assert end.chunk(0, LAST, b"").messages == [b"x" * 10_001]


def test_t10_fewer_bytes_in_a_single_chunk_are_dropped() -> None:
    end = End().chunk(10, FIRST | LAST, b"short")
    assert (end.messages, end.complaints) == ([], 1)


def test_t10_surplus_in_a_single_chunk_is_cut() -> None:
    assert End().chunk(3, FIRST | LAST, b"surplus").messages == [b"sur"]


def test_t10_chunks_that_sum_to_less_or_more() -> None:
    end = End().chunk(9, FIRST, b"abc").chunk(9, LAST, b"def")
    end.chunk(4, FIRST, b"abc").chunk(4, 0, b"def").chunk(4, LAST, b"ghi")
    end.chunk(1, FIRST, bytes(1600)).chunk(1, 0, bytes(1600)).chunk(1, LAST, b"")
    assert end.messages == [b"abcdef", b"abcd", b"\0"]


def test_t10_last_without_first() -> None:
    end = End().chunk(3, LAST, b"abc").chunk(3, 0, b"abc")
    assert (end.messages, end.complaints) == ([], 2)


def test_t10_two_firsts() -> None:
    end = End().chunk(6, FIRST, b"abc").chunk(6, FIRST, b"def").chunk(6, LAST, b"ghi")
    assert (end.messages, end.complaints) == ([b"defghi"], 1)
    end.chunk(6, FIRST, b"abc").chunk(3, FIRST | LAST, b"new").chunk(6, LAST, b"def")
    assert (end.messages[1:], end.complaints) == ([b"new"], 3)


@pytest.mark.parametrize("flags", [0x20, 0x40])
def test_t10_suspend_and_resume_are_no_messages(flags: int) -> None:
    end = End().chunk(0, flags, b"")
    assert (end.messages, end.complaints) == ([], 1)


@pytest.mark.parametrize("flags", [0x00200000, 0x00E00003])
def test_t10_compressed_chunks_were_not_agreed_on(flags: int) -> None:
    with pytest.raises(ParseError, match="compressed"):
        End().chunk(5, flags, b"hello")


@pytest.mark.parametrize("size", range(8))
def test_t10_chunk_shorter_than_its_header(size: int) -> None:
    end = End()
    with pytest.raises(ParseError, match="not 8"):
        end.feed(end.sender.send_data(CHANNEL, size) + bytes(size))


# ------------------------------------------------- through whole connections ----


@pytest.mark.parametrize("is_up", [True, False], ids=["to-server", "to-client"])
class TestBothEnds:
    """T10 as the connection sees it: which errors end it, what memory it takes."""

    def ends(self, joined: Joined, *, is_up: bool) -> tuple[Connection, Connection]:
        joined.run()
        joined.client_events.clear()
        joined.server_events.clear()
        ends = joined.client, joined.server
        return ends if is_up else ends[::-1]

    def chunk(self, sender: Connection, total: int, flags: int, size: int) -> bytes:
        head = sender._sender.send_data(USB, 8 + size)
        return head + struct.pack("<II", total, flags) + bytes(size)

    @pytest.mark.parametrize("total", [MAX_CHANNEL_MESSAGE + 1, 1 << 31, 0xFFFFFFFF])
    def test_t10_totals_beyond_the_limit(self, total: int, is_up: bool) -> None:
        sender, receiver = self.ends(Joined(), is_up=is_up)
        with pytest.raises(RemoteProtocolError, match="at most"):
            receiver.receive_data(self.chunk(sender, total, FIRST, 100))
        with pytest.raises(RemoteProtocolError, match="has failed"):
            receiver.receive_data(b"\x03")

    def test_t10_compression_was_not_agreed_on(self, is_up: bool) -> None:
        sender, receiver = self.ends(Joined(), is_up=is_up)
        with pytest.raises(RemoteProtocolError, match="compressed"):
            receiver.receive_data(self.chunk(sender, 100, 0x00E00003, 100))

    @pytest.mark.parametrize("flags", [0, LAST, SUSPEND, RESUME])
    def test_t10_chunks_without_a_beginning(self, flags: int, is_up: bool) -> None:
        sender, receiver = self.ends(Joined(), is_up=is_up)
        receiver.receive_data(self.chunk(sender, 100, flags, 100))
        assert [type(e) for e in receiver.events()] == [Ignored]
        sender.send_channel(USB, b"goes on")
        receiver.receive_data(b"".join(sender.data_to_send()))
        assert receiver.events() == [ChannelData(USB, b"goes on")]

    @pytest.mark.parametrize(
        ("at", "byte"), [(0, 0x00), (5, 0xE0), (7, 0x2E), (7, 0x66), (13, 0x75)]
    )
    def test_what_only_looks_like_a_chunk_brings_no_message(
        self, at: int, byte: int, is_up: bool
    ) -> None:
        """Not a TPKT, not data, neither of MCS, data longer than its packet."""
        sender, receiver = self.ends(Joined(*clear()), is_up=is_up)
        packet = bytearray(self.chunk(sender, 100, FIRST | LAST, 100))
        packet[1] = len(packet)  # as a packet of the fast path has it
        receiver.receive_data(bytes(packet))
        assert [type(event) for event in receiver.events()] == [ChannelData]
        packet[at] = byte
        with contextlib.suppress(RemoteProtocolError):
            receiver.receive_data(bytes(packet))
        assert not any(isinstance(one, ChannelData) for one in receiver.events())

    @pytest.mark.parametrize("size", [0, 16, 1600, 16256])
    def test_t10_messages_without_an_end(self, size: int, is_up: bool) -> None:
        """More is sent than was announced: what is kept is what was announced."""
        sender, receiver = self.ends(Joined(*clear()), is_up=is_up)
        first, more = (self.chunk(sender, 1 << 16, f, size) for f in (FIRST, 0))
        receiver.receive_data(first)
        batch = more * (20_000 // len(more))
        with memory_below(3 << 16):
            for _ in range(15):
                receiver.receive_data(batch)
        assert receiver.events() == []

    @pytest.mark.parametrize("settings", [clear, encrypted])
    def test_t10_one_message_at_its_limit(
        self, settings: Callable[[], tuple[ClientSettings, ServerSettings]], is_up: bool
    ) -> None:
        client, server = settings()
        client.channels = ("vrdpusb",)
        sender, receiver = self.ends(Joined(client, server), is_up=is_up)
        sender.send_channel(1004, bytes(MAX_CHANNEL_MESSAGE))
        pieces = sender.data_to_send()
        with memory_below(5 * MAX_CHANNEL_MESSAGE // 2):
            for start in range(0, len(pieces), 16):
                receiver.receive_data(b"".join(pieces[start : start + 16]))
            (event,) = receiver.events()
        assert isinstance(event, ChannelData)
        assert len(event.data) == MAX_CHANNEL_MESSAGE


def test_a_message_beyond_the_limit_of_a_lenient_channel_is_skipped() -> None:
    end = End()
    end.receiver = ChannelReceiver(CHANNEL, "test", end.events, 10, is_lenient=True)
    end.chunk(11, FIRST, b"x" * 6)
    for _ in range(5):
        end.chunk(11, 0, b"x")
    end.chunk(11, LAST, b"x")
    assert end.events == [MessageTooLong("test", 11)]
    end.chunk(0xFFFF_FFFF, FIRST | LAST, b"x")
    end.chunk(10, FIRST, b"12345").chunk(10, LAST, b"67890")
    assert end.messages == [b"1234567890"]
    assert end.complaints == 0
    end.chunk(10, FIRST, b"12345").chunk(11, FIRST, b"").chunk(10, LAST, b"67890")
    assert end.messages == [b"1234567890"]
    assert end.complaints == 1  # a message without an end
    end.chunk(11, FIRST, b"x").chunk(3, FIRST | LAST, b"abc").chunk(3, LAST, b"abc")
    assert end.messages == [b"1234567890", b"abc"]
    assert end.complaints == 2  # what is skipped ends with the next message


def test_a_static_channel_with_a_limit_goes_on_after_a_message_beyond_it() -> None:
    client, server = clear()
    limits = {"cliprdr": 4}
    server = dataclasses.replace(server, channels=("cliprdr",), limits=limits)
    joined = Joined(client, server).run()
    for message in (b"12345", b"1234"):
        joined.client.send_channel(1004, message)
        joined.run()
    assert [e.data for e in joined.of_server(ChannelData)] == [b"1234"]
    assert joined.of_server(MessageTooLong) == [MessageTooLong("cliprdr", 5)]
