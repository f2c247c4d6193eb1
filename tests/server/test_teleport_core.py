"""The messages between two hosts (teleport.md 2 and 4): order, bounds, bad input."""

import json
import random
import struct

import pytest

from rusb.errors import LocalProtocolError, ParseError, RemoteProtocolError
from rusb.server.machine.teleport.core import (
    GREETING,
    Step,
    TeleportCore,
    check_greeting,
)
from rusb.server.machine.teleport.messages import (
    MAX_BODY,
    Accept,
    Alive,
    Answer,
    Client,
    Costs,
    Data,
    Device,
    DeviceBytes,
    Display,
    End,
    Failed,
    Gone,
    Hello,
    Image,
    Kind,
    Loaded,
    Logon,
    Message,
    NotTaken,
    Offer,
    Progress,
    Reads,
    Run,
    Running,
    Take,
    Taken,
    Welcome,
    What,
    parse,
    serialize,
)
from tests.support.rows import each_row

OFFER = Offer(
    (("Memory", "64"), ("Firmware", "BIOS")),
    (Image("ide 0 0", "file", "disk.img", "raw", 8 << 20, "ab" * 16, ".rusb-x"),),
    (Device(3, "rusb-1", "usb0.0", "1", (bytes(16),), "1209:0003 Port"),),
)
TARGETS, SOURCES = False, True
TALK: list[tuple[bool, Message]] = [
    (TARGETS, Hello(bytes(32), Costs(15, 8, 1, bytes(16)))),
    (SOURCES, Logon(bytes(32), bytes(32))),
    (TARGETS, Welcome(bytes(32))),
    (SOURCES, OFFER),
    (TARGETS, Accept()),
    (SOURCES, Progress(1, 2, 3)),
    (SOURCES, Data(b"12345")),
    (SOURCES, Alive()),
    (SOURCES, Data(b"678")),
    (SOURCES, End(8)),
    (TARGETS, Loaded()),
    (SOURCES, Run()),
    (TARGETS, Running()),
    (TARGETS, Display("10.0.0.2", 3389, bytes(32))),
    (SOURCES, Take((3,))),
    (SOURCES, Client({"version": 1})),
    (TARGETS, Taken()),
    (TARGETS, NotTaken("no such device")),
    (TARGETS, Reads(What.SUSPEND)),
    (SOURCES, Answer("several reads")),
    (TARGETS, DeviceBytes(3, b"xyz")),
    (SOURCES, DeviceBytes(3, b"")),
    (SOURCES, Gone(3)),
    (TARGETS, Failed("over", ("why",))),
]


def pair() -> dict[bool, TeleportCore]:
    return {end: TeleportCore(is_source=end) for end in (SOURCES, TARGETS)}


def at(step: Step) -> dict[bool, TeleportCore]:
    """Both ends as they are when a step is awaited."""
    ends = pair()
    for who, message in TALK:
        if ends[SOURCES].step is step:
            break
        ends[who].send(message)
        ends[not who].receive_data(ends[who].outputs())
        ends[not who].events()
    return ends


