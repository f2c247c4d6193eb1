"""A Linux moves from one host to another, as the manual says it.

The hosts are processes in network namespaces of their own; they share the directory
with the images, as NFS would have it.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.console import Console
from tests.support.lab.peers import wait
from tests.support.lab.twohosts import PROGRAMS, Place, two_hosts

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("teleporting"),
]

MACHINE = "Traveller"
PORT = 6000


@pytest.fixture(scope="module")
def hosts(
    lab: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Place]]:
    """Two hosts with nothing on them."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking or os.geteuid():
        reason = f"needs root, and {' and '.join(lacking or PROGRAMS)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("hosts")
    with two_hosts(folder) as places:
        yield places


@pytest.fixture(scope="module")
def machine(hosts: tuple[Place, Place], iso: Path) -> tuple[Place, Place]:
    """The same machine at both, off; images are in a directory that both see."""
    near, far = hosts
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
    for host in hosts:
        mode = f"--uartmode1 server {host.folder}/console"
        host(f"VBoxManage modifyvm {MACHINE} {mode}")
    return hosts


def console_of(host: Place) -> Console:
    """The serial port of the machine, at one host."""
    return Console(host.folder / "console")


def teleport(near: Place, far: Place, more: str = "") -> str:
    """The manual's line."""
    return (
        f"VBoxManage controlvm {MACHINE} teleport --host {far.address} --port {PORT}"
        f" {more}"
    )


def test_a_linux_moves_there_and_back(machine: tuple[Place, Place]) -> None:
    near, far = machine
    near(f"VBoxManage startvm {MACHINE} --type headless")
    with console_of(near) as console:
        console.wait("SYSTEM IS UP")
        console("mkdir -p /mnt; mount -t tmpfs none /mnt")
        console("(while sleep 0.1; do echo >>/mnt/ticks; done) &")
        console("dmesg -c >/dev/null")
        assert (
            console("head -c 4194304 /dev/zero | tr '\\0' x >/dev/sda; echo $?") == "0"
        )
    for source, target in ((near, far), (far, near)):
        target(f"VBoxManage modifyvm {MACHINE} --teleporter on --teleporterport {PORT}")
        said = target(f"VBoxManage startvm {MACHINE} --type headless")
        assert f'VM "{MACHINE}" waits for a teleport on port {PORT}.' in said
        assert target.state(MACHINE) == "teleportingin"
        said = source(teleport(source, target))
        assert re.search(
            rf"The machine runs at {target.address}:{PORT}: \d+ MB transferred, it"
            r" stood still for \d+ ms\.",
            said,
        )
        print(said)
        assert source.state(MACHINE) == "poweroff"
        wait_state(target, "running")
        target(f"VBoxManage modifyvm {MACHINE} --teleporter off", 1)
        with console_of(target) as console:
            ticks = int(console("wc -l </mnt/ticks"))
            assert ticks > 0
            console("echo 3 >/proc/sys/vm/drop_caches")
            assert console("tr -d x </dev/sda | wc -c") == "0"
            assert console("dmesg | grep -c 'ata[0-9]\\|usb \\|rror'") == "0"
            console("sleep 0.5")
            assert int(console("wc -l </mnt/ticks")) > ticks
    near(f"VBoxManage controlvm {MACHINE} poweroff")


def wait_state(host: Place, wanted: str) -> None:
    end = time.monotonic() + 30
    while (found := host.state(MACHINE)) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.1)


def test_a_disk_at_a_client_is_read_and_written_through_a_move(
    machine: tuple[Place, Place],
) -> None:
    """The guest notices nothing of it, and no byte is wrong."""
    near, far = machine
    image = near.folder / "stick.img"
    image.write_bytes(random.Random(16).randbytes(4 << 20))
    wanted = hashlib.md5(image.read_bytes()[: 2 << 20]).hexdigest()
    near(f"VBoxManage modifyvm {MACHINE} --teleporter off --vrde on --vrdeport 5000")
    near(f"VBoxManage usbfilter add 0 --target {MACHINE} --name all")
    far(f"VBoxManage modifyvm {MACHINE} --teleporter on --teleporterport {PORT}")
    near(f"VBoxManage startvm {MACHINE} --type headless")
    far(f"VBoxManage startvm {MACHINE} --type headless")
    connect = f"{sys.executable} -m rusb connect localhost:5000 --backend"
    with console_of(near) as console:
        console.wait("SYSTEM IS UP")
        client = near.start(f"{connect} emulated:flash-drive={image}")
        try:
            console("mkdir -p /mnt; mount -t tmpfs none /mnt")
            console("until [ -b /dev/sdb ]; do sleep 0.1; done; dmesg -c >/dev/null")
            read = "dd if=/dev/sdb bs=65536 count=32 iflag=direct 2>/dev/null"
            console(
                f"(until [ -e /mnt/stop ]; do {read} | md5sum >>/mnt/sums;"
                " dd if=/dev/zero of=/dev/sdb bs=65536 seek=40 count=8 oflag=direct"
                " 2>>/mnt/bad; done) &"
            )
            console("until [ -s /mnt/sums ]; do sleep 0.1; done")
            said = near(teleport(near, far))
            assert "USB devices that stay plugged in over this host: 1." in said
            assert near.state(MACHINE) == "teleported"
            check_disk(far, wanted)
        finally:
            client.terminate()
            client.wait(30)
        wait_state(near, "poweroff")
        with console_of(far) as there:
            there("while [ -b /dev/sdb ]; do sleep 0.1; done")
        assert image.read_bytes()[40 << 16 : 48 << 16] == bytes(8 << 16)
    far(f"VBoxManage controlvm {MACHINE} poweroff")
    near(f"VBoxManage modifyvm {MACHINE} --vrde off")


