"""The clipboard, from the server's side (display.md 8)."""

import struct

import pytest

from rusb.rdp.cliprdr import (
    ECHO,
    MAX_TEXT,
    PATIENCE,
    ClipboardEvent,
    ClipboardNoted,
    ClipboardServer,
    TextOffered,
    TextReceived,
    TextWanted,
)
from tests.support.amount import chance, inputs
from tests.support.rdp.media import LONG_NAMES, clip, names, response

SHORT = clip(7, struct.pack("<HHHHII", 1, 0, 1, 12, 2, 0))
WANT = clip(4, bytes.fromhex("0d000000"))
LIST_OK = clip(3, flags=1)


def ready(*messages: bytes) -> ClipboardServer:
    core = ClipboardServer()
    core.start()
    for message in messages or (LONG_NAMES, names()):
        core.receive_data(message, now=0)
    core.outputs()
    core.events()
    return core


def said(core: ClipboardServer) -> list[str]:
    return [message.hex() for message in core.outputs()]


def hear(core: ClipboardServer, message: bytes, now: float = 0) -> list[ClipboardEvent]:
    core.receive_data(message, now=now)
    return core.events()


def test_what_the_server_says_is_as_specified() -> None:
    """display.md 8, its vectors."""
    core = ClipboardServer()
    core.start()
    core.start()
    assert said(core) == [
        "07000000100000000100000001000c000200000002000000",
        "0100000000000000",
    ]
    core.receive_data(LONG_NAMES, now=0)
    core.receive_data(names(), now=0)
    assert said(core) == ["0300010000000000"]
    core.offer(has_text=True, now=0)
    assert said(core) == ["02000000060000000d0000000000"]
    core.receive_data(LIST_OK, now=0)
    core.offer(has_text=False, now=0)
    assert said(core) == ["0200000000000000"]
    core.request(now=0)
    assert said(core) == ["04000000040000000d000000"]
    core.receive_data(WANT, now=0)
    core.provide("hé\n")
    assert said(core) == ["050001000a0000006800e9000d000a000000"]


def test_clients_without_capabilities_have_short_names() -> None:
    """rdesktop (display.md 8)."""
    for first in ((), (SHORT,)):
        core = ready(*first, names(13, 1, is_long=False))
        core.offer(has_text=True, now=0)
        assert said(core) == ["02000000240000000d000000" + "00" * 32]


@pytest.mark.parametrize("is_long", [True, False])
def test_a_list_says_whether_there_is_text(*, is_long: bool) -> None:
    core = ready(LONG_NAMES if is_long else SHORT)
    for numbers, has_text in (((13,), True), ((1, 7, 49161), False), ((), False)):
        found = hear(core, names(*numbers, is_long=is_long))
        assert found == [TextOffered(has_text)]
        assert said(core) == ["0300010000000000"]


def test_long_names_are_skipped_to_their_end() -> None:
    core = ready()
    body = struct.pack("<I", 49161) + "HTML Ā Format\0".encode("utf-16-le")
    body += struct.pack("<I", 13) + b"\0\0"
    assert hear(core, clip(2, body)) == [TextOffered(True)]


def test_the_zeros_of_two_characters_are_the_end_of_no_name() -> None:
    core = ready()
    body = struct.pack("<I", 49161) + ("\u0078\u7900" * 99 + "\0").encode("utf-16-le")
    assert b"\0\0" in body[4:-2]
    body += struct.pack("<I", 13) + b"\0\0"
    assert hear(core, clip(2, body)) == [TextOffered(True)]


def test_a_name_that_ends_with_the_list_or_does_not_end() -> None:
    for name in (b"A\0", b"A", b"\0", b""):
        core = ready()
        body = struct.pack("<I", 13) + name
        (event,) = hear(core, clip(2, body))
        assert isinstance(event, ClipboardNoted)
        assert "has no end" in event.problem


@pytest.mark.parametrize("count", [17, 65535])
def test_capabilities_without_end_are_refused(count: int) -> None:
    core = ClipboardServer()
    core.start()
    sets = struct.pack("<HH", 9, 4) * count
    body = struct.pack("<HH", count, 0) + sets
    (event,) = hear(core, clip(7, body))
    assert event == ClipboardNoted(
        f"has no clipboard: {count} capability sets, at most 16"
    )


