"""``VBox.log``: the release log of a machine (vrdp-server.md 7.1).

Each line begins with the process's run time, ``HH:MM:SS.uuuuuu``, and a blank.
"""

import contextlib
import datetime
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rusb import __version__
from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.usb.device import clean_text

__all__ = ["ReleaseLog"]

log = logging.getLogger(__name__)

KEPT = 3
"""Older logs that are kept, as ``.1`` to ``.3``."""

MAX_LINE = 2048
"""Characters of a line; what a peer says may be part of it (T42)."""


class ReleaseLog:
    """A release log, begun with its header and rotated when it is opened.

    Args:
        path: file to write; None or ``-`` for standard error.
        clock: seconds since the process began to run, or since any other moment: the
            first call counts as zero.

    Raises:
        SettingsError: the file cannot be written.
    """

    def __init__(
        self, path: str | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._start = clock()
        self._path = None if path in (None, "-") else Path(str(path))
        self._file: TextIO | None = None
        if self._path is not None:
            try:
                _rotate(self._path)
                self._file = self._path.open("w", encoding="utf-8", buffering=1)
            except OSError as error:
                raise SettingsError(
                    f"cannot write the log {self._path}: {reason(error)};"
                    " name another file with --log"
                ) from error
        for line in _header():
            self.write(line)

    def write(self, text: str) -> None:
        """Write a line; a disk that is full ends the log, not the server."""
        line = clean_text(text)
        if len(line) > MAX_LINE:
            line = line[:MAX_LINE] + "…"
        log.info("%s", line)
        stamped = f"{self._stamp()} {line}\n"
        if self._path is None:
            sys.stderr.write(stamped)
        elif self._file is not None:
            try:
                self._file.write(stamped)
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None
                log.warning("the log %s ends here: %s", self._path, reason(error))

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _stamp(self) -> str:
        micros = int((self._clock() - self._start) * 1_000_000)
        seconds, micros = divmod(micros, 1_000_000)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:02}:{minutes:02}:{seconds:02}.{micros:06}"


def _rotate(path: Path) -> None:
    """Move ``VBox.log`` to ``VBox.log.1`` and so on."""
    for number in range(KEPT, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        if newer.exists():
            newer.replace(older)


def _header() -> list[str]:
    """The first lines: what ran where."""
    now = datetime.datetime.now(datetime.UTC)
    opened = now.strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{time.time_ns() % 1000:03}Z"
    system = platform.uname()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return [
        f"rusb {__version__} {system.system.lower()}.{system.machine}"
        f" (Python {platform.python_version()}) release log",
        f"Log opened {opened}",
        f"OS Product: {system.system}",
        f"OS Release: {system.release}",
        f"OS Version: {system.version}",
        f"Host RAM: {pages * page >> 20}MB",
        f"Executable: {sys.executable}",
        f"Process ID: {os.getpid()}",
    ]
