"""A Linux moves from one host to another, as the manual says it.

The hosts are processes in network namespaces of their own; they share the directory
with the images, as NFS would have it.
"""

import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.amount import IS_SOAK
from tests.support.lab.moving import (
    MACHINE,
    PORT,
    check_nothing_left,
    console_of,
    downtime,
    of_five,
    process_of,
    start_waiting,
    teleport,
    wait_state,
)
from tests.support.lab.peers import wait
from tests.support.lab.twohosts import Place

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("teleporting"),
]


figures = logging.getLogger("figures")
"""Downtimes, for ``-o log_cli=true --log-level=INFO``."""


@pytest.mark.soak
@pytest.mark.timeout(3000 if IS_SOAK else 300)
def test_a_linux_moves_there_and_back(hosts: tuple[Place, Place]) -> None:
    near, far = hosts
    near(f"VBoxManage startvm {MACHINE} --type headless")
    with console_of(near) as console:
        console.wait("SYSTEM IS UP")
        console("mkdir -p /mnt; mount -t tmpfs none /mnt")
        console("(while sleep 0.1; do echo >>/mnt/ticks; done) &")
        console("dmesg -c >/dev/null")
        assert (
            console("head -c 4194304 /dev/zero | tr '\\0' x >/dev/sda; echo $?") == "0"
        )
    times = []
    for source, target in ((near, far), (far, near)) * (10 if IS_SOAK else 1):
        start_waiting(target)
        said = source(teleport(target))
        assert re.search(
            rf"The machine now runs at {target.address}:{PORT}: \d+ MB transferred,"
            r" paused for \d+ ms\.",
            said,
        )
        times.append(downtime(said))
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
    figures.info("without devices: %s", of_five(times))
    near(f"VBoxManage controlvm {MACHINE} poweroff")
    check_nothing_left(hosts)


@pytest.fixture
def running(hosts: tuple[Place, Place]) -> Iterator[tuple[Place, Place]]:
    """It runs at the first host and is awaited at the second; off at the end."""
    near, far = hosts
    far(f"VBoxManage modifyvm {MACHINE} --teleporter on --teleporterport {PORT}")
    near(f"VBoxManage modifyvm {MACHINE} --teleporter off")
    for host in hosts:
        host(f"VBoxManage startvm {MACHINE} --type headless")
    try:
        yield hosts
    finally:
        for host in hosts:
            host.link("up")
            if host.state(MACHINE) != "poweroff":
                host(f"VBoxManage controlvm {MACHINE} poweroff")


@pytest.fixture
def leaving(running: tuple[Place, Place]) -> Iterator[subprocess.Popen[bytes]]:
    """It is on its way, slowly."""
    near, far = running
    process = near.start(teleport(far, "--bandwidth 1"))
    wait_state(near, "teleporting")
    wait(lambda: "%" in near.said("ip"), "some of its memory")
    yield process
    process.kill()
    process.wait()


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_source_that_is_killed_is_gone_and_runs_nowhere(
    number: signal.Signals,
    running: tuple[Place, Place],
    leaving: subprocess.Popen[bytes],
) -> None:
    near, far = running
    os.kill(process_of(near), number)
    assert end_of(leaving, near) == 1
    said = near.said("ip")
    is_told = number == signal.SIGTERM and "the teleport was cancelled" in said
    assert is_told or "it ended while it was being teleported" in said
    for host in (near, far):
        wait_state(host, "poweroff")


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGTERM, "the target was powered off"),
        (signal.SIGKILL, "was lost"),
    ],
)
def test_a_target_that_is_killed_leaves_it_at_the_source(
    number: signal.Signals,
    why: str,
    running: tuple[Place, Place],
    leaving: subprocess.Popen[bytes],
) -> None:
    near, far = running
    os.kill(process_of(far), number)
    assert end_of(leaving, near) == 1
    assert why in near.said("ip")
    assert near.state(MACHINE) == "running"
    wait_state(far, "poweroff")


def test_a_cable_that_is_pulled_leaves_it_at_the_source(
    running: tuple[Place, Place], leaving: subprocess.Popen[bytes]
) -> None:
    near, far = running
    far.link("down")
    assert end_of(leaving, near) == 1
    assert "was lost" in near.said("ip")
    assert near.state(MACHINE) == "running"
    wait_state(far, "poweroff")
