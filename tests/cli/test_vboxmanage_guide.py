"""The tables of docs/guide/vboxmanage.md are run, row by row, and are complete."""

import getopt
import itertools
import re
import shlex
import shutil
from pathlib import Path

import pytest

from rusb.cli import _rdesktop_options, main, rdesktop, vbox
from rusb.cli._vbox_options import HelpWanted
from rusb.cli.vbox import _kept, _refused, lists, running
from rusb.server.vbox.registry import Registry
from tests.support.rows import each_row
from tests.support.vbox import Vbox
from tests.support.vboxmanage_guide import (
    EXAMPLES,
    GUIDE,
    NEEDS_RUNNING,
    ROWS,
    STARTS,
    Row,
    code,
    numbered,
    words,
)

pytestmark = pytest.mark.xdist_group("guide")  # they share a home that is prepared

_DONE = ("works", "rusb's own", "another word", "accepted")


CLIENT = [row for row in EXAMPLES if row.section == "`rdesktop-vrdp`"]
LISTS = [r for r in ROWS if len(r.cells) < 4 and not r.section.startswith("Tools")]


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run an example under the name that it has there; return the status."""
    monkeypatch.setattr("sys.argv", shlex.split(line))
    return main()


# ------------------------------------------------------------------- a home ----


_as_prepared: dict[Path, str] = {}


def first_state(home: Vbox) -> str:
    """What can be seen in a home as it was prepared."""
    if home.folder not in _as_prepared:
        _as_prepared[home.folder] = state(home)
    return _as_prepared[home.folder]


def state(home: Vbox) -> str:
    """Everything that can be seen of the machines."""
    texts = list(home.files().values())
    for uuid in (entry.uuid for entry in Registry().machines()):
        texts.append(home(f"showvminfo {uuid} --machinereadable"))
        texts += [f"Lab: {line}" for line in home(f"getextradata {uuid}").splitlines()]
    texts += [f"global: {line}" for line in home("getextradata global").splitlines()]
    return "\n".join(texts)


# ------------------------------------------------------------- row by row ----


@pytest.mark.parametrize("row", [r for r in EXAMPLES if r not in CLIENT], ids=str)
def test_the_example_does_what_the_table_says(
    row: Row, home: Vbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, example, status, then = row.cells
    (line,) = code(example)
    if then == STARTS:
        return  # the laboratory does
    before, files = first_state(home), home.files()
    ended = run(line, monkeypatch)
    home.out, home.err = home.capsys.readouterr()
    said = home.out + home.err
    if then.startswith(NEEDS_RUNNING):
        assert (ended, "is not running" in home.err) == (1, True), said
        assert ("is deprecated" in home.err) == ("with a warning" in status)
    elif status.startswith("refused: "):
        assert ended in (1, 2), said
        assert home.err.startswith(f"{line.split()[0]}: error: ")
        assert status.removeprefix("refused: ") in home.err
        assert home.files() == files
    else:
        assert status.startswith(_DONE), status
        assert ended == 0, said
        is_named = any(text in home.err for text in code(then))
        assert ("Warning" in home.err) == is_named, said
        check(then, before, state(home), said)
        if then == "as before":
            assert home.files() == files


def check(then: str, before: str, after: str, said: str) -> None:
    """Is what a row promises there, and was it not before?"""
    gone = re.findall(r"~~`([^`]+)`~~", then)
    promised = [text for text in code(then) if text not in gone]
    assert gone or promised or then == "as before"
    for text in gone:
        assert text in before
        assert text not in after
    for text in promised:
        assert text in said or (text in after and text not in before), text


OPTIONS = [row for row in LISTS if len(row.cells) == 3]


@pytest.mark.parametrize("row", [r for r in OPTIONS if " VALUE" in r.before], ids=str)
def test_options_that_change_nothing_are_kept(row: Row, home: Vbox) -> None:
    options, values, why = row.cells
    (line,) = (text for text in code(row.before) if "OPTION" in text)
    reasons = {option.name.replace("-", ""): option.idle for option in _kept.OPTIONS}
    for option in (name for text in code(options) for name in numbered(text)):
        assert reasons[option.strip("-")] == why
        files = [home.file()] if len(code(values)) == 1 else []
        for value in code(values):
            example = line.replace("OPTION", option).replace("VALUE", value)
            assert main(words(example)) == 0
            assert home.capsys.readouterr().err == ""
            files.append(home.file())
        is_kept = "synthcpu" not in options
        assert all((a != b) is is_kept for a, b in itertools.pairwise(files))


@pytest.mark.parametrize(
    "row", [r for r in OPTIONS if " VALUE" not in r.before], ids=str
)
def test_refused_options_say_so(row: Row, home: Vbox) -> None:
    options, accepted, sentence = row.cells
    (line,) = (text for text in code(row.before) if "OPTION" in text)
    files = home.files()
    for option in (name for text in code(options) for name in numbered(text)):
        example = line.replace("OPTION", option)
        assert main(words(example)) == 1
        expected = f"rusb: error: {option}: {sentence}\n"
        assert home.capsys.readouterr().err == expected
        assert home.files() == files
        for value in code(accepted):
            assert main(words(example.replace("17", value))) == 0
            home.capsys.readouterr()
            if "modifyvm" in line:
                assert home.files() == files
            else:  # it may make something
                shutil.copytree(f"{home.folder}.copy", home.folder, dirs_exist_ok=True)
                Path("a.vdi").unlink(missing_ok=True)


@pytest.mark.parametrize("row", [r for r in LISTS if len(r.cells) == 2], ids=str)
def test_refused_words_say_so(row: Row, home: Vbox) -> None:
    names, sentence = row.cells
    (line,) = (text for text in code(row.before) if "WORD" in text)
    files = home.files()
    prefix = "controlvm " if "controlvm" in line else ""
    for name in (name for text in code(names) for name in numbered(text)):
        assert main(words(line.replace("WORD", name))) == 1
        expected = f"rusb: error: {prefix}{name}: {sentence}\n"
        assert home.capsys.readouterr().err == expected
    assert home.files() == files


@pytest.mark.parametrize("row", CLIENT, ids=str)
def test_the_clients_options(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    _, example, status, then = row.cells
    (line,) = code(example)
    given = words(line)[1:]
    if status.startswith("refused: "):
        assert rdesktop.main(given) == 64
        assert status.removeprefix("refused: ") in capsys.readouterr().err
        return
    options = _rdesktop_options.parse(given)
    texts = [*options.notes, *options.warnings]
    assert bool(options.warnings) == ("with a warning" in status)
    for text in code(then):
        field, equals, value = text.partition("=")
        if equals:
            assert str(getattr(options, field)) == value
        else:
            assert any(note.startswith(text) for note in texts), texts


# --------------------------------------------------------------- complete ----


def plain(name: str) -> str:
    """An option's name as it counts: hyphens inside do not."""
    dashes = "--" if name.startswith("--") else "-"
    return dashes + name.removeprefix(dashes).replace("-", "")


