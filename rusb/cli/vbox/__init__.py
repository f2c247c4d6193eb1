"""The commands of ``VBoxManage``, as fingers know them (filters.md 3).

Each module defines ``COMMANDS``: a word of the command line to what runs it with the
words after it. Exit statuses: 0 done, 1 failed, 2 bad command line. A usage is made of
what a command's docstring has in double backquotes, and of the options that it reads.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence

from rusb.cli._advice import advised
from rusb.cli._vbox_options import HelpWanted, Option, UsageError
from rusb.cli._words import VBOX
from rusb.errors import RusbError
from rusb.oserrors import reason
from rusb.usb.text import clean_text

__all__ = ["Command", "commands", "overview", "refused", "run", "synopses"]

Command = Callable[[Sequence[str]], int]

BOTH = ("rusb", "VBoxManage")
"""Programs whose first word is the command; the others are one."""


def commands() -> dict[str, Command]:
    """Return every command by its word."""
    return {word: _command_of(word) for word in sorted(VBOX)}


def _command_of(word: str) -> Command:
    """Return one of the commands; imports what it needs."""
    module = importlib.import_module(f"{__name__}.{VBOX[word]}")
    command: Command = module.COMMANDS[word]
    return command


def refused(word: str) -> str:
    """Return why there is no such command here; empty: VBoxManage has none such."""
    from ._refused import COMMANDS  # what is there needs none of it

    return COMMANDS.get(word, "")


def run(program: str, word: str, words: Sequence[str]) -> int:
    """Run a command, or say why not; *program* is how messages name us."""
    if word not in VBOX:
        return _complain(program, f"{word}: {refused(word)}", 1)
    command = _command_of(word)
    called = f"{program} {word}" if program in BOTH else program
    try:
        return command(words or ["--help"])
    except HelpWanted as wanted:
        lines = [*synopses(called, command), *_option_lines(wanted.options)]
        print("\n".join(lines), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    except UsageError as error:
        status = _complain(program, str(error), 2)
        for line in _fitting(synopses(called, command), words):
            print(line, file=sys.stderr)
        return status
    except RusbError as error:
        _complain(program, advised(error), 1)
        code = getattr(error, "code", "")  # registry.CodedError, which costs an import
        if program == "VBoxManage" and code:
            _complain(program, f"Details: code {code}", 1)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(program, f"{where}{reason(error)}", 1)


def overview(program: str) -> str:
    """Return the usage of every command."""
    lines = []
    for word, command in sorted(commands().items()):
        lines += synopses(f"{program} {word}", command)
    return "\n".join(lines)


def _complain(program: str, text: str, status: int) -> int:
    print(f"{program}: error: {clean_text(text)}", file=sys.stderr)
    return status


def synopses(called: str, command: Command) -> list[str]:
    """Return how to call a command, from its docstring."""
    word = command.__name__.strip("_")
    texts = re.findall(rf"``{word}\b(.*?)``", inspect.getdoc(command) or "", re.DOTALL)
    return [" ".join(f"usage: {called}{text}".split()) for text in texts]


def _fitting(usages: Sequence[str], words: Sequence[str]) -> Sequence[str]:
    """Return those about what was typed; none where the error alone says more."""
    if len(usages) == 1:
        return usages
    typed = {w.rstrip("0123456789") for w in words[:2]}
    return [
        usage
        for usage in usages
        if typed & {w.rstrip("0123456789") for w in re.findall(r"\b[a-z]\w+", usage)}
    ]


def _option_lines(options: Iterable[Option]) -> list[str]:
    import textwrap

    names = []
    for option in options:
        if not (option.refused or option.instead or option.idle):
            short = f" (-{option.short})" if option.short else ""
            names.append(f"--{option.name}{short}")
    text = f"options: {', '.join(names)}"
    return textwrap.wrap(text, 76, break_on_hyphens=False) if names else []
