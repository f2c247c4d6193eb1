"""``list``: machines, devices, filters, media, and what this host has."""

import contextlib
import importlib
from collections.abc import Callable, Sequence

from rusb.cli._hints import did_you_mean
from rusb.cli._vbox_options import Option, UsageError
from rusb.errors import SettingsError
from rusb.server.vbox.registry import Entry

from ._common import given, is_running, registry, show, warn

TYPE_CHECKING = False  # as in rusb/__init__.py
if TYPE_CHECKING:
    from typing import Any

__all__ = ["COMMANDS"]

EMPTY = {
    "bridgedifs": "",
    "dhcpservers": "",
    "extpacks": "Extension Packs: 0",
    "hostdvds": "",
    "hostfloppies": "",
    "hostonlyifs": "",
    "hostonlynets": "",
    "intnets": "",
    "natnets": "NAT Networks:\n\n0 networks found",
    "natnetworks": "NAT Networks:\n\n0 networks found",
    "webcams": "Video Input Devices: 0",
}
"""Lists of what machines cannot have here, and what is printed of them.

The only network is QEMU's NAT; cameras come in over USB.
"""

MEDIA = {"hdds": "disk", "dvds": "dvd", "floppies": "floppy"}


def _late(name: str) -> "Any":
    """Return a module of which the names of machines need nothing."""
    return importlib.import_module(f"{__package__}.{name}")


def _print_json(found: object) -> None:
    import json  # most lists are for people

    print(json.dumps(found, indent=2))


def _print_filters(is_json: bool) -> None:
    _late("_lists").print_global_filters(registry().filters(), is_json)


def _print_devices(is_json: bool) -> None:
    _late("_lists").print_host_devices(is_json)


def _print_host(_: bool) -> None:
    for line in _late("_installation").host_lines():
        show(line)


def _print_properties(_: bool) -> None:
    for line in _late("_installation").property_lines(registry()):
        show(line)


def _print_groups(is_json: bool) -> None:
    from rusb.server.vbox.hardware import load_hardware

    found = {"/"}
    for entry in registry().machines():
        with contextlib.suppress(SettingsError):  # who names the machine hears of it
            found.update(load_hardware(entry.path).groups)
    names = sorted(found)
    if is_json:
        _print_json(names)
        return
    for name in names:
        show(f'"{name}"')


def _print_types(is_json: bool) -> None:
    from ._ostypes import OS_TYPES, family, is_64_bit

    if is_json:
        _print_json(OS_TYPES)
        return
    for word, text in OS_TYPES.items():
        name, described = family(word)
        print(f"ID:          {word}\nDescription: {text}\nFamily ID:   {name}")
        bits = "true" if is_64_bit(word) else "false"
        print(f"Family Desc: {described}\n64 bit:      {bits}\n")


OTHERS: dict[str, Callable[[bool], None]] = {
    "groups": _print_groups,
    "hostinfo": _print_host,
    "ostypes": _print_types,
    "systemproperties": _print_properties,
    "usbfilters": _print_filters,
    "usbhost": _print_devices,
}

MACHINES = ("vms", "runningvms")
LISTS = (*MACHINES, *OTHERS, *MEDIA, *EMPTY)


def list_(words: Sequence[str]) -> int:
    """``list vms|runningvms|usbhost|usbfilters|ostypes|WORD [OPTION ...]``."""
    options = (
        Option("json", values=0),
        Option("long", values=0, short="l"),
        Option("sorted", values=0, short="s"),
    )
    found = given(words, options, count=1)
    word, is_json = found.words[0], found.has("json")
    if word in MACHINES:
        known = registry()
        entries = known.machines()
        if word == "runningvms":
            entries = [e for e in entries if is_running(e.uuid)]
            entries += known.running_unlisted()
        if found.has("sorted"):
            entries.sort(key=lambda entry: entry.name.casefold())
        _print_machines(entries, is_json, found.has("long"))
    elif word in OTHERS:
        OTHERS[word](is_json)
    elif word in MEDIA:
        _late("media").print_media(registry().machines(), MEDIA[word], is_json)
    elif word in EMPTY:
        text = "[]" if is_json else EMPTY[word]
        print(text, end="\n" if text else "")
    else:
        from . import _refused

        hint = did_you_mean(word, LISTS)
        sentence = f"list {word}: no such list; choose one of {', '.join(LISTS)}{hint}"
        is_known = word in _refused.LISTS
        raise SettingsError(sentence) if is_known else UsageError(sentence)
    return 0


def _print_machines(entries: Sequence[Entry], is_json: bool, is_long: bool) -> None:
    if is_json:
        rows = [
            {"name": e.name, "uuid": e.uuid, "file": str(e.path), "problem": e.problem}
            for e in entries
        ]
        _print_json(rows)
        return
    for entry in entries:
        if is_long and entry.machine:
            try:
                _late("info").COMMANDS["showvminfo"]([entry.uuid])
            except SettingsError as error:  # of this machine only
                warn(str(error))
            print()
        else:
            show(f'"{entry.name}" {{{entry.uuid}}}')


COMMANDS = {"list": list_}
