"""A real Linux keeps its disk while the network between client and server is gone.

The client runs in a network namespace of its own; what is done to the network between
them is what happens to networks (docs/spec/resume.md).
"""

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.amount import IS_SOAK
from tests.support.lab.network import Network
from tests.support.lab.peers import wait
from tests.support.lab.usblab import Guest
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(900 if IS_SOAK else 300),
    pytest.mark.xdist_group("network loss"),
]

MIB = 1 << 20
CONTENT = random.Random(29).randbytes(2 * MIB)
NEW = random.Random(30).randbytes(MIB)

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a714}" name="Lossy">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters><DeviceFilter name="all" active="true"/></DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


@pytest.fixture
def network() -> Iterator[Network]:
    Network.check()
    with Network() as found:
        yield found


class Place:
    """A guest whose disk is at a client in the namespace."""

    def __init__(
        self, guest: Guest, network: Network, folder: Path, *options: str
    ) -> None:
        self.guest, self.network, self.folder = guest, network, folder
        self.image = folder / "disk.img"
        self.image.write_bytes(CONTENT + bytes(2 * MIB))
        self.options = "--guest", f"qemu:{guest.monitor}", *options
        self.stack = contextlib.ExitStack()
        self.server = self.serve()
        self.client = self.connect()
        guest.wait("test -b /dev/sda")
        guest.sh("dmesg -c >/dev/null")

    def serve(self, port: int = 0) -> RusbServer:
        server = RusbServer(
            self.folder,
            MACHINE,
            *self.options,
            port=port,
            address=self.network.server,
        )
        self.stack.callback(server.stop)
        server.wait_log("TCP server listening")
        return server

    def connect(self, *options: str) -> subprocess.Popen[bytes]:
        said = self.stack.enter_context((self.folder / "client.log").open("ab"))
        client = subprocess.Popen(
            [
                *(*self.network.words, sys.executable, "-m"),
                *("rusb", "connect", f"{self.network.server}:{self.server.port}"),
                *("--backend", f"emulated:flash-drive={self.image}", *options),
            ],
            cwd=CHECKOUT,
            env={**os.environ, "RUSB_STATE": str(self.folder)},
            stdout=said,
            stderr=said,
        )
        self.stack.callback(self.end, client)
        return client

    @staticmethod
    def end(client: subprocess.Popen[bytes]) -> None:
        if client.poll() is None:
            client.send_signal(signal.SIGCONT)
            client.terminate()
            client.wait(60)

    def said(self) -> str:
        return (self.folder / "client.log").read_text()

    def start(self) -> None:
        """Read and write in the guest, until it is stopped."""
        self.guest.put("/tmp/new", NEW)
        self.guest.sh(": >/tmp/bad")
        # Linux asks a removable disk for its medium at each open, and believes for a
        # moment that there is none when that takes 30 s
        self.guest.put(
            "/tmp/work",
            b"""
move() {
  until dd bs=65536 "$@" 2>/tmp/why; do
    cat /tmp/why >>/tmp/bad
    grep -q "No medium found" /tmp/why || break
  done
}
while [ ! -e /tmp/stop ]; do
  move count=32 if=/dev/sda iflag=direct | sha256sum >>/tmp/read
  move if=/tmp/new of=/dev/sda seek=32 oflag=direct conv=notrunc
  move count=16 if=/dev/sda iflag=direct skip=32 | sha256sum >>/tmp/wrote
done
touch /tmp/ended
""",
        )
        self.guest.sh("sh /tmp/work </dev/null >/dev/null 2>&1 &")

    def rounds(self) -> int:
        return len(self.guest.sh("cat /tmp/wrote 2>/dev/null || true").splitlines())

    def go_on(self, count: int = 2) -> None:
        """So many rounds are done."""
        before = self.rounds()
        wait(lambda: self.rounds() >= before + count, "the guest", self.said, 90)

    def stop(self) -> None:
        """Every byte was right, and the guest has seen no unplug."""
        self.guest.sh("touch /tmp/stop")
        self.guest.wait("test -e /tmp/ended", 90)
        for name, content in (("read", CONTENT), ("wrote", NEW)):
            sums = {line.split()[0] for line in self.lines(f"/tmp/{name}")}
            assert sums == {hashlib.sha256(content).hexdigest()}
        assert self.image.read_bytes()[2 * MIB :][:MIB] == NEW
        said = set(self.lines("/tmp/bad"))
        assert said <= {"dd: can't open '/dev/sda': No medium found"}, said

    def lines(self, path: str) -> list[str]:
        return self.guest.sh(f"cat {path}").splitlines()

    def unplugs(self) -> int:
        """As the guest's kernel says."""
        return len(re.findall("USB disconnect", self.guest.sh("dmesg")))


