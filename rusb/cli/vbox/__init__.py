"""The commands of ``VBoxManage``, as fingers know them (filters.md 3).

Each module defines ``COMMANDS``: a word of the command line to what runs it with the
words after it. Exit statuses: 0 done, 1 failed, 2 bad command line.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence

from rusb.cli._vbox_options import UsageError
from rusb.errors import RusbError

__all__ = ["Command", "commands", "run"]

Command = Callable[[Sequence[str]], int]


def commands() -> dict[str, Command]:
    """Return every command by its word."""
    found: dict[str, Command] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        if not module.startswith("_"):
            found |= importlib.import_module(f"{__name__}.{module}").COMMANDS
    return found


def run(program: str, word: str, words: Sequence[str]) -> int:
    """Run a command; *program* is how messages name us."""
    try:
        return commands()[word](words)
    except UsageError as error:
        print(f"{program} {word}: error: {error}", file=sys.stderr)
        return 2
    except RusbError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
