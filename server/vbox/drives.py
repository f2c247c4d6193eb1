"""Change the storage controllers, drives and media of a machine (filters.md 2.8)."""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from rusb.errors import SettingsError

from .document import Document, Node
from .files import open_at_once
from .model import BUS_OF, BUSES, disk_format, place_of
from .settings import machine_node, parse_version
from .values import read_number

__all__ = [
    "MAX_HEAD",
    "RAW",
    "DrivesEditor",
    "image_uuid",
    "is_image",
    "media",
]

STORAGE_IN_HARDWARE_SINCE = (1, 17)

RAW = (".img", ".raw")
"""What raw images of disks are called."""

_VDI_1_1 = bytes.fromhex("7f10dabe 01000100")

_VMDK_UUID = re.compile(
    rb'^ddb\.uuid\.image\s*=\s*"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"',
    re.M,
)

MAX_HEAD = 20 << 10
"""Bytes at the beginning of an image in which it says what it is."""

_MEDIA = {
    "hdd": ("HardDisk", "HardDisks", "HardDisk"),
    "dvd": ("DVD", "DVDImages", "Image"),
    "floppy": ("Floppy", "FloppyImages", "Image"),
}
"""Kinds: type of AttachedDevice, list in the registry, element in it."""


def media(machine: Node, *groups: str) -> list[Node]:
    """Return the entries of a machine's registry of media; differencing disks, too.

    Args:
        groups: lists to look in; none: all of them.
    """
    registry = machine.find("MediaRegistry")
    stack = registry.children if registry else []
    stack = [node for node in stack if not groups or node.name in groups]
    found = []
    while stack:
        node = stack.pop()
        stack += node.children
        if node.attributes.get("uuid") and node.attributes.get("location"):
            found.append(node)
    return found


