"""A disk at a distance in a real Linux: right, and sooner with pipelining."""

import hashlib
import random
from pathlib import Path

import pytest

from tests.support.lab.far import far_disk, seconds
from tests.support.lab.usblab import Guest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MIB = 1 << 20
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
