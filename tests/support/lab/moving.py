"""A small Linux that both of two hosts can run, and what is said to move it."""

import json
import os
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from rusb.server.vbox.lock import holder_of
from tests.support.lab.console import Console
from tests.support.lab.twohosts import Place
from tests.support.lab.vboxshell import processes_with

__all__ = [
    "MACHINE",
    "PORT",
    "check_nothing_left",
    "console_of",
    "downtime",
    "make_machine",
    "of_five",
    "process_of",
    "start_waiting",
    "teleport",
    "wait_state",
]

MACHINE = "Traveller"
PORT = 6000


def make_machine(near: Place, far: Place, iso: Path) -> None:
    """Have the same machine at both, off; its images are where both see them."""
    shared = near.folder.parent / "shared"
    shared.mkdir()
    disk = shared / "disk.img"
    disk.write_bytes(bytes(4 << 20))
    near(f"VBoxManage createvm --name {MACHINE} --register")
    near(f"VBoxManage modifyvm {MACHINE} --memory 192 --usbxhci on --boot1 dvd")
    near(f"VBoxManage modifyvm {MACHINE} --uart1 0x3F8 4")
    near(f"VBoxManage storagectl {MACHINE} --name IDE --add ide")
    place = f"VBoxManage storageattach {MACHINE} --storagectl IDE"
    near(f"{place} --port 0 --device 0 --type hdd --medium {disk}")
    near(f"{place} --port 1 --device 0 --type dvddrive --medium {iso}")
    (path,) = re.findall(
        'CfgFile="(.*)"', near(f"VBoxManage showvminfo {MACHINE} --machinereadable")
    )
    copied = far.folder / f"{MACHINE}.vbox"
    text = Path(path).read_text()
    folder = Path(path).parent
    copied.write_text(
        re.sub(r'location="([^/][^"]*)"', rf'location="{folder}/\1"', text)
    )
    far(f"VBoxManage registervm {copied}")
    for host in (near, far):
        mode = f"--uartmode1 server {host.folder}/console"
        host(f"VBoxManage modifyvm {MACHINE} {mode}")


def console_of(host: Place) -> Console:
    """The serial port of the machine, at one host."""
    return Console(host.folder / "console")


def start_waiting(host: Place) -> None:
    """Have it awaited at a host, as the manual says."""
    host(f"VBoxManage modifyvm {MACHINE} --teleporter on --teleporterport {PORT}")
    said = host(f"VBoxManage startvm {MACHINE} --type headless")
    assert f'VM "{MACHINE}" waits for a teleport on port {PORT}.' in said
    assert host.state(MACHINE) == "teleportingin"


def teleport(far: Place, more: str = "") -> str:
    """The manual's line: it goes to *far*."""
    return (
        f"VBoxManage controlvm {MACHINE} teleport --host {far.address} --port {PORT}"
        f" {more}"
    )


def wait_state(host: Place, wanted: str) -> None:
    """Wait until it is so at a host."""
    end = time.monotonic() + 60
    while (found := host.state(MACHINE)) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.1)


def process_of(host: Place) -> int:
    """Who runs the machine there."""
    shown = host(f"VBoxManage showvminfo {MACHINE} --json")
    return int(json.loads(shown)["live"]["process"])


def downtime(said: str) -> int:
    """For how many milliseconds it was paused, as the command says."""
    (found,) = re.findall(r"paused for (\d+) ms\.", said)
    return int(found)


def of_five(times: Sequence[int]) -> str:
    """The median of the first five moves, and all of them."""
    first = times[:5]
    return f"median of {len(first)}: {statistics.median(first):.0f} ms, all: {times}"


def check_nothing_left(hosts: tuple[Place, Place]) -> None:
    """The machine is off at both: no process is left, no socket and no token."""
    for host in hosts:
        wait_state(host, "poweroff")
        end = time.monotonic() + 20
        while left := processes_with(f"RUSB_STATE={host.env['RUSB_STATE']}"):
            assert time.monotonic() < end, left
            time.sleep(0.1)
        names = os.listdir(host.env["RUSB_RUNTIME"])
        assert [name for name in names if not name.endswith(".lock")] == []
        for lock in Path(host.env["RUSB_RUNTIME"]).glob("*.lock"):
            assert holder_of(lock) is None
    shared = hosts[0].folder.parent / "shared"
    assert [path.name for path in shared.iterdir()] == ["disk.img"]
