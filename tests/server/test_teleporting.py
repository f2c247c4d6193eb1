"""A machine moves from one host to another: real QEMU, both hosts in this process.

After whatever fails the machine runs on exactly one of them (teleport.md 6.4).
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from rusb.errors import ControlError, GuestError, ListenError, SettingsError
from rusb.server.auth.hashes import hash_legacy, hash_password
from rusb.server.guests._qmp import entries_of
from rusb.server.machine.control import call, control_path
from rusb.server.machine.teleport import arrival, departure, images, link
from rusb.server.machine.teleport.core import GREETING, TeleportCore
from rusb.server.machine.teleport.messages import (
    End,
    Hello,
    Logon,
    Message,
    Run,
    Running,
    Welcome,
)
from rusb.server.vbox.model import Controller, Drive
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Host,
    begin,
    hardware,
    qemu_of,
    state,
    teleport,
    wait_state,
    when_sent,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

OTHER = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a718"

SIZE = 1_400_000
"""Bytes of the stream of a machine that has only run its BIOS, about."""


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host(tmp_path / "source", SOURCE, hardware(tmp_path))
    async with asyncio.timeout(60), found:
        yield found


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host.waiting(tmp_path / "target", hardware(tmp_path))
    async with asyncio.timeout(60), found:
        yield found


@pytest.fixture
async def wire(target: Host) -> AsyncIterator[Wire]:
    async with Wire(target.port).up() as found:
        yield found


async def check_moved(source: Host) -> None:
    await source.wait_ended()
    assert source.failure == ""
    await source.aclose()
    await wait_state(TARGET, "running")


async def check_stayed(target: Host | None = None) -> None:
    """The source runs, and *target* does not and never will."""
    assert (await state(SOURCE)).state == "running"
    if target is not None:
        await target.wait_ended()
        assert target.failure
        await target.aclose()
    assert (await call(control_path(SOURCE), "teleportstatus"))["is_over"]


# ------------------------------------------------------------------ it works ----


async def test_a_machine_moves(source: Host, target: Host) -> None:
    assert (await state(SOURCE)).state == "running"
    waiting = await state(TARGET)
    assert (waiting.state, waiting.waits) == ("teleportingin", target.port)
    ended = await teleport(target.port)
    assert ended["error"] == ""
    assert (await state(SOURCE)).state in ("teleported", "running")
    await check_moved(source)
    assert ended["downtime"] > 0
    assert ended["transferred"] > SIZE / 2
    assert "it stood still for" in source.log
    assert "the machine came from 127.0.0.1" in target.log
    assert target.said[-1] == "The machine has come and runs here."
    # it can do what any other can, and its disk is not locked by anybody else
    for command in ("pause", "resume", "reset"):
        await call(control_path(TARGET), command)
    await call(control_path(TARGET), "vrde", enabled=True)
    assert (await state(TARGET)).display.port > 0


async def test_there_and_back_again(
    source: Host, target: Host, tmp_path: Path, runtime: Path
) -> None:
    assert (await teleport(target.port))["error"] == ""
    await check_moved(source)
    back = Host.waiting(tmp_path / "source", hardware(tmp_path), uuid=SOURCE)
    async with back:
        assert (await teleport(back.port, uuid=TARGET))["error"] == ""
        await target.wait_ended()
        await target.aclose()
        await wait_state(SOURCE, "running")
    left = [name for name in os.listdir(runtime) if not name.endswith(".lock")]
    assert left == []  # no socket of either
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["disk.img"]


async def test_a_machine_that_is_paused_has_to_go_on_first(
    source: Host, target: Host
) -> None:
    await call(control_path(SOURCE), "pause")
    ended = await teleport(target.port)
    assert "this one is paused; let it go on first: controlvm" in ended["error"]
    assert (await state(SOURCE)).state == "paused"
    assert (await state(TARGET)).state == "teleportingin"


async def test_a_password_is_proved_by_both(tmp_path: Path, source: Host) -> None:
    waiting = Host.waiting(
        tmp_path / "target", hardware(tmp_path), hash_password("secret")
    )
    async with waiting:
        assert "Warning" not in " ".join(waiting.said)
        ended = await teleport(waiting.port, password="secret")
        assert ended["error"] == ""
        await check_moved(source)


# ------------------------------------------------------- before anything moves ----


async def test_wrong_passwords_are_refused_and_the_target_waits_on(
    tmp_path: Path, source: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "WRONG_PASSWORD_DELAY", 0.1)
    stored = hash_password("secret")
    async with Host.waiting(tmp_path / "t", hardware(tmp_path), stored) as waiting:
        ended = await teleport(waiting.port, password="wrong")
        assert ended["error"] == "the password is wrong"
        ended = await teleport(waiting.port)
        assert "wants a password: give it with --password" in ended["error"]
        await check_stayed()
        assert (await state(TARGET)).state == "teleportingin"
        assert "127.0.0.1: wrong password" in waiting.log
        assert (await teleport(waiting.port, password="secret"))["error"] == ""
        await check_moved(source)


async def test_a_target_that_does_not_know_the_password_gets_no_memory(
    tmp_path: Path, source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = await teleport(target.port, password="secret")
    assert "has no password, so it may be another host" in ended["error"]
    # one that pretends: it lets everybody in
    stored = hash_password("another")
    made = link.proof
    wrong = partial(made, b"?" * 32)
    monkeypatch.setattr(arrival, "proof", lambda key, *rest: wrong(*rest))
    monkeypatch.setattr(
        departure,
        "proof",
        lambda key, who, *rest: (wrong if who == "source" else partial(made, key))(
            who, *rest
        ),
    )
    async with Host.waiting(
        tmp_path / "t", hardware(tmp_path), stored, uuid=OTHER
    ) as waiting:
        ended = await teleport(waiting.port, password="secret")
    assert "does not know the password itself" in ended["error"]
    assert ended["transferred"] == 0
    await check_stayed()


async def test_another_certificate_than_before_is_refused(
    source: Host, target: Host
) -> None:
    pins = source.folder / "known_servers"
    pins.write_text(f"127.0.0.1:{target.port} sha256:{'0' * 64}\n")
    ended = await teleport(target.port)
    assert "has changed" in ended["error"]
    assert (await state(TARGET)).state == "teleportingin"
    await check_stayed()


async def test_every_difference_is_in_one_list(
    tmp_path: Path, source: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PATIENCE", 0.0)
    (tmp_path / "own").mkdir()
    shutil.copy(tmp_path / "shared" / "disk.img", tmp_path / "own")
    drive = Drive(0, 0, "hdd", tmp_path / "own" / "disk.img")
    other = hardware(
        tmp_path,
        memory=64,
        cpus=2,
        controllers=(Controller("IDE", "PIIX4", 2, (drive,)),),
    )
    async with Host.waiting(tmp_path / "t", other) as waiting:
        ended = await teleport(waiting.port)
        assert "is not equal, 3 differences: " in ended["error"]
        for sentence in (
            "Memory size: 48 MB at the source, 64 MB at the target",
            "Number of CPUs: 1 at the source, 2 at the target",
            "is another image than the source's",
        ):
            assert sentence in ended["error"]
        assert (await state(TARGET)).state == "teleportingin"
        await check_stayed()
        assert [p.name for p in (tmp_path / "shared").iterdir()] == ["disk.img"]


async def test_a_disk_that_is_missing_at_the_target(
    tmp_path: Path, source: Host
) -> None:
    disk = tmp_path / "own" / "disk.img"
    disk.parent.mkdir()
    disk.touch()
    drive = Drive(0, 0, "hdd", disk)
    other = hardware(tmp_path, controllers=(Controller("IDE", "PIIX4", 2, (drive,)),))
    async with Host.waiting(tmp_path / "t", other) as waiting:
        disk.unlink()
        ended = await teleport(waiting.port)
        assert f"the target has no {disk}" in ended["error"]
        assert (await state(TARGET)).state == "teleportingin"
    await check_stayed()


async def test_images_that_qemu_cannot_move_are_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vdi"
    words = ["qemu-img", "create", "-q", "-f", "vdi", str(disk), "1M"]
    await (await asyncio.create_subprocess_exec(*words)).wait()
    drive = Drive(0, 0, "hdd", disk)
    found = hardware(tmp_path, controllers=(Controller("IDE", "PIIX4", 2, (drive,)),))
    async with asyncio.timeout(60), Host(tmp_path / "source", SOURCE, found):
        ended = await teleport(1)
        assert "QEMU cannot move the machine: " in ended["error"]
        assert "vdi" in ended["error"]
        await check_stayed()


async def test_nobody_or_somebody_else_at_the_port(source: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    ended = await teleport(port)
    assert f"cannot connect to 127.0.0.1:{port}: Connection refused" in ended["error"]

    async def greet(r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
        w.write(b"SomeOther-Teleporter-1.0\n")
        await r.read()
        w.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ended = await teleport(port)
    assert "VirtualBox's own teleporting is not compatible" in ended["error"]
    await check_stayed()


async def test_what_connects_and_is_no_source_changes_nothing(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (b"hello\n", b"\x16\x03\x01", b"", GREETING, GREETING + bytes(999)):
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        assert await reader.readline() == GREETING
        writer.write(words)
        writer.write_eof()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
    monkeypatch.setattr(link, "GREETING_TIMEOUT", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    await reader.readline()
    assert await reader.read() == b""  # a silent one is hung up on
    writer.close()
    assert (await teleport(target.port))["error"] == ""
    await check_moved(source)


async def test_a_second_source_is_told_that_the_target_is_busy(
    source: Host, target: Host
) -> None:
    await begin(target.port, bandwidth=300_000)
    await until(lambda: target._arrival and target._arrival.progress)
    near, _ = await link.dial("127.0.0.1", target.port)
    async with near:
        hello = await near.receive(Hello)
        await near.send(Logon(hello.nonce))
        with pytest.raises(ControlError, match="busy with another source"):
            await near.receive(Welcome)
    await call(control_path(SOURCE), "teleportcancel")
    await check_stayed(target)


async def test_a_port_in_use_is_said_before_anybody_waits(
    target: Host, tmp_path: Path
) -> None:
    second = Host.waiting(
        tmp_path / "second", hardware(tmp_path), uuid=SOURCE, port=target.port
    )
    with pytest.raises(ListenError, match=f"port {target.port} is in use"):
        await second.__aenter__()


async def test_a_password_that_virtualbox_set_is_of_no_use(tmp_path: Path) -> None:
    stored = hash_legacy("secret")
    second = Host.waiting(tmp_path / "second", hardware(tmp_path), stored)
    with pytest.raises(SettingsError, match="was not set by rusb; set it again"):
        await second.__aenter__()


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
    await check_stayed(target)


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
    await check_stayed(target)
    assert "was lost" in target.failure


async def test_a_network_that_swallows_everything_is_noticed(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SILENCE", 1.0)
    monkeypatch.setattr(link, "ALIVE_PERIOD", 0.3)
    when_streamed(monkeypatch, SIZE // 2, wire.silence)
    ended = await teleport(wire.port, bandwidth=1 << 20)
    assert "it was silent for 1 s" in ended["error"]
    await check_stayed(target)


async def test_the_source_dies(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_streamed(monkeypatch, SIZE // 2, qemu_of(source).kill)
    await begin(target.port, bandwidth=1 << 20)
    await source.wait_ended()
    await target.wait_ended()
    assert "killed by signal 9" in source.failure
    assert target.failure


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
    await check_stayed(target)
    assert "the source cancelled the move" in target.failure
    with pytest.raises(ControlError, match="is not being teleported"):
        await call(path, "teleportcancel")


@pytest.mark.parametrize("at", [SOURCE, TARGET])
async def test_it_is_powered_off_while_it_moves(
    at: str, source: Host, target: Host
) -> None:
    await begin(target.port, bandwidth=300_000)
    await until(lambda: target._arrival and target._arrival.progress)
    await call(control_path(at), "poweroff")
    ended = source if at == SOURCE else target
    await ended.wait_ended()
    await ended.aclose()
    if at == TARGET:
        await until(lambda: not source._teleport.is_busy)
        await check_stayed()
    else:
        await target.wait_ended()


async def test_it_can_be_tried_again_after_all_that(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        when_sent(patch, End, wire.cut)
        assert "was lost" in (await teleport(wire.port))["error"]
    await check_stayed(target)
    async with Host.waiting(target.folder, target._hardware) as second:
        assert (await teleport(second.port))["error"] == ""
        await check_moved(source)


# --------------------------------------------------------------- at the switch ----


async def test_a_cut_before_run_leaves_it_here(
    source: Host, target: Host, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_sent(monkeypatch, End, wire.cut)
    ended = await teleport(wire.port)
    assert "was lost" in ended["error"]
    await check_stayed(target)


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
    assert "controlvm source resume" in ended["error"]
    assert (await state(SOURCE)).state == "paused"
    assert ended["downtime"] is None
    if runs:
        await wait_state(TARGET, "running")
        with pytest.raises(ControlError, match="lock"):  # and QEMU sees to it
            await call(control_path(SOURCE), "resume")
        await call(control_path(SOURCE), "poweroff")
        await source.wait_ended()
    else:
        await target.wait_ended()
        await target.aclose()
        await call(control_path(SOURCE), "resume")
        assert (await state(SOURCE)).state == "running"
        chardevs = entries_of(await source._hypervisor.execute("query-chardev"))
        (agent,) = (c for c in chardevs if c["label"] == "agent")
        assert agent["filename"] == "qemu-vdagent"


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
    await check_stayed(target)


async def test_after_the_switch_a_cut_does_not_matter(
    source: Host, target: Host, wire: Wire
) -> None:
    assert (await teleport(wire.port))["error"] == ""
    wire.cut()
    await check_moved(source)


@pytest.mark.parametrize(("last", "runs"), [("END", False), ("RUN", True)])
async def test_a_source_that_is_killed_at_the_switch(
    last: str, runs: bool, target: Host, tmp_path: Path
) -> None:
    """With RUN the machine is the target's, and there is nobody else to run it."""
    words = "-m", "tests.support.deadly_source", str(tmp_path), str(target.port), last
    source = await asyncio.create_subprocess_exec(sys.executable, *words)
    assert await source.wait() == -signal.SIGKILL
    if runs:
        await wait_state(TARGET, "running")
        assert target.failure == ""
    else:
        await target.wait_ended()
        assert "was lost" in target.failure
