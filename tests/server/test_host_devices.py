"""Devices of the server's own machine in its guest, without client and wire."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from rusb.client.backends.emulated import SerialLoopback
from rusb.errors import BackendError, DeviceGone, GuestError
from rusb.filters.model import Filter
from rusb.server.attachments import Attachment
from rusb.server.machine.host_devices import (
    MAX_ATTACHED,
    MAX_WAITING,
    HostDevice,
    _Calls,
)
from rusb.usb.backend import OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.host_devices import Host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    async with asyncio.timeout(30):
        yield made
        await made.plugs.aclose()
        await made.plugs.aclose()
    made.log.close()


async def test_a_device_comes_by_uuid_or_address_and_is_given_back(host: Host) -> None:
    first, second = await host.uuids()
    device = await host.plugs.attach(first.upper())
    assert device.info.product_id == 3
    assert [d.uuid for d in host.plugs.devices()] == [first]
    with pytest.raises(GuestError, match="attached already"):
        await host.plugs.attach(device.address)
    await host.plugs.attach(f"{{{second}}}")
    await host.plugs.detach(device.address)
    assert [d.uuid for d in host.plugs.devices()] == [second]
    with pytest.raises(GuestError, match="no device"):
        await host.plugs.detach(first)
    await host.plugs.attach(first)  # it was given back: it opens again
    log = host.path.read_text()
    assert "VUSB: Attached 'host-1 [proxy 1209:0003]'" in log
    assert "VUSB: Detached 'host-1 [proxy 1209:0003]'" in log
    assert "Host USB: 1209:0003 rusb Serial Loopback was detached: removed by" in log


async def test_what_is_not_there_is_said(host: Host) -> None:
    with pytest.raises(BackendError, match="no USB device 009/009; 'list usbhost'"):
        await host.plugs.attach("009/009")


async def test_a_device_in_use_is_refused_and_can_be_had_later(host: Host) -> None:
    (device, _), _ = await host.devices.list()
    user = await host.backend.open(device)
    with pytest.raises(BackendError, match="open already"):
        await host.plugs.attach(HostDevice.of(device).uuid)
    assert host.plugs.devices() == ()
    await user.aclose()
    await host.plugs.attach(HostDevice.of(device).uuid)


async def test_the_guest_reads_writes_and_cancels(host: Host) -> None:
    _, loopback = await host.uuids()
    await host.plugs.attach(loopback)
    (device,) = host.guest.devices.values()
    assert device.strings["product"] == "Loopback"
    await device.write(0x02, b"hello")
    assert bytes((await device.read(0x82, 512)).data) == b"hello"

    done: list[UrbResult] = []
    device.attached.submit(Urb(900, TransferType.BULK, 0x82, 512), done.append)
    device.attached.cancel(900)
    # behind a request that blocks: waits, and can be cancelled there
    device.attached.reset()
    device.attached.submit(Urb(901, TransferType.BULK, 0x82, 512), done.append)
    device.attached.cancel(901)
    while len(done) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert [r.status for r in done] == [UrbStatus.CANCELLED] * 2
    await device.control(SetupPacket.set_configuration(1))
    await device.write(0x02, b"again")
    assert bytes((await device.read(0x82, 512)).data) == b"again"


async def test_an_unplugged_device_leaves_the_guest(host: Host) -> None:
    serial, _ = await host.uuids()
    await host.plugs.attach(serial)
    (device,) = host.guest.devices.values()
    done: list[UrbResult] = []
    urb = Urb(900, TransferType.BULK, SerialLoopback.IN, 512)
    device.attached.submit(urb, done.append)
    host.backend.unplug(host.serial)
    await host.wait_empty()
    assert [r.status for r in done] == [UrbStatus.NO_DEVICE]
    assert host.guest.devices == {}
    assert "was detached: unplugged from this machine" in host.path.read_text()


async def test_the_end_gives_everything_back(host: Host) -> None:
    for number in await host.uuids():
        await host.plugs.attach(number)
    await host.plugs.aclose()
    assert host.plugs.devices() == ()
    for device, backend in await host.devices.list():
        await (await backend.open(device)).aclose()


class Slow(OpenDevice):
    """A device whose requests take as long as a test wants; those fail with *error*."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.cleared = 0
        self.go = asyncio.Event()

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self.error is not None:
            raise self.error
        complete(UrbResult(UrbStatus.OK))

    def cancel(self, urb_id: int) -> None:
        pass

    async def _run(self) -> None:
        await self.go.wait()
        self.cleared += 1
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        pass

    async def set_configuration(self, value: int) -> None:
        await self._run()

    async def claim_interface(self, interface: int) -> None:
        await self._run()

    async def release_interface(self, interface: int) -> None:
        await self._run()

    async def set_interface(self, interface: int, alternate: int) -> None:
        await self._run()

    async def clear_halt(self, endpoint: int) -> None:
        await self._run()

    async def reset(self) -> None:
        await self._run()


