"""The server's end of RFC 2217, without any socket; clauses are the RFC's."""

from typing import TypeAlias

import pytest

from rusb.errors import RemoteProtocolError
from rusb.server.serial.driver import Flow, Line, LineErrors, Modem, Parity, StopBits
from rusb.server.serial.rfc2217 import (
    MAX_SUBNEGOTIATION,
    BreakSet,
    Event,
    FlowSet,
    LineSet,
    OutputsSet,
    Purged,
    Received,
    Rfc2217Server,
    StateAsked,
    Suspended,
)
from tests.support.amount import chance, inputs

Asked: TypeAlias = LineSet | OutputsSet | BreakSet | FlowSet | Purged
START = bytes.fromhex("fffb00 fffb03 fffd00 fffd2c")  # WILL 0, WILL 3, DO 0, DO 44
AGREED = bytes.fromhex("fffb2c")  # WILL 44


def server() -> Rfc2217Server:
    """One whose client has agreed to RFC 2217."""
    core = Rfc2217Server(Line())
    assert core.take_output() == START
    assert list(core.receive(AGREED)) == []
    assert core.take_output() == b""
    return core


def answer(core: Rfc2217Server, events: list[Event], *, is_done: bool = True) -> bytes:
    for event in events:
        if isinstance(event, Asked):
            core.answer(event, is_done=is_done)
    return core.take_output()


def sub(text: str) -> bytes:
    """A subnegotiation of option 44."""
    return b"\xff\xfa\x2c" + bytes.fromhex(text) + b"\xff\xf0"


# ------------------------------------------------------------ negotiation ----


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ("fffd00", ""),  # DO BINARY: we have said WILL
        ("fffe00", "fffc00"),  # DONT: WONT
        ("fffb00", ""),  # WILL BINARY: we have asked
        ("fffc00", ""),  # WONT: so be it
        ("fffb03", "fffd03"),  # WILL SGA: DO
        ("fffc03", ""),
        ("fffd2c", "fffb2c"),  # DO COM-PORT: WILL
        ("fffb2c", ""),
        ("fffd01", "fffc01"),  # DO ECHO: WONT
        ("fffb01", "fffe01"),
        ("fffe01", ""),
        ("fffc01", ""),
        ("fffdff", "fffcff"),  # EXOPL, which has no meaning here
        ("fff1", ""),  # NOP
    ],
)
def test_options(said: str, answered: str) -> None:
    core = Rfc2217Server(Line())
    core.take_output()
    assert list(core.receive(bytes.fromhex(said))) == []
    assert core.take_output().hex() == answered
    assert core.is_com_port == (said in ("fffd2c", "fffb2c"))


def test_what_holds_already_is_not_answered() -> None:
    """RFC 854: two ends that confirm each other would never end."""
    core = server()
    for verb in (0xFD, 0xFB):
        for option in (0, 3, 44):
            list(core.receive(bytes((0xFF, verb, option))))
            core.take_output()
            list(core.receive(bytes((0xFF, verb, option))))
            assert core.take_output() == b""


# ------------------------------------------------------------------- data ----


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_data_are_escaped_both_ways(size: int) -> None:
    core = server()
    data = b"a\xff\xffb\0\r\n\xf0\xff"
    said = data.replace(b"\xff", b"\xff\xff")
    core.send(data)
    assert core.take_output() == said
    events: list[Event] = []
    for start in range(0, len(said), size):
        events += core.receive(said[start : start + size])
    assert b"".join(e.data for e in events if isinstance(e, Received)) == data


# --------------------------------------------------------------- settings ----

LINE = Line(115200, 7, Parity.EVEN, StopBits.TWO)


