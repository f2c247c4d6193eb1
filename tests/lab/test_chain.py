"""The whole chain: real kernel and libusb, client, RDP, server, QEMU, real kernel.

The client VM owns a disk and a keyboard of QEMU's; ``rusb connect`` runs in it from
this checkout. ``rusb serve`` runs on the host and plugs into the guest.
"""

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.fatimage import fat_image
from tests.support.lab.usblab import BOOT_TIMEOUT, Client, Guest, LabError
from tests.support.rusbserver import CHECKOUT, RusbServer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("client VM"),
]

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(16 * MIB)

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a702}" name="Chain">
    <Hardware>
      <USB>
        <Controllers><Controller name="xHCI" type="XHCI"/></Controllers>
        <DeviceFilters>
          <DeviceFilter name="QEMU's disks" active="true" vendorId="46F4"
                        productId="0001" remote="yes"/>
        </DeviceFilters>
      </USB>
    </Hardware>
  </Machine>
</VirtualBox>
"""


IMPORTS = """
import importlib, os, sys
from rusb.cli import main

for name in ("cli.connect", "client.backends.libusb", "wire.vrdpusb"):
    importlib.import_module(f"rusb.{name}")
"""
WARM = f"""{IMPORTS}
while True:
    with open("/run/warm") as lines:
        sys.argv = lines.readline().split()
    # who wrote the line before may not have closed it yet: then there is none
    if sys.argv and os.fork() == 0:
        log = os.open("/run/rusb.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        with open("/run/rusb.pid", "w") as file:
            file.write(str(os.getpid()))
        sys.exit(main())
"""
"""Starts a command with everything imported: emulated, Python alone takes seconds."""

RUNS = "grep -q 'State:.[RSD]' /proc/$(cat /run/rusb.pid)/status"
"""The client runs; nobody reaps it in its machine, so a zombie does not count."""


class Chain:
    """Both machines and the server between them."""

    def __init__(self, client: Client, guest: Guest, server: RusbServer) -> None:
        self.client, self.guest, self.server = client, guest, server

    def connect(self, options: str = "-v") -> None:
        """Start ``rusb connect`` in the client VM and wait until it is logged on."""
        rusb = f"rusb connect 10.0.2.2:{self.server.port} {options}"
        # takes as long as the imports, the first time
        self.client.sh(f"rm -f /run/rusb.log; echo {rusb} >/run/warm", BOOT_TIMEOUT)
        self.wait_client("grep -q '^connected to' /run/rusb.log")

    def wait_client(self, command: str) -> None:
        """Wait for a command in the client VM, or tell what the client said."""
        try:
            self.client.wait(command)
        except LabError as error:
            raise LabError(f"{error}\n{self.said()}") from error

    def end_client(self, signal: str) -> None:
        """Send a signal to the client and wait until the process is gone."""
        self.client.sh(f"kill -{signal} $(cat /run/rusb.pid)")
        self.wait_client(f"! {RUNS}")

    def wait_guest(self, command: str) -> None:
        """Wait for a command in the guest, or tell what happened before."""
        try:
            self.guest.wait(command)
        except LabError as error:
            raise LabError(f"{error}\n{self.said()}") from error

    def said(self) -> str:
        """What client and server said, and which processes the client VM has."""
        said = self.client.sh(
            "cat /run/warm.log /run/rusb.log /run/rusb.pid;"
            " grep -H -E '^(Name|State|Sig)' /proc/[0-9]*/status || true"
        )
        return f"{said}\n{self.server.log()}"

    def driver_of(self, product: str) -> str:
        """The client VM's driver of the first interface of the device so named."""
        find = f"grep -l '{product}' /sys/bus/usb/devices/*/product"
        command = f"readlink $(dirname $({find}))/*:1.0/driver"
        return self.client.sh(command).strip().rpartition("/")[2]


@pytest.fixture(scope="module")
def chain(
    client_vm: Client, guest_state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    # it can read what is compiled, not write it
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=CHECKOUT, check=True)
    client_vm.put("/run/warm.py", WARM.encode())
    client_vm.sh(
        f"mkfifo /run/warm; cd {CHECKOUT};"
        f" PYTHONPATH=. {sys.executable} /run/warm.py >/run/warm.log 2>&1 &"
    )
    with Guest(incoming=f"exec:cat {guest_state}") as guest:
        folder = tmp_path_factory.mktemp("chain")
        server = RusbServer(folder, MACHINE, "--guest", f"qemu:{guest.monitor}")
        try:
            server.wait_log("TCP server listening")
            yield Chain(client_vm, guest, server)
        finally:
            server.stop()


@pytest.fixture
def stick(chain: Chain, tmp_path: Path) -> Iterator[Path]:
    """A disk with a file system in the client VM, bound to its own driver."""
    image = tmp_path / "stick.img"
    image.write_bytes(fat_image(64 * MIB, {"DATA.BIN": CONTENT}))
    chain.client.add_disk("stick", image)
    try:
        chain.client.wait("test -b /dev/sda")
        yield image
    finally:  # or no other test could have one
        chain.client.remove_disk("stick")


@pytest.fixture
def connected(
    chain: Chain, stick: Path, request: pytest.FixtureRequest
) -> Iterator[None]:
    """``rusb connect`` runs and the guest has the disk."""
    chain.connect(getattr(request, "param", "-v"))
    chain.wait_guest("test -b /dev/sda")
    yield
    chain.end_client("TERM")  # nobody reaps it: one that has ended does not mind
    chain.wait_guest("! test -b /dev/sda")


@pytest.mark.usefixtures("connected")
def test_the_guest_reads_and_writes_the_clients_disk(chain: Chain, stick: Path) -> None:
    log = chain.guest.sh("dmesg")
    assert "using xhci_hcd" in log
    assert "idVendor=46f4, idProduct=0001" in log
    chain.server.wait_log("VUSB: Attached")
    chain.wait_client("grep -q 'left out 0627:0001' /run/rusb.log")  # the keyboard
    assert "0627:" not in chain.server.log()

    chain.guest.sh("mount -t vfat /dev/sda /mnt")
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert chain.guest.sh("sha256sum /mnt/DATA.BIN").split()[0] == digest
    written = random.Random(4).randbytes(MIB)
    chain.guest.put("/tmp/new", written)
    chain.guest.sh("cp /tmp/new /mnt/NEW.BIN && umount /mnt")
    assert written in stick.read_bytes()


@pytest.mark.usefixtures("connected")
def test_unplugging_and_plugging_again_reach_guest_and_log(
    chain: Chain, stick: Path
) -> None:
    attached = chain.server.log().count("VUSB: Attached")
    chain.guest.sh("dmesg -c >/dev/null")
    chain.client.remove_disk("stick")
    chain.wait_guest("dmesg | grep -q 'USB disconnect'")
    chain.wait_guest("! test -b /dev/sda")
    chain.server.wait_log("VUSB: Detached", attached)
    chain.server.wait_log("Remote USB: ----")

    chain.client.add_disk("stick", stick)
    chain.wait_guest("test -b /dev/sda")
    chain.server.wait_log("VUSB: Attached", attached + 1)


@pytest.mark.parametrize("connected", ["-v --all"], indirect=True)
@pytest.mark.usefixtures("connected")
def test_only_what_the_filters_admit_leaves_its_driver(chain: Chain) -> None:
    assert (
        chain.driver_of("USB HARDDRIVE") == "usbfs"
    )  # the disk, claimed through libusb
    assert chain.driver_of("USB Keyboard") == "usbhid"
    chain.server.wait_log("0627:0001")
    assert "idVendor=0627" not in chain.guest.sh("dmesg")


@pytest.mark.usefixtures("connected")
def test_a_client_that_stops_gives_the_disk_back(chain: Chain) -> None:
    chain.end_client("TERM")
    chain.wait_guest("! test -b /dev/sda")
    chain.wait_client("test -b /dev/sda")
    assert chain.driver_of("USB HARDDRIVE") == "usb-storage"
    assert "idVendor=0627" not in chain.guest.sh("dmesg")


@pytest.mark.usefixtures("connected")
def test_a_killed_client_leaves_the_guest_and_the_next_one_takes_over(
    chain: Chain,
) -> None:
    chain.end_client("KILL")
    chain.wait_guest("! test -b /dev/sda")
    chain.connect()
    chain.wait_guest("test -b /dev/sda")
    chain.end_client("TERM")
    chain.wait_client("test -b /dev/sda")
    assert chain.driver_of("USB HARDDRIVE") == "usb-storage"


def test_a_mounted_disk_stays_where_it_is(chain: Chain, stick: Path) -> None:
    chain.client.modprobe("vfat", "nls_cp437", "nls_ascii")
    chain.client.sh("mount -t vfat /dev/sda /mnt")
    try:
        chain.connect()
        chain.wait_client("grep -q 'is mounted at /mnt' /run/rusb.log")
        assert chain.driver_of("USB HARDDRIVE") == "usb-storage"
        digest = hashlib.sha256(CONTENT).hexdigest()
        assert chain.client.sh("sha256sum /mnt/DATA.BIN").split()[0] == digest
        assert "idVendor=46f4" not in chain.guest.sh("dmesg -c | tail -n 5")
        chain.end_client("TERM")
    finally:
        chain.client.sh("umount /mnt")
