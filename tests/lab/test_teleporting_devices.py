"""A Linux moves while it uses a disk, a keyboard and a serial port of a client.

Its kernel sees no unplug, and no byte, key or line is lost or doubled.
"""

import contextlib
import hashlib
import logging
import os
import random
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.amount import IS_SOAK
from tests.support.lab.console import Console
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
from tests.support.rusbserver import CHECKOUT

ROUNDS = 10 if IS_SOAK else 1
"""Of two moves each."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.soak,
    pytest.mark.timeout(400 * ROUNDS),
    pytest.mark.xdist_group("teleporting-devices"),
]

READ = "dd if=/dev/sdb bs=65536 count=32 iflag=direct 2>/dev/null | md5sum"
WRITE = "dd if=/dev/zero of=/dev/sdb bs=65536 seek=40 count=8 oflag=direct"
DISK = f"until [ -e /mnt/stop ]; do {READ} >>/mnt/sums; {WRITE} 2>>/mnt/bad; done"
KEYBOARD = "while :; do cat /dev/input/event{} >>/mnt/keys; done"
FIND = "grep -l 'rusb Keyboard' /sys/class/input/event*/device/name"

OPEN = "exec 4<>/dev/ttyACM0; stty -F /dev/ttyACM0 raw -echo"
CLOSE = "exec 4>&-"
TALK = "for n in $(seq 50); do echo $n >&4; read x <&4; [ $x = $n ] || echo $n $x; done"


figures = logging.getLogger("figures")
"""Downtimes, for ``-o log_cli=true --log-level=INFO``."""


class Typist:
    """The client (``tests/support/lab/typist.py``), at a host."""

    def __init__(self, host: Place, image: Path) -> None:
        words = [sys.executable, "-m", "tests.support.lab.typist", "5000", str(image)]
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", host.space, *words],
            env=host.env,
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._words = self._pipe(self._process.stdin)
        self._said = self._pipe(self._process.stdout)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _tell(self) -> None:
        self._words.write("\n")
        self._words.flush()

    def begin(self) -> None:
        """Type from now on."""
        self._tell()

    def end(self) -> str:
        """Type no more; return what was typed."""
        self._tell()
        for line in self._said:
            if line.strip().isdigit():
                letters = string.ascii_lowercase
                return "".join(letters[n % 26] for n in range(int(line)))
        pytest.fail("the client has ended")

    def leave(self) -> None:
        """Disconnect, and wait for that."""
        with contextlib.suppress(BrokenPipeError):
            self._words.close()
        self._said.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()


class Work:
    """What the guest does with the disk and the keyboard, and how far it is."""

    def __init__(self, console: Console) -> None:
        console("mkdir -p /mnt; mount -t tmpfs none /mnt")
        console("until [ -b /dev/sdb -a -c /dev/ttyACM0 ]; do sleep 0.1; done")
        console(f"until {FIND} >/dev/null; do sleep 0.1; done")
        number = console(f"{FIND} | sed 's/.*event\\([0-9]*\\).*/\\1/'")
        console(f"({DISK}; echo >>/mnt/over) &")
        console(f"({KEYBOARD.format(number)}) &")
        console("until [ -s /mnt/sums ]; do sleep 0.1; done")
        console("dmesg -c >/dev/null")

    def check_goes_on(self, console: Console) -> None:
        """Wait until both are further than now."""
        for name in ("sums", "keys"):
            size = f"$(wc -c </mnt/{name})"
            wait = (
                f"until [ {size} -gt $n -o $i = 300 ]; do sleep 0.1; i=$((i+1)); done"
            )
            if console(f"n={size}; i=0; {wait}; echo $i") == "300":
                pytest.fail(f"{name} does not go on: {log_of(console)}")

    def check(self, console: Console, wanted: str, typed: str) -> None:
        """Stop; nothing was lost, doubled or wrong, and nothing unplugged."""
        console("touch /mnt/stop; until [ -e /mnt/over ]; do sleep 0.1; done")
        assert console("sort -u /mnt/sums | wc -l") == "1"
        assert console("sort -u /mnt/sums").split()[0] == wanted
        assert console("grep -vc records /mnt/bad") == "0"
        end = time.monotonic() + 60
        while len(keys := self._keys(console)) < len(typed):
            assert time.monotonic() < end, (keys, typed)
            time.sleep(0.5)
        assert keys == typed
        assert console("dmesg | grep -c 'usb\\|rror'") == "0"

    @staticmethod
    def _keys(console: Console) -> str:
        """The letters whose keys went down (linux/input.h: type 1, value 1)."""
        dump = 'hexdump -v -e \'24/1 "%02x" "\\n"\' /mnt/keys'
        take = "sed -n 's/^.*0100\\(..\\)0001000000$/\\1/p' | tr '\\n' ' '"
        codes = console(f"{dump} | {take}; echo").split()
        return "".join(LETTERS[int(code, 16)] for code in codes)


LETTERS = dict(
    zip(
        (*range(16, 26), *range(30, 39), *range(44, 51)),
        "qwertyuiopasdfghjklzxcvbnm",
        strict=True,
    )
)
"""By code of the key (linux/input-event-codes.h)."""


@contextlib.contextmanager
def at_work(
    hosts: tuple[Place, Place],
) -> Iterator[tuple[Typist, Work, str]]:
    """The machine runs at the first host and uses a client's devices."""
    near, far = hosts
    image = near.folder / "stick.img"
    image.write_bytes(random.Random(16).randbytes(4 << 20))
    wanted = hashlib.md5(image.read_bytes()[: 2 << 20]).hexdigest()
    near(f"VBoxManage modifyvm {MACHINE} --teleporter off --vrde on --vrdeport 5000")
    near(f"VBoxManage usbfilter add 0 --target {MACHINE} --name all")
    near(f"VBoxManage startvm {MACHINE} --type headless")
    with contextlib.ExitStack() as stack:
        with console_of(near) as console:
            console.wait("SYSTEM IS UP")
            typist = Typist(near, image)
            stack.callback(typist.leave)
            work = Work(console)
            typist.begin()
            work.check_goes_on(console)
        yield typist, work, wanted
    assert image.read_bytes()[40 << 16 : 48 << 16] == bytes(8 << 16)


