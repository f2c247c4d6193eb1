"""Whatever fails while a machine moves: real QEMU, both hosts in this process.

Afterwards the machine runs on exactly one of them, or stands still and the source says
how to go on (teleport.md 6.4). Both QEMUs say so, and that they never ran at once.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.errors import ControlError, GuestError
from rusb.server.machine.control import call, control_path
from rusb.server.machine.running import RunningMachine
from rusb.server.machine.teleport import arrival, departure, link
from rusb.server.machine.teleport.core import TeleportCore
from rusb.server.machine.teleport.departure import Departure
from rusb.server.machine.teleport.link import Link
from rusb.server.machine.teleport.messages import (
    Data,
    End,
    Loaded,
    Logon,
    Message,
    Offer,
    Run,
    Running,
)
from rusb.server.machine.teleport.relay import Relay
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Host,
    before,
    begin,
    check_moved,
    check_stayed,
    over,
    qemu_of,
    running,
    state,
    teleport,
    wait_state,
    when_sent,
)
from tests.support.watching import GONE, check_apart, watched

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

SIZE = 1_400_000
"""Bytes of the stream of a machine that has only run its BIOS, about."""


# ------------------------------------------------------- before anything moves ----


@pytest.mark.parametrize("kind", [Logon, Offer])
async def test_a_connection_that_is_cut_before_the_stream_leaves_both_as_they_were(
    kind: type[Message],
    source: Host,
    target: Host,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    when_sent(monkeypatch, kind, wire.cut)
    assert "was lost" in (await teleport(wire.port))["error"]
    await check_stayed(source, target, waits=True)


async def test_it_is_cancelled_before_the_stream(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = []

    def cancel() -> None:
        work = call(control_path(SOURCE), "teleportcancel")
        tasks.append(asyncio.ensure_future(work))

    when_sent(monkeypatch, Logon, cancel)
    assert (
        "cancelled; the machine goes on here" in (await teleport(target.port))["error"]
    )
    await asyncio.gather(*tasks)
    await check_stayed(source, target, waits=True)


# --------------------------------------------------------------- while it moves ----


def when_streamed(
    monkeypatch: pytest.MonkeyPatch, size: int, then: Callable[[], object]
) -> None:
    """Do something when the target has had so many bytes of the stream."""
    receive, done = TeleportCore.receive_data, list[object]()

    def spy(core: TeleportCore, data: bytes) -> None:
        receive(core, data)
        if not core._is_source and core.streamed >= size and not done:
            done.append(then())

    monkeypatch.setattr(TeleportCore, "receive_data", spy)


@pytest.mark.parametrize("percent", [10, 50, 99])
async def test_the_target_dies(
    percent: int, source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_streamed(monkeypatch, SIZE * percent // 100, qemu_of(target).kill)
    ended = await teleport(target.port, bandwidth=1 << 20)
    assert "killed by signal 9" in ended["error"]
    await check_stayed(source, target)
    assert "killed by signal 9" in target.failure


@pytest.mark.parametrize("percent", [10, 50, 99])
async def test_the_connection_is_cut_while_it_moves(
    percent: int,
    source: Host,
    target: Host,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    when_streamed(monkeypatch, SIZE * percent // 100, wire.cut)
    ended = await teleport(wire.port, bandwidth=1 << 20)
    assert "was lost" in ended["error"]
    await check_stayed(source, target)
    assert "the machine did not come: the connection to" in target.failure


async def test_a_network_that_swallows_everything_is_noticed(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SILENCE", 1.0)
    monkeypatch.setattr(link, "ALIVE_PERIOD", 0.3)
    when_streamed(monkeypatch, SIZE // 2, wire.silence)
    ended = await teleport(wire.port, bandwidth=1 << 20)
    assert "it was silent for 1 s" in ended["error"]
    await check_stayed(source, target)
    assert "it was silent for 1 s" in target.failure


async def test_the_target_cannot_use_what_comes(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departure, "Data", lambda data: Data(bytes(len(data))))
    ended = await teleport(target.port)
    assert "QEMU ended by itself" in ended["error"]
    assert "load of migration failed" in ended["error"]
    await check_stayed(source, target)
    assert "load of migration failed" in target.failure


async def test_the_source_dies(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_streamed(monkeypatch, SIZE // 2, qemu_of(source).kill)
    await begin(target.port, bandwidth=1 << 20)
    await source.wait_ended()
    await target.wait_ended()
    assert "killed by signal 9" in source.failure
    assert "the machine did not come: " in target.failure
    await check_gone(source, target)


async def check_gone(source: Host, target: Host) -> None:
    """The machine is gone as in a power cut; at the target it never ran."""
    for host in (source, target):
        await host.aclose()
        assert await host.watched.status() == GONE
    assert target.watched.spans == []


async def test_a_qemu_that_gives_up_leaves_it_here(source: Host, target: Host) -> None:
    await begin(target.port, bandwidth=300_000)
    await until(lambda: target._arrival and target._arrival.progress)
    while (await source.watched.ask("query-migrate")).get("status") != "active":  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await source.watched.ask("migrate_cancel")
    ended = await over(SOURCE)
    assert "QEMU gave up sending the machine: cancelled" in ended["error"]
    await check_stayed(source, target)


async def test_it_is_cancelled(source: Host, target: Host) -> None:
    await begin(target.port, bandwidth=300_000)
    await until(lambda: target._arrival and target._arrival.progress)
    path = control_path(SOURCE)
    assert (await state(SOURCE)).state == "teleporting"
    for command in ("pause", "resume", "reset", "usbattach", "teleport"):
        with pytest.raises(ControlError, match="being teleported"):
            await (begin(1) if command == "teleport" else call(path, command))
    await call(path, "teleportcancel")
    assert "cancelled" in (await call(path, "teleportstatus"))["error"]
    await check_stayed(source, target)
    assert "the source cancelled the move" in target.failure
    with pytest.raises(ControlError, match="is not being teleported"):
        await call(path, "teleportcancel")


@pytest.mark.parametrize("at", [SOURCE, TARGET])
async def test_it_is_powered_off_while_it_moves(
    at: str, source: Host, target: Host
) -> None:
    """At the source that switches it off, at the target it cancels."""
    await begin(target.port, bandwidth=300_000)
    await until(lambda: target._arrival and target._arrival.progress)
    await call(control_path(at), "poweroff")
    if at == TARGET:
        await target.wait_ended()
        await target.aclose()
        await until(lambda: not source._teleport.is_busy)
        found = await call(control_path(SOURCE), "teleportstatus")
        assert "the target was powered off" in found["error"]
        assert await source.watched.status() == "running"
        assert await target.watched.status() == GONE
        assert target.watched.spans == []
    else:
        await source.wait_ended()
        await source.aclose()
        await target.wait_ended()
        assert "the source cancelled the move" in target.failure
        await check_gone(source, target)


async def test_it_can_be_tried_again_after_all_that(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        when_sent(patch, End, wire.cut)
        assert "was lost" in (await teleport(wire.port))["error"]
    await check_stayed(source, target)
    async with Host.waiting(target.folder, target._hardware) as second:
        assert (await teleport(second.port))["error"] == ""
        await check_moved(source, second)


# --------------------------------------------------------------- at the switch ----


async def test_a_cut_before_run_leaves_it_here(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_sent(monkeypatch, End, wire.cut)
    ended = await teleport(wire.port)
    assert "was lost" in ended["error"]
    await check_stayed(source, target)


async def test_a_cut_that_is_noticed_just_before_run_leaves_it_here(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOADED has come, and then the connection is lost: RUN is not even tried."""
    receive = Link.receive_any

    async def spy(of: Link, seconds: float | None = None) -> Message:
        message = await receive(of, seconds)
        if isinstance(message, Loaded):
            wire.cut()
            await until(lambda: of.failure)
        return message

    monkeypatch.setattr(Link, "receive_any", spy)
    ended = await teleport(wire.port)
    assert "was lost" in ended["error"]
    await check_stayed(source, target)


