"""Serial ports of clients that did not change over, when their machine moves on: the
hosts between ask the one with the client (teleport.md 7.9).

The guest is a BIOS, which has no driver for them: what is looked at is whether they are
suspended. A Linux that uses them is in ``tests/lab/test_teleporting_devices.py``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
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


async def go(
    near: str, far: Host, source: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine goes; the port is suspended when it does, and not afterwards."""
    found: list[bool] = []
    with monkeypatch.context() as patch:
        when_sent(patch, End, lambda: found.append(is_suspended(source)))
        assert (await teleport(far.port, uuid=near))["error"] == ""
    assert found == [True]
    await wait_state(far.machine.uuid, "running")
    await until(lambda: not is_suspended(source))


async def check_stayed(source: Host, third: Host, keyboard: Counting) -> None:
    """The machine runs at the second host, and its devices work."""
    await wait_state(TARGET, "running")
    await until(lambda: not is_suspended(source))
    await reset(TARGET, keyboard)
    assert "VUSB: Detached" not in source.log


async def test_it_is_suspended_over_three_hosts_and_when_it_goes_home(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await go(SOURCE, target, source, monkeypatch)
    await go(TARGET, third, source, monkeypatch)
    async with waiting(tmp_path, FOURTH) as fourth:
        await go(THIRD, fourth, source, monkeypatch)
        await reset(FOURTH, keyboard)
        source.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
        await call(control_path(SOURCE), "teleportwait")
        await go(FOURTH, source, source, monkeypatch)
        for host in (target, third, fourth):
            await host.wait_ended()
            assert host.failure == ""
    await reset(SOURCE, keyboard)
    async with waiting(tmp_path, FOURTH) as fourth:  # over what is joined there
        await go(SOURCE, fourth, source, monkeypatch)
        await reset(FOURTH, keyboard)
    assert "VUSB: Detached" not in source.log


async def test_it_is_suspended_at_a_host_that_came_back(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second host has it by what is joined there, and by the link to the first."""
    await go(SOURCE, target, source, monkeypatch)
    await go(TARGET, third, source, monkeypatch)
    target.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
    await call(control_path(TARGET), "teleportwait")
    await go(THIRD, target, source, monkeypatch)
    await third.wait_ended()
    await reset(TARGET, keyboard)
    source.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
    await call(control_path(SOURCE), "teleportwait")
    await go(TARGET, source, source, monkeypatch)
    await reset(SOURCE, keyboard)
    assert "VUSB: Detached" not in source.log


async def test_a_move_that_fails_resumes_it(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await go(SOURCE, target, source, monkeypatch)
    found: list[bool] = []
    async with Wire(third.port).up() as wire:

        def cut() -> None:
            found.append(is_suspended(source))
            wire.cut()

        with monkeypatch.context() as patch:
            when_sent(patch, End, cut)
            assert "was lost" in (await teleport(wire.port, uuid=TARGET))["error"]
    assert found == [True]
    await check_stayed(source, third, keyboard)


async def check_refused(target: Host, third: Host, *words: str) -> None:
    """Nothing has moved."""
    error = (await teleport(third.port, uuid=TARGET))["error"]
    assert all(word in error for word in words), error
    assert (await state(THIRD)).state == "teleportingin"


async def test_a_host_that_does_not_answer_keeps_the_machine_where_it_is(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await go(SOURCE, target, source, monkeypatch)
    assert source._teleport._departure is not None
    ask = source._teleport._departure._reads.ask

    async def ponder(what: What) -> None:
        if what is What.RESUME:
            await ask(what)
        else:
            await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(arrival, "ASK_TIMEOUT", 0.2)
        patch.setattr(source._teleport._departure._reads, "ask", ponder)
        await check_refused(target, third, "does not say in time", "Serial", "Keyboard")
    await check_stayed(source, third, keyboard)
    await go(TARGET, third, source, monkeypatch)  # what it says too late is no answer
    await reset(THIRD, keyboard)


async def test_a_host_that_says_no_keeps_the_machine_where_it_is(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await go(SOURCE, target, source, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(DeviceStream, "keeps_reads_waiting", lambda *_, **__: True)
        await check_refused(target, third, "the guest keeps several reads waiting at")
    with monkeypatch.context() as patch:
        patch.setattr(Handover, "is_busy", True)
        await check_refused(target, third, "a client changes over at this moment")
    await check_stayed(source, third, keyboard)


async def links(source: Host, target: Host) -> tuple[Link, Link]:
    """Both ends of what the devices come over."""
    departure = source._teleport._departure
    assert departure is not None
    await until(lambda: departure._relaying and target._came)
    found = departure._relaying, *(came._relay for came in target._came)
    near, far = (relay._link for relay in found if relay is not None)
    return near, far


async def test_an_answer_that_nobody_wanted_is_none(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await go(SOURCE, target, source, monkeypatch)
    near, _ = await links(source, target)
    near.say(Answer("no"))
    await go(TARGET, third, source, monkeypatch)
    await reset(THIRD, keyboard)


async def test_a_second_question_before_the_answer_ends_the_connection(
    source: Host, target: Host, keyboard: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await go(SOURCE, target, source, monkeypatch)
    _, far = await links(source, target)

    async def ponder(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(WaitingReads, "ask", ponder)
    for _ in range(2):
        far.say(Reads(What.SUSPEND))
    await source.wait_ended()
    assert "the other host asks twice; the devices" in source.log
    assert (await state(TARGET)).state == "running"


async def test_a_relay_that_is_cancelled_twice_leaves_nothing(
    source: Host, target: Host, keyboard: Counting
) -> None:
    """Its sockets are closed, so that nobody may wait at their numbers."""
    assert (await teleport(target.port))["error"] == ""
    await links(source, target)
    task = source._teleport._task
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)  # it ends, and is not to be stopped in that
    task.cancel()
    names = "teleport: a device"
    await until(lambda: all(t.get_name() != names for t in asyncio.all_tasks()))


async def test_a_link_that_breaks_meanwhile_takes_the_devices_with_it(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine goes all the same."""
    async with Wire(target.port).up() as wire:
        assert (await teleport(wire.port))["error"] == ""
        await wait_state(TARGET, "running")
        with monkeypatch.context() as patch:
            when_sent(patch, End, wire.cut)
            assert (await teleport(third.port, uuid=TARGET))["error"] == ""
        await wait_state(THIRD, "running")
        for host in (source, target):
            await host.wait_ended()
            assert host.failure == ""
        assert "the devices that came over here are gone" in source.log


async def test_a_link_that_breaks_before_the_answer(
    source: Host,
    target: Host,
    third: Host,
    keyboard: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Wire(target.port).up() as wire:
        assert (await teleport(wire.port))["error"] == ""
        await wait_state(TARGET, "running")
        ask, asked = WaitingReads.ask, list[What]()
        assert source._teleport._departure is not None
        home = source._teleport._departure._reads

        async def cut(reads: WaitingReads, what: What) -> None:
            if reads is home:
                asked.append(what)
                wire.cut()
            await ask(reads, what)

        monkeypatch.setattr(WaitingReads, "ask", cut)
        ended = await teleport(third.port, uuid=TARGET)
        assert ended["error"] == ""
        assert asked == [What.LOOK]
        await wait_state(THIRD, "running")
        await source.wait_ended()
