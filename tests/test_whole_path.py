"""Server, client and devices in one process, over real TLS on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.events import SessionEvent
from rusb.client.session import connect
from rusb.errors import (
    AuthenticationError,
    CertificateError,
    ConnectionLost,
    ServerBusy,
)
from rusb.filters.model import Filter
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbStatus
from tests.support.whole_path import Lab, machine


@pytest.fixture(params=["vrdpusb", "rdpeusb"])
def wire(request: pytest.FixtureRequest) -> str:
    """What the devices travel over."""
    return str(request.param)


@pytest.fixture
async def lab(tmp_path: Path, wire: str) -> AsyncIterator[Lab]:
    found = Lab(tmp_path, machine(), (wire,))
    async with asyncio.timeout(20), found.server:
        yield found


async def test_a_device_is_enumerated_and_moves_data(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        assert device.strings["product"] == "Loopback"
        result = await device.read(Loopback.SOURCE, 65536)
        assert (result.status, result.length) == (UrbStatus.OK, 65536)
        result = await device.write(Loopback.SINK, bytes(65536))
        assert (result.status, result.length) == (UrbStatus.OK, 65536)
    await lab.wait_log("VUSB: Detached")
    assert lab.guest.devices == {}


@pytest.mark.parametrize("wire", ["vrdpusb"])
async def test_isochronous_endpoints_are_named_at_both_ends(lab: Lab) -> None:
    """C3: remote USB has no message for them; a webcam attached without a word."""
    events: list[SessionEvent] = []
    backend = EmulatedBackend(devices=[Loopback(), FlashDrive()])
    async with connect(lab.config(), backends=[backend], on_event=events.append):
        await lab.guest.wait_for(2)
        await lab.wait_log("its isochronous endpoints (sound, video) will not work")
    assert lab.log().count("isochronous") == 1  # not of the drive
    assert "Loopback; its isochronous endpoints" in "\n".join(map(str, events))


async def test_plug_and_unplug_show_in_guest_and_log(lab: Lab) -> None:
    drive = FlashDrive()
    backend = EmulatedBackend(devices=[drive])
    async with lab.client(backend):
        await lab.guest.wait_for(1)
        backend.unplug(drive)
        await lab.guest.wait_for(0)
        await lab.wait_log("Remote USB: ----")
        backend.plug(drive)
        await lab.guest.wait_for(1)
    log = lab.log()
    assert log.count("Remote USB: ++++") == 2
    assert log.count("VUSB: Attached") == 2


async def test_what_no_filter_admits_is_announced_but_never_opened(
    tmp_path: Path, wire: str
) -> None:
    only_drive = Filter(name="drives", product="*Flash*")
    lab = Lab(tmp_path, machine(filters=(only_drive,)), (wire,))
    async with asyncio.timeout(20), lab.server:
        backend = EmulatedBackend(devices=[FlashDrive(), Keyboard()])
        async with lab.client(backend):
            await lab.guest.wait_for(1)
            await lab.wait_log("refused")
        assert lab.log().count("VUSB: Attached") == 1
        assert lab.log().count("Remote USB: ++++") == 2


async def test_pending_urbs_complete_once_when_the_device_is_unplugged(
    lab: Lab,
) -> None:
    loopback = Loopback()
    backend = EmulatedBackend(devices=[loopback])
    async with lab.client(backend):
        (device,) = await lab.guest.wait_for(1)
        reads = [
            asyncio.ensure_future(
                device.read(Loopback.INTERRUPT_IN, 8, TransferType.INTERRUPT)
            )
            for _ in range(5)
        ]
        await device.control(SetupPacket.get_descriptor(1, length=18))
        backend.unplug(loopback)
        results = await asyncio.gather(*reads)
        assert {r.status for r in results} <= {
            UrbStatus.NO_DEVICE,
            UrbStatus.CANCELLED,
        }
        await lab.guest.wait_for(0)


async def test_a_cancelled_urb_completes_and_the_endpoint_goes_on(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])):
        (device,) = await lab.guest.wait_for(1)
        kind = TransferType.INTERRUPT
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await device.read(Loopback.INTERRUPT_IN, 8, kind)
        await device.write(Loopback.INTERRUPT_OUT, b"01234567", kind)
        result = await device.read(Loopback.INTERRUPT_IN, 8, kind)
        assert bytes(result.data) == b"01234567"


async def test_two_clients_with_two_devices_each_do_not_disturb_one_another(
    tmp_path: Path, wire: str
) -> None:
    display = machine().remote_display
    display.allow_multi_connection = True
    lab = Lab(tmp_path, machine(remote_display=display), (wire,))
    async with asyncio.timeout(20), lab.server:
        first = EmulatedBackend(devices=[Loopback(), Loopback()])
        second = EmulatedBackend(devices=[Loopback(), Loopback()])
        async with lab.client(first):
            kept = await lab.guest.wait_for(2)
            async with lab.client(second):
                await lab.guest.wait_for(4)
                await asyncio.sleep(0)
            await lab.guest.wait_for(2)
            assert set(lab.guest.devices.values()) == set(kept)
            for device in kept:
                result = await device.read(Loopback.SOURCE, 512)
                assert result.status is UrbStatus.OK


async def test_a_second_client_is_refused_where_one_is_allowed(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[])):
        with pytest.raises(ServerBusy, match="as many clients as it accepts"):
            async with lab.client(EmulatedBackend(devices=[])):
                pass
    await lab.wait_log("Multiple connections are not enabled")


async def test_external_authentication_admits_nobody_yet(tmp_path: Path) -> None:
    display = machine().remote_display
    display.auth_type = "External"
    lab = Lab(tmp_path, machine(remote_display=display))
    async with asyncio.timeout(20), lab.server:
        with pytest.raises(AuthenticationError):
            async with lab.client(EmulatedBackend(devices=[])):
                pass
        await lab.wait_log("AUTH: Access denied.")


async def test_t45_another_certificate_is_refused(lab: Lab) -> None:
    known = lab.folder / "known"
    known.write_text(f"127.0.0.1:{lab.server.port} sha256:{'0' * 64}\n")
    with pytest.raises(CertificateError, match="has changed"):
        async with lab.client(EmulatedBackend(devices=[])):
            pass


async def test_a_dead_port_is_explained() -> None:
    with socket.socket() as mute:  # it does not listen, and nobody else can
        mute.bind(("127.0.0.1", 0))
        port = mute.getsockname()[1]
        config = ClientConfig("127.0.0.1", port)
        with pytest.raises(ConnectionLost, match=f"Cannot connect to 127.0.0.1:{port}"):
            async with connect(config, backends=[]):
                pass


async def test_stopping_the_server_tells_the_client_why(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        await lab.guest.wait_for(1)
        await lab.server.aclose()
        await session.wait_closed()
        assert session.reason == 1
