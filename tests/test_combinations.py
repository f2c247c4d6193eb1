"""Every source over every wire into every guest, where no other machine is needed.

docs/guide/combinations.md has the table, and names the tests for the other cells.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.devices import load_backend
from rusb.client.session import connect
from rusb.server.config import ServerConfig
from rusb.server.guests.base import GuestBackend
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.guests.pyusb import PyusbGuest
from rusb.server.guests.usbip import UsbipGuest
from rusb.server.guests.usbredir import UsbredirGuest
from rusb.server.server import Server
from rusb.usb.backend import DeviceBackend
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import UrbStatus
from rusb.wire.usbip import UsbipGuestSide
from rusb.wire.usbredir import UsbredirGuestSide
from tests.support.capturing import Recorder, pcapng
from tests.support.exporting import exporting
from tests.support.guest_programs import Redirected, until
from tests.support.whole_path import machine

SOURCES = "emulated", "usbip", "usbredir", "replay"
WIRES = "vrdpusb", "rdpeusb"
GUESTS = "loopback", "pyusb", "usbip", "usbredir"

DATA = bytes(300)  # as the programs of guests send them
OUT, IN = 0x02, 0x82


@contextlib.asynccontextmanager
async def source(kind: str, folder: Path) -> AsyncIterator[DeviceBackend]:
    """A backend with a device that gives back what it got."""
    if kind == "emulated":
        yield EmulatedBackend("loopback")
    elif kind == "replay":
        yield load_backend(f"replay:{await recorded(folder / 'one.pcapng')}")
    else:
        async with exporting(folder, kind, EmulatedBackend("loopback")) as there:
            yield there.backend_of_it()


async def recorded(path: Path) -> Path:
    """A capture of such a device."""
    backend = EmulatedBackend("loopback")
    (local,) = await backend.list_devices()
    recorder = Recorder(await backend.open(local))
    for kind, index, length in ((1, 0, 18), (2, 0, 255), (3, 0, 255)):
        recorder.control(SetupPacket.get_descriptor(kind, index, length))
    for index in (1, 2, 3):
        recorder.control(SetupPacket.get_descriptor(3, index, 255, 0x0409))
    recorder.control(SetupPacket.set_configuration(1))
    recorder.run(TransferType.BULK, OUT, DATA)
    recorder.run(TransferType.BULK, IN, 512)
    await backend.aclose()
    path.write_bytes(pcapng(recorder.records))  # noqa: ASYNC240
    return path


def make_guest(kind: str, folder: Path) -> GuestBackend:
    match kind:
        case "loopback":
            return LoopbackGuest()
        case "pyusb":
            return PyusbGuest(str(folder / "bus"))
        case "usbip":
            return UsbipGuest("127.0.0.1:0")
    return UsbredirGuest("listen=127.0.0.1:0")


async def program(guest: GuestBackend, folder: Path) -> Redirected:
    """A program in a guest that is reached by a socket."""
    if isinstance(guest, PyusbGuest):
        sock = socket.socket(socket.AF_UNIX)
        await until(lambda: any((folder / "bus").glob("*.usb")))
        (path,) = (folder / "bus").glob("*.usb")  # noqa: ASYNC240
        sock.connect(str(path))
        return Redirected(sock)
    if isinstance(guest, UsbipGuest):
        await until(lambda: bool(guest.records()))
        (record,) = guest.records()
        core: UsbipGuestSide | UsbredirGuestSide = UsbipGuestSide(record.busid)
    else:
        assert isinstance(guest, UsbredirGuest)
        core = UsbredirGuestSide()
    sock = await asyncio.to_thread(
        socket.create_connection, ("127.0.0.1", guest.port), 10
    )
    sock.settimeout(None)
    return Redirected(sock, core)


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", SOURCES)
async def test_data_go_from_the_guest_to_the_source_and_back(
    kind: str, wire: str, guest: str, tmp_path: Path
) -> None:
    there, folder = make_guest(guest, tmp_path), tmp_path / "source"
    folder.mkdir()  # noqa: ASYNC240
    config = ServerConfig(
        machine(),
        ports=[0],
        address="127.0.0.1",
        log=str(tmp_path / "VBox.log"),
        state=tmp_path,
        wires=(wire,),
    )
    async with (
        asyncio.timeout(60),
        source(kind, folder) as backend,
        Server(config, guest=there) as server,
    ):
        client = ClientConfig(
            *("127.0.0.1", server.port),
            known_servers=tmp_path / "known",
            wires=(wire,),
            reconnect=False,
        )
        async with connect(client, backends=[backend]):
            if isinstance(there, LoopbackGuest):
                (device,) = await there.wait_for(1)
                written = await device.write(OUT, DATA)
                read = await device.read(IN, 512)
            else:
                running = await program(there, tmp_path)
                await until(lambda: running.is_ready)
                running.start(OUT, len(DATA))
                await until(lambda: bool(running.statuses))
                running.start(IN, 512)
                await until(lambda: len(running.statuses) == 2)
                written, read = (found[0] for found in running.results.values())
                await asyncio.to_thread(running.close)
            assert (written.status, written.length) == (UrbStatus.OK, len(DATA))
            assert bytes(read.data) == DATA