def attach(device: Slow) -> tuple[Attachment, _Calls]:
    core = _Calls(device)
    core.attachment = Attachment(
        DeviceInfo(1, 2, 3),
        name="host-1",
        number=1,
        core=core,
        flush=lambda: None,
        now=lambda: 0.0,
    )
    return core.attachment, core


async def test_requests_of_a_guest_that_does_not_wait_are_bounded() -> None:
    """200,000 CLEAR_FEATURE(ENDPOINT_HALT), none of which was answered."""
    device = Slow()
    attachment, core = attach(device)
    pressed: list[bool] = []
    attachment.watch_pressure(pressed.append)
    done: list[UrbResult] = []
    for number in range(200_000):
        if number == MAX_WAITING // 2:
            await asyncio.sleep(0)
            assert pressed == [True]  # a guest that waits when told gets no further
        clear = SetupPacket.clear_halt(0x81)
        attachment.submit(Urb.control(number + 1, clear), done.append)
    assert len(core._queue.waiting) <= MAX_WAITING
    assert {r.status for r in done} == {UrbStatus.IO_ERROR}  # refused at once
    device.go.set()
    while core._queue.is_busy:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert len(done) == 200_000
    assert device.cleared <= MAX_WAITING + 1
    assert [r.status for r in done].count(UrbStatus.OK) == device.cleared
    assert pressed == [True, False]


async def test_a_request_is_answered_when_it_is_done() -> None:
    device = Slow()
    attachment, core = attach(device)
    done: list[UrbResult] = []
    attachment.submit(Urb.control(1, SetupPacket.clear_halt(0x81)), done.append)
    attachment.submit(Urb(2, TransferType.BULK, 0x81, 16), done.append)
    await asyncio.sleep(0)
    assert done == []
    device.go.set()
    while core._queue.is_busy:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert [r.status for r in done] == [UrbStatus.OK] * 2


async def test_what_waits_when_the_device_is_closed_is_answered() -> None:
    device = Slow()
    attachment, core = attach(device)
    done: list[UrbResult] = []
    for number in (1, 2):
        clear = Urb.control(number, SetupPacket.clear_halt(0x81))
        attachment.submit(clear, done.append)
    attachment.submit(Urb(3, TransferType.BULK, 0x81, 16), done.append)
    await asyncio.sleep(0)  # the first runs
    attachment.close()
    assert [r.status for r in done] == [UrbStatus.NO_DEVICE] * 2
    device.go.set()
    await core.wait_closed()
    assert [r.status for r in done] == [UrbStatus.NO_DEVICE] * 3
    assert device.cleared == 1


