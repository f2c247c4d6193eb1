"""pyproject.toml names every package, and nothing lands outside ``rusb``."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_is_listed() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    folders: dict[str, str] = tool["setuptools"]["package-dir"]
    found = set()
    for package, folder in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            rest = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *rest)))
    assert set(tool["setuptools"]["packages"]) == found
    assert {name.partition(".")[0] for name in found} == {"rusb"}
