"""A stranger's walk: the guide's commands, copied from it, on a machine without rusb.

What the guide shows in its text blocks must come, line by line and in this order; ``…``
stands for anything.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lab.assets import assets
from tests.support.lab.peers import Display, wait
from tests.support.lab.vboxshell import end_all
from tests.support.rusbserver import CHECKOUT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

GUIDE = "docs/guide/first-machine.md"
PARTS = (
    *("rusb", "contrib", "tools", "tests", "pyproject.toml", "README.md"),
    "LICENSE",
)


def blocks() -> list[tuple[str, str]]:
    """The guide's fenced blocks: what stands behind the fence, and what is inside."""
    text = (CHECKOUT / GUIDE).read_text()
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def assert_shown(wanted: str, output: str) -> None:
    """Each wanted line must be in one of the output's, in order."""
    lines = iter(output.splitlines())
    for line in filter(None, wanted.splitlines()):
        if line == "…":
            continue
        pattern = ".*".join(map(re.escape, line.split("…")))
        assert any(re.search(pattern, found) for found in lines), (line, output)


class Terminal:
    """A shell that keeps its state from block to block, as a person's does."""

    def __init__(self, folder: Path, env: dict[str, str], name: str) -> None:
        self.output = folder / f"{name}.out"
        self._file = self.output.open("wb")
        self.process = subprocess.Popen(
            ["bash", "--norc", "-e"],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=folder / "checkout",
            env=env,
            start_new_session=True,
        )

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def run(self, text: str, seconds: float) -> str:
        """Type a block, wait until it is done, return what it printed."""
        before = len(self.said())
        mark = f"done {time.monotonic_ns()}"
        self.type(f"{text}echo {mark}\n")
        end = time.monotonic() + seconds
        while mark not in (said := self.said()[before:]):
            assert self.process.poll() is None, f"a command failed: {text}{said}"
            assert time.monotonic() < end, f"not done in {seconds} s: {text}{said}"
            time.sleep(0.05)
        return said.replace(mark, "")

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def close(self) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(10)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._file.close()


def test_the_guide_leads_from_nothing_to_a_device_in_a_guest(
    lab: None, programs: None, tmp_path: Path
) -> None:
    if os.getuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("the guide installs Debian packages as root")
    checkout = tmp_path / "checkout"
    for part in PARTS:
        if (CHECKOUT / part).is_dir():
            shutil.copytree(CHECKOUT / part, checkout / part)
        else:
            checkout.mkdir(exist_ok=True)
            shutil.copy(CHECKOUT / part, checkout)
    env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    env |= {"HOME": str(tmp_path), "RUSB_ACCEL": "tcg", "PIP_NO_COMPILE": "1"}
    env |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "pip_"))}
    env["RUSB_LAB_CACHE"] = str(assets())
    (tmp_path / "display").mkdir()
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display(tmp_path / "display"))
        first = Terminal(tmp_path, env, "first")
        stack.callback(first.close)
        second = Terminal(tmp_path, {**env, "DISPLAY": display.name}, "second")
        stack.callback(second.close)
        stack.callback(end_all, f"HOME={tmp_path}")
        _walk(first, second, tmp_path / "lab-console.txt", display)
    assert (tmp_path / "lab.vdi").exists()
    assert not (tmp_path / ".local/share/rusb/VirtualBox VMs/Lab").exists()


def _walk(first: Terminal, second: Terminal, console: Path, display: Display) -> None:
    terminal, output = first, ""

    def is_told(text: str) -> Callable[[], bool]:
        return lambda: text in console.read_text(errors="replace")

    for kind, text in blocks():
        if kind == "text" and terminal is second:
            _wait_shown(text, second)
            wait(is_told("idVendor=1209, idProduct=0001"), "the stick in the guest")
            wait(lambda: not display.is_blank(), "the window", second.said)
        elif kind == "text":
            assert_shown(text, output)
        elif kind == "sh aside":
            continue  # an example that is no step of the walk
        elif kind == "sh":
            terminal, output = first, first.run(text, 180)
            if "startvm" in text:
                wait(is_told("SYSTEM IS UP"), "the guest's Linux", seconds=90)
        else:
            assert kind == "sh second terminal"
            terminal = second
            port = re.search(r"VRDE port: +(\d+)", first.said())
            assert port is not None
            # 5000 is taken on some machines; the guide says to take the port shown
            second.type(text.replace(":5000", f":{port[1]}"))


def _wait_shown(wanted: str, terminal: Terminal) -> None:
    """Wait until a terminal shows a block."""
    end = time.monotonic() + 60
    while True:
        try:
            said = re.sub(r"localhost:\d+", "localhost:5000", terminal.said())
            assert_shown(wanted, said)
            return
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
