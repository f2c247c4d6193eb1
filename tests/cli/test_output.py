"""What becomes of the output of a command: a full disk, a pipe that is closed."""

import os
import subprocess
import sys

import pytest

COMMANDS = [
    ["version"],
    ["--help"],
    ["plugins"],
    ["devices", "--backend", "emulated"],
    ["connect", "--help"],
    ["showvminfo", "--help"],
    ["list", "ostypes"],
]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_output_that_cannot_be_written_is_said(
    words: list[str], unbuffered: str
) -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "rusb", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert found.stderr.endswith("error: No space left on device\n")
    assert found.stderr.count("\n") == 1
    assert found.returncode == 1


@pytest.mark.parametrize("words", COMMANDS[:4], ids=" ".join)
def test_who_reads_no_further_is_told_nothing(words: list[str]) -> None:
    """``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        found = subprocess.run(
            [sys.executable, "-m", "rusb", *words],
            stdout=pipe,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    assert (found.returncode, found.stderr) == (0, "")
