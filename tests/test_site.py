"""tools/site.py: the pages of the documentation site that lie in no file."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from rusb.cli import vbox
from rusb.cli._words import OWN

ROOT = Path(__file__).resolve().parent.parent


def load_site() -> Any:
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "tools/site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load_site()


def test_the_command_reference_has_every_command_and_option() -> None:
    pages = SITE.commands()
    for page, words in (
        ("reference/commands.md", set(OWN)),
        ("reference/vboxmanage.md", set(vbox.commands())),
    ):
        text = pages[page]
        assert set(re.findall(r"^## .*\{ #rusb-(\S+) \}$", text, re.M)) == words
    sections = re.split(r"^## ", "\n".join(pages.values()), flags=re.M)
    (connect,) = (s for s in sections if s.startswith("rusb connect "))
    man = (ROOT / "contrib/man/rusb-connect.1").read_text("utf-8").replace(r"\-", "-")
    options = set(re.findall(r"\\fB(--[\w-]+)", man))
    assert len(options) > 10
    assert options <= set(re.findall(r"--[\w-]+", connect))


@pytest.mark.parametrize(
    ("link", "place", "page", "wanted"),
    [
        ("docs/decisions.md", "README.md", "index.md", "decisions.md"),
        ("CHANGELOG.md", "README.md", "index.md", "changelog.md"),
        ("../../README.md", "docs/guide/x.md", "guide/x.md", "../index.md"),
        ("../decisions.md", "docs/spec/x.md", "spec/x.md", "../decisions.md"),
        ("y.md", "docs/guide/x.md", "guide/x.md", "y.md"),
    ],
)
def test_links_lead_to_where_pages_lie_in_the_site(
    link: str, place: str, page: str, wanted: str
) -> None:
    assert SITE.relink(link, place, page) == wanted


def test_the_site_has_every_page_of_the_papers() -> None:
    """mkdocs itself warns of pages that are not in its menu, and stops."""
    for name in SITE.PAPERS:
        assert (ROOT / name).exists()
