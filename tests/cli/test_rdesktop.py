"""The option grammar of rdesktop-vrdp, table by table (vrdp-server.md 8)."""

from pathlib import Path

import pytest

from rusb.cli._rdesktop_options import (
    WITHOUT_MEANING,
    RdesktopOptions,
    UsageError,
    parse,
)
from rusb.cli.rdesktop import main
from tests.support.rusbserver import refusing_port


def test_the_manuals_command_line() -> None:
    options = parse("-r usb -a 16 -N host:5000".split())
    assert (options.host, options.port, options.depth) == ("host", 5000, 16)
    assert options.usb
    assert options.warnings == []


def test_defaults() -> None:
    assert parse(["host"]) == RdesktopOptions(host="host")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host", "host", 3389),
        ("host:3390", "host", 3390),
        ("[::1]", "::1", 3389),
        ("[fe80::1]:5000", "fe80::1", 5000),
        ("::1", "::1", 3389),
    ],
)
def test_servers(text: str, host: str, port: int) -> None:
    options = parse([text])
    assert (options.host, options.port) == (host, port)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-u", "anna"], "user", "anna"),
        (["-uanna"], "user", "anna"),
        (["-d", "@2"], "domain", "@2"),
        (["-d", "x" * 300], "domain", "x" * 255),
        (["-p", "secret"], "password", "secret"),
        (["-p", "x" * 70], "password", "x" * 63),
        (["-p", "-"], "password", "-"),
        (["-s", "cmd"], "shell", "cmd"),
        (["-c", "C:\\"], "directory", "C:\\"),
        (["-n", "a-very-long-host-name"], "client_name", "a-very-long-hos"),
        (["-g", "1024x768"], "width", 1024),
        (["-g", "1024x768-5+6"], "height", 768),
        (["-g", "80%"], "width", 800),
        (["-g", "workarea"], "height", 600),
        (["-a", "32"], "depth", 32),
        (["-x", "m"], "experience", 0x2F),
        (["-x", "broadband"], "experience", 0x21),
        (["-x", "l"], "experience", 0x20),
        (["-x", "8f"], "experience", 0xAF),
        (["-z"], "compression", True),
        (["-0"], "console", True),
        (["-4"], "version", 4),
        (["-4", "-5"], "version", 5),
        (["-r", "usb"], "usb", True),
        (["-rusb"], "usb", True),
        (["-r", "usbanything"], "usb", True),
        (["-r", "sound:remote"], "leave_sound", True),
        (["-v"], "verbose", True),
    ],
)
def test_options_with_a_meaning(words: list[str], field: str, value: object) -> None:
    for line in ([*words, "host"], ["host", *words]):
        assert getattr(parse(line), field) == value


@pytest.mark.parametrize("letter", sorted(WITHOUT_MEANING))
def test_options_without_a_meaning_are_accepted_and_noted(letter: str) -> None:
    words = [letter] + (["1"] if letter in ("-k", "-L", "-S", "-T", "-X", "-A") else [])
    options = parse([*words, "host"])
    assert options.notes[0].startswith(f"{letter} is accepted: ")
    assert options.warnings == []


def test_what_a_viewer_is_given() -> None:
    words = "-r usb -r sound:local -r toaster -u anna -d @2 -a 16 -f -Nv -k de"
    options = parse([*words.split(), "-p", "-", "-T", "My title", "host"])
    assert options.window == [
        *(("-r", "sound:local"), ("-a", "16"), ("-f", ""), ("-N", "")),
        *(("-k", "de"), ("-T", "My title")),
    ]
    assert (options.viewer, options.no_viewer) == (None, False)


def test_which_viewer() -> None:
    options = parse(["--viewer", "xfreerdp /sound", "host"])
    assert (options.viewer, options.window) == ("xfreerdp /sound", [])
    assert parse(["host", "--no-viewer"]).no_viewer


@pytest.mark.parametrize("word", ["--viewer=ls", "--viewer=no-such-program"])
def test_a_viewer_that_cannot_be_used(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", ":1")
    assert main([word, "host"]) == 64
    assert "rdesktop-vrdp: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "sound",
        "sound:local:alsa",
        "clipboard:off",
        "disk:a=/tmp",
        "comport:COM1=/dev/ttyS0",
        "lptport:LPT1=/dev/lp0",
        "printer:lp",
        "clientname=x",
        "lspci",
        "scard",
    ],
)
def test_other_devices_are_accepted_and_noted(text: str) -> None:
    options = parse(["-r", text, "host"])
    assert len(options.notes) == 1
    assert not options.usb


def test_an_unknown_device_is_a_warning() -> None:
    warning = "unknown -r argument 'toaster' is ignored; this client supports -r usb"
    assert parse(["-r", "toaster", "host"]).warnings == [warning]
    asks = parse(["-r", "ubs", "-r", "clipbord", "host"]).warnings
    assert [w.partition("; ")[2] for w in asks] == [
        "this client supports -r usb",
        "did you mean clipboard?",
    ]


def test_usb_needs_version_5() -> None:
    options = parse(["-4", "-r", "usb", "host"])
    assert not options.usb
    assert "cannot carry USB" in options.warnings[0]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["one", "two"],
        ["-q", "host"],
        ["-a", "17", "host"],
        ["-a", "x", "host"],
        ["-g", "big", "host"],
        ["-g", "0%", "host"],
        ["-g", "10x10", "host"],
        ["-x", "q", "host"],
        ["-u"],
        ["-i", "1234", "host"],
        ["-A", "shell", "-f", "host"],
        ["host:0"],
        ["host:99999"],
        [":5000"],
    ],
)
def test_a_wrong_command_line_is_status_64_with_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError):
        parse(words)
    assert main(words) == 64
    assert "Usage: rdesktop-vrdp" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-h", "-?", "--help"])
def test_help_is_status_64_as_of_rdesktop(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 64
    said = capsys.readouterr().err
    assert "-r: redirect" in said
    assert "not recognized" not in said


def test_nobody_at_the_port_is_status_76(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUSB_STATE", str(tmp_path))
    with refusing_port() as port:
        assert main(["-v", "-N", f"127.0.0.1:{port}"]) == 76
    said = capsys.readouterr().err
    assert f"Cannot connect to 127.0.0.1:{port}: Connection refused" in said
    assert "-N is accepted" in said
