"""Links between the project's own papers lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAPERS = [
    *ROOT.glob("*.md"),
    *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "spec"),
    ROOT / "docs" / "spec" / "README.md",
]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(paper: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", paper.read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    gone = [
        link
        for link in links
        if "://" not in link and not (paper.parent / link).exists()
    ]
    assert gone == []
