"""Messages that wait for room: which one is next, and that none is ever cut."""

import random
from collections.abc import Callable
from math import inf

import pytest

from rusb.rdp.client import ClientSettings
from rusb.rdp.connection import Connection
from rusb.rdp.events import ChannelData, Disconnected
from rusb.rdp.outbox import MAX_AHEAD, MESSAGE_COST, SHARE, Message, Outbox
from rusb.rdp.server import ServerSettings
from tests.support.rdp.joined import Joined, clear
from tests.support.rdp.standard import encrypted

USB = 1004
Settings = tuple[ClientSettings, ServerSettings]


def message(text: str, *, size: int = 0) -> Message:
    """``u…`` is urgent, ``f…`` a fence, anything else waits in the flow it begins with.

    Those in lower case all belong to one.
    """
    data = text.encode().ljust(size, b".")
    flow = ord(text[0]) if text[0].isupper() else 0
    return Message(USB, data, None, (USB, flow), text[0] == "u", text[0] == "f")


def order(texts: str, *, size: int = 0) -> str:
    outbox = Outbox()
    for text in texts.split():
        outbox.add(message(text, size=size))
    taken = []
    while outbox.size:
        taken.append(outbox.take().data.decode().rstrip("."))
    return " ".join(taken)


def test_urgent_messages_go_first_and_both_kinds_keep_their_order() -> None:
    assert order("a u1 b u2 c") == "u1 u2 a b c"


def test_nothing_goes_past_a_fence_in_either_direction() -> None:
    assert order("a u1 f1 b u2 f2 f3 u3 c") == "u1 a f1 u2 b f2 f3 u3 c"


def test_what_comes_while_a_fence_waits_stays_behind_it() -> None:
    outbox = Outbox()
    for text in ("a", "f1", "b", "u1"):
        outbox.add(message(text))
    assert outbox.take().data == b"a"
    outbox.add(message("u2"))
    assert [outbox.take().data for _ in range(2)] == [b"f1", b"u1"]
    outbox.add(message("u3"))
    assert [outbox.take().data for _ in range(3)] == [b"u2", b"u3", b"b"]
    assert outbox.size == 0


def test_urgent_messages_hold_up_the_others_by_half_at_most() -> None:
    size = MAX_AHEAD // 2
    texts = "a b " + " ".join(f"u{n}" for n in range(7))
    assert order(texts, size=size) == "u0 u1 a u2 u3 b u4 u5 u6"


def test_devices_take_turns_and_each_keeps_its_order() -> None:
    texts = " ".join(f"A{n}" for n in range(6)) + " B0 B1 B2 C0"
    assert order(texts, size=SHARE) == "A0 B0 C0 A1 B1 A2 B2 A3 A4 A5"


def test_a_device_with_long_messages_pays_for_them() -> None:
    """Eight times as long: then the other one sends eight."""
    outbox = Outbox()
    for n in range(3):
        outbox.add(message(f"A{n}", size=8 * SHARE))
    for n in range(20):
        outbox.add(message(f"B{n}", size=SHARE))
    names = [outbox.take().data[:1] for _ in range(20)]
    assert names[:2] == [b"A", b"B"]
    first, second = [n for n, name in enumerate(names) if name == b"A"][:2]
    assert 8 <= second - first <= 10


def test_short_messages_of_a_device_leave_together() -> None:
    """A turn is bytes, not a message: each change would cost a record of TLS."""
    texts = " ".join(f"A{n} B{n}" for n in range(50))
    names = [text[0] for text in order(texts, size=1000).split()]
    assert "".join(names) == "A" * 50 + "B" * 50


def test_a_device_that_sends_now_and_then_waits_for_one_turn_of_each() -> None:
    outbox = Outbox()
    for n in range(100):
        outbox.add(message(f"A{n}", size=SHARE))
    for n in range(10):
        outbox.add(message(f"B{n}"))
        taken = [outbox.take().data[:1] for _ in range(3)]
        assert b"B" in taken


def test_turns_do_not_change_what_a_fence_separates() -> None:
    assert order("A1 B1 f1 C1 u1 A2", size=SHARE) == "A1 B1 f1 u1 C1 A2"


def test_short_messages_count_with_what_they_cost() -> None:
    outbox = Outbox()
    for _ in range(100):
        outbox.add(message("x"))
    assert outbox.size == 100 * (1 + MESSAGE_COST)


# ------------------------------------------------------------ connections ----


def session(settings: Callable[[], Settings]) -> Joined:
    client, server = settings()
    client.channels = ("vrdpusb",)
    return Joined(client, server).run()


