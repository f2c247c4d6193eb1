"""A disk at a distance in a real Linux: right, and sooner with pipelining."""

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.cli._bench import relay
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 1 << 20
CONTENT = random.Random(13).randbytes(2 * MIB)

RTT_MS = 80
"""So long that what the processors take does not count, whatever else they do."""

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a713}" name="Far">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@contextlib.contextmanager
def far_disk(
    guest: Guest, folder: Path, image: Path, mode: str, rtt_ms: int
) -> Iterator[RusbServer]:
    """The guest has a disk of a client that is so far away."""
    folder.mkdir()
    options = "--guest", f"qemu:{guest.monitor}", "--storage", mode
    server = RusbServer(folder, MACHINE, *options)
    env = {**os.environ, "RUSB_STATE": str(folder)}
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.wait_log("TCP server listening")
        port = server.port
        if rtt_ms:
            network = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", relay.__name__, str(port), str(rtt_ms)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd=CHECKOUT,
                )
            )
            assert network.stdout is not None
            port = int(network.stdout.readline())
        client = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "rusb", "connect", f"127.0.0.1:{port}"]
                + ["--backend", f"emulated:flash-drive={image}"],
                cwd=CHECKOUT,
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(client.terminate)
        guest.wait("test -b /dev/sda")
        yield server
    guest.wait("! test -b /dev/sda")


def seconds(guest: Guest, command: str) -> float:
    start = time.monotonic()
    guest.sh(command, 120)
    return time.monotonic() - start


def measure(guest: Guest, folder: Path, mode: str) -> tuple[float, float]:
    """Read 2 MiB and write as many; return the seconds of each."""
    image = folder / f"{mode}.img"
    image.write_bytes(CONTENT * 2)
    digest = hashlib.sha256(CONTENT).hexdigest()
    new = random.Random(1).randbytes(len(CONTENT))
    with far_disk(guest, folder / mode, image, mode, RTT_MS) as server:
        dd = f"dd bs={MIB} count=2"
        reading = seconds(guest, f"{dd} if=/dev/sda of=/tmp/read iflag=direct")
        assert guest.sh("sha256sum /tmp/read").split()[0] == digest
        guest.put("/tmp/new", new)
        write = f"{dd} if=/tmp/new of=/dev/sda seek=2 oflag=direct conv=notrunc"
        writing = seconds(guest, write)
        assert image.read_bytes() == CONTENT + new
        assert "storage: " not in server.log()
    return reading, writing


def test_a_round_trip_is_paid_once_a_command(guest: Guest, tmp_path: Path) -> None:
    guest.sh("dmesg -c >/dev/null")
    off = measure(guest, tmp_path, "off")
    early = measure(guest, tmp_path, "early")
    gains = [a / b for a, b in zip(off, early, strict=True)]
    print(f"seconds off {off}, early {early}")
    log = guest.sh("dmesg")
    assert "reset" not in log
    assert "rror" not in log
    assert min(gains) >= 1.5, (off, early)  # 2.5 or more if nothing else runs
