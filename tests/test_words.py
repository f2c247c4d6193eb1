"""Messages, help and guides use the words of their readers, in plain English."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / name for name in ("rusb", "client", "server", "filters")]
PAPERS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]

AVOIDED = {
    r"who is refused|whoever\b": "a refused client; anyone who",
    r"\bgo(es)? by (the|its|their)\b": "uses",
    r"\bthere are (\{|none, )|[:;] there are\b(?! none\b)": "choose one of",
    r"\bin clear\b": "in the clear",
    r"\banyhow\b": "by default; anyway",
    r"\bneeds? not\b": "does not need to",
    r"\bwill do\b": "is enough",
    r"\bfolders?\b": "directory",
    r"\b(few|many|more|other) words\b|\bthe words? of\b": "arguments, options, output",
    r"\bspelt\b": "spelled",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(has|have) not (a|an|any|the|its|no)\b": "does not have",
    r"\b(is|are) left\b": "is abandoned; remains",
    r"\b(comes?|came|coming) in\b": "connects; is attached",
    r"\b(is|are) told of\b": "learns",
}
"""Pattern: what to write instead."""

TERMS = re.compile(
    "(Default machine|Snapshot|Log|[Ss]hared) folders?"
    "|RUSB_MACHINE_FOLDER|--machine-folder|(nothing|none) is left"
)
"""VirtualBox's own names, and the plain sense of a word."""


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Each text of a module but its docstrings, with … for what is put in."""
    tree = ast.parse(path.read_text("utf-8"))
    notes = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) in notes or id(node) in parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            found = (
                str(p.value) if isinstance(p, ast.Constant) else "{}"
                for p in node.values
            )
            yield node.lineno, "".join(found)


def messages() -> Iterator[tuple[str, str]]:
    """Where a text of several words is, and the text."""
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*.py")):
            for line, text in texts_of(path):
                if " " in text:
                    yield f"{path.relative_to(ROOT)}:{line}", text


def prose() -> Iterator[tuple[str, str]]:
    """Where a line of a guide is, without examples of code, and the line."""
    for path in PAPERS:
        is_code = False
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.lstrip().startswith("```"):
                is_code = not is_code
            elif not is_code:
                yield f"{path.relative_to(ROOT)}:{number}", line


TEXTS = [*messages(), *prose()]


@pytest.mark.parametrize("pattern", AVOIDED)
def test_the_words_are_those_of_the_readers(pattern: str) -> None:
    avoided = re.compile(pattern)
    found = [
        f"{where}: {text[:200]!r}"
        for where, text in TEXTS
        if avoided.search(TERMS.sub("", text))
    ]
    assert not found, f"write {AVOIDED[pattern]!r} instead: " + "\n".join(found)
