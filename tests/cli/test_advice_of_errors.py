"""Errors say what happened; the command says which of its options helps."""

import re
from pathlib import Path

import pytest

from rusb.cli import main
from rusb.cli._advice import ADVICE, RDESKTOP_ADVICE, advised
from rusb.errors import (
    ConnectionLost,
    Hint,
    NegotiationError,
    ParseError,
    RusbError,
    ServerBusy,
    SettingsError,
)
from rusb.rdp.x224 import Failure, explain_failure
from tests.support.source import IN_SOURCE, texts


def test_every_hint_has_advice() -> None:
    assert set(ADVICE) == set(Hint)
    assert set(RDESKTOP_ADVICE) <= set(Hint)


@pytest.mark.parametrize("hint", Hint)
def test_advice_is_a_sentence_with_a_word_of_the_command(hint: Hint) -> None:
    text = advised(SettingsError("no").hinting(hint))
    assert text == f"no. {ADVICE[hint]}"
    assert re.search(r"--[a-z]", text)
    assert text.endswith(".")


def test_no_hint_no_advice() -> None:
    assert advised(SettingsError("no")) == "no"
    assert advised(SettingsError("no").hinting(None)) == "no"


def test_each_program_has_words_of_its_own() -> None:
    error = NegotiationError("in the clear").hinting(Hint.ACCEPT_CLEARTEXT)
    assert advised(error) == "in the clear. Use --security none to accept that."
    assert advised(error, RDESKTOP_ADVICE) == "in the clear. Use -e to accept that."
    busy = ServerBusy("full").hinting(Hint.OTHER_LOG)
    assert advised(busy, RDESKTOP_ADVICE) == "full"


def test_only_a_server_without_tls_leads_to_rc4() -> None:
    """A wrong certificate, or none, never does."""
    hints = {failure: explain_failure(failure).hint for failure in Failure}
    assert hints.pop(Failure.TLS_NOT_ALLOWED) is Hint.ACCEPT_RC4
    assert set(hints.values()) == {None}


def test_the_command_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "Lab.vbox"
    settings.write_text(
        '<VirtualBox xmlns="http://www.virtualbox.org/" version="1.18-linux">'
        '<Machine uuid="{3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a70a}" name="Lab"/>'
        "</VirtualBox>"
    )
    log = tmp_path / "log"
    log.mkdir()
    command = ["serve", str(settings), "--guest", "loopback", "--log", str(log)]
    assert main(command) == 65
    said = capsys.readouterr().err
    assert f"cannot write the log {log}: " in said
    assert said.endswith(". Name another file with --log.\n")


OPTION = re.compile(r"(?<![\w-])--[a-z]")
CORES = ("rusb/rdp", "rusb/wire", "rusb/aio", "client")
OF_OTHERS = re.compile(r"udevadm|usbipd")


@IN_SOURCE
def test_cores_and_client_name_no_option() -> None:
    named = [
        (where, text)
        for where, text in texts()
        if where.startswith(CORES)
        and OPTION.search(text)
        and not OF_OTHERS.search(text)
    ]
    assert named == []


@pytest.mark.parametrize("kind", [ConnectionLost, NegotiationError, ParseError])
def test_an_error_says_whom_it_is_about(kind: type[RusbError]) -> None:
    """Who raises it does not always know."""
    error = kind("it is over")
    assert str(error) == "it is over"
    error.subject = "host:3389"
    assert str(error) == "host:3389: it is over"
    assert advised(error.hinting(None)) == str(error)
    assert error.args == ("it is over",)
