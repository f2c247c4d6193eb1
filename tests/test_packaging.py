"""pyproject.toml names every package, and nothing lands outside ``rusb``."""

import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_is_listed() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    found = {
        ".".join(Path(folder).relative_to(ROOT).parts)
        for folder, _, files in os.walk(ROOT / "rusb", followlinks=True)
        if "__init__.py" in files
    }
    assert set(tool["setuptools"]["packages"]) == found


@pytest.mark.parametrize("name", ["client", "server", "filters"])
def test_the_checkout_has_the_shape_of_an_installation(name: str) -> None:
    link = ROOT / "rusb" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


def test_all_programs_begin_where_ctrl_c_is_caught() -> None:
    """While they import, which takes longest, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(project["scripts"].values()) == {"rusb.cli:main"}
