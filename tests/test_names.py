"""What people and their tools see of the packages."""

import pydoc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rusb
import rusb.client
import rusb.filters
import rusb.server

PACKAGES = [rusb, rusb.client, rusb.filters, rusb.server]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_help_and_completion_show_the_public_names(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    text = pydoc.plain(pydoc.render_doc(package))
    for name in set(package.__all__) - {"__version__"}:
        assert getattr(package, name) is not None
        assert name in text.partition("NAME")[2], name


PROGRAM = """
from rusb.client import ClientConfig
from rusb.filters import Decision
reveal_type(ClientConfig("desk").port)
reveal_type(Decision.matched)
"""


def test_type_checkers_see_an_editable_install(tmp_path: Path) -> None:
    """As ``make`` does one, in the environment that runs this; away from the files."""
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert 'type is "int"' in done.stdout, done.stdout
    assert "rusb.filters.model.Decision" in done.stdout
    assert "Success" in done.stdout
