"""The client of QEMU's VNC server (display.md 2)."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from rusb.errors import LocalProtocolError, NegotiationError, RemoteProtocolError
from rusb.rfb import events, messages
from rusb.rfb.client import MAX_PIXELS, MAX_TEXT, TURN, RfbClient
from rusb.rfb.events import Event
from tests.support.amount import chance, inputs
from tests.support.memory import memory_below
from tests.support.rows import each_row
from tests.support.vnc import (
    cursor,
    cut,
    handshake,
    led,
    packed,
    raw,
    rect,
    update,
)

HELLO = handshake(20, 10)


def connected(width: int = 20, height: int = 10) -> RfbClient:
    client = RfbClient()
    client.receive_data(handshake(width, height))
    client.events()
    client.data_to_send()
    return client


def fed(data: bytes, client: RfbClient | None = None) -> list[Event]:
    client = client or connected()
    client.receive_data(data)
    return client.events()


def feed(client: RfbClient, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        client.receive_data(data[at : at + size])


SPEECH: list[
    tuple[bytes, list[Event]]
] = [  # everything that QEMU says, and what is made of it; display.md 2.2 to 2.6
    (HELLO, [events.Connected(20, 10, "QEMU")]),
    (update(rect(-258), rect(-257, 1)), [events.PointerModeChanged(True)]),
    (update(rect(-257, 0)), [events.PointerModeChanged(False)]),
    (update(led(4)), [events.LedsChanged(4)]),
    (update(rect(-259)), []),
    (
        update(raw(1, 2, 3, 4, 0x123456), raw(18, 8, 2, 2, 7)),
        [events.Damaged([(1, 2, 3, 4), (18, 8, 2, 2)])],
    ),
    (update(raw(3, 3, 0, 4, 0)), []),
    (update(rect(-223, w=20, h=10)), []),
    (
        update(raw(0, 0, 1, 1, 1), rect(-223, w=70, h=65), raw(69, 64, 1, 1, 9)),
        [events.Resized(70, 65), events.Damaged([(69, 64, 1, 1)])],
    ),
    (update(rect(-308, 0, 0, 30, 20, b"\2" + bytes(35))), [events.Resized(30, 20)]),
    (update(rect(-308, 1, 0, 40, 20, bytes(4))), [events.Resized(40, 20)]),
    (update(rect(-308, 1, 3, 40, 20, bytes(4))), [events.SizeRefused(3)]),
    (update(rect(-308, 1, 4, 40, 20, bytes(4))), []),
    (b"\1\0\0\0\0\2" + bytes(12), []),
    (b"\2", []),
    (b"\3\0\0\0\0\0\0\2hi", []),
    (cut(0x1B000001, bytes(4)), []),
    (cut(0x08000001), [events.ClipboardNoticed(True)]),
    (cut(0x08000000), [events.ClipboardNoticed(False)]),
    (cut(0x02000001), [events.ClipboardRequested()]),
    (cut(0x02000002), []),
    (cut(0x10000001, packed("äß€".encode())), [events.ClipboardProvided("äß€")]),
    (b"\xff\1\0\1", [events.SoundStarted()]),
    (b"\xff\1\0\2\0\0\0\4abcd", [events.SoundReceived(b"abcd")]),
    (b"\xff\1\0\2\0\0\0\0", [events.SoundReceived(b"")]),
    (b"\xff\1\0\0", [events.SoundEnded()]),
]
ALL_SPEECH = b"".join(data for data, _ in SPEECH)
ALL_EVENTS = [event for _, found in SPEECH for event in found]


def test_all_that_qemu_says_is_understood() -> None:
    client = RfbClient()
    for data, found in SPEECH:
        client.receive_data(data)
        assert client.events() == found, data.hex()


@pytest.mark.parametrize("size", [1, 2, 7, 1000, len(ALL_SPEECH)])
def test_pieces_of_any_size_say_the_same(size: int) -> None:
    client = RfbClient()
    found = []
    for at in range(0, len(ALL_SPEECH), size):
        client.receive_data(ALL_SPEECH[at : at + size])
        found += client.events()
    assert found == ALL_EVENTS


def test_a_cut_anywhere_says_nothing_wrong() -> None:
    whole = len(ALL_SPEECH)
    for at in [*range(400), *range(400, whole, 97)]:
        client = RfbClient()
        client.receive_data(ALL_SPEECH[:at])
        first = client.events()
        client.receive_data(ALL_SPEECH[at:])
        assert first + client.events() == ALL_EVENTS


def test_the_handshake_is_the_one_that_qemu_takes() -> None:
    """And all that is asked for follows, in the order of display.md 2.2."""
    client = RfbClient()
    said = b""
    for byte in HELLO:
        client.receive_data(bytes([byte]))
        said += client.data_to_send()
    assert said.hex() == (
        "524642203030332e3030380a"  # RFB 003.008
        "0101"
        "00000000" "20180001" "00ff00ff00ff100800000000"
        "0200000a"
        "00000000" "ffffff21" "fffffecc" "fffffec6" "ffffff11"
        "fffffefe" "fffffeff" "fffffefb" "fffffefd" "c0a1e5ce"
        "06000000" "fffffff8" "1f000001" "00100000"
    )  # fmt: skip


def test_the_frame_shows_what_was_sent_and_is_rounded_up_to_tiles() -> None:
    client = connected(70, 65)
    assert client.frame.shape == (128, 128)
    first = client.frame
    fed(update(raw(1, 2, 3, 4, 0xFF123456)), client)
    assert client.frame is first
    assert (client.frame[2:6, 1:4] & 0xFFFFFF == 0x123456).all()
    assert np.count_nonzero(client.frame) == 12
    fed(update(rect(-223, w=64, h=64)), client)
    assert client.frame.shape == (64, 64)
    assert not client.frame.any()


def test_large_rectangles_are_read_in_bands() -> None:
    client = connected(300, 300)
    rows = np.arange(300 * 300, dtype="<u4")
    fed(update(rect(0, 0, 0, 300, 300, rows.tobytes())), client)
    assert (client.frame[:300, :300] == rows.reshape(300, 300)).all()
    assert len(client._buffer) == 0


def test_a_turn_has_a_limited_number_of_pieces() -> None:
    """The rest is read in the next ones, and nothing of it is lost."""
    client = connected()
    client.receive_data(update(led(4)) * 1000 + b"\2")
    turns, found = 1, client.events()
    while client.has_more:
        client.receive_data(b"")
        turns, found = turns + 1, found + client.events()
        assert len(found) <= turns * TURN // 4 + 1
    assert found == [events.LedsChanged(4)] * 1000
    assert turns == (4 * 1000 + 1) // TURN + 1
    assert not client._buffer


def test_nothing_is_left_for_another_turn_after_an_error() -> None:
    client = connected()
    with pytest.raises(RemoteProtocolError):
        client.receive_data(b"\7" + bytes(1000))
    assert not client.has_more


def test_an_update_ends() -> None:
    """Each of its rectangles alone would be all right."""
    client = connected(2048, 2048)
    whole = raw(0, 0, 2048, 2048, 1)
    with memory_below(4 << 20):
        client.receive_data(b"\0\0\0\5")
        for _ in range(MAX_PIXELS >> 22):
            client.receive_data(whole[:12])
            for at in range(12, len(whole), 1 << 20):
                client.receive_data(whole[at : at + (1 << 20)])
        with pytest.raises(RemoteProtocolError, match=f"more than {MAX_PIXELS} pixels"):
            client.receive_data(raw(0, 0, 1, 1, 1))


def test_one_request_is_on_its_way_while_somebody_watches() -> None:
    client = connected()
    fed(update(raw(0, 0, 1, 1, 1)), client)
    assert client.data_to_send() == b""
    client.watch(is_watched=True)
    client.watch(is_watched=True)
    assert client.data_to_send().hex() == "0300000000000014000a"
    fed(update(cursor(0, 0, 1, 1, [1])), client)
    assert client.data_to_send().hex() == "0301000000000014000a"
    client.watch(is_watched=False)
    fed(update(raw(0, 0, 1, 1, 1)), client)
    client.watch(is_watched=False)
    assert client.data_to_send() == b""
    client.watch(is_watched=True)
    assert client.data_to_send().hex() == "0300000000000014000a"


def test_what_follows_damage_or_another_size_is_asked_for_by_who_shows_it() -> None:
    client = connected()
    client.watch(is_watched=True)
    client.data_to_send()
    for message, request in (
        (update(raw(0, 0, 1, 1, 1)), "0301000000000014000a"),
        (update(rect(-223, w=21, h=10)), "0300000000000015000a"),
        (update(rect(-223, w=21, h=10)), ""),  # no news, and asked for at once
    ):
        fed(message, client)
        at_once = client.data_to_send()
        assert bool(at_once) != bool(request)
        client.watch(is_watched=True)
        client.watch(is_watched=True)
        assert client.data_to_send().hex() == request


def test_who_watches_before_there_is_a_screen_is_shown_it() -> None:
    client = RfbClient()
    client.watch(is_watched=True)
    client.key(1, is_down=True)
    assert client.data_to_send() == b""
    client.receive_data(HELLO)
    assert client.data_to_send().endswith(bytes.fromhex("0300000000000014000a"))


def test_keys_pointer_sizes_sound_and_clipboard_are_said_as_qemu_reads_them() -> None:
    client = connected()
    said = []
    calls: list[Callable[[], None]] = [
        lambda: client.key(0x9D, is_down=True),
        lambda: client.key(0x1E, is_down=False),
        lambda: client.pointer(5, 0x0102, 0x0304),
        lambda: client.resize(1000, 700),
        client.poke,
        lambda: client.want_sound(is_wanted=True),
        lambda: client.offer_text(has_text=True),
        lambda: client.offer_text(has_text=False),
        client.request_text,
    ]
    for call in calls:
        call()
        said.append(client.data_to_send().hex())
    assert said == [
        "ff000001000000000000009d",
        "ff000000000000000000001e",
        "050501020304",
        "fb0003e802bc0100000000000000000003e802bc00000000",
        "",
        "",
        "06000000fffffffc08000001",
        "06000000fffffffc08000000",
        "06000000fffffffc02000001",
    ]
    client.provide_text("é\n")
    text = client.data_to_send()
    assert text[:12].hex() == f"06000000{2**32 - len(text) + 8:08x}10000001"
    assert zlib.decompress(text[12:]) == b"\0\0\0\3\xc3\xa9\n"


def test_a_server_with_sound_is_poked_with_what_holds_already() -> None:
    client = connected()
    fed(update(rect(-259)), client)
    assert client.has_sound
    form = "ff01000203020000ac44"
    assert client.data_to_send().hex() == form
    client.poke()
    assert client.data_to_send().hex() == form
    client.want_sound(is_wanted=True)
    assert client.data_to_send().hex() == form + "ff010000"
    client.want_sound(is_wanted=False)
    assert client.data_to_send().hex() == form + "ff010001"


def test_sound_that_is_wanted_is_switched_on_as_soon_as_there_is_any() -> None:
    client = connected()
    client.want_sound(is_wanted=True)
    assert client.data_to_send() == b""
    fed(update(rect(-259)), client)
    assert client.data_to_send().hex() == "ff01000203020000ac44" + "ff010000"


def test_texts_beyond_the_limit_are_skipped_and_the_screen_goes_on() -> None:
    size = MAX_TEXT + 1
    bomb = cut(0x10000001, packed(bytes(size)))
    large = b"\3\0\0\0" + (-(2 * size)).to_bytes(4, signed=True) + bytes(2 * size)
    old = b"\3\0\0\0" + (2 * size).to_bytes(4) + bytes(2 * size)
    client = connected()
    assert fed(bomb + large + old + b"\2", client) == [
        events.ClipboardTooLong(size),
        events.ClipboardTooLong(2 * size),
    ]
    piece = bytes(1 << 20)
    with memory_below(4 << 20):
        client.receive_data(b"\3\0\0\0\x80\0\0\0")
        for _ in range(64):
            client.receive_data(piece)
        assert client.events() == []


def test_cursors_are_told_as_qemu_has_them() -> None:
    pixels = [0x80808080, 0xFF010203, 0x00000000, 0x40404040]
    (event,) = fed(update(cursor(1, 0, 2, 2, pixels)))
    assert isinstance(event, events.CursorChanged)
    assert (event.cursor.x, event.cursor.y) == (1, 0)
    assert event.cursor.pixels.reshape(-1).tolist() == pixels


def test_cursors_with_a_mask_are_told_alike() -> None:
    data = struct.pack("<9I", *range(1, 10)) + bytes([0x80])
    (event,) = fed(update(rect(-239, 20, 20, 9, 1, data + b"\x80")))
    assert isinstance(event, events.CursorChanged)
    assert (event.cursor.x, event.cursor.y) == (8, 0)
    assert event.cursor.pixels.tolist() == [
        [0xFF000001, *[0] * 7, 0xFF000009],
    ]


@pytest.mark.parametrize("hidden", [cursor(0, 0, 0, 0, []), rect(-239)])
def test_a_cursor_without_pixels_is_hidden(hidden: bytes) -> None:
    (event,) = fed(update(hidden))
    assert isinstance(event, events.CursorChanged)
    assert event.cursor.pixels.size == 0


BAD = {
    "message": (b"\7", "VNC message 7"),
    "encoding": (update(rect(16)), "VNC encoding 16"),
    "wide": (update(raw(18, 0, 3, 1, 0)), "rectangle of 3x1 at 18, 0 of a screen"),
    "high": (update(raw(0, 8, 1, 3, 0)), "rectangle of 1x3 at 0, 8 of a screen"),
    "far": (update(rect(0, 65535, 65535, 65535, 65535)), "rectangle of 65535x65535"),
    "many": (b"\0\0\x10\1", "4097 rectangles, at most 4096"),
    "no size": (update(rect(-223)), "a screen of 0x0"),
    "no height": (update(rect(-223, w=5)), "a screen of 5x0"),
    "long side": (update(rect(-223, w=8193, h=1)), "a screen of 8193x1"),
    "large": (update(rect(-308, 0, 0, 8192, 1025, bytes(4))), "a screen of 8192x1025"),
    "cursor": (update(rect(-314, w=257, h=1)), "257 pixels of a cursor's side"),
    "mask": (update(rect(-239, w=1, h=300)), "300 pixels of a cursor's side"),
    "packed cursor": (update(rect(-314, data=b"\0\0\0\5")), "cursor of encoding"),
    "short": (b"\3\0\0\0\xff\xff\xff\xfd", "clipboard message of 3 bytes"),
    "no zlib": (cut(0x10000001, b"xyz"), "clipboard: Error -3"),
    "lie": (cut(0x10000001, packed(b"ab", size=3)), "clipboard text of 3 bytes in 6"),
    "empty": (cut(0x10000001, zlib.compress(b"")), "clipboard text of 0 bytes in 0"),
    "QEMU": (b"\xff\0\0\0", "QEMU's VNC message 0"),
    "sound": (b"\xff\1\0\3", "operation 3 of sound"),
    "loud": (b"\xff\1\0\2\0\1\0\1", "65537 bytes of sound, at most 65536"),
}


@each_row("name", BAD)
def test_a_hostile_server_is_refused_in_a_line(name: str) -> None:
    data, reason = BAD[name]
    for size in (1, len(data)):
        client = connected()
        with pytest.raises(RemoteProtocolError, match=reason):
            feed(client, data, size)
        with pytest.raises(RemoteProtocolError, match=f"has failed: .*{reason}"):
            client.receive_data(b"")
        client.watch(is_watched=True)
        assert client.data_to_send() == b""


REFUSALS = {
    b"HTTP/1.1 400": (RemoteProtocolError, "not a VNC server"),
    b"RFB 003.003\n": (NegotiationError, "VNC of 003.003"),
    b"RFB 003.008\n\0\0\0\0\2no": (NegotiationError, "refused us: no"),
    b"RFB 003.008\n\0\0\1\0\0": (RemoteProtocolError, "65536 bytes of reason"),
    b"RFB 003.008\n\2\2\x13": (NegotiationError, "authentication, of kind 2, 19"),
    b"RFB 003.008\n\1\1\0\0\0\1\0\0\0\4busy": (NegotiationError, "refused us: busy"),
    handshake(0, 0): (RemoteProtocolError, "a screen of 0x0"),
    handshake(8, 8, bytes(4097))[:42]: (RemoteProtocolError, "4097 bytes of name"),
}


@pytest.mark.parametrize("data", REFUSALS, ids=range(len(REFUSALS)))
def test_servers_that_do_not_let_us_in(data: bytes) -> None:
    error, reason = REFUSALS[data]
    with pytest.raises(error, match=reason):
        RfbClient().receive_data(data)


def test_what_is_too_large_is_not_asked_for() -> None:
    client = connected()
    with pytest.raises(LocalProtocolError, match="a screen of 9000x10"):
        client.resize(9000, 10)
    with pytest.raises(LocalProtocolError, match="bytes of text"):
        client.provide_text("ä" * (MAX_TEXT // 2 + 1))
    assert client.data_to_send() == b""


def test_the_order_of_encodings_is_the_one_that_was_tried() -> None:
    assert messages.ENCODINGS[0] == 0
    assert len(messages.ENCODINGS) == 10


@pytest.mark.fuzz
def test_whatever_the_server_says_gives_events_or_one_error() -> None:
    """Messages that are cut, repeated, grown and changed, one after the other."""
    source = chance(12)
    seen = dict.fromkeys(("events", "refused"), 0)
    speech = [data for data, _ in SPEECH]
    client = connected()
    for number in range(inputs(20_000)):
        if number % 20 == 0:
            client = RfbClient() if source.random() < 0.2 else connected()
            client.watch(is_watched=True)
        data = bytearray(b"".join(source.choices(speech, k=source.randint(1, 3))))
        for _ in range(source.randrange(4)):
            where = source.randrange(len(data) or 1)
            match source.randrange(5):
                case 0 if data:
                    data[where] = source.randrange(256)
                case 1:
                    del data[where : where + source.randint(1, 40)]
                case 2:
                    data[where:where] = source.randbytes(source.randint(1, 20))
                case 3:
                    data[where : where + 2] = source.choice((b"\0\0", b"\xff\xff"))
                case _:
                    data += data[where : where + 40]
        try:
            feed(client, bytes(data), source.choice((7, 100, 5000)))
        except (RemoteProtocolError, NegotiationError):
            seen["refused"] += 1
            with pytest.raises(RemoteProtocolError, match="has failed"):
                client.receive_data(b"")
            client = connected()
            client.watch(is_watched=True)
        seen["events"] += bool(client.events())
        client.data_to_send()
        # a band of pixels, or a text of the clipboard: no more is kept
        assert len(client._buffer) <= MAX_TEXT + 64
        assert client.frame.size <= 8 << 21
    assert min(seen.values()) > 1000
