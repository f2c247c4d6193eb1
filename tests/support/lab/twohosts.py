"""Two hosts: network namespaces with a cable between them, each with a home."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.lab.vboxshell import Shell, end_all

__all__ = ["PROGRAMS", "Place", "two_hosts"]

PROGRAMS = ("ip",)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


class Place(Shell):
    """A host.

    Args:
        folder: its home.
        runtime: its folder of sockets.
        space: its network namespace.
        address: in the network that both are in.
    """

    def __init__(self, folder: Path, runtime: str, space: str, address: str) -> None:
        folder.mkdir(parents=True)
        # the real program: one that was started before is in no namespace
        super().__init__(folder, runtime, folder / "bin" / "VBoxHeadless")
        self.space, self.address = space, address

    def __call__(self, line: str, status: int = 0) -> str:
        return super().__call__(f"ip netns exec {self.space} {line}", status)

    def start(self, line: str, **env: str) -> subprocess.Popen[bytes]:
        return super().start(f"ip netns exec {self.space} {line}", **env)

    def link(self, state: str) -> None:
        """Take its end of the cable ``down``, or ``up`` again."""
        _run(*("ip", "-n", self.space, "link", "set", "eth0", state))

    def state(self, name: str) -> str:
        """What ``showvminfo`` says of a machine."""
        shown = self(f"VBoxManage showvminfo {name} --machinereadable")
        (word,) = (x for x in shown.splitlines() if x.startswith("VMState="))
        return word.removeprefix("VMState=").strip('"')


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Place, Place]]:
    """Yield two hosts; what they run is ended."""
    number = os.getpid()
    subnet = f"10.{100 + number // 250 % 100}.{number % 250}"
    spaces = [f"rusb-{number}-{side}" for side in "ab"]
    with contextlib.ExitStack() as stack:
        for space in spaces:
            _run("ip", "netns", "add", space)
            stack.callback(_run, "ip", "netns", "del", space)
        one, two = spaces
        near = ("ip", "-n", one, "link", "add", "eth0", "type", "veth")
        _run(*near, "peer", "name", "eth0", "netns", two)
        places = []
        for last, space in enumerate(spaces, 1):
            address = f"{subnet}.{last}"
            _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")
            runtime = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
            place = Place(folder / f"host{last}", runtime, space, address)
            stack.callback(end_all, f"RUSB_STATE={place.env['RUSB_STATE']}")
            places.append(place)
        yield places[0], places[1]
