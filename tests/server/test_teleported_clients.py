"""A machine moves, and clients of ours go with it: afterwards nothing needs the source.

The guest is a BIOS, which reads and configures a keyboard whenever it starts.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from rusb.cli.connect import WIRES
from rusb.client.backends.emulated import EmulatedBackend, FlashDrive
from rusb.client.config import ClientConfig
from rusb.client.screenshot import screenshot
from rusb.client.session import connect
from rusb.server.machine.running import RunningMachine
from rusb.server.machine.teleport.messages import Display
from rusb.server.vbox.storage_mode import Storage, StorageMode
from tests.support.breaking import until
from tests.support.teleporting import (
    SOURCE,
    TARGET,
    Counting,
    Host,
    move,
    plugged,
    reset,
    state,
    teleport,
)

SENT_ON = "client 2: disconnected, since the machine runs at"
"""What the log says of a viewer that knows no redirection."""

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("runtime")]


async def test_a_client_goes_where_its_machine_goes(source: Host, target: Host) -> None:
    keyboards = Counting(serial="1"), Counting(serial="2")
    async with plugged(source, *keyboards) as client:
        await move(target.port)
        await source.wait_ended()  # nothing goes over it any more
        await source.aclose()
        await until(lambda: target.log.count("VUSB: Attached") == 2)
        assert "Remote USB: resumed after" in target.log
        assert client.session.is_connected
        await reset(TARGET, *keyboards)
        assert "Detached" not in source.log + target.log
        assert "its devices are connected to" in client.said()
    await until(lambda: target.log.count("VUSB: Detached") == 2)


async def test_a_client_that_does_not_come_back_stays(
    source: Host, target: Host
) -> None:
    """``--no-reconnect``: its devices go over the source, and it is told so."""
    keyboard = Counting()
    async with plugged(source, keyboard, reconnect=False) as client:
        await move(target.port)
        await reset(TARGET, keyboard)
        await until(lambda: "was started not to connect again" in client.said())
        assert (await state(SOURCE)).state == "teleported"
        assert "VUSB: Attached" not in target.log
    await source.wait_ended()


async def test_who_stays_is_told_why(source: Host, target: Host) -> None:
    keyboard = Counting()
    async with plugged(source, keyboard, wires=WIRES["rdpeusb"]) as client:
        await move(target.port)
        why = "stays: it has devices over another wire than vrdpusb"
        await until(lambda: why in source.log)
        await until(lambda: "travels over MS-RDPEUSB cannot" in client.said())
        await reset(TARGET, keyboard)
    await source.wait_ended()


async def test_a_disk_that_is_read_ahead_is_named(source: Host, target: Host) -> None:
    source.machine.storage = Storage(StorageMode.AHEAD)
    port = (await state(SOURCE)).display.port
    config = ClientConfig(
        *("127.0.0.1", port), known_servers=source.folder / "known", reconnect=True
    )
    drive = FlashDrive(bytearray(1 << 20))
    said = list[str]()
    async with connect(
        config,
        backends=[EmulatedBackend(devices=[drive])],
        on_event=lambda event: said.append(str(event)),
    ):
        await until(lambda: "VUSB: Attached" in source.log)
        assert (await teleport(target.port))["error"] == ""
        why = f"stays: {drive.info(1, 1)} cannot move: its client reads it ahead"
        await until(lambda: why in source.log)
        read_ahead = f"{drive.info(1, 1)} is read ahead"
        await until(lambda: read_ahead in "\n".join(said))
    await source.wait_ended()


async def test_a_viewer_stays_as_long_as_the_devices_beside_it(
    source: Host, target: Host
) -> None:
    """A program that opened both would take the devices along when its viewer ends."""
    keyboard = Counting()
    async with (
        plugged(source, keyboard, reconnect=False),
        looking_on(source),
    ):
        await move(target.port)
        await reset(TARGET, keyboard)  # longer than it takes to send anybody on
        assert SENT_ON not in source.log
        assert source._server is not None
        (shown,) = source._server._screens._guests
        await until(lambda: "the machine runs at 127.0.0.1:" in shown.problem)
        assert "Connection closed" not in source.log
    await source.wait_ended()


async def test_a_viewer_goes_when_the_devices_beside_it_have_gone(
    source: Host, target: Host
) -> None:
    async with plugged(source, Counting()), looking_on(source):
        assert (await teleport(target.port))["error"] == ""
        await until(lambda: SENT_ON in source.log)


@contextlib.asynccontextmanager
async def looking_on(host: Host) -> AsyncIterator[None]:
    """Somebody looks at the screen of a host's machine."""
    port = (await state(SOURCE)).display.port
    config = ClientConfig("127.0.0.1", port, known_servers=host.folder / "known")
    looking = asyncio.ensure_future(screenshot(config, wait=60))
    while not any(  # noqa: ASYNC110
        one.view for one in (await state(SOURCE)).display.clients
    ):
        await asyncio.sleep(0.05)
    yield
    looking.cancel()
    await asyncio.wait([looking])


async def test_a_client_believes_no_other_certificate(
    source: Host, target: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, and its devices go over the source."""
    find = RunningMachine._display

    def other(machine: RunningMachine) -> Display:
        return replace(find(machine), certificate=bytes(32))

    monkeypatch.setattr(RunningMachine, "_display", other)
    keyboard = Counting()
    async with plugged(source, keyboard) as client:
        await move(target.port)
        await until(lambda: "stays: it cannot be reached" in source.log)
        await until(lambda: "another certificate than the one it" in client.said())
        assert "the devices stay connected to" in client.said()
        assert client.session.is_connected
        await reset(TARGET, keyboard)
        assert (await state(SOURCE)).state == "teleported"
        assert "VUSB: Attached" not in target.log
    await source.wait_ended()