def check_disk(host: Place, wanted: str) -> None:
    """It is read on, and was never wrong, nor away."""
    with console_of(host) as console:
        before = int(console("wc -l </mnt/sums"))
        console(f"until [ $(wc -l </mnt/sums) -gt {before + 2} ]; do sleep 0.1; done")
        console("touch /mnt/stop; sleep 2")
        assert console("sort -u /mnt/sums | wc -l") == "1"
        assert console("sort -u /mnt/sums").split()[0] == wanted
        assert console("grep -vc records /mnt/bad") == "0"
        assert console("dmesg | grep -c 'usb\\|rror'") == "0"


@pytest.fixture
def running(machine: tuple[Place, Place]) -> Iterator[tuple[Place, Place]]:
    """It runs at the first host and is awaited at the second; off at the end."""
    near, far = machine
    far(f"VBoxManage modifyvm {MACHINE} --teleporter on --teleporterport {PORT}")
    near(f"VBoxManage modifyvm {MACHINE} --teleporter off")
    for host in machine:
        host(f"VBoxManage startvm {MACHINE} --type headless")
    try:
        yield machine
    finally:
        for host in machine:
            host.link("up")
            if host.state(MACHINE) != "poweroff":
                host(f"VBoxManage controlvm {MACHINE} poweroff")


@pytest.fixture
def leaving(running: tuple[Place, Place]) -> Iterator[subprocess.Popen[bytes]]:
    """It is on its way, slowly."""
    near, far = running
    process = near.start(teleport(near, far, "--bandwidth 1"))
    wait_state(near, "teleporting")
    wait(lambda: "%" in near.said("ip"), "some of its memory")
    yield process
    process.kill()
    process.wait()


def process_of(host: Place) -> int:
    """Who runs the machine there."""
    shown = host(f"VBoxManage showvminfo {MACHINE} --json")
    return int(json.loads(shown)["live"]["process"])


def end_of(leaving: subprocess.Popen[bytes], host: Place) -> int:
    """With which status the command ends."""
    try:
        return leaving.wait(60)
    except subprocess.TimeoutExpired:
        log = max(host.folder.rglob("VBox.log"), key=lambda path: path.stat().st_mtime)
        pytest.fail(f"it said {host.said('ip')}, the log {log.read_text()[-2000:]}")


def test_ctrl_c_cancels(
    running: tuple[Place, Place], leaving: subprocess.Popen[bytes]
) -> None:
    near, far = running
    leaving.send_signal(signal.SIGINT)
    assert end_of(leaving, near) == 1
    assert "cancelled; the machine goes on here" in near.said("ip")
    assert near.state(MACHINE) == "running"
    wait_state(far, "poweroff")


def test_a_source_that_is_killed_is_gone_and_runs_nowhere(
    running: tuple[Place, Place], leaving: subprocess.Popen[bytes]
) -> None:
    near, far = running
    os.kill(process_of(near), signal.SIGKILL)
    assert end_of(leaving, near) == 1
    assert "it ended while it was being teleported" in near.said("ip")
    wait_state(far, "poweroff")
    assert near.state(MACHINE) == "poweroff"


def test_a_target_that_is_killed_leaves_it_at_the_source(
    running: tuple[Place, Place], leaving: subprocess.Popen[bytes]
) -> None:
    near, far = running
    os.kill(process_of(far), signal.SIGKILL)
    assert end_of(leaving, near) == 1
    assert "was lost" in near.said("ip")
    assert near.state(MACHINE) == "running"
    assert far.state(MACHINE) == "poweroff"


def test_a_cable_that_is_pulled_leaves_it_at_the_source(
    running: tuple[Place, Place], leaving: subprocess.Popen[bytes]
) -> None:
    near, far = running
    far.link("down")
    assert end_of(leaving, near) == 1
    assert "was lost" in near.said("ip")
    assert near.state(MACHINE) == "running"
    wait_state(far, "poweroff")