def ends(joined: Joined, *, is_up: bool) -> tuple[Connection, Connection]:
    both = joined.client, joined.server
    return both if is_up else both[::-1]


@pytest.fixture(params=[True, False], ids=["up", "down"])
def is_up(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def received(sender: Connection, receiver: Connection) -> list[bytes]:
    receiver.receive_data(b"".join(sender.data_to_send()))
    return [e.data for e in receiver.events() if isinstance(e, ChannelData)]


@pytest.mark.parametrize("settings", [clear, encrypted], ids=["clear", "RC4"])
def test_urgent_messages_pass_and_no_message_is_split(
    settings: Callable[[], Settings], is_up: bool
) -> None:
    """With RC4, too, whose key stream fixes the order in which packets leave."""
    sender, receiver = ends(session(settings), is_up=is_up)
    disk = [random.Random(n).randbytes(5000 + n) for n in range(4)]
    keys = [bytes((n,)) * 8 for n in range(3)]
    sender.room = 0
    for block in disk:
        sender.send_channel(USB, block)
    assert received(sender, receiver) == []
    assert sender.bytes_waiting == sum(map(len, disk)) + 4 * MESSAGE_COST
    sender.room = 1
    assert received(sender, receiver) == disk[:1]
    assert sender.room < 0
    for key in keys:
        sender.send_channel(USB, key, is_urgent=True)
    sender.room = len(keys[0]) + 1
    assert received(sender, receiver) == keys[:2]
    sender.room = inf
    assert received(sender, receiver) == [keys[2], *disk[1:]]
    assert sender.bytes_waiting == 0


@pytest.mark.parametrize("settings", [clear, encrypted], ids=["clear", "RC4"])
def test_what_is_on_no_channel_never_waits(settings: Callable[[], Settings]) -> None:
    """A sign of life is encrypted before what waits, and leaves before it."""
    joined = session(settings)
    joined.server.room = 0
    joined.server.send_channel(USB, b"waits")
    joined.server.keepalive()
    sign = joined.server.data_to_send()
    assert sign
    joined.client.receive_data(b"".join(sign))
    assert not any(isinstance(e, ChannelData) for e in joined.client.events())
    joined.server.keepalive()
    joined.server.room = inf
    assert received(joined.server, joined.client) == [b"waits"]


def test_what_waits_goes_before_the_goodbye(is_up: bool) -> None:
    joined = session(clear)
    sender, receiver = ends(joined, is_up=is_up)
    sender.room = 0
    sender.send_channel(USB, b"last words")
    (joined.client if is_up else joined.server).disconnect()
    receiver.receive_data(b"".join(sender.data_to_send()))
    kinds = [type(e) for e in receiver.events()]
    assert kinds.index(ChannelData) < kinds.index(Disconnected)


# ------------------------------------------------------------------ turns ----


@pytest.mark.parametrize("turn", [1, 2, 5])
@pytest.mark.parametrize("piece", [1, 700, 1 << 20])
@pytest.mark.parametrize("settings", [clear, encrypted])
def test_what_has_come_is_handled_in_turns_and_nothing_is_lost(
    settings: Callable[[], Settings], piece: int, turn: int
) -> None:
    joined = session(settings)
    sent = [random.Random(n).randbytes(n * 777) for n in range(1, 8)]
    for data in sent:
        joined.client.send_channel(USB, data)
    wire = b"".join(joined.client.data_to_send())
    server, found = joined.server, []
    for start in range(0, len(wire), piece):
        server.turn = turn
        server.receive_data(wire[start : start + piece])
        while True:
            events = server.events()
            assert len(events) <= turn
            found += events
            if not server.has_more:
                break
            server.turn = turn
            server.receive_data(b"")
    assert found == [ChannelData(USB, data) for data in sent]


def test_what_comes_before_the_next_turn_is_handled_behind_the_rest() -> None:
    joined = session(clear)
    server = joined.server
    for data in (b"a", b"b", b"c"):
        joined.client.send_channel(USB, data)
    server.turn = 1
    server.receive_data(b"".join(joined.client.data_to_send()))
    assert server.events() == [ChannelData(USB, b"a")]
    joined.client.send_channel(USB, b"d")
    server.turn = 2
    server.receive_data(b"".join(joined.client.data_to_send()))
    assert server.events() == [ChannelData(USB, b"b"), ChannelData(USB, b"c")]
    server.turn = 2
    server.receive_data(b"")
    assert server.events() == [ChannelData(USB, b"d")]
    assert not server.has_more