@pytest.mark.parametrize(
    ("said", "line", "answered"),
    [
        ("01 0001c200", Line(115200), "65 0001c200"),
        ("01 00ff0000".replace("ff", "ffff"), Line(0xFF0000), "65 00ffff0000"),
        ("02 07", Line(bits=7), "66 07"),
        ("03 02", Line(parity=Parity.ODD), "67 02"),
        ("03 05", Line(parity=Parity.SPACE), "67 05"),
        ("04 02", Line(stop=StopBits.TWO), "68 02"),
        ("04 03", Line(stop=StopBits.ONE_AND_HALF), "68 03"),
        ("01 00000000", Line(), "65 00002580"),  # what is it?
        ("01 2580", Line(), "65 00002580"),  # two bytes are no bit rate
        ("02 09", Line(), "66 08"),
        ("03 06", Line(), "67 01"),
        ("04 00", Line(), "68 01"),
    ],
)
def test_the_line(said: str, line: Line, answered: str) -> None:
    core = server()
    events = list(core.receive(sub(said)))
    assert [e.line for e in events if isinstance(e, LineSet)] == [line]
    assert answer(core, events) == sub(answered)


def test_settings_that_wait_for_each_other_add_up() -> None:
    core = server()
    said = sub("01 0001c200") + sub("02 07") + sub("03 03") + sub("04 02")
    events = list(core.receive(said))
    assert isinstance(events[-1], LineSet)
    assert events[-1].line == LINE
    wanted = sub("65 0001c200") + sub("66 07") + sub("67 03") + sub("68 02")
    assert answer(core, events) == wanted


def test_what_the_chip_refuses_is_answered_with_what_holds() -> None:
    core = server()
    events = list(core.receive(sub("01 0001c200")))
    assert answer(core, events, is_done=False) == sub("65 00002580")
    (event,) = core.receive(sub("02 07"))
    assert isinstance(event, LineSet)
    assert event.line == Line(bits=7)


@pytest.mark.parametrize(
    ("said", "event", "done", "refused"),
    [
        ("05 01", FlowSet(5, 1, Flow.NONE), "69 01", "69 01"),
        ("05 03", FlowSet(5, 3, Flow.HARDWARE), "69 03", "69 01"),
        ("05 0f", FlowSet(5, 15, Flow.SOFTWARE), "69 0f", "69 0e"),
        ("05 05", BreakSet(5, 5, True), "69 05", "69 06"),
        ("05 06", BreakSet(5, 6, False), "69 06", "69 06"),
        ("05 09", OutputsSet(5, 9, dtr=False), "69 09", "69 08"),
        ("05 0b", OutputsSet(5, 11, rts=True), "69 0b", "69 0b"),
        ("05 0c", OutputsSet(5, 12, rts=False), "69 0c", "69 0b"),
        ("0c 01", Purged(12, 1, True, False), "70 01", "70 01"),
        ("0c 03", Purged(12, 3, True, True), "70 03", "70 03"),
    ],
)
def test_controls(said: str, event: Event, done: str, refused: str) -> None:
    for is_done, answered in ((True, done), (False, refused)):
        core = server()
        events = list(core.receive(sub(said)))
        assert events == [event]
        assert answer(core, events, is_done=is_done) == sub(answered)


def test_what_is_asked_for_is_answered_with_what_holds() -> None:
    core = server()
    for said in ("05 03", "05 05", "05 09", "05 0c"):
        answer(core, list(core.receive(sub(said))))
    asked = {"00": "03", "04": "05", "07": "09", "0a": "0c", "0d": "10", "11": "03"}
    for value, answered in asked.items():
        assert list(core.receive(sub(f"05 {value}"))) == []
        assert core.take_output() == sub(f"69 {answered}")


@pytest.mark.parametrize(
    ("said", "events", "answered"),
    [
        ("00", [], "64 72757362"),  # who are you? rusb
        ("07", [StateAsked()], ""),
        ("08", [Suspended(True)], ""),
        ("09", [Suspended(False)], ""),
        ("0a 10", [], "6e 10"),
        ("0b 30", [], "6f 30"),
        ("0c 04", [], ""),  # no such purge
        ("05", [], ""),
        ("05 14", [], ""),
        ("7f 00", [], ""),
    ],
)
def test_others(said: str, events: list[Event], answered: str) -> None:
    core = server()
    assert list(core.receive(sub(said))) == events
    assert core.take_output() == (sub(answered) if answered else b"")


