"""A channel that outlives its connections: nothing lost, doubled or out of order."""

import random
from math import inf

import pytest

from rusb.errors import RemoteProtocolError
from rusb.rdp.lane import ACK_BYTES, ACK_MESSAGES
from rusb.rdp.outbox import MESSAGE_COST
from rusb.rdp.rusbext import RUSBEXT
from tests.support.amount import IS_SOAK, seeds
from tests.support.rdp.lanes import USB, End, Line


def line(window: int = 1 << 20) -> Line:
    return Line(End(window), End(window))


SCRIPT = [bytes([n]) * size for n, size in enumerate((1, 30, 1700, 0, 3))]


@pytest.mark.fuzz
def test_a_drop_at_every_byte_is_not_seen() -> None:
    """Also in the middle of a message of several chunks, and in the headers."""
    whole = line()
    whole.connect()
    for message in SCRIPT:
        whole.client.send(message)
        whole.server.send(message)
    total = whole.move()
    assert whole.client.got == whole.server.got == SCRIPT
    assert total > 2 * sum(map(len, SCRIPT))
    for limit in range(0, total, 1 if IS_SOAK else 7):
        broken = line()
        broken.connect()
        for message in SCRIPT:
            broken.client.send(message)
            broken.server.send(message)
        broken.move(limit)
        broken.connect()
        broken.move()
        assert broken.client.got == broken.server.got == SCRIPT, limit


def test_a_second_drop_in_the_replay_is_not_seen_either() -> None:
    for first, second in [(0, 0), (700, 0), (700, 900), (2500, 10), (2500, 1999)]:
        broken = line()
        broken.connect()
        for message in SCRIPT:
            broken.server.send(message)
        broken.move(first)
        broken.connect(room=0 if second % 2 == 0 else None)
        broken.server.send(b"new", is_urgent=True)
        broken.move(second)
        broken.connect()
        broken.move()
        assert broken.client.got == [*SCRIPT, b"new"]


def test_what_is_urgent_passes_nothing_that_left_before_the_drop() -> None:
    """Numbers are given in the order in which messages leave."""
    broken = line()
    broken.connect(room=0)
    for text in (b"a", b"b", b"c"):
        broken.server.send(text)
    broken.server.send(b"u", is_urgent=True)
    broken.joined.server.room = 1  # one message: the urgent one
    lost = b"".join(broken.joined.server.data_to_send())
    assert lost.endswith(b"u")
    assert broken.server.lane.sent == 1
    broken.connect()
    broken.server.send(b"v", is_urgent=True)
    broken.move()
    assert broken.client.got[0] == b"u"
    assert sorted(broken.client.got) == [b"a", b"b", b"c", b"u", b"v"]


def test_what_is_sent_without_a_connection_waits_in_its_order() -> None:
    parked = line()
    parked.connect()
    parked.server.lane.unbind()
    parked.server.send(b"bulk")
    parked.server.send(b"report", is_urgent=True)
    parked.server.send(b"reset", is_fence=True)
    parked.server.send(b"after", is_urgent=True)
    parked.connect()
    parked.move()
    assert parked.client.got == [b"report", b"bulk", b"reset", b"after"]


def test_what_an_old_connection_still_brings_does_not_count() -> None:
    """The peer sends it again; otherwise it would come twice."""
    broken = line()
    broken.connect()
    broken.server.send(b"late")
    old = broken.client.way
    broken.connect()
    old.received(broken.client.lane.channel, b"late")
    assert broken.client.lane.received == 0
    broken.move()
    assert broken.client.got == [b"late"]


def test_the_channel_may_have_another_number_on_the_next_connection() -> None:
    pair = line()
    for count, names in enumerate([(USB, RUSBEXT), (RUSBEXT, USB), (USB, RUSBEXT)]):
        pair.connect(channels=names)
        pair.client.send(b"up")
        pair.server.send(b"down")
        pair.move()
        assert pair.client.got == [b"down"] * (count + 1)
        assert pair.server.got == [b"up"] * (count + 1)


def test_acknowledgements_come_by_count_by_bytes_and_by_time() -> None:
    for sizes in ([1] * ACK_MESSAGES, [ACK_BYTES], [5]):
        some = line()
        some.connect()
        for size in sizes:
            some.server.send(bytes(size))
        some.move()
        if sizes == [5]:
            assert some.server.lane.size > 5 + MESSAGE_COST  # with its headers
            some.client.run_timers()
            some.move()
        assert some.server.lane.size == 0, sizes[:1]


