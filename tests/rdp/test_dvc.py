"""Dynamic channels: both ends of MS-RDPEDYC (rdpeusb.md 2), without a connection."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rusb.errors import LocalProtocolError, ParseError
from rusb.rdp.channels import ChannelLimits
from rusb.rdp.dvc import (
    ANSWER,
    FIRST_DYNAMIC,
    MAX_ASSEMBLED,
    MAX_DYNAMIC_CHANNELS,
    NO_ROOM,
    NOT_FOUND,
    OFFER,
    PDU_SIZE,
    DynamicChannels,
)
from rusb.rdp.dvc_messages import (
    MAX_NAME,
    Capabilities,
    Close,
    CreateRequest,
    CreateResponse,
)
from rusb.rdp.events import (
    ChannelClosed,
    ChannelData,
    ChannelOpened,
    ChannelRefused,
    DynamicReady,
    Event,
    Ignored,
)
from rusb.rdp.svc import ChannelSender
from tests.support.amount import inputs, seeds
from tests.support.memory import memory_below
from tests.support.rows import each_row

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "rdpeusb.json").read_text("utf-8")
)
BY_NAME = {v["name"]: bytes.fromhex(v["hex"]) for v in VECTORS["drdynvc"]}

USB = "URBDRC"
DISPLAY = "Microsoft::Windows::RDS::DisplayControl"
GRAPHICS = "Microsoft::Windows::RDS::Graphics"
LIMITS = {
    USB: ChannelLimits(16 << 20, 33),
    DISPLAY: ChannelLimits(64 << 10, 1),
    GRAPHICS: ChannelLimits(64 << 10, 1),
}
ONE = FIRST_DYNAMIC + 1

E = TypeVar("E")


def no_header(size: int) -> bytes:
    return b""


class End:
    """One end, and what it reported and sent."""

    def __init__(
        self, *, is_server: bool, limits: dict[str, ChannelLimits] | None = None
    ) -> None:
        self.events: list[Event] = []
        self.dynamic = DynamicChannels(
            is_server=is_server, limits=limits or LIMITS, events=self.events
        )
        self.dynamic.start()

    def feed(self, *messages: bytes | str) -> list[str]:
        """Take messages; return what is answered, in hexadecimal."""
        for message in messages:
            raw = bytes.fromhex(message) if isinstance(message, str) else message
            self.dynamic.receive(raw)
        return self.sent()

    def sent(self) -> list[str]:
        return [m.hex() for _, m in self.dynamic.messages_to_send()]

    def pdus(self, channel: int, message: bytes, size: int = PDU_SIZE) -> list[bytes]:
        found = self.dynamic.opened.get(channel)
        pieces = found.cut(message, size, no_header) if found is not None else []
        return [a + b for a, b in zip(pieces[::2], pieces[1::2], strict=True)]

    def saw(self, *kinds: type[E]) -> list[E]:
        return [e for e in self.events if isinstance(e, kinds)]

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        return [(e.channel, e.data) for e in self.events if isinstance(e, ChannelData)]

    @property
    def complaints(self) -> list[str]:
        return [e.reason for e in self.events if isinstance(e, Ignored)]


def server() -> End:
    """Return a server whose client has answered."""
    end = End(is_server=True)
    end.sent()
    end.feed(BY_NAME["caps_response_v2"])
    return end


def opened(name: str = USB) -> End:
    """Return a server with a channel 1."""
    end = server()
    end.dynamic.open(name)
    end.feed(BY_NAME["create_response_ok"])
    end.sent()
    end.events.clear()
    return end


def client() -> End:
    """Return a client that has answered the server."""
    end = End(is_server=False)
    end.feed(BY_NAME["caps_request_v2"])
    return end


# ------------------------------------------------------------------ vectors ----

MESSAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "caps": lambda f: Capabilities(
        f["version"], tuple(f["charges"]) if "charges" in f else None
    ),
    "create_request": lambda f: CreateRequest(f["channel"], f["name"]),
    "create_response": lambda f: CreateResponse(f["channel"], f["status"]),
    "close": lambda f: Close(f["channel"]),
}


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS["drdynvc"] if not v["name"].startswith("soft_sync")],
    ids=lambda v: v["name"],
)
def test_both_directions_agree_with_the_vector(vector: dict[str, Any]) -> None:
    (key,) = (k for k in MESSAGES if vector["name"].startswith(k))
    message = MESSAGES[key](vector["fields"])
    raw = bytes.fromhex(vector["hex"])
    assert type(message).parse(raw) == message
    built = message.serialize()
    # FreeRDP writes a channel with four bytes, mstsc sets bits that mean nothing
    is_odd = vector["name"] in ("close_from_freerdp", "caps_response_v2_mstsc")
    assert (built == raw) is not is_odd
    assert type(message).parse(built) == message


@pytest.mark.parametrize("vector", VECTORS["drdynvc"], ids=lambda v: v["name"])
def test_a_message_that_is_cut_short_is_an_error_or_skipped(
    vector: dict[str, Any],
) -> None:
    raw = bytes.fromhex(vector["hex"])
    to_server = vector["direction"] == "client->server"
    for length in range(len(raw)):
        end = server() if to_server else client()
        try:
            end.feed(raw[:length])
        except ParseError:
            continue
        is_shorter_capabilities = raw[0] >> 4 == 5 and length >= 4
        assert end.complaints or is_shorter_capabilities


def test_a_chunk_carries_a_request_as_in_the_example() -> None:
    sender = ChannelSender(is_server=True, initiator=1)
    head, message = sender.cut(1007, CreateRequest(1, USB).serialize())
    assert (head[-8:] + message).hex() == VECTORS["svc_example"]["hex"]


@pytest.mark.parametrize("vector", VECTORS["fragmentation"], ids=lambda v: v["name"])
def test_messages_are_cut_and_joined_as_in_the_vector(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["message"])
    number = vector["channel"]
    end = client()
    end.feed(CreateRequest(number, USB).serialize())
    pdus = end.pdus(FIRST_DYNAMIC + number, message, vector["max_pdu"])
    assert [pdu.hex() for pdu in pdus] == vector["pdus"]
    end.feed(*pdus)
    assert end.messages == [(FIRST_DYNAMIC + number, message)]


# ------------------------------------------------------- opening, closing ----


def test_the_server_offers_version_2_and_the_client_answers_it() -> None:
    end = End(is_server=True)
    (offer,) = end.sent()
    assert offer.startswith("50000200")
    assert len(offer) == 24
    assert End(is_server=False).feed(BY_NAME["caps_request_v2"]) == ["50000200"]


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("50000100", "50000100"),
        ("50000200cc0c922455550000", "50000200"),
        ("50000300cc0c922455550000", "50000200"),  # we speak 2 at most
        ("5000ffffcc0c9224555500001234", "50000200"),
        ("50000200", "50000200"),  # without charges
    ],
)
def test_a_client_answers_what_it_knows(offer: str, answer: str) -> None:
    end = End(is_server=False)
    assert end.sent() == []  # the server speaks first
    assert end.feed(offer) == [answer]
    assert not end.dynamic.is_own


def test_peers_of_our_own_know_each_other() -> None:
    far, near = End(is_server=True), End(is_server=False)
    answers = near.feed(*far.sent())
    assert far.feed(*answers) == []
    assert (far.dynamic.is_own, near.dynamic.is_own) == (True, True)
    assert far.events == [DynamicReady(2)]


@pytest.mark.parametrize("answer", ["caps_response_v2", "caps_response_v2_mstsc"])
def test_a_foreign_client_is_not_one_of_ours(answer: str) -> None:
    end = End(is_server=True)
    end.feed(BY_NAME[answer])
    assert end.events == [DynamicReady(2)]
    assert not end.dynamic.is_own


def test_a_client_that_sends_our_offer_back_is_not_one_of_ours() -> None:
    end = End(is_server=True)
    end.feed(*end.sent())
    assert not end.dynamic.is_own
    assert OFFER != ANSWER


def test_a_second_answer_about_capabilities_is_skipped() -> None:
    end = server()
    end.feed("50000100")
    assert end.saw(DynamicReady) == [DynamicReady(2)]
    assert len(end.complaints) == 1


@pytest.mark.parametrize("is_server", [True, False])
def test_there_is_no_version_0(is_server: bool) -> None:
    with pytest.raises(ParseError, match="version 0"):
        End(is_server=is_server).feed("50000000")


def test_no_channel_is_opened_before_the_client_has_answered() -> None:
    end = End(is_server=True)
    with pytest.raises(LocalProtocolError):
        end.dynamic.open(USB)


def test_only_what_is_served_is_opened_and_only_by_the_server() -> None:
    with pytest.raises(LocalProtocolError):
        server().dynamic.open("AUDIO_INPUT")
    with pytest.raises(LocalProtocolError):
        client().dynamic.open(USB)


def test_a_channel_opens_when_the_client_says_so() -> None:
    end = server()
    end.dynamic.open(USB)
    assert end.sent() == [BY_NAME["create_request"].hex()]
    assert end.saw(ChannelOpened) == []
    end.feed(BY_NAME["create_response_ok"])
    assert end.saw(ChannelOpened) == [ChannelOpened(ONE, USB, is_dynamic=True)]
    end.feed(BY_NAME["create_response_ok"])
    assert len(end.saw(ChannelOpened)) == len(end.complaints) == 1


def test_a_positive_status_is_success() -> None:
    end = server()
    end.dynamic.open(USB)
    end.feed("100101000000")
    assert len(end.saw(ChannelOpened)) == 1


def test_a_client_without_a_listener_refuses() -> None:
    end = server()
    end.dynamic.open(USB)
    end.feed(BY_NAME["create_response_no_listener"])
    assert end.saw(ChannelRefused) == [ChannelRefused(USB, NOT_FOUND)]
    end.dynamic.open(USB)  # 2.6: with a number of its own
    assert end.sent()[-1].startswith("1002")


def test_a_client_opens_what_it_listens_to() -> None:
    end = client()
    answers = end.feed("1001" + USB.encode().hex() + "00", "1002" + "416200")
    assert answers == ["100100000000", "1002250200c0"]
    assert end.saw(ChannelOpened) == [ChannelOpened(ONE, USB, is_dynamic=True)]


@pytest.mark.parametrize("name", ["urbdrc", "URBDRC ", "URBDR", ""])
def test_names_are_exact(name: str) -> None:
    (answer,) = client().feed(CreateRequest(1, name).serialize())
    assert CreateResponse.parse(bytes.fromhex(answer)).status == NOT_FOUND


def test_numbers_are_as_short_as_they_can_be_and_taken_as_they_come() -> None:
    end = client()
    for head, number in (("10", "07"), ("11", "0008"), ("12", "00000900")):
        (answer,) = end.feed(head + number + USB.encode().hex() + "00")
        assert answer == head + number + "00000000"
    numbers = [e.channel - FIRST_DYNAMIC for e in end.saw(ChannelOpened)]
    assert numbers == [7, 0x800, 0x90000]
    assert end.feed("3207000000aa") == []  # four bytes for what one is enough
    assert end.messages == [(FIRST_DYNAMIC + 7, b"\xaa")]


def test_the_server_counts_on_beyond_255() -> None:
    end = server()
    sent: list[str] = []
    for number in range(1, 0x102):
        end.dynamic.open(USB)
        sent += end.feed(CreateResponse(number, 0).serialize())
        end.dynamic.close(FIRST_DYNAMIC + number)
    assert "11000155524244524300" in sent
    channels = [e.channel for e in end.saw(ChannelOpened)]
    assert len(set(channels)) == 0x101


def test_a_close_is_answered_by_the_client_alone() -> None:
    far, near = opened(), client()
    assert far.feed("4001") == []
    assert far.events == [ChannelClosed(ONE)]
    near.feed(BY_NAME["create_request"])
    assert near.feed("4001") == ["4001"]
    assert near.saw(ChannelClosed) == [ChannelClosed(ONE)]
    assert near.feed("4001") == []  # it is not open any more
    assert far.feed("4201000000") == []
    assert len(near.complaints) == len(far.complaints) == 1


def test_our_own_close_is_not_reported_and_its_answer_skipped() -> None:
    end = opened()
    end.dynamic.close(ONE)
    end.dynamic.close(ONE)
    end.dynamic.close(FIRST_DYNAMIC + 77)
    assert end.feed("4201000000") == ["4001"]
    assert end.saw(ChannelClosed) == []


def test_a_channel_may_be_closed_before_the_client_has_it() -> None:
    end = server()
    end.dynamic.open(USB)
    end.dynamic.close(ONE)
    assert end.sent() == [BY_NAME["create_request"].hex(), "4001"]
    end.feed(BY_NAME["create_response_ok"])
    assert end.saw(ChannelOpened, ChannelClosed, ChannelRefused) == []


def test_a_number_is_free_at_the_client_once_its_channel_closed() -> None:
    """MS-RDPEDYC 3.3.3.2: a server may use it again."""
    end = client()
    for _ in range(3):
        assert end.feed(BY_NAME["create_request"]) == ["100100000000"]
        assert end.feed("4001") == ["4001"]
    assert len(end.saw(ChannelOpened)) == 3


# --------------------------------------------------------------------- data ----


@pytest.mark.parametrize("size", [24, 1600, 16256])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_messages_are_cut_into_full_pieces(size: int, width: int) -> None:
    number = 1 << 8 * (width - 1)
    channel = FIRST_DYNAMIC + number
    end = client()
    end.feed(CreateRequest(number, USB).serialize())
    lengths = [0, 1, *(n * size + d for n in (1, 2, 5) for d in range(-12, 4))]
    for length in lengths:
        message = random.Random(length).randbytes(length)
        pdus = end.pdus(channel, message, size)
        assert all(len(pdu) == size for pdu in pdus[:-1])
        assert 0 < len(pdus[-1]) <= size
        end.events.clear()
        end.feed(*pdus)
        assert end.messages == [(channel, message)]
    assert end.complaints == []


def test_a_message_may_come_whole_in_one_of_any_size() -> None:
    end = opened()
    big = bytes(1 << 20)
    end.feed(b"\x30\x01" + big, b"\x28\x01" + struct.pack("<I", len(big)) + big)
    assert end.messages == [(ONE, big), (ONE, big)]


def test_empty_messages_are_messages() -> None:
    end = opened()
    end.feed("3001", "200100", "24010000")
    assert end.messages == [(ONE, b"")] * 3


def test_a_length_is_taken_in_any_width() -> None:
    end = opened()
    for head in ("200104", "24010400", "280104000000"):
        end.feed(head + "6162", "300163", "3001", "300164")
    assert end.messages == [(ONE, b"abcd")] * 3


def test_channels_interleave() -> None:
    end = client()
    for number, name in ((1, USB), (2, USB), (3, DISPLAY)):
        end.feed(CreateRequest(number, name).serialize())
    end.feed("20010361", "20020378", "300162", "3003aa", "300279", "300163", "30027a")
    assert end.messages == [
        (FIRST_DYNAMIC + 3, b"\xaa"),
        (ONE, b"abc"),
        (FIRST_DYNAMIC + 2, b"xyz"),
    ]


def test_a_closed_channel_takes_and_gives_nothing() -> None:
    end = opened()
    end.feed("20010a6162", "4001", "300163", "20010161")
    assert end.messages == []
    assert len(end.complaints) == 2
    assert end.pdus(ONE, b"hello") == []
    assert end.pdus(FIRST_DYNAMIC + 9, b"hello") == []


def test_a_channel_that_is_not_open_yet_takes_and_gives_nothing() -> None:
    end = server()
    end.dynamic.open(USB)
    assert end.pdus(ONE, b"hello") == []
    end.feed("300163", "20010161", "4001")
    assert end.messages == []
    assert len(end.complaints) == 3
    end.feed(BY_NAME["create_response_ok"])
    assert len(end.saw(ChannelOpened)) == 1


# ------------------------------------------------------------ hostile peers ----


@each_row(
    "message",
    [
        "",
        "33",  # no such width
        "3301000000",
        "23010000000061",
        "31",  # a number that is cut short
        "3101",
        "32010000",
        "20",
        "2001",  # no length
        "240101",
        "2801010000",
        "2c010100",  # no such width of a length
        "43010000",
        "400100",  # more than a close has
        "13010000",
        "50",
        "500002",
    ],
)
@each_row("make", [opened, client])
def test_malformed_messages_end_the_connection(
    make: Callable[[], End], message: str
) -> None:
    with pytest.raises(ParseError):
        make().feed(message)


@pytest.mark.parametrize("message", ["1001000000", "1001000000c0c0", "10010000000000"])
def test_answers_of_another_length_are_malformed(message: str) -> None:
    with pytest.raises(ParseError):
        opened().feed(message)


@pytest.mark.parametrize(
    "message",
    [
        "1001555242445243",  # no NUL
        "100155524244524300aa",
        "1001ff00",  # not ASCII
        "1001" + (MAX_NAME + 6) * "41" + "00",
        "1001" + (1 << 20) * "41" + "00",
    ],
)
def test_requests_with_odd_names_are_malformed(message: str) -> None:
    with pytest.raises(ParseError, match="request for a channel") as caught:
        client().feed(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("message", ["600104e0", "7001e026", "6c"])
@pytest.mark.parametrize("make", [opened, client])
def test_compressed_data_is_an_error(make: Callable[[], End], message: str) -> None:
    with pytest.raises(ParseError, match="compressed"):
        make().feed(message)


def test_other_commands_are_skipped() -> None:
    end = opened()
    soft_sync = [BY_NAME["soft_sync_request"], BY_NAME["soft_sync_response"]]
    assert end.feed(*soft_sync, "00", "a0", "f0aabb") == []
    assert len(end.complaints) == 5


@pytest.mark.parametrize(
    "pieces",
    [
        ["200104" + "61" * 5],  # more than was announced
        ["20010461", "300161626364"],
        ["20010461", "20010162"],  # a message in a message
        ["20010061"],
    ],
)
@pytest.mark.parametrize("make", [opened, client])
def test_lies_about_lengths_close_that_channel(
    make: Callable[[], End], pieces: list[str]
) -> None:
    end = make()
    if make is client:
        end.feed(BY_NAME["create_request"])
        end.feed(CreateRequest(2, USB).serialize())
        end.sent()
    sent = end.feed(*pieces)
    (closed,) = end.saw(ChannelClosed)
    assert (closed.channel, bool(closed.reason)) == (ONE, True)
    assert sent == ["4001"]
    assert end.messages == []
    end.feed("300178")
    assert end.messages == []
    if make is client:
        end.feed("300278")
        assert end.messages == [(FIRST_DYNAMIC + 2, b"x")]


@pytest.mark.parametrize(
    ("name", "limit"), [(USB, 16 << 20), (DISPLAY, 64 << 10), (GRAPHICS, 64 << 10)]
)
def test_each_name_has_its_own_limit(name: str, limit: int) -> None:
    for message in (
        b"\x28\x01" + struct.pack("<I", limit + 1),
        b"\x30\x01" + bytes(limit + 1),
    ):
        end = opened(name)
        assert end.feed(message) == ["4001"]
        (closed,) = end.saw(ChannelClosed)
        assert f"at most {limit}" in str(closed)
    end = opened(name)
    end.feed(b"\x28\x01" + struct.pack("<I", limit), b"\x30\x01" + bytes(limit))
    end.feed(b"\x30\x01" + bytes(limit))
    assert [len(data) for _, data in end.messages] == [limit, limit]


def test_no_memory_is_taken_before_data_comes() -> None:
    end = server()
    with memory_below(1 << 20):
        for number in range(1, 34):
            end.dynamic.open(USB)
            end.feed(CreateResponse(number, 0).serialize())
            end.feed(struct.pack("<BBI", 0x28, number, 16 << 20) + b"a")


def test_fragments_that_never_end_are_bounded_for_the_whole_connection() -> None:
    end, mebibyte = server(), bytes(1 << 20)
    taken = 0

    def pour() -> None:
        nonlocal taken
        for number in range(1, 34):
            end.dynamic.open(USB)
            end.feed(CreateResponse(number, 0).serialize())
            end.feed(struct.pack("<BBI", 0x28, number, 16 << 20))
            for _ in range(15):
                end.feed(bytes((0x30, number)) + mebibyte)
                taken += len(mebibyte)

    with pytest.raises(ParseError, match="unfinished"), memory_below(80 << 20):
        pour()
    assert taken == MAX_ASSEMBLED


def test_what_is_finished_or_closed_is_not_counted_any_more() -> None:
    end = opened()
    chunk = bytes(8 << 20)
    for _ in range(10):  # 160 MiB, one message after the other
        end.feed(b"\x28\x01" + struct.pack("<I", 16 << 20))
        end.feed(b"\x30\x01" + chunk, b"\x30\x01" + chunk)
        end.events.clear()
    for number in range(2, 12):
        end.dynamic.open(USB)
        end.feed(CreateResponse(number, 0).serialize())
        end.feed(struct.pack("<BBI", 0x28, number, 16 << 20))
        end.feed(bytes((0x30, number)) + chunk)
        end.feed(Close(number).serialize())
    assert end.dynamic._assembled == 0


@pytest.mark.soak
def test_tiny_fragments_cost_no_more_than_their_bytes() -> None:
    end = opened()
    end.feed(b"\x28\x01" + struct.pack("<I", 16 << 20))
    with memory_below(1 << 20):
        for _ in range(inputs(100_000)):
            end.feed(b"\x30\x01a")
        for _ in range(inputs(100_000)):
            end.feed(b"\x30\x01")


def test_a_server_that_opens_a_channel_twice_is_an_error() -> None:
    end = client()
    end.feed(BY_NAME["create_request"])
    with pytest.raises(ParseError, match="twice"):
        end.feed(BY_NAME["create_request"])


def test_a_flood_of_channels_is_refused_by_name_and_in_all() -> None:
    many = {f"n{n}": ChannelLimits(100, 10) for n in range(8)}
    end = End(is_server=False, limits=many)
    for number in range(80):
        end.feed(CreateRequest(number, f"n{number % 8}").serialize())
    assert len(end.saw(ChannelOpened)) == MAX_DYNAMIC_CHANNELS
    end = client()
    answers = [
        CreateResponse.parse(bytes.fromhex(answer)).status
        for number in range(100)
        for answer in end.feed(CreateRequest(number, USB).serialize())
    ]
    assert answers == [0] * 33 + [NO_ROOM] * 67
    assert end.feed(CreateRequest(200, DISPLAY).serialize()) == ["10c800000000"]
    assert end.feed(CreateRequest(201, DISPLAY).serialize()) == ["10c99a0000c0"]


def test_the_server_opens_no_more_than_it_would_let_be_opened() -> None:
    end = server()
    assert [end.dynamic.open(USB) for _ in range(40)] == [True] * 33 + [False] * 7
    assert len(end.sent()) == 33


@pytest.mark.parametrize("number", [0, 2, 255, 4711, 0xFFFFFFFF])
def test_what_is_not_open_is_skipped(number: int) -> None:
    wide = struct.pack("<I", number)
    for make in (opened, client):
        end = make()
        end.feed(b"\x42" + wide, b"\x32" + wide + b"a", b"\x22" + wide + b"\x01a")
        assert end.sent() == []
        assert end.saw(ChannelData, ChannelClosed) == []
        assert len(end.complaints) == 3
    end = opened()
    end.feed(b"\x12" + wide + bytes(4))
    assert len(end.complaints) == 1


@pytest.mark.fuzz
@pytest.mark.parametrize("make", [opened, client])
@pytest.mark.parametrize("seed", seeds(200, 60))
def test_whatever_arrives_gives_events_or_one_error(
    make: Callable[[], End], seed: int
) -> None:
    chance = random.Random(seed)
    end = make()
    known = [*BY_NAME.values(), *map(bytes.fromhex, ("20010a6162", "3001aa", "4001"))]
    for _ in range(60):
        message = bytearray(chance.choice(known))
        for _ in range(chance.randint(0, 2)):
            where = chance.randrange(len(message))
            match chance.randrange(3):
                case 0:
                    message[where] = chance.randrange(256)
                case 1:
                    del message[where + 1 :]
                case _:
                    message += chance.randbytes(chance.randint(1, 40))
        try:
            end.feed(bytes(message))
        except ParseError:
            break
        assert len(end.dynamic._channels) <= MAX_DYNAMIC_CHANNELS
        held = sum(c.total - c.left for c in end.dynamic._channels.values() if c.left)
        assert end.dynamic._assembled == held
