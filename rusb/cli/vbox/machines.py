"""Create, register and list machines."""

import json
from collections.abc import Sequence
from pathlib import Path

from rusb.cli._hints import did_you_mean
from rusb.cli._vbox_options import Option, UsageError
from rusb.errors import SettingsError
from rusb.server.machine.registry import Entry

from . import _refused, info
from ._common import given, is_running, registry, say_note, show, stopped
from ._lists import print_global_filters, print_host_devices

__all__ = ["COMMANDS", "CREATE", "OS_TYPES"]

OS_TYPES = {
    "Other": "Other/Unknown",
    "Other_64": "Other/Unknown (64-bit)",
    "Linux26": "Linux 2.6 / 3.x / 4.x (32-bit)",
    "Linux26_64": "Linux 2.6 / 3.x / 4.x (64-bit)",
    "Debian": "Debian (32-bit)",
    "Debian_64": "Debian (64-bit)",
    "Ubuntu_64": "Ubuntu (64-bit)",
    "Fedora_64": "Fedora (64-bit)",
    "RedHat_64": "Red Hat (64-bit)",
    "WindowsXP": "Windows XP (32-bit)",
    "Windows7_64": "Windows 7 (64-bit)",
    "Windows10_64": "Windows 10 (64-bit)",
    "Windows11_64": "Windows 11 (64-bit)",
    "Windows2022_64": "Windows 2022 (64-bit)",
    "FreeBSD_64": "FreeBSD (64-bit)",
    "DOS": "DOS",
}
"""What ``list ostypes`` shows; other words are kept as they are."""


CREATE = (
    Option("name", short="n"),
    Option("os-type"),
    Option("register", values=0),
    Option("basefolder"),
    Option("machine-folder", instead="basefolder"),
    *_refused.refused("modifyvm VM --groups sets them", "groups"),
    *_refused.refused("a new machine gets a UUID of its own", "uuid"),
    *_refused.refused("storagectl and storageattach give it drives", "default"),
    *_refused.refused("there are no snapshots", "snapshot-folder"),
    *_refused.refused("machines have an x86 processor", "platform-architecture", "x86"),
    *_refused.refused("rusb does not encrypt settings", "cipher password-id password"),
)


def createvm(words: Sequence[str]) -> int:
    """``createvm --name NAME [--ostype TYPE] [--register] [--basefolder PATH]``."""
    found = given(words, CREATE, count=0)
    name = found.need("name", "what the machine is called")
    known = registry()
    folder = found.last("basefolder") or ""
    make = known.create_registered if found.has("register") else known.create
    entry = make(name, found.last("os-type") or "Other", folder)
    registered = " and registered" if found.has("register") else ""
    show(f"Virtual machine '{name}' is created{registered}.")
    print(f"UUID: {entry.uuid}")
    show(f"Settings file: '{entry.path}'")
    return 0


def registervm(words: Sequence[str]) -> int:
    """``registervm FILE``: put a machine on the list."""
    refused = _refused.refused("rusb does not decrypt settings", "password")
    found = given(words, refused, count=1)
    say_note(registry().register(Path(found.words[0])))
    return 0


def unregistervm(words: Sequence[str]) -> int:
    """``unregistervm VM [--delete]``: take it off the list.

    ``--delete`` removes its settings, its logs and the disks in its own folder that no
    other machine has; what goes and which disks stay is printed.
    """
    sentence = "disks outside of the machine's directory are never deleted: --delete"
    refused = _refused.refused(sentence, "delete-all")
    found = given(words, (Option("delete", values=0), *refused), count=1)
    known = registry()
    entry = known.find(found.words[0])
    is_delete = found.has("delete")
    with stopped(entry) as lock:
        removal = known.unregister(entry.uuid, delete=is_delete, disks=is_delete)
        lock.drop(forget=True)
    for path in removal.deleted:
        show(f"Deleted: {path}")
    for path in removal.kept:
        show(f"Kept, it is elsewhere or another machine has it: {path}")
    for path in removal.strange:
        show(f"Kept, it is not an image of a disk: {path}")
    return 0


def list_(words: Sequence[str]) -> int:
    """``list vms|runningvms|usbhost|usbfilters|ostypes [OPTION ...]``."""
    options = (
        Option("json", values=0),
        Option("long", values=0, short="l"),
        Option("sorted", values=0, short="s"),
    )
    found = given(words, options, count=1)
    is_json = found.has("json")
    match found.words[0]:
        case "vms" | "runningvms" as word:
            entries = registry().machines()
            if word == "runningvms":
                entries = [e for e in entries if is_running(e.uuid)]
            if found.has("sorted"):
                entries.sort(key=lambda entry: entry.name.casefold())
            _print_machines(entries, is_json, found.has("long"))
        case "usbhost":
            print_host_devices(is_json)
        case "usbfilters":
            print_global_filters(registry().filters(), is_json)
        case "ostypes" if is_json:
            print(json.dumps(OS_TYPES, indent=2))
        case "ostypes":
            for word, text in OS_TYPES.items():
                print(f"ID:          {word}\nDescription: {text}\n")
        case word:
            hint = did_you_mean(word, _LISTS)
            sentence = f"list {word}: there are {', '.join(_LISTS)}{hint}"
            is_known = word in _refused.LISTS
            raise SettingsError(sentence) if is_known else UsageError(sentence)
    return 0


_LISTS = ("vms", "runningvms", "usbhost", "usbfilters", "ostypes")


def _print_machines(entries: Sequence[Entry], is_json: bool, is_long: bool) -> None:
    if is_json:
        rows = [
            {"name": e.name, "uuid": e.uuid, "file": str(e.path), "problem": e.problem}
            for e in entries
        ]
        print(json.dumps(rows, indent=2))
        return
    for entry in entries:
        if is_long and entry.machine:
            info.COMMANDS["showvminfo"]([entry.uuid])
            print()
        else:
            show(f'"{entry.name}" {{{entry.uuid}}}')


COMMANDS = {
    "createvm": createvm,
    "registervm": registervm,
    "unregistervm": unregistervm,
    "list": list_,
}