def documented(command: str) -> set[str]:
    """The options and words that the first column of a section names."""
    cells = [r.cells[0] for r in ROWS if f"`{command}`" in r.section]
    pieces = (piece for cell in cells for text in code(cell) for piece in text.split())
    return {plain(n) if n[0] == "-" else n for p in pieces for n in numbered(p)}


def known(*line: str) -> set[str]:
    """The options that a command reads."""
    with pytest.raises(HelpWanted) as caught:
        vbox.commands()[line[0]]([*line[1:], "--help"])
    options = caught.value.options
    found = {plain(f"--{option.name}") for option in options}
    return found | {f"-{option.short}" for option in options if option.short}


@each_row("command", sorted(vbox.commands()))
def test_every_option_is_in_the_guide_and_no_other(command: str) -> None:
    options = known(command)
    if command == "usbfilter":
        options |= known(command, "explain")
    named = documented(command)
    assert named, f"no section `{command}`"
    assert options - named == set()
    assert {name for name in named if name[0] == "-"} - options == set()


def test_every_word_is_in_the_guide() -> None:
    section = GUIDE.read_text().partition("## `list`")[2].partition("## ")[0]
    assert {*_refused.LISTS, *lists.LISTS} <= set(code(section))
    assert set(_refused.PROPERTIES) <= documented("setproperty")
    assert {"add", "modify", "remove", "explain"} <= documented("usbfilter")
    verbs = {*running._PLAIN, *running._RENAMED, *running._RENAMED.values()}
    assert verbs | _refused.CONTROL.keys() <= documented("controlvm")
    gone = [r.cells[0] for r in LISTS if r.section == "Commands that are refused"]
    assert {word for cell in gone for word in code(cell)} == set(_refused.COMMANDS)


def test_every_option_of_the_client_is_in_the_guide() -> None:
    letters = _rdesktop_options._LETTERS.replace(":", "")
    named = documented("rdesktop-vrdp")
    assert {f"-{letter}" for letter in letters} <= named
    assert {*_rdesktop_options.OTHER_DEVICES, "usb"} <= named
    for name in sorted(n for n in named if len(n) == 2 and n[1] not in letters):
        with pytest.raises(getopt.GetoptError):
            getopt.gnu_getopt([name, "host"], _rdesktop_options._LETTERS)
