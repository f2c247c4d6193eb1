"""Command lines in VirtualBox's grammar."""

import pytest

from rusb.cli._vbox_options import (
    HelpWanted,
    Option,
    UsageError,
    literal,
    on_off,
    one_of,
    parse,
    unsigned,
    yes_no,
)
from rusb.errors import SettingsError

OPTIONS = (
    Option("name", short="n"),
    Option("vrde-port"),
    Option("vrdpport", instead="vrde-port"),
    Option("register", values=0),
    Option("usb-rename", values=2),
    Option("uart1", values=2, alone=("off",)),
    Option("vram", refused="QEMU chooses"),
    Option("audio", refused="no sound", unless=("none",)),
)


@pytest.mark.parametrize(
    "words", [["--name", "a b"], ["--name=a b"], ["-name", "a b"], ["-n", "a b"]]
)
def test_every_way_to_write_an_option(words: list[str]) -> None:
    assert parse(words, OPTIONS).options == [("name", ("a b",))]


def test_hyphens_do_not_count() -> None:
    given = parse(["--vrdeport", "1", "--vrde-port", "3", "--vrd-eport=2"], OPTIONS)
    assert {name for name, _ in given.options} == {"vrde-port"}
    with pytest.raises(UsageError, match="unknown"):
        parse(["---name", "x"], OPTIONS)
    assert given.last("vrde-port") == "2"


def test_a_deprecated_name_warns_and_works() -> None:
    given = parse(["--vrdpport", "5000"], OPTIONS)
    assert given.last("vrde-port") == "5000"
    assert given.warnings == ["--vrdpport is deprecated; use --vrde-port"]


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
        (["--usb-rename", "a"], "--usb-rename needs two values"),
        (["--register=1"], "unknown option '--register=1'"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(words, OPTIONS)


@pytest.mark.parametrize(
    ("word", "close"),
    [("--nmae", "--name"), ("-vrdeprt", "--vrdeport"), ("--registr=1", "--register")],
)
def test_a_misspelt_option_gets_a_hint(word: str, close: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {close}?"):
        parse([word], OPTIONS)


def test_what_is_refused_is_no_hint() -> None:
    with pytest.raises(UsageError, match="unknown option '--vrram'$"):
        parse(["--vrram"], OPTIONS)


@pytest.mark.parametrize("words", [["--vram", "16"], ["--vram=16"], ["--vram"]])
def test_a_refused_option_has_its_sentence(words: list[str]) -> None:
    with pytest.raises(SettingsError, match="^--vram: QEMU chooses$"):
        parse(words, OPTIONS)


def test_a_refused_option_may_ask_for_what_is_so_anyhow() -> None:
    assert parse(["--audio", "None"], OPTIONS).has("audio")
    with pytest.raises(SettingsError, match="no sound"):
        parse(["--audio", "alsa"], OPTIONS)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--uart1", "0x3F8", "4"], ("0x3F8", "4")),
        (["--uart1", "off"], ("off",)),
        (["--uart1=off"], ("off",)),
    ],
)
def test_a_value_that_stands_alone(words: list[str], values: tuple[str, ...]) -> None:
    given = parse([*words, "--name", "x"], OPTIONS)
    assert given.options == [("uart1", values), ("name", ("x",))]


@pytest.mark.parametrize("word", ["--help", "-help", "-h", "-?"])
def test_help_is_wanted(word: str) -> None:
    with pytest.raises(HelpWanted) as caught:
        parse(["vm", word, "--bogus"], OPTIONS)
    assert caught.value.options == OPTIONS
    with pytest.raises(HelpWanted):
        literal([word], (2,))


def test_literal_words_may_look_like_options() -> None:
    assert literal(["vm", "-x"], (1, 2)) == ["vm", "-x"]
    with pytest.raises(UsageError, match="too few"):
        literal([], (1, 2))
    with pytest.raises(UsageError, match="too many"):
        literal(["a", "b", "c"], (1, 2))


def test_a_missing_option_is_named() -> None:
    with pytest.raises(UsageError, match="missing --name: what it is called"):
        parse([], OPTIONS).need("name", "what it is called")


def test_words_for_yes_and_no() -> None:
    assert on_off("vrde", "ON")
    assert not yes_no("active", "no")
    with pytest.raises(UsageError, match="'Yes' for --active; use yes or no"):
        yes_no("active", "Yes")
    assert one_of("format", "VDI", ("vdi", "raw")) == "vdi"
    with pytest.raises(UsageError, match="'qed' for --format; choose one of vdi, raw"):
        one_of("format", "qed", ("vdi", "raw"))


@pytest.mark.parametrize("text", ["0", "+12", "4294967295", "0" * 20 + "7"])
def test_numbers(text: str) -> None:
    assert unsigned("INDEX", text) == int(text)


@pytest.mark.parametrize("text", ["0x1", "-1", "1a", "", "٣", "+", "1.5"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="for INDEX: it must be a number"):
        unsigned("INDEX", text)


@pytest.mark.parametrize("text", ["4294967296", "9" * 99, "+1" + "0" * 5000])
def test_a_number_that_is_too_big_hears_the_limit(text: str) -> None:
    with pytest.raises(UsageError, match="for INDEX: it must be at most 4294967295"):
        unsigned("INDEX", text)


def test_after_two_dashes_there_are_only_words() -> None:
    found = parse(["a", "--name", "--", "--", "-dash", "--name", "--"], OPTIONS)
    assert found.words == ["a", "-dash", "--name", "--"]
    assert found.options == [("name", ("--",))]
