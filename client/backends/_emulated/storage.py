"""Where a flash drive keeps its bytes: memory, or an image file."""

import os
from pathlib import Path
from typing import Protocol

from rusb.errors import BackendError
from rusb.oserrors import reason

__all__ = ["BLOCK", "FileStorage", "MemoryStorage", "Storage"]

BLOCK = 512
"""Bytes of a logical block; what every system expects of a flash drive."""


class Storage(Protocol):
    """Random access to a fixed number of bytes.

    Attributes:
        size: bytes, a multiple of 512.
        is_read_only: writing is impossible.
    """

    size: int
    is_read_only: bool

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes; OSError if that is not possible."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of *data*; OSError if that is not possible."""

    def flush(self) -> None:
        """Return when everything is where it survives a power failure."""

    def close(self) -> None:
        """Let go of it."""


class MemoryStorage:
    """Bytes in memory, which outlive unplugging.

    Args:
        data: used in place, not copied; a multiple of 512 bytes, at least one.
    """

    is_read_only = False

    def __init__(self, data: bytearray) -> None:
        if not data or len(data) % BLOCK:
            raise BackendError(f"image of {len(data)} bytes, not a multiple of 512")
        self.size = len(data)
        self._view = memoryview(data)

    def read(self, offset: int, length: int) -> bytes:
        """Copy out."""
        return bytes(self._view[offset : offset + length])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy in."""
        self._view[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing survives."""

    def close(self) -> None:
        """Nothing to do."""


class FileStorage:
    """An image file, written through to the operating system.

    Not mapped: a full disk or a file cut short would kill the process instead of
    failing one command.

    Args:
        path: an existing file of a multiple of 512 bytes; one that may not be
            written is read-only.

    Raises:
        BackendError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.is_read_only = not os.access(path, os.W_OK)
        try:
            mode = "rb" if self.is_read_only else "r+b"
            self._file = open(path, mode, buffering=0)  # until close()
        except OSError as error:
            raise BackendError(f"image {path}: {reason(error)}") from error
        self.size = self._file.seek(0, os.SEEK_END)
        if not self.size or self.size % BLOCK:
            self._file.close()
            raise BackendError(
                f"image {path}: {self.size} bytes, not a multiple of {BLOCK}"
            )

    def read(self, offset: int, length: int) -> bytes:
        """One system call for the position, one for the data."""
        self._file.seek(offset)
        data: bytes | None = self._file.read(length)
        if data is None or len(data) != length:
            raise OSError(f"{len(data or b'')} bytes at {offset}, wanted {length}")
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Likewise."""
        self._file.seek(offset)
        if self._file.write(data) != len(data):
            raise OSError("short write")

    def flush(self) -> None:
        """Have the operating system write to the disk; it blocks meanwhile."""
        if not self.is_read_only:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
