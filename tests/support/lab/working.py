"""A Linux that works with a disk, a keyboard and a serial port of a client while it
moves, and what is checked of that: nothing is lost, doubled or unplugged.
"""

import contextlib
import hashlib
import random
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.lab.console import Console
from tests.support.lab.moving import MACHINE, console_of
from tests.support.lab.twohosts import Place
from tests.support.rusbserver import CHECKOUT

__all__ = ["READ", "Typist", "Work", "at_work"]

READ = "dd if=/dev/sdb bs=65536 count=32 iflag=direct 2>/dev/null | md5sum"
WRITE = "dd if=/dev/zero of=/dev/sdb bs=65536 seek=40 count=8 oflag=direct"
DISK = f"until [ -e /mnt/stop ]; do {READ} >>/mnt/sums; {WRITE} 2>>/mnt/bad; done"
# the kernel drops keys that nobody reads in time
KEYBOARD = "renice -n -20 -p $$; exec cat /dev/input/event{} >>/mnt/keys"
FIND = "grep -l 'rusb Keyboard' /sys/class/input/event*/device/name"

OPEN = "exec 4<>/dev/{0}; stty -F /dev/{0} raw -echo"
PORTS = "ttyACM0", "ttyACM1"
ONCE = "n=$((n+1)); echo $n >&4; read x <&4; echo $n $x >>/mnt/{0}; sleep 0.1"
ECHO = f"n=0; {OPEN}; until [ -e /mnt/stop ]; do {ONCE}; done"
"""One number after the other; a byte that is lost ends it, one too many is seen."""


class Typist:
    """The client (``tests/support/lab/typist.py``), at a host."""

    def __init__(self, host: Place, image: Path, *more: str) -> None:
        words = [sys.executable, "-m", "tests.support.lab.typist", "5000", str(image)]
        words += more
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
    """What the guest does with the devices, and how far it is."""

    def __init__(self, console: Console, *ports: str) -> None:
        self._ports = ports
        self._files = ["sums", "keys", *ports]
        devices = " -a ".join(f"-c /dev/{port}" for port in ports)
        console("mkdir -p /mnt; mount -t tmpfs none /mnt")
        console(f"until [ -b /dev/sdb -a {devices} ]; do sleep 0.1; done")
        console(f"until {FIND} >/dev/null; do sleep 0.1; done")
        number = console(f"{FIND} | sed 's/.*event\\([0-9]*\\).*/\\1/'")
        console(f"({DISK}; echo >>/mnt/over) &")
        console(f"sh -c '{KEYBOARD.format(number)}' &")
        for port in ports:
            console(f"({ECHO.format(port)}) &")
        console("until [ -s /mnt/sums ]; do sleep 0.1; done")
        console("dmesg -c >/dev/null")

    def check_goes_on(self, console: Console) -> None:
        """Wait until all of it is further than now."""
        for name in self._files:
            size = f"$(wc -c </mnt/{name})"
            wait = (
                f"until [ {size} -gt $n -o $i = 300 ]; do sleep 0.1; i=$((i+1)); done"
            )
            if console(f"n={size}; i=0; {wait}; echo $i") == "300":
                pytest.fail(f"{name} does not go on: {log_of(console)}")

    def end(self, host: Place, typist: Typist, wanted: str) -> None:
        """Stop, disconnect, power off: nothing was lost or unplugged before.

        Args:
            host: where it runs.
            typist: whose devices it works with.
            wanted: checksum of what is on the disk.
        """
        with console_of(host) as console:
            self._check(console, wanted, typist.end())
            typist.leave()
            console("while [ -b /dev/sdb -o -c /dev/ttyACM0 ]; do sleep 0.1; done")
        host(f"VBoxManage controlvm {MACHINE} poweroff")

    def _check(self, console: Console, wanted: str, typed: str) -> None:
        """Stop; nothing was lost, doubled or wrong, and nothing unplugged."""
        console("touch /mnt/stop; until [ -e /mnt/over ]; do sleep 0.1; done")
        assert console("sort -u /mnt/sums | wc -l") == "1"
        assert console("sort -u /mnt/sums").split()[0] == wanted
        assert console("grep -vc records /mnt/bad") == "0"
        wrong = "$1 != NR || $2 != NR || NF != 2"
        for port in self._ports:
            assert console(f"awk '{wrong}' /mnt/{port} | wc -l") == "0"
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
    hosts: tuple[Place, Place], *more: str
) -> Iterator[tuple[Typist, Work, str]]:
    """The machine runs at the first host and uses a client's devices.

    Args:
        more: ``reconnect``: the client changes over, and there is another one, which
            stays.
    """
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
            typist = Typist(near, image, *more)
            stack.callback(typist.leave)
            work = Work(console, *PORTS[: 1 + len(more)])
            typist.begin()
            work.check_goes_on(console)
        yield typist, work, wanted
    assert image.read_bytes()[40 << 16 : 48 << 16] == bytes(8 << 16)


def log_of(console: Console) -> str:
    """The end of the kernel's log, in a line."""
    return console("dmesg | tail -20 | tr '\\n' '|'; echo")
