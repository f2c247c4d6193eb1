"""``startvm``, with a stranger in the place of the process that it starts."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.cli.vbox import running
from tests.support.vbox import RUNNING, Vbox

STRANGER = """#!/bin/sh
echo "$@" >>"${0%/*}/log"
cat "${0%/*}/words" >&2
exit 1
"""


@pytest.fixture
def stranger(
    vbox: Vbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Vbox, Path]:
    """Commands, and the folder with what the stranger says and was told."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    program = folder / "python"
    program.write_text(STRANGER)
    program.chmod(0o755)
    (folder / "words").write_text("no luck\n")
    monkeypatch.setattr(sys, "executable", str(program))
    return vbox, folder


def test_a_machine_that_is_not_registered_starts_by_its_path(
    stranger: tuple[Vbox, Path],
) -> None:
    vbox, folder = stranger
    vbox("createvm --name New --basefolder .")
    vbox("startvm New/New.vbox --type headless", 1)
    path = vbox.folder / "New" / "New.vbox"
    assert f"headless --startvm {path} --vrde config" in (folder / "log").read_text()


@pytest.mark.parametrize("before", ["", "qemu"])
def test_an_engine_that_starts_nothing_is_not_kept(
    stranger: tuple[Vbox, Path], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vbox, _ = stranger
    vbox(f"setextradata Lab rusb/Engine '{before}'")
    vbox("startvm Lab --type headless --engine libvirt", 1)
    kept = vbox("getextradata Lab rusb/Engine")
    assert kept == (f"Value: {before}\n" if before else "No value set!\n")
    vbox.fails("startvm Lab --engine ''", "invalid value '' for --engine; choose one")
    monkeypatch.setattr(running, "_start", lambda *_: RUNNING)
    vbox("startvm Lab --type headless --engine libvirt")
    assert vbox("getextradata Lab rusb/Engine") == "Value: libvirt\n"


def test_one_that_does_not_start_does_not_keep_the_others(
    stranger: tuple[Vbox, Path],
) -> None:
    vbox, folder = stranger
    vbox("createvm --name Second --register")
    vbox("startvm Lab Nowhere Second --type headless", 1)
    for sentence in (
        "rusb: error: 'Lab' did not start: no luck\n",
        "rusb: error: could not find a registered machine named 'Nowhere'",
        "rusb: error: 'Second' did not start: no luck\n",
    ):
        assert sentence in vbox.err
    assert len((folder / "log").read_text().splitlines()) == 2


def test_the_reason_stands_alone(stranger: tuple[Vbox, Path]) -> None:
    vbox, folder = stranger
    (folder / "words").write_text("Warning: new\nrusb: error: no QEMU\n")
    vbox("startvm Lab --type headless", 1)
    assert vbox.err == "rusb: error: 'Lab' did not start: no QEMU\n"


@pytest.mark.parametrize("option", ["", "--type gui", "--type sdl", "--type Separate"])
def test_a_window_is_not_there_and_that_is_said(
    vbox: Vbox, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = replace(RUNNING, notes=("not supported: sound",))
    monkeypatch.setattr(running, "_start", lambda *_: state)
    vbox(f"startvm Lab {option}")
    assert "rusb has no window: the machine starts headless" in vbox.err
    assert "Any RDP viewer shows its screen (modifyvm VM --vrde on;" in vbox.err
    assert "Warning: not supported: sound\n" in vbox.err
    vbox("startvm Lab --type headless")
    assert "window" not in vbox.err
    vbox(f"startvm Nowhere {option}", 1)
    assert "window" not in vbox.err
    vbox(f"startvm Nowhere Lab {option}", 1)
    assert "the machine starts headless" in vbox.err


def test_a_type_that_nobody_knows_starts_nothing(vbox: Vbox) -> None:
    sentence = (
        "invalid value 'window' for --type; choose one of headless, vrdp, gui, sdl,"
        " separate"
    )
    vbox.fails("startvm Lab --type window", sentence)


WORDS = "acpipowerbutton, acpisleepbutton, audioin, audioout, clipboard, "


@pytest.mark.parametrize(
    ("words", "sentence", "usage"),
    [
        ("Lab", f"no command was named; commands are {WORDS}", ""),
        ("VM", f"no command was named; commands are {WORDS}", ""),
        ("Lab frobnicate", f"'frobnicate'; choose one of {WORDS}", ""),
        ("Lab frobnicate", "natpf<1-N>, pause, poweroff, reset, ", ""),
        ("Lab vrdes", "unknown command 'vrdes'; did you mean vrde?", ""),
        ("Lab --frobnicate", "unknown option '--frobnicate'", ""),
        ("Lab vrde", "vrde needs one value", "vrde|vrdeport|"),
        ("Lab reset 3", "reset accepts no value; unexpected '3'", "poweroff|"),
        ("Lab natpf2", "natpf2 needs a rule", "natpf1|"),
        ("Lab teleport", "missing --host", "teleport --host"),
    ],
)
def test_a_wrong_command_gets_one_line_and_the_usage_of_what_it_is(
    vbox: Vbox, words: str, sentence: str, usage: str
) -> None:
    """It was eight lines, and the first was out of sight."""
    vbox.fails(f"controlvm {words}", sentence)
    error, *usages = vbox.err.splitlines()
    assert sentence in error
    assert len(usages) == bool(usage)
    assert all(f"usage: rusb controlvm VM {usage}" in line for line in usages)
