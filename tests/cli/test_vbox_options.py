"""Command lines in VirtualBox's grammar."""

import pytest

from rusb.cli._vbox_options import (
    Option,
    UsageError,
    on_off,
    parse,
    unsigned,
    yes_no,
)

OPTIONS = (
    Option("name", short="n"),
    Option("vrde-port"),
    Option("vrdpport", instead="vrde-port"),
    Option("register", values=0),
    Option("usb-rename", values=2),
)


@pytest.mark.parametrize(
    "words", [["--name", "a b"], ["--name=a b"], ["-name", "a b"], ["-n", "a b"]]
)
def test_every_way_to_write_an_option(words: list[str]) -> None:
    assert parse(words, OPTIONS).options == [("name", ("a b",))]


def test_hyphens_may_be_left_out() -> None:
    given = parse(["--vrdeport", "1", "--vrde-port", "2"], OPTIONS)
    assert given.options == [("vrde-port", ("1",)), ("vrde-port", ("2",))]
    assert given.last("vrde-port") == "2"


def test_a_deprecated_name_warns_and_works() -> None:
    given = parse(["--vrdpport", "5000"], OPTIONS)
    assert given.last("vrde-port") == "5000"
    assert given.warnings == ["--vrdpport is deprecated; --vrde-port is its name now"]


def test_words_flags_and_options_with_two_values() -> None:
    given = parse(["vm", "--register", "--usb-rename", "a", "b", "7"], OPTIONS)
    assert given.words == ["vm", "7"]
    assert given.has("register")
    assert given.options[1] == ("usb-rename", ("a", "b"))


def test_a_value_may_look_like_an_option() -> None:
    assert parse(["--name", "--register"], OPTIONS).last("name") == "--register"


def test_values_keep_their_equals_signs() -> None:
    assert parse(["--name=a=b="], OPTIONS).last("name") == "a=b="


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fly"], "unknown option '--fly'"),
        (["--name"], "--name needs a value"),
        (["--usb-rename", "a"], "--usb-rename needs a value"),
        (["--register=1"], "unknown option '--register=1'"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(words, OPTIONS)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(UsageError, match="missing --name: what it is called"):
        parse([], OPTIONS).need("name", "what it is called")


def test_words_for_yes_and_no() -> None:
    assert on_off("vrde", "ON")
    assert not yes_no("active", "no")
    with pytest.raises(UsageError, match="'maybe' of --active: yes or no"):
        yes_no("active", "maybe")


@pytest.mark.parametrize("text", ["0", "+12", "4294967295"])
def test_numbers(text: str) -> None:
    assert unsigned("INDEX", text) == int(text)


@pytest.mark.parametrize("text", ["0x1", "-1", "1a", "", "٣", "4294967296", "9" * 99])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="INDEX"):
        unsigned("INDEX", text)
