"""docs/howto/: every block of code is written to its file, or run.

A Python, TOML or other block with a title is a file. In a ``console`` block, lines that
begin with ``$`` are commands, and the others are what they print, word for word but for
``…``, which stands for anything; at ``^C`` the command is interrupted. Nothing else
occurs.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rusbserver import free_port

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))

PORT = "13389"
"""Where the servers of the pages listen; here somebody else may."""

FENCE = re.compile(r'^```(\w*)(?: title="([\w./-]+)")?\n(.*?)^```$', re.M | re.S)
STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.M)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a short name, as the addresses of sockets want it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def environment(folder: Path, sockets: Path) -> dict[str, str]:
    """A shell in which the commands of the page are this checkout's.

    Packages are built with the setuptools that is here: a fresh one for each would
    have to be fetched.
    """
    commands, site = folder / "bin", folder / "site"
    commands.mkdir()
    into = f"--target '{site}' --no-deps --no-build-isolation"
    for name, words in (
        ("python", '"$@"'),
        ("rusb", '-m rusb "$@"'),
        ("pip", f'-m pip "$@" {into}'),
    ):
        path = commands / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}\n')
        path.chmod(0o755)
    ours = {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{site}",
        "HOME": str(folder),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "RUSB_STATE": str(folder / "state"),
        "RUSB_RUNTIME": str(sockets),
    }
    return os.environ | ours


def follow(page: Path, folder: Path, sockets: Path) -> int:
    """Do what the page says, and return how many commands ran."""
    count = 0
    env = environment(folder, sockets)
    desk = folder / "desk"
    desk.mkdir()
    (folder / "rusb").symlink_to(ROOT)  # ~/rusb
    whole = page.read_text("utf-8").replace(PORT, str(free_port()))
    for language, title, text in FENCE.findall(whole):
        if title:
            (desk / title).parent.mkdir(exist_ok=True)
            (desk / title).write_text(text, "utf-8")
            continue
        assert language == "console", f"a block of {language or 'what?'} is not run"
        for command, output in STEP.findall(text):
            printed = run(command, output, desk, env)
            wanted = pattern(output.replace("^C\n", ""))
            assert re.fullmatch(wanted, printed, re.S), f"{command}:\n{printed}"
            count += 1
    return count


def pattern(output: str) -> str:
    return ".*".join(map(re.escape, output.split("…")))


def run(command: str, output: str, desk: Path, env: dict[str, str]) -> str:
    """Run a command, interrupt it where the page says so, return what it printed."""
    path = desk.parent / "printed"
    first, ctrl_c, _ = output.partition("^C\n")
    with path.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}" if ctrl_c else command],
            cwd=desk,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        if ctrl_c:
            while not re.fullmatch(pattern(first), path.read_text("utf-8"), re.S):
                assert process.poll() is None, f"{command}:\n{path.read_text('utf-8')}"
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
    return path.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, sockets: Path) -> None:
    assert follow(page, tmp_path, sockets) >= 1


def test_a_page_that_says_something_else_is_noticed(
    tmp_path: Path, sockets: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one\ntwo\n```\n")
    with pytest.raises(AssertionError, match="echo one"):
        follow(page, tmp_path, sockets)


def test_every_block_of_code_is_found() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        fences = re.findall(r"^```", text, re.M)
        assert len(fences) == 2 * len(FENCE.findall(text)), page.name
