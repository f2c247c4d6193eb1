"""What becomes of the output of a command: a full disk, a pipe that is closed."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.program import run_rusb

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
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        found = run_rusb(*words, stdout=full, stderr=subprocess.PIPE, env=env)
    assert found.stderr.endswith("error: No space left on device\n")
    assert found.stderr.count("\n") == 1
    assert found.returncode == 1


@pytest.mark.parametrize("words", COMMANDS[:4], ids=" ".join)
def test_who_reads_no_further_is_told_nothing(words: list[str]) -> None:
    """``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        found = run_rusb(*words, stdout=pipe, stderr=subprocess.PIPE)
    assert (found.returncode, found.stderr) == (0, "")


DEVICE = """
from rusb.client.backends.emulated import EmulatedDevice, describe
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.types import Speed


class Cafe(EmulatedDevice):
    def __init__(self) -> None:
        interface = InterfaceDescriptor(0, 0, 0xFF, 0, 0)
        descriptors = describe(Speed.HIGH, 0x0010, interface)
        super().__init__(descriptors, ("Acme", "Caf\u00e9 \u20ac", "1"))
"""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "Caf\\xe9 \\u20ac"), ("latin-1", "Caf\xe9 \\u20ac")],
)
def test_a_terminal_that_lacks_a_letter_shows_its_number(
    encoding: str, shown: str, tmp_path: Path
) -> None:
    file = tmp_path / "cafe.py"
    file.write_text(DEVICE, "utf-8")
    words = "devices", "--backend", f"{file}:Cafe"
    env = os.environ | {"PYTHONIOENCODING": encoding}
    found = run_rusb(*words, capture_output=True, encoding=encoding, env=env)
    assert (found.returncode, found.stderr) == (0, "")
    assert shown in found.stdout
