"""Guest properties, snapshots and metrics: what tools ask about, answered truthfully.

Nothing in a guest reads or writes properties: rusb has no Guest Additions. The
machine's file has those that were set; and the snapshots that VirtualBox made.
"""

import fnmatch
import re
import time
from collections.abc import Iterator, Sequence

from rusb.cli._vbox_options import Option, UsageError, literal
from rusb.errors import SettingsError
from rusb.server.vbox.document import Document, Node
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.files import read_file
from rusb.server.vbox.registry import Entry

from ._common import given, machine_of, registry, show
from ._settings import quoted

__all__ = ["COMMANDS"]

_PLACE = ("Machine", "Hardware", "GuestProperties")
_NO_ADDITIONS = "there are no Guest Additions"
_NO_SNAPSHOTS = "there are no snapshots and no saved states"

MAX_NAME, MAX_VALUE = 63, 127
"""Bytes of a property (VirtualBox's limits)."""


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
        raise UsageError("which one: get, enumerate, set or unset")
    return verbs[verb](words[1:])


_OPTIONS = (
    Option("patterns"),
    Option("flags"),
    Option("verbose", values=0, idle="there is no more to tell"),
)


def _properties(entry: Entry) -> list[Node]:
    parent = _document(entry).find(*_PLACE)
    return list(parent.all("GuestProperty")) if parent else []


def _document(entry: Entry) -> Document:
    machine_of(entry)
    return Document(read_file(entry.path), str(entry.path))


def _get(words: Sequence[str]) -> int:
    found = given(words, _OPTIONS[2:], count=2)
    target, name = found.words
    for node in _properties(registry().find(target)):
        if node.attributes.get("name") == name:
            show(f"Value: {node.attributes.get('value', '')}")
            return 0
    print("No value set!")
    return 0


def _enumerate(words: Sequence[str]) -> int:
    found = given(words, _OPTIONS)
    if not found.words:
        raise UsageError("too few words")
    patterns = [*found.words[1:], *(found.last("patterns") or "").split("|")]
    patterns = [pattern for pattern in patterns if pattern]
    is_none = True
    for node in _properties(registry().find(found.words[0])):
        name = node.attributes.get("name", "")
        if patterns and not any(fnmatch.fnmatchcase(name, p) for p in patterns):
            continue
        is_none = False
        value, when, flags = (
            node.attributes.get(key, "") for key in ("value", "timestamp", "flags")
        )
        show(
            f"Name: {name}, value: {value}, timestamp: {when}, flags: {flags}".rstrip()
        )
    if is_none:
        print("No properties found.")
    return 0


def _set(words: Sequence[str]) -> int:
    found = given(words, _OPTIONS[1:2])
    target, name, value = (*literal(found.words, (2, 3)), "")[:3]
    for what, text, limit in (("name", name, MAX_NAME), ("value", value, MAX_VALUE)):
        if len(text.encode("utf-8", "replace")) > limit:
            raise SettingsError(f"the {what} {text!r} has more than {limit} bytes")
    if not name or re.search(r"[*?|]", name):
        raise SettingsError(f"invalid name {name!r} of a guest property")

    def change(editor: Editor) -> None:
        document = editor.document
        document.set_pair(_PLACE, "GuestProperty", name, value)
        parent = document.find(*_PLACE)
        for node in parent.all("GuestProperty") if parent else ():
            if node.attributes.get("name") == name:
                document.set(node, "timestamp", str(time.time_ns()))
                document.set(node, "flags", found.last("flags") or "")

    known = registry()
    known.edit(known.find(target), change)
    return 0


# ---------------------------------------------------------------- snapshots ----


def snapshot(words: Sequence[str]) -> int:
    """``snapshot VM list [--machinereadable]``: those that VirtualBox made."""
    options = (
        Option("details", values=0, idle="there is no more to tell"),
        Option("machinereadable", values=0),
    )
    verb = words[1] if len(words) > 1 else ""
    if verb not in ("list", "") and verb[0] != "-":
        raise SettingsError(f"snapshot {verb}: {_NO_SNAPSHOTS}")
    found = given(words, options)
    if len(found.words) != 2 or found.words[1] != "list":
        raise UsageError("snapshot VM list")
    entry = registry().find(found.words[0])
    machine = _document(entry).find("Machine")
    first = machine.find("Snapshot") if machine else None
    if machine is None or first is None:
        print("This machine does not have any snapshots")
        return 0
    current = machine.attributes.get("currentSnapshot", "").strip("{}")
    rows = list(_snapshots(first))
    if not found.has("machinereadable"):
        for _, name, number, depth in rows:
            star = " *" if number == current else ""
            show(f"{'   ' * (depth + 1)}Name: {name} (UUID: {number}){star}")
        return 0
    for path, name, number, _ in rows:
        show(f"SnapshotName{path}={quoted(name)}")
        show(f"SnapshotUUID{path}={quoted(number)}")
    for path, name, number, _ in rows:
        if number == current:
            show(f"CurrentSnapshotName={quoted(name)}")
            show(f"CurrentSnapshotUUID={quoted(number)}")
            show(f"CurrentSnapshotNode={quoted(f'SnapshotName{path}')}")
    return 0


def _snapshots(
    node: Node, path: str = "", depth: int = 0
) -> Iterator[tuple[str, str, str, int]]:
    """Yield place, name, UUID and depth of a snapshot and of those made from it."""
    given_ = node.attributes
    yield path, given_.get("name", ""), given_.get("uuid", "").strip("{}"), depth
    below = node.find("Snapshots")
    for number, child in enumerate(below.all("Snapshot") if below else (), 1):
        yield from _snapshots(child, f"{path}-{number}", depth + 1)


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
