"""Sound and video in a real Linux: its own drivers, over MS-RDPEUSB.

QEMU's xHCI skips the intervals that it comes too late for, and devices lose what nobody
fetches: so QEMU and this process go before others, which would make them late.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import subprocess
from collections.abc import AsyncIterator
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
from rusb.server.guests.qemu import QemuGuest
from rusb.server.server import Server
from tests.support.amount import IS_SOAK
from tests.support.lab.usblab import Guest
from tests.support.late import late_network
from tests.support.prompt import Promptness, prompt
from tests.support.whole_path import machine

pytestmark = [
    pytest.mark.lab,
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("isochronous"),
]

figures = logging.getLogger("figures")
"""What was counted, for ``-o log_cli=true --log-level=INFO``."""

SECONDS = 60 if IS_SOAK else 10

NETWORKS = [
    pytest.param(0.0, 0.0, id="loopback"),
    pytest.param(0.02, 0.005, id="20 ms, 5 ms jitter"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs for the guest, which has no libraries."""
    folder = tmp_path_factory.mktemp("programs")
    sources = Path(__file__).parents[1] / "support" / "lab"
    for name in ("record", "watch"):
        command = ["gcc", "-O2", "-Wall", "-Werror", "-static", "-o"]
        command += [str(folder / name), str(sources / f"{name}.c")]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@contextlib.asynccontextmanager
async def plugged(
    guest: Guest,
    folder: Path,
    device: EmulatedDevice,
    delay: float,
    jitter: float,
) -> AsyncIterator[None]:
    """The device at a client of a server with that guest."""
    config = ServerConfig(
        machine(),
        ports=[0],
        address="127.0.0.1",
        log=str(folder / "VBox.log"),
        state=folder,
    )
    server = Server(config, guest=QemuGuest(guest.monitor))
    async with server, late_network(server.port, delay, jitter) as port:
        backend = EmulatedBackend(devices=[device])
        ours = dataclasses.replace(
            ClientConfig("127.0.0.1", port),
            known_servers=folder / "known",
            wires=("vrdpusb", "rdpeusb"),
        )
        async with connect(ours, backends=[backend]):
            yield


async def run(
    guest: Guest, programs: Path, name: str, device: str
) -> tuple[dict[str, int], Promptness]:
    """Run one of the programs on a device of the guest.

    Returns:
        What it counted, and how far we could see to it that nothing was late.
    """
    await asyncio.to_thread(guest.wait, f"test -c {device}")
    guest.put(f"/tmp/{name}", (programs / name).read_bytes())
    command = f"chmod +x /tmp/{name}; /tmp/{name} {device} {SECONDS}"
    with prompt(os.getpid(), guest.process.pid) as promptness:
        text = await asyncio.to_thread(guest.sh, command, SECONDS + 60)
    counts = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}
    return counts, promptness


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


@pytest.mark.parametrize(("delay", "jitter"), NETWORKS)
async def test_the_kernel_records_what_a_microphone_hears(
    guest: Guest, programs: Path, tmp_path: Path, delay: float, jitter: float
) -> None:
    guest.load("snd_usb_audio")
    microphone = Microphone()
    async with plugged(guest, tmp_path, microphone, delay, jitter):
        counts, promptness = await run(guest, programs, "record", "/dev/snd/pcmC0D0c")
    seen = counts, promptness.late, microphone.lost, log(tmp_path)
    figures.info("microphone, %g s of delay: %s", delay, seen)
    assert counts["frames"] + counts["lost"] >= SECONDS * 48_000, seen
    assert counts["bad"] == counts["overruns"] == 0, seen
    most = allowed(delay, promptness) * counts["frames"]
    assert counts["lost"] <= most, seen


@pytest.mark.parametrize(("delay", "jitter"), NETWORKS)
async def test_a_reader_gets_the_pictures_of_a_camera(
    guest: Guest, programs: Path, tmp_path: Path, delay: float, jitter: float
) -> None:
    guest.load("uvcvideo")
    camera = Camera()
    async with plugged(guest, tmp_path, camera, delay, jitter):
        counts, promptness = await run(guest, programs, "watch", "/dev/video0")
    seen = counts, promptness.late, camera.lost, log(tmp_path)
    figures.info("camera, %g s of delay: %s", delay, seen)
    seconds = counts["ms"] / 1000 - promptness.late
    least = 29 if promptness.is_prompt else 15
    assert counts["pictures"] >= int(least * seconds), seen
    most = allowed(delay, promptness) * counts["pictures"]
    assert counts["bad"] <= max(1, most), seen