def test_subnegotiations_of_other_options_are_skipped() -> None:
    core = server()
    assert list(core.receive(b"\xff\xfa\x18\x01\xff\xf0x")) == [Received(b"x")]
    assert list(core.receive(b"\xff\xfa\xff\xf0y")) == [Received(b"y")]
    assert core.take_output() == b""


# ------------------------------------------------------------ notifications ----


def test_modem_lines_are_told_when_they_change() -> None:
    core = server()
    none = LineErrors.NONE

    def tell(modem: Modem, errors: LineErrors = none, is_asked: bool = False) -> bytes:
        core.notify(modem, errors, is_asked=is_asked)
        return core.take_output()

    assert tell(Modem.CTS) == sub("6b 10")  # the first time
    assert tell(Modem.CTS) == b""
    assert tell(Modem.CTS, is_asked=True) == sub("6b 10")
    assert tell(Modem.CTS | Modem.DSR | Modem.CD) == sub("6b ba")
    assert tell(Modem.RI) == sub("6b 4b")  # of RI, only the end counts as a change
    assert tell(Modem.NONE) == sub("6b 04")
    list(core.receive(sub("0b 90")))  # only CTS and CD
    core.take_output()
    assert tell(Modem.DSR) == b""
    assert tell(Modem.CD) == sub("6b 80")


def test_errors_are_told_to_who_wants_to_know() -> None:
    core = server()
    core.notify(Modem.NONE, LineErrors.BREAK, is_asked=False)
    assert core.take_output() == sub("6b 00")
    list(core.receive(sub("0a 12")))
    core.take_output()
    core.notify(Modem.NONE, LineErrors.BREAK | LineErrors.FRAMING, is_asked=False)
    assert core.take_output() == sub("6a 10")


def test_nothing_is_told_to_who_knows_no_com_port() -> None:
    core = Rfc2217Server(Line())
    core.take_output()
    core.notify(Modem.CTS, LineErrors.BREAK, is_asked=True)
    assert core.take_output() == b""


# --------------------------------------------------------------- bad input ----


def test_a_subnegotiation_without_end_is_refused() -> None:
    core = server()
    assert list(core.receive(b"\xff\xfa\x2c" + bytes(MAX_SUBNEGOTIATION - 1))) == []
    with pytest.raises(RemoteProtocolError, match="more than 256 bytes"):
        list(core.receive(b"\0"))
    with pytest.raises(RemoteProtocolError):
        list(core.receive(b"x"))


PIECES = [
    *(b"\xff", b"\xff\xfa\x2c", b"\xff\xf0", b"\xff\xff", b"\xff\xfd", b"\xff\xfb"),
    *(sub("01 00002580"), sub("05 03"), sub("0c 03"), sub("07"), sub("0a ff")),
]


@pytest.mark.fuzz
def test_no_input_breaks_it() -> None:
    """Each is answered with not much more than it is long, or refused."""
    random = chance(2217)
    for _ in range(inputs(20_000)):
        core = Rfc2217Server(Line())
        core.take_output()
        said = b"".join(
            random.choice(PIECES)
            if random.random() < 0.7
            else random.randbytes(random.randrange(8))
            for _ in range(random.randrange(1, 8))
        )
        cut = random.randrange(len(said) + 1)
        events: list[Event] = []
        for piece in (said[:cut], said[cut:]):
            for event in core.receive(piece):
                events.append(event)
                if isinstance(event, Asked):
                    core.answer(event, is_done=random.random() < 0.8)
        core.notify(Modem(random.randrange(16) << 4), LineErrors(0x1E), is_asked=False)
        assert len(core.take_output()) <= 2 * len(said) + 32
        received = sum(len(e.data) for e in events if isinstance(e, Received))
        assert received <= len(said)
