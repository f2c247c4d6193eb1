"""A failure at every place where the way into the guest waits.

Whatever fails: each URB completes once, whoever waits gets an answer, what happened is
in the log, and the device can be had again.
"""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.errors import GuestError
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.guests.qemu import QemuGuest
from rusb.server.listed_device import ListedDevice
from rusb.server.machine.host_devices import HostPlugs
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.fake_qemu import FakeQemu
from tests.support.host_devices import Host
from tests.support.injected import Injection
from tests.support.lab.ramdisk import AttachedRamDisk
from tests.support.lab.redirpeer import RamDisk
from tests.support.whole_path import ALL, Lab, machine, sessions_of

MAX_WAITS = 60
Method = Callable[..., Coroutine[Any, Any, Any]]


def full() -> OSError:
    """A new one each time: an exception keeps alive what it went through."""
    return OSError(errno.EMFILE, "Too many open files")


def bug() -> RuntimeError:
    return RuntimeError("a bug")


def inject(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, injection: Injection
) -> None:
    """Let a method of a class run with an injection."""
    original: Method = getattr(owner, name)
    monkeypatch.setattr(
        owner, name, lambda *given: injection.into(original(*given)), raising=True
    )


class Completions:
    """What became of URBs that wait for ever, by URB id."""

    def __init__(self) -> None:
        self.found: dict[int, list[UrbStatus]] = {}

    def submit(self, device: AttachedDevice) -> None:
        number = 900 + len(self.found)
        results = self.found[number] = []
        urb = Urb(number, TransferType.BULK, Loopback.BULK_IN, 64)

        def complete(result: UrbResult) -> None:
            results.append(result.status)

        device.submit(urb, complete)

    def check(self) -> None:
        assert all(len(found) == 1 for found in self.found.values()), self.found


class WatchedGuest(LoopbackGuest):
    """Submits a URB that waits as soon as a device is attached."""

    def __init__(self) -> None:
        super().__init__()
        self.completions = Completions()

    async def attach(self, device: AttachedDevice) -> str:
        where = await super().attach(device)
        self.completions.submit(device)
        return where

    async def detach(self, device: AttachedDevice) -> None:
        await asyncio.sleep(0)
        await super().detach(device)


async def attached(lab: Lab) -> None:
    """Wait until the device is attached; every change of filters tries it again."""
    while True:
        for session in sessions_of(lab.server):
            if any(devices.attached for devices in session.usb.devices):
                return
        lab.server.set_filters(ALL)
        await asyncio.sleep(0.01)


async def run_remote(folder: Path, injection: Injection) -> str:
    """Plug, unplug, plug, hang up, with one failure. Return the log."""
    lab = Lab(folder, machine())
    guest = lab.guest = lab.server.guest = WatchedGuest()
    loopback = Loopback()
    backend = EmulatedBackend(devices=[loopback])
    async with asyncio.timeout(30), lab.server:
        async with lab.client(backend):
            await attached(lab)
            backend.unplug(loopback)
            await lab.wait_log("Remote USB: ----")
            backend.plug(loopback)
            await attached(lab)
        await lab.wait_log("connection ended")
    assert guest.devices == {}
    guest.completions.check()
    return lab.log()


async def test_a_remote_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, MAX_WAITS):
        folder = tmp_path / str(number)
        folder.mkdir()
        injection = Injection(number, full() if number % 2 else bug())
        with monkeypatch.context() as patch:
            inject(patch, ListedDevice, "_attach_until_over", injection)
            log = await run_remote(folder, injection)
        if not injection.was_reached:
            break
        why = "too many open files" if number % 2 else "internal error"
        assert why in log or "VUSB: Failed" not in log, log
    assert 8 < number < MAX_WAITS


async def test_a_device_of_the_servers_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, MAX_WAITS):
        folder = tmp_path / str(number)
        folder.mkdir()
        injection = Injection(number, full())
        host = Host(folder)
        guest = WatchedGuest()
        host.plugs = HostPlugs(host.devices, guest, host.log, host.happened)
        first, _ = await host.uuids()
        with monkeypatch.context() as patch:
            for name in ("_attach", "_detach"):
                inject(patch, HostPlugs, name, injection)
            async with asyncio.timeout(30):
                for _ in range(2):
                    was_reached = injection.was_reached
                    try:
                        await host.plugs.attach(first)
                        await host.plugs.detach(first)
                    except (GuestError, OSError):
                        assert injection.was_reached
                        assert not was_reached  # the next time it works again
                        # it may be the wait for the end that failed
                        await asyncio.sleep(0.01)
                await host.plugs.aclose()
        assert host.plugs.devices() == ()
        assert guest.devices == {}
        guest.completions.check()
        for device, backend in await host.devices.list():  # it was given back
            await (await backend.open(device)).aclose()
        host.log.close()
        if not injection.was_reached:
            break
    assert 3 < number < MAX_WAITS


async def test_a_device_on_its_way_into_qemu(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = AttachedRamDisk(RamDisk(bytearray(1 << 20)))
    for number in range(1, MAX_WAITS):
        injection = Injection(number, bug())
        with FakeQemu(tmp_path_factory.mktemp("q") / "qmp") as fake:
            guest = QemuGuest(str(fake.path))
            await guest.start()
            with monkeypatch.context() as patch:
                inject(patch, QemuGuest, "_plug_in", injection)
                inject(patch, QemuGuest, "_wait_until_in", injection)
                inject(patch, QemuGuest, "_find_port", injection)
                async with asyncio.timeout(30):
                    try:
                        await guest.attach(device)
                        await guest.detach(device)
                    except RuntimeError:
                        assert injection.was_reached
            assert (fake.devices, fake.chardevs) == ({}, {})
            assert await guest.attach(device)
            await guest.aclose()
        if not injection.was_reached:
            break
    assert 4 < number < MAX_WAITS


@pytest.mark.parametrize("end", ["unplug", "lost", "filters", "hang up", "stop"])
async def test_every_detach_is_followed_by_its_reason(tmp_path: Path, end: str) -> None:
    lab = Lab(tmp_path, machine())
    loopback = Loopback()
    backend = EmulatedBackend(devices=[loopback])
    async with asyncio.timeout(30), lab.server:
        async with lab.client(backend):
            (device,) = await lab.guest.wait_for(1)
            await attached(lab)
            match end:
                case "unplug":
                    backend.unplug(loopback)
                case "lost":
                    lab.guest._lost(device.attached, "removed by device_del")
                case "filters":
                    lab.server.set_filters(())
                case "stop":
                    await lab.server.aclose()
            if end != "hang up":
                await lab.wait_log("VUSB: Detached")
        await lab.wait_log("VUSB: Detached")
    why = {
        "unplug": "the client no longer offers it",
        "lost": "removed by device_del",
        "filters": "refused: ",
        "hang up": "the client's connection ended",
        "stop": "the client's connection ended",
    }[end]
    _, _, after = lab.log().partition("VUSB: Detached")
    reason = after.splitlines()[1].partition(" ")[2]
    assert reason.startswith("Remote USB: 1209:0004 rusb Loopback was detached: ")
    assert why in reason