@pytest.mark.parametrize("turn", [inf, 64])
@pytest.mark.parametrize("many", [1, 10, 3000])
def test_no_more_than_that_is_not_acknowledged(many: int, turn: float) -> None:
    """However short they are, and however they come; nothing is sent meanwhile."""
    some = line()
    some.connect()
    client, server = some.joined.client, some.joined.server
    for _ in range(max(1, 3000 // many)):
        for _ in range(many):
            some.server.send(b"")
        data = b"".join(server.data_to_send())
        while data or client.has_more:
            client.turn = turn
            client.receive_data(data)
            data = b""
            some.arrived(client.events())
            answer = b"".join(client.data_to_send())
            server.receive_data(answer)
            some.arrived(server.events(), is_client=False)
            late = some.client.messages - ACK_MESSAGES
            if many < ACK_MESSAGES or turn < inf:
                assert not some.server.lane.can_resume(late - 64 if many > 1 else late)
    assert some.client.messages >= 3000


def test_with_something_else_it_is_acknowledged_earlier() -> None:
    """A packet of its own costs as much as some transfers."""
    some = line()
    some.connect()
    for count in range(ACK_MESSAGES - 10):
        some.server.send(b"x")
        some.move()
        assert some.server.lane.can_resume(0), count
    some.client.send(b"y")
    some.move()
    assert not some.server.lane.can_resume(ACK_MESSAGES - 11)


def test_an_acknowledgement_is_not_answered() -> None:
    some = line()
    some.connect()
    some.server.send(b"x")
    some.move()
    some.client.run_timers()
    some.move()
    assert some.server.due == []  # nor thought of


@pytest.mark.parametrize("count", [2, 1 << 63])
def test_more_acknowledged_than_was_sent_ends_the_session(count: int) -> None:
    some = line()
    some.connect()
    some.server.send(b"x")
    some.move()
    with pytest.raises(RemoteProtocolError, match="1 sent"):
        some.server.lane.acknowledged(count)


def test_an_old_acknowledgement_is_harmless() -> None:
    some = line()
    some.connect()
    for _ in range(3):
        some.server.send(b"x")
    some.move()
    some.server.lane.acknowledged(2)
    some.server.lane.acknowledged(0)
    fits = [n for n in range(5) if some.server.lane.can_resume(n)]
    assert fits == [2, 3]


def test_what_left_in_one_turn_is_kept_until_all_of_it_has_come() -> None:
    """It is counted as it is kept; what comes again is only what has not come."""
    some = line()
    some.connect()
    for text in (b"a", b"b", b"c"):
        some.server.send(text)
    some.joined.server.data_to_send()
    some.server.send(b"d")
    some.joined.server.data_to_send()
    whole = some.server.lane.size
    some.server.lane.acknowledged(2)
    assert some.server.lane.size == whole
    some.server.lane.acknowledged(3)
    assert MESSAGE_COST < some.server.lane.size < whole // 2
    some.server.lane.unbind()
    assert some.server.lane.size == MESSAGE_COST + 1


def test_what_else_left_in_that_turn_does_not_come_again() -> None:
    """Other channels, pictures: they are no part of it."""
    some = line()
    some.connect()
    core = some.joined.server
    channel = core.find_channel(RUSBEXT)
    assert channel is not None
    core._output.append(bytes([0, 0x82, 0x00]) + bytes(0x1FD))  # on the fast path
    some.server.send(b"one")
    core.send_channel(channel, b"beside")
    some.server.send(bytes(5000))
    core._output.append(bytes([0, 5]) + bytes(3))
    core.send_channel(channel, b"beside")
    core.data_to_send()  # lost
    assert some.server.lane.sent == 2
    some.connect()
    assert some.server.lane.replayed == 2
    some.move()
    assert some.client.got == [b"one", bytes(5000)]


def test_counts_that_cannot_be_are_seen() -> None:
    """Less than was freed, or more than was sent."""
    some = line()
    some.connect()
    for _ in range(5):
        some.server.send(b"x")
    some.move()
    some.server.lane.acknowledged(3)
    fits = [n for n in (0, 1, 2, 3, 4, 5, 6, 1 << 63) if some.server.lane.can_resume(n)]
    assert fits == [3, 4, 5]


def test_what_is_kept_is_what_is_counted_and_full_says_so() -> None:
    parked = line(window=100_000)
    parked.connect()
    parked.server.lane.unbind()
    while True not in parked.server.full:
        parked.server.send(bytes(1000))
    assert 100_000 < parked.server.lane.size <= 100_000 + 1000 + MESSAGE_COST
    short = line(window=100_000)
    short.connect()
    short.server.lane.unbind()
    while True not in short.server.full:  # empty ones cost, too
        short.server.send(b"")
    assert short.server.lane.size <= 100_000 + MESSAGE_COST
    for one in (parked, short):
        one.connect()
        while one.move():
            one.client.run_timers()
        assert one.server.full == [True, False]
        assert one.server.lane.size == 0


def test_a_peer_that_acknowledges_nothing_fills_the_window() -> None:
    """A live connection: what left is kept until it is acknowledged."""
    some = line(window=50_000)
    some.connect()
    some.client.lane.unbind()  # it takes, and says nothing
    for _ in range(60):
        some.server.send(bytes(1000))
        some.joined.server.data_to_send()
    assert some.server.full == [True]


def run_random(seed: int, messages: int) -> int:
    """Random messages of random urgency, random drops, twice in a row at times."""
    rng = random.Random(seed)
    pair = line()
    pair.connect()
    sent: dict[str, list[tuple[bytes, str]]] = {"up": [], "down": []}
    number = 0
    while number < messages:
        for _ in range(rng.randrange(60)):
            number += 1
            way = rng.choice(("up", "down"))
            end = pair.client if way == "up" else pair.server
            data = number.to_bytes(4, "big") + bytes(rng.choice((0, 4, 40, 1700)))
            kind = rng.choices(("urgent", "fence", ""), (4, 1, 15))[0]
            end.send(data, is_urgent=kind == "urgent", is_fence=kind == "fence")
            sent[way].append((data, kind))
        if rng.random() < 0.3:
            pair.client.run_timers()
            pair.server.run_timers()
        chance = rng.random()
        if chance < 0.3:
            pair.move(rng.randrange(20_000), rng=rng)
            pair.connect(room=rng.choice((None, 0, 3000, inf)))
            while rng.random() < 0.3:
                pair.move(rng.randrange(3000), rng=rng)
                pair.connect(room=rng.choice((None, 0, 3000, inf)))
        elif chance < 0.8:
            pair.joined.client.room = pair.joined.server.room = inf
            pair.move(rng=rng)
    pair.joined.client.room = pair.joined.server.room = inf
    pair.move()
    for way, end in (("up", pair.server), ("down", pair.client)):
        check_order(sent[way], end.got, f"seed {seed}, {way}")
    return pair.replays


def check_order(sent: list[tuple[bytes, str]], got: list[bytes], which: str) -> None:
    """Nothing lost or doubled; each kind in its order; nothing went past a fence."""
    assert sorted(got) == [data for data, _ in sent], which
    place = {data: number for number, data in enumerate(got)}
    latest = {"urgent": -1, "": -1}
    fence = highest = -1
    for data, kind in sent:
        here = place[data]
        assert here > fence, which
        if kind == "fence":
            assert here > highest, which
            fence = here
        else:
            assert here > latest[kind], which
            latest[kind] = here
        highest = max(highest, here)


@pytest.mark.fuzz
def test_random_messages_and_drops() -> None:
    replays = sum(run_random(seed, 400) for seed in seeds(60, 400))
    assert replays > 100


# ------------------------------------------------------------ to another server ----


def to_another_server(some: Line, window: int = 1 << 20) -> None:
    """The server's end becomes one that knows nothing but the state of the old one."""
    old = some.server
    old.lane.unbind()
    new = some.server = End(window)
    new.lane.adopt(old.lane.channel, old.lane.state())
    new.got = old.got


def test_what_is_kept_goes_on_at_another_server() -> None:
    """Some have come and are acknowledged, some have come, some were lost, some never
    left: whoever goes on sends what the peer has not got."""
    some = line()
    some.connect()
    for text in (b"acknowledged", b"arrived"):
        some.server.send(text)
    some.move()
    some.server.lane.acknowledged(1)
    some.client.send(b"up")
    some.move()
    some.server.send(b"lost")
    some.joined.server.data_to_send()
    some.server.lane.unbind()
    some.server.send(b"waits")
    to_another_server(some)
    fits = [n for n in range(6) if some.server.lane.can_resume(n)]
    assert fits == [1, 2, 3]
    some.connect()
    assert some.server.lane.replayed == 1
    some.server.send(b"new")
    some.client.send(b"up again")
    some.move()
    assert some.client.got == [b"acknowledged", b"arrived", b"lost", b"waits", b"new"]
    assert some.server.got == [b"up", b"up again"]
    assert some.client.lane.received == some.server.lane.sent == 5


def test_it_may_go_on_twice_before_the_client_comes() -> None:
    some = line()
    some.connect()
    some.server.send(b"lost")
    some.joined.server.data_to_send()
    for text in (b"a", b"b"):
        to_another_server(some)
        some.server.send(text)
    some.connect()
    some.move()
    assert some.client.got == [b"lost", b"a", b"b"]


def test_the_channel_may_have_another_number_at_another_server() -> None:
    some = line()
    some.connect()
    some.server.send(b"here")
    some.move()
    to_another_server(some)
    some.connect(channels=(RUSBEXT, USB))
    some.server.send(b"there")
    some.client.send(b"up")
    some.move()
    assert some.client.got == [b"here", b"there"]
    assert some.server.got == [b"up"]


def test_what_is_kept_counts_at_another_server() -> None:
    """One with a smaller window is full at once, until the client has taken it."""
    some = line(window=100_000)
    some.connect()
    for _ in range(40):
        some.server.send(bytes(1000))
    some.joined.server.data_to_send()
    some.server.lane.unbind()
    for _ in range(20):
        some.server.send(bytes(1000))
    size = some.server.lane.size
    assert size == 60 * (1000 + MESSAGE_COST)
    to_another_server(some, window=size - 1)
    assert some.server.lane.size == size
    assert some.server.full == [True]
    some.connect()
    while some.move():
        some.client.run_timers()
    assert some.server.full == [True, False]
    assert some.client.got == [bytes(1000)] * 60
    assert some.server.lane.size == 0