async def test_an_isochronous_transfer_that_waited_may_be_dropped() -> None:
    class Live(Slow):
        def drops(self, urb: Urb) -> bool:
            return urb.type is TransferType.ISOCHRONOUS

    device = Live()
    attachment, core = attach(device)
    done: dict[int, UrbResult] = {}
    attachment.submit(
        Urb.control(1, SetupPacket.clear_halt(0x81)), lambda r: done.update({1: r})
    )
    sound = Urb(2, TransferType.ISOCHRONOUS, 0x02, 4, b"data", packets=(2, 2))
    attachment.submit(sound, lambda r: done.update({2: r}))
    device.go.set()
    while core._queue.is_busy:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert (done[2].length, done[2].error_count, len(done[2].packets)) == (0, 2, 2)
    attachment.submit(sound, lambda r: done.update({3: r}))  # it did not wait
    assert done[3].error_count == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(28, "No space left"), UrbStatus.IO_ERROR),
        (RuntimeError("bug"), UrbStatus.IO_ERROR),
        (BackendError("it does not work"), UrbStatus.STALL),
        (DeviceGone("it was unplugged"), UrbStatus.NO_DEVICE),
    ],
)
async def test_no_failure_of_a_request_holds_up_what_waits_behind_it(
    error: Exception, status: UrbStatus
) -> None:
    device = Slow(error)
    attachment, _ = attach(device)
    done: list[UrbResult] = []
    attachment.submit(Urb.control(1, SetupPacket.clear_halt(0x81)), done.append)
    attachment.submit(Urb(2, TransferType.BULK, 0x81, 16), done.append)
    device.go.set()
    async with asyncio.timeout(20):
        while len(done) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert [r.status for r in done] == [status, UrbStatus.IO_ERROR]
    attachment.submit(Urb(3, TransferType.BULK, 0x81, 16), done.append)
    assert done[2].status is UrbStatus.IO_ERROR


async def test_a_mask_of_the_machines_filters_applies_by_hand_too(host: Host) -> None:
    host.filters = [Filter("ours", product_id="0003", masked_interfaces=0b10)]
    serial, loopback = await host.uuids()
    await host.plugs.attach(serial)
    await host.plugs.attach(loopback)  # no filter admits it: it comes by hand
    first, second = host.guest.devices.values()
    (shown,) = first.attached.descriptors.configurations
    assert shown.interface_numbers == (0,)
    assert len(second.attached.descriptors.configurations[0].interface_numbers) > 1
    assert "Host USB: 1209:0003" in (log := host.path.read_text())
    assert "hidden from the guest: interface 1" in log


async def test_a_mask_that_changes_applies_at_once(host: Host) -> None:
    serial, loopback = await host.uuids()
    await host.plugs.attach(serial)
    await host.plugs.attach(loopback)
    (_, same) = host.guest.devices.values()
    host.filters = [Filter("ours", product_id="0003", masked_interfaces=0b10)]
    host.plugs.reconsider()
    while "was detached" not in host.path.read_text():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with host.plugs._changing:
        kept, masked = host.guest.devices.values()
    assert kept is same
    (shown,) = masked.attached.descriptors.configurations
    assert shown.interface_numbers == (0,)
    host.filters = [replace(host.filters[0], masked_interfaces=0xFF)]
    host.plugs.reconsider()
    while len(host.plugs.devices()) > 1:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with host.plugs._changing:
        assert list(host.guest.devices.values()) == [same]
    assert "hides all its interfaces" in host.path.read_text()


async def test_a_device_that_a_reset_makes_another_leaves_the_guest(host: Host) -> None:
    _, loopback = await host.uuids()
    await host.plugs.attach(loopback)
    (device,) = host.guest.devices.values()
    own = host.loopback.descriptors
    host.loopback.descriptors = replace(own, device=replace(own.device, vendor_id=1))
    device.attached.reset()
    await host.wait_empty()
    assert "after a reset it is a different device" in host.path.read_text()


async def test_the_number_of_devices_is_bounded(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_ATTACHED == 64
    monkeypatch.setattr("rusb.server.machine.host_devices.MAX_ATTACHED", 1)
    first, second = await host.uuids()
    await host.plugs.attach(first)
    with pytest.raises(GuestError, match="1 devices are attached"):
        await host.plugs.attach(second)
    assert [d.uuid for d in host.plugs.devices()] == [first]


def test_how_far_a_device_is_is_known_better_than_uvloop_counts(tmp_path: Path) -> None:
    """That counts whole milliseconds, and a device of this machine is nearer."""

    async def measure() -> float | None:
        host = Host(tmp_path)
        first, _ = await host.uuids()
        await host.plugs.attach(first)
        ((_, attachment, _),) = host.plugs._plugged.values()
        await host.plugs.aclose()
        host.log.close()
        return attachment.round_trip

    way = uvloop.run(measure())
    assert way is not None
    assert abs(way * 1000 - round(way * 1000)) > 1e-6
