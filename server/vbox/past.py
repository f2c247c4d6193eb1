"""What VirtualBox left in a file and rusb only keeps: guest properties, snapshots."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import SettingsError

from .document import Document, Node
from .editor import Editor
from .files import read_file

__all__ = [
    "GuestProperty",
    "Snapshot",
    "read_properties",
    "read_snapshots",
    "set_property",
]

MAX_NAME, MAX_VALUE = 63, 127
"""Bytes of a property (VirtualBox's limits)."""

_PLACE = ("Machine", "Hardware", "GuestProperties")


@dataclass(frozen=True, slots=True)
class GuestProperty:
    """What Guest Additions and scripts note about a guest.

    Attributes:
        timestamp: nanoseconds since 1970, in decimal.
        flags: as they were set.
    """

    name: str
    value: str
    timestamp: str
    flags: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that VirtualBox made.

    Attributes:
        path: its place: ``-2-1`` is the first one made from the second one of the
            first.
        depth: how many it was made from.
        is_current: the machine goes on from it.
    """

    path: str
    name: str
    uuid: str
    depth: int
    is_current: bool


def read_properties(path: Path) -> list[GuestProperty]:
    """Return the properties in a machine's file.

    Raises:
        SettingsError: it cannot be read.
    """
    parent = Document(read_file(path), str(path)).find(*_PLACE)
    names = ("name", "value", "timestamp", "flags")
    return [
        GuestProperty(*(node.attributes.get(name, "") for name in names))
        for node in (parent.all("GuestProperty") if parent else ())
    ]


def set_property(editor: Editor, name: str, value: str, flags: str = "") -> None:
    """Set a property; empty: remove it.

    Raises:
        SettingsError: name or value cannot be one.
    """
    for what, text, limit in (("name", name, MAX_NAME), ("value", value, MAX_VALUE)):
        if len(text.encode("utf-8", "replace")) > limit:
            raise SettingsError(f"the {what} {text!r} has more than {limit} bytes")
    if not name or set(name) & set("*?|"):
        raise SettingsError(f"invalid name {name!r} of a guest property")
    document = editor.document
    document.set_pair(_PLACE, "GuestProperty", name, value)
    parent = document.find(*_PLACE)
    for node in parent.all("GuestProperty") if parent else ():
        if node.attributes.get("name") == name:
            document.set(node, "timestamp", str(time.time_ns()))
            document.set(node, "flags", flags)


def read_snapshots(path: Path) -> list[Snapshot]:
    """Return the snapshots in a machine's file, each before those made from it.

    Raises:
        SettingsError: it cannot be read.
    """
    machine = Document(read_file(path), str(path)).find("Machine")
    first = machine.find("Snapshot") if machine else None
    if machine is None or first is None:
        return []
    current = machine.attributes.get("currentSnapshot", "").strip("{}")
    return list(_snapshots(first, current))


def _snapshots(
    node: Node, current: str, path: str = "", depth: int = 0
) -> Iterator[Snapshot]:
    number = node.attributes.get("uuid", "").strip("{}")
    name = node.attributes.get("name", "")
    yield Snapshot(path, name, number, depth, number == current)
    below = node.find("Snapshots")
    for place, child in enumerate(below.all("Snapshot") if below else (), 1):
        yield from _snapshots(child, current, f"{path}-{place}", depth + 1)
