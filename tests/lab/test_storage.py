"""A disk at a distance in a real Linux: right, and sooner with pipelining."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest

from tests.support.amount import IS_SOAK
from tests.support.lab.far import MIB, far_disk, seconds, speeds
from tests.support.lab.usblab import Guest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500 if IS_SOAK else 300)]

CONTENT = random.Random(13).randbytes(2 * MIB)

RTT_MS = 80
"""So long that what the processors take does not count, whatever else they do."""


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


@pytest.mark.soak
def test_a_round_trip_is_paid_once_a_command(guest: Guest, tmp_path: Path) -> None:
    guest.sh("dmesg -c >/dev/null")
    off = measure(guest, tmp_path, "off")
    early = measure(guest, tmp_path, "early")
    found = [a / b for a, b in zip(off, early, strict=True)]
    print(f"seconds off {off}, early {early}")
    log = guest.sh("dmesg")
    assert "reset" not in log
    assert "rror" not in log
    assert min(found) >= 1.5, (off, early)  # what else runs slows all down alike
    if IS_SOAK:
        check_figures(guest, tmp_path)


def test_reads_in_a_row_do_not_wait_for_the_network(
    guest: Guest, tmp_path: Path
) -> None:
    """And the content is right, also of what was written in between."""
    count = 12
    content = bytearray(random.Random(14).randbytes(count * MIB))
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    guest.sh("dmesg -c >/dev/null")
    with far_disk(guest, tmp_path / "off", image, "off", RTT_MS):
        dd = f"dd bs={MIB} if=/dev/sda iflag=direct"
        off = seconds(guest, f"{dd} of=/dev/null count=1")
    with far_disk(guest, tmp_path / "ahead", image, "ahead", RTT_MS) as server:
        ahead = seconds(guest, f"{dd} of=/tmp/read count={count}") / count
        digest = hashlib.sha256(content).hexdigest()
        assert guest.sh("sha256sum /tmp/read").split()[0] == digest
        new = random.Random(15).randbytes(MIB)
        guest.put("/tmp/new", new)
        for place in (1, 7):
            guest.sh(f"{dd} of=/dev/null count=1 skip={place - 1}")
            write = f"dd bs={MIB} if=/tmp/new of=/dev/sda seek={place}"
            guest.sh(f"{write} oflag=direct conv=notrunc", 120)
            content[place * MIB : (place + 1) * MIB] = new
        guest.sh(f"{dd} of=/tmp/read count={count}", 120)
        digest = hashlib.sha256(content).hexdigest()
        assert guest.sh("sha256sum /tmp/read").split()[0] == digest
        assert image.read_bytes() == content
        assert "storage: " not in server.log()
    log = guest.sh("dmesg")
    assert "reset" not in log
    assert "rror" not in log
    print(f"seconds a MiB: off {off}, ahead {ahead}")
    assert off / ahead >= 5  # 20 or more if nothing else runs


Speeds = dict[str, list[tuple[float, float]]]


def alternate(
    guest: Guest, folder: Path, modes: Sequence[str], rtt_ms: int, rounds: int
) -> Speeds:
    """Return the MiB a second, read and written, of each mode in turns."""
    found: Speeds = {mode: [] for mode in modes}
    folder.mkdir()
    sizes = {"read": 16, "write": 4} if rtt_ms else {"read": 32, "write": 8, "times": 8}
    for n in range(rounds):
        for mode in modes if n % 2 else reversed(modes):
            place = folder / f"{mode}-{n}"
            found[mode].append(speeds(guest, place, mode, rtt_ms, **sizes))
    print(rtt_ms, found)
    return found


def gains(found: Speeds, mode: str) -> list[float]:
    """Return how much faster a mode reads and writes than without, in the median of
    the rounds."""
    pairs = list(zip(found[mode], found["off"], strict=True))
    return [median(one[n] / off[n] for one, off in pairs) for n in (0, 1)]


def check_figures(guest: Guest, folder: Path) -> None:
    """At 20 ms each mode gains what it should, and nearby none loses anything."""
    far = alternate(guest, folder / "far", ("off", "early", "ahead"), 20, 3)
    assert min(gains(far, "early")) >= 2.5
    assert gains(far, "ahead")[0] >= 15
    near = alternate(guest, folder / "near", ("off", "early"), 0, 5)
    assert min(gains(near, "early")) >= 0.9
