"""Files that are changed whole: locked, written beside, renamed (filters.md 2.1)."""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rusb.errors import SettingsError
from rusb.oserrors import reason
from rusb.paths import make_private

from .document import MAX_SIZE

__all__ = [
    "belongs_to_others",
    "change_file",
    "locked_folder",
    "made_folder",
    "make_folder",
    "open_at_once",
    "read_file",
    "waiting_path",
    "write_file",
]

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process that changes something in the same folder."""

LOCK_POLL = 0.02


def read_file(path: Path, what: str = "") -> bytes:
    """Read a settings file; a FIFO or a device is not waited for.

    Args:
        path: of the file.
        what: it is, for messages.

    Raises:
        SettingsError: it cannot be read, is no regular file, or larger than MAX_SIZE.
    """
    name = f"{what} {path}".strip()
    try:
        with open(path, "rb", opener=open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SettingsError(f"cannot read {name}: it is not a regular file")
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {name}: {reason(error)}") from error
    except ValueError as error:  # a NUL in the name
        raise SettingsError(f"cannot read {name!r}: {error}") from error
    if len(data) > MAX_SIZE:
        raise SettingsError(
            f"{path} is larger than {MAX_SIZE >> 20} MiB: not a settings file"
        )
    return data


def belongs_to_others(folder: Path) -> bool:
    """Could somebody else put something into a folder, or another one in its place?

    Raises:
        OSError: it cannot be looked at.
    """
    found = folder.lstat()  # a symbolic link may lead elsewhere the next time
    is_ours = found.st_uid == os.getuid() and not found.st_mode & 0o022
    return not (stat.S_ISDIR(found.st_mode) and is_ours)


def open_at_once(path: str, flags: int) -> int:
    """Open for ``open``: a FIFO does not keep us waiting for its other end."""
    return os.open(path, flags | os.O_NONBLOCK)


def make_folder(path: Path, *, is_private: bool = False) -> None:
    """Make a folder and those that it is in, where they are missing.

    Args:
        path: of the folder.
        is_private: for its owner alone; else as the umask says.

    Raises:
        SettingsError: it cannot be made.
    """
    try:
        if is_private:
            make_private(path)
        else:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot create the directory {path}: {reason(error)}"
        ) from error


@contextlib.contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder; the folders that were made go again where the block fails.

    Raises:
        SettingsError: it cannot be made.
    """
    missing = [p for p in (path, *path.parents) if not os.path.lexists(p)]
    try:
        make_folder(path)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for place in missing:
                if place.is_dir():
                    place.rmdir()  # only an empty one goes
        raise


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
        raise SettingsError(f"cannot open {folder}: {reason(error)}") from error
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SettingsError(
                        f"another process has been changing {folder} for"
                        f" {LOCK_TIMEOUT:g} s; try again later"
                    ) from None
                time.sleep(LOCK_POLL)
            except OSError as error:  # a network file system without locks
                raise SettingsError(f"cannot lock {folder}: {reason(error)}") from error
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
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _keep(path, previous)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some network file systems cannot do it
            _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SettingsError(
            f"cannot write {path}: {reason(error)}; nothing was changed"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep(path: Path, previous: Path) -> None:
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # FAT and some network file systems have no hard links
        import shutil

        shutil.copyfile(path, previous)


def change_file(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Read, change and write a file under the lock of its folder.

    Args:
        path: the file; a symbolic link stays one.
        change: returns the new contents; what it raises leaves the file as it is.

    Raises:
        SettingsError: reading or writing failed, or a program without our lock
            changed the file meanwhile.
    """
    path = Path(os.path.realpath(path))
    with locked_folder(path.parent):
        before = read_file(path)
        after = change(before)
        if after == before:
            return
        if read_file(path) != before:
            raise SettingsError(
                f"another program has just changed {path}; nothing was written, so try"
                " again"
            )
        write_file(path, after)


def waiting_path(path: Path) -> Path:
    """Where the settings of a new machine are until it is on the list."""
    return path.with_name(path.name + "-new")
