"""Copies of machines: their disks, and settings with UUIDs and MAC addresses anew."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import SettingsError

from .document import Document, Node
from .drives import image_uuid, media
from .editor import Editor
from .files import read_file
from .hardware import read_hardware
from .model import Drive, disk_format
from .network import new_mac
from .qemu_img import run_qemu_img
from .registry import Entry
from .settings import machine_node

__all__ = ["Wish", "cloned", "copy_image"]

_OF_A_RUN = ("stateFile", "aborted", "currentSnapshot", "currentStateModified")
"""Attributes of a machine that a new one does not have."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a copy is to be like.

    Attributes:
        name: of the machine, and of its disks.
        uuid: of the machine; empty: a new one.
        keeps_macs: its adapters have the addresses of the original's.
        keeps_nat_macs: those that are attached to NAT have.
        keeps_disk_names: its disks are called like the original's.
        change: changes further settings.
    """

    name: str
    uuid: str = ""
    keeps_macs: bool = False
    keeps_nat_macs: bool = False
    keeps_disk_names: bool = False
    change: Callable[[Editor], None] | None = None


@contextlib.contextmanager
def cloned(source: Entry, wish: Wish, home: Path) -> Iterator[tuple[str, bytes]]:
    """Copy a machine's disks into a folder; yield the UUID and settings of its copy.

    The copies of the disks go again where the block fails.

    Args:
        source: a machine that nobody starts meanwhile.
        home: where the copy's settings are going to be.

    Raises:
        SettingsError: a disk cannot be copied, or the machine has snapshots.
    """
    number = wish.uuid or str(uuid.uuid4())
    folder = source.path.parent
    document = Document(read_file(source.path), str(source.path))
    machine = machine_node(document)
    disks = _disks(source, document)
    made: list[Path] = []
    try:
        copies: dict[str, Path] = {}
        for drive in disks:
            assert drive.medium is not None
            if (original := drive.uuid.lower()) not in copies:
                target = _place(home, wish, len(copies) + 1, drive.medium)
                copy_image(drive.medium, target, made)
                copies[original] = target
        _rename(document, machine, wish, number)
        _set_media(document, machine, folder, copies)
        editor = Editor(document, home)
        if wish.change is not None:
            wish.change(editor)
        yield number, document.data
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _disks(source: Entry, document: Document) -> list[Drive]:
    """The hard disks that are to be copied.

    Raises:
        SettingsError: there are others than plain images, or snapshots.
    """
    machine = machine_node(document)
    given = machine.attributes
    if machine.find("Snapshot") or given.get("stateFile"):
        what = "a saved state" if given.get("stateFile") else "snapshots"
        raise SettingsError(
            f"{source.name!r} has {what} of VirtualBox, which rusb cannot copy; clone"
            " the machine in VirtualBox, or delete them there"
        )
    found = []
    for controller in read_hardware(document, source.path.parent).controllers:
        for drive in controller.drives:
            if drive.kind != "hdd":
                continue
            if drive.medium is None:
                raise SettingsError(
                    f"the hard disk in port {drive.port} of {controller.name!r} has no"
                    " image in the settings; attach one with storageattach"
                )
            if drive.problem:
                raise SettingsError(f"{drive.medium} cannot be copied: {drive.problem}")
            found.append(drive)
    return found


def _place(home: Path, wish: Wish, number: int, source: Path) -> Path:
    name = source.name
    if not wish.keeps_disk_names:
        name = f"{wish.name}-disk{number}{source.suffix}"
    path = home / name
    if path.exists():
        raise SettingsError(f"{path} already exists; it was not changed")
    return path


def copy_image(
    source: Path,
    target: Path,
    made: list[Path],
    options: Sequence[str] | None = None,
    *,
    kind: str = "",
) -> None:
    """Copy an image into the format that the name of the copy says.

    Args:
        source: what is copied.
        target: the copy; there is nothing yet.
        made: gets *target* as soon as there is something of it.
        options: of qemu-img; None: whether it has all of its blocks stays.
        kind: format of *source*; empty: what its name says.

    Raises:
        SettingsError: qemu-img is not there, or cannot do it.
    """
    kind, wanted = kind or disk_format(source), disk_format(target)
    if options is None:
        options = _options(source, kind) if kind == wanted else ()
    made.append(target)
    run_qemu_img(
        *("convert", "-f", kind, "-O", wanted, *options, str(source), str(target)),
        failed=f"cannot copy {source} to {target}",
        after="; the copy was removed",
    )


def _options(source: Path, kind: str) -> list[str]:
    """What makes qemu-img keep the size and the kind of an image."""
    try:
        with source.open("rb") as file:
            head = file.read(80)
    except OSError:
        return []  # qemu-img says why it cannot be read
    if kind == "vdi" and head[76:80] == b"\2\0\0\0":  # as at 64, see image_uuid
        return ["-o", "static=on"]
    if kind == "vpc":
        is_fixed = head[:8] != b"conectix"  # such images have that at the end only
        return ["-o", f"force_size=on,subformat={'fixed' if is_fixed else 'dynamic'}"]
    return []


def _rename(document: Document, machine: Node, wish: Wish, number: str) -> None:
    """Let the settings be those of another machine."""
    document.set(machine, "uuid", f"{{{number}}}")
    document.set(machine, "name", wish.name)
    for attribute in _OF_A_RUN:
        document.set(machine, attribute, None)
    hardware = machine.find("Hardware")
    if hardware is None:
        return
    document.set(hardware, "uuid", None)
    network = hardware.find("Network")
    for adapter in network.all("Adapter") if network else ():
        is_nat = adapter.find("NAT") is not None
        keeps = wish.keeps_macs or (wish.keeps_nat_macs and is_nat)
        if "MACAddress" in adapter.attributes and not keeps:
            document.set(adapter, "MACAddress", new_mac())


def _set_media(
    document: Document, machine: Node, folder: Path, copies: dict[str, Path]
) -> None:
    """Let the drives have the copies; those of other kinds keep their media.

    Args:
        folder: what places of media are relative to.
        copies: by the UUID of the original, without braces, in lower case.
    """
    numbers = {}
    for node in media(machine):
        text = node.attributes["uuid"].lower()
        target = copies.get(text.strip("{}"))
        if target is not None:
            numbers[text] = f"{{{image_uuid(target)}}}"
            document.set(node, "uuid", numbers[text])
            document.set(node, "location", target.name)
        elif node.parent is not None and node.parent.name == "HardDisks":
            document.remove(node)  # no drive has it
        else:
            place = folder / node.attributes["location"]
            document.set(node, "location", str(place))
    stack = [machine]
    while stack:
        node = stack.pop()
        stack += node.children
        text = node.attributes.get("uuid", "").lower()
        if node.name == "Image" and text in numbers:
            document.set(node, "uuid", numbers[text])
