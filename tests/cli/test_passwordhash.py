"""``rusb passwordhash``."""

import io

import pytest

from rusb.cli import main
from rusb.server.auth.hashes import verify

SECRET = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"


def test_legacy_prints_what_vboxmanage_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["passwordhash", "--legacy", "secret"]) == 0
    out, err = capsys.readouterr()
    assert out == f"Password hash: {SECRET}\n"
    assert "other users" in err
    assert "secret" not in err


@pytest.mark.parametrize("words", [[], ["-"]])
def test_a_line_of_standard_input_is_hashed_with_a_salt(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" secret \nmore\n"))
    assert main(["passwordhash", *words]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("$scrypt$ln=15,r=8,p=1$")  # 0.1 s and 32 MiB for a guess
    assert verify(out.strip(), " secret ")
    assert err == ""


def test_two_prompts_must_agree(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    answers = iter(["one", "two"])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    assert main(["passwordhash"]) == 64
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["", "\n", "x" * 1025])
def test_nothing_or_too_much_is_refused(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["passwordhash", "-"]) == 64
    assert capsys.readouterr().out == ""
