"""Fixtures of several modules."""

import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rusb.server.auth import hashes
from tests.support.breaking import Wire
from tests.support.teleporting import Host, awaited, running


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for sockets; the test's own has too long a path."""
    monkeypatch.setenv("RUSB_ACCEL", "tcg")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RUSB_RUNTIME", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a password is not to take 0.1 s; tests/cli has how long it takes."""
    monkeypatch.setattr(hashes, "LOG_N", hashes.MIN_LOG_N)


@pytest.fixture
async def source(
    tmp_path: Path, runtime: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Host]:
    """Where a machine runs that is to be teleported; no task may fail meanwhile."""
    async with running(tmp_path) as found:
        yield found
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [r for r in records if r.levelno >= logging.ERROR]
    # qemu.qmp leaves futures behind whose exceptions asyncio tells of
    assert [r.getMessage() for r in errors if r.name != "asyncio"] == []


@pytest.fixture
async def target(tmp_path: Path, runtime: Path) -> AsyncIterator[Host]:
    """Where it is awaited."""
    async with awaited(tmp_path) as found:
        yield found


@pytest.fixture
async def wire(target: Host) -> AsyncIterator[Wire]:
    """A network between the two."""
    async with Wire(target.port).up() as found:
        yield found
