"""The contract of rusb/usb/backend.py, kept by every device backend.

What needs a device runs on emulated ones: what is plugged into the machine that runs
the tests is left alone.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

import rusb.client.backends
from rusb import plugins
from rusb.client.backends.emulated import EmulatedBackend
from rusb.errors import BackendError, DeviceGone
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    EndpointDescriptor,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.capturing import pcapng, record
from tests.support.rusbserver import free_port

BACKENDS = plugins.names(rusb.client.backends)
ADDRESSES = dict.fromkeys(("usbip", "usbredir"), f"127.0.0.1:{free_port()}")
"""Of those that need one; where nobody listens."""

DEVICES = ("flash-drive", "keyboard", "serial", "loopback")


@pytest.fixture(autouse=True, scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A capture with a device descriptor, for replay."""
    path = tmp_path_factory.mktemp("capture") / "one.pcapng"
    urb = Urb.control(1, SetupPacket.get_descriptor(1, 0, 18))
    answer = bytes.fromhex("120100020000004009120100000101020301")
    records = [
        record("S", urb, id=1, status=-115, length=18),
        record("C", urb, id=1, status=0, length=18, data=answer),
    ]
    path.write_bytes(pcapng(records))
    ADDRESSES["replay"] = str(path)


def load(name: str) -> type[DeviceBackend]:
    plugin = plugins.load(rusb.client.backends, name)
    assert isinstance(plugin, type)
    assert issubclass(plugin, DeviceBackend)
    return plugin


# ------------------------------------------------------------- every backend ----


def test_the_emulated_backend_is_among_the_plugins() -> None:
    assert "emulated" in BACKENDS


@pytest.mark.parametrize("name", BACKENDS)
async def test_a_backend_lists_devices_that_can_be_told_apart(name: str) -> None:
    backend = load(name)(ADDRESSES.get(name))
    try:
        async with asyncio.timeout(30):
            assert backend.force is False
            backend.watch(lambda: None)
            try:
                devices = await backend.list_devices()
            except BackendError as error:
                assert str(error)  # noqa: PT017 - a machine without USB says so
                return
            assert len({d.key for d in devices}) == len(devices)
            assert {d.info.id for d in devices} <= {0}
            assert {d.info.device_class for d in devices}.isdisjoint({9})  # hubs
            again = await backend.list_devices()
            assert {d.key for d in again} == {d.key for d in devices}
    finally:
        await backend.aclose()
        await backend.aclose()


@pytest.mark.parametrize("name", BACKENDS)
async def test_a_device_that_is_not_there_is_gone(name: str) -> None:
    backend = load(name)(ADDRESSES.get(name))
    (some,) = await EmulatedBackend("keyboard").list_devices()
    try:
        async with asyncio.timeout(30):
            missing = LocalDevice("no such key", some.info)
            with pytest.raises(BackendError):
                await backend.open(missing)
    finally:
        await backend.aclose()


# -------------------------------------------------------------- every device ----


class Rig:
    """An open device, and a check that each URB completes exactly once."""

    def __init__(
        self, backend: EmulatedBackend, local: LocalDevice, opened: OpenDevice
    ) -> None:
        self.backend, self.local, self.opened = backend, local, opened
        self.results: dict[int, list[UrbResult]] = {}
        self.order: list[int] = []
        self._ids = itertools.count(1)

    def submit(self, urb: Urb) -> int:
        self.results[urb.id] = []

        def complete(result: UrbResult) -> None:
            assert len(result.data) <= urb.length
            assert result.length <= urb.length
            assert urb.is_in or not result.data
            assert not urb.is_in or result.length == len(result.data)
            self.results[urb.id].append(result)
            self.order.append(urb.id)

        self.opened.submit(urb, complete)
        return urb.id

    def control(self, setup: SetupPacket, data: bytes = b"") -> UrbResult:
        (result,) = self.results[self.submit(Urb.control(self.id(), setup, data))]
        return result

    def id(self) -> int:
        return next(self._ids)

    def submit_everywhere(self, count: int = 3) -> None:
        """Submit some URBs to every endpoint, in both directions."""
        for endpoint in self.endpoints():
            for _ in range(count):
                length = endpoint.packet_size
                data = b"" if endpoint.is_in else bytes(length)
                kind, address = endpoint.transfer_type, endpoint.address
                self.submit(Urb(self.id(), kind, address, length, data))

    def endpoints(self) -> list[EndpointDescriptor]:
        setup = SetupPacket.get_descriptor(DescriptorType.CONFIGURATION, 0, 4096)
        found = ConfigurationDescriptor.parse(bytes(self.control(setup).data))
        return [e for i in found.interfaces if not i.alternate for e in i.endpoints]

    def statuses(self) -> set[UrbStatus]:
        """Every URB has exactly one result; return what they were."""
        assert {len(r) for r in self.results.values()} == {1}
        return {r[0].status for r in self.results.values()}


@pytest.fixture(params=DEVICES)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    backend = EmulatedBackend(request.param)
    (local,) = await backend.list_devices()
    opened = await backend.open(local)
    async with asyncio.timeout(20):
        yield Rig(backend, local, opened)
    await opened.aclose()
    await backend.aclose()


