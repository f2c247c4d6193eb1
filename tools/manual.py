"""Write the man pages and the shells' completion scripts into ``contrib/``.

``make manual`` runs this after a change of options; tests compare what lies there with
what ``--help`` says. Needs the packages ``argparse-manpage`` and ``shtab``, which rusb
itself never imports. Commands whose grammar is not argparse's get a parser that is
good for describing them and nothing else.

No script completes names that come from files or devices: bash and shtab expand what
they complete, so that a name like ``$(…)`` would be run (bad-inputs.md T42).
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shtab
from argparse_manpage.manpage import Manpage

import rusb
from rusb.cli import _rdesktop_options, module_of, vbox
from rusb.cli._status import STATUSES
from rusb.cli._vbox_options import HelpWanted, Option
from rusb.cli._words import OWN

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guide" / "vboxmanage.md"

SHELLS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}
"""What a shell wants its script for a program to be called."""

SUMMARIES = {
    "clonehd": "copy a disk image (the older name of clonemedium)",
    "clonemedium": "copy a disk image",
    "clonevm": "copy a machine with its disks",
    "closemedium": "forget a disk image, or delete it",
    "convertfromraw": "make a disk image from a raw one",
    "controlvm": "change a running machine: power, remote display, USB devices",
    "createhd": "make a disk image (the older name of createmedium)",
    "createmedium": "make a disk image",
    "createvm": "make a machine",
    "getextradata": "print extra data of a machine or of all",
    "guestproperty": "guest properties, without Guest Additions",
    "headless": "run a machine until it is powered off",
    "internalcommands": "hash a password for VBoxAuthSimple",
    "list": "list machines, USB devices, global filters and more",
    "metrics": "list the metrics that there are",
    "modifyvm": "change the settings of a machine that is powered off",
    "registervm": "put a machine's settings file on the list of machines",
    "rdesktop": "rdesktop's options: a viewer's window, and USB devices over RDP",
    "setextradata": "set or remove extra data of a machine or of all",
    "setproperty": "set a property of the installation",
    "showhdinfo": "show what is known of a disk image",
    "showmediuminfo": "show what is known of a disk image",
    "showvminfo": "show a machine's settings, and what is connected to it",
    "snapshot": "list the snapshots of a machine",
    "startvm": "start machines in the background",
    "storageattach": "put a disk or a CD into a drive of a machine, or take it out",
    "storagectl": "add or remove a storage controller of a machine",
    "unregistervm": "take a machine off the list, or delete it",
    "usbfilter": "change USB device filters, or explain how they decide",
}
"""What a command does, for lists; our own commands say it in ``HELP``."""

WORD = re.compile(r"[a-z][\w-]+")
MACRO = re.compile(r"\.(?:TH|SH|SS|TP|PP|B|BR|br|nf|fi)\b")

VARIABLES = {
    "RUSB_PASSWORD": "the password of connect and rdesktop-vrdp",
    "RUSB_STATE": "directory of certificates, known servers and locks, instead of"
    " ~/.local/state/rusb",
    "RUSB_RUNTIME": "directory of the sockets of running machines, instead of"
    " $XDG_RUNTIME_DIR/rusb",
    "RUSB_SECURITY": "for rdesktop-vrdp: a word of 'rusb connect --security'",
    "RUSB_LEGACY_TLS": "for rdesktop-vrdp: 1 takes servers with TLS 1.0",
    "RUSB_VIEWER": "the viewer that rdesktop-vrdp and connect --view start",
    "RUSB_BACKENDS": "for rdesktop-vrdp: where devices come from, as with --backend",
    "NOTIFY_SOCKET": "systemd's: serve, connect and headless say there when they are"
    " ready",
}


# ------------------------------------------------------------------ parsers ----


def describe(word: str, parser: argparse.ArgumentParser) -> None:
    """Give *parser* the options of a command, whatever its grammar is."""
    if word in vbox.commands():
        _describe_vbox(word, parser)
    elif word == "rdesktop":
        _describe_rdesktop(parser)
    else:
        module_of(word).add_arguments(parser)


def about(word: str) -> str:
    """Return a line about a command."""
    if word in SUMMARIES:
        return SUMMARIES[word]
    is_ours = word not in vbox.commands()
    return OWN[word] if is_ours else f"as VBoxManage {word}"


def _long(word: str) -> str:
    """What a command is about, at more length: its docstring without the usages."""
    if word not in vbox.commands():
        return about(word)
    command = vbox.commands()[word]
    usage = rf"``{command.__name__.strip('_')}\b.*?``[:.]?"
    text = re.sub(usage, "", command.__doc__ or "", flags=re.S)
    text = " ".join(text.replace("``", "").split())
    return text[:1].upper() + text[1:]


def has_help(word: str) -> bool:
    """Does a command know -h and --help?"""
    return word != "rdesktop"


def options_of(word: str) -> tuple[Option, ...]:
    """Return the options that a command of VBoxManage reads and can carry out."""
    try:
        vbox.commands()[word](["--help"])
    except HelpWanted as wanted:
        return tuple(
            o for o in wanted.options if not (o.refused or o.instead or o.idle)
        )
    raise AssertionError(f"{word} --help ran the command")


def _describe_vbox(word: str, parser: argparse.ArgumentParser) -> None:
    for number, texts in enumerate(_words_of(word)):
        choices = [text for text in texts if WORD.fullmatch(text)]
        place = parser.add_argument(f"word{number}", nargs="?", metavar="|".join(texts))
        place.choices = choices or None
    examples = _examples(word)
    for option in options_of(word):
        key = option.name.replace("-", "")
        example = examples.get(key) or examples.get(option.short)
        kind: dict[str, Any] = {"action": "store_true"}
        if option.values:
            kind = {"metavar": "VALUE" if option.values == 1 else ("VALUE", "VALUE")}
            kind["nargs"] = option.values
        parser.add_argument(
            *(f"--{option.name}", *([f"-{option.short}"] if option.short else [])),
            dest=option.name,
            help=f"example: {example}".replace("%", "%%") if example else None,
            **kind,
        )


def _words_of(word: str) -> list[list[str]]:
    """Return what may stand at each place before the options, as the usage has it."""
    places: list[list[str]] = []
    for synopsis in vbox.synopses("", vbox.commands()[word]):
        plain = re.split(r"\s[-\[]", f"{synopsis} ")[0].removeprefix("usage:")
        for number, text in enumerate(plain.replace("…", "").split()):
            if text == "..." or text.isupper() and text in ("OPTION", "VALUE"):
                break
            if number == len(places):
                places.append([])
            new = [w for w in text.split("|") if w not in places[number]]
            places[number] += new
    return places


def _examples(word: str) -> dict[str, str]:
    """Return the guide's first example for each option; tests have run them."""
    found: dict[str, str] = {}
    rows = re.findall(rf"\| `(VBoxManage {word} [^`]+)` \|", GUIDE.read_text("utf-8"))
    for example in rows:
        for name in re.findall(r"(?<=\s)--?([\w-]+)", example):
            found.setdefault(name.replace("-", ""), example)
    return found


