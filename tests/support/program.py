"""The command ``rusb`` as a program of its own."""

import contextlib
import os
import subprocess
import sys
from typing import Any

__all__ = ["RUSB", "full_pipe", "run_rusb"]

RUSB = (sys.executable, "-m", "rusb")
"""What its words follow."""


def run_rusb(
    *words: str, check: bool = False, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end, where nobody types anything.

    Args:
        words: of its command line.
        check: raise if it fails.
        options: of ``subprocess.run``: where its output goes, say.
    """
    return subprocess.run(
        [*RUSB, *words],
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=check,
        **options,
    )


def full_pipe() -> tuple[int, int]:
    """Return both ends of a pipe that takes no more; whoever writes has to wait."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 16))
    os.set_blocking(writer, True)
    return reader, writer
