"""``rusb aliases``: the old names of the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rusb.cli import main
from rusb.cli.aliases import NAMES
from tests.support.rusbserver import refusing_port

RUSB = Path(sys.executable).with_name("rusb")


def run(line: str, folder: Path, programs: Path) -> tuple[int, str]:
    """Run a line somewhere, the links in PATH; return status and all output."""
    done = subprocess.run(
        line.split(),
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{programs}:/usr/bin:/bin",
            "XDG_CONFIG_HOME": str(folder),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_links_work_from_any_folder(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["aliases", "new/bin"]) == 0
    programs = tmp_path / "new/bin"
    made = capsys.readouterr().out.split()
    assert made == [f"new/bin/{name}" for name in NAMES]
    assert main(["aliases", "new/bin"]) == 0  # they are there already
    assert capsys.readouterr().out == ""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    for line, status, sentence in (
        ("VBoxManage list vms", 0, ""),
        ("VBoxManage startvm", 2, "usage: VBoxManage startvm VM"),
        ("VBoxManage startvm None", 1, "VBoxManage: error: "),
        ("VBoxHeadless", 2, "usage: VBoxHeadless --startvm NAME|UUID"),
        ("VBoxHeadless --startvm None", 1, "VBoxHeadless: error: could not find"),
        ("VBoxVRDP --startvm None", 1, "VBoxVRDP: error: could not find"),
        (f"{programs}/rdesktop-vrdp", 64, "Usage: rdesktop-vrdp"),
    ):
        ended, said = run(line, elsewhere, programs)
        assert (ended, sentence in said) == (status, True), f"{line}: {ended} {said}"
    with refusing_port() as port:
        line = f"rdesktop-vrdp -N 127.0.0.1:{port}"
        ended, said = run(line, elsewhere, programs)
    assert (ended, "Cannot connect to" in said) == (76, True), said


def test_what_is_there_is_left_alone_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = tmp_path / "VBoxManage"
    original.write_text("the real one")
    broken = tmp_path / "VBoxVRDP"
    broken.symlink_to("nowhere")
    assert main(["aliases", str(tmp_path)]) == 65
    out, err = capsys.readouterr()
    assert f"not links to rusb: {original}, {broken}" in err
    assert original.read_text() == "the real one"
    assert os.readlink(broken) == "nowhere"
    assert out.split() == [str(tmp_path / n) for n in ("VBoxHeadless", "rdesktop-vrdp")]


def test_what_the_installation_made_is_no_trouble(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``pip install`` puts rdesktop-vrdp beside rusb."""
    for name in ("rusb", "rdesktop-vrdp"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "rusb")])
    assert main(["aliases", str(tmp_path)]) == 0
    assert (tmp_path / "VBoxManage").resolve() == tmp_path / "rusb"
    assert not (tmp_path / "rdesktop-vrdp").is_symlink()


def test_without_an_installed_program_nothing_is_made(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/__main__.py"])
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert main(["aliases", str(tmp_path / "bin")]) == 65
    assert "install rusb" in capsys.readouterr().err
    assert not (tmp_path / "bin").exists()