TEXTS = [
    "",
    "plain",
    "Grüße, äöü ß €",
    "emoji 😀👩‍👩‍👧 and more",
    "two\nlines\n",
    "a lone \r stays",
    "日本語",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_and_go_unchanged(text: str) -> None:
    core = ready()
    core.request(now=0)
    assert hear(core, response(text.replace("\n", "\r\n"))) == [TextReceived(text)]
    core.outputs()
    assert hear(core, WANT) == [TextWanted()]
    core.provide(text)
    (message,) = core.outputs()
    kind, flags, size = struct.unpack_from("<HHI", message)
    assert (kind, flags, size) == (5, 1, len(message) - 8)
    sent = message[8:].decode("utf-16-le")
    assert sent == text.replace("\n", "\r\n") + "\0"


def test_what_is_behind_a_nul_is_not_text() -> None:
    core = ready()
    core.request(now=0)
    assert hear(core, response("short\0 and behind")) == [TextReceived("short")]
    hear(core, WANT)
    core.outputs()
    core.provide("one\0two")
    assert core.outputs()[0][8:].decode("utf-16-le") == "one\0"


def test_half_a_character_is_replaced() -> None:
    core = ready()
    core.request(now=0)
    body = "x".encode("utf-16-le") + b"\x3d\xd8\x41\x00\x7f"
    assert hear(core, clip(5, body, 1)) == [TextReceived("x\ufffdA")]


def test_the_list_waits_for_the_clients_and_for_the_answer_to_the_one_before() -> None:
    core = ClipboardServer()
    core.start()
    core.outputs()
    core.offer(has_text=True, now=0)
    assert said(core) == []
    core.receive_data(LONG_NAMES, now=0)
    core.receive_data(names(), now=0)
    assert [message[:4] for message in said(core)] == ["0300", "0200"]
    for has_text in (False, True) * 5000:
        core.offer(has_text=has_text, now=0)
    core.offer(has_text=False, now=0)
    assert said(core) == []
    core.receive_data(LIST_OK, now=0)
    assert said(core) == ["0200000000000000"]  # only the latest


def test_a_client_that_does_not_answer_a_list_gets_the_next_one_later() -> None:
    core = ready()
    core.offer(has_text=True, now=0)
    core.offer(has_text=False, now=1)
    core.outputs()
    assert core.next_deadline() == PATIENCE
    core.handle_deadline(PATIENCE - 0.1)
    assert said(core) == []
    core.handle_deadline(PATIENCE)
    assert said(core) == ["0200000000000000"]


def test_one_request_is_under_way_and_an_answer_that_does_not_come_is_no_text() -> None:
    core = ready()
    for _ in range(1000):
        core.request(now=0)
    assert len(core.outputs()) == 1
    core.handle_deadline(PATIENCE)
    assert core.events() == [TextReceived(None)]
    assert core.next_deadline() is None
    assert hear(core, response("late")) == []
    core.request(now=9)
    assert hear(core, clip(5, b"", 2), 9) == [TextReceived(None)]  # failed


def test_a_client_that_has_no_list_yet_is_not_asked() -> None:
    core = ready(LONG_NAMES)
    core.request(now=0)
    assert core.events() == [TextReceived(None)]
    assert core.outputs() == []


def test_a_request_amid_another_and_one_for_something_else_fail() -> None:
    core = ready()
    assert hear(core, clip(4, bytes.fromhex("01000000"))) == []
    assert said(core) == ["0500020000000000"]
    assert hear(core, WANT) == [TextWanted()]
    for _ in range(1000):
        assert hear(core, WANT) == []
    assert said(core) == ["0500020000000000"] * 1000
    core.provide(None)
    core.provide("too late")
    assert said(core) == ["0500020000000000"]


def test_the_same_list_after_a_request_is_an_echo_once() -> None:
    """rdesktop 1.9 (display.md 8)."""
    core = ready(LONG_NAMES, names(13))
    core.request(now=0)
    assert hear(core, names(13), 0.1) == [TextOffered(True, is_echo=True)]
    assert hear(core, names(13), 0.2) == [TextOffered(True)]
    hear(core, response("x"), 0.3)
    assert hear(core, names(13), 0.4) == [TextOffered(True, is_echo=True)]
    core.request(now=1)
    hear(core, response("x"), 1)
    assert hear(core, names(13), 1 + ECHO) == [TextOffered(True)]  # somebody copied
    core.request(now=2)
    assert hear(core, names(13, 1), 2) == [TextOffered(True)]  # something else


def test_a_text_that_is_too_long_is_not_taken_and_said_so() -> None:
    core = ready()
    core.request(now=0)
    assert hear(core, response("x" * MAX_TEXT)) == [TextReceived("x" * MAX_TEXT)]
    core.request(now=0)
    noted, received = hear(core, response("ä" * MAX_TEXT))
    assert isinstance(noted, ClipboardNoted)
    assert str(2 * MAX_TEXT) in noted.problem
    assert received == TextReceived(None)
    core.request(now=0)
    core.too_long(1 << 30)
    received, noted = core.events()
    assert received == TextReceived(None)
    assert noted == ClipboardNoted(
        f"has a text of {1 << 30} bytes in its clipboard, which is not pasted: at most"
        f" {MAX_TEXT}"
    )
    core.too_long(1 << 30)  # not asked for
    assert core.events() == []


BAD = [
    b"\2\0",
    bytes.fromhex("0200 0000 ff000000"),
    clip(2, bytes(5)),
    clip(2, b"\1\0\0\0A\0"),
    clip(2, b"\1\0\0\0A"),
    names(*range(257)),
    clip(2, bytes(65537)),
    clip(2, b"\1\0\0\0" + b"A\0" * 33000 + bytes(2)),
    clip(4, b""),
    clip(7, b""),
    clip(7, bytes.fromhex("01000000")),
    clip(7, bytes.fromhex("0100000001000000")),
    clip(7, bytes.fromhex("01000000010010000000")),
]


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_message_makes_the_channel_mute_with_one_line(message: bytes) -> None:
    core = ready()
    core.request(now=0)
    events = hear(core, message)
    assert [type(event) for event in events] == [TextReceived, ClipboardNoted]
    for again in (message, names(13), WANT):
        assert hear(core, again) == []
    core.outputs()
    core.offer(has_text=True, now=0)
    core.request(now=0)
    assert core.outputs() == []
    assert core.events() == [TextReceived(None)]


def test_files_and_locks_are_ignored() -> None:
    core = ready()
    for kind in (3, 6, 8, 9, 10, 11, 99):
        assert hear(core, clip(kind, bytes(520))) == []
    assert core.outputs() == []


@pytest.mark.fuzz
def test_whatever_a_client_says_is_bounded() -> None:
    source = chance(72)
    seeds = [LONG_NAMES, SHORT, names(13, 1), names(13, is_long=False), WANT, LIST_OK]
    seeds += [response("text"), clip(5, b"", 2), clip(6, bytes(520))]
    core, lines = ClipboardServer(), 0
    for number in range(inputs(20_000)):
        if number % 20 == 0:
            core, lines = ClipboardServer(), 0
            core.start()
        data = bytearray(source.choice(seeds))
        for _ in range(source.randrange(3)):
            match source.randrange(3):
                case 0:
                    data[source.randrange(len(data))] = source.randrange(256)
                case 1:
                    del data[1 + source.randrange(len(data)) :]
                case _:
                    at = source.randrange(len(data) + 1)
                    data[at:at] = source.randbytes(source.randrange(30))
        core.receive_data(bytes(data), now=number)
        match source.randrange(4):
            case 0:
                core.offer(has_text=source.random() < 0.5, now=number)
            case 1:
                core.request(now=number)
            case 2:
                core.handle_deadline(number)
        for event in core.events():
            if isinstance(event, TextWanted):
                core.provide(source.choice(["x", None]))
            lines += isinstance(event, ClipboardNoted)
        assert lines <= 1
        assert len(core.outputs()) <= 5
