"""The backend of emulated devices: addresses, plugging, image files."""

import asyncio
import os
from pathlib import Path

import pytest

from rusb.client.backends import emulated
from rusb.client.backends.emulated import (
    Data,
    EmulatedBackend,
    EmulatedDevice,
    FlashDrive,
    Keyboard,
    Loopback,
    bulk,
    describe,
)
from rusb.errors import BackendError, DeviceBusy, DeviceGone
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.types import Speed
from tests.support.usbhost import BulkOnly, Host, plugged


async def products(backend: EmulatedBackend) -> list[str | None]:
    return [d.info.product for d in await backend.list_devices()]


async def test_by_default_there_is_one_of_each() -> None:
    backend = EmulatedBackend()
    names = ["Flash Drive", "Keyboard", "Serial Loopback", "Loopback"]
    assert await products(backend) == names
    devices = await backend.list_devices()
    assert [d.info.port for d in devices] == [1, 2, 3, 4]
    assert len({d.key for d in devices}) == 4
    assert len({d.info.serial for d in devices}) == 4
    assert {d.info.vendor_id for d in devices} == {0x1209}
    assert [d.info.product_id for d in devices] == [1, 2, 3, 4]
    assert devices[0].info.speed is Speed.HIGH
    assert {d.problem for d in devices} == {None}
    await backend.aclose()
    assert await backend.list_devices() == []


async def test_an_address_names_kinds_values_and_ports(tmp_path: Path) -> None:
    path = tmp_path / "a@b=c.img"
    path.write_bytes(bytes(1 << 20))
    backend = EmulatedBackend(f"keyboard@9, flash-drive={path}@3,flash-drive=5M,serial")
    devices = await backend.list_devices()
    assert [d.info.port for d in devices] == [9, 3, 1, 2]
    assert [d.info.product_id for d in devices] == [2, 1, 1, 3]
    assert devices[1].info.serial != devices[2].info.serial
    disk = BulkOnly(Host(await backend.open(devices[2]), backend))
    assert disk.run(b"\x25" + bytes(9), 8) == 0
    assert int.from_bytes(disk.data[:4], "big") == 5 * 2048 - 1
    await backend.aclose()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("toaster", "unknown emulated device 'toaster'; choose one of flash-drive"),
        ("keyboard,", "is not KIND"),
        ("keyboard@x", "is not KIND"),
        ("keyboard=5", "accepts no value"),
        ("keyboard@1,serial@1", "port 1 is taken"),
        ("keyboard@0,serial@200", "port 200"),
        ("flash-drive=/nowhere/disk.img", "No such file"),
        ("flash-drive=1M", "flash drive of 1048576 bytes"),
        ("flash-drive=100G", "flash drive of"),
    ],
)
async def test_an_address_that_makes_no_sense_is_refused(
    address: str, message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        EmulatedBackend(address)


async def test_a_device_that_is_plugged_in_again_has_another_key() -> None:
    device = Keyboard()
    backend = EmulatedBackend(devices=[device])
    (before,) = await backend.list_devices()
    calls: list[int] = []
    backend.watch(lambda: calls.append(len(backend.devices)))
    backend.unplug(device)
    backend.unplug(device)
    assert await backend.list_devices() == []
    with pytest.raises(DeviceGone):
        await backend.open(before)
    backend.plug(device)
    (after,) = await backend.list_devices()
    assert calls == [0, 1]
    assert after.key != before.key
    assert after.info.serial == before.info.serial
    with pytest.raises(BackendError, match="already"):
        backend.plug(device)
    await backend.aclose()
    backend.plug(device)
    assert calls == [0, 1]
    await backend.aclose()
    await backend.aclose()


async def test_one_user_at_a_time() -> None:
    backend = EmulatedBackend(devices=[Loopback()])
    (device,) = await backend.list_devices()
    first = await backend.open(device)
    with pytest.raises(DeviceBusy):
        await backend.open(device)
    await first.aclose()
    second = await backend.open(device)
    await first.aclose()
    with pytest.raises(DeviceBusy):
        await backend.open(device)
    await second.aclose()
    await backend.aclose()


class Counter(EmulatedDevice):
    """The example of the module's documentation."""

    def __init__(self) -> None:
        endpoints = (bulk(0x81, Speed.HIGH), bulk(0x01, Speed.HIGH))
        interface = InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=endpoints)
        descriptors = describe(Speed.HIGH, 0x0010, interface)
        super().__init__(descriptors, ("Acme", "Counter", "1"))

    def data_out(self, endpoint: int, data: Data) -> bool:
        self.send(0x81, b"%d bytes" % len(data))
        return True


