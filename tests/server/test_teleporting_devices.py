"""Remote devices of a machine that moves stay plugged in, over the source (7).

The guest is a BIOS: it reads and configures a keyboard whenever it starts.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import ControlError
from rusb.server.guests._qmp import entries_of
from rusb.server.machine.control import call, control_path
from rusb.server.machine.teleport import departure
from rusb.server.machine.teleport.core import TeleportCore
from rusb.server.machine.teleport.messages import End
from rusb.server.vbox.teleporter import Teleporter
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Counting,
    Host,
    hardware,
    qemu_of,
    running,
    state,
    teleport,
    wait_state,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Host]:
    async with running(tmp_path) as found:
        yield found


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host.waiting(tmp_path / "target", hardware(tmp_path))
    async with asyncio.timeout(60), found:
        yield found


@contextlib.asynccontextmanager
async def plugged(
    source: Host, *devices: Counting, **changes: Any
) -> AsyncIterator[EmulatedBackend]:
    """A client with keyboards, which the source's guest has configured."""
    port = (await state(SOURCE)).display.port
    known = source.folder / "known"
    config = ClientConfig("127.0.0.1", port, known_servers=known, **changes)
    backend = EmulatedBackend(devices=list(devices))
    async with connect(config, backends=[backend]):
        await until(lambda: source.log.count("VUSB: Attached") == len(devices))
        for device in devices:
            device.resets = 0
        await call(control_path(SOURCE), "reset")
        await until(lambda: all(device.resets for device in devices))
        yield backend


async def redirs(host: Host) -> int:
    """Remote devices in a host's QEMU."""
    chardevs = entries_of(await host._hypervisor.execute("query-chardev"))
    return sum(str(c["label"]).startswith("rusb-") for c in chardevs)


