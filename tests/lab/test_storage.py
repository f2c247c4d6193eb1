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
from statistics import median

import pytest

from rusb.cli._bench import relay
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 1 << 20
CONTENT = random.Random(13).randbytes(4 * MIB)

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


def measure(
    guest: Guest, folder: Path, mode: str, rtt_ms: int, rounds: int = 3
) -> tuple[float, float]:
    """Read and write 4 MiB; return the medians of MiB a second."""
    image = folder / f"{mode}-{rtt_ms}.img"
    image.write_bytes(CONTENT * 6)
    digest = hashlib.sha256(CONTENT).hexdigest()
    reads, writes = [], []
    with far_disk(guest, folder / f"{mode}-{rtt_ms}", image, mode, rtt_ms) as server:
        for n in range(rounds):
            read = f"dd if=/dev/sda of=/tmp/read bs={MIB} count=4 iflag=direct"
            reads.append(4 / seconds(guest, f"{read} skip={4 * n}"))
            assert guest.sh("sha256sum /tmp/read").split()[0] == digest
            new = random.Random(n).randbytes(4 * MIB)
            guest.put("/tmp/new", new)
            write = f"dd if=/tmp/new of=/dev/sda bs={MIB} oflag=direct conv=notrunc"
            writes.append(4 / seconds(guest, f"{write} seek={12 + 4 * n}"))
            at = (12 + 4 * n) * MIB
            assert image.read_bytes()[at : at + len(new)] == new
        assert "storage: " not in server.log()
    return median(reads), median(writes)


def test_a_round_trip_is_paid_once_a_command(guest: Guest, tmp_path: Path) -> None:
    guest.sh("dmesg -c >/dev/null")
    off = measure(guest, tmp_path, "off", 20)
    early = measure(guest, tmp_path, "early", 20)
    gains = [b / a for a, b in zip(off, early, strict=True)]
    log = guest.sh("dmesg")
    assert "reset" not in log
    assert "rror" not in log
    assert min(gains) >= 1.5, (off, early)  # 2.5 or more if nothing else runs
