"""Create, register and list machines."""

import json
from collections.abc import Sequence
from pathlib import Path

from rusb.cli._vbox_options import Option, UsageError
from rusb.server.machine.registry import Entry

from ._common import given, is_running, registry
from ._lists import print_global_filters, print_host_devices

__all__ = ["COMMANDS", "OS_TYPES"]

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


def createvm(words: Sequence[str]) -> int:
    """``createvm --name NAME [--ostype TYPE] [--register] [--basefolder PATH]``."""
    options = (
        Option("name"),
        Option("ostype"),
        Option("register", values=0),
        Option("basefolder"),
        Option("machine-folder"),
    )
    found = given(words, options, count=0)
    name = found.need("name", "what the machine is called")
    known = registry()
    folder = found.last("basefolder") or found.last("machine-folder") or ""
    entry = known.create(name, found.last("ostype") or "Other", folder)
    if found.has("register"):
        known.register(entry.path)
    registered = " and registered" if found.has("register") else ""
    print(f"Virtual machine '{name}' is created{registered}.")
    print(f"UUID: {entry.uuid}\nSettings file: '{entry.path}'")
    return 0


def registervm(words: Sequence[str]) -> int:
    """``registervm FILE``."""
    found = given(words, (), count=1)
    registry().register(Path(found.words[0]))
    return 0


def unregistervm(words: Sequence[str]) -> int:
    """``unregistervm VM [--delete]``."""
    found = given(words, (Option("delete", values=0),), count=1)
    known = registry()
    entry = known.find(found.words[0])
    if is_running(entry.uuid):
        raise UsageError(f"the machine {entry.name!r} is running; power it off first")
    known.unregister(entry.uuid, delete=found.has("delete"))
    return 0


def list_(words: Sequence[str]) -> int:
    """``list vms|runningvms|usbhost|usbfilters|ostypes [--long] [--json]``."""
    options = (Option("json", values=0), Option("long", values=0, short="l"))
    found = given(words, options, count=1)
    is_json = found.has("json")
    match found.words[0]:
        case "vms":
            _print_machines(registry().machines(), is_json)
        case "runningvms":
            entries = [e for e in registry().machines() if is_running(e.uuid)]
            _print_machines(entries, is_json)
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
            raise UsageError(
                f"{word!r}: there are vms, runningvms, usbhost, usbfilters, ostypes"
            )
    return 0


def _print_machines(entries: Sequence[Entry], is_json: bool) -> None:
    if is_json:
        rows = [
            {"name": e.name, "uuid": e.uuid, "file": str(e.path), "problem": e.problem}
            for e in entries
        ]
        print(json.dumps(rows, indent=2))
        return
    for entry in entries:
        print(f'"{entry.name}" {{{entry.uuid}}}')


COMMANDS = {
    "createvm": createvm,
    "registervm": registervm,
    "unregistervm": unregistervm,
    "list": list_,
}
