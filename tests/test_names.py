"""What people and their tools see of the packages."""

import importlib
import pkgutil
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rusb
import rusb.client
import rusb.errors
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


def test_what_a_module_says_it_exports_is_there() -> None:
    found = {m.name for m in pkgutil.walk_packages(rusb.__path__, "rusb.")}
    assert {"rusb.client.dial", "rusb.filters.engine", "rusb.usb.urb"} < found
    for name in sorted(found - {"rusb.__main__"}):
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        assert len(exported) == len(set(exported)), name
        assert [n for n in exported if not hasattr(module, n)] == [], name


def test_rusb_has_every_error() -> None:
    errors = {
        name
        for name, value in vars(rusb.errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert errors == set(rusb.errors.__all__) - {"Hint"}
    assert errors <= set(rusb.__all__)


def test_the_public_surface_is_as_the_architecture_page_says() -> None:
    """Section 8: ``module`` gives ``name``, ``name``; …"""
    page = Path(__file__).parents[1] / "docs" / "architecture.md"
    section = page.read_text("utf-8").partition("## 8. ")[2].partition("## 9. ")[0]
    module, found = rusb, 0
    for word in re.findall(r"`([\w. ]+)`", section):
        if word.split()[-1].startswith("rusb"):
            module = importlib.import_module(word.split()[-1])
            continue
        assert word in module.__all__, f"{module.__name__} has no {word}"
        assert hasattr(module, word)
        found += 1
    assert found >= 7


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
