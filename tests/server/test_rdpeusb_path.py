"""Our own client over MS-RDPEUSB, from end to end over TLS."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rusb.client import offers as offers_module
from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.events import DeviceOffered, SessionEvent
from rusb.client.session import ClientSession, connect
from rusb.filters.model import Filter
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import Lab, machine, sessions_of, wires_of


@contextlib.asynccontextmanager
async def offered(
    folder: Path,
    *devices: Loopback | FlashDrive,
    server: tuple[str, ...] = ("vrdpusb", "rdpeusb"),
    client: tuple[str, ...] = ("rdpeusb",),
    on_event: Callable[[SessionEvent], None] = lambda event: None,
    **changes: object,
) -> AsyncIterator[tuple[Lab, EmulatedBackend, ClientSession]]:
    lab = Lab(folder, machine(**changes), server)
    backend = EmulatedBackend(devices=devices)
    async with asyncio.timeout(20), lab.server:
        config = dataclasses.replace(lab.config(), wires=client)
        async with connect(config, backends=[backend], on_event=on_event) as session:
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
        while len(wires_of(session).channels.open) > 1:  # noqa: ASYNC110
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


BOTH = ("vrdpusb", "rdpeusb")


@pytest.mark.parametrize(
    ("server", "drives", "others"),
    [
        (("rdpeusb",), "rdpeusb", "rdpeusb"),
        (("vrdpusb",), "vrdpusb", "vrdpusb"),
        (("rdpeusb", "vrdpusb"), "vrdpusb", "rdpeusb"),
    ],
)
async def test_isochronous_devices_take_the_wire_that_carries_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: tuple[str, ...],
    drives: str,
    others: str,
) -> None:
    """Other devices travel over vrdpusb where the server has it."""
    if "rdpeusb" not in server:
        monkeypatch.setattr(offers_module, "FURTHER_SECONDS", 0.2)
    seen: list[SessionEvent] = []
    async with offered(
        tmp_path,
        *(FlashDrive(), Loopback()),
        server=server,
        client=BOTH,
        on_event=seen.append,
    ) as (lab, _, session):
        await lab.guest.wait_for(2)
        (ours,) = sessions_of(lab.server)
        found = {
            state.info.product: devices.protocol.name
            for devices in ours.devices
            for state in devices.state()
        }
        assert found == {"Flash Drive": drives, "Loopback": others}
        assert ours.in_use == 2
        states = ours.device_states()
        assert len({state.address for state in states}) == 2
        assert all(device.is_open for device in session.devices)
    offers = [e for e in seen if isinstance(e, DeviceOffered)]
    assert len(offers) == 2
    lacks = {e.device.product for e in offers if "isochronous" in str(e)}
    assert lacks == ({"Loopback"} if others == "vrdpusb" else set())
    assert ("isochronous endpoints" in lab.log()) is (others == "vrdpusb")
    assert "does not have the channel" not in lab.log()


async def test_devices_of_two_wires_are_plugged_and_withdrawn(tmp_path: Path) -> None:
    loopback, drive = Loopback(), FlashDrive()
    async with offered(tmp_path, loopback, drive, client=BOTH) as (
        lab,
        backend,
        client,
    ):
        await lab.guest.wait_for(2)
        for device in (loopback, drive):
            backend.unplug(device)
            (left,) = await lab.guest.wait_for(1)
            assert (left.strings["product"] == "Loopback") is (device is drive)
            backend.plug(device)
            await lab.guest.wait_for(2)
        for known in client.devices:
            client.withdraw(known.info.id)
        await lab.guest.wait_for(0)
    log = lab.log()
    assert log.count("VUSB: Attached") == log.count("VUSB: Detached") == 4


async def test_filters_hold_for_both_wires(tmp_path: Path) -> None:
    async with offered(tmp_path, Loopback(), FlashDrive(), client=BOTH) as (lab, _, _):
        await lab.guest.wait_for(2)
        lab.server.set_filters([Filter(name="none", product="x")])
        await lab.guest.wait_for(0)


async def test_a_client_of_vrdpusb_alone_is_not_asked_for_more(tmp_path: Path) -> None:
    async with offered(tmp_path, FlashDrive(), client=("vrdpusb",)) as (lab, _, _):
        await lab.guest.wait_for(1)
        (ours,) = sessions_of(lab.server)
        assert [devices.protocol.name for devices in ours.devices] == ["vrdpusb"]
