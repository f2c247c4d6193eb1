"""The command itself: sub-commands, usage errors, exit statuses."""

from pathlib import Path

import pytest

from rusb import errors
from rusb.cli import main
from rusb.cli._status import STATUSES, exit_status

MACHINE = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">
  <Machine uuid="{00000000-0000-0000-0000-000000000001}" name="M"><Hardware/></Machine>
</VirtualBox>
"""


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("bench", "connect", "demo", "devices", "plugins", "serve"):
        assert f"  {name} " in out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 64
    assert "Commands:" in capsys.readouterr().out


def test_an_unknown_command_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 64
    assert "'rusb --help' lists them" in capsys.readouterr().err


def test_an_unknown_option_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["connect", "--frobnicate", "host"])
    assert caught.value.code == 64
    assert "'rusb connect --help'" in capsys.readouterr().err


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    for name in ("vrdpusb", "usbredir", "libusb", "emulated", "qemu", "pyusb"):
        assert name in out


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["serve", "nowhere.vbox"], 65, "cannot read the machine's settings"),
        (["serve", "junk.vbox"], 65, "is not XML"),
        (["serve", "m.vbox", "--port", "x"], 65, "not a list of ports"),
        (["serve", "m.vbox", "--guest", "toaster"], 64, "toaster"),
        (["serve", "m.vbox", "--guest", "qemu:/nowhere"], 69, "/nowhere"),
        (["connect", "127.0.0.1:1"], 76, "nobody answers at 127.0.0.1:1"),
        (["connect", "127.0.0.1:1", "--filter", "colour=red"], 64, "no attribute"),
        (["connect", "127.0.0.1:1", "--ca", "nowhere.pem"], 65, "--ca nowhere.pem"),
    ],
)
def test_each_failure_has_its_sentence_and_status(
    words: list[str],
    status: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("RUSB_STATE", str(tmp_path))
    with open("junk.vbox", "w") as junk, open("m.vbox", "w") as machine:
        junk.write("this is no XML")
        machine.write(MACHINE)
    if words[0] == "connect":
        words = [*words, "--backend", "emulated:loopback"]
    if words[0] == "serve":
        words = [*words, "--log", "log"]
    assert main(words) == status
    assert sentence in capsys.readouterr().err


def test_the_most_special_class_decides_the_status() -> None:
    assert exit_status(errors.CertificateError("x")) == 78
    assert exit_status(errors.NegotiationError("x")) == 75
    assert exit_status(errors.RemoteProtocolError("x")) == 76
    assert exit_status(errors.NoPermission("x")) == 77
    assert exit_status(errors.RusbError("x")) == 70
    assert all(status > 63 for status, _ in STATUSES.values())
