"""The emulated microphone and camera: descriptors, requests, what they send."""

import asyncio
import struct
import time
from collections.abc import Callable

import pytest

from rusb.client.backends._emulated.camera import FRAME_BYTES, MAX_BEHIND, frame
from rusb.client.backends._emulated.microphone import BUFFER, MAX_PACKET, RATE
from rusb.client.backends.emulated import Camera, EmulatedBackend, Microphone
from rusb.usb.backend import OpenDevice
from rusb.usb.descriptors import ConfigurationDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from tests.support.streaming import Recorder, Watcher


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - whatever a test looks at
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("make", [Microphone, Camera])
async def test_descriptors_are_what_their_reader_reads(
    make: type[Microphone | Camera],
) -> None:
    device = make()
    (configuration,) = device.descriptors.configurations
    data = configuration.serialize()
    notes: list[str] = []
    assert ConfigurationDescriptor.parse(data, notes).serialize() == data
    assert notes == []
    assert device.descriptors.has_isochronous
    # each class-specific header says how long it and its units are
    for setting in configuration.interfaces:
        if setting.interface_subclass == 1:
            (total,) = struct.unpack_from("<H", setting.extra, 5)
            assert total == len(setting.extra)


async def test_a_microphone_keeps_its_rate_and_numbers_what_it_hears() -> None:
    microphone = Microphone()
    microphone.power_on()
    microphone.set_interface(1, 1)
    recorder = Recorder(_Attached(microphone))  # type: ignore[arg-type]
    recorder.start(4)
    async with asyncio.timeout(20):
        await until(lambda: recorder.packets >= 500)
    recorder.is_stopped = True
    microphone.power_off()
    assert (recorder.lost, recorder.wrong, microphone.lost) == (0, 0, 0)
    assert abs(recorder.frames - recorder.packets * RATE // 1000) < RATE // 50


def test_a_microphone_loses_what_nobody_fetches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = Now(monkeypatch)
    microphone = Microphone()
    numbers: list[int] = []
    for _ in range(3):
        packets = microphone.iso_in(Microphone.STREAM, (MAX_PACKET,) * 10)
        numbers += [n for p in packets for (n,) in struct.iter_unpack("<I", p)]
        now.value += 1.0
    assert microphone.lost > 2 * (RATE - BUFFER)
    assert numbers == sorted(set(numbers))
    (short,) = microphone.iso_in(Microphone.STREAM, (7,))
    assert len(short) == 4


def test_a_camera_sends_whole_pictures_and_skips_old_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = Now(monkeypatch)
    camera = Camera()
    data = b""
    for packet in camera.iso_in(Camera.STREAM, (1024,) * 64):
        if packet:
            assert packet[0] == 2
            assert packet[1] & 0x81 == 0x80  # end of header, an even picture
            data += packet[2:]
    assert data == frame(0)
    assert len(data) == FRAME_BYTES
    assert list(camera.iso_in(Camera.STREAM, (1024, 1024))) == [b"", b""]
    now.value += 1.0
    first = next(p for p in camera.iso_in(Camera.STREAM, (1024,) * 64) if p)
    assert bytes(first[2:]) == frame(30)[:1022]
    assert camera.lost == 29 > MAX_BEHIND
    assert list(camera.iso_in(Camera.STREAM, (2,)))[0][:1] in (b"", b"\2")


async def test_a_camera_is_watched() -> None:
    camera = Camera()
    camera.power_on()
    camera.set_interface(1, 1)
    watcher = Watcher(_Attached(camera), frame)  # type: ignore[arg-type]
    watcher.start(4)
    async with asyncio.timeout(20):
        await until(lambda: watcher.pictures >= 10)
    watcher.is_stopped = True
    camera.power_off()
    assert watcher.wrong == 0


def test_a_camera_negotiates_what_it_has() -> None:
    camera = Camera()
    for control in (0x0100, 0x0200):
        state = camera.control(SetupPacket(0xA1, 0x81, control, 1, 26), b"")
        assert state is not None
        assert len(state) == 26
        assert struct.unpack_from("<II", state, 18) == (FRAME_BYTES, 1024)
        assert camera.control(SetupPacket(0x21, 1, control, 1, 26), state) == b""
        assert camera.control(SetupPacket(0xA1, 0x86, control, 1, 1), b"") == b"\3"
        length = camera.control(SetupPacket(0xA1, 0x85, control, 1, 2), b"")
        assert length == b"\x1a\0"
    assert camera.control(SetupPacket(0xA1, 0x81, 0x0100, 0, 26), b"") is None
    assert camera.control(SetupPacket(0xA1, 0x99, 0x0100, 1, 26), b"") is None
    assert camera.control(SetupPacket(0xA1, 0x81, 0x0300, 1, 26), b"") is None


async def test_transfers_that_were_queued_lose_no_interval() -> None:
    """A controller does not skip what is queued, however late this program is."""
    microphone = Microphone()
    microphone.power_on()
    microphone.set_interface(1, 1)
    frames: list[int] = []

    def complete(result: UrbResult) -> None:
        frames.append(result.start_frame)

    for number in range(4):
        urb = Urb(
            *(number, TransferType.ISOCHRONOUS, Microphone.STREAM, 1960),
            packets=(196,) * 10,
        )
        microphone.submit(urb, complete)
    await asyncio.sleep(0)
    time.sleep(0.03)  # noqa: ASYNC251 - this program is kept from its work
    async with asyncio.timeout(20):
        await until(lambda: len(frames) == 4)
    assert [frame - frames[0] for frame in frames] == [0, 10, 20, 30]


async def test_they_are_plugged_in_by_name() -> None:
    backend = EmulatedBackend("microphone,camera@9")
    try:
        sound, video = await backend.list_devices()
        assert sound.has_isochronous
        assert video.has_isochronous
        assert (sound.info.product, sound.info.speed) == ("Microphone", Speed.FULL)
        assert (video.info.product, video.info.port) == ("Camera", 9)
        opened: OpenDevice = await backend.open(sound)
        done: list[UrbStatus] = []
        urb = Urb(1, TransferType.ISOCHRONOUS, 0x81, 200, packets=(200,))
        opened.submit(urb, lambda result: done.append(result.status))
        assert done == [UrbStatus.INVALID]  # the setting without an endpoint
    finally:
        await backend.aclose()


class Now:
    """The clock of the event loop, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.value = 100.0
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def time(self) -> float:
        """What it says."""
        return self.value


class _Attached:
    """A device as readers want it."""

    def __init__(self, device: Microphone | Camera) -> None:
        self.submit = device.submit
