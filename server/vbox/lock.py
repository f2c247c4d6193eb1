"""Who holds a machine: the process that runs it, or one that changes its settings.

The lock is a file that the kernel unlocks when its holder dies, in a folder that does
not depend on how the user logged in; it says where a running machine listens.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from rusb.errors import ControlError
from rusb.oserrors import reason
from rusb.paths import make_private, state_folder

from .files import belongs_to_others

__all__ = [
    "Holder",
    "MachineLock",
    "changing",
    "holder_of",
    "lock_path",
    "settings_in_use",
]

PATIENCE, POLL = 10.0, 0.02
"""Seconds to wait for a process that changes the machine's settings."""

GLANCE = 0.2
"""Seconds for those who only look who has the lock: they hold it for a moment, and what
it says may be from a process that was killed."""

MAX_TEXT = 8192
"""Bytes of a lock file."""

CHANGING = "changing"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a machine.

    Attributes:
        process: its number; 0: it has not said so yet.
        socket: where a running machine listens; None: its settings are being changed.
        settings: its file, if it says so.
    """

    process: int
    socket: Path | None
    settings: Path | None = None

    @property
    def is_running(self) -> bool:
        """Does it run the machine, or is it about to?"""
        return self.socket is not None


def lock_path(uuid: str) -> Path:
    """Return the lock of a machine; ``RUSB_RUNTIME`` or the state folder has it.

    Raises:
        ControlError: the folder cannot be made.
    """
    return _folder() / f"{uuid.strip('{}').lower()}.lock"


def _folder() -> Path:
    named = os.environ.get("RUSB_RUNTIME")
    folder = Path(named) if named else state_folder() / "run"
    try:
        make_private(folder)
        is_foreign = belongs_to_others(folder)
    except OSError as error:
        raise ControlError(
            f"cannot create {folder}, which keeps machines from running twice:"
            f" {reason(error)}; name another directory with RUSB_STATE"
        ) from error
    if is_foreign:
        raise ControlError(
            f"{folder}, which keeps machines from running twice, belongs to another"
            " user or can be written by others; remove it, or name another directory"
            " with RUSB_STATE"
        )
    return folder


def holder_of(path: Path) -> Holder | None:
    """Return who has the lock, None if nobody has.

    Raises:
        ControlError: it cannot be looked at.
    """
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read(path)
    except OSError as error:
        raise ControlError(f"cannot check {path}: {reason(error)}") from error
    return None


def _read(path: Path) -> Holder:
    try:
        with path.open("r", errors="replace") as file:
            lines = file.read(MAX_TEXT).split("\n")
    except OSError:
        lines = []
    process, where, settings = (*lines, "", "", "")[:3]
    is_changing = where in ("", CHANGING)  # empty: about to say so, or to let go
    return Holder(
        int(process) if process.isdigit() else 0,
        None if is_changing else Path(where),
        Path(settings) if settings else None,
    )


def settings_in_use() -> list[Path]:
    """Return the files of the machines that run and say which theirs is.

    Raises:
        ControlError: the locks cannot be looked at.
    """
    found = (holder_of(path) for path in sorted(_folder().glob("*.lock")))
    return [held.settings for held in found if held and held.settings]


class MachineLock:
    """The lock of a machine, for one holder at a time.

    Args:
        path: see :func:`lock_path`.
        settings: the machine's file, for those who find it by its lock only.
    """

    def __init__(self, path: Path, *, settings: Path | None = None) -> None:
        self.path = path
        self._settings = settings
        self._file: TextIOWrapper | None = None

    @property
    def is_held(self) -> bool:
        """Do we have it?"""
        return self._file is not None

    def take(self, socket: Path | None = None) -> None:
        """Take it; a process that only changes the settings is waited for.

        Args:
            socket: where the machine is going to listen; None: it is changed.

        Raises:
            ControlError: another process has it, or it cannot be made.
        """
        begin = time.monotonic()
        while (file := self._try()) is None:
            holder = _read(self.path)
            waited = time.monotonic() - begin
            if holder.is_running and waited > GLANCE:
                raise ControlError(
                    f"the machine is already running, in process {holder.process}"
                )
            if waited > PATIENCE:
                raise ControlError(
                    f"process {holder.process} has been changing the machine for"
                    f" {PATIENCE:g} s; try again later"
                )
            time.sleep(POLL)
        self._file = file
        try:
            self.say(socket)
        except ControlError:
            self.drop()
            raise

    def say(self, socket: Path | None) -> None:
        """Say what it is held for, see :meth:`take`.

        Raises:
            ControlError: the disk is full.
        """
        assert self._file is not None
        number = self._file.fileno()  # unbuffered: nothing is left for drop() to write
        where = self._settings.absolute() if self._settings else ""
        try:
            os.ftruncate(number, 0)
            os.write(
                number, os.fsencode(f"{os.getpid()}\n{socket or CHANGING}\n{where}\n")
            )
        except OSError as error:
            raise ControlError(
                f"cannot write {self.path}, which keeps the machine from running"
                f" twice: {reason(error)}; make room, or name another directory with"
                " RUSB_STATE"
            ) from error

    def drop(self, *, forget: bool = False) -> None:
        """Let go of it, and with *forget* remove it. Idempotent."""
        file, self._file = self._file, None
        if file is None:
            return
        if forget:
            self.path.unlink(missing_ok=True)
        file.seek(0)
        file.truncate()
        file.close()

    def _try(self) -> TextIOWrapper | None:
        try:
            file = open(self.path, "a+", opener=_open_itself)  # noqa: SIM115
        except OSError as error:
            raise ControlError(
                f"cannot create {self.path}, which keeps the machine from running"
                f" twice: {reason(error)}"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(self.path).st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody has it, or has just removed it
        except OSError as error:
            file.close()
            raise ControlError(f"cannot lock {self.path}: {reason(error)}") from error
        file.close()
        return None


def _open_itself(path: str, flags: int) -> int:
    """Open a file, never what a symbolic link in its place leads to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[MachineLock]:
    """Keep a machine from being started, and from being changed by others.

    Raises:
        ControlError: it runs.
    """
    lock = MachineLock(path)
    lock.take()
    try:
        yield lock
    finally:
        lock.drop()
