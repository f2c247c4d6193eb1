"""Command lines of VBoxManage in a home of their own, run in this process."""

import asyncio
import contextlib
import shlex
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rusb.cli import main
from rusb.server.event_log import EventLog
from rusb.server.machine.control import ControlServer, control_path
from rusb.server.state import DisplayState, MachineState
from rusb.server.vbox.lock import MachineLock, lock_path
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.settings import RemoteDisplay

__all__ = ["RUNNING", "Vbox", "fake_qemu_img", "vbox_home"]

RUNNING = MachineState("running", DisplayState(RemoteDisplay()))
"""What a machine without a server says of itself."""

WORDS = "info", "vrdeproperty", "reload", "audioout", "clipboard"

QEMU_IMG = """#!/bin/sh
echo "$@" >>"${0%/*}/log"
eval file=\\${$(($# - 1))}
[ "$1" != convert ] || eval file=\\${$#}
printf '%64s\\177\\020\\332\\276\\001\\000\\001\\000' x >"$file"
"""
"""It makes what is a VDI at first sight."""


class Vbox:
    """Runs command lines; ``out`` and ``err`` hold what the last one printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, line: str, status: int = 0) -> str:
        """Run a line without the name of the program; return its standard output."""
        self.capsys.readouterr()
        ended = main(shlex.split(line))
        self.out, self.err = self.capsys.readouterr()
        assert ended == status, f"{line}: {ended}\n{self.out}{self.err}"
        return self.out

    def fails(self, line: str, sentence: str, status: int = 2) -> None:
        """Run a line that says a sentence, and changes nothing."""
        before = self.files()
        self(line, status)
        assert sentence in self.err
        assert self.err.startswith(("rusb: error: ", "Warning: "))
        assert self.files() == before

    def files(self) -> dict[str, str]:
        """Every settings file, by its path."""
        return {
            str(path): path.read_text()
            for pattern in ("*.vbox", "*.xml")
            for path in sorted(self.folder.rglob(pattern))
        }

    def file(self, name: str = "Lab") -> str:
        """The settings of a machine."""
        return Registry().find(name).path.read_text()

    def info(self, name: str = "Lab") -> list[str]:
        """The lines of ``showvminfo --machinereadable``."""
        return self(f"showvminfo {name} --machinereadable").splitlines()

    def put(self, old: str, new: str, name: str = "Lab") -> None:
        """Change the settings of a machine as somebody with an editor does."""
        path = Registry().find(name).path
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    @contextlib.contextmanager
    def running(
        self, name: str = "Lab", state: MachineState = RUNNING
    ) -> Iterator[list[str]]:
        """A process that seems to run the machine; yields the commands it gets.

        Args:
            name: of the machine.
            state: what it says of itself.
        """
        got: list[str] = []

        async def answer(command: str) -> object:
            got.append(command)
            return state.to_json()

        def command(word: str) -> Any:
            async def run(arguments: Mapping[str, Any]) -> object:
                return await answer(word)

            return run

        words = {word: command(word) for word in WORDS}
        uuid = Registry().find(name).uuid
        lock = MachineLock(lock_path(uuid))
        server = ControlServer(partial(control_path, uuid), words, lock, EventLog(name))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
            yield got
            asyncio.run_coroutine_threadsafe(server.aclose(), loop).result(5)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            loop.close()


@contextlib.contextmanager
def vbox_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the commands work in a folder, which becomes the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    monkeypatch.setenv("RUSB_HOME", str(folder / "config" / "rusb"))
    monkeypatch.delenv("RUSB_MACHINE_FOLDER", raising=False)
    monkeypatch.setenv("RUSB_BACKENDS", "emulated:flash-drive")
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:  # a socket's path is short
        monkeypatch.setenv("RUSB_RUNTIME", runtime)
        yield


def fake_qemu_img(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program into PATH that notes what qemu-img is told; return the notes."""
    folder.mkdir()
    program = folder / "qemu-img"
    program.write_text(QEMU_IMG)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "log"