@pytest.mark.parametrize(("kind", "runs"), [(Run, False), (Running, True)])
async def test_a_cut_at_the_switch_pauses_it_here(
    kind: type[Message],
    runs: bool,
    source: Host,
    target: Host,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    when_sent(monkeypatch, kind, wire.cut)
    ended = await teleport(wire.port)
    assert "at the very moment of the switch" in ended["error"]
    assert f"power it off here (controlvm {source.machine.name}" in ended["error"]
    assert "controlvm source resume" in ended["error"]
    assert (await state(SOURCE)).state == "paused"
    assert await source.watched.status() == "postmigrate"
    assert await agent_of(source) == "null"
    assert ended["downtime"] is None
    if runs:
        await wait_state(TARGET, "running")
        with pytest.raises(ControlError, match="lock"):  # and QEMU sees to it
            await call(control_path(SOURCE), "resume")
        assert await target.watched.status() == "running"
        await call(control_path(SOURCE), "poweroff")
        await source.wait_ended()
        check_apart(source.watched, target.watched)
    else:
        await target.wait_ended()
        await target.aclose()
        assert await target.watched.status() == GONE
        assert target.watched.spans == []
        await call(control_path(SOURCE), "resume")
        assert (await state(SOURCE)).state == "running"
        assert await agent_of(source) == "qemu-vdagent"


async def agent_of(host: Host) -> object:
    """What the guest's port for the clipboard is connected to."""
    (agent,) = (
        one["filename"]
        for one in await host.watched.ask("query-chardev")
        if one["label"] == "agent"
    )
    return agent


async def test_after_run_it_is_too_late_to_cancel(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_sent(monkeypatch, Run, wire.hold_answers)
    await begin(wire.port)
    await wait_state(TARGET, "running")
    with pytest.raises(ControlError, match="it is too late: the machine belongs to"):
        await call(control_path(SOURCE), "teleportcancel")
    wire.let_go()
    assert (await over(SOURCE))["error"] == ""
    await check_moved(source, target)


async def test_a_source_that_is_powered_off_after_run_says_where_to_look(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_sent(monkeypatch, Run, wire.hold_answers)
    await begin(wire.port)
    await wait_state(TARGET, "running")
    await source._teleport.aclose()  # its process ends, and somebody still watches
    found = await call(control_path(SOURCE), "teleportstatus")
    assert found["is_over"]
    assert f"see whether it runs at 127.0.0.1:{wire.port}" in found["error"]
    await source.aclose()
    assert await source.watched.status() == GONE
    assert await target.watched.status() == "running"
    check_apart(source.watched, target.watched)


@pytest.mark.parametrize(
    ("of", "name"), [(RunningMachine, "_end_here"), (Relay, "run")]
)
async def test_a_source_that_is_powered_off_after_running_is_just_gone(
    of: type,
    name: str,
    source: Host,
    target: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ending = []

    def end() -> None:
        ending.append(asyncio.ensure_future(source._teleport.aclose()))

    before(monkeypatch, of, name, end)
    assert (await teleport(target.port))["error"] == ""
    await asyncio.gather(*ending)
    source.power_off("a test")
    await check_moved(source, target)


@pytest.mark.parametrize(
    ("of", "name", "error"),
    [
        (RunningMachine, "_end_here", ValueError("a bug")),
        (Departure, "_send_on", ValueError("a bug")),
        (Departure, "_send_on", GuestError("it is lost")),
    ],
)
async def test_a_source_that_fails_once_the_machine_is_gone_ends_and_says_so(
    of: type,
    name: str,
    error: Exception,
    target: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stood there for ever, and kept its lock."""

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(of, name, fail)
    where = f"127.0.0.1:{target.port}"
    async with running(tmp_path) as source:  # the fixture's may log no error
        await begin(target.port)
        await until(lambda: source._teleport._error)
        told = (await over(SOURCE))["error"]
        assert f"the machine runs at {where}, but the devices" in told
        assert str(error) in told
        await check_moved(source, target)


async def test_a_target_that_cannot_run_it_has_ended_before_it_says_so(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = target._hypervisor.execute

    async def refuse(command: str, arguments: object = None) -> object:
        if command == "cont":
            raise GuestError("no")
        return await execute(command, arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(arrival, "END_TIMEOUT", 0.1)
    monkeypatch.setattr(target._hypervisor, "execute", refuse)
    process = qemu_of(target)
    ended = await teleport(target.port)
    assert process.returncode is not None
    assert ended["error"] == "no"
    await check_stayed(source, target)


async def test_after_the_switch_a_cut_does_not_matter(
    source: Host, target: Host, wire: Wire
) -> None:
    assert (await teleport(wire.port))["error"] == ""
    wire.cut()
    await check_moved(source, target)


@pytest.mark.parametrize(("last", "runs"), [("END", False), ("RUN", True)])
async def test_a_source_that_is_killed_at_the_switch(
    last: str, runs: bool, target: Host, tmp_path: Path
) -> None:
    """With RUN the machine is the target's, and there is nobody else to run it."""
    words = "-m", "tests.support.deadly_source", str(tmp_path), str(target.port), last
    source = await asyncio.create_subprocess_exec(sys.executable, *words)
    async with watched(SOURCE) as qemu:
        assert await source.wait() == -signal.SIGKILL
        while await qemu.status() != GONE:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert qemu.spans
        if runs:
            await wait_state(TARGET, "running")
            assert target.failure == ""
            check_apart(qemu, target.watched)
        else:
            await target.wait_ended()
            assert "was lost" in target.failure
            await target.aclose()
            assert await target.watched.status() == GONE
            assert target.watched.spans == []