async def test_a_device_of_ones_own_takes_a_few_lines() -> None:
    async with plugged(Counter()) as host:
        found = host.enumerate()
        assert host.string(found.device.manufacturer) == "Acme"
        host.bulk(0x01, b"abcde")
        assert bytes(host.bulk(0x81, 512).result.data) == b"5 bytes"


async def test_there_are_no_more_ports_than_addresses() -> None:
    backend = EmulatedBackend(devices=[Keyboard() for _ in range(127)])
    with pytest.raises(BackendError, match="port 0"):
        backend.plug(Keyboard())
    backend.unplug(backend.devices[4])
    backend.plug(Keyboard())
    assert {d.info.port for d in await backend.list_devices()} == set(range(1, 128))
    await backend.aclose()


async def test_one_bad_device_leaves_none_plugged_in(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    good = FlashDrive(path)
    with pytest.raises(BackendError):
        EmulatedBackend(devices=[good, FlashDrive(tmp_path / "none")])
    backend = EmulatedBackend(devices=[good])
    await backend.aclose()


class Watched:
    """A backend whose list is taken on each change."""

    def __init__(self, backend: EmulatedBackend) -> None:
        self.backend = backend
        self._changed = asyncio.Event()
        backend.watch(self._changed.set)

    async def count(self, wanted: int) -> None:
        """Wait until so many devices are plugged in."""
        while len(self.backend.devices) != wanted:
            self._changed.clear()
            await self._changed.wait()


async def test_a_drive_follows_its_image_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "POLL_SECONDS", 0.005)
    path, away = tmp_path / "disk.img", tmp_path / "away.img"
    path.write_bytes(bytes(1 << 20))
    backend = EmulatedBackend(f"flash-drive={path},keyboard")
    watched = Watched(backend)
    async with asyncio.timeout(20):
        (drive, _) = await backend.list_devices()
        host = Host(await backend.open(drive), backend)
        BulkOnly(host).write(3, b"x" * 512)
        waiting = host.bulk(FlashDrive.IN, 512)
        path.rename(away)
        await watched.count(1)
        assert len(waiting.results) == 1
        away.rename(path)
        await watched.count(2)
        drive = (await backend.list_devices())[1]
        host = Host(await backend.open(drive), backend)
        assert BulkOnly(host).read(3, 1) == b"x" * 512
    await backend.aclose()


async def test_another_file_in_its_place_is_another_plug(tmp_path: Path) -> None:
    path, other = tmp_path / "disk.img", tmp_path / "other.img"
    path.write_bytes(bytes(1024))
    other.write_bytes(b"y" * 2048)
    backend = EmulatedBackend(f"flash-drive={path}")
    (before,) = await backend.list_devices()
    assert await backend.list_devices() == [before]
    os.replace(other, path)
    (after,) = await backend.list_devices()
    assert after.key != before.key
    disk = BulkOnly(Host(await backend.open(after), backend))
    assert disk.read(0, 4) == b"y" * 2048
    await backend.aclose()


async def test_a_file_that_is_still_being_copied_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    backend = EmulatedBackend(f"flash-drive={path}")
    path.unlink()
    assert await backend.list_devices() == []
    path.write_bytes(bytes(1000))
    for _ in range(3):
        assert await backend.list_devices() == []
    assert caplog.text.count("not a multiple of 512") == 1
    path.write_bytes(bytes(1024))
    assert len(await backend.list_devices()) == 1
    await backend.aclose()
    path.unlink()
    assert await backend.list_devices() == []
