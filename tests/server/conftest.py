"""Fixtures of several modules."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for sockets; the test's own has too long a path."""
    monkeypatch.setenv("RUSB_ACCEL", "tcg")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RUSB_RUNTIME", folder)
        yield Path(folder)
