"""Sound and video from a client to a guest over MS-RDPEUSB and TLS."""

import asyncio
import contextlib
import dataclasses
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import usb.core

from rusb.client.backends._emulated.camera import frame
from rusb.client.backends.emulated import (
    Camera,
    EmulatedBackend,
    EmulatedDevice,
    Loopback,
    Microphone,
)
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.guests._pyusb_backend import Backend
from rusb.server.guests.loopback import LoopbackDevice
from rusb.server.guests.pyusb import PyusbGuest
from rusb.server.server import Server
from rusb.server.state import StreamState
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbStatus
from tests.support.streaming import Recorder, Watcher
from tests.support.whole_path import Lab, machine


@contextlib.asynccontextmanager
async def streaming(
    folder: Path, *devices: EmulatedDevice
) -> AsyncIterator[tuple[Lab, dict[str, LoopbackDevice], EmulatedBackend]]:
    """The devices in a guest of this process, in their first setting that streams."""
    lab = Lab(folder, machine(), ("vrdpusb", "rdpeusb"))
    async with asyncio.timeout(30), lab.server:
        config = dataclasses.replace(lab.config(), wires=("vrdpusb", "rdpeusb"))
        backend = EmulatedBackend(devices=devices)
        async with connect(config, backends=[backend]):
            found = await lab.guest.wait_for(len(devices))
            for device in found:
                result = await device.control(SetupPacket.set_interface(1, 1))
                assert result.status is UrbStatus.OK
            yield lab, {device.strings["product"]: device for device in found}, backend


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - whatever a test looks at
        await asyncio.sleep(0.01)


def streams(lab: Lab, product: str) -> tuple[StreamState, ...]:
    (found,) = (d for d in lab.server.devices() if d.product == product)
    return found.streams


async def test_sound_and_video_arrive_together(tmp_path: Path) -> None:
    async with streaming(tmp_path, Microphone(), Camera()) as (lab, found, backend):
        sound = Recorder(found["Microphone"].attached)
        video = Watcher(found["Camera"].attached, frame)
        sound.start(6)
        video.start(5)
        await until(lambda: sound.packets >= 1000 and video.pictures >= 20)
        assert sound.wrong == 0
        assert video.bad == sound.bad == 0
        assert sound.frames > 10_000
        (state,) = streams(lab, "Microphone")
        assert state.is_running
        assert state.endpoint == Microphone.STREAM
        assert state.packets >= 1000
        backend.unplug(backend.devices[0])
        await until(lambda: sound.statuses == {UrbStatus.OK, UrbStatus.NO_DEVICE})
        await found["Camera"].control(SetupPacket.set_interface(1, 0))
        assert streams(lab, "Camera") == ()
    for product in ("0005", "0006"):
        assert "stream 0x81 of 'usb-" in lab.log()
        assert f"[proxy 1209:{product}]' ended" in lab.log()


async def test_a_guest_plays_to_a_device(tmp_path: Path) -> None:
    """What it plays is taken in time, and arrives."""
    device = Loopback()
    async with streaming(tmp_path, device) as (lab, found, _):
        attached, done = found["Loopback"].attached, list[UrbStatus]()
        packets = (64,) * 80
        for number in range(10):
            urb = Urb(
                *(1000 + number, TransferType.ISOCHRONOUS, Loopback.ISO_OUT),
                *(64 * 80, bytes(64 * 80)),
                packets=packets,
            )
            attached.submit(urb, lambda result: done.append(result.status))
        await until(lambda: len(done) == 10)
        assert set(done) == {UrbStatus.OK}

        def arrived() -> bool:
            """What a busy machine was too late for is counted."""
            (state,) = streams(lab, "Loopback")
            return device.received // 64 + state.late >= 80 * 9 or not state.is_running

        await until(arrived)
        (state,) = streams(lab, "Loopback")
        assert (state.packets, state.bad) == (800, 0)
        assert device.received > 0


async def test_a_program_with_pyusb_records(tmp_path: Path) -> None:
    settings = machine(name="Bench", filters=(Filter("all"),))
    log = tmp_path / "VBox.log"
    config = ServerConfig(
        settings, ports=[0], address="127.0.0.1", log=str(log), state=tmp_path
    )
    bus = tmp_path / "bus"
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        server = Server(config, guest=PyusbGuest(str(bus)))
        await stack.enter_async_context(server)
        ours = ClientConfig(
            "127.0.0.1", server.port, known_servers=tmp_path / "k", wires=("rdpeusb",)
        )
        backend = EmulatedBackend(devices=[Microphone()])
        await stack.enter_async_context(connect(ours, backends=[backend]))
        await until(lambda: "VUSB: Attached" in log.read_text())
        data = await asyncio.to_thread(_record, bus)
    numbers = [n for (n,) in struct.iter_unpack("<I", data)]
    assert len(numbers) > 3000
    assert numbers == sorted(set(numbers))


def _record(bus: Path) -> bytes:
    backend = Backend(bus)
    device = usb.core.find(backend=backend, idVendor=0x1209)
    assert device is not None
    device.set_configuration()
    device.set_interface_altsetting(1, 1)
    data = b""
    while len(data) < 16_000:
        data += bytes(device.read(Microphone.STREAM, 1960, timeout=5000))
    usb.util.dispose_resources(device)
    for remote in backend._remotes.values():
        remote.close()
    return data
