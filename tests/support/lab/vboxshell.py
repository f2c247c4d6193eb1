"""Command lines of VBoxManage and its like, run as programs in a home of their own."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rusbserver import CHECKOUT

__all__ = ["WITH_BOTH", "Shell", "end_all"]

_LIBVIRT = pytest.param("libvirt", marks=pytest.mark.xdist_group("libvirt"))
WITH_BOTH = pytest.mark.parametrize("shell", ["qemu", _LIBVIRT], indirect=True)
"""Tests of this kind get the fixture ``shell`` for each engine."""


def end_all(variable: str) -> None:
    """Kill what has a variable in its environment: all that a failed test started."""
    for number in processes_with(variable):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.kill(number, signal.SIGKILL)


def processes_with(variable: str) -> list[int]:
    """Return the processes that have a variable in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names = (folder / "environ").read_bytes().split(b"\0")
            if os.fsencode(variable) in names:
                found.append(int(folder.name))
    return found


class Shell:
    """Runs commands of the manual in a folder and a home of their own.

    Args:
        folder: the home.
        runtime: the folder of sockets.
        vboxmanage: what stands for ``VBoxManage``.
        libvirt: URI of the libvirt that runs machines; empty: QEMU does.
    """

    def __init__(
        self, folder: Path, runtime: str, vboxmanage: Path, libvirt: str = ""
    ) -> None:
        self.folder = folder
        self._has_libvirt = bool(libvirt)
        programs = folder / "bin"
        command = [sys.executable, "-m", "rusb", "aliases", str(programs)]
        subprocess.run(command, check=True, cwd=CHECKOUT, timeout=30)
        (programs / "VBoxManage").unlink()
        (programs / "VBoxManage").symlink_to(vboxmanage)
        self.env = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "RUSB_STATE": str(folder / "state"),
            "RUSB_RUNTIME": runtime,
            "RUSB_ACCEL": "tcg",
            "RUSB_BACKENDS": "emulated:serial",  # what is plugged in at the server
            **({"LIBVIRT_DEFAULT_URI": libvirt} if libvirt else {}),
        }

    def __call__(self, line: str, status: int = 0) -> str:
        """Run a line; return what it printed."""
        words = shlex.split(line)
        said = self._run(words, status)
        if words[1] == "createvm" and self._has_libvirt:
            name = words[words.index("--name") + 1]
            self._run(["VBoxManage", "setextradata", name, "rusb/Engine", "libvirt"], 0)
        return said

    def _run(self, words: list[str], status: int) -> str:
        done = subprocess.run(
            words,
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, line: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a line that goes on."""
        output = self.folder / f"{shlex.split(line)[0]}.out"
        with open(output, "wb") as file:
            return subprocess.Popen(
                shlex.split(line),
                env=self.env | env,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def said(self, program: str) -> str:
        """What a started program has printed."""
        return (self.folder / f"{program}.out").read_text(errors="replace")

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, folder: Path, vboxmanage: Path, libvirt: str = ""
    ) -> Iterator["Shell"]:
        """One whose machines are off at the end."""
        with tempfile.TemporaryDirectory(dir="/tmp") as runtime:  # its path is short
            shell = cls(folder, runtime, vboxmanage, libvirt)
            try:
                yield shell
                shell.power_off()
            finally:
                end_all(f"RUSB_STATE={shell.env['RUSB_STATE']}")

    def power_off(self) -> None:
        """Let no machine run."""
        for name in re.findall('"(.*)" {', self("VBoxManage list runningvms")):
            self(f'VBoxManage controlvm "{name}" poweroff')
