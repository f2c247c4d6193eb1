"""Serial ports of clients that did not change over, when their machine moves on: the
hosts between ask the one with the client (teleport.md 7.9).

The guest is a BIOS, which has no driver for them: what is looked at is whether they are
suspended. A Linux that uses them is in ``tests/lab/test_teleporting_devices.py``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, SerialLoopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server.guests._stream import DeviceStream
from rusb.server.guests.qemu import QemuGuest
from rusb.server.machine.control import call, control_path
from rusb.server.machine.teleport import arrival
from rusb.server.machine.teleport.handover import Handover
from rusb.server.machine.teleport.link import Link
from rusb.server.machine.teleport.messages import Answer, End, Reads, What
from rusb.server.machine.teleport.reads import WaitingReads
from rusb.server.vbox.teleporter import Teleporter
from rusb.wire.usbredir import UsbredirDeviceSide
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Counting,
    Host,
    hardware,
    move,
    reset,
    running,
    state,
    teleport,
    wait_state,
    when_sent,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

THIRD, FOURTH = (f"{TARGET[:-2]}{end}" for end in ("21", "22"))


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Host]:
    async with running(tmp_path) as found:
        yield found


@contextlib.asynccontextmanager
async def waiting(folder: Path, uuid: str) -> AsyncIterator[Host]:
    """A host that waits for the machine."""
    found = Host.waiting(folder / uuid[-2:], hardware(folder), uuid=uuid)
    async with asyncio.timeout(60), found:
        yield found


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Host]:
    async with waiting(tmp_path, TARGET) as found:
        yield found


@pytest.fixture
async def third(tmp_path: Path) -> AsyncIterator[Host]:
    async with waiting(tmp_path, THIRD) as found:
        yield found


@pytest.fixture
async def keyboard(source: Host) -> AsyncIterator[Counting]:
    """One that the guest has configured, beside a serial port; their client stays."""
    port = (await state(SOURCE)).display.port
    known = source.folder / "known"
    config = ClientConfig("127.0.0.1", port, known_servers=known, reconnect=False)
    found = Counting()
    backend = EmulatedBackend(devices=[found, SerialLoopback()])
    async with asyncio.timeout(60), connect(config, backends=[backend]):
        await until(lambda: source.log.count("VUSB: Attached") == 2)
        await reset(SOURCE, found)
        yield found


def is_suspended(host: Host) -> bool:
    """Is the serial port, whose client is connected to a host?"""
    guest = host._guests["usb"]
    assert isinstance(guest, QemuGuest)
    cores = [stream._core for stream in guest._streams() if stream._serial_inputs()]
    (core,) = cores
    assert isinstance(core, UsbredirDeviceSide)
    return bool(core._suspended)


@dataclass
class Road:
    """Hosts that the machine goes over, and what stays with the first one's client."""

    source: Host
    target: Host
    third: Host
    keyboard: Counting

    async def go(self, near: str, far: Host) -> None:
        """The machine goes; the port is suspended when it does, and not afterwards."""
        found: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            when_sent(patch, End, lambda: found.append(is_suspended(self.source)))
            await move(far.port, uuid=near, to=far.machine.uuid)
        assert found == [True]
        await until(lambda: not is_suspended(self.source))

    async def check_stayed(self) -> None:
        """The machine runs at the second host, and its devices work."""
        await wait_state(TARGET, "running")
        await until(lambda: not is_suspended(self.source))
        await reset(TARGET, self.keyboard)
        assert "VUSB: Detached" not in self.source.log

    async def check_refused(self, *words: str) -> None:
        """Nothing has moved."""
        error = (await teleport(self.third.port, uuid=TARGET))["error"]
        assert all(word in error for word in words), error
        assert (await state(THIRD)).state == "teleportingin"

    async def links(self) -> tuple[Link, Link]:
        """Both ends of what the devices come over."""
        departure, target = self.source._teleport._departure, self.target
        assert departure is not None
        await until(lambda: departure._relaying and target._came)
        found = departure._relaying, *(came._relay for came in target._came)
        near, far = (relay._link for relay in found if relay is not None)
        return near, far


@pytest.fixture
def road(source: Host, target: Host, third: Host, keyboard: Counting) -> Road:
    return Road(source, target, third, keyboard)


async def wait_for(host: Host) -> None:
    """Have a process that relays wait for its machine."""
    host.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
    await call(control_path(host.machine.uuid), "teleportwait")


async def test_it_is_suspended_over_three_hosts_and_when_it_goes_home(
    road: Road, tmp_path: Path
) -> None:
    await road.go(SOURCE, road.target)
    await road.go(TARGET, road.third)
    async with waiting(tmp_path, FOURTH) as fourth:
        await road.go(THIRD, fourth)
        await reset(FOURTH, road.keyboard)
        await wait_for(road.source)
        await road.go(FOURTH, road.source)
        for host in (road.target, road.third, fourth):
            await host.wait_ended()
            assert host.failure == ""
    await reset(SOURCE, road.keyboard)
    async with waiting(tmp_path, FOURTH) as fourth:  # over what is joined there
        await road.go(SOURCE, fourth)
        await reset(FOURTH, road.keyboard)
    assert "VUSB: Detached" not in road.source.log


