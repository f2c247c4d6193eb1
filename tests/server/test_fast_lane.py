"""A keyboard and another disk beside a disk, over a network that has a rate."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.cli._bench.processes import run_relay
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.session import connect
from rusb.server.guests.loopback import LoopbackDevice
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.whole_path import Lab, machine

RATE = 5_000_000
"""Bytes a second: 40 Mbit/s."""

BLOCK, DEPTH = 64 << 10, 32
QUEUED = DEPTH * BLOCK / RATE
"""Seconds that all that is in flight needs: 0.42."""


class Disk:
    """Keeps blocks on their way until it is stopped."""

    def __init__(
        self, device: LoopbackDevice, *, is_in: bool, block: int = BLOCK
    ) -> None:
        self.done = 0
        self._device, self._is_in, self._block = device, is_in, block
        self._over = asyncio.Event()
        self._in_flight = 0
        self._began = time.monotonic()
        for _ in range(DEPTH):
            self._submit()

    def _submit(self) -> None:
        endpoint = Loopback.SOURCE if self._is_in else Loopback.SINK
        size, data = self._block, b"" if self._is_in else bytes(self._block)
        self._in_flight += 1
        self._device.submit(TransferType.BULK, endpoint, size, data, self._completed)

    def _completed(self, result: UrbResult) -> None:
        assert (result.status, result.length) == (UrbStatus.OK, self._block)
        self.done += 1
        self._in_flight -= 1
        if not self._over.is_set():
            self._submit()

    def queued(self) -> float:
        """Seconds that all that is in flight needs, as fast as it went so far.

        QUEUED at best: other work of the processors slows it down like all else.
        """
        return DEPTH * (time.monotonic() - self._began) / max(self.done, 1)

    async def stop(self) -> None:
        self._over.set()
        while self._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def two_devices(
    folder: Path, rate: int, wire: str = "vrdpusb"
) -> AsyncIterator[tuple[LoopbackDevice, LoopbackDevice]]:
    """Two devices of one client, behind a network of so many bytes a second."""
    lab = Lab(folder, machine(), (wire,))
    async with (
        asyncio.timeout(30),
        lab.server,
        run_relay(lab.server.port, 0, rate) as port,
    ):
        config = lab.config()
        config.port = port
        backend = EmulatedBackend(devices=[Loopback(), Loopback()])
        async with connect(config, backends=[backend]):
            first, second = await lab.guest.wait_for(2)
            yield first, second


@pytest.mark.parametrize("wire", ["vrdpusb", "rdpeusb"])
@pytest.mark.parametrize("is_in", [True, False], ids=["reads", "writes"])
async def test_a_key_does_not_wait_until_the_disk_is_done(
    tmp_path: Path, is_in: bool, wire: str
) -> None:
    """Without a lane of its own it took twice as long as all that is in flight."""
    kind = TransferType.INTERRUPT
    async with two_devices(tmp_path, RATE, wire) as (first, keyboard):
        disk = Disk(first, is_in=is_in)
        start = time.monotonic()
        await asyncio.sleep(QUEUED / 2)
        lags = []
        for n in range(8):
            key = bytes((n,)) * 8
            before = time.monotonic()
            await keyboard.write(Loopback.INTERRUPT_OUT, key, kind)
            result = await keyboard.read(Loopback.INTERRUPT_IN, 8, kind)
            assert bytes(result.data) == key
            lags.append(time.monotonic() - before)
        elapsed = time.monotonic() - start
        queued = disk.queued()
        done = disk.done
        await disk.stop()
    # each key is two transfers, one of which has the disk before it
    assert sorted(lags)[4] < 0.7 * queued
    assert done * BLOCK > 0.2 * RATE * elapsed - DEPTH * BLOCK


@pytest.mark.parametrize("is_in", [True, False], ids=["reads", "writes"])
@pytest.mark.parametrize("block", [BLOCK, 1 << 20], ids=["64 KiB", "1 MiB"])
async def test_a_disk_does_not_wait_until_another_one_is_done(
    tmp_path: Path, block: int, is_in: bool
) -> None:
    """It has its turn after one transfer of the other, not after all 32.

    All of 1 MiB are more than what makes an end stop reading, at either side.
    """
    rate = RATE * block // BLOCK // 2
    async with two_devices(tmp_path, rate) as (first, second):
        disk = Disk(first, is_in=is_in, block=block)
        await asyncio.sleep(QUEUED)
        lags = []
        for _ in range(5):
            before = time.monotonic()
            await second.read(Loopback.SOURCE, 512)
            await second.write(Loopback.SINK, bytes(512))
            lags.append(time.monotonic() - before)
        queued = disk.queued()
        await disk.stop()
    # in each direction that the disk fills: what is in the kernel, and a block
    assert sorted(lags)[2] < 0.7 * queued
