"""Which kernel drivers were detached, so that a killed client's devices recover.

The kernel releases the claims of a killed process, but leaves an interface without a
driver. Each detaching is therefore written down before it is done; the next start of
any client gives the drivers of dead processes back.
"""

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rusb.oserrors import os_error
from rusb.paths import locked, make_private

from ._sysfs import Sysfs

__all__ = ["Journal"]

log = logging.getLogger(__name__)

MAX_SIZE = 1 << 20


def _start_time(pid: int) -> str | None:
    """Return when a process started, which tells it from a later one of that number.

    None for one that has ended, be it reaped or not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


class Journal:
    """A file of JSON lines, shared by all clients of a user.

    Args:
        path: the file.
        sysfs: where drivers are bound again.
    """

    def __init__(self, path: Path, sysfs: Sysfs) -> None:
        self.path = path
        self._sysfs = sysfs

    def add(self, name: str, address: int, interface: int, driver: str) -> None:
        """Write down that *driver* is about to be detached; it is on disk then."""
        entry = {
            "device": name,
            "address": address,
            "interface": interface,
            "driver": driver,
            "pid": os.getpid(),
            "start": _start_time(os.getpid()),
        }
        with self._locked():
            self._write([*self._read(), entry])

    def remove(self, name: str, interface: int) -> None:
        """The driver has it again."""
        with self._locked():
            entries = self._read()
            kept = [
                e
                for e in entries
                if (e["device"], e["interface"], e["pid"])
                != (name, interface, os.getpid())
            ]
            if len(kept) != len(entries):
                self._write(kept)

    def recover(self) -> list[str]:
        """Give the drivers of dead processes back.

        Returns:
            A sentence for each interface that was given back.
        """
        if not self.path.exists():
            return []
        done, kept = [], []
        with self._locked():
            for entry in self._read():
                if _start_time(entry["pid"]) == entry["start"]:
                    kept.append(entry)
                    continue
                name, interface = entry["device"], entry["interface"]
                if self._sysfs.text(name, "devnum") != str(entry["address"]):
                    continue  # unplugged meanwhile
                if self._sysfs.bind(name, interface, entry["driver"]):
                    done.append(
                        f"interface {interface} of device {name} was given back to"
                        f" {entry['driver']}; a client that was killed had detached it"
                    )
                else:
                    log.warning(
                        "interface %d of %s has no driver any more; it was %s",
                        interface,
                        name,
                        entry["driver"],
                    )
                    kept.append(entry)
            self._write(kept)
        return done

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_private(self.path.parent)
        with locked(self.path.with_name(self.path.name + ".lock")):
            yield

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = []
        with self.path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
        if len(data) > MAX_SIZE:  # what was not read would not be written again
            raise os_error(errno.EFBIG, self.path)
        for line in data.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and _is_ours(entry):
                    found.append(entry)
        return found

    def _write(self, entries: list[dict[str, Any]]) -> None:
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w") as file:
            file.writelines(json.dumps(e) + "\n" for e in entries)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def _is_ours(entry: dict[str, Any]) -> bool:
    """Did we write it? Names become parts of paths, and whoever reads may be root."""
    numbers = [entry.get(key) for key in ("address", "interface", "pid")]
    names = [entry.get(key) for key in ("device", "driver", "start")]
    return (
        all(type(n) is int and 0 <= n < 1 << 31 for n in numbers)
        and isinstance(names[0], str)
        and _DEVICE.fullmatch(names[0]) is not None
        and isinstance(names[1], str)
        and _DRIVER.fullmatch(names[1]) is not None
        and (names[2] is None or isinstance(names[2], str))
    )


_DEVICE = re.compile(r"[0-9]{1,5}-[0-9]{1,3}(\.[0-9]{1,3})*")
_DRIVER = re.compile(r"[A-Za-z0-9_-]{0,64}")
