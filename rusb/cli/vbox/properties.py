"""Extra data, properties of the installation, password hashes."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from rusb.cli._vbox_options import Option, UsageError, literal
from rusb.errors import SettingsError
from rusb.server.auth.hashes import hash_legacy

from . import _refused, _vrde
from ._common import (
    given,
    machine_of,
    registry,
    say_changed,
    say_note,
    show,
    warn,
    warn_of_password,
)

__all__ = ["COMMANDS"]

_PROPERTIES = {
    "vrdeauthlibrary": ("VRDEAuthLibrary", "VBoxAuth"),
    "machinefolder": ("defaultMachineFolder", ""),
    "vrdeextpack": ("defaultVRDEExtPack", ""),
}
"""Property: attribute of SystemProperties, and what ``default`` means."""

_DEPRECATED = {"vrdpauthlibrary": "vrdeauthlibrary"}


def setextradata(words: Sequence[str]) -> int:
    """``setextradata VM|global KEY [VALUE]``: no value removes the key."""
    target, key, value = (*literal(words, (2, 3)), "")[:3]
    known = registry()
    if target == "global":
        if value and any(unicodedata.category(character) == "Cc" for character in key):
            raise SettingsError(f"invalid extra data key {key!r}")
        known.set_extra(key, value)
        return 0
    entry = known.find(target)
    say_note(entry)
    known.edit(entry, lambda e: e.set_extra(key, value))
    _vrde.note_extra(key, value)
    say_changed(entry.uuid)
    return 0


def getextradata(words: Sequence[str]) -> int:
    """``getextradata VM|global [KEY|enumerate] [--json]``: print extra data."""
    found = given(words, (Option("json", values=0),))
    if not 1 <= len(found.words) <= 2:
        raise UsageError(
            "too few arguments" if not found.words else "too many arguments"
        )
    target, key = (*found.words, "enumerate")[:2]
    known = registry()
    if target == "global":
        data = known.extra_data()
    else:
        data = machine_of(known.find(target)).extra_data
    if found.has("json"):
        wanted = data if key == "enumerate" else {key: data.get(key)}
        print(json.dumps(wanted, indent=2))
    elif key == "enumerate":
        for name in sorted(data):
            show(f"Key: {name}, Value: {data[name]}")
    else:
        show(f"Value: {data[key]}" if data.get(key) else "No value set!")
    return 0


def setproperty(words: Sequence[str]) -> int:
    """``setproperty vrdeauthlibrary|machinefolder|vrdeextpack default|VALUE``."""
    name, value = literal(words, (2,))
    if name in _DEPRECATED:
        warn(f"{name} is deprecated; use {_DEPRECATED[name]}")
        name = _DEPRECATED[name]
    if name in _refused.PROPERTIES:
        raise SettingsError(f"{name}: {_refused.PROPERTIES[name]}")
    if name not in _PROPERTIES:
        raise UsageError(
            f"unknown property {name!r}; choose one of {', '.join(_PROPERTIES)}"
        )
    attribute, default = _PROPERTIES[name]
    if value == "default":
        value = default
    elif name == "machinefolder":
        value = str(Path(value).absolute())
    elif name == "vrdeextpack":
        if value == "null":
            raise SettingsError(
                "vrdeextpack null: by default, new machines have no remote display; to"
                " switch it off for one: modifyvm VM --vrde off"
            )
        warn("rusb has no extension packs; rusb's own server is used")
    elif name == "vrdeauthlibrary":
        _vrde.note_library(value)
    registry().set_property(attribute, value)
    return 0


def internalcommands(words: Sequence[str]) -> int:
    """``internalcommands passwordhash PASSWORD``: for VBoxAuthSimple."""
    verb, password = literal(words, (2,))
    if verb != "passwordhash":
        raise UsageError(f"unknown command {verb!r}; rusb only has passwordhash")
    warn_of_password("rusb passwordhash")
    print(f"Password hash: {hash_legacy(password)}")
    return 0


COMMANDS = {
    "setextradata": setextradata,
    "getextradata": getextradata,
    "setproperty": setproperty,
    "internalcommands": internalcommands,
}