def _describe_rdesktop(parser: argparse.ArgumentParser) -> None:
    usage = _rdesktop_options.USAGE
    letters = re.findall(r"^ +(--?[\w-]+): |  (--?[\w-]+): ", usage, re.M)
    names = {a or b for a, b in letters}
    names |= set(re.findall(r"-\w(?= |:)", usage.splitlines()[-1]))
    texts = dict(re.findall(r"(--?[\w-]+): (.*?)(?=  |$)", usage, re.M))
    for name in sorted(names, key=lambda name: (name.lower(), name)):
        takes_value = (
            f"{name[1]}:" in _rdesktop_options._LETTERS
            if name[1] != "-"
            else f"{name[2:]}=" in _rdesktop_options._LONG
        )
        meaning = _rdesktop_options.WITHOUT_MEANING.get(name)
        text = texts.get(name) or f"for a viewer: {meaning}"
        text = text.replace("%", "%%")
        if takes_value:
            parser.add_argument(name, metavar="VALUE", help=text)
        else:
            parser.add_argument(name, action="store_true", help=text)
    parser.add_argument("server", metavar="[user@]server[:port]")


# -------------------------------------------------------------------- pages ----


def page(program: str, word: str) -> str:
    """Return the man page of a command."""
    parser = argparse.ArgumentParser(program, add_help=has_help(word))
    parser.description = _long(word)
    describe(word, parser)
    if word in vbox.commands():  # the synopsis has the words before the options
        parser._action_groups[0]._group_actions.clear()
    made = _manpage(parser, about(word))
    if word in vbox.commands():
        lines = vbox.synopses(program, vbox.commands()[word])
        texts = (_escape(line.removeprefix("usage: ")) for line in lines)
        made.add_section("synopsis", "=", "\n.br\n".join(texts))
    made.add_section("see also", "=", ".BR rusb (1)")
    return _finish(made)