class DrivesEditor:
    """Changes the drives of a machine.

    Args:
        document: its settings; the document's text is what to write.
        folder: where its file is; locations of media may be relative to it.

    Attributes:
        version: of the settings.

    Raises:
        SettingsError: the document is not a machine's.
    """

    def __init__(self, document: Document, folder: Path | None = None) -> None:
        self.document = document
        self._machine = machine_node(document)
        self._folder = folder or Path()
        self.version = parse_version(document.root.attributes.get("version", ""))

    def add_controller(
        self, name: str, bus: str, chip: str = "", ports: int = 0
    ) -> None:
        """Add a storage controller.

        Raises:
            SettingsError: there is one of that name.
        """
        if self._find_controller(name) is not None:
            raise SettingsError(f"there is already a storage controller named {name!r}")
        default, most = BUSES[bus]
        if chip and BUS_OF.get(chip) != bus:
            chips = ", ".join(c for c, b in BUS_OF.items() if b == bus)
            raise SettingsError(
                f"{chip!r} is not a controller for {bus}; choose one of {chips}"
            )
        attributes = {"name": name, "type": chip or default}
        attributes |= {"PortCount": str(ports or min(most, 4)), "Bootable": "true"}
        path = ("Hardware",) if self.version >= STORAGE_IN_HARDWARE_SINCE else ()
        parent = self.document.ensure("Machine", *path, "StorageControllers")
        self.document.add(parent, "StorageController", attributes)

    def remove_controller(self, name: str) -> None:
        """Remove a storage controller and what is attached to it.

        Raises:
            SettingsError: there is none of that name.
        """
        controller = self._controller(name)
        for node in list(controller.all("AttachedDevice")):
            self._detach(node)
        self.document.remove(controller)

    def rename_controller(self, name: str, new: str) -> None:
        """Rename a storage controller.

        Raises:
            SettingsError: there is none of that name, or already one of the new one.
        """
        controller = self._controller(name)
        if self._find_controller(new) not in (None, controller):
            raise SettingsError(f"there is already a storage controller named {new!r}")
        self.document.set(controller, "name", new)

    def attach(
        self, name: str, port: int, device: int, kind: str, medium: Path | None
    ) -> None:
        """Put a medium, or an empty drive, into a place; what was there goes.

        Args:
            name: of the storage controller.
            kind: ``hdd``, ``dvd`` or ``floppy``.
            medium: an image; None: the drive is empty.

        Raises:
            SettingsError: no such controller or place, an empty hard disk, one that
                the machine has elsewhere, or one in another kind of drive.
        """
        if medium is None and kind == "hdd":
            raise SettingsError("a hard disk cannot be empty; give it a medium")
        if medium is not None and kind != "hdd" and disk_format(medium) != "raw":
            raise SettingsError(
                f"{medium} is a hard disk; it cannot be attached to a {kind} drive"
            )
        before = self._attached(name, port, device)
        if medium is not None and kind == "hdd":
            self._check_free(medium, before)
        if bus := BUS_OF.get(self._controller(name).attributes.get("type", "")):
            place_of(bus, port, device)
        attributes = {"type": _MEDIA[kind][0], "hotpluggable": "false"}
        attributes |= {"port": str(port), "device": str(device)}
        controller = self._controller(name)
        node = self.document.add(controller, "AttachedDevice", attributes)
        if medium is not None:
            number = self._register(kind, medium)
            self.document.add(node, "Image", {"uuid": f"{{{number}}}"})
        if before is not None:
            self._detach(before)

    def detach(self, name: str, port: int, device: int) -> None:
        """Take the drive in a place away.

        Raises:
            SettingsError: there is no such controller, or no drive there.
        """
        node = self._attached(name, port, device)
        if node is None:
            raise SettingsError(
                f"nothing is attached to port {port}, device {device} of {name!r}"
            )
        self._detach(node)

    # ------------------------------------------------------------- our own ----

    def _find_controller(self, name: str) -> Node | None:
        for path in (("Hardware", "StorageControllers"), ("StorageControllers",)):
            parent = self._machine.find(*path)
            for node in parent.all("StorageController") if parent else ():
                if node.attributes.get("name") == name:
                    return node
        return None

    def _controller(self, name: str) -> Node:
        found = self._find_controller(name)
        if found is None:
            raise SettingsError(f"there is no storage controller named {name!r}")
        return found

    def _attached(self, name: str, port: int, device: int) -> Node | None:
        for node in self._controller(name).all("AttachedDevice"):
            place = (node.attributes.get(word, "0") for word in ("port", "device"))
            if tuple(map(read_number, place)) == (port, device):
                return node
        return None

    def _check_free(self, medium: Path, place: Node | None) -> None:
        """Refuse a hard disk that is in another place of the machine.

        Two drives that write to one image destroy it.
        """
        wanted = os.path.realpath(self._folder / medium)
        images = {
            node.attributes["uuid"].lower()
            for node in media(self._machine)
            if os.path.realpath(self._folder / node.attributes["location"]) == wanted
        }
        for controller, node in self._drives():
            image = node.find("Image")
            number = image.attributes.get("uuid", "").lower() if image else ""
            if node is not place and number in images:
                port, device = (
                    node.attributes.get(word, "0") for word in ("port", "device")
                )
                raise SettingsError(
                    f"{medium} is attached already, to port {port}, device {device} of"
                    f" {controller.attributes.get('name', '')!r}; two drives would"
                    " damage its contents"
                )

    def _drives(self) -> Iterator[tuple[Node, Node]]:
        """Yield each controller and drive; snapshots have others."""
        for path in (("Hardware", "StorageControllers"), ("StorageControllers",)):
            parent = self._machine.find(*path)
            for controller in parent.all("StorageController") if parent else ():
                for node in controller.all("AttachedDevice"):
                    yield controller, node

    def _register(self, kind: str, medium: Path) -> str:
        """Return the UUID of a medium in the machine's registry; make an entry."""
        _, group, element = _MEDIA[kind]
        known = media(self._machine)
        for node in media(self._machine, group):
            if self._folder / node.attributes["location"] == self._folder / medium:
                return node.attributes["uuid"].strip("{}")
        number = image_uuid(self._folder / medium)
        if any(n.attributes["uuid"].strip("{}").lower() == number for n in known):
            number = str(uuid.uuid4())  # another image had that path
        attributes = {"uuid": f"{{{number}}}", "location": str(medium)}
        if kind == "hdd":
            formats = {".vdi": "VDI", ".vmdk": "VMDK", ".vhd": "VHD"}
            attributes["format"] = formats.get(medium.suffix.lower(), "RAW")
            attributes["type"] = "Normal"
        parent = self.document.ensure("Machine", "MediaRegistry", group)
        self.document.add(parent, element, attributes)
        return number

    def _detach(self, node: Node) -> None:
        """Remove a drive, and the entry of its medium if that was its last one.

        Differencing disks and those they build on stay registered.
        """
        image = node.find("Image")
        self.document.remove(node)
        number = image.attributes.get("uuid", "").lower() if image else ""
        stack = [self._machine]
        while stack:  # snapshots have drives, too
            other = stack.pop()
            stack += other.children
            is_drive = other.name == "AttachedDevice"
            image = other.find("Image") if is_drive else None
            if image and image.attributes.get("uuid", "").lower() == number:
                return
        for entry in media(self._machine):
            is_plain = not entry.children and entry.parent and entry.parent.depth == 3
            if entry.attributes["uuid"].lower() == number and is_plain:
                self.document.remove(entry)


def is_image(path: Path) -> bool:
    """Is a file what its name says, the image of a disk?

    A raw image has nothing to know it by: one is named so, and made of whole sectors.
    """
    try:
        with open(path, "rb", opener=open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return False
            head = file.read(72)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 512))
            foot = file.read(8)
    except OSError:
        return False
    return {
        "vdi": head[64:68] == _VDI_1_1[:4],
        "vmdk": head.startswith((b"KDMV", b"COWD", b"# Disk DescriptorFile")),
        "vpc": b"conectix" in (head[:8], foot),
        "qcow2": head.startswith(b"QFI\xfb"),
        "raw": path.suffix.lower() in RAW and size > 0 and size % 512 == 0,
    }.get(disk_format(path), False)


def image_uuid(path: Path) -> str:
    """Return the UUID of an image: its own, or one that is made of its path.

    VirtualBox wants to find the own one in the settings, too. Layouts: a VDI's
    signature is at 64, its version at 68 (1.1), its UUID at 392, little-endian; a VMDK
    has it in its descriptor.
    """
    head = b""
    with contextlib.suppress(OSError), open(path, "rb", opener=open_at_once) as file:
        head = file.read(MAX_HEAD)
    kind = disk_format(path)
    if kind == "vdi" and head[64:72] == _VDI_1_1 and any(head[392:408]):
        return str(uuid.UUID(bytes_le=head[392:408].ljust(16, b"\0")))
    if kind == "vmdk" and (found := _VMDK_UUID.search(head)):
        return found[1].decode().lower()
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"file://{os.path.realpath(path)}"))