async def test_devices_stay_plugged_in_over_the_source(
    source: Host, target: Host
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    async with plugged(source, *keyboards) as backend:
        ended = await teleport(target.port)
        assert (ended["error"], ended["devices"]) == ("", 2)
        await wait_state(TARGET, "running")
        assert (await state(SOURCE)).state == "teleported"
        assert "VUSB: Detached" not in source.log
        for keyboard in keyboards:
            keyboard.resets = 0
        await call(control_path(TARGET), "reset")  # its BIOS looks for keyboards
        await until(lambda: all(keyboard.resets > 0 for keyboard in keyboards))
        assert await redirs(target) == 2

        with pytest.raises(ControlError, match="runs at another host"):
            await call(control_path(SOURCE), "resume")
        backend.unplug(keyboards[0])
        await until(lambda: source.log.count("VUSB: Detached") == 1)
        while await redirs(target) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert (await state(SOURCE)).state == "teleported"
    await source.wait_ended()  # the last one left with its client
    assert source.failure == ""
    await source.aclose()
    while await redirs(target):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert (await state(TARGET)).state == "running"


async def test_a_move_that_fails_leaves_devices_as_they_were(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard = Counting()
    send = TeleportCore.send
    async with Wire(target.port).up() as wire, plugged(source, keyboard):

        def cut(core: TeleportCore, message: object) -> None:
            send(core, message)  # type: ignore[arg-type]
            if isinstance(message, End):
                wire.cut()

        monkeypatch.setattr(TeleportCore, "send", cut)
        assert "was lost" in (await teleport(wire.port))["error"]
        assert (await state(SOURCE)).state == "running"
        keyboard.resets = 0
        await call(control_path(SOURCE), "reset")
        await until(lambda: keyboard.resets > 0)
        assert "VUSB: Detached" not in source.log


async def test_a_source_that_ends_unplugs_its_devices(
    source: Host, target: Host
) -> None:
    async with plugged(source, Counting()):
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        await call(control_path(SOURCE), "poweroff")
        await source.wait_ended()
        await source.aclose()
        while await redirs(target):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert (await state(TARGET)).state == "running"


async def test_a_network_that_breaks_afterwards_unplugs_them(
    source: Host, target: Host
) -> None:
    async with Wire(target.port).up() as wire, plugged(source, Counting()):
        assert (await teleport(wire.port))["error"] == ""
        await wait_state(TARGET, "running")
        wire.cut()
        await source.wait_ended()
        assert "the devices that came over here are gone" in source.log
        while await redirs(target):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_device_that_the_target_takes_out_is_lost_at_the_source(
    source: Host, target: Host
) -> None:
    async with plugged(source, Counting()):
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        (came,) = target._came
        (device,) = came._devices.values()
        await target._hypervisor.execute("device_del", {"id": device.id})
        await source.wait_ended()  # nothing is left that it would go on for


async def check_used(at: str, *keyboards: Counting) -> None:
    """The BIOS of a machine that starts again finds and configures them."""
    for keyboard in keyboards:
        keyboard.resets = 0
    await call(control_path(at), "reset")
    await until(lambda: all(keyboard.resets > 0 for keyboard in keyboards))


async def go_home(source: Host, target: Host) -> None:
    """Have the machine sent back, over whose first host its devices come."""
    source.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
    await call(control_path(SOURCE), "teleportwait")
    assert (await state(SOURCE)).state == "teleportingin"
    assert (await teleport(source.port, uuid=TARGET))["error"] == ""
    await wait_state(SOURCE, "running")
    await target.wait_ended()
    assert target.failure == ""
    await target.aclose()


async def test_devices_of_a_machine_that_comes_home_come_over_nobody(
    source: Host, tmp_path: Path
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    open_files = []
    async with plugged(source, *keyboards) as backend:
        for _ in range(2):
            target = Host.waiting(tmp_path / "target", hardware(tmp_path))
            async with target:
                assert (await teleport(target.port))["devices"] == 2
                await wait_state(TARGET, "running")
                await check_used(TARGET, *keyboards)
                await go_home(source, target)
            await check_used(SOURCE, *keyboards)
            await until(lambda: not source._teleport._before)
            assert await redirs(source) == 2
            while not any((await state(SOURCE)).display.screens[0]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            open_files.append(len(os.listdir("/proc/self/fd")))
        assert open_files[0] == open_files[1]
        assert "VUSB: Detached" not in source.log
        backend.unplug(keyboards[0])  # and it is as any other machine
        while await redirs(source) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await check_used(SOURCE, keyboards[1])
    while await redirs(source):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert (await state(SOURCE)).state == "running"


THIRD = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a719"


async def test_devices_go_on_over_two_hosts_and_leave_both_with_their_client(
    source: Host, target: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    third = Host.waiting(tmp_path / "third", hardware(tmp_path), uuid=THIRD)
    async with third, plugged(source, *keyboards) as backend:
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        with monkeypatch.context() as patch:
            patch.setattr(departure, "MAX_HOSTS", 1)
            ended = await teleport(third.port, uuid=TARGET)
            assert "already comes over 1 hosts" in ended["error"]
        ended = await teleport(third.port, uuid=TARGET)
        assert (ended["error"], ended["devices"]) == ("", 2)
        await wait_state(THIRD, "running")
        assert (await state(TARGET)).state == "teleported"
        await check_used(THIRD, *keyboards)
        backend.unplug(keyboards[0])
        while await redirs(third) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await check_used(THIRD, keyboards[1])
    for host in (source, target):
        await host.wait_ended()
        assert host.failure == ""


async def test_a_machine_that_does_not_come_home_keeps_its_devices_where_it_is(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard = Counting()
    async with plugged(source, keyboard):
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        with pytest.raises(ControlError, match="modifyvm source --teleporter on"):
            await call(control_path(SOURCE), "teleportwait")
        source.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
        await call(control_path(SOURCE), "teleportwait")
        send = TeleportCore.send
        async with Wire(source.port).up() as wire:

            def cut(core: TeleportCore, message: object) -> None:
                send(core, message)  # type: ignore[arg-type]
                if isinstance(message, End):
                    wire.cut()

            with monkeypatch.context() as patch:
                patch.setattr(TeleportCore, "send", cut)
                ended = await teleport(wire.port, uuid=TARGET)
        assert "was lost" in ended["error"]
        await wait_state(SOURCE, "teleported")
        assert (await state(TARGET)).state == "running"
        await check_used(TARGET, keyboard)
        await call(control_path(SOURCE), "teleportwait")  # and QEMU dies as it waits
        qemu_of(source).kill()
        await wait_state(SOURCE, "teleported")
        await check_used(TARGET, keyboard)
        await go_home(source, target)
        await check_used(SOURCE, keyboard)
        assert "VUSB: Detached" not in source.log


async def test_a_client_without_extensions_stays_and_leaves(
    source: Host, target: Host
) -> None:
    """As rdesktop-vrdp 1.8: VirtualBox's own channel alone, and no coming back."""
    keyboard = Counting()
    async with plugged(source, keyboard, wires=("vrdpusb",), reconnect=False):
        assert (await teleport(target.port))["error"] == ""
        await wait_state(TARGET, "running")
        await check_used(TARGET, keyboard)
    await source.wait_ended()
    assert source.failure == ""
    while await redirs(target):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert (await state(TARGET)).state == "running"
