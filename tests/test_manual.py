"""contrib/man and contrib/completion: each knows exactly the options of ``--help``.

After a change of options ``make manual`` writes them again.
"""

import contextlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.cli import main, vbox
from rusb.cli._words import OWN
from tests.support.rows import each_row

ROOT = Path(__file__).resolve().parent.parent
CONTRIB = ROOT / "contrib"
WORDS = [*OWN, *sorted(vbox.commands())]
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z0-9][\w-]*")
STALE = "; run: make manual"

Help = Callable[[str], set[str]]


@pytest.fixture
def options_of(capsys: pytest.CaptureFixture[str]) -> Help:
    """The options that the help of a command lists."""

    def find(word: str) -> set[str]:
        with contextlib.suppress(SystemExit):
            main([word, "--help" if word != "rdesktop" else "-h"])
        out, err = capsys.readouterr()
        if word == "rdesktop":
            plain = re.findall(r"(?:^|  )\s*(--?[\w-]+): ", err, re.MULTILINE)
            return {*plain, *OPTION.findall(err.splitlines()[-1].partition(":")[0])}
        if word in vbox.commands():
            shown = {*OPTION.findall(out.partition("options:")[2])}
            return shown | {"-h", "--help"}
        heads = re.findall(r"^  (-.*?)(?:  |$)", out, re.MULTILINE)
        return {name for head in heads for name in OPTION.findall(head)}

    return find


def page_of(word: str) -> str:
    name = "rdesktop-vrdp" if word == "rdesktop" else f"rusb-{word}"
    path = CONTRIB / "man" / f"{name}.1"
    assert path.exists(), f"no page {name}{STALE}"
    return path.read_text("utf-8").replace(r"\-", "-")


@each_row("word", WORDS)
def test_a_page_has_the_options_of_the_help(word: str, options_of: Help) -> None:
    text = page_of(word)
    heads = re.findall(r"^\.TP\n(\\fB-.*)$", text, re.MULTILINE)
    names = {name for head in heads for name in re.findall(r"\\fB(-[^\\ ]+)", head)}
    if word != "rdesktop":  # pages leave them out
        names |= {"-h", "--help"}
    assert names == options_of(word), STALE


@each_row("word", WORDS)
def test_completion_has_the_options_of_the_help(word: str, options_of: Help) -> None:
    name, prefix = "rusb", f"_shtab_rusb_{word}"
    if word == "rdesktop":
        name, prefix = "rdesktop-vrdp", "_shtab_rdesktop_vrdp"
    text = (CONTRIB / "completion" / "bash" / name).read_text("utf-8")
    found = re.search(rf"^{prefix}_option_strings=\((.*)\)$", text, re.MULTILINE)
    assert found, f"{word} is not completed{STALE}"
    assert set(shlex.split(found[1])) == options_of(word), STALE


def test_the_overview_has_every_command() -> None:
    text = (CONTRIB / "man" / "rusb.1").read_text("utf-8")
    section = text.partition(".SH COMMANDS\n")[2].partition("\n.SH")[0]
    assert re.findall(r"^\.B (\S+)$", section, re.MULTILINE) == WORDS, STALE


def test_roff_has_nothing_to_complain_of() -> None:
    pages = sorted(map(str, (CONTRIB / "man").iterdir()))
    assert run(["groff", "-k", "-man", "-ww", "-z", "-T", "utf8", *pages]) == []


def test_nothing_else_is_there_than_what_is_made(tmp_path: Path) -> None:
    """And it can be made again."""
    command = [sys.executable, str(ROOT / "tools" / "manual.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    names = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    for folder in ("man", "completion"):
        made = {name for name in names if name.parts[0] == folder}
        there = {p.relative_to(CONTRIB) for p in (CONTRIB / folder).rglob("*.*")}
        there |= {p.relative_to(CONTRIB) for p in (CONTRIB / folder).rglob("*")}
        assert made == {n for n in there if (CONTRIB / n).is_file()}, STALE


def test_an_installation_gets_all_of_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    files = settings["tool"]["setuptools"]["data-files"]
    found = {
        path for patterns in files.values() for p in patterns for path in ROOT.glob(p)
    }
    wanted = {*(CONTRIB / "man").iterdir(), *(CONTRIB / "completion").glob("*/*")}
    assert found == wanted
    assert set(files) == {
        "share/man/man1",
        "share/bash-completion/completions",
        "share/zsh/site-functions",
        "share/fish/vendor_completions.d",
    }


# ------------------------------------------------------------- real shells ----

COMPLETED = [
    ("rusb", ["conn"], "connect"),
    ("rusb", ["connect", "--fil"], "--filter"),
    ("rusb", ["modifyvm", "Lab", "--mem"], "--memory"),
    ("rusb", ["usbfilter", "exp"], "explain"),
    ("VBoxManage", ["controlvm", "Lab", "acpip"], "acpipowerbutton"),
    ("VBoxHeadless", ["--starts"], None),
    ("VBoxHeadless", ["--startv"], "--startvm"),
]

BASH = """
source {file}
COMP_WORDS=({words})
COMP_CWORD={last}
_shtab_{name}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(("program", "words", "wanted"), COMPLETED)
def test_bash_completes(program: str, words: list[str], wanted: str | None) -> None:
    code = BASH.format(
        file=CONTRIB / "completion" / "bash" / program,
        words=" ".join([program, *words]),
        last=len(words),
        name=program,
    )
    assert run(["bash", "--norc", "-c", code]) == ([wanted] if wanted else [])


@pytest.mark.parametrize(("program", "words", "wanted"), COMPLETED)
def test_fish_completes(program: str, words: list[str], wanted: str | None) -> None:
    file = CONTRIB / "completion" / "fish" / f"{program}.fish"
    code = f"source {file}; complete --do-complete '{program} {' '.join(words)}'"
    found = run(["fish", "--no-config", "-c", code])
    assert [line.partition("\t")[0] for line in found] == ([wanted] if wanted else [])


def test_zsh_reads_its_scripts() -> None:
    for path in (CONTRIB / "completion" / "zsh").iterdir():
        assert run(["zsh", "-f", "-n", str(path)]) == []
        assert path.read_text("utf-8").startswith(f"#compdef {path.name[1:]}\n")


def run(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def test_an_option_is_no_directory(tmp_path: Path) -> None:
    tool = Path(__file__).parents[1] / "tools" / "manual.py"
    for option, status in ("--help", 0), ("--unknown", 2):
        done = subprocess.run(
            [sys.executable, tool, option], cwd=tmp_path, capture_output=True
        )
        assert done.returncode == status
    assert list(tmp_path.iterdir()) == []
