"""Fixtures of several modules."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.server.auth import hashes


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
