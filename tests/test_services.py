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


@pytest.mark.parametrize("guide", ["quick-start", "services"])
def test_for_whom_pam_checks_passwords_is_said_alike(guide: str) -> None:
    text = (CONTRIB.parent / f"docs/guide/{guide}.md").read_text("utf-8")
    assert (
        "the passwords of others only for root or members of the group `shadow`" in text
    )


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


# -------------------------------------------------------------------- guide ----

GUIDE = CONTRIB.parent / "docs" / "guide" / "services.md"

STUBS = {
    "apt-get": "exit 0",
    "python3": 'mkdir -p "$3/bin" && for name in pip rusb rdesktop-vrdp; do'
    ' printf "#!/bin/sh\\n" >"$3/bin/$name"; chmod +x "$3/bin/$name"; done',
    "useradd": "exit 0",
    "usermod": "exit 0",
    "udevadm": "exit 0",
    "runuser": 'shift 3; exec PYTHON -m "$@"',
    "systemctl": 'unit=${3%%@*}; test -f "ROOT/etc/systemd/system/$unit@.service"',
}
"""What stands for programs that would change this system."""


def test_the_blocks_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the tree's places, with stand-ins for what changes a system."""
    root, programs = tmp_path / "root", tmp_path / "programs"
    for folder in ("etc/systemd/system", "etc/udev/rules.d", "usr/local/bin", "opt"):
        (root / folder).mkdir(parents=True)
    (root / "opt/rusb/share/bash-completion/completions").mkdir(parents=True)
    (root / "opt/rusb/share/bash-completion/completions/rusb").touch()
    programs.mkdir()
    for name, code in STUBS.items():
        code = code.replace("ROOT", str(root)).replace("PYTHON", sys.executable)
        (programs / name).write_text(f"#!/bin/sh\n{code}\n")
        (programs / name).chmod(0o755)
    text = GUIDE.read_text("utf-8")
    blocks = re.findall(r"^```sh[^\n]*\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 8
    code = re.sub(
        r"(?<![\w.])/(?=etc/|opt/|usr/local/bin)", f"{root}/", "".join(blocks)
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        ["bash", "--norc", "-euc", code],
        cwd=CONTRIB.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Virtual machine 'Lab' is created and registered." in done.stdout
    assert re.search("^Name: +Lab$", done.stdout, re.M)
    secret = root / "etc/rusb/connect-server.example:5000.env"
    assert secret.stat().st_mode & 0o777 == 0o600
    found = {path.name for path in (root / "etc").rglob("*") if path.is_file()}
    units = {unit.name for unit in UNITS}
    assert found >= units | {RULES.name, "serve-Lab.env", "manpath.config"}
    assert (root / "usr/local/bin/rusb").resolve() == root / "opt/rusb/bin/rusb"


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