async def test_the_device_is_the_one_that_was_listed(rig: Rig) -> None:
    setup = SetupPacket.get_descriptor(DescriptorType.DEVICE, 0, 18)
    device = DeviceDescriptor.parse(bytes(rig.control(setup).data))
    info = rig.local.info
    assert (device.vendor_id, device.product_id) == (info.vendor_id, info.product_id)
    assert (device.bcd_usb, device.bcd_device) == (info.bcd_usb, info.bcd_device)
    codes = device.device_class, device.device_subclass, device.device_protocol
    listed = info.device_class, info.device_subclass, info.device_protocol
    assert codes == listed


async def test_every_interface_can_be_claimed_twice_and_released(rig: Rig) -> None:
    await rig.opened.set_configuration(1)
    setup = SetupPacket.get_descriptor(DescriptorType.CONFIGURATION, 0, 4096)
    found = ConfigurationDescriptor.parse(bytes(rig.control(setup).data))
    for number in found.interface_numbers:
        await rig.opened.claim_interface(number)
        await rig.opened.claim_interface(number)
        await rig.opened.set_interface(number, 0)
        await rig.opened.release_interface(number)


async def test_what_cannot_be_done_leaves_the_device_usable(rig: Rig) -> None:
    for call in (
        rig.opened.set_configuration(200),
        rig.opened.claim_interface(200),
        rig.opened.set_interface(0, 200),
        rig.opened.clear_halt(0x8F),
    ):
        with pytest.raises(BackendError):
            await call
    assert rig.control(SetupPacket.get_configuration()).data == b"\x01"


async def test_transfers_that_cannot_be_started_complete(rig: Rig) -> None:
    taken = {e.address for e in rig.endpoints()}
    for address in set(range(256)) - taken - {0, 0x80}:
        data = b"" if address & 0x80 else b"x"
        for kind in TransferType:
            rig.submit(Urb(rig.id(), kind, address, 1, data))
    assert rig.statuses() <= {UrbStatus.INVALID, UrbStatus.OK}
    assert len(rig.results) > 600


async def test_per_endpoint_completions_keep_the_order(rig: Rig) -> None:
    ends = rig.endpoints()
    by_endpoint: dict[int, list[int]] = {e.address: [] for e in ends}
    for _ in range(5):
        for e in ends:
            data = b"" if e.is_in else bytes(8)
            length = len(data) or e.packet_size
            urb = Urb(rig.id(), e.transfer_type, e.address, length, data)
            by_endpoint[e.address].append(rig.submit(urb))
    await rig.opened.aclose()
    for ids in by_endpoint.values():
        assert [i for i in rig.order if i in ids] == ids
    assert len(rig.statuses()) > 0


async def test_cancelled_transfers_complete_once(rig: Rig) -> None:
    rig.submit_everywhere()
    for urb_id in list(rig.results):
        rig.opened.cancel(urb_id)
        rig.opened.cancel(urb_id)
    rig.opened.cancel(123456)
    await asyncio.sleep(0)
    allowed = {UrbStatus.OK, UrbStatus.CANCELLED, UrbStatus.STALL}
    assert rig.statuses() <= allowed


async def test_a_reset_restores_the_configuration(rig: Rig) -> None:
    rig.submit_everywhere()
    await rig.opened.reset()
    assert rig.statuses() <= {UrbStatus.OK, UrbStatus.CANCELLED, UrbStatus.STALL}
    assert rig.control(SetupPacket.get_configuration()).data == b"\x01"


async def test_closing_completes_everything_and_is_idempotent(rig: Rig) -> None:
    rig.submit_everywhere()
    await rig.opened.aclose()
    await rig.opened.aclose()
    rig.statuses()
    assert rig.control(SetupPacket.get_configuration()).status is UrbStatus.NO_DEVICE
    rig.opened.cancel(1)


async def test_closing_the_backend_closes_the_device(rig: Rig) -> None:
    rig.submit_everywhere()
    await rig.backend.aclose()
    await rig.opened.aclose()
    rig.statuses()
    assert await rig.backend.list_devices() == []


async def test_an_unplugged_device_is_gone_and_the_list_changed(rig: Rig) -> None:
    calls: list[None] = []
    rig.backend.watch(lambda: calls.append(None))
    rig.submit_everywhere()
    (device,) = rig.backend.devices
    rig.backend.unplug(device)
    assert len(calls) == 1
    rig.statuses()
    with pytest.raises(DeviceGone):
        await rig.opened.reset()
    with pytest.raises(DeviceGone):
        await rig.backend.open(rig.local)
    rig.backend.plug(device)
    assert len(calls) == 2
    (again,) = await rig.backend.list_devices()
    assert again.key != rig.local.key
    assert rig.control(SetupPacket.get_configuration()).status is UrbStatus.NO_DEVICE


async def test_the_device_can_be_opened_again_after_closing(rig: Rig) -> None:
    await rig.opened.set_configuration(0)
    await rig.opened.aclose()
    rig.opened = await rig.backend.open(rig.local)
    assert rig.control(SetupPacket.get_configuration()).data == b"\x01"
