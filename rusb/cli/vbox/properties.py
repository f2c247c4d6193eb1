"""Extra data, properties of the installation, password hashes."""

import json
from collections.abc import Sequence

from rusb.cli._vbox_options import Option, UsageError
from rusb.errors import SettingsError
from rusb.server.auth.hashes import hash_legacy

from ._common import given, machine_of, registry, say_changed

__all__ = ["COMMANDS"]

_PROPERTIES = {
    "vrdeauthlibrary": ("VRDEAuthLibrary", "VBoxAuth"),
    "vrdpauthlibrary": ("VRDEAuthLibrary", "VBoxAuth"),
    "machinefolder": ("defaultMachineFolder", ""),
    "vrdeextpack": ("defaultVRDEExtPack", ""),
}
"""Property: attribute of SystemProperties, and what ``default`` means."""


def setextradata(words: Sequence[str]) -> int:
    """``setextradata VM|global KEY [VALUE]``; no value removes the key."""
    found = given(words, ())
    if not 2 <= len(found.words) <= 3:
        raise UsageError("setextradata VM|global KEY [VALUE]")
    target, key, value = (*found.words, "")[:3]
    known = registry()
    if target == "global":
        known.set_extra(key, value)
        return 0
    entry = known.find(target)
    known.edit(entry, lambda e: e.set_extra(key, value))
    say_changed(entry.uuid)
    return 0


def getextradata(words: Sequence[str]) -> int:
    """``getextradata VM|global [KEY|enumerate] [--json]``."""
    found = given(words, (Option("json", values=0),))
    if not 1 <= len(found.words) <= 2:
        raise UsageError("getextradata VM|global [KEY|enumerate]")
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
            print(f"Key: {name}, Value: {data[name]}")
    else:
        print(f"Value: {data[key]}" if data.get(key) else "No value set!")
    return 0


def setproperty(words: Sequence[str]) -> int:
    """``setproperty vrdeauthlibrary|machinefolder|vrdeextpack default|VALUE``."""
    found = given(words, (), count=2)
    name, value = found.words
    if name not in _PROPERTIES:
        raise SettingsError(f"there is no property {name!r}: {', '.join(_PROPERTIES)}")
    attribute, default = _PROPERTIES[name]
    registry().set_property(attribute, default if value == "default" else value)
    return 0


def internalcommands(words: Sequence[str]) -> int:
    """``internalcommands passwordhash PASSWORD``."""
    if len(words) != 2 or words[0] != "passwordhash":
        raise UsageError("internalcommands passwordhash PASSWORD")
    print(f"Password hash: {hash_legacy(words[1])}")
    return 0


COMMANDS = {
    "setextradata": setextradata,
    "getextradata": getextradata,
    "setproperty": setproperty,
    "internalcommands": internalcommands,
}