async def test_it_is_suspended_at_a_host_that_came_back(road: Road) -> None:
    """The second host has it by what is joined there, and by the link to the first."""
    await road.go(SOURCE, road.target)
    await road.go(TARGET, road.third)
    await wait_for(road.target)
    await road.go(THIRD, road.target)
    await road.third.wait_ended()
    await reset(TARGET, road.keyboard)
    await wait_for(road.source)
    await road.go(TARGET, road.source)
    await reset(SOURCE, road.keyboard)
    assert "VUSB: Detached" not in road.source.log


async def test_a_move_that_fails_resumes_it(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    await road.go(SOURCE, road.target)
    found: list[bool] = []
    async with Wire(road.third.port).up() as wire:

        def cut() -> None:
            found.append(is_suspended(road.source))
            wire.cut()

        with monkeypatch.context() as patch:
            when_sent(patch, End, cut)
            assert "was lost" in (await teleport(wire.port, uuid=TARGET))["error"]
    assert found == [True]
    await road.check_stayed()


async def test_a_host_that_does_not_answer_keeps_the_machine_where_it_is(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    await road.go(SOURCE, road.target)
    assert road.source._teleport._departure is not None
    ask = road.source._teleport._departure._reads.ask

    async def ponder(what: What) -> None:
        if what is What.RESUME:
            await ask(what)
        else:
            await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(arrival, "ASK_TIMEOUT", 0.2)
        patch.setattr(road.source._teleport._departure._reads, "ask", ponder)
        await road.check_refused("does not say in time", "Serial", "Keyboard")
    await road.check_stayed()
    await road.go(TARGET, road.third)  # what it says too late is no answer
    await reset(THIRD, road.keyboard)


async def test_a_host_that_says_no_keeps_the_machine_where_it_is(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    await road.go(SOURCE, road.target)
    with monkeypatch.context() as patch:
        patch.setattr(DeviceStream, "keeps_reads_waiting", lambda *_, **__: True)
        await road.check_refused("the guest keeps several reads waiting at")
    with monkeypatch.context() as patch:
        patch.setattr(Handover, "is_busy", True)
        await road.check_refused("a client changes over at this moment")
    await road.check_stayed()


async def test_an_answer_that_nobody_wanted_is_none(road: Road) -> None:
    await road.go(SOURCE, road.target)
    near, _ = await road.links()
    near.say(Answer("no"))
    await road.go(TARGET, road.third)
    await reset(THIRD, road.keyboard)


async def test_a_second_question_before_the_answer_ends_the_connection(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    await road.go(SOURCE, road.target)
    _, far = await road.links()

    async def ponder(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(WaitingReads, "ask", ponder)
    for _ in range(2):
        far.say(Reads(What.SUSPEND))
    await road.source.wait_ended()
    assert "the other host asks twice; the devices" in road.source.log
    assert (await state(TARGET)).state == "running"


async def test_a_relay_that_is_cancelled_twice_leaves_nothing(road: Road) -> None:
    """Its sockets are closed, so that nobody may wait at their numbers."""
    assert (await teleport(road.target.port))["error"] == ""
    await road.links()
    task = road.source._teleport._task
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)  # it ends, and is not to be stopped in that
    task.cancel()
    names = "teleport: a device"
    await until(lambda: all(t.get_name() != names for t in asyncio.all_tasks()))


async def test_a_link_that_breaks_meanwhile_takes_the_devices_with_it(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine goes all the same."""
    async with Wire(road.target.port).up() as wire:
        await move(wire.port)
        with monkeypatch.context() as patch:
            when_sent(patch, End, wire.cut)
            await move(road.third.port, uuid=TARGET, to=THIRD)
        for host in (road.source, road.target):
            await host.wait_ended()
            assert host.failure == ""
        assert "the devices that came over here are gone" in road.source.log


async def test_a_link_that_breaks_before_the_answer(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Wire(road.target.port).up() as wire:
        await move(wire.port)
        ask, asked = WaitingReads.ask, list[What]()
        assert road.source._teleport._departure is not None
        home = road.source._teleport._departure._reads

        async def cut(reads: WaitingReads, what: What) -> None:
            if reads is home:
                asked.append(what)
                wire.cut()
            await ask(reads, what)

        monkeypatch.setattr(WaitingReads, "ask", cut)
        await move(road.third.port, uuid=TARGET, to=THIRD)
        assert asked == [What.LOOK]
        await road.source.wait_ended()
