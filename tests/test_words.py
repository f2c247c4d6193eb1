"""Messages, help and guides use the words of their readers, in plain English."""

import functools
import re
from collections.abc import Iterator

import pytest

from tests.support.source import IN_SOURCE, ROOT, messages

pytestmark = IN_SOURCE

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
    r"\b(has|have) not[,.;:]": "does not have",
    r"\banew\b": "again",
    r"\b(is|are) left\b": "is abandoned; remains",
    r"\b(comes?|came|coming) in\b": "connects; is attached",
    r"\b(is|are) told of\b": "learns",
    r"(?<![\w.-])([A-Za-z]{2,}) \1(?![\w.=-])": "the word once",
}
"""Pattern: what to write instead."""

TERMS = re.compile(
    "(Default machine|Snapshot|Log|[Ss]hared) folders?"
    "|RUSB_MACHINE_FOLDER|--machine-folder|(nothing|none) is left"
)
"""VirtualBox's own names, and the plain sense of a word."""


@functools.cache
def in_question() -> list[tuple[str, str]]:
    """All that is looked at, without what has its sense."""
    return [(where, TERMS.sub("", text)) for where, text in (*messages(), *prose())]


def prose() -> Iterator[tuple[str, str]]:
    """Where a line of a guide is, without examples of code, and the line."""
    for path in PAPERS:
        is_code = False
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.lstrip().startswith("```"):
                is_code = not is_code
            elif not is_code:
                yield f"{path.relative_to(ROOT)}:{number}", line


@pytest.mark.parametrize("pattern", AVOIDED)
def test_the_words_are_those_of_the_readers(pattern: str) -> None:
    avoided = re.compile(pattern)
    found = [
        f"{where}: {text[:200]!r}"
        for where, text in in_question()
        if avoided.search(text)
    ]
    assert not found, f"write {AVOIDED[pattern]!r} instead: " + "\n".join(found)
