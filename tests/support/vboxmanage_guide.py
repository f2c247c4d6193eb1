"""The tables of docs/guide/vboxmanage.md."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rusb.cli import PROGRAMS
from rusb.cli.vbox import _refused

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "vboxmanage.md"
STARTS, NEEDS_RUNNING = "*starts it*", "*needs a running machine*"


@dataclass(frozen=True)
class Row:
    """A line of a table; *before* is the last paragraph before the table."""

    section: str
    before: str
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.section}: {self.cells[0]}"


def rows() -> Iterator[Row]:
    """Every row of every table."""
    section = before = ""
    is_head = True
    for line in GUIDE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif not line.startswith("|"):
            before, is_head = line or before, True
        elif is_head or line.startswith("|---"):
            is_head = False
        else:
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            texts = (cell.strip().replace("\\|", "|") for cell in cells)
            yield Row(section, before, tuple(texts))


ROWS = list(rows())
EXAMPLES = [row for row in ROWS if len(row.cells) == 4]


def code(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", text)


def numbered(name: str) -> list[str]:
    """``--nicN`` stands for eight options."""
    if not name.endswith("N") or len(name) < 4:
        return [name]
    return [f"{name[:-1]}{n}" for n in _refused.ADAPTERS]


def words(line: str) -> list[str]:
    """The words of an example after the program's name."""
    program, *rest = shlex.split(line)
    return [*PROGRAMS[program], *rest]
