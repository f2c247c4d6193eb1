"""Where rusb keeps what it knows between runs."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from rusb.errors import SettingsError

__all__ = ["locked", "make_private", "state_folder", "user_folder"]


def state_folder() -> Path:
    """Return the folder for what rusb keeps between runs (``RUSB_STATE`` wins).

    Raises:
        SettingsError: as :func:`user_folder`.
    """
    named = os.environ.get("RUSB_STATE")
    return Path(named) if named else user_folder("XDG_STATE_HOME", ".local/state")


def user_folder(variable: str, place: str) -> Path:
    """Return our folder among those of a kind, such as ``~/.config``.

    Args:
        variable: of the environment, which names that of the kind.
        place: where it is in the home directory otherwise.

    Raises:
        SettingsError: the user has no home directory, as in many containers.
    """
    if named := os.environ.get(variable):
        return Path(named) / "rusb"
    try:
        return Path.home() / place / "rusb"
    except RuntimeError:
        raise SettingsError(
            f"this user has no home directory; set HOME or {variable}"
        ) from None


def make_private(folder: Path) -> None:
    """Make a folder for its owner alone, and those that it is in, if they are missing.

    Those too, as the XDG Base Directory Specification has it: whichever command is
    first makes what all of them share. Others stay as they are.

    Raises:
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have a file to ourselves, among the processes that use this.

    Who may read it could keep everyone else waiting, so only its owner may.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        with contextlib.suppress(PermissionError):  # it is somebody else's
            os.fchmod(descriptor, 0o600)  # of one that an older version has made
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
