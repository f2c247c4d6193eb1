"""A keyboard beside a disk, over a network that has a rate."""

import asyncio
import time
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

    def __init__(self, device: LoopbackDevice, *, is_in: bool) -> None:
        self.done = 0
        self._device, self._is_in = device, is_in
        self._over = asyncio.Event()
        self._in_flight = 0
        for _ in range(DEPTH):
            self._submit()

    def _submit(self) -> None:
        endpoint = Loopback.SOURCE if self._is_in else Loopback.SINK
        data = b"" if self._is_in else bytes(BLOCK)
        self._in_flight += 1
        self._device.submit(TransferType.BULK, endpoint, BLOCK, data, self._completed)

    def _completed(self, result: UrbResult) -> None:
        assert (result.status, result.length) == (UrbStatus.OK, BLOCK)
        self.done += 1
        self._in_flight -= 1
        if not self._over.is_set():
            self._submit()

    async def stop(self) -> None:
        self._over.set()
        while self._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_in", [True, False], ids=["reads", "writes"])
async def test_a_key_does_not_wait_until_the_disk_is_done(
    tmp_path: Path, is_in: bool
) -> None:
    """Without a lane of its own it took twice as long as all that is in flight."""
    lab = Lab(tmp_path, machine())
    kind = TransferType.INTERRUPT
    async with (
        asyncio.timeout(30),
        lab.server,
        run_relay(lab.server.port, 0, RATE) as port,
    ):
        config = lab.config()
        config.port = port
        backend = EmulatedBackend(devices=[Loopback(), Loopback()])
        async with connect(config, backends=[backend]):
            first, keyboard = await lab.guest.wait_for(2)
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
            done = disk.done
            await disk.stop()
    # each key is two transfers, one of which has the disk before it
    assert sorted(lags)[4] < QUEUED / 2
    assert done * BLOCK > 0.5 * RATE * elapsed - DEPTH * BLOCK
