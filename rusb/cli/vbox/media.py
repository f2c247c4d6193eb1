"""Images of disks, CDs and floppies: known, copied, forgotten, deleted."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rusb.cli._vbox_options import Given, Option, UsageError
from rusb.errors import SettingsError
from rusb.server.vbox.clone import copy_image
from rusb.server.vbox.drives import image_uuid, is_image
from rusb.server.vbox.media import Medium, capacity, find_medium, known_media
from rusb.server.vbox.model import disk_format
from rusb.server.vbox.registry import CodedError, Entry

from . import _refused
from ._common import given, is_running, registry, show
from .storage import EXTENSIONS, FIXED, disk_path, is_fixed_disk

__all__ = ["COMMANDS", "print_media"]

KINDS = ("disk", "dvd", "floppy")
FORMATS = {
    **{"vdi": "VDI", "vmdk": "VMDK", "vpc": "VHD", "raw": "RAW"},
    **{"qcow": "QCOW", "qcow2": "QCOW", "parallels": "Parallels"},
}
"""VirtualBox's name for each of QEMU's."""
IN_USE = "VBOX_E_OBJECT_IN_USE (0x80bb000c)"


def print_media(entries: Sequence[Entry], kind: str, is_json: bool) -> None:
    """Print the media of machines: ``list hdds``, ``dvds``, ``floppies``."""
    media = [medium for medium in known_media(entries) if medium.kind == kind]
    if is_json:
        print(json.dumps([dict(_rows(medium)) for medium in media], indent=2))
        return
    for medium in media:
        _print(_rows(medium))
        print()


def _print(rows: Iterator[tuple[str, str]]) -> None:
    for label, value in rows:
        show(f"{label + ':':<15} {value}".rstrip())


def _rows(medium: Medium) -> Iterator[tuple[str, str]]:
    """What is known of a medium, in the order of lists."""
    size = capacity(medium.path)
    is_disk = medium.kind == "disk"
    yield "UUID", medium.uuid
    if is_disk:
        yield "Parent UUID", medium.parent or "base"
    yield "State", _state(medium, is_there=size is not None)
    branch = "differencing" if medium.parent else "base"
    yield "Type", f"normal ({branch})" if is_disk else "readonly"
    yield "Location", str(medium.path)
    yield "Storage format", FORMATS[disk_format(medium.path)]
    yield "Capacity", f"{(size or 0) >> 20} MBytes"
    yield "Encryption", "disabled"


def _state(medium: Medium, *, is_there: bool) -> str:
    if not is_there:
        return "inaccessible"
    if any(is_running(entry.uuid) for entry in medium.users):
        return "locked write" if medium.kind == "disk" else "locked read"
    return "created"


def _details(medium: Medium) -> Iterator[tuple[str, str]]:
    yield from _rows(medium)
    if medium.path.exists():
        blocks = medium.path.stat().st_blocks * 512
        yield "Size on disk", f"{blocks >> 20} MBytes"
    for number, child in enumerate(medium.children):
        yield "" if number else "Child UUIDs", child
    for number, entry in enumerate(medium.users):
        label = "" if number else "In use by VMs"
        yield label, f"{entry.name} (UUID: {entry.uuid})"


def _named(found: Given) -> Medium:
    """Find the medium that a command line names, with or without its kind."""
    words = list(found.words)
    kind = words.pop(0) if len(words) > 1 and words[0] in KINDS else "disk"
    if len(words) != 1:
        raise UsageError("name one medium: [disk|dvd|floppy] UUID|FILE")
    return find_medium(known_media(registry().machines()), words[0], kind)


def showmediuminfo(words: Sequence[str]) -> int:
    """``showmediuminfo [disk|dvd|floppy] UUID|FILE``: what is known of an image."""
    medium = _named(given(words, ()))
    for label, value in _details(medium):
        show(f"{label + ':' if label else '':<15} {value}".rstrip())
    return 0


CLONE = (
    Option("format"),
    Option("variant"),
    *_refused.refused("existing images are not overwritten", "existing"),
)


def clonemedium(words: Sequence[str]) -> int:
    """``clonemedium [disk] UUID|FILE COPY [--format FORMAT] [--variant VARIANT]``.

    A copy of a disk, with a UUID of its own; the extension of COPY is its format.
    """
    found = given(words, CLONE)
    if len(found.words) > 2 and found.words[0] == "disk":
        del found.words[0]
    if len(found.words) != 2:
        raise UsageError("name a disk, and the file for its copy")
    source = find_medium(known_media(registry().machines()), found.words[0])
    if source.kind != "disk":
        raise SettingsError(f"{source.path} is a {source.kind}; copy it with cp")
    _copy(source.path, found)
    return 0


def convertfromraw(words: Sequence[str]) -> int:
    """``convertfromraw FILE COPY [--format FORMAT] [--variant VARIANT]``."""
    found = given(words, CLONE[:2], count=2)
    path = Path(found.words[0]).absolute()
    if not path.is_file():
        raise SettingsError(f"there is no image {path}")
    _copy(path, found, "raw")
    return 0


def _copy(source: Path, found: Given, kind: str = "") -> None:
    """Copy an image to where the second word says."""
    default = FORMATS[kind or disk_format(source)].lower()
    default = default if default in EXTENSIONS else "vdi"
    target = disk_path(found.words[1], found, default)
    target = target.absolute()
    if target.exists():
        raise SettingsError(f"{target} already exists; it was not changed")
    wanted, options = disk_format(target), None
    if found.has("variant"):
        is_fixed = is_fixed_disk(found.last("variant") or "")
        if is_fixed and wanted not in FIXED:
            raise SettingsError(
                f"{target}: only vdi, vhd and raw disks can be of fixed size"
            )
        options = ("-o", FIXED[wanted]) if is_fixed else ()
    made: list[Path] = []
    try:
        copy_image(source, target, made, options, kind=kind)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    number = image_uuid(target)
    print(f"Clone medium created in format '{FORMATS[wanted]}'. UUID: {number}")


def closemedium(words: Sequence[str]) -> int:
    """``closemedium [disk|dvd|floppy] UUID|FILE [--delete]``: forget an image.

    Only one that no machine has; ``--delete`` deletes the file, if it is an image.
    """
    found = given(words, (Option("delete", values=0),))
    medium = _named(found)
    if owners := _owners(medium):
        raise CodedError(
            f"{medium.path} is attached to {', '.join(owners)}; detach it with"
            " storageattach --medium none",
            IN_USE,
        )
    if found.has("delete"):
        if not is_image(medium.path):
            raise SettingsError(
                f"{medium.path} is not a disk image; it was not deleted"
            )
        medium.path.unlink()
        show(f"Deleted: {medium.path}")
    return 0


def _owners(medium: Medium) -> list[str]:
    """The machines that have a medium, in a drive or below another disk."""
    place = os.path.realpath(medium.path)
    return [
        repr(entry.name)
        for entry in registry().machines()
        for other in known_media([entry])
        if os.path.realpath(other.path) == place
    ]


COMMANDS = {
    "showmediuminfo": showmediuminfo,
    "showhdinfo": showmediuminfo,
    "closemedium": closemedium,
    "clonemedium": clonemedium,
    "clonehd": clonemedium,
    "convertfromraw": convertfromraw,
}
