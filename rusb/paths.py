"""Where rusb keeps what it knows between runs."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["locked", "state_folder"]


def state_folder() -> Path:
    """Return the folder for what rusb keeps between runs (``RUSB_STATE`` wins)."""
    named = os.environ.get("RUSB_STATE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "rusb"


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
