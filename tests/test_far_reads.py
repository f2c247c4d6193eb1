"""Serial ports and mice behind a network with a round trip of 20 ms: nothing is lost.

The devices count their time in turns of the loop, so that one that does not run loses
nothing; what is in their way to the guest is what users have.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.cli._bench import relay
from rusb.client.backends._emulated.describe import describe, interrupt
from rusb.client.backends.emulated import (
    Data,
    EmulatedBackend,
    EmulatedDevice,
    SerialLoopback,
)
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server.guests.loopback import LoopbackDevice
from rusb.server.posted import PostedReads
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.amount import IS_SOAK
from tests.support.rusbserver import CHECKOUT
from tests.support.whole_path import Lab, machine

RTT_MS = 20
TURN = 0.001


class Ticking(EmulatedDevice):
    """Does something every millisecond in which the loop runs."""

    _timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TURN, self._turn)

    def _turn(self) -> None:
        if self.tick():
            self.begin()

    def tick(self) -> bool:
        """Do it; False: that was the last one."""
        raise NotImplementedError

    def detached(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Chip(SerialLoopback, Ticking):
    """A serial port that has much to say, and not much room for it.

    Args:
        amount: bytes in all.
        rate: bytes a turn.
        memory: bytes that wait for the host; what comes then is lost.
    """

    def __init__(self, amount: int, rate: int, memory: int) -> None:
        super().__init__()
        self.lost = self.sent = 0
        self._amount, self._rate, self._memory = amount, rate, memory
        self._kept: deque[bytes] = deque()
        self._size = 0

    def tick(self) -> bool:
        piece = bytes((self.sent + n) & 0xFF for n in range(self._rate))
        self.sent += len(piece)
        if self._size + len(piece) > self._memory:
            self.lost += len(piece)
        else:
            self._kept.append(piece)
            self._size += len(piece)
            self.kick(self.IN)
        return self.sent < self._amount

    def data_in(self, endpoint: int, room: int) -> Data | None:
        if endpoint != self.IN or not self._kept:
            return None
        piece, rest = self._kept[0][:512], self._kept[0][512:]
        self._size -= len(piece)
        if rest:
            self._kept[0] = rest
        else:
            self._kept.popleft()
        return piece


class Mouse(Ticking):
    """A mouse that says something each millisecond, numbered."""

    IN = 0x81

    def __init__(self, reports: int) -> None:
        setting = InterfaceDescriptor(
            0, 0, 3, 1, 2, endpoints=(interrupt(self.IN, Speed.HIGH, 8),)
        )
        super().__init__(describe(Speed.HIGH, 0x0009, setting), ("rusb", "Mouse", "1"))
        self._left = reports
        self._sent = 0
        self._kept: deque[bytes] = deque()

    def tick(self) -> bool:
        self._kept.append(self._sent.to_bytes(4, "little") + bytes(4))
        self._sent += 1
        self.kick(self.IN)
        self._left -= 1
        return self._left > 0

    def data_in(self, endpoint: int, room: int) -> Data | None:
        return self._kept.popleft() if self._kept else None


@contextlib.asynccontextmanager
async def far(folder: Path, device: EmulatedDevice) -> AsyncIterator[LoopbackDevice]:
    """The guest has a device of a client that is 20 ms away."""
    lab = Lab(folder, machine())
    async with lab.server:
        network = subprocess.Popen(  # noqa: ASYNC220 - it is there at once
            [sys.executable, "-m", relay.__name__, str(lab.server.port), str(RTT_MS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
        )
        with network:
            assert network.stdout is not None
            port = int(await asyncio.to_thread(network.stdout.readline))
            config = ClientConfig("127.0.0.1", port, known_servers=folder / "known")
            backend = EmulatedBackend(devices=[device])
            async with connect(config, backends=[backend]):
                (found,) = await lab.guest.wait_for(1)
                yield found


class Poller:
    """Reads as pyserial and many programs do: 100 ms for a read, and the next.

    Attributes:
        got: what has come.
        given_up: reads that brought nothing in time.
        is_done: all has come.
    """

    def __init__(self, device: LoopbackDevice, endpoint: int, amount: int) -> None:
        self.got = bytearray()
        self.given_up = 0
        self.is_done = asyncio.Event()
        self._device, self._endpoint, self._amount = device, endpoint, amount
        self._loop = asyncio.get_running_loop()
        self._is_reading = self._is_starting = False
        self._number = 0
        self._until = 0.0
        self._look()

    def _look(self) -> None:
        if self._is_reading and self._loop.time() >= self._until:
            self.given_up += 1
            self._device.attached.cancel(self._number)
        self._read()
        if not self.is_done.is_set():
            self._loop.call_later(0.01, self._look)

    def _read(self) -> None:
        if self._is_starting:  # further down the stack
            return
        self._is_starting = True
        while not self._is_reading and not self.is_done.is_set():
            self._is_reading, self._until = True, self._loop.time() + 0.1
            self._number = self._device.submit(
                TransferType.BULK, self._endpoint, 512, b"", self._took
            )
        self._is_starting = False

    def _took(self, result: UrbResult) -> None:
        self._is_reading = False
        self.got += result.data
        is_good = result.status in (UrbStatus.OK, UrbStatus.CANCELLED)
        if len(self.got) >= self._amount or not is_good:
            self.is_done.set()
        self._read()


@pytest.mark.soak
async def test_a_serial_port_that_is_polled_with_time_outs_loses_nothing(
    tmp_path: Path,
) -> None:
    amount = 60_000_000 if IS_SOAK else 6_000_000
    # at most two thirds of what 128 reads of a packet bring in a round trip
    chip = Chip(amount, rate=2000, memory=1 << 20)
    async with asyncio.timeout(amount / 50_000), far(tmp_path, chip) as device:
        poller = Poller(device, chip.IN, amount)
        while poller.given_up < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        chip.begin()
        while not poller.is_done.is_set() and not chip.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not chip.lost
    assert poller.got == expected(amount)


def expected(amount: int) -> bytes:
    cycle = bytes(range(256))
    return (cycle * (amount // 256 + 1))[:amount]


async def test_a_mouse_that_reports_a_thousand_times_a_second_is_heard(
    tmp_path: Path,
) -> None:
    """By a guest that has one read under way."""
    count = 1000
    mouse = Mouse(count)
    async with asyncio.timeout(60), far(tmp_path, mouse) as device:
        assert isinstance(device.attached, PostedReads)
        pipe, found, most = device.attached._pipes[mouse.IN], list[int](), 0
        mouse.begin()
        while len(found) < count:
            result = await device.read(mouse.IN, 8, TransferType.INTERRUPT)
            assert result.status is UrbStatus.OK
            found.append(int.from_bytes(result.data[:4], "little"))
            most = max(most, len(pipe.posted))
    assert found == list(range(count))
    assert most >= RTT_MS  # one for each report that is on its way
