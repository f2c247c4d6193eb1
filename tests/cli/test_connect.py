"""What ``rusb connect`` and ``rdesktop-vrdp`` make of passwords and security."""

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from rusb.cli import connect, main, rdesktop
from rusb.cli._rdesktop_options import RdesktopOptions
from rusb.client.config import ClientConfig
from rusb.filters.engine import decide
from rusb.rdp.client import ClientSettings
from rusb.rdp.events import Credentials
from rusb.rdp.info import ClientInfo
from rusb.server.auth.base import Request
from rusb.usb.device import DeviceInfo

Run = Callable[..., ClientConfig]

VARIABLES = ("RUSB_PASSWORD", "RUSB_SECURITY", "RUSB_LEGACY_TLS")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(run_alone: Run) -> Run:
    """Run a command line with a host at its end."""
    return lambda *words: run_alone(*words, "host")


@pytest.fixture
def run_alone(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line; return what the client is told instead of connecting."""
    found: list[ClientConfig] = []

    async def note(config: ClientConfig, *_: object) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(connect, "offer_devices", note)
    monkeypatch.setattr(rdesktop, "_run", note)

    def run(*words: str) -> ClientConfig:
        assert main(list(words)) == 0
        return found.pop()

    return run


COMMANDS = ["connect", "rdesktop"]

# ---------------------------------------------------------------- passwords ----


@pytest.mark.parametrize("command", COMMANDS)
def test_the_password_of_the_environment(
    command: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(command).password == ""
    monkeypatch.setenv("RUSB_PASSWORD", "s3cret")
    assert run(command).password == "s3cret"
    assert run(command, "-p", "").password == ""
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_on_the_command_line_is_taken_and_warned_of(
    command: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUSB_PASSWORD", "other")
    assert run(command, "-p", "s3cret").password == "s3cret"
    (line,) = capsys.readouterr().err.splitlines()
    assert "other users of this machine can see a password" in line
    assert "RUSB_PASSWORD" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_is_asked_for(
    command: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return "typed"

    monkeypatch.setenv("RUSB_PASSWORD", "other")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", answer)
    assert run(command, "-u", "vera", "-p", "-").password == "typed"
    wanted = {"connect": "Password of vera: ", "rdesktop": "Password: "}
    assert prompts == [wanted[command]]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_answers(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", end)
    assert main([command, "-p", "-", "127.0.0.1:1"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        ": no password was given: -p - asks for one, but nothing was typed."
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("said", "password"), [("a pass word\nmore\n", "a pass word"), ("x", "x")]
)
def test_a_password_comes_in_a_pipe(
    command: str,
    said: str,
    password: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As rdesktop reads it: without a prompt, also where there is a terminal."""
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert run(command, "-u", "vera", "-p", "-").password == password
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_pipe_is_no_password(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main([command, "-p", "-", "127.0.0.1:1"]) == 64
    assert "no password was given" in capsys.readouterr().err


# ------------------------------------------------------------------ address ----


@pytest.mark.parametrize("command", COMMANDS)
def test_the_address_may_name_who_logs_on(command: str, run_alone: Run) -> None:
    config = run_alone(command, "anna@[::1]:5000")
    assert (config.host, config.port, config.user) == ("::1", 5000, "anna")
    text = "rdp://full%20address=s:host&username=s:anna&domain=s:CORP"
    config = run_alone(command, text)
    assert (config.host, config.user, config.domain) == ("host", "anna", "CORP")
    config = run_alone(command, "-u", "bob", "-d", "@2", text)
    assert (config.user, config.domain) == ("bob", "@2")
    assert config.server == "host:3389"


@pytest.mark.parametrize(
    ("words", "variable", "is_terminal", "asked"),
    [
        (["-u", "vera", "host"], None, True, True),
        (["vera@host"], None, True, True),
        (["host"], None, True, False),  # for null authentication nobody types
        (["-u", "vera", "host"], None, False, False),
        (["-u", "vera", "host"], "", True, False),
        (["-u", "vera", "-p", "", "host"], None, True, False),
    ],
)
def test_a_user_name_on_a_terminal_asks_for_the_password(
    words: list[str],
    variable: str | None,
    is_terminal: bool,
    asked: bool,
    run_alone: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv("RUSB_PASSWORD", variable)
    monkeypatch.setattr("sys.stdin.isatty", lambda: is_terminal)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed")
    assert run_alone("connect", *words).password == ("typed" if asked else "")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClientConfig("host", password="s3cret"),
        lambda: ClientSettings(password="s3cret"),
        lambda: ClientInfo(password="s3cret"),
        lambda: Credentials("user", "", "s3cret", 0),
        lambda: RdesktopOptions(password="s3cret"),
        lambda: Request("user", "", "s3cret"),
    ],
)
def test_no_configuration_shows_its_password(make: Callable[[], object]) -> None:
    assert "s3cret" not in repr(make())


def test_a_filter_that_is_not_utf_8_matches_nothing(run: Run) -> None:
    (rule,) = run("connect", "--filter", "product=\udcff*").filters
    assert not decide([rule], DeviceInfo(0, 1, 2, product="\ufffdx")).matched
    assert not decide([rule], DeviceInfo(0, 1, 2, product="?x")).matched


# ----------------------------------------------------------------- security ----


@pytest.mark.parametrize(
    ("words", "security"),
    [
        ([], ("tls",)),
        (["--security", "tls"], ("tls",)),
        (["--security", "negotiate"], ("tls", "rdp")),
        (["--security", "rdp"], ("rdp",)),
        (["--security", "none"], ("none",)),
    ],
)
def test_what_connect_tries(
    words: list[str], security: tuple[str, ...], run: Run
) -> None:
    assert run("connect", *words).security == security


@pytest.mark.parametrize(
    ("words", "wires"),
    [
        ([], ("vrdpusb", "rdpeusb")),
        (["--wire", "auto"], ("vrdpusb", "rdpeusb")),
        (["--wire", "vrdpusb"], ("vrdpusb",)),
        (["--wire", "rdpeusb"], ("rdpeusb",)),
    ],
)
def test_how_usb_travels(words: list[str], wires: tuple[str, ...], run: Run) -> None:
    assert run("connect", *words).wires == wires


def test_the_options_of_tls(run: Run) -> None:
    config = run("connect")
    assert (config.legacy_tls, config.ca, config.known_servers) == (False, None, None)
    words = ("--legacy-tls", "--ca", "ca.pem", "--known-servers", "known")
    config = run("connect", *words)
    assert config.legacy_tls
    assert (config.ca, config.known_servers) == (Path("ca.pem"), Path("known"))


@pytest.mark.parametrize("word", [None, "tls", "negotiate", "rdp", "none"])
@pytest.mark.parametrize("options", ["", "-5", "-4", "-e", "-5 -e", "-4 -e"])
def test_what_rdesktop_tries(
    options: str, word: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.5; where the original falls back by itself, the variable has to allow it."""
    if word is not None:
        monkeypatch.setenv("RUSB_SECURITY", word)
    of_word = {
        None: ("tls",),
        "tls": ("tls",),
        "negotiate": ("tls", "rdp"),
        "rdp": ("rdp",),
        "none": ("none",),
    }
    wanted = {
        "": of_word[word],
        "-5": of_word[word],
        "-4": ("rdp",),
        "-e": ("tls", "none"),
        "-5 -e": ("tls", "none"),
        "-4 -e": ("none",),
    }
    assert run("rdesktop", *options.split()).security == wanted[options]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (
            "RUSB_SECURITY",
            "RUSB_SECURITY is 'x'; choose one of tls, negotiate, rdp, none",
        ),
        ("RUSB_LEGACY_TLS", "RUSB_LEGACY_TLS is 'x'; use 0 or 1"),
    ],
)
def test_an_unknown_word_in_a_variable(
    variable: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, "x")
    assert main(["rdesktop", "127.0.0.1:1"]) == 64
    assert capsys.readouterr().err == f"rdesktop-vrdp: {message}\n"


@pytest.mark.parametrize(
    ("word", "is_legacy"), [(None, False), ("0", False), ("1", True)]
)
def test_rdesktop_and_tls_1_0(
    word: str | None, is_legacy: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if word is not None:
        monkeypatch.setenv("RUSB_LEGACY_TLS", word)
    assert run("rdesktop").legacy_tls is is_legacy


# ------------------------------------------------------------------- guides ----

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
SHOWN = sorted(
    {
        line
        for guide in GUIDES
        for block in re.findall(
            r"^```sh[^\n]*\n(.*?)^```$", guide.read_text(), re.M | re.S
        )
        for line in block.splitlines()
        if line.startswith(("rusb connect ", "rdesktop-vrdp "))
    }
)


@pytest.mark.parametrize("line", SHOWN)
def test_the_lines_of_the_guides_are_understood(
    line: str, run_alone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed")
    words = shlex.split(line, comments=True)
    words = words[1:] if words[0] == "rusb" else ["rdesktop", *words[1:]]
    assert run_alone(*words).host