def overview() -> str:
    """Return the man page of ``rusb`` itself."""
    parser = argparse.ArgumentParser("rusb", usage="rusb COMMAND [OPTION ...]")
    parser.description = (
        "USB devices that are plugged in at one machine appear in a virtual machine on"
        " another one, over RDP, as VirtualBox's remote USB does it. Each command has"
        " a page of its own."
    )
    parser.add_argument(
        "-V", "--version", action="store_true", help="print the version"
    )
    made = _manpage(parser, rusb.__doc__.removeprefix("rusb: ").rstrip("."))
    rows = {word: about(word) for word in (*OWN, *sorted(vbox.commands()))}
    made.add_section("commands", "=", _definitions(rows))
    statuses = {"0": "it did what it was asked to"}
    for number, text in sorted({*STATUSES.values(), (70, "anything else")}):
        statuses[str(number)] = "; ".join(
            filter(None, (statuses.get(str(number)), text))
        )
    statuses["130"] = "interrupted"
    statuses["129, 143"] = (
        "ended by SIGHUP or SIGTERM before it was done, or before it waited for signals"
    )
    note = "The commands of VBoxManage: 0 done, 1 failed, 2 a wrong command line.\n"
    made.add_section("exit status", "=", note + _definitions(statuses))
    made.add_section("environment", "=", _definitions(VARIABLES))
    pages = [f"rusb-{word}" for word in ("connect", "serve", "devices", "modifyvm")]
    also = ",\n".join(f".BR {_escape(name)} (1)" for name in (*pages, "rdesktop-vrdp"))
    made.add_section("see also", "=", also)
    return _finish(made)


def _manpage(parser: argparse.ArgumentParser, line: str) -> Manpage:
    made = Manpage(parser, _data={"description": line})
    made.prog, made.date, made.manual = parser.prog.replace(" ", "-"), "", "rusb"
    made.source = f"rusb {rusb.__version__}"
    return made


def _finish(made: Manpage) -> str:
    """Protect text that begins like one of roff's requests."""
    lines = str(made).splitlines()
    return "".join(
        f"\\&{line}\n"
        if line[:1] in (".", "'") and not MACRO.match(line)
        else f"{line}\n"
        for line in lines
    )


def _escape(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", r"\-")


def _definitions(rows: dict[str, str]) -> str:
    return "\n".join(
        f".TP\n.B {_escape(term)}\n{_escape(text)}" for term, text in rows.items()
    )


# --------------------------------------------------------------- completion ----


def programs() -> Iterator[argparse.ArgumentParser]:
    """Yield what each program takes."""
    for program, own in (("rusb", OWN), ("VBoxManage", [])):
        parser = argparse.ArgumentParser(program)
        below = parser.add_subparsers(dest="command")
        for word in (*own, *sorted(vbox.commands())):
            made = below.add_parser(word, help=about(word), add_help=has_help(word))
            describe(word, made)
        yield parser
    for program, word in (("VBoxHeadless", "headless"), ("rdesktop-vrdp", "rdesktop")):
        parser = argparse.ArgumentParser(program, add_help=has_help(word))
        describe(word, parser)
        yield parser


def main(folder: Path) -> None:
    """Write everything."""
    files = {"man/rusb.1": overview()}
    for word in (*OWN, *vbox.commands()):
        name = "rdesktop-vrdp" if word == "rdesktop" else f"rusb {word}"
        files[f"man/{name.replace(' ', '-')}.1"] = page(name, word)
    for parser in programs():
        for shell, name in SHELLS.items():
            place = f"completion/{shell}/{name.format(parser.prog)}"
            files[place] = shtab.complete(parser, shell)
    for old in (*folder.glob("man/*"), *folder.glob("completion/*/*")):
        old.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(str.rstrip, text.splitlines())) + "\n", "utf-8")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Write man pages and completion.")
    arguments.add_argument("folder", nargs="?", type=Path, default=ROOT / "contrib")
    main(arguments.parse_args().folder)
