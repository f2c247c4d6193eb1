"""A Linux moves while it uses a disk, a keyboard and a serial port of a client.

Its kernel sees no unplug, and no byte, key or line is lost or doubled.
"""

import hashlib
import logging
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.amount import IS_SOAK
from tests.support.lab.freerdp import build, freerdp
from tests.support.lab.moving import (
    MACHINE,
    check_nothing_left,
    console_of,
    downtime,
    of_five,
    process_of,
    start_waiting,
    teleport,
    wait_state,
)
from tests.support.lab.peers import Display
from tests.support.lab.twohosts import Place
from tests.support.lab.working import READ, at_work

ROUNDS = 10 if IS_SOAK else 1
"""Of two moves each."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(400 * ROUNDS),
    pytest.mark.xdist_group("teleporting-devices"),
]

figures = logging.getLogger("figures")
"""Downtimes, for ``-o log_cli=true --log-level=INFO``."""


def move(source: Place, target: Place) -> str:
    """Move it; return what the command said."""
    start_waiting(target)
    said = source(teleport(target))
    wait_state(target, "running")
    return said


def cancel(source: Place, target: Place) -> None:
    """Have it moved to a host that it came from, and cancel that when it has begun."""
    start_waiting(target)
    leaving = source.start(teleport(target, "--bandwidth 1"))
    end = time.monotonic() + 60
    while "10%" not in source.said("ip"):
        assert time.monotonic() < end, source.said("ip")
        time.sleep(0.1)
    leaving.send_signal(signal.SIGINT)
    assert leaving.wait(60) == 1
    assert "cancelled; the machine goes on here" in source.said("ip")
    wait_state(target, "teleported")


def test_all_of_it_goes_on_while_the_client_changes_over(
    hosts: tuple[Place, Place],
) -> None:
    """Serial ports are open in the guest all the time (teleport.md 7.9); the client of
    one stays, so that further moves need its host. One of them is cancelled."""
    near, far = hosts
    near(f"VBoxManage modifyvm {MACHINE} --vrdemulticon on")
    far(f"VBoxManage modifyvm {MACHINE} --vrde on --vrdeport 5000")
    far(f"VBoxManage usbfilter add 0 --target {MACHINE} --name all")
    with at_work(hosts, "reconnect") as (typist, work, wanted):
        for source, target in ((near, far), (far, near)):
            said = move(source, target)
            assert "still come through this host: 4." in said
            with console_of(target) as console:
                work.check_goes_on(console)
                if target is far:
                    cancel(far, near)
                    work.check_goes_on(console)
        wait_state(far, "poweroff")  # nothing comes over it any more
        work.end(near, typist, wanted)
    check_nothing_left(hosts)


@pytest.mark.soak
def test_a_disk_a_keyboard_and_a_serial_port_go_there_and_back(
    hosts: tuple[Place, Place],
) -> None:
    near, far = hosts
    times, files = [], []
    with at_work(hosts) as (typist, work, wanted):
        files.append(len(os.listdir(f"/proc/{process_of(near)}/fd")))
        for _ in range(ROUNDS):
            said = move(near, far)
            assert "USB devices that still come through this host: 3." in said
            assert near.state(MACHINE) == "teleported"
            with console_of(far) as console:
                work.check_goes_on(console)
            times.append(downtime(said))
            said = move(far, near)
            assert "still come through this host: 3." in said
            wait_state(far, "poweroff")  # nothing comes over it any more
            with console_of(near) as console:
                work.check_goes_on(console)
            times.append(downtime(said))
            files.append(len(os.listdir(f"/proc/{process_of(near)}/fd")))
        figures.info("with devices: %s", of_five(times))
        # a device that came home has two sockets more; and a reader, now and then
        assert max(files[1:]) <= files[0] + 2 * 3 + 1
        work.end(near, typist, wanted)
    check_nothing_left(hosts)


@pytest.mark.soak
def test_devices_of_xfreerdp_stay_and_leave_with_it(
    hosts: tuple[Place, Place], programs: None, tmp_path: Path
) -> None:
    near, far = hosts
    build()
    content = random.Random(17).randbytes(4 << 20)
    wanted = hashlib.md5(content[: 2 << 20]).hexdigest()
    near(f"VBoxManage modifyvm {MACHINE} --teleporter off --vrde on --vrdeport 5000")
    near(f"VBoxManage startvm {MACHINE} --type headless")
    home = tmp_path / "client"
    home.mkdir()
    (home / "disk.img").write_bytes(content)
    with console_of(near) as console, Display(tmp_path) as display:
        console.wait("SYSTEM IS UP")
        with freerdp(5000, display, home, "1209:0001", space=near.space):
            console("mkdir -p /mnt; mount -t tmpfs none /mnt")
            console("until [ -b /dev/sdb ]; do sleep 0.1; done; dmesg -c >/dev/null")
            console(f"(until [ -e /mnt/stop ]; do {READ} >>/mnt/sums; done) &")
            console("until [ -s /mnt/sums ]; do sleep 0.1; done")
            said = move(near, far)
            assert "USB devices that still come through this host: 1." in said
            assert near.state(MACHINE) == "teleported"
            with console_of(far) as there:
                lines = "$(wc -l </mnt/sums)"
                there(f"n={lines}; until [ {lines} -gt $((n+2)) ]; do sleep 0.1; done")
                there("touch /mnt/stop; sleep 1")
                assert there("sort -u /mnt/sums | wc -l") == "1"
                assert there("sort -u /mnt/sums").split()[0] == wanted
                assert there("dmesg | grep -c 'usb\\|rror'") == "0"
    wait_state(near, "poweroff")
    with console_of(far) as there:
        there("while [ -b /dev/sdb ]; do sleep 0.1; done")
    far(f"VBoxManage controlvm {MACHINE} poweroff")
    check_nothing_left(hosts)
