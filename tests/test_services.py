"""contrib/: systemd accepts the units, udev's grammar is kept."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rusb.cli import main

CONTRIB = Path(__file__).resolve().parent.parent / "contrib"
UNITS = sorted((CONTRIB / "systemd").glob("*.service"))
RULES = CONTRIB / "udev" / "70-rusb.rules"
INSTALLED = "/usr/local/bin/rusb"


def test_the_units_are_there() -> None:
    names = ["rusb-connect@.service", "rusb-serve@.service", "rusb-vm@.service"]
    assert [unit.name for unit in UNITS] == names


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    """It wants the program to be there."""
    text = unit.read_text("utf-8")
    assert "\nType=notify\n" in text
    assert INSTALLED in text
    copy = tmp_path / unit.name
    copy.write_text(text.replace(INSTALLED, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_rusb_knows_the_options_of_the_unit(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = re.findall(rf"={INSTALLED} (\S+) (.*)$", unit.read_text(), re.M)
    found = re.findall(rf"=-?{INSTALLED}", unit.read_text())
    assert commands
    assert len(found) >= len(commands)
    for word, rest in commands:
        with contextlib.suppress(SystemExit):
            main([word, "--help"])
        out = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", rest):
            assert option in out


# --------------------------------------------------------------------- udev ----

KEYS = r"ACTION|SUBSYSTEM|ATTR\{\w+\}|ENV\{\w+\}|GOTO|LABEL|MODE|GROUP|TAG"
PAIR = re.compile(rf'(?:{KEYS})(?:==|!=|\+=|=)"[^"]*"')


def rules() -> list[str]:
    lines = RULES.read_text("utf-8").splitlines()
    wanted = [line.removeprefix("#") for line in lines if line and line[:2] != "# "]
    return [line for line in wanted if line]


def test_each_rule_is_pairs_of_known_keys() -> None:
    """udev(7): Debian 12 has no 'udevadm verify', which would say it."""
    assert sum("uaccess" in line for line in rules()) == 2
    for line in rules():
        pairs = re.split(r",\s*", line)
        assert all(PAIR.fullmatch(pair) for pair in pairs), line
    text = "\n".join(rules())
    assert {*re.findall(r'GOTO="(\w+)"', text)} <= {*re.findall(r'LABEL="(\w+)"', text)}
