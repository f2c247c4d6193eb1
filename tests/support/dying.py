"""Code that dies at one of the steps that it makes with files."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["die"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["rusb.server.vbox.registry"])


def die(step: int, code: str, path: Path) -> bool:
    """Run *code* in a process that dies at a step; tell whether it came to its end."""
    process = _SERVER.Process(target=_run, args=(step, code, path))
    process.start()
    process.join(30)
    assert process.exitcode in (0, 9)
    return process.exitcode == 0


def _run(step: int, code: str, path: Path) -> None:
    count = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **known: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return function(*args, **known)

        return run

    for name in ("open", "fsync", "link", "replace", "close"):
        setattr(os, name, deadly(getattr(os, name)))
    Path.unlink = deadly(Path.unlink)  # type: ignore[method-assign]
    real = os.fdopen

    class Half:
        """A file whose writer can die in the middle of what it writes."""

        def __init__(self, *args: Any) -> None:
            self._file = real(*args)
            self.flush, self.fileno = self._file.flush, self._file.fileno

        def __enter__(self) -> "Half":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            deadly(lambda: None)()
            self._file.write(data[len(data) // 2 :])

    os.fdopen = Half  # type: ignore[assignment]
    exec(code, {"path": path})
    os._exit(0)
