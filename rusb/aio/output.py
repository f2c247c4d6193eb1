"""Lines for people, who may have stopped reading."""

import io
import select
from typing import TextIO

__all__ = ["write_line"]

_missing: dict[int, int] = {}
"""Lines that were lost, by file descriptor, until a line can say so."""


def write_line(file: TextIO, text: str) -> None:
    """Write a line at once, or lose it: the devices of a guest wait for nobody.

    A pipe may be full, and Ctrl-S stops a terminal. The next line that finds room says
    how many are missing.

    Raises:
        OSError: the reader has gone, the disk is full.
        ValueError: *file* is closed.
    """
    try:
        number = file.fileno()
    except io.UnsupportedOperation:  # a program has put something else there
        number = -1
    if number >= 0:
        if not select.select((), (number,), (), 0)[1]:
            _missing[number] = _missing.get(number, 0) + 1
            return
        if lost := _missing.pop(number, 0):
            text = f"({lost} lines are missing here: nothing read them)\n{text}"
    print(text, file=file, flush=True)
