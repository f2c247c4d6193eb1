"""Our own client over MS-RDPEUSB, from end to end over TLS."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.session import ClientSession, connect
from rusb.filters.model import Filter
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import Lab, machine


@contextlib.asynccontextmanager
async def offered(
    folder: Path,
    *devices: Loopback | FlashDrive,
    server: tuple[str, ...] = ("vrdpusb", "rdpeusb"),
    client: tuple[str, ...] = ("rdpeusb",),
    **changes: object,
) -> AsyncIterator[tuple[Lab, EmulatedBackend, ClientSession]]:
    lab = Lab(folder, machine(**changes), server)
    backend = EmulatedBackend(devices=devices)
    async with asyncio.timeout(20), lab.server:
        config = dataclasses.replace(lab.config(), wires=client)
        async with connect(config, backends=[backend]) as session:
            yield lab, backend, session


async def test_devices_move_data_and_are_unplugged(tmp_path: Path) -> None:
    drive = FlashDrive()
    async with offered(tmp_path, Loopback(), drive) as (lab, backend, _):
        devices = {d.strings["product"]: d for d in await lab.guest.wait_for(2)}
        device = devices["Loopback"]
        for size in (1, 65_536, 1 << 20):
            result = await device.read(Loopback.SOURCE, size)
            assert (result.status, result.length) == (UrbStatus.OK, size)
            result = await device.write(Loopback.SINK, bytes(size))
            assert (result.status, result.length) == (UrbStatus.OK, size)
        backend.unplug(drive)
        await lab.guest.wait_for(1)
        backend.plug(drive)
        await lab.guest.wait_for(2)
    assert lab.log().count("VUSB: Attached") == 3


async def test_a_refused_device_is_let_go_at_once(tmp_path: Path) -> None:
    """rdpeusb.md 5.7: no client offers it again before it is plugged in again."""
    drive = FlashDrive()
    async with offered(tmp_path, drive, filters=()) as (lab, backend, session):
        await lab.wait_log("the client let go of it when it was refused")
        while len(session._channels.open) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        (state,) = lab.server._sessions.devices()
        assert state.verdict is not None
        assert not state.verdict.admitted
        lab.server.machine.filters = (Filter(name="all"),)
        lab.server._sessions.reconsider()
        await lab.wait_log("refused: the client let go of it")
        assert lab.guest.devices == {}
        backend.unplug(drive)
        await asyncio.sleep(0.1)
        backend.plug(drive)
        await lab.guest.wait_for(1)


@pytest.mark.parametrize(
    ("server", "chosen"),
    [(("rdpeusb",), "rdpeusb"), (("rdpeusb", "vrdpusb"), "vrdpusb")],
)
async def test_a_client_takes_vrdpusb_where_the_server_has_it(
    tmp_path: Path, server: tuple[str, ...], chosen: str
) -> None:
    wires = ("vrdpusb", "rdpeusb")
    async with offered(tmp_path, Loopback(), server=server, client=wires) as (
        lab,
        _,
        session,
    ):
        (device,) = await lab.guest.wait_for(1)
        assert (await device.read(Loopback.SOURCE, 4096)).length == 4096
        assert session._wires.protocol is not None
        assert session._wires.protocol.name == chosen
