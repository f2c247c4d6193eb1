"""Devices of clients that know no resume stay in the guest for a while (--hold)."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.client.backends.emulated import (
    EmulatedBackend,
    FlashDrive,
    Keyboard,
    Loopback,
)
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server.guests.loopback import LoopbackDevice
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbResult, UrbStatus
from tests.support.breaking import Wire, until
from tests.support.whole_path import Lab, machine, sessions_of


class Held(Lab):
    """A lab whose clients vanish without a word."""

    wire: Wire

    @contextlib.asynccontextmanager
    async def doomed(self, *devices: object) -> AsyncIterator[None]:
        """A client of no resume, that is cut off and does not come back."""
        config = replace(self.config(), port=self.wire.port)
        backend = EmulatedBackend(devices=list(devices))  # type: ignore[arg-type]
        async with connect(config, backends=[backend]):
            await self.guest.wait_for(len(devices))
            yield


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Held]:
    found = Held(tmp_path, machine(hold=20.0))
    async with asyncio.timeout(40), found.server:
        found.wire = Wire(found.server.port)
        async with found.wire.up():
            yield found


def submit(
    device: LoopbackDevice, kind: TransferType, endpoint: int
) -> list[UrbResult]:
    came: list[UrbResult] = []
    device.submit(kind, endpoint, 64, b"", came.append)
    return came


async def test_the_guest_goes_on_when_the_same_device_is_offered_again(
    lab: Held,
) -> None:
    async with lab.doomed(Loopback()):
        (device,) = await lab.guest.wait_for(1)
        polled = submit(device, TransferType.INTERRUPT, Loopback.INTERRUPT_IN)
        unsure = submit(device, TransferType.BULK, Loopback.BULK_IN)
        lab.wire.cut()
        await lab.wait_log("its client is gone; the guest keeps it for 20 s")
        # nobody knows whether it was done: only the guest's driver may repeat it
        assert [result.status for result in unsure] == [UrbStatus.IO_ERROR]
        assert polled == []
        (state,) = lab.server.devices()
        assert state.grace is not None
        later = asyncio.ensure_future(device.read(Loopback.SOURCE, 512))
        await asyncio.sleep(0)
        device.attached.reset()
        setup = SetupPacket.get_descriptor(1, length=18)
        assert (await device.control(setup)).status is UrbStatus.OK
        assert (await later).status is UrbStatus.CANCELLED  # by the reset
        later = asyncio.ensure_future(device.read(Loopback.SOURCE, 512))
        polled = submit(device, TransferType.INTERRUPT, Loopback.INTERRUPT_IN)
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.wait_log("its client is back; the guest goes on with it")
        assert await lab.guest.wait_for(1) == [device]
        assert (await later).status is UrbStatus.OK
        done = await device.write(
            Loopback.INTERRUPT_OUT, b"key", TransferType.INTERRUPT
        )
        assert done.status is UrbStatus.OK
        await until(lambda: polled)
        assert bytes(polled[0].data) == b"key"
    await lab.guest.wait_for(0)
    assert lab.log().count("VUSB: Attached") == lab.log().count("VUSB: Detached") == 1


async def test_nothing_is_left_of_a_client_whose_device_somebody_has(
    lab: Held,
) -> None:
    """Not until the time is over for which it was to be kept, either."""
    lab.server.machine.hold = 600.0
    async with lab.doomed(Loopback()):
        (session,) = sessions_of(lab.server)
        (devices,) = session.usb.devices
        (former,) = map(weakref.ref, devices._listed.values())
        del session, devices
        lab.wire.cut()
        await lab.wait_log("its client is gone; the guest keeps it for 600 s")
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.wait_log("its client is back; the guest goes on with it")
        while former() is not None:
            await asyncio.sleep(0.02)
            gc.collect()


async def test_what_nobody_offers_again_is_unplugged(lab: Held) -> None:
    lab.server.machine.hold = 1.0
    async with lab.doomed(Loopback()):
        lab.wire.cut()
        await lab.wait_log("the guest keeps it for 1 s")
        await lab.guest.wait_for(0)
        await lab.wait_log("was detached: nobody offered it again")
        assert lab.server.devices() == ()


@pytest.mark.parametrize("which", ["another serial", "another user"])
async def test_another_device_or_user_gets_one_of_its_own(
    lab: Held, which: str
) -> None:
    async with lab.doomed(Loopback()):
        (device,) = await lab.guest.wait_for(1)
        lab.wire.cut()
        await lab.wait_log("the guest keeps it")
    other = Loopback(serial="1") if which == "another serial" else Loopback()
    config: ClientConfig = lab.config()
    if which == "another user":
        config = replace(config, user="mallory")
    async with connect(config, backends=[EmulatedBackend(devices=[other])]):
        assert len(await lab.guest.wait_for(2)) == 2
        assert "its client is back" not in lab.log()
        assert device in lab.guest.devices.values()


async def test_a_device_that_has_become_another_takes_its_place(lab: Held) -> None:
    class Changed(Loopback):
        def __init__(self) -> None:
            super().__init__()
            first = self.descriptors.configurations[0]
            changed = replace(first, max_power=first.max_power + 1)
            self.descriptors = replace(self.descriptors, configurations=(changed,))

    async with lab.doomed(Loopback()):
        (device,) = await lab.guest.wait_for(1)
        lab.wire.cut()
        await lab.wait_log("the guest keeps it")
    async with lab.client(EmulatedBackend(devices=[Changed()])):
        await lab.wait_log("was detached: another device is offered in its place")
        await until(lambda: device not in lab.guest.devices.values())
        await lab.guest.wait_for(1)


async def test_a_goodbye_ends_it_at_once(lab: Held) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        await lab.guest.wait_for(1)
    await lab.guest.wait_for(0)
    assert "the guest keeps it" not in lab.log()


async def test_a_filter_may_say_how_long(tmp_path: Path) -> None:
    data = {"rusb/Hold": "0", "rusb/Filter/all/Hold": "30"}
    lab = Held(tmp_path, machine(extra_data=data))
    async with asyncio.timeout(40), lab.server:
        lab.wire = Wire(lab.server.port)
        async with lab.wire.up(), lab.doomed(Keyboard(), FlashDrive()):
            lab.wire.cut()
            await lab.wait_log("the guest keeps it for 30 s", 2)
            assert len(await lab.guest.wait_for(2)) == 2
