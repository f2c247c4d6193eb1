"""Results of former runs: a file with a line of JSON for each."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rusb.errors import RusbError
from rusb.oserrors import reason

from .figures import Figures, machine_name

__all__ = ["History", "key_of"]


class History:
    """Where to append this run, and what to compare it with.

    Args:
        to: file to append to; it is made if it is not there.
        compared: file whose last line of this machine is :attr:`before`.

    Attributes:
        before: the former run; None: nothing is to be compared.

    Raises:
        RusbError: a file cannot be written or read, or has no run of this machine.
    """

    def __init__(self, to: Path | None, compared: Path | None) -> None:
        self._to = to
        self.before = None if compared is None else _last(compared)
        if to is not None:
            self._write("")

    def append(self, figures: Figures) -> None:
        """Add a line."""
        if self._to is not None:
            self._write(json.dumps(as_line(figures)) + "\n")

    def _write(self, text: str) -> None:
        assert self._to is not None
        try:
            with self._to.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            text = f"cannot write to {self._to}: {reason(error)}"
            raise RusbError(text) from error


def as_line(figures: Figures) -> dict[str, Any]:
    """What ``--json`` prints, and the time, the machine and the spread of each row."""
    line = figures.to_json()
    for row, found in zip(line["rows"], figures.rows, strict=True):
        row["spread"] = found.spread
    line["spread"] = figures.spread
    line["time"] = datetime.now(UTC).isoformat(timespec="seconds")
    line["machine"] = machine_name()
    return line


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells rows apart."""
    return tuple(row[k] for k in ("name", "size", "depth", "devices", "rtt_ms"))


def _last(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise RusbError(f"cannot read {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise RusbError(f"{path} was not written by --history") from error
    name = machine_name()
    for line in reversed(lines):
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if isinstance(run, dict) and run.get("v") == 2 and run.get("machine") == name:
            return run
    raise RusbError(
        f"{path} has no run on this machine ({name}); record one with --history {path}"
    )
