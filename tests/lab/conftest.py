"""Fixtures of the lab: virtual machines, booted once and shared (qemu-lab.md 7)."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.assets import LabError, assets
from tests.lab.usblab import Client, Guest

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
def guest_state(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest that booted and was frozen; thawing it takes a third of a second."""
    path = tmp_path_factory.mktemp("lab") / "guest.state"
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


_CELLS = pytest.StashKey[list[tuple[str, str, str, str]]]()


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> Callable[[str, str, str, str], None]:
    """Note what was seen of (client, server, security) for the table at the end."""
    cells = pytestconfig.stash.setdefault(_CELLS, [])

    def note(client: str, server: str, security: str, seen: str) -> None:
        cells.append((client, server, security, seen))

    return note


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the matrix of real peers, if any of it ran."""
    cells = config.stash.get(_CELLS, [])
    if cells:
        terminalreporter.section("real peers: client, server, security, seen")
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for cell in sorted(cells):
            words = [text.ljust(n) for text, n in zip(cell, widths, strict=True)]
            terminalreporter.write_line("  ".join(words).rstrip())
