"""A machine moves from one host to another, or is not let go: real QEMU, both hosts in
this process.

What fails on the way is in ``test_teleporting_failures.py``.
"""

import asyncio
import contextlib
import os
import re
import shutil
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import ControlError, ListenError, ParseError, RusbError, SettingsError
from rusb.server.auth.hashes import MAX_LOG_N, hash_legacy, hash_password
from rusb.server.machine.control import call, control_path
from rusb.server.machine.teleport import arrival, control, departure, images, link
from rusb.server.machine.teleport.core import GREETING
from rusb.server.machine.teleport.messages import (
    Costs,
    Hello,
    Logon,
    Welcome,
)
from rusb.server.vbox.forwards import Forward
from rusb.server.vbox.model import Adapter, Controller, Drive
from rusb.server.vbox.teleporter import Teleporter
from tests.support.breaking import until
from tests.support.teleporting import (
    BELONG_TO_THE_GUEST,
    SOURCE,
    TARGET,
    Host,
    begin,
    check_moved,
    check_stayed,
    hardware,
    over,
    state,
    teleport,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

OTHER = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a718"


# ------------------------------------------------------------------ it works ----


async def test_a_machine_moves(source: Host, target: Host) -> None:
    assert (await state(SOURCE)).state == "running"
    waiting = await state(TARGET)
    assert (waiting.state, waiting.waits) == ("teleportingin", target.port)
    ended = await teleport(target.port)
    assert ended["error"] == ""
    await check_moved(source, target)
    assert ended["downtime"] > 0
    assert ended["transferred"] > 1_000_000
    assert "it was paused for" in source.log
    assert "the machine came from 127.0.0.1" in target.log
    assert "The machine has come and runs here." in target.said
    # it can do what any other can, and its disk is not locked by anybody else
    for command in ("pause", "resume", "reset"):
        await call(control_path(TARGET), command)
    await call(control_path(TARGET), "vrde", enabled=False)
    await call(control_path(TARGET), "vrde", enabled=True)
    assert (await state(TARGET)).display.port > 0


async def test_a_machine_that_waits_takes_no_commands(target: Host) -> None:
    for command, arguments in BELONG_TO_THE_GUEST.items():
        with pytest.raises(ControlError, match="^the machine waits for another host"):
            await call(control_path(TARGET), command, **arguments)


async def test_a_cable_is_as_the_target_says(source: Host, target: Host) -> None:
    await call(control_path(SOURCE), "setlinkstate", number=1, enabled=False)
    assert not await has_link(source)
    assert (await teleport(target.port))["error"] == ""
    await check_moved(source, target)
    assert (await state(TARGET)).links == {"0": True}
    assert await has_link(target)


async def has_link(host: Host) -> bool:
    """Does the card say that a cable is in (STATUS of the 8254x, bit 1)?"""

    async def ask(line: str) -> str:
        return str(await host._ask("human-monitor-command", {"command-line": line}))

    found = re.search(
        r"Ethernet.*?32 bit memory at (0x\w+)", await ask("info pci"), re.S
    )
    assert found is not None
    status = await ask(f"xp /1wx {int(found[1], 16) + 8:#x}")
    return bool(int(status.split()[-1], 16) & 2)


async def test_a_port_of_the_target_that_is_taken(source: Host, tmp_path: Path) -> None:
    """The machine runs, and its remote display, too; the port is not forwarded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rule = f"ssh,tcp,127.0.0.1,{taken.getsockname()[1]},,22"
        adapter = Adapter(mac="0800270000aa", forwards=(Forward.parse(rule),))
        found = hardware(tmp_path, adapters={0: adapter})
        async with Host.waiting(tmp_path / "target", found) as target:
            target.machine.remote_display = replace(
                target.machine.remote_display, enabled=True
            )
            assert (await teleport(target.port))["error"] == ""
            await check_moved(source, target)
            await until(lambda: target._server is not None)
            assert (await state(TARGET)).display.port > 0
            said = " ".join(target.said)
            assert "cannot be used: Address already in use" in said
            assert "Console: Warning: the forwarding rule" in target.log


async def test_there_and_back_again(
    source: Host, target: Host, tmp_path: Path, runtime: Path
) -> None:
    assert (await teleport(target.port))["error"] == ""
    await check_moved(source, target)
    back = Host.waiting(tmp_path / "source", hardware(tmp_path), uuid=SOURCE)
    async with back:
        assert (await teleport(back.port, uuid=TARGET))["error"] == ""
        await check_moved(target, back)
    left = [name for name in os.listdir(runtime) if not name.endswith(".lock")]
    assert left == []  # no socket of either
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["disk.img"]


@pytest.mark.parametrize(
    "change",
    [
        {"host": ""},
        {"port": 0},
        {"port": 65536},
        {"password": None},
        {"downtime": 0},
        {"downtime": departure.MAX_DOWNTIME + 1},
        {"bandwidth": -1},
        {"bandwidth": 1 << 50},
    ],
)
def test_nowhere_is_no_place_to_go(change: dict[str, Any]) -> None:
    right = {"host": "there", "port": 65535, "password": "", "bandwidth": 0}
    right["downtime"] = departure.MAX_DOWNTIME
    found = control._destination(right)
    assert (str(found), found.downtime) == ("there:65535", 2000)
    with pytest.raises(ControlError, match="needs host, port, password, downtime"):
        control._destination(right | change)


async def test_without_a_move_there_is_nothing_to_see_or_to_cancel(
    source: Host,
) -> None:
    with pytest.raises(ControlError, match="the machine was not teleported"):
        await call(control_path(SOURCE), "teleportstatus")
    with pytest.raises(ControlError, match="is not being teleported"):
        await call(control_path(SOURCE), "teleportcancel")


async def test_whoever_watches_learns_that_it_is_over_before_the_process_ends(
    source: Host, target: Host
) -> None:
    await begin(target.port, bandwidth=1 << 20)
    status = await call(control_path(SOURCE), "teleportstatus")
    assert not status["is_over"]
    await until(lambda: source._teleport.is_gone)
    await until(lambda: "listening on port" in target.log)
    await asyncio.sleep(0.2)  # if it did not wait, it would have ended by now
    assert not source._is_over.is_set()
    assert (await over(SOURCE))["error"] == ""
    await check_moved(source, target)


async def test_a_machine_that_is_paused_has_to_go_on_first(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(control_path(SOURCE), "pause")
    ended = await teleport(target.port)
    assert "this one is paused; let it go on first: controlvm" in ended["error"]
    assert (await state(SOURCE)).state == "paused"
    execute, commands = source._hypervisor.execute, list[str]()

    async def spy(command: str, *rest: Any) -> object:
        commands.append(command)
        return await execute(command, *rest)

    monkeypatch.setattr(source._hypervisor, "execute", spy)
    await call(control_path(SOURCE), "resume")
    await check_stayed(source, target, waits=True)
    assert "chardev-change" not in commands  # the guest's clipboard was not taken


async def test_a_password_is_proved_by_both(tmp_path: Path, source: Host) -> None:
    waiting = Host.waiting(
        tmp_path / "target", hardware(tmp_path), hash_password("secret")
    )
    async with waiting:
        assert "Warning" not in " ".join(waiting.said)
        ended = await teleport(waiting.port, password="secret")
        assert ended["error"] == ""
        await check_moved(source, waiting)


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
        await check_stayed(source, waiting, waits=True)
        assert "127.0.0.1: wrong password" in waiting.log
        assert source.log.count("now trusted") == 1
        assert (await teleport(waiting.port, password="secret"))["error"] == ""
        await check_moved(source, waiting)


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
        await check_stayed(source, waiting, waits=True)


async def test_another_version_is_refused_by_both(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(arrival, "Hello", partial(Hello, version=2))
        ended = await teleport(target.port)
    assert "speaks version 2 of teleporting, and this host version 1" in ended["error"]
    with monkeypatch.context() as patch:
        patch.setattr(departure, "Logon", partial(Logon, version=2))
        ended = await teleport(target.port)
    assert ended["error"] == (
        "the source speaks version 2 of teleporting, and the target version 1; install"
        " the same rusb on both"
    )
    await check_stayed(source, target, waits=True)


async def test_a_target_cannot_make_the_source_work_for_minutes(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs(MAX_LOG_N + 1, 8, 1, bytes(16))
    monkeypatch.setattr(arrival, "Hello", lambda nonce, _: Hello(nonce, costs))
    ended = await teleport(target.port, password="secret")
    assert "wants a key of the password that takes minutes" in ended["error"]
    await check_stayed(source, target, waits=True)


async def test_another_certificate_than_before_is_refused(
    source: Host, target: Host
) -> None:
    pins = source.folder / "known_servers"
    pins.write_text(f"127.0.0.1:{target.port} sha256:{'0' * 64}\n")
    ended = await teleport(target.port)
    assert "has changed" in ended["error"]
    await check_stayed(source, target, waits=True)


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
        assert "differs in 3 things: " in ended["error"]
        for sentence in (
            "Memory size: 48 MB at the source, 64 MB at the target",
            "Number of CPUs: 1 at the source, 2 at the target",
            "is another image than the source's",
        ):
            assert sentence in ended["error"]
        await check_stayed(source, waiting, waits=True)
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
        await check_stayed(source, waiting, waits=True)


async def test_images_that_qemu_cannot_move_are_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vdi"
    words = ["qemu-img", "create", "-q", "-f", "vdi", str(disk), "1M"]
    await (await asyncio.create_subprocess_exec(*words)).wait()
    drive = Drive(0, 0, "hdd", disk)
    found = hardware(tmp_path, controllers=(Controller("IDE", "PIIX4", 2, (drive,)),))
    async with asyncio.timeout(60), Host(tmp_path / "source", SOURCE, found) as source:
        ended = await teleport(1)
        assert "QEMU cannot move the machine: " in ended["error"]
        assert "vdi" in ended["error"]
        assert "clonemedium OLD NEW.img --format RAW" in ended["error"]
        assert await source.watched.status() == "running"


async def test_nobody_or_somebody_else_at_the_port(source: Host, target: Host) -> None:
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
    await check_stayed(source, target, waits=True)


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
    await check_moved(source, target)


async def test_who_says_nothing_after_the_first_lines_takes_little(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it before TLS or behind it; those that have shown no password are counted."""
    monkeypatch.setattr(arrival, "LOGON_TIMEOUT", 2.0)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(arrival.MAX_WAITING):
            mute, _ = await link.dial("127.0.0.1", target.port)
            await (await stack.enter_async_context(mute)).receive(Hello)
        with pytest.raises(RusbError):
            await link.dial("127.0.0.1", target.port)
        with pytest.raises(RusbError):  # it is given up
            await mute.wait_over()
    assert (await teleport(target.port))["error"] == ""
    await check_moved(source, target)


async def test_those_that_connect_in_one_moment_are_counted_too(target: Host) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", target.port)))
            for _ in range(arrival.MAX_WAITING + 5)
        ]  # the loop did not run meanwhile
        for sock in socks:
            sock.setblocking(False)
        lines = [await loop.sock_recv(sock, len(GREETING)) for sock in socks]
    assert lines.count(GREETING) == arrival.MAX_WAITING
    assert lines.count(b"") == 5


