"""``VBox.log``: the release log of a machine (vrdp-server.md 7.1).

Each line begins with the process's run time, ``HH:MM:SS.uuuuuu``, and a blank.
"""

import contextlib
import datetime
import errno
import logging
import os
import platform
import stat
import sys
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Protocol, TextIO

from rusb import __version__
from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.usb.device import clean_text

__all__ = ["LineQuota", "Lines", "ReleaseLog", "RemoteLog", "Terminal"]

log = logging.getLogger(__name__)

KEPT = 3
"""Older logs that are kept, as ``.1`` to ``.3``."""

MAX_SIZE = 16 << 20
"""Bytes of a log; a longer one is continued in a new file, so that with the older ones
it takes four times that of the disk, whatever peers do."""

MAX_LINE = 2048
"""Characters of a line; what a peer says may be part of it (T42)."""


class ReleaseLog:
    """A release log, begun with its header and rotated when it is opened.

    Only a regular file is rotated. What else the name stands for, a device, a pipe or
    a symbolic link, is written to and stays.

    Args:
        path: file to write; None or ``-`` for standard error.
        clock: seconds since the process began to run, or since any other moment: the
            first call counts as zero.
        max_size: bytes after which a regular file is continued in a new one.

    Raises:
        SettingsError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_size: int = MAX_SIZE,
    ) -> None:
        self._clock = clock
        self._start = clock()
        self._max_size = max_size
        self._size = 0
        self._path = None if path in (None, "-") else Path(str(path))
        self._rotates = False
        self._file: FileIO | TextIO | None = None
        try:
            self._file = sys.stderr if self._path is None else self._open(self._path)
        except OSError as error:
            why = reason(error)
            if error.errno == errno.ENXIO:
                why = "nobody reads from it"
            raise SettingsError(
                f"cannot write the log {self._path}: {why}; name another file with"
                " --log, or - for standard error"
            ) from error
        for line in _header():
            self.write(line)

    def now(self) -> float:
        """Return the time of the log, in seconds."""
        return self._clock()

    def write(self, text: str) -> None:
        """Write a line; a disk that is full, or a reader that went, ends the log, not
        the server."""
        line = clean_text(text)
        if len(line) > MAX_LINE:
            line = line[:MAX_LINE] + "…"
        log.info("%s", line)
        if self._file is None:
            return
        try:
            if self._rotates and self._size >= self._max_size:
                self._continue()
            self._put(line)
        except (OSError, ValueError) as error:  # ValueError: somebody closed it
            self.close()
            name = self._path or "on standard error"
            why = reason(error) if isinstance(error, OSError) else error
            log.warning("the log %s ends here: %s", name, why)

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None and self._path is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _put(self, line: str) -> None:
        stamped = f"{self._stamp()} {line}\n"
        if isinstance(self._file, FileIO):
            data = stamped.encode("utf-8", "replace")
            self._file.write(data)  # a pipe that is full loses the line
            self._size += len(data)
        elif self._file is not None:
            self._file.write(stamped)

    def _open(self, path: Path) -> FileIO:
        try:
            found: os.stat_result | None = path.lstat()
        except FileNotFoundError:
            found = None
        is_link = found is not None and stat.S_ISLNK(found.st_mode)
        if found is not None and is_link and found.st_uid != os.geteuid() == 0:
            raise SettingsError(
                f"cannot write the log {path}: it is a symbolic link that belongs to"
                " another user; name another file with --log"
            )
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY
        self._rotates = found is None or stat.S_ISREG(found.st_mode)
        if self._rotates:
            _rotate(path)
            flags |= os.O_EXCL  # nobody puts a link there meanwhile
        else:
            flags |= os.O_NONBLOCK  # a pipe that nobody reads must not keep us
        self._size = 0
        return FileIO(os.open(path, flags, 0o666), "w")

    def _continue(self) -> None:
        """Go on in a new file, or, where none can be made, in this one, emptied."""
        assert self._path is not None
        assert isinstance(self._file, FileIO)
        try:
            file = self._open(self._path)
        except (OSError, SettingsError):  # the folder is root's, and root was dropped
            file = self._file
            file.truncate(0)
            self._size, self._rotates = 0, True
        else:
            self._file.close()
        self._file = file
        for line in (f"Log continued after {self._max_size} bytes", *_header()):
            self._put(line)

    def _stamp(self) -> str:
        micros = int((self._clock() - self._start) * 1_000_000)
        seconds, micros = divmod(micros, 1_000_000)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:02}:{minutes:02}:{seconds:02}.{micros:06}"


class Lines(Protocol):
    """Takes lines, and knows the time, in seconds."""

    def now(self) -> float: ...
    def write(self, text: str) -> None: ...


class Terminal:
    """What a user at the terminal is told, as lines.

    Args:
        say: says a line.
        now: the time, in seconds.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float]) -> None:
        self._say = say
        self.now = now

    def write(self, text: str) -> None:
        """Say a line, in which peers may have a part (T42)."""
        line = clean_text(text)
        self._say(line if len(line) <= MAX_LINE else line[:MAX_LINE] + "…")


class LineQuota:
    """How many lines a peer may cause: some at once, and then some a second.

    Args:
        most: lines at once.
        rate: lines a second that come back.
    """

    def __init__(self, most: int, rate: float) -> None:
        self._most, self._rate = most, rate
        self._left, self._since = float(most), 0.0

    def is_full(self, now: float) -> bool:
        """Has nothing of it been used, or has all come back?"""
        return self._refilled(now) >= self._most

    def take(self, now: float) -> bool:
        """Take a line; return whether there was one."""
        self._left, self._since = self._refilled(now), now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _refilled(self, now: float) -> float:
        return min(self._most, self._left + (now - self._since) * self._rate)


class RemoteLog:
    """What one peer causes, which quotas limit; what is left out is counted.

    Args:
        log: where the lines go.
        name: of the peer, for the line about what was left out.
        quotas: its own, then what it shares with others.
    """

    def __init__(self, log: Lines, name: str, *quotas: LineQuota) -> None:
        self._log = log
        self._name = name
        self._quotas = quotas
        self._left_out = 0

    def write(self, text: str) -> None:
        """Write a line, unless there were too many."""
        now = self._log.now()
        if all(quota.take(now) for quota in self._quotas):
            self.tell_left_out()
            self._log.write(text)
        else:
            self._left_out += 1

    def tell_left_out(self) -> None:
        """Say how many lines were left out since the last one."""
        count, self._left_out = self._left_out, 0
        if count:
            self._log.write(f"{self._name}: {count} lines were left out here.")


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
