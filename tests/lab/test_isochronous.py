"""Sound and video in a real Linux: its own drivers, over MS-RDPEUSB.

QEMU's xHCI skips the intervals that it comes too late for, and devices lose what nobody
fetches: so QEMU and this process go before others, which would make them late.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.client.backends.emulated import (
    Camera,
    EmulatedBackend,
    EmulatedDevice,
    Microphone,
)
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.server.config import ServerConfig
from rusb.server.guests.base import GuestBackend
from rusb.server.guests.qemu import QemuGuest
from rusb.server.guests.usbip import UsbipGuest
from rusb.server.guests.vhci import VhciGuest
from rusb.server.server import Server
from tests.support.lab.farvhci import IN_USE, FarVhci
from tests.support.lab.peers import wait
from tests.support.lab.recording import SECONDS, Recorder
from tests.support.lab.speaker import Speaker
from tests.support.lab.usblab import Client, Guest
from tests.support.late import late_network
from tests.support.prompt import Promptness
from tests.support.whole_path import machine

pytestmark = [
    pytest.mark.lab,
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("isochronous"),
]

figures = logging.getLogger("figures")
"""What was counted, for ``-o log_cli=true --log-level=INFO``."""

NETWORKS = [
    pytest.param(0.0, 0.0, id="loopback"),
    pytest.param(0.02, 0.005, id="20 ms, 5 ms jitter"),
]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """Programs for the machines."""
    return Recorder(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def kernel(lab: None) -> Iterator[Client]:
    """A machine with vhci_hcd, for the server's own or a USB/IP client's."""
    with Client(memory=384) as vm:
        vm.modprobe("vhci_hcd", "snd_usb_audio", "uvcvideo")
        yield vm
        assert vm.sh(IN_USE) == ""


@contextlib.asynccontextmanager
async def plugged(
    guest: GuestBackend,
    folder: Path,
    device: EmulatedDevice,
    delay: float = 0.0,
    jitter: float = 0.0,
) -> AsyncIterator[None]:
    """The device at a client of a server with that guest."""
    config = ServerConfig(
        machine(),
        ports=[0],
        address="127.0.0.1",
        log=str(folder / "VBox.log"),
        state=folder,
    )
    server = Server(config, guest=guest)
    async with server, late_network(server.port, delay, jitter) as port:
        backend = EmulatedBackend(devices=[device])
        ours = dataclasses.replace(
            ClientConfig("127.0.0.1", port),
            known_servers=folder / "known",
            wires=("vrdpusb", "rdpeusb"),
        )
        async with connect(ours, backends=[backend]):
            yield


@contextlib.asynccontextmanager
async def in_linux(
    way: str, kernel: Client, folder: Path, device: EmulatedDevice
) -> AsyncIterator[None]:
    """The device in a Linux: by the guest vhci, or by its own USB/IP client."""
    guest: GuestBackend = VhciGuest(driver=FarVhci(kernel))
    if way == "usbip":
        guest = UsbipGuest("0")
    async with plugged(guest, folder, device):
        vbox_log = folder / "VBox.log"
        await asyncio.to_thread(
            wait, lambda: "Attached" in vbox_log.read_text(), "it", vbox_log.read_text
        )
        if isinstance(guest, UsbipGuest):
            usbip = f"/usr/sbin/usbip --tcp-port {guest.port}"
            await asyncio.to_thread(kernel.sh, f"{usbip} attach -r 10.0.2.2 -b 1-1")
        yield
    await asyncio.to_thread(kernel.wait, f'test -z "$({IN_USE})"')


def allowed(delay: float, promptness: Promptness) -> float:
    """The part of the packets that may be lost: what the network may cost, and
    what the machine was late for."""
    if not promptness.is_prompt:
        return 0.5
    return (0.01 if delay else 0.001) + promptness.late / SECONDS


def log(folder: Path) -> str:
    """What the server says of the streams."""
    lines = (folder / "VBox.log").read_text().splitlines()
    return "; ".join(line for line in lines if "stream 0x" in line)


def check_sound(
    counts: dict[str, int], seen: object, promptness: Promptness, most: float
) -> None:
    """See that a signal came, and that no more of it than this was lost."""
    least = max(SECONDS - promptness.late, SECONDS / 2) * 48_000
    assert counts["frames"] + counts["lost"] >= least, seen
    assert counts["bad"] == counts["overruns"] == 0, seen
    assert counts["lost"] <= most * counts["frames"], seen


def check_pictures(
    counts: dict[str, int], seen: object, promptness: Promptness, most: float
) -> None:
    """See that pictures came, and that no more of them than this were not whole."""
    seconds = max(counts["ms"] / 1000 - promptness.late, SECONDS / 2)
    least = 29 if promptness.is_prompt else 15
    assert counts["pictures"] >= int(least * seconds), seen
    assert counts["bad"] <= max(1, most * counts["pictures"]), seen


@pytest.mark.parametrize(("delay", "jitter"), NETWORKS)
async def test_the_kernel_records_what_a_microphone_hears(
    guest: Guest, recorder: Recorder, tmp_path: Path, delay: float, jitter: float
) -> None:
    guest.load("snd_usb_audio")
    microphone = Microphone()
    async with plugged(QemuGuest(guest.monitor), tmp_path, microphone, delay, jitter):
        counts, promptness = await recorder.run(guest, "record", "/dev/snd/pcmC0D0c")
    seen = counts, promptness.late, microphone.lost, log(tmp_path)
    figures.info("microphone, %g s of delay: %s", delay, seen)
    check_sound(counts, seen, promptness, allowed(delay, promptness))


@pytest.mark.parametrize(("delay", "jitter"), NETWORKS)
async def test_a_reader_gets_the_pictures_of_a_camera(
    guest: Guest, recorder: Recorder, tmp_path: Path, delay: float, jitter: float
) -> None:
    guest.load("uvcvideo")
    camera = Camera()
    async with plugged(QemuGuest(guest.monitor), tmp_path, camera, delay, jitter):
        counts, promptness = await recorder.run(guest, "watch", "/dev/video0")
    seen = counts, promptness.late, camera.lost, log(tmp_path)
    figures.info("camera, %g s of delay: %s", delay, seen)
    check_pictures(counts, seen, promptness, allowed(delay, promptness))


@pytest.mark.parametrize("way", ["vhci", "usbip"])
async def test_vhci_hcd_records_what_a_microphone_hears(
    kernel: Client, recorder: Recorder, tmp_path: Path, way: str
) -> None:
    microphone = Microphone()
    async with in_linux(way, kernel, tmp_path, microphone):
        counts, promptness = await recorder.run(kernel, "record", "/dev/snd/pcmC0D0c")
    seen = counts, promptness.late, microphone.lost, log(tmp_path)
    figures.info("microphone, %s: %s", way, seen)
    check_sound(counts, seen, promptness, allowed(0, promptness))


async def test_vhci_hcd_has_the_pictures_of_a_camera(
    kernel: Client, recorder: Recorder, tmp_path: Path
) -> None:
    camera = Camera()
    async with in_linux("vhci", kernel, tmp_path, camera):
        counts, promptness = await recorder.run(kernel, "watch", "/dev/video0")
    seen = counts, promptness.late, camera.lost, log(tmp_path)
    figures.info("camera, vhci: %s", seen)
    check_pictures(counts, seen, promptness, allowed(0, promptness))


async def test_vhci_hcd_plays_to_a_speaker(
    kernel: Client, recorder: Recorder, tmp_path: Path
) -> None:
    speaker = Speaker()
    async with in_linux("vhci", kernel, tmp_path, speaker):
        counts, promptness = await recorder.run(kernel, "record", "/dev/snd/pcmC0D0p")
    heard = {"frames": speaker.frames, "lost": speaker.lost, "bad": speaker.bad}
    seen = counts, heard, promptness.late, log(tmp_path)
    figures.info("speaker, vhci: %s", seen)
    check_sound(counts | heard, seen, promptness, allowed(0, promptness))
