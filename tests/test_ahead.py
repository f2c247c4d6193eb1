"""Read-ahead over the whole path: server, rusbext, client, drive."""

import asyncio
import contextlib
import dataclasses
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, FlashDrive
from rusb.client.session import connect
from rusb.server import listed_device
from rusb.server.guests.loopback import LoopbackDevice
from rusb.server.storage import PipelinedStorage, ReadAhead
from rusb.server.vbox.storage_mode import Storage, StorageMode
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.storage import BLOCK, CAPACITY, INQUIRY, cdb10
from tests.support.whole_path import Lab, machine

AHEAD = Storage(StorageMode.AHEAD)
READ = 240


class Disk:
    """A driver of a disk."""

    def __init__(self, device: LoopbackDevice) -> None:
        self._device = device
        self._tag = 0

    async def command(
        self, cdb: bytes, length: int, data: bytes | None = None
    ) -> tuple[bytes, int]:
        """Run a command; return what it brings and its status."""
        self._tag += 1
        flags = 0x80 if data is None else 0
        head = b"USBC", self._tag, length, flags, 0, len(cdb)
        await self._device.write(FlashDrive.OUT, struct.pack("<4sIIBBB16s", *head, cdb))
        found = b""
        if data is not None:
            await self._device.write(FlashDrive.OUT, data)
        elif length:
            found = bytes((await self._device.read(FlashDrive.IN, length)).data)
        status = await self._device.read(FlashDrive.IN, 13)
        assert bytes(status.data[:8]) == struct.pack("<4sI", b"USBS", self._tag)
        return found, status.data[12]

    async def read(self, block: int, count: int = READ) -> bytes:
        found, status = await self.command(cdb10(0x28, block, count), count * BLOCK)
        assert status == 0
        return found


@contextlib.asynccontextmanager
async def client(lab: Lab, backend: EmulatedBackend) -> AsyncIterator[None]:
    """As ``rusb connect`` does: with rusb's own channel."""
    config = dataclasses.replace(lab.config(), reconnect=True)
    async with connect(config, backends=[backend]):
        yield


def image_of(size: int) -> bytearray:
    return bytearray(random.Random(3).randbytes(size))


async def test_a_disk_is_read_ahead_and_right(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine(storage=AHEAD))
    image = image_of(8 << 20)
    drive = FlashDrive(image)
    backend = EmulatedBackend(devices=[drive])
    async with asyncio.timeout(30), lab.server, client(lab, backend):
        (device,) = await lab.guest.wait_for(1)
        shown = device.attached
        assert isinstance(shown, ReadAhead)
        disk = Disk(device)
        await disk.command(INQUIRY, 36)
        await disk.command(CAPACITY, 8)
        end = len(image) // BLOCK // READ * READ
        for block in range(0, end, READ):
            found = await disk.read(block)
            assert found == image[block * BLOCK : (block + READ) * BLOCK]
        assert shown._tag - 0x80000000 > end // READ // 2  # so many were ours
        new = random.Random(4).randbytes(READ * BLOCK)
        for block in range(0, 8 * READ, READ):
            assert len(await disk.read(block)) == READ * BLOCK
        assert await disk.command(cdb10(0x2A, 9 * READ, READ), len(new), new) == (
            b"",
            0,
        )
        await disk.read(8 * READ)
        assert await disk.read(9 * READ) == new
        for block in range(0, 6 * READ, READ):
            await disk.read(block)
        shown.reset()
        await device.control(SetupPacket.set_configuration(1))
        assert await disk.read(9 * READ) == new
        for block in range(0, 6 * READ, READ):
            await disk.read(block)
        backend.unplug(drive)
        await lab.guest.wait_for(0)
        assert "storage:" not in lab.log()


@pytest.mark.parametrize(
    ("storage", "has_channel"),
    [(AHEAD, False), (Storage(StorageMode.EARLY), True)],
    ids=["a client without the channel", "early"],
)
async def test_where_there_is_none(
    tmp_path: Path, storage: Storage, has_channel: bool
) -> None:
    """Commands are pipelined early."""
    lab = Lab(tmp_path, machine(storage=storage))
    backend = EmulatedBackend(devices=[FlashDrive(image_of(1 << 20))])
    connected = client(lab, backend) if has_channel else lab.client(backend)
    async with asyncio.timeout(20), lab.server, connected:
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, PipelinedStorage)


@pytest.mark.parametrize("status", [UrbStatus.NO_DEVICE, UrbStatus.IO_ERROR])
async def test_a_device_that_is_unplugged_meanwhile_is_not_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: UrbStatus
) -> None:
    """Its transfers fail before anybody knows why, as those of real devices do."""
    monkeypatch.setattr(listed_device, "VERDICT", 1.0)

    class Loose(FlashDrive):
        failures = 0
        is_loose = False

        def submit(self, urb: Urb, complete: Completion) -> None:
            if self.is_loose:
                self.failures += 1
                complete(UrbResult(status))
            else:
                super().submit(urb, complete)

    lab = Lab(tmp_path, machine(storage=AHEAD))
    drive = Loose(image_of(8 << 20))
    backend = EmulatedBackend(devices=[drive])
    async with asyncio.timeout(30), lab.server, client(lab, backend):
        (device,) = await lab.guest.wait_for(1)
        disk = Disk(device)
        await disk.command(INQUIRY, 36)
        await disk.command(CAPACITY, 8)
        for block in range(0, 8 * READ, READ):
            await disk.read(block)
        drive.is_loose = True
        reading = asyncio.ensure_future(disk.read(8 * READ))
        for block in range(9 * READ, 64 * READ, READ):
            if drive.failures:
                break
            await asyncio.wait([reading], timeout=1)
            if reading.done() and not reading.exception():
                reading = asyncio.ensure_future(disk.read(block))
        assert drive.failures
        backend.unplug(drive)
        await lab.guest.wait_for(0)
        with contextlib.suppress(Exception):
            await reading
        await asyncio.sleep(1.5)
        assert "storage:" not in lab.log()
        assert not lab.server._host.odd_storage
        backend.plug(FlashDrive(image_of(1 << 20)))
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, ReadAhead)


async def test_a_device_that_cannot_stand_it_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed_device, "VERDICT", 0.5)

    class Odd(FlashDrive):
        def _take_command(self, data: bytes) -> None:
            super()._take_command(data)
            if self._tag & 0x80000000:
                self._tag += 1

    lab = Lab(tmp_path, machine(storage=AHEAD))
    drive = Odd(image_of(1 << 20))
    backend = EmulatedBackend(devices=[drive])
    async with asyncio.timeout(20), lab.server, client(lab, backend):
        (device,) = await lab.guest.wait_for(1)
        disk = Disk(device)
        await disk.command(INQUIRY, 36)
        await disk.command(CAPACITY, 8)
        for block in range(0, 64, 8):
            await disk.read(block, 8)
        await lab.wait_log("from now on its commands are not read ahead")
        backend.unplug(drive)
        await lab.guest.wait_for(0)
        backend.plug(Odd(image_of(1 << 20)))
        (device,) = await lab.guest.wait_for(1)
        assert isinstance(device.attached, PipelinedStorage)
