"""Fixtures of the lab: virtual machines, booted once and shared (qemu-lab.md 7)."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.assets import LabError, assets
from tests.support.lab.libvirtlab import Libvirt
from tests.support.lab.moving import make_machine
from tests.support.lab.peers import missing
from tests.support.lab.twohosts import PROGRAMS, Place, two_hosts
from tests.support.lab.usblab import Client, Guest
from tests.support.lab.vboxshell import Shell
from tests.support.lab.warm import warm
from tests.support.rusbserver import CHECKOUT

_CURE = "install it with: apt-get install --no-install-recommends qemu-system-x86"


def _refuse(reason: str) -> None:
    """Fail where the lab must run, skip elsewhere; both say what cures it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def lab() -> None:
    """What every machine needs: QEMU and the packages of its kernel."""
    if not shutil.which("qemu-system-x86_64"):
        _refuse(f"the lab needs qemu-system-x86_64; {_CURE}")
    try:
        assets()
    except LabError as error:
        _refuse(f"the lab's kernel cannot be fetched (apt-get update?): {error}")


@pytest.fixture(scope="session")
def programs() -> None:
    """RDP clients and servers of others, and the displays for them."""
    if packages := missing():
        words = "install them: apt-get install --no-install-recommends"
        _refuse(f"{words} {' '.join(packages)}")


@pytest.fixture(scope="session")
def libvirt(lab: None) -> Iterator[Libvirt]:
    """A libvirt for domains with machines of the lab; each domain has a name."""
    if not shutil.which("virsh"):
        packages = "libvirt-daemon libvirt-clients"
        _refuse(f"install it: apt-get install --no-install-recommends {packages}")
    with Libvirt() as found:
        yield found


@pytest.fixture(scope="session")
def vboxmanage() -> Iterator[Path]:
    """A program that does what VBoxManage does, and starts sooner."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, warm(Path(folder)) as found:
        yield found


@pytest.fixture
def shell(
    tmp_path: Path, vboxmanage: Path, request: pytest.FixtureRequest
) -> Iterator[Shell]:
    """Where machines are run by QEMU, unless a test wants libvirt."""
    uri = ""
    if getattr(request, "param", "") == "libvirt":
        uri = request.getfixturevalue("libvirt").uri
    with Shell.open(tmp_path, vboxmanage, uri) as made:
        yield made


@contextlib.contextmanager
def once(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """The path of a file that all processes of this run share, locked."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / name


@pytest.fixture(scope="session")
def guest_state(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest that booted and was frozen; thawing it takes a third of a second."""
    with once(tmp_path_factory, "guest.state") as path:
        if not path.exists():
            with Guest() as guest:
                guest.migrate(f"exec:cat > {path}")
    return path


@pytest.fixture
def guest(guest_state: Path) -> Iterator[Guest]:
    """A fresh guest of this test's own."""
    with Guest(incoming=f"exec:cat {guest_state}") as guest:
        yield guest


@pytest.fixture(scope="session")
def client_vm(lab: None) -> Iterator[Client]:
    """A machine with a keyboard and a sound card, shared: leave it as it was."""
    with Client(
        *("-audiodev", "none,id=a0"),
        *("-device", "usb-audio,id=snd,audiodev=a0,bus=xhci.0"),
        *("-device", "usb-kbd,id=kbd,bus=xhci.0"),
        memory=384,
    ) as client:
        yield client


@pytest.fixture(scope="session")
def iso(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CD that boots a small Linux, which also talks on its serial port."""
    with once(tmp_path_factory, "linux.iso") as path:
        if not path.exists():
            command = [sys.executable, f"{CHECKOUT}/tools/small_linux.py", str(path)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                _refuse(done.stderr)
    return path


@pytest.fixture(scope="module")
def hosts(
    lab: None, tmp_path_factory: pytest.TempPathFactory, iso: Path
) -> Iterator[tuple[Place, Place]]:
    """Two hosts with the same machine, which is off; both see its images."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking or os.geteuid():
        _refuse(f"needs root, and {' and '.join(lacking or PROGRAMS)}")
    with two_hosts(tmp_path_factory.mktemp("hosts")) as places:
        make_machine(*places, iso)
        yield places