@pytest.fixture
def place(guest: Guest, network: Network, tmp_path: Path) -> Iterator[Place]:
    found = Place(guest, network, tmp_path)
    with found.stack:
        yield found


@pytest.mark.soak
def test_a_guest_reads_and_writes_over_every_kind_of_outage(place: Place) -> None:
    network, client = place.network, place.client
    place.start()
    place.go_on()
    outages: list[Callable[[], None]] = []

    def cable(seconds: float) -> Callable[[], None]:
        def out() -> None:
            with network.down():
                time.sleep(seconds)

        return out

    def silence() -> None:
        with network.dropping():
            time.sleep(8)

    def loss() -> None:
        with network.dropping(
            *("-m", "statistic", "--mode", "random", "--probability", "0.3")
        ):
            time.sleep(6)

    def sleep() -> None:
        client.send_signal(signal.SIGSTOP)
        time.sleep(9)
        client.send_signal(signal.SIGCONT)

    outages = [cable(1), silence, network.move, loss, sleep]
    if IS_SOAK:
        outages += [cable(5), cable(20), cable(45)]
    for outage in outages:
        outage()
        place.go_on()
    place.stop()
    assert place.unplugs() == 0
    log = place.server.log()
    assert log.count("VUSB: Attached") == 1
    assert log.count("Remote USB: resumed after") >= 3
    assert "not resumed" not in log


def test_what_nobody_comes_back_to_is_unplugged_once(
    guest: Guest, network: Network, tmp_path: Path
) -> None:
    place = Place(guest, network, tmp_path, "--resume", "4")
    with place.stack:
        place.client.kill()
        place.client.wait()
        place.server.wait_log("link lost, keeping 1 device for 4 s")
        assert place.guest.ok("test -b /dev/sda")
        place.server.wait_log("not resumed: its client did not come back in time")
        place.guest.wait("! test -b /dev/sda")
        assert place.unplugs() == 1


def test_a_client_that_is_started_again_does_not_wait_for_itself(place: Place) -> None:
    place.client.kill()
    place.client.wait()
    place.server.wait_log("link lost, keeping 1 device for 60 s")
    place.connect()
    place.server.wait_log("VUSB: Attached", 2)
    place.guest.wait("test -b /dev/sda")
    assert place.unplugs() == 1


def test_a_server_that_is_started_again_gets_the_disk_once(place: Place) -> None:
    place.server.process.kill()
    place.server.process.wait()
    port = place.server.port
    place.guest.wait("! test -b /dev/sda")
    place.server = place.serve(port)
    place.guest.wait("test -b /dev/sda")
    assert place.unplugs() == 1
    assert "Connecting again" in place.said()
    digest = hashlib.sha256(CONTENT).hexdigest()
    read = "dd if=/dev/sda bs=65536 count=32 iflag=direct 2>/dev/null | sha256sum"
    assert place.guest.sh(read).split()[0] == digest


def test_a_guest_goes_on_when_a_client_without_resume_is_started_again(
    guest: Guest, network: Network, tmp_path: Path
) -> None:
    place = Place(guest, network, tmp_path, "--resume", "0", "--hold", "60")
    with place.stack:
        place.start()
        place.go_on()
        for seconds in (2, 8):
            place.client.kill()
            place.client.wait()
            time.sleep(seconds)
            place.client = place.connect("--no-reconnect")
            place.go_on()
        place.stop()
        assert place.unplugs() == 0
        log = place.server.log()
        assert log.count("its client is back; the guest goes on with it") == 2
        assert log.count("VUSB: Attached") == 1
