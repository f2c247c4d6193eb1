"""The shell of tools/small_linux.py, at the other end of a machine's serial port."""

import socket
import time
from pathlib import Path
from typing import Self

__all__ = ["Console"]

PATIENCE, TALK = 40.0, 180.0
"""Seconds that a machine may be silent, and talk of something else."""


class Console:
    """A serial port, ``--uartmode1 server PATH``, with that shell.

    Args:
        path: its socket.
        patience: seconds that the machine may be silent.
    """

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(patience)
        self._said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, text: str) -> str:
        """Wait for a text; return what came before it."""
        end = time.monotonic() + TALK
        while text.encode() not in self._said:
            assert time.monotonic() < end, self._said.decode(errors="replace")
            data = self._socket.recv(4096)
            assert data, self._said
            self._said += data
        before, _, self._said = self._said.partition(text.encode())
        return before.decode(errors="replace")

    def __call__(self, line: str) -> str:
        """Run a line in the machine's shell; return the last line that it printed."""
        join = "" if line.endswith("&") else ";"
        self._socket.sendall(f"{line}{join} echo E''ND\n".encode())
        return self.wait("\nEND").strip().splitlines()[-1]
