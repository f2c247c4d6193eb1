"""Serial ports of a machine that moves: nothing waits there (teleport.md 7.9)."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import SerialLoopback
from rusb.errors import GuestError
from rusb.server.guests import qemu
from rusb.server.guests.qemu import QemuGuest
from rusb.usb.descriptors import DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.fake_qemu import FakeQemu, Redirected
from tests.support.wire.redir import (
    BULK,
    CONFIGURATION_STATUS,
    CONNECT,
    DESCRIPTORS,
    EP_INFO,
    INTERRUPT,
    SET_CONFIGURATION,
    bulk,
    packet,
)

pytestmark = pytest.mark.timeout(30)

READS = 3


class Reading(Redirected):
    """A guest that configures a device, and keeps reads waiting there.

    Attributes:
        runs: it takes what it is sent.
        reads: those that came back.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.runs = threading.Event()
        self.runs.set()
        self.reads = 0
        super().__init__(sock, rejects=False)

    def _answer(self, kind: int) -> None:
        super()._answer(kind)
        if kind == CONNECT:
            self.socket.sendall(packet(SET_CONFIGURATION, 1, b"\1"))
        elif kind == CONFIGURATION_STATUS:
            reads = (bulk(10 + n, SerialLoopback.IN, 64) for n in range(READS))
            self.socket.sendall(b"".join(reads))
        self.reads += kind == BULK

    def _read(self, size: int) -> bytes:
        self.runs.wait()
        return super()._read(size)

    def close(self) -> None:
        self.runs.set()
        super().close()


class Silent:
    """A serial port that says nothing.

    Attributes:
        waiting: reads.
        delay: seconds that it takes to cancel one.
    """

    round_trip: float | None = None
    name = "usb-1"

    def __init__(self, descriptors: DeviceDescriptors) -> None:
        self.info = DeviceInfo(7, 0x1209, 0x0003, product="Port", speed=Speed.HIGH)
        self.descriptors = descriptors
        self.waiting: dict[int, Completion] = {}
        self.delay = 0.0

    def submit(self, urb: Urb, complete: Completion) -> None:
        if urb.setup is None:
            self.waiting[urb.id] = complete
        else:
            complete(UrbResult(UrbStatus.OK))

    def cancel(self, urb_id: int) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._cancel, urb_id)

    def _cancel(self, urb_id: int) -> None:
        if complete := self.waiting.pop(urb_id, None):
            complete(UrbResult(UrbStatus.CANCELLED))

    def say(self, count: int) -> None:
        """Answer so many reads."""
        for urb_id in list(self.waiting)[:count]:
            self.waiting.pop(urb_id)(UrbResult(UrbStatus.OK, b"a", 1))

    def reset(self) -> None:
        """It forgets nothing."""

    def watch_pressure(self, changed: object) -> None:
        """There never is any."""


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeQemu]:
    path: Path = tmp_path_factory.mktemp("q") / "qmp"
    with FakeQemu(path) as server:
        server.plug = Reading
        yield server


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "SUSPEND_TIMEOUT", 5.0)


async def reading(fake: FakeQemu, device: Silent) -> tuple[QemuGuest, Reading]:
    """A guest with the device, at which it reads."""
    guest = QemuGuest(str(fake.path))
    await guest.start()
    await guest.attach(device)
    (end,) = fake.ends.values()
    assert isinstance(end, Reading)
    async with asyncio.timeout(20):
        while len(device.waiting) < READS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return guest, end


async def count(end: Reading, kind: int, wanted: int) -> None:
    """Wait until the guest has got so many packets."""
    async with asyncio.timeout(20):
        while end.packets.count(kind) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_reads_are_suspended_and_resumed(fake: FakeQemu) -> None:
    device = Silent(SerialLoopback().descriptors)
    guest, end = await reading(fake, device)
    guest.check_movable(is_suspended=False)
    with pytest.raises(GuestError, match="several reads"):
        guest.check_movable(is_suspended=True)
    infos = end.packets.count(EP_INFO)
    fake.commands.clear()
    await guest.suspend_reads()
    assert ("query-status", {}) in fake.commands
    guest.check_movable(is_suspended=True)
    assert end.reads == READS
    assert device.waiting == {}
    guest.resume_reads()
    await count(end, INTERRUPT, 1)
    await count(end, EP_INFO, infos + 2)
    await guest.aclose()


async def test_a_guest_that_stands_still_too_early_is_not_moved(
    fake: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "SUSPEND_TIMEOUT", 0.2)
    device = Silent(SerialLoopback().descriptors)
    guest, end = await reading(fake, device)
    end.runs.clear()
    await guest.suspend_reads()
    with pytest.raises(GuestError, match="several reads waiting at 1209:0003 Port"):
        guest.check_movable(is_suspended=True)
    end.runs.set()
    guest.resume_reads()
    await count(end, INTERRUPT, 1)
    await guest.aclose()


async def test_a_device_that_keeps_its_reads_is_not_moved(
    fake: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "SUSPEND_TIMEOUT", 0.2)
    device = Silent(SerialLoopback().descriptors)
    device.delay = 60.0
    guest, end = await reading(fake, device)
    await guest.suspend_reads()
    with pytest.raises(GuestError, match="several reads"):
        guest.check_movable(is_suspended=True)
    assert end.reads == 0
    guest.resume_reads()
    await guest.aclose()


async def test_reads_far_away_are_waited_for(fake: FakeQemu) -> None:
    device = Silent(SerialLoopback().descriptors)
    device.delay = 0.3
    guest, end = await reading(fake, device)
    await guest.suspend_reads()
    assert end.reads == READS
    guest.check_movable(is_suspended=True)
    await guest.aclose()


async def test_a_guest_that_keeps_fewer_reads_than_it_did_is_moved(
    fake: FakeQemu,
) -> None:
    """As Linux does while no program takes what a port has said."""
    device = Silent(SerialLoopback().descriptors)
    guest, end = await reading(fake, device)
    device.say(READS - 1)
    await count(end, BULK, READS - 1)
    await guest.suspend_reads()
    guest.check_movable(is_suspended=True)
    assert end.reads == READS
    guest.resume_reads()
    await count(end, INTERRUPT, 1)
    await guest.suspend_reads()
    guest.check_movable(is_suspended=True)
    await guest.aclose()


async def test_what_is_no_serial_port_is_not_suspended(fake: FakeQemu) -> None:
    device = Silent(DESCRIPTORS)  # its interface is a vendor's
    guest, end = await reading(fake, device)
    infos = end.packets.count(EP_INFO)
    with pytest.raises(GuestError, match="several reads"):
        guest.check_movable(is_suspended=False)
    await guest.suspend_reads()
    with pytest.raises(GuestError, match="several reads"):
        guest.check_movable(is_suspended=True)
    guest.resume_reads()
    assert (end.reads, end.packets.count(EP_INFO)) == (0, infos)
    await guest.aclose()