def log_of(console: Console) -> str:
    """The end of the kernel's log, in a line."""
    return console("dmesg | tail -20 | tr '\\n' '|'; echo")


def talk(console: Console) -> None:
    """What is written to the serial port comes back, once and in order."""
    console(OPEN)
    assert console(f"{TALK}; echo right") == "right"
    console(CLOSE)


def move(source: Place, target: Place) -> str:
    """Move it; return what the command said."""
    start_waiting(target)
    said = source(teleport(target))
    wait_state(target, "running")
    return said


def test_a_disk_a_keyboard_and_a_serial_port_go_there_and_back(
    hosts: tuple[Place, Place],
) -> None:
    near, far = hosts
    times, files = [], []
    with at_work(hosts) as (typist, work, wanted):
        with console_of(near) as console:
            talk(console)
        files.append(len(os.listdir(f"/proc/{process_of(near)}/fd")))
        for _ in range(ROUNDS):
            said = move(near, far)
            assert "USB devices that stay plugged in over this host: 3." in said
            assert near.state(MACHINE) == "teleported"
            with console_of(far) as console:
                work.check_goes_on(console)
                talk(console)
            times.append(downtime(said))
            said = move(far, near)
            assert "stay plugged in over this host: 3." in said
            wait_state(far, "poweroff")  # nothing comes over it any more
            with console_of(near) as console:
                work.check_goes_on(console)
                talk(console)
            times.append(downtime(said))
            files.append(len(os.listdir(f"/proc/{process_of(near)}/fd")))
        figures.info("with devices: %s", of_five(times))
        # a device that came home has two sockets more; and a reader, now and then
        assert max(files[1:]) <= files[0] + 2 * 3 + 1
        with console_of(near) as console:
            work.check(console, wanted, typist.end())
            # QEMU would lose what waits there (teleport.md 7.9)
            console(OPEN)
            start_waiting(far)
            said = near(teleport(far), 1)
            assert "several reads waiting at 1209:0003 rusb Serial Loopback" in said
            assert near.state(MACHINE) == "running"
            console(f"{TALK}; {CLOSE}")
            typist.leave()
            console("while [ -b /dev/sdb -o -c /dev/ttyACM0 ]; do sleep 0.1; done")
    for host in hosts:
        host(f"VBoxManage controlvm {MACHINE} poweroff")
    check_nothing_left(hosts)


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
            assert "USB devices that stay plugged in over this host: 1." in said
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
