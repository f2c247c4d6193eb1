"""What ``dd`` in a guest gets of a disk at libusb: rusb beside Debian's usbredirect.

``python tools/disks.py [--rounds N]`` boots a Linux under QEMU and gives it the same
simulated disk (tools/fakeusb, so it needs root) in turns: through ``rusb serve`` and
``rusb connect``, and through usbredirect, which speaks usbredir to QEMU without TLS.
Prints medians of MB/s, and CPU ms for each MB: of rusb's two processes, of usbredirect.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from tests.support.lab.usblab import Guest  # noqa: E402
from tests.support.rusbserver import RusbServer, free_port  # noqa: E402

FAKEUSB = CHECKOUT / "tools" / "fakeusb"
DISK_MIB = 64
TICK = os.sysconf("SC_CLK_TCK")

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{5b7c8f10-7a44-4e0b-9c1d-5f2a9be6a7f1}" name="Disks">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""

WORK = {
    "read 4 KiB": ("read", 4, 512),
    "read 120 KiB": ("read", 120, 200),
    "read 1 MiB": ("read", 1024, 40),
    "write 120 KiB": ("write", 120, 200),
    "write 1 MiB": ("write", 1024, 40),
}
"""By the name of the row: which way, KiB of a command, how many."""


def simulated(folder: Path, *command: str) -> list[str]:
    """A command that finds the disk, and nothing else, on its USB buses."""
    words = [str(FAKEUSB / "fakeusb-run"), "-r", str(folder / "usb"), "-d", "1-1"]
    return [*words, "-D", str(folder / "disk.img"), *command]


@contextlib.contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the block ends, with what it says in a file."""
    env = {**os.environ, "RUSB_STATE": str(folder), "FAKEUSB_MAX_URB": str(16 << 20)}
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=env, stdout=said, stderr=said
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def by_rusb(guest: Guest, folder: Path) -> Iterator[list[int]]:
    """The guest has the disk through rusb; yield the processes."""
    server = RusbServer(folder, MACHINE, "--guest", f"qemu:{guest.monitor}")
    try:
        server.wait_log("TCP server listening")
        words = "-m", "rusb", "connect", "--force", "--wire", "vrdpusb"
        command = sys.executable, *words, f"127.0.0.1:{server.port}"
        with running(simulated(folder, *command), folder) as client:
            yield [server.process.pid, client.pid]
    finally:
        server.stop()


@contextlib.contextmanager
def by_usbredirect(guest: Guest, folder: Path) -> Iterator[list[int]]:
    """The guest has the disk through usbredirect; yield the process."""
    port = str(free_port())
    address = {"type": "inet", "data": {"host": "127.0.0.1", "port": port}}
    data = {"addr": address, "server": True, "wait": False}
    guest.qmp("chardev-add", id="cpeer", backend={"type": "socket", "data": data})
    guest.qmp(
        "device_add", driver="usb-redir", id="peer", chardev="cpeer", bus="xhci.0"
    )
    words = "usbredirect", "--device", "1209:0001", "--to", f"127.0.0.1:{port}"
    try:
        with running(simulated(folder, *words), folder) as process:
            yield [process.pid]
    finally:
        guest.unplug("peer")


WAYS = {"rusb": by_rusb, "usbredirect": by_usbredirect}


def cpu(processes: list[int]) -> float:
    """Seconds of CPU that processes have used."""
    used = 0
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICK


def measure(guest: Guest, processes: list[int]) -> dict[str, tuple[float, float]]:
    """MB/s and CPU ms for each MB, by the name of the row."""
    guest.wait("test -b /dev/sda && dd if=/dev/sda of=/dev/null bs=4k count=1")
    guest.sh("echo 2048 >/sys/block/sda/device/max_sectors")
    guest.sh("echo 1024 >/sys/block/sda/queue/max_sectors_kb")
    guest.sh("dd if=/dev/sda of=/dev/null bs=1M count=8 iflag=direct")
    found = {}
    for name, (way, size, count) in WORK.items():
        files = ("/dev/sda", "/dev/null", "iflag")
        if way == "write":
            files = ("/dev/zero", "/dev/sda", "oflag")
        source, target, flag = files
        command = f"dd if={source} of={target} bs={size}k count={count} {flag}=direct"
        before, start = cpu(processes), time.monotonic()
        guest.sh(command, 300)
        seconds, mb = time.monotonic() - start, size * count * 1024 / 1e6
        found[name] = mb / seconds, (cpu(processes) - before) / mb * 1000
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print every round")
    args = parser.parse_args()
    subprocess.run(["make", "-s", "-C", FAKEUSB], check=True)
    rounds: list[dict[str, dict[str, tuple[float, float]]]] = []
    with Guest() as guest:
        for _ in range(args.rounds):
            rounds.append({})
            for way, attached in WAYS.items():
                with tempfile.TemporaryDirectory(prefix="disks") as name:
                    folder = Path(name)
                    image = folder / "disk.img"
                    image.write_bytes(os.urandom(1 << 20) * DISK_MIB)
                    with attached(guest, folder) as processes:
                        rounds[-1][way] = measure(guest, processes)
                    guest.wait("! test -b /dev/sda")
    if args.json:
        print(json.dumps(rounds))
    print("| | " + " | ".join(f"{way} MB/s | CPU ms/MB" for way in WAYS) + " | ratio |")
    print("|---|" + "--:|" * (2 * len(WAYS) + 1))
    for row in WORK:
        cells, speeds = [], []
        for way in WAYS:
            speed, used = (
                median(found[way][row][i] for found in rounds) for i in (0, 1)
            )
            speeds.append(speed)
            cells += [f"{speed:.1f}", f"{used:.1f}"]
        ratio = median(r["rusb"][row][0] / r["usbredirect"][row][0] for r in rounds)
        print(f"| {row} | " + " | ".join(cells) + f" | {ratio:.2f} |")


if __name__ == "__main__":
    main()