async def test_a_second_source_is_told_that_the_target_is_busy(
    source: Host, target: Host
) -> None:
    await begin(target.port, bandwidth=300_000)
    await until(lambda: target._arrival and target._arrival.progress)
    for _ in range(2):
        near, _ = await link.dial("127.0.0.1", target.port)
        async with near:
            hello = await near.receive(Hello)
            await near.send(Logon(hello.nonce))
            with pytest.raises(ControlError, match="busy with another source"):
                await near.receive(Welcome)
    await call(control_path(SOURCE), "teleportcancel")
    await check_stayed(source, target)


async def test_a_port_in_use_is_said_before_anybody_waits(
    source: Host, target: Host, tmp_path: Path
) -> None:
    """Its QEMU is ended; who waits there already is as before."""
    port, uuid = target.port, OTHER
    second = Host.waiting(tmp_path / "second", hardware(tmp_path), uuid=uuid, port=port)
    with pytest.raises(ListenError, match=f"port {port} is in use, .* choose another"):
        await second.__aenter__()
    assert not control_path(OTHER).with_suffix(".qmp").exists()
    assert (await teleport(port))["error"] == ""
    await check_moved(source, target)


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nMII"])
def test_a_certificate_that_cannot_be_shown_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="the server's certificate is not PEM"):
        arrival._first(text)


async def test_an_address_of_another_host_cannot_be_waited_on(tmp_path: Path) -> None:
    second = Host.waiting(tmp_path / "second", hardware(tmp_path))
    second.machine.teleporter = Teleporter(True, 0, "192.0.2.1")
    with pytest.raises(SettingsError, match="192.0.2.1.* --teleporteraddress"):
        await second.__aenter__()


async def test_a_password_that_virtualbox_set_is_of_no_use(tmp_path: Path) -> None:
    stored = hash_legacy("secret")
    second = Host.waiting(tmp_path / "second", hardware(tmp_path), stored)
    with pytest.raises(SettingsError, match="was not set by rusb; set it again"):
        await second.__aenter__()