def framed(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


@pytest.mark.parametrize("piece", [1, 7, MAX_BODY])
def test_a_whole_talk_in_any_pieces(piece: int) -> None:
    ends = pair()
    for who, message in TALK:
        ends[who].send(message)
        data = ends[who].outputs()
        for start in range(0, len(data), piece):
            ends[not who].receive_data(data[start : start + piece])
        assert ends[not who].events() == [message]
    assert {end.step for end in ends.values()} == {Step.OVER}
    assert ends[TARGETS].streamed == 8


def test_many_messages_at_once() -> None:
    ends = at(Step.STREAM)
    for message in (Data(b"1"), Progress(1, 0, 1), End(1)):
        ends[SOURCES].send(message)
    ends[TARGETS].receive_data(ends[SOURCES].outputs())
    assert ends[TARGETS].events() == [Data(b"1"), Progress(1, 0, 1), End(1)]


def test_the_bytes_are_those_of_the_specification() -> None:
    source = at(Step.RUN)[SOURCES]
    source.send(Run())
    assert source.outputs() == bytes.fromhex("00000003 09") + b"{}"
    source.receive_data(bytes.fromhex("00000003 0a") + b"{}")
    source.send(DeviceBytes(258, b"A"))
    assert source.outputs() == bytes.fromhex("00000004 11 0102 41")
    source.send(Gone(1))
    assert source.outputs() == bytes.fromhex("00000003 12 0001")


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("who", [SOURCES, TARGETS])
def test_only_what_the_table_allows_is_sent_and_taken(step: Step, who: bool) -> None:
    may = {(w, m.kind, s) for w, m, s in allowed()}
    for _, message in TALK:
        print(message)  # the last one is shown if it fails
        ends = at(step)
        if isinstance(message, End):
            message = End(ends[SOURCES].streamed)
        peer = ends[not who]
        data = framed(message.kind, serialize(message))
        if (who, message.kind, step) in may:
            ends[who].send(message)
            assert ends[who].outputs() == data
            peer.receive_data(data)
            continue
        with pytest.raises(LocalProtocolError):
            ends[who].send(message)
        with pytest.raises(RemoteProtocolError):
            peer.receive_data(data)
        with pytest.raises(RemoteProtocolError):
            peer.receive_data(b"")


def allowed() -> list[tuple[bool, Message, Step]]:
    """Who may say what when, read off the talk and clause 4.2."""
    found = []
    ends = pair()
    for who, message in TALK[:-1]:
        found.append((who, message, ends[SOURCES].step))
        ends[who].send(message)
        ends[not who].receive_data(ends[who].outputs())
    for step in list(Step)[:-1]:
        for who in (SOURCES, TARGETS):
            found += [(who, Alive(), step), (who, Failed(""), step)]
    for who in (SOURCES, TARGETS):
        found += [(who, DeviceBytes(0, b""), Step.MOVED), (who, Gone(0), Step.MOVED)]
    return found


def test_a_stream_of_another_length_is_refused() -> None:
    ends = at(Step.STREAM)
    ends[TARGETS].receive_data(framed(Kind.DATA, b"123"))
    with pytest.raises(RemoteProtocolError, match="END of 4 bytes, but 3 came"):
        ends[TARGETS].receive_data(framed(Kind.END, b'{"size": 4}'))


@pytest.mark.parametrize("length", [0, MAX_BODY + 2, 0xFFFF_FFFF])
def test_lengths_are_bounded_before_anything_is_kept(length: int) -> None:
    core = TeleportCore(is_source=True)
    with pytest.raises(RemoteProtocolError, match="a message of"):
        core.receive_data(struct.pack(">IB", length, 1))


def test_what_is_too_long_is_not_sent() -> None:
    source = at(Step.STREAM)[SOURCES]
    source.send(Data(bytes(MAX_BODY)))
    with pytest.raises(LocalProtocolError):
        source.send(Data(bytes(MAX_BODY + 1)))


BAD = [
    (Kind.HELLO, b""),
    (Kind.HELLO, b"\xff"),
    (Kind.HELLO, b"[]"),
    (Kind.HELLO, b"{}"),
    (Kind.HELLO, b"[" * 100_000),
    (Kind.HELLO, json.dumps({"nonce": "00", "password": None, "version": 1}).encode()),
    (Kind.LOADED, b'{"more": 1}'),
    (Kind.END, b'{"size": -1}'),
    (Kind.END, b'{"size": true}'),
    (Kind.END, b'{"size": 1e3}'),
    (Kind.END, b'{"size": ' + b"9" * 10_000 + b"}"),
    (Kind.RUNNING, b'{"port": 0}'),
    (Kind.DISPLAY, b'{"host": "", "port": 65536, "certificate": ""}'),
    (Kind.DISPLAY, b'{"host": "", "port": 1, "certificate": "00"}'),
    (Kind.DISPLAY, b'{"host": "%s", "port": 1, "certificate": ""}' % (b"a" * 254)),
    (Kind.FAILED, json.dumps({"reason": "x" * 2001, "refused": []}).encode()),
    (Kind.FAILED, json.dumps({"reason": "", "refused": ["x"] * 201}).encode()),
    (Kind.FAILED, b'{"reason": "", "refused": [1]}'),
    (Kind.WELCOME, b'{"proof": "0g"}'),
    (Kind.WELCOME, b'{"proof": 1}'),
    (Kind.TAKE, b'{"numbers": [65536]}'),
    (Kind.TAKE, json.dumps({"numbers": [1] * 129}).encode()),
    (Kind.CLIENT, b'{"client": []}'),
    (Kind.NOT_TAKEN, b"{}"),
    (Kind.NOT_TAKEN, json.dumps({"reason": "x" * 2001}).encode()),
    (Kind.DEVICE, b"1"),
    (Kind.GONE, b"123"),
    (12, b"{}"),
    (255, b""),
]


@each_row(("kind", "body"), BAD)
def test_malformed_bodies_are_refused(kind: int, body: bytes) -> None:
    with pytest.raises(ParseError):
        parse(kind, body)


@pytest.mark.parametrize("key", ["profile", "images", "devices"])
@pytest.mark.parametrize("value", [None, 1, "x", [1], [["a", "b", "c"]], {}])
def test_each_part_of_an_offer_is_checked(key: str, value: object) -> None:
    whole = json.loads(serialize(OFFER)) | {key: value}
    with pytest.raises(ParseError, match=key):
        parse(Kind.OFFER, json.dumps(whole).encode())


def test_what_is_cut_short_is_waited_for_and_no_more() -> None:
    data = framed(Kind.HELLO, serialize(TALK[0][1]))
    for end in range(len(data)):
        core = TeleportCore(is_source=True)
        core.receive_data(data[:end])
        assert core.events() == []


def test_any_bytes_give_messages_or_a_refusal() -> None:
    chance = random.Random(16)
    whole = [framed(m.kind, serialize(m)) for _, m in TALK]
    for _ in range(2000):
        core = at(chance.choice(list(Step)))[chance.random() < 0.5]
        data = bytearray(b"".join(chance.choices(whole, k=3)))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            core.receive_data(bytes(data))
        except RemoteProtocolError:
            with pytest.raises(RemoteProtocolError):
                core.receive_data(b"")
        assert all(isinstance(event, Message) for event in core.events())


def test_first_lines() -> None:
    check_greeting(GREETING)
    check_greeting(b"rusb-teleport 1\n")
    for line in (b"", b"\n", b"VirtualBox-something\n", b"\x16\x03\x01\x02", bytes(99)):
        with pytest.raises(RemoteProtocolError, match="VirtualBox's own teleporting"):
            check_greeting(line)
    for line, number in ((b"rusb-teleport 2", "2"), (b"rusb-teleport", "none")):
        with pytest.raises(RemoteProtocolError, match=f"version {number}"):
            check_greeting(line)
