"""The client goes where its machine goes: what it says to whom, whatever breaks when
(docs/spec/teleport.md 7.10, 7.11)."""

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from rusb.client import follow
from rusb.client.config import ClientConfig
from rusb.client.events import SessionEvent, SessionMoved, SessionStays
from rusb.client.extension import Extension
from rusb.client.follow import Follow, MayAsk
from rusb.errors import CertificateError, ConnectionLost, RusbError
from rusb.rdp.rusbext import Move, Stay, Staying
from rusb.usb.device import DeviceInfo

HERE = ClientConfig("here", 3389)
THERE = Move(3390, bytes(range(32)), b"there")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word of a server counts."""
    monkeypatch.setattr(follow, "PAUSE", 0.0)


class Way:
    """A session that is told to move; each attempt to be there can break."""

    def __init__(self) -> None:
        self.said: list[bool] = []
        self.events: list[SessionEvent] = []
        self.went: list[str] = []
        self.lost: list[RusbError] = []
        self.attempts: list[ClientConfig] = []
        self.is_there = asyncio.Event()  # the connection stands
        self.breaks: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.follow = Follow(
            resume=self._resume,
            go_to=lambda config: self.went.append(config.server),
            lost=self.lost.append,
            on_event=self.events.append,
        )

    def answer_move(self, *, is_there: bool) -> None:
        self.said.append(is_there)

    async def _resume(self, config: ClientConfig, may_ask: MayAsk) -> None:
        self.attempts.append(config)
        await follow.first_of(self.is_there.wait(), self.breaks)
        await follow.first_of(may_ask(), self.breaks)
        if self.breaks.done():
            self.breaks.result()

    async def told(self, move: Move | None) -> None:
        self.follow.told(cast(Extension, self), move, HERE)
        await self.turns()

    async def turns(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def be_there(self) -> None:
        """It is told to move, and is ready."""
        self.is_there.set()
        await self.told(THERE)
        assert self.said == [True]

    async def break_it(self) -> None:
        self.breaks.set_exception(ConnectionLost("it broke"))
        await self.turns()


async def test_it_goes_there_once_all_is_there() -> None:
    way = Way()
    await way.be_there()
    (there,) = way.attempts
    assert (there.host, there.port) == ("there", 3390)
    assert there.certificate == THERE.certificate
    assert way.went == []
    await way.told(None)
    assert way.went == ["there:3390"]
    assert way.events == [SessionMoved("here:3389", "there:3390")]
    assert (way.said, way.lost) == ([True], [])


async def test_who_was_asked_nothing_goes_nowhere() -> None:
    way = Way()
    await way.told(None)
    await way.be_there()
    await way.told(None)
    await way.told(None)
    assert way.went == ["there:3390"]


@pytest.mark.parametrize(
    "move", [Move(0, bytes(32), b"there"), Move(1, bytes(32), b"")]
)
async def test_nowhere_is_no_place_to_go(move: Move) -> None:
    way = Way()
    await way.told(move)
    assert (way.said, way.attempts) == ([False], [])


async def test_who_cannot_be_there_stays() -> None:
    """The connection breaks before READY; it may be asked again."""
    way = Way()
    await way.told(THERE)
    await way.break_it()
    assert way.said == [False]
    (stays,) = way.events
    assert isinstance(stays, SessionStays)
    assert "it broke" in str(stays)
    await way.told(None)
    assert (way.went, way.lost) == ([], [])
    way.breaks = asyncio.get_running_loop().create_future()
    way.said.clear()
    await way.be_there()


async def test_a_certificate_that_is_not_right_is_said() -> None:
    way = Way()
    await way.told(THERE)
    way.breaks.set_exception(CertificateError("another one"))
    await way.turns()
    assert way.said == [False]
    assert "another one" in str(way.events[0])


async def test_a_break_between_ready_and_moved_is_dialled_again_once_it_counts() -> (
    None
):
    """The source was told that we are ready, and has nothing of ours after MOVED."""
    way = Way()
    await way.be_there()
    await way.break_it()
    assert (way.said, way.went, way.lost) == ([True], [], [])
    await way.told(None)
    assert way.went == ["there:3390"]
    assert [str(why) for why in way.lost] == [
        "the connection to there:3390 broke meanwhile"
    ]


async def test_a_break_at_moved_is_dialled_again() -> None:
    way = Way()
    await way.be_there()
    way.breaks.set_exception(ConnectionLost("it broke"))
    await way.told(None)
    assert way.went == ["there:3390"]
    assert len(way.lost) == 1
    assert way.events == []


async def test_a_source_that_takes_long_may_still_say_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others change over before us."""
    monkeypatch.setattr(follow, "MOVE_SECONDS", 0.0)
    way = Way()
    way.is_there.set()
    await way.told(THERE)
    while not way.events:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert "were not moved in time" in str(way.events[0])
    assert way.said == [True]
    await way.told(None)
    assert way.went == ["there:3390"]
    assert len(way.lost) == 1


