"""The way back to a server: how often, until when, and what is said."""

import asyncio
from typing import cast

import pytest

from rusb.aio.link import WireLink
from rusb.client import redial
from rusb.client.events import (
    ConnectionBroken,
    ConnectionHeard,
    SessionEvent,
    SessionForgotten,
    SessionRenewed,
    SessionResumed,
)
from rusb.client.extension import EARLY, Ticket
from rusb.client.redial import BELIEVED, BRIEF_AT_ONCE, MOST, STEP, Redial
from rusb.errors import (
    AuthenticationError,
    CertificateError,
    ConnectionLost,
    NegotiationError,
    SettingsError,
)
from rusb.wire.base import WireProtocol

LOST = ConnectionLost("it is gone")
UNKNOWN = ConnectionLost("the server does not know us any more")


class _Link:
    """Of a wire."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Way:
    """What a session does to come back: each attempt takes the next outcome."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.done: list[str] = []
        self.events: list[SessionEvent] = []
        self.ended: list[Exception] = []
        self.elsewhere = ""  # where the server may have sent us
        self.asked = asyncio.Event()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.redial = Redial(
            "host:3389",
            resume=self._resume,
            begin=self._begin,
            drop=self._drop,
            go_elsewhere=self._go_elsewhere,
            on_event=self.events.append,
            on_over=self.ended.append,
        )

    def keeps(self, grace: float = 60.0) -> Ticket:
        """The server waits for us."""
        link = cast(WireLink, _Link())
        self.redial.ticket = Ticket(bytes(16), grace, cast(WireProtocol, None), link)
        return self.redial.ticket

    async def go(self) -> None:
        """The connection is gone; wait until none is looked for any more."""
        self.redial.start(LOST)
        while self.redial.is_under_way:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def _attempt(self, what: str) -> None:
        self.done.append(what)
        self.asked.set()
        await self.may_go.wait()
        outcome = self.outcomes.pop(0)
        if outcome is UNKNOWN:
            assert self.redial.ticket is not None
            self.redial.ticket.is_void = True
        if outcome is not None:
            raise outcome
        self.redial.connected()

    async def _resume(self, ticket: Ticket, seconds: float) -> None:
        assert ticket is self.redial.ticket
        await self._attempt(f"resume {seconds:g}")

    async def _begin(self, seconds: float) -> str:
        self.redial.connected()  # as a session does, before it is there
        await self._attempt(f"begin {seconds:g}")
        return "TLS 1.3"

    def _go_elsewhere(self) -> bool:
        there, self.elsewhere = self.elsewhere, ""
        if there:
            self.redial.go_to(there)
        return bool(there)

    async def _drop(self, ticket: Ticket | None) -> None:
        self.done.append("drop" if ticket is None else "drop others")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses, of which none is waited for."""
    found: list[float] = []
    timeout = asyncio.timeout

    def at_once(seconds: float) -> asyncio.Timeout:
        found.append(round(seconds, 3))
        return timeout(0)

    monkeypatch.setattr(asyncio, "timeout", at_once)
    return found


async def test_what_the_server_keeps_goes_on() -> None:
    way = Way(None)
    ticket = way.keeps()
    await way.go()
    assert way.done == ["resume 5", "drop others"]
    broken, resumed = way.events
    assert broken == ConnectionBroken("host:3389", LOST, 60 - round(EARLY))
    assert isinstance(resumed, SessionResumed)
    assert way.redial.ticket is ticket


async def test_without_anything_kept_it_begins_anew() -> None:
    way = Way(None)
    await way.go()
    assert way.done == ["drop", "begin 10"]
    assert way.events == [
        ConnectionBroken("host:3389", LOST, 0),
        SessionRenewed("host:3389", "TLS 1.3"),
    ]


async def test_what_the_server_has_forgotten_is_offered_anew() -> None:
    way = Way(UNKNOWN, None)
    ticket = way.keeps()
    await way.go()
    assert way.done == ["resume 5", "drop", "begin 10"]
    assert way.events[1:] == [
        SessionForgotten("host:3389", is_late=False),
        SessionRenewed("host:3389", "TLS 1.3"),
    ]
    assert way.redial.ticket is None
    assert cast(_Link, ticket.link).is_closed


async def test_what_the_server_has_given_up_is_not_asked_for() -> None:
    way = Way(None)
    way.keeps(EARLY)
    await way.go()
    assert way.done == ["drop", "begin 10"]
    assert way.events[1] == SessionForgotten("host:3389", is_late=True)


async def test_the_pauses_grow_up_to_a_limit(pauses: list[float]) -> None:
    count = round(MOST / STEP) + 3
    await Way(*[LOST] * count, None).go()
    assert pauses == [round(min(STEP * n, MOST), 3) for n in range(count + 1)]


async def test_a_change_of_the_network_ends_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("STEP", "MOST"):
        monkeypatch.setattr(redial, name, 100.0)
    way = Way(LOST, LOST, None)
    way.redial.start(LOST)
    async with asyncio.timeout(5):
        for count in (1, 2, 3):
            await way.asked.wait()
            way.asked.clear()
            for _ in range(20):  # it waits, until something changes again
                await asyncio.sleep(0)
            assert way.done.count("begin 10") == count
            way.redial.hurry()
    assert not way.redial.is_under_way


@pytest.mark.parametrize("error", [AuthenticationError("no"), NegotiationError("no")])
@pytest.mark.usefixtures("pauses")
async def test_refusals_in_a_row_end_it(error: Exception) -> None:
    broken = ConnectionLost("broken")
    way = Way(*[error] * (BELIEVED - 1), broken, *[error] * BELIEVED, None)
    await way.go()
    assert way.ended == [error]
    assert way.outcomes == [None]


@pytest.mark.parametrize("error", [CertificateError("no"), SettingsError("no")])
async def test_one_wrong_certificate_ends_it(error: Exception) -> None:
    way = Way(error, None)
    way.keeps()
    await way.go()
    assert way.ended == [error]
    assert way.outcomes == [None]


async def test_a_bug_ends_it_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    way = Way(ZeroDivisionError("oh"))
    await way.go()
    (error,) = way.ended
    assert isinstance(error, ConnectionLost)
    assert "oh" in str(error)
    assert "bug in coming back" in caplog.text


async def test_a_silent_connection_that_speaks_first_wins() -> None:
    way = Way(LOST, None)
    way.keeps()
    way.may_go.clear()
    way.redial.heard()  # it was not silent
    assert way.events == []
    way.redial.start(LOST)
    await way.asked.wait()
    way.redial.heard()
    assert not way.redial.is_under_way
    assert way.events[1:] == [ConnectionHeard("host:3389")]
    way.may_go.set()
    await way.go()  # later, it is lost after all
    assert way.done == ["resume 5", "resume 5", "resume 5", "drop others"]


async def test_a_connection_that_is_lost_at_once_is_replaced() -> None:
    """Before anybody has seen that it was there."""
    way = Way(None, None)
    connected = way.redial.connected

    def lose() -> None:
        connected()
        way.redial.connected = connected  # type: ignore[method-assign]
        way.redial.start(LOST)

    way.keeps()
    way.redial.connected = lose  # type: ignore[method-assign]
    await way.go()
    assert way.done == ["resume 5", "resume 5", "drop others"]
    assert len(way.events) == 2


async def test_it_looks_no_longer_once_closed() -> None:
    way = Way(None)
    way.may_go.clear()
    way.redial.start(LOST)
    await way.asked.wait()
    await way.redial.aclose()
    assert way.outcomes == [None]
    await way.redial.aclose()


async def test_where_the_server_sent_us_the_ticket_may_be_good(
    pauses: list[float],
) -> None:
    way = Way(UNKNOWN, None)
    way.keeps()
    way.elsewhere = "there:3389"
    await way.go()
    assert way.done == ["resume 5", "resume 5", "drop others"]
    first, second, resumed = way.events
    assert isinstance(first, ConnectionBroken)
    assert isinstance(second, ConnectionBroken)
    assert (first.server, second.server) == ("host:3389", "there:3389")
    assert isinstance(resumed, SessionResumed)
    assert resumed.server == "there:3389"


async def test_where_it_is_not_good_either_we_begin_anew(pauses: list[float]) -> None:
    way = Way(UNKNOWN, UNKNOWN, None)
    way.keeps()
    way.elsewhere = "there:3389"
    await way.go()
    assert way.done == ["resume 5", "resume 5", "drop", "begin 10"]
    renewed = way.events[-1]
    assert renewed == SessionRenewed("there:3389", "TLS 1.3")


@pytest.mark.parametrize("lasts", [False, True])
async def test_connections_that_do_not_last_come_less_and_less_often(
    lasts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends each at once is not asked ten times a second for ever."""
    monkeypatch.setattr(redial, "BRIEF", 0.0 if lasts else 60.0)
    monkeypatch.setattr(redial, "STEP", 60.0)
    monkeypatch.setattr(redial, "MOST", 60.0)
    way = Way(*[None] * 20)
    way.keeps()
    way.redial.connected()
    for _ in range(BRIEF_AT_ONCE):
        await way.go()
    way.redial.start(LOST)
    for _ in range(10):
        await asyncio.sleep(0)
    assert way.done.count("resume 5") == BRIEF_AT_ONCE + lasts
    await way.redial.aclose()
