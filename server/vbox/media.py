"""The media that registered machines have, and what their images say of themselves.

rusb keeps no list of media: what no machine has is known by its path only.
"""

import os
import re
import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rusb.errors import SettingsError

from .document import Document, Node
from .drives import MAX_HEAD, image_uuid
from .files import open_at_once, read_file
from .hardware import read_hardware
from .model import disk_format
from .registry import Entry
from .settings import machine_node

__all__ = ["KINDS", "Medium", "capacity", "find_medium", "known_media"]

KINDS = {"HardDisks": "disk", "DVDImages": "dvd", "FloppyImages": "floppy"}
"""Lists of a machine's registry of media, and VBoxManage's word for what is in them."""

_EXTENT = re.compile(rb"^RW\s+([0-9]{1,18})\s", re.M)
"""A piece of a VMDK disk, in its descriptor: its size in sectors."""


@dataclass(slots=True)
class Medium:
    """An image, and the machines that have it.

    Attributes:
        kind: ``disk``, ``dvd`` or ``floppy``.
        parent: UUID of the disk that this one only has the differences to; else empty.
        children: UUIDs of such disks on top of this one.
        users: machines in whose drives it is.
    """

    uuid: str
    kind: str
    path: Path
    parent: str = ""
    children: list[str] = field(default_factory=list)
    users: list[Entry] = field(default_factory=list)


def known_media(entries: Iterable[Entry]) -> list[Medium]:
    """Return the media of machines, each once, in the order in which they come."""
    found: dict[tuple[str, str], Medium] = {}
    for entry in entries:
        if entry.machine is None:
            continue
        folder = entry.path.parent
        try:
            document = Document(read_file(entry.path), str(entry.path))
            registry = machine_node(document).find("MediaRegistry")
            controllers = read_hardware(document, folder).controllers
        except SettingsError:  # of other settings; who names the machine hears of it
            continue
        for group in registry.children if registry else ():
            for node in group.children:
                _collect(node, KINDS.get(group.name, ""), folder, found)
        for controller in controllers:
            for drive in controller.drives:
                for medium in found.values():
                    if (
                        medium.uuid == drive.uuid.lower()
                        and medium.path == drive.medium
                    ):
                        medium.users.append(entry)
    return list(found.values())


def _collect(
    node: Node,
    kind: str,
    folder: Path,
    found: dict[tuple[str, str], Medium],
    parent: Medium | None = None,
) -> None:
    """Take a medium, and the disks that are on top of it."""
    number = node.attributes.get("uuid", "").strip("{}").lower()
    place = node.attributes.get("location")
    if not (kind and number and place):
        return
    path = folder / place
    above = parent.uuid if parent else ""
    medium = Medium(number, kind, path, above)
    medium = found.setdefault((number, os.path.realpath(path)), medium)
    if parent and number not in parent.children:
        parent.children.append(number)
    for child in node.all("HardDisk"):
        _collect(child, kind, folder, found, medium)


def find_medium(media: Iterable[Medium], text: str, kind: str = "disk") -> Medium:
    """Find a medium by its UUID, or the path of its image.

    Args:
        media: that are known.
        text: what the user typed.
        kind: of one that no machine has.

    Raises:
        SettingsError: there is none.
    """
    place = os.path.realpath(text)
    for medium in media:
        if medium.uuid == text.strip("{}").lower():
            return medium
    for medium in media:
        if os.path.realpath(medium.path) == place:
            return medium
    path = Path(text).absolute()
    if path.is_file():
        return Medium(image_uuid(path), kind, path)
    try:
        uuid.UUID(text)
    except ValueError:
        raise SettingsError(f"there is no medium {path}") from None
    raise SettingsError(
        f"no registered machine has a medium {text}; for another image, give its file"
    )


def capacity(path: Path) -> int | None:
    """Return the size of a disk, in bytes; None: its image cannot be read.

    Layouts: VDI 1.1 at 368, sparse VMDK at 12 in sectors, qcow2 at 24, VHD at 48 of
    its last sector. Anything else is raw.
    """
    try:
        with open(path, "rb", opener=open_at_once) as file:
            head = file.read(MAX_HEAD)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 512))
            foot = file.read(512)
    except OSError:
        return None
    kind = disk_format(path)
    try:
        if kind == "vdi":
            return int(struct.unpack_from("<Q", head, 368)[0])
        if kind == "qcow2":
            return int(struct.unpack_from(">Q", head, 24)[0])
        if kind == "vpc":
            return int(struct.unpack_from(">Q", foot, 48)[0])
        if kind == "vmdk" and head.startswith(b"KDMV"):
            return 512 * int(struct.unpack_from("<Q", head, 12)[0])
    except struct.error:
        return None
    if kind == "vmdk":
        return 512 * sum(map(int, _EXTENT.findall(head)))
    return size
