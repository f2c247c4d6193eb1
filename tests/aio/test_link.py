"""A wire core over several channels: who gets what, and every output is executed."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TypeVarTuple, cast

import pytest

from rusb.aio.link import WireLink
from rusb.errors import LocalProtocolError
from rusb.wire.base import (
    CloseChannel,
    Event,
    Ignored,
    OpenChannel,
    Output,
    Send,
    Side,
)


class Recorder(Side):
    """A core that reports what it is told, and does what messages say."""

    def __init__(self) -> None:
        self.due: float | None = None
        self._events: list[Event] = []
        self._outputs: list[Output] = []

    def say(self, text: str) -> None:
        self._events.append(Ignored(text))

    def put(self, *outputs: Output) -> None:
        self._outputs += outputs

    def channel_opened(self, channel: int, name: str, *, now: float) -> None:
        self.say(f"opened {channel} {name}")

    def channel_refused(self, name: str) -> None:
        self.say(f"refused {name}")

    def channel_closed(self, channel: int) -> None:
        self.say(f"closed {channel}")

    def receive_data(self, channel: int, data: bytes, *, now: float) -> None:
        self.say(f"{channel}: {data.decode()}")
        self.put(Send(channel, data.upper()))

    def next_deadline(self) -> float | None:
        return self.due

    def handle_deadline(self, now: float) -> None:
        self.due = None
        self.say("due")

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs


class Below:
    """What is under a link, and all that happened in order."""

    def __init__(self) -> None:
        self.core = Recorder()
        self.log: list[str] = []
        self.has_room = True
        self.link = WireLink(
            self.core,
            send=self.send,
            flush=lambda: None,
            on_event=lambda event: self.log.append(cast(Ignored, event).reason),
            open_channel=self.open,
            close_channel=lambda channel: self.log.append(f"close {channel}"),
        )

    def send(self, channel: int, data: bytes, **flags: int) -> None:
        self.log.append(f"> {channel} {data.decode()}")

    def open(self, name: str) -> bool:
        self.log.append(f"open {name}")
        return self.has_room

    def take(self) -> list[str]:
        log, self.log = self.log, []
        return log


async def test_a_core_has_several_channels_and_loses_one_alone() -> None:
    below = Below()
    link = below.link
    link.opened(3, "toy")
    link.opened(4, "toy")
    link.received(3, b"a")
    link.finished()
    link.received(4, b"b")
    link.finished()
    assert below.take() == [
        *("opened 3 toy", "opened 4 toy", "3: a", "> 3 A", "4: b", "> 4 B")
    ]
    link.closed(4)
    link.closed(4)
    link.received(4, b"c")
    link.finished()
    link.received(3, b"d")
    link.finished()
    assert below.take() == ["closed 4", "3: d", "> 3 D"]
    link.close()
    link.close()
    link.received(3, b"e")
    link.finished()
    assert below.take() == ["closed 3"]


async def test_messages_that_came_together_are_answered_together() -> None:
    below = Below()
    link = below.link
    link.opened(3, "toy")
    below.take()
    link.received(3, b"a")
    link.received(3, b"b")
    assert not below.take()
    link.finished()
    assert below.take() == ["3: a", "3: b", "> 3 A", "> 3 B"]


async def test_what_is_beside_the_core_stays_behind_what_came_before() -> None:
    below = Below()
    link = below.link
    link.opened(3, "toy")
    below.take()
    link.beside = lambda message: below.log.append(bytes(message).decode())
    link.received(3, b"a")
    link.received(3, b"\x02\0\0\0\x52beside")
    link.finished()
    assert below.take() == ["3: a", "> 3 A", "beside"]


async def test_every_output_is_executed_in_order() -> None:
    below = Below()
    below.link.opened(3, "toy")
    below.link.opened(4, "toy")
    below.take()
    below.core.put(
        Send(3, b"1"), OpenChannel("toy"), Send(4, b"2"), CloseChannel(4), Send(3, b"3")
    )
    below.link.flush()
    assert below.take() == ["> 3 1", "open toy", "> 4 2", "close 4", "> 3 3"]
    below.link.closed(4)  # the core knows
    below.link.received(4, b"late")
    below.link.finished()
    below.link.close()
    assert below.take() == ["closed 3"]


async def test_an_unknown_output_raises() -> None:
    @dataclass
    class Strange:
        channel: int = 3

    below = Below()
    below.core.put(cast(Output, Strange()))
    with pytest.raises(AssertionError, match="Strange"):
        below.link.flush()


async def test_a_channel_that_cannot_be_had_is_refused() -> None:
    below = Below()
    below.has_room = False
    below.core.put(OpenChannel("toy"))
    below.link.flush()
    await asyncio.sleep(0)
    assert below.take() == ["open toy", "refused toy"]
    below.link.refused("toy")  # by the peer
    assert below.take() == ["refused toy"]
    below.core.put(OpenChannel("toy"))
    below.link.flush()
    below.link.close()
    await asyncio.sleep(0)
    assert below.take() == ["open toy"]


@pytest.mark.parametrize("output", [OpenChannel("toy"), CloseChannel(0)])
async def test_a_stream_has_no_channels_to_open(output: Output) -> None:
    core = Recorder()
    link = WireLink(
        core,
        send=lambda channel, data, **_: None,
        flush=lambda: None,
        on_event=lambda event: None,
    )
    link.opened(0, "")
    core.put(output)
    with pytest.raises(LocalProtocolError):
        link.flush()


async def test_deadlines_end_with_the_link() -> None:
    below = Below()
    below.link.opened(3, "toy")
    below.core.due = below.link.now()
    below.link.flush()
    async with asyncio.timeout(20):
        while "due" not in below.log:  # noqa: ASYNC110
            await asyncio.sleep(0)
    below.core.due = below.link.now()
    below.link.flush()
    below.link.close()
    await asyncio.sleep(0.01)
    assert below.log.count("due") == 1


_Ts = TypeVarTuple("_Ts")


class Hasty(asyncio.SelectorEventLoop):
    """Of which the clock has gone on while the machine slept, and timers are early."""

    def time(self) -> float:
        return super().time() + 3600

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_later(delay - 0.01, callback, *args, context=context)


def test_a_deadline_is_met_by_the_links_own_clock_and_once() -> None:
    async def wait() -> None:
        below = Below()
        core = below.core
        core.handle_deadline = handle  # type: ignore[method-assign]
        core.due = below.link.now() + 0.05
        dues.append(core.due)
        below.link.flush()
        async with asyncio.timeout(20):
            while not handled:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        below.link.close()

    def handle(now: float) -> None:
        handled.append(now)

    dues: list[float] = []
    handled: list[float] = []
    with asyncio.Runner(loop_factory=Hasty) as runner:
        runner.run(wait())
    assert handled[0] >= dues[0]
    assert handled[0] < dues[0] + 20


def test_a_core_without_channels_of_its_own_is_never_refused_one() -> None:
    class Simple(Recorder):
        channel_refused = Side.channel_refused

    with pytest.raises(NotImplementedError, match="Simple"):
        Simple().channel_refused("toy")
