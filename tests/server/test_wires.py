"""What MS-RDPEUSB costs beside vrdpusb, by tools/wires.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.amount import IS_SOAK

TOOL = Path(__file__).parents[2] / "tools" / "wires.py"


@pytest.mark.soak
def test_wires_are_measured_beside_each_other() -> None:
    """In make soak, on a machine that does nothing else, figures are judged."""
    options = ["--check"] if IS_SOAK else ["--rounds", "1", "--transfers", "16"]
    done = subprocess.run(
        [sys.executable, TOOL, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" | ")[:3] for line in done.stdout.splitlines()]
    assert ["bulk-out", "1048576", "8"] in lines
