"""Guest properties, snapshots and metrics: what tools ask about, answered truthfully.

Nothing in a guest reads or writes properties: rusb has no Guest Additions. The
machine's file has those that were set; and the snapshots that VirtualBox made.
"""

import fnmatch
from collections.abc import Sequence

from rusb.cli._vbox_options import Option, UsageError, literal
from rusb.errors import SettingsError
from rusb.server.vbox.past import (
    GuestProperty,
    read_properties,
    read_snapshots,
    set_property,
)

from ._common import given, machine_of, registry, show
from ._settings import quoted

__all__ = ["COMMANDS"]

_NO_ADDITIONS = "rusb has no Guest Additions"
_NO_SNAPSHOTS = "rusb has no snapshots and no saved states"

# --------------------------------------------------------------- properties ----


def guestproperty(words: Sequence[str]) -> int:
    """Read and set the properties that a machine's file has.

    ``guestproperty get VM NAME``
    ``guestproperty enumerate VM [--patterns PATTERN]``
    ``guestproperty set VM NAME [VALUE] [--flags FLAGS]``
    ``guestproperty unset VM NAME``
    """
    verbs = {"get": _get, "enumerate": _enumerate, "set": _set}
    verbs |= {"unset": _set, "delete": _set}
    verb = words[0] if words else ""
    if verb == "wait":
        raise SettingsError(f"guestproperty wait: {_NO_ADDITIONS}")
    if verb not in verbs:
        given(words[:1], _OPTIONS)
        raise UsageError("choose one of get, enumerate, set, unset")
    return verbs[verb](words[1:])


_OPTIONS = (
    Option("patterns"),
    Option("flags"),
    Option("verbose", values=0, idle="there are no more details"),
)


def _properties(target: str) -> list[GuestProperty]:
    entry = registry().find(target)
    machine_of(entry)
    return read_properties(entry.path)


def _get(words: Sequence[str]) -> int:
    found = given(words, _OPTIONS[2:], count=2)
    target, name = found.words
    for one in _properties(target):
        if one.name == name:
            show(f"Value: {one.value}")
            return 0
    print("No value set!")
    return 0


def _enumerate(words: Sequence[str]) -> int:
    found = given(words, _OPTIONS)
    if not found.words:
        raise UsageError("too few arguments")
    patterns = [*found.words[1:], *(found.last("patterns") or "").split("|")]
    patterns = [pattern for pattern in patterns if pattern]
    is_none = True
    for one in _properties(found.words[0]):
        if patterns and not any(fnmatch.fnmatchcase(one.name, p) for p in patterns):
            continue
        is_none = False
        end = f"timestamp: {one.timestamp}, flags: {one.flags}".rstrip()
        show(f"Name: {one.name}, value: {one.value}, {end}")
    if is_none:
        print("No properties found.")
    return 0


def _set(words: Sequence[str]) -> int:
    found = given(words, _OPTIONS[1:2])
    target, name, value = (*literal(found.words, (2, 3)), "")[:3]
    flags = found.last("flags") or ""
    known = registry()
    known.edit(known.find(target), lambda e: set_property(e, name, value, flags))
    return 0


# ---------------------------------------------------------------- snapshots ----


def snapshot(words: Sequence[str]) -> int:
    """``snapshot VM list [--machinereadable]``: those that VirtualBox made."""
    options = (
        Option("details", values=0, idle="there are no more details"),
        Option("machinereadable", values=0),
    )
    verb = words[1] if len(words) > 1 else ""
    if verb not in ("list", "") and verb[0] != "-":
        raise SettingsError(f"snapshot {verb}: {_NO_SNAPSHOTS}")
    found = given(words, options)
    if len(found.words) != 2 or found.words[1] != "list":
        raise UsageError("snapshot VM list")
    entry = registry().find(found.words[0])
    machine_of(entry)
    snapshots = read_snapshots(entry.path)
    if not snapshots:
        print("This machine does not have any snapshots")
        return 0
    if not found.has("machinereadable"):
        for one in snapshots:
            star = " *" if one.is_current else ""
            show(f"{'   ' * (one.depth + 1)}Name: {one.name} (UUID: {one.uuid}){star}")
        return 0
    for one in snapshots:
        show(f"SnapshotName{one.path}={quoted(one.name)}")
        show(f"SnapshotUUID{one.path}={quoted(one.uuid)}")
    for one in snapshots:
        if one.is_current:
            show(f"CurrentSnapshotName={quoted(one.name)}")
            show(f"CurrentSnapshotUUID={quoted(one.uuid)}")
            show(f"CurrentSnapshotNode={quoted(f'SnapshotName{one.path}')}")
    return 0


# ------------------------------------------------------------------ metrics ----


def metrics(words: Sequence[str]) -> int:
    """``metrics list [VM [METRIC ...]]``: none are collected; ps and top show them."""
    verb = words[0] if words else ""
    if verb not in ("list", "query") and verb[:1] != "-":
        raise SettingsError(f"metrics {verb}: ps and top show what a machine uses")
    given(words, ())
    columns = ("Object", "Metric", "Unit", "Minimum", "Maximum", "Period", "Count")
    widths = (15, 40, 8, 10, 10, 10, 10)
    titles = (title.ljust(n) for title, n in zip(columns, widths, strict=True))
    print(" ".join((*titles, "Description")))
    return 0


COMMANDS = {"guestproperty": guestproperty, "snapshot": snapshot, "metrics": metrics}
