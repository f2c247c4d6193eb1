"""The command lines of our own commands."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ._hints import did_you_mean
from ._status import EXIT_USAGE

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """argparse with the exit status of ``sysexits.h`` and a hint where to look."""

    def check_names(self, words: Sequence[str]) -> None:
        """Complain of an unknown option by its name, before anything is read.

        argparse would read the word after it as if there were no option, and complain
        of that one. What follows the name of a program is the program's.
        """
        if any(action.nargs == argparse.REMAINDER for action in self._actions):
            return
        known = [name for name in self._option_string_actions if name[:2] == "--"]
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if name[:2] == "--" and not any(k.startswith(name) for k in known):
                self.error(f"unknown option {name!r}{did_you_mean(name, known)}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print, and say if that fails; argparse does not."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        end = "" if message.endswith("?") else ";"
        hint = f"'{self.prog} --help' lists its options"
        self.exit(EXIT_USAGE, f"{self.prog}: {message}{end} {hint}.\n")
