"""What pictures cost, by tools/screen_figures.py (display.md 12)."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.amount import IS_SOAK

TOOL = Path(__file__).parents[2] / "tools" / "screen_figures.py"
SLACK = 3
"""How much more a machine with other work may take; sizes have none."""


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("screen_figures", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_parts_of_a_desktop_cost_a_part_of_it() -> None:
    module = tool()
    found = module.encoding()
    for name, value in found.items():
        target = module.TARGETS.get(name)
        if target is not None:
            slack = 1 if name.startswith("bytes") else SLACK
            assert value <= slack * target, name
    assert sum(name in module.TARGETS for name in found) == 5


@pytest.mark.soak
def test_whole_servers_are_measured() -> None:
    """In make soak, on a machine that does nothing else, figures are judged."""
    options = ["--check"] if IS_SOAK else ["--seconds", "0.2", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, TOOL, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=800 if IS_SOAK else 100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for name in tool().TARGETS:
        assert any(line.startswith(f"{name} ") for line in lines), name
