"""Remote devices of a machine that moves stay plugged in, over the source (7).

The guest is a BIOS: it reads and configures a keyboard whenever it starts.
"""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from rusb.errors import ControlError
from rusb.server.guests.qemu import QemuGuest
from rusb.server.machine.control import call, control_path
from rusb.server.machine.teleport import departure
from rusb.server.machine.teleport.messages import End
from rusb.server.vbox.teleporter import Teleporter
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    BELONG_TO_THE_GUEST,
    SOURCE,
    TARGET,
    Counting,
    Host,
    check_stayed,
    hardware,
    move,
    plugged,
    qemu_of,
    reset,
    state,
    teleport,
    wait_redirs,
    wait_state,
    when_sent,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]

relayed = partial(plugged, reconnect=False)
"""A client that stays at the source."""


async def test_devices_stay_plugged_in_over_the_source(
    source: Host, target: Host
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    async with relayed(source, *keyboards) as client:
        ended = await teleport(target.port)
        assert (ended["error"], ended["devices"]) == ("", 2)
        await wait_state(TARGET, "running")
        assert (await state(SOURCE)).state == "teleported"
        assert "VUSB: Detached" not in source.log
        await reset(TARGET, *keyboards)
        await wait_redirs(target, 2)

        for command, arguments in BELONG_TO_THE_GUEST.items():
            with pytest.raises(ControlError, match="^the machine runs at another host"):
                await call(control_path(SOURCE), command, **arguments)
        client.backend.unplug(keyboards[0])
        await until(lambda: source.log.count("VUSB: Detached") == 1)
        await wait_redirs(target, 1)
        assert (await state(SOURCE)).state == "teleported"
    await source.wait_ended()  # the last one left with its client
    assert source.failure == ""
    await source.aclose()
    await wait_redirs(target, 0)
    assert (await state(TARGET)).state == "running"


async def test_a_move_that_fails_leaves_devices_as_they_were(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard = Counting()
    async with Wire(target.port).up() as wire, relayed(source, keyboard):
        when_sent(monkeypatch, End, wire.cut)
        assert "was lost" in (await teleport(wire.port))["error"]
        assert (await state(SOURCE)).state == "running"
        await reset(SOURCE, keyboard)
        assert "VUSB: Detached" not in source.log


async def test_a_source_that_ends_unplugs_its_devices(
    source: Host, target: Host
) -> None:
    async with relayed(source, Counting()):
        await move(target.port)
        await call(control_path(SOURCE), "poweroff")
        await source.wait_ended()
        await source._teleport.aclose()
        found = await call(control_path(SOURCE), "teleportstatus")
        assert (found["is_over"], found["error"]) == (True, "")  # it is at the target
        await source.aclose()
        await wait_redirs(target, 0)
        assert (await state(TARGET)).state == "running"


async def test_a_device_whose_port_is_not_known_cannot_stay(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relayed(source, Counting()):
        place = "rusb-abcdef-1", "usb0.0", "", "a keyboard"
        monkeypatch.setattr(QemuGuest, "movable", lambda guest: [place])
        ended = await teleport(target.port)
        why = "QEMU does not say at which port of usb0.0 USB device 1 is"
        assert why in ended["error"]
        await check_stayed(source, target, waits=True)


async def test_a_name_that_no_device_has_is_refused(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to QEMU's monitor."""
    async with relayed(source, Counting()):
        monkeypatch.setattr(
            QemuGuest, "movable", lambda guest: [("ide0", "usb0.0", "1", "x")]
        )
        ended = await teleport(target.port)
        assert ended["error"] == "invalid name 'ide0' of a USB device"
        await check_stayed(source, target)


async def test_a_network_that_breaks_afterwards_unplugs_them(
    source: Host, target: Host
) -> None:
    async with Wire(target.port).up() as wire, relayed(source, Counting()):
        await move(wire.port)
        wire.cut()
        await source.wait_ended()
        assert "the devices that came over here are gone" in source.log
        await wait_redirs(target, 0)


async def test_a_device_that_the_target_takes_out_is_lost_at_the_source(
    source: Host, target: Host
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    async with relayed(source, *keyboards):
        await move(target.port)
        (came,) = target._came
        one, other = (device.id for device in came._devices.values())
        await target._hypervisor.execute("device_del", {"id": one})
        await until(lambda: source.log.count("VUSB: Detached") == 1)
        assert came.ids == {other}
        assert [device.id for device in came.movable()] == [other]
        await wait_redirs(target, 1)
        assert (await state(SOURCE)).state == "teleported"
        await target._hypervisor.execute("device_del", {"id": other})
        await source.wait_ended()  # nothing is left that it would go on for


async def go_home(source: Host, target: Host) -> None:
    """Have the machine sent back, over whose first host its devices come."""
    source.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
    await call(control_path(SOURCE), "teleportwait")
    assert (await state(SOURCE)).state == "teleportingin"
    await move(source.port, uuid=TARGET, to=SOURCE)
    await target.wait_ended()
    assert target.failure == ""
    await target.aclose()


async def test_devices_of_a_machine_that_comes_home_come_over_nobody(
    source: Host, tmp_path: Path
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    open_files = []
    async with relayed(source, *keyboards) as client:
        for _ in range(2):
            target = Host.waiting(tmp_path / "target", hardware(tmp_path))
            async with target:
                assert (await teleport(target.port))["devices"] == 2
                await wait_state(TARGET, "running")
                await reset(TARGET, *keyboards)
                await go_home(source, target)
            await reset(SOURCE, *keyboards)
            await until(lambda: not source._teleport._before)
            assert not source._is_over.is_set()  # that move's end is not the machine's
            await wait_redirs(source, 2)
            while not any((await state(SOURCE)).display.screens[0]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            open_files.append(len(os.listdir("/proc/self/fd")))
        assert open_files[0] == open_files[1]
        assert len(source._came) == 1  # nothing comes over the first move any more
        assert "VUSB: Detached" not in source.log
        client.backend.unplug(keyboards[0])  # and it is as any other machine
        await wait_redirs(source, 1)
        await reset(SOURCE, keyboards[1])
        (device,) = source._came[-1].ids
        await source._hypervisor.execute("device_del", {"id": device})
        await until(lambda: source.log.count("VUSB: Detached") == 2)
        await wait_redirs(source, 0)
    assert (await state(SOURCE)).state == "running"


THIRD = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a719"


async def test_devices_go_on_over_two_hosts_and_leave_both_with_their_client(
    source: Host, target: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    third = Host.waiting(tmp_path / "third", hardware(tmp_path), uuid=THIRD)
    async with third, relayed(source, *keyboards) as client:
        await move(target.port)
        with monkeypatch.context() as patch:
            patch.setattr(departure, "MAX_HOSTS", 1)
            ended = await teleport(third.port, uuid=TARGET)
            assert "already comes over 1 hosts" in ended["error"]
        ended = await teleport(third.port, uuid=TARGET)
        assert (ended["error"], ended["devices"]) == ("", 2)
        await wait_state(THIRD, "running")
        assert (await state(TARGET)).state == "teleported"
        await reset(THIRD, *keyboards)
        client.backend.unplug(keyboards[0])
        await wait_redirs(third, 1)
        await reset(THIRD, keyboards[1])
    for host in (source, target):
        await host.wait_ended()
        assert host.failure == ""


async def test_a_machine_that_does_not_come_home_keeps_its_devices_where_it_is(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard = Counting()
    async with relayed(source, keyboard):
        await move(target.port)
        with pytest.raises(ControlError, match="modifyvm source --teleporter on"):
            await call(control_path(SOURCE), "teleportwait")
        source.machine.teleporter = Teleporter(True, 0, "127.0.0.1")
        await call(control_path(SOURCE), "teleportwait")
        async with Wire(source.port).up() as wire:
            with monkeypatch.context() as patch:
                when_sent(patch, End, wire.cut)
                ended = await teleport(wire.port, uuid=TARGET)
        assert "was lost" in ended["error"]
        await wait_state(SOURCE, "teleported")
        assert (await state(TARGET)).state == "running"
        await reset(TARGET, keyboard)
        await call(control_path(SOURCE), "teleportwait")  # and QEMU dies as it waits
        qemu_of(source).kill()
        await wait_state(SOURCE, "teleported")
        await reset(TARGET, keyboard)
        await go_home(source, target)
        await reset(SOURCE, keyboard)
        assert "VUSB: Detached" not in source.log


async def test_a_client_without_extensions_stays_and_leaves(
    source: Host, target: Host
) -> None:
    """As rdesktop-vrdp 1.8: VirtualBox's own channel alone, and no coming back."""
    keyboard = Counting()
    async with relayed(source, keyboard, wires=("vrdpusb",)):
        await move(target.port)
        await reset(TARGET, keyboard)
    await source.wait_ended()
    assert source.failure == ""
    await wait_redirs(target, 0)
    assert (await state(TARGET)).state == "running"
