"""Files that are changed whole: locked, written beside, renamed (filters.md 2.1)."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rusb.errors import SettingsError

__all__ = ["change_file", "locked_folder", "write_file"]

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process that changes something in the same folder."""

LOCK_POLL = 0.02


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes of rusb from changing files in a folder.

    The lock is on the folder itself: it leaves no file, and ends with the process.

    Raises:
        SettingsError: there is no such folder, or another process has it too long.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingsError(f"cannot open {folder}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise SettingsError(
                        f"another process has been changing {folder} for"
                        f" {LOCK_TIMEOUT:g} s; try again when it is done"
                    ) from None
                time.sleep(LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file: whoever reads it, whenever we die, finds the old or the new.

    ``FILE-tmp`` is written and synced, the old file stays as ``FILE-prev``.

    Raises:
        SettingsError: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(path.name + "-tmp")
    previous = path.with_name(path.name + "-prev")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            previous.unlink(missing_ok=True)
            os.link(path, previous)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SettingsError(
            f"cannot write {path}: {error.strerror}; nothing was changed"
        ) from error


def change_file(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Read, change and write a file under the lock of its folder.

    Args:
        path: the file.
        change: returns the new contents; what it raises leaves the file as it is.

    Raises:
        SettingsError: reading or writing failed, or a program without our lock
            changed the file meanwhile.
    """
    with locked_folder(path.parent):
        before = _read(path)
        after = change(before)
        if after == before:
            return
        if _read(path) != before:
            raise SettingsError(
                f"another program has just changed {path}; nothing was written, do it"
                " again"
            )
        write_file(path, after)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
