"""Keyboard and mouse of viewers (1.15, display.md 6.1, MS-RDPBCGR 2.2.8.1)."""

import struct

import pytest

from rusb.errors import ParseError, RemoteProtocolError
from rusb.rdp import share
from rusb.rdp.events import (
    Button,
    Input,
    KeyInput,
    LocksInput,
    PointerInput,
    UnicodeInput,
    WheelInput,
)
from rusb.rdp.input import PAUSE, InputReader
from rusb.rdp.security import PlainSecurity
from rusb.rdp.server import MAX_AT_ONCE
from rusb.rdp.share import DataType
from tests.support.rdp.raw import RawClient

SIZE = 800, 600


def slow(*events: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<IHHHH", 0, *event) for event in events)
    return struct.pack("<HH", len(events), 0) + body


def fast(*events: bytes) -> bytes:
    body = b"".join(events)
    return bytes([len(events) << 2, len(body) + 2]) + body


def parse(packet: bytes, reader: InputReader | None = None) -> list[Input]:
    head, body = PlainSecurity().unwrap_fast(packet)
    return (reader or InputReader()).read_fast(head, body, *SIZE)


def parse_hex(*events: str) -> list[Input]:
    """Events of the fast path that come in one packet."""
    return parse(fast(*map(bytes.fromhex, events)))


def parse_slow(*events: tuple[int, int, int, int]) -> list[Input]:
    return InputReader().read_slow(slow(*events), *SIZE)


def mouse(flags: int, x: int = 0, y: int = 0, code: int = 0x20) -> bytes:
    return bytes([code]) + struct.pack("<HHH", flags, x, y)


def test_slow_path() -> None:
    found = parse_slow(
        (4, 0x8100, 0x1C, 0),
        (0x8001, 0x0800, 10, 20),
        (0x8002, 0x8001, 10, 20),
        (5, 0x8000, 0x20AC, 0),
        (0, 0, 2, 0),
    )
    assert found == [
        KeyInput(0x9C, False),
        PointerInput(10, 20),
        PointerInput(10, 20, Button.BACK, True),
        UnicodeInput(0x20AC, False),
        LocksInput(2),
    ]


def test_kinds_that_there_are_not_are_left_out() -> None:
    assert parse_slow((2, 0, 1, 0), (6, 0, 1, 0)) == []
    assert parse_hex("c0 01020304") == []  # a time stamp


def test_keys_of_the_fast_path() -> None:
    assert parse_hex("00 1e", "01 1e", "03 1d", "62", "80 ac20", "81 ac20") == [
        KeyInput(0x1E, True),
        KeyInput(0x1E, False),
        KeyInput(0x9D, False),
        LocksInput(2),
        UnicodeInput(0x20AC, True),
        UnicodeInput(0x20AC, False),
    ]


def test_pause_and_print() -> None:
    """As xfreerdp sends them; Num Lock is 45, too."""
    pause = [KeyInput(PAUSE, True), KeyInput(PAUSE, False)]
    keys = ["04 1d", "00 45", "05 1d", "01 45"]
    num_lock = [KeyInput(0x45, True), KeyInput(0x45, False)]
    assert parse_hex(*keys) == pause
    assert parse_hex(*keys, "00 45", "01 45") == pause + num_lock
    reader = InputReader()
    found = [parse(fast(bytes.fromhex(key)), reader) for key in keys]
    assert sum(found, []) == pause
    assert (
        parse_slow((4, 0x200, 0x1D, 0), (4, 0, 0x45, 0), (4, 0x8200, 0x1D, 0)) == pause
    )
    assert parse_hex("02 37", "03 37") == [KeyInput(0xB7, True), KeyInput(0xB7, False)]


def test_a_pause_of_half_a_sequence_swallows_no_other_key() -> None:
    found = parse_hex("04 1d", "00 1e", "00 45", "02 45")
    assert found[2:] == [
        KeyInput(0x1E, True),
        KeyInput(0x45, True),
        KeyInput(0xC5, True),
    ]


def test_codes_that_no_key_has() -> None:
    assert parse_hex("00 00", "00 80", "02 ff", "04 45") == []


BUTTONS = [  # display.md 6.1
    (0x0800, None, False),
    (0x9000, Button.LEFT, True),
    (0x1000, Button.LEFT, False),
    (0xA000, Button.RIGHT, True),
    (0x2000, Button.RIGHT, False),
    (0xC000, Button.MIDDLE, True),
    (0x4000, Button.MIDDLE, False),
]


@pytest.mark.parametrize(("flags", "button", "is_pressed"), BUTTONS)
def test_buttons(flags: int, button: Button | None, *, is_pressed: bool) -> None:
    expected = [PointerInput(300, 200, button, is_pressed)]
    assert parse(fast(mouse(flags, 300, 200))) == expected
    assert parse_slow((0x8001, flags, 300, 200)) == expected


def test_extra_buttons() -> None:
    pressed = [mouse(flags, 3, 4, 0x40) for flags in (0x8001, 0x0001, 0x8002, 0x0002)]
    assert parse(fast(*pressed)) == [
        PointerInput(3, 4, Button.BACK, True),
        PointerInput(3, 4, Button.BACK, False),
        PointerInput(3, 4, Button.FORWARD, True),
        PointerInput(3, 4, Button.FORWARD, False),
    ]


def test_several_buttons_at_once() -> None:
    found = parse(fast(mouse(0xB000, 5, 6)))
    assert found == [
        PointerInput(5, 6, Button.LEFT, True),
        PointerInput(5, 6, Button.RIGHT, True),
    ]


def test_the_mouse_stays_on_the_screen() -> None:
    for flags, code in ((0x0800, 0x20), (0x0001, 0x40)):
        (found,) = parse(fast(mouse(flags, 800, 65535, code)))
        assert isinstance(found, PointerInput)
        assert (found.x, found.y) == (799, 599)
    for kind in (0x8001, 0x8002):
        (found,) = parse_slow((kind, 0x0800, 65535, 600))
        assert isinstance(found, PointerInput)
        assert (found.x, found.y) == (799, 599)


WHEELS = [  # display.md 6.1
    (0x0278, [WheelInput(1)]),
    (0x0388, [WheelInput(-1)]),
    (0x0478, [WheelInput(1, is_horizontal=True)]),
    (0x0588, [WheelInput(-1, is_horizontal=True)]),
    (0x8280, [WheelInput(1)]),  # rdesktop
    (0x8380, [WheelInput(-1)]),
    (0x0200, [WheelInput(1)]),
    (0x0300, [WheelInput(-1)]),
    (0x02F0, [WheelInput(2)]),
    (0x0310, [WheelInput(-2)]),
]


@pytest.mark.parametrize(("flags", "expected"), WHEELS)
def test_wheels_have_no_position(flags: int, expected: list[Input]) -> None:
    assert parse(fast(mouse(flags, 7, 8))) == expected
    assert parse_slow((0x8001, flags, 0, 0)) == expected


def test_what_rdesktop_counts_is_a_notch_each_time() -> None:
    reader = InputReader()
    notch = fast(mouse(0x8280))
    assert [parse(notch, reader) for _ in range(30)] == [[WheelInput(1)]] * 30


def test_small_amounts_add_up_to_a_notch() -> None:
    reader = InputReader()
    up = fast(mouse(0x0200 | 30))
    assert [parse(up, reader) for _ in range(4)] == [[], [], [], [WheelInput(1)]]
    down = fast(mouse(0x0200 | 0x200 - 50))
    found = [parse(down, reader) for _ in range(3)]
    assert found == [[], [], [WheelInput(-1)]]  # 30 are left
    assert parse(fast(mouse(0x0400 | 90)), reader) == []  # each has an own sum
    assert parse(up, reader) == []


def test_fast_path_with_a_count_of_its_own_and_a_long_length() -> None:
    keys = b"\x00\x1e" * 60
    packet = bytes([0, 0x80, 4 + len(keys), 60]) + keys
    assert parse(packet) == [KeyInput(0x1E, True)] * 60


@pytest.mark.parametrize(
    "packet",
    [
        *(b"\x04\x02", b"\x04\x04\x20\x00", b"\x04\x03\xa0"),
        *(b"\x04\x05\x62\x62\x62", b"\x04\x04\x80\x00"),
    ],
)
def test_malformed_fast_path(packet: bytes) -> None:
    with pytest.raises(ParseError):
        parse(packet)


def test_malformed_slow_path() -> None:
    for size in (3, 15):
        with pytest.raises(ParseError):
            InputReader().read_slow(slow((4, 0, 0x1E, 0))[:size], *SIZE)


def test_input_reaches_the_shell_both_ways() -> None:
    raw = RawClient().until_active()
    raw.seen.clear()
    raw.feed(raw.data(DataType.INPUT, slow((4, 0, 0x1E, 0))), fast(b"\x01\x1e"))
    raw.feed(fast(mouse(0x0800, 9999, 5)))
    assert raw.seen == [
        KeyInput(0x1E, True),
        KeyInput(0x1E, False),
        PointerInput(799, 5),
    ]


def test_input_of_the_slow_and_the_fast_path_is_of_one_keyboard() -> None:
    raw = RawClient().until_active()
    raw.seen.clear()
    raw.feed(fast(bytes.fromhex("041d")), raw.data(DataType.INPUT, slow((4, 0, 69, 0))))
    assert raw.seen == [KeyInput(PAUSE, True), KeyInput(PAUSE, False)]


def test_each_key_of_a_packet_counts_in_a_turn() -> None:
    """64 packets of 1300 movements each held the others up for seconds."""
    raw = RawClient().until_active()
    raw.seen.clear()
    raw.server.turn = 64
    raw.feed(fast(*[b"\0\x1e"] * 15) * 64)
    assert len(raw.seen) == 60
    assert raw.server.has_more
    raw.server.turn = 1000
    raw.feed(b"")
    assert len(raw.seen) == 64 * 15
    assert not raw.server.has_more


def test_each_message_of_a_packet_counts_in_a_turn() -> None:
    raw = RawClient().until_active()
    raw.server.turn = 64
    key = share.share_data(DataType.INPUT, slow((4, 0, 0x1E, 0)), raw.USER)
    raw.feed(raw.io(key * 9) * 64)
    assert raw.seen.count(KeyInput(0x1E, True)) == 4 * 9  # 19 of each packet
    assert raw.server.has_more


def test_a_packet_without_end_is_refused() -> None:
    """What is in it would be more than one turn."""
    for many in (255, 350):
        raw = RawClient().until_active()
        raw.server.turn = 64
        packet = raw.data(DataType.INPUT, slow(*[(4, 0, 0x1E, 0)] * many))
        if many < MAX_AT_ONCE:
            raw.feed(packet)
            assert raw.seen.count(KeyInput(0x1E, True)) == many
        else:
            with pytest.raises(RemoteProtocolError, match="256 messages, keys and"):
                raw.feed(packet)
