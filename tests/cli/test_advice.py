"""No advice that another command refuses: what our texts tell users to type is taken.

The texts of the whole source are read: each command that they name is there, takes the
options that follow, and refuses none of them. Those that can be run are.
"""

import functools
import re
import shlex

import pytest

from rusb.cli import main, vbox
from rusb.cli._vbox_options import HelpWanted, Option
from rusb.cli.vbox import _console, _refused, running
from tests.support.rows import each_row
from tests.support.source import IN_SOURCE, messages
from tests.support.vbox import Vbox
from tests.support.vboxmanage_guide import numbered

pytestmark = IN_SOURCE

COMMANDS = vbox.commands()
WORDS = "|".join(sorted({*COMMANDS, *_refused.COMMANDS}, key=len, reverse=True))
ADVICE = re.compile(
    rf"(?<![\w/.-])(?:{WORDS})\b(?= (?:VM\b|[A-Z]{{2,}}\b|--|\{{|…))[^;)']*"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def found_advice() -> set[str]:
    """Every command that a text of the source names, with what follows."""
    return {m[0] for _, text in messages() for m in ADVICE.finditer(text)}


@functools.cache
def options_of(command: str) -> dict[str, Option]:
    """The options that a command reads, without hyphens inside."""
    lines = [[], ["explain"]] if command == "usbfilter" else [[]]
    found = {}
    for line in lines:
        with pytest.raises(HelpWanted) as caught:
            COMMANDS[command]([*line, "--help"])
        for option in caught.value.options:
            found[option.name.replace("-", "")] = option
    return found


def plain(text: str) -> str:
    """An option as :func:`options_of` names it; ``--nicN`` is that of the first one."""
    text = text.removeprefix("--")
    return re.sub("N$", "1", text).replace("-", "")


def judge(command: str, names: list[str], text: str) -> None:
    """Are the options taken by a command?"""
    known = options_of(command)
    for name in names:
        option = known.get(plain(name)) or known.get(plain(f"{name}1"))
        assert option is not None, f"{command} has no {name}: {text!r}"
        assert not option.refused, f"{command} refuses {name}: {text!r}"


def test_the_texts_have_advice() -> None:
    found = found_advice()
    assert len(found) > 15
    assert any(text.startswith("modifyvm VM --nic1 nat") for text in found)


def test_a_command_that_is_named_is_there_with_its_options() -> None:
    for text in sorted(found_advice()):
        judge_line(text)


def judge_line(text: str) -> None:
    """Is a command there, with its options?"""
    command, *rest = text.split()
    assert command in COMMANDS, f"{text!r} is refused"
    judge(command, OPTION.findall(text), text)
    if command == "controlvm" and len(rest) > 1:
        verb = rest[1].rstrip(",.:")
        verbs = {*_console.VERBS, *running._PLAIN, *running._RENAMED.values()}
        verbs |= {"usbattach", "usbdetach", "{}", "COMMAND"}
        assert verb in verbs, text


SENTENCES = sorted(
    {
        (command, option.refused or option.idle)
        for command in COMMANDS
        for option in options_of(command).values()
        if option.refused or option.idle
    }
)


@each_row(("command", "sentence"), SENTENCES)
def test_a_refusal_names_options_that_are_not_refused(
    command: str, sentence: str
) -> None:
    if not any(word in sentence.split() for word in COMMANDS):  # of another command
        judge(command, OPTION.findall(sentence), sentence)


LINES = [
    # what a text says, and what a user then types
    ("modifyvm VM --nic1 nat", "modifyvm Lab --nic1 nat"),
    ("modifyvm VM --nicN", "modifyvm Lab --nic2 nat"),
    ("modifyvm VM --nic{} nat", "modifyvm Lab --nic2 nat"),
    ("modifyvm VM --cpus NUMBER", "modifyvm Lab --cpus 2"),
    ("modifyvm VM --uartmode1", "modifyvm Lab --uartmode1 disconnected"),
    ("modifyvm VM --usb-xhci on", "modifyvm Lab --usb-xhci on"),
    ("modifyvm {} --usb-xhci on", "modifyvm Lab --usb-xhci on"),
    ("modifyvm VM --vrde off", "modifyvm Lab --vrde off"),
    (
        "modifyvm VM --natpf{} delete {}",
        "modifyvm Lab --natpf1 a,tcp,,1,,1 --natpf1 delete a",
    ),
    ("controlvm VM resume", "controlvm Lab resume"),
    ("controlvm {} poweroff", "controlvm Lab poweroff"),
    ("controlvm VM screenshotpng FILE", "controlvm Lab screenshotpng a.png"),
    ("controlvm VM usbattach", "controlvm Lab usbattach 1209:0001"),
    (
        "storageattach VM --storagectl IDE --port 1 --type dvddrive --medium FILE",
        "storageattach Lab --storagectl IDE --port 1 --type dvddrive --medium cd.iso",
    ),
    (
        "clonevm VM --name NAME --basefolder DIR --register",
        "clonevm Lab --name Moved --basefolder there --register",
    ),
    ("registervm FILE", "registervm Spare/Spare.vbox"),
    (
        "usbfilter add 0 --target VM --name NAME",
        "usbfilter add 0 --target Lab --name A",
    ),
    ("usbfilter explain VM 1209:0001", "usbfilter explain Lab 1209:0001"),
]


@pytest.mark.parametrize(("text", "line"), LINES)
def test_advice_is_taken(text: str, line: str, home: Vbox) -> None:
    assert any(text in said for _, said in messages()), f"nobody says {text!r}"
    status = main(shlex.split(line))
    said = home.capsys.readouterr().err
    if line.startswith("controlvm"):
        assert (status, "is not running" in said) == (1, True), said
    else:
        assert status == 0, said


def test_each_adapter_is_meant() -> None:
    assert numbered("--nicN")[0] == "--nic1"


def test_the_way_out_of_a_running_machine_is_named(home: Vbox) -> None:
    with home.running():
        for line in ("modifyvm Lab --cpus 2", "clonevm Lab", "unregistervm Lab"):
            home.fails(line, "power it off first: controlvm Lab poweroff", 1)
