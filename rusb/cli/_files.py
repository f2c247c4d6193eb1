"""Files that commands write: complete, or as they were."""

import contextlib
import os
from pathlib import Path

from rusb.errors import SettingsError
from rusb.oserrors import reason

__all__ = ["file_to_write", "replace_file"]


def file_to_write(name: str) -> Path:
    """Return the place of a file that is to be written, behind links.

    Raises:
        SettingsError: there is something that is not a file, or no directory for it.
    """
    path = Path(os.path.realpath(name))
    if path.exists() and not path.is_file():
        raise SettingsError(f"{name} is not a regular file; name another one")
    if not path.parent.is_dir():
        raise SettingsError(f"cannot write {path}: No such file or directory")
    return path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside *path* and rename it.

    Raises:
        SettingsError: it cannot be written; what was there is as before.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "xb") as file:
            file.write(data)
        os.replace(beside, path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
