"""``rusb bench`` measures what travels."""

import asyncio
import time
from pathlib import Path

from rusb.cli._bench import Row, _control
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from tests.test_whole_path import Lab, machine


async def test_control_transfers_reach_the_client(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    async with (
        asyncio.timeout(10),
        lab.server,
        lab.client(EmulatedBackend(devices=[Loopback()])),
    ):
        (device,) = await lab.guest.wait_for(1)
        before = device.attached.urbs_done  # type: ignore[attr-defined]
        until = time.perf_counter() + 0.05
        count = await _control(Row("control", 18, 1, 1), [device], until)
        done = device.attached.urbs_done - before  # type: ignore[attr-defined]
    assert 0 < count == done
