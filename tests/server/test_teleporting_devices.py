"""Remote devices of a machine that moves stay plugged in, over the source (7).

The guest is a BIOS: it reads and configures a keyboard whenever it starts.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Keyboard
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import ControlError
from rusb.server.guests._qmp import entries_of
from rusb.server.machine.control import call, control_path
from rusb.server.machine.teleport.core import TeleportCore
from rusb.server.machine.teleport.messages import End
from tests.support.breaking import Wire, until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Host,
    hardware,
    state,
    teleport,
    wait_state,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]


class Counting(Keyboard):
    """A keyboard that counts how often its port is reset."""

    resets = 0

    def was_reset(self) -> None:
        self.resets += 1
        super().was_reset()


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host(tmp_path / "source", SOURCE, hardware(tmp_path), has_display=True)
    async with asyncio.timeout(60), found:
        yield found


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host.waiting(tmp_path / "target", hardware(tmp_path))
    async with asyncio.timeout(60), found:
        yield found


@contextlib.asynccontextmanager
async def plugged(source: Host, *devices: Counting) -> AsyncIterator[EmulatedBackend]:
    """A client with keyboards, which the source's guest has configured."""
    port = (await state(SOURCE)).display.port
    config = ClientConfig("127.0.0.1", port, known_servers=source.folder / "known")
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
        with pytest.raises(ControlError, match="still come over the host"):
            await teleport(1, uuid=TARGET)

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
        assert target._came is not None
        (device,) = target._came._devices.values()
        await target._hypervisor.execute("device_del", {"id": device.id})
        await source.wait_ended()  # nothing is left that it would go on for
