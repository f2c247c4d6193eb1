"""Our own client over MS-RDPEUSB, from end to end over TLS."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rusb.cli._bench.plan import Job
from rusb.cli._bench.work import storage
from rusb.client import offers as offers_module
from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.events import DeviceOffered, SessionEvent
from rusb.client.session import ClientSession, connect
from rusb.filters.model import Filter
from rusb.rdp.dvc import FIRST_DYNAMIC
from rusb.server import admission
from rusb.server.storage import PipelinedStorage
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.breaking import Net, Wire, until
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
        channels = wires_of(session).channels
        await until(lambda: sum(n >= FIRST_DYNAMIC for n in channels.open) == 1)
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
            for devices in ours.usb.devices
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
        assert [devices.protocol.name for devices in ours.usb.devices] == ["vrdpusb"]


STORAGE = Job("storage-read", 64 << 10), Job("storage-write", 64 << 10)


async def test_storage_is_pipelined_as_over_any_wire(tmp_path: Path) -> None:
    async with offered(tmp_path, FlashDrive()) as (lab, _, _):
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, PipelinedStorage)
        for job in STORAGE:
            await storage(job, [device], 8)


async def test_limits_and_states_are_those_of_any_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_DEVICES_PER_CLIENT", 1)
    async with offered(tmp_path, FlashDrive(), FlashDrive()) as (lab, _, _):
        await lab.guest.wait_for(1)
        await until(lambda: any(state.problem for state in lab.server.devices()))
        states = {state.attached: state for state in lab.server.devices()}
        assert "1 device" in states[False].problem
        verdict = states[True].verdict
        assert verdict is not None
        assert verdict.admitted
        assert states[True].address.startswith("REMOTEUSB0x")
        assert states[True].client == 1


@contextlib.asynccontextmanager
async def breaking(folder: Path, **changes: object) -> AsyncIterator[Net]:
    """A server whose clients have both wires, and a network that breaks."""
    lab = Net(folder, machine(**changes), BOTH)
    async with asyncio.timeout(40), lab.server:
        lab.wire = Wire(lab.server.port)
        async with lab.wire.up():
            yield lab


async def test_the_guest_keeps_what_a_client_offers_again(tmp_path: Path) -> None:
    """Such a client does not resume; the same devices are waited for (--hold)."""
    async with breaking(tmp_path, hold=20.0) as lab:
        config = dataclasses.replace(lab.config(), wires=("rdpeusb",), reconnect=False)
        devices = [FlashDrive(), Keyboard()]
        async with connect(config, backends=[EmulatedBackend(devices=devices)]):
            before = await lab.guest.wait_for(2)
            lab.wire.cut()
            await lab.wait_log("the guest keeps it for 20 s", 2)
        drive, keys = sorted(before, key=lambda d: d.attached.info.product_id)
        typed: list[UrbResult] = []
        keys.submit(TransferType.INTERRUPT, 0x81, 8, b"", typed.append)
        keyboard = Keyboard()
        devices = [FlashDrive(), keyboard]
        async with connect(config, backends=[EmulatedBackend(devices=devices)]):
            await lab.wait_log("its client is back", 2)
            assert set(await lab.guest.wait_for(2)) == set(before)
            for job in STORAGE:
                await storage(job, [drive], 2)
            keyboard.type_text("a")
            await until(lambda: typed)
            assert typed[0].status is UrbStatus.OK
    assert lab.log().count("VUSB: Attached") == 2


async def test_a_client_that_resumes_offers_devices_of_this_wire_anew(
    tmp_path: Path,
) -> None:
    """resume.md: its messages are not counted; those of vrdpusb go on unseen."""
    async with breaking(tmp_path) as lab:
        config = dataclasses.replace(lab.config(), wires=BOTH)
        backend = EmulatedBackend(devices=[FlashDrive(), Loopback()])
        async with connect(config, backends=[backend]):
            names = {d.strings["product"]: d for d in await lab.guest.wait_for(2)}
            streaming = names.pop("Loopback")
            lab.wire.cut()
            await lab.wait_log("Remote USB: resumed after")
            await lab.wait_log("VUSB: Attached", 3)
            after = await lab.guest.wait_for(2)
            assert names["Flash Drive"] in after
            assert streaming not in after
            for device in after:
                if device.strings["product"] == "Loopback":
                    result = await device.read(Loopback.SOURCE, 512)
                    assert result.status is UrbStatus.OK
    assert lab.log().count("VUSB: Attached") == 3