async def test_a_new_invitation_is_another_one() -> None:
    """What was promised for the one before does not count."""
    way = Way()
    await way.be_there()
    await way.break_it()
    way.is_there.clear()
    way.breaks = asyncio.get_running_loop().create_future()
    await way.told(THERE)
    await way.told(None)
    assert way.went == []
    await way.break_it()
    assert way.said == [True, False]


async def test_it_is_asked_once_at_a_time() -> None:
    way = Way()
    await way.told(THERE)
    await way.told(THERE)
    assert len(way.attempts) == 1
    await way.follow.aclose()
    assert (way.said, way.lost) == ([], [])


async def test_somebody_else_may_go_there_once_we_said_that_we_can() -> None:
    way = Way()
    assert way.follow.give_up() is None
    await way.told(THERE)
    assert way.follow.give_up() is None
    way.is_there.set()
    await way.turns()
    assert way.said == [True]
    found = way.follow.give_up()
    assert found is not None
    assert found.server == "there:3390"
    await way.turns()
    await way.told(None)
    assert (way.went, way.lost, way.events) == ([], [], [])
    assert way.follow.give_up() is None


CAMERA = DeviceInfo(5, 0x046D, 0x0825, product="Camera")


@pytest.mark.parametrize(
    ("stay", "why"),
    [
        (Stay(Staying.WIRE, 0, 3390, b"there"), "what travels over MS-RDPEUSB cannot"),
        (Stay(Staying.STREAM, 5, 3390, b"there"), "046d:0825 Camera streams sound"),
        (Stay(Staying.AHEAD, 6, 3390, b"there"), "one of them is read ahead"),
        (Stay(77, 0, 3390, b"there"), "the server there cannot go on with them"),
        (Stay(78, 0, 3390, b"there"), "this client was started not to connect again"),
    ],
)
async def test_who_is_not_to_go_there_says_why_and_what_to_do(
    stay: Stay, why: str
) -> None:
    way = Way()
    device = CAMERA if stay.device == 5 else None
    way.follow.told_to_stay(stay, device, replace(HERE, reconnect=stay.reason != 78))
    (event,) = way.events
    assert str(event).startswith(
        "the machine has moved to there:3390, but the devices stay connected to"
        f" here:3389, which passes everything on: {why}"
    )
    assert "end this program and connect to there:3390" in str(event)


@pytest.mark.parametrize(("name", "where"), [(b"there", "there"), (b"\n", "another")])
async def test_a_place_without_a_display_is_named_as_far_as_it_can_be(
    name: bytes, where: str
) -> None:
    way = Way()
    stay = Stay(Staying.NO_DISPLAY, 0, 0, name)
    way.follow.told_to_stay(stay, None, HERE)
    assert f"has moved to {where}" in str(way.events[0])


async def test_a_server_that_says_it_again_and_again_fills_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "PAUSE", 60.0)
    way = Way()
    for _ in range(1000):
        way.follow.told_to_stay(Stay(0, 0, 1, b"there"), None, HERE)
        await way.told(Move(0, bytes(32), b"there"))
    assert len(way.events) == 1
    await way.follow.aclose()
