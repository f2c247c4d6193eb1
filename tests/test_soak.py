"""What goes on for hours in ``make soak``, and for a second in the gate."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server.guests.loopback import LoopbackDevice
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.amount import IS_SOAK, chance, inputs
from tests.support.security import Place
from tests.support.whole_path import Lab, machine

pytestmark = pytest.mark.soak

ENDED = {UrbStatus.NO_DEVICE, UrbStatus.CANCELLED}
"""What becomes of transfers when the connection breaks."""


class Load:
    """Transfers of a guest, each of which has to complete once.

    Attributes:
        done: how often each has completed.
        ok: how many have moved their data.
    """

    def __init__(self, device: LoopbackDevice, source: random.Random) -> None:
        self._device, self._source = device, source
        self.done, self.ok = Counter[int](), 0

    def start(self, count: int) -> None:
        """Start transfers in both directions, of any size."""
        for number in range(count):
            size = self._source.choice((512, 4096, 65536))
            is_in = self._source.random() < 0.5
            endpoint = Loopback.SOURCE if is_in else Loopback.SINK
            data = b"" if is_in else bytes(size)
            self._start(number, endpoint, size, data)

    def _start(self, number: int, endpoint: int, size: int, data: bytes) -> None:
        def complete(result: UrbResult) -> None:
            self.done[number] += 1
            self.ok += result.status is UrbStatus.OK
            assert result.status in {UrbStatus.OK, *ENDED}

        self._device.submit(TransferType.BULK, endpoint, size, data, complete)


async def test_every_urb_completes_once_however_often_the_connection_breaks(
    tmp_path: Path,
) -> None:
    count, source = inputs(2000), chance(7)
    lab = Lab(tmp_path, machine())
    started = moved = breaks = tasks = 0
    async with lab.server:
        while started < count:
            burst = source.randint(100, 500)
            async with lab.client(EmulatedBackend(devices=[Loopback()])):
                (device,) = await lab.guest.wait_for(1)
                load = Load(device, source)
                load.start(burst)
                until = source.randrange(burst)
                async with asyncio.timeout(60):
                    while load.ok < until:  # noqa: ASYNC110
                        await asyncio.sleep(0)
                (session,) = lab.server._sessions
                session.drop("the test wants it")
                await session.wait_ended()
            await lab.guest.wait_for(0)
            assert load.done == Counter(range(burst))
            started, moved, breaks = started + burst, moved + load.ok, breaks + 1
            tasks = tasks or len(asyncio.all_tasks())
            assert len(asyncio.all_tasks()) <= tasks
    assert breaks > 2
    assert 0 < moved < started


@pytest.mark.parametrize("security", ["tls", "rdp", "none"])
async def test_a_long_stream_comes_back_as_it_went(
    security: str, tmp_path: Path
) -> None:
    count, source = inputs(100), chance(8)
    place = Place(tmp_path)
    async with place.server(Method="Negotiate") as server:
        config = ClientConfig(
            *("127.0.0.1", server.port),
            security=(security,),
            known_servers=tmp_path / "known",
        )
        async with connect(config, backends=[EmulatedBackend(devices=[Loopback()])]):
            (device,) = await place.guest.wait_for(1)
            for _ in range(count):
                data = source.randbytes(source.choice((1, 512, 4096, 16384)))
                assert (await device.write(Loopback.BULK_OUT, data)).length == len(data)
                back = await device.read(Loopback.BULK_IN, len(data))
                assert bytes(back.data) == data


if IS_SOAK:  # the gate's: three short ones in tests/cli/test_bench.py

    def test_the_ratio_of_ten_benches_is_steady() -> None:
        command = [sys.executable, "-m", "rusb", "bench", "--json"]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            for _ in range(10)
        ]
        for name in ("ratio_in", "ratio_out"):
            found = [run[name] for run in runs]
            assert max(found) <= 1.35 * min(found), (name, found)
