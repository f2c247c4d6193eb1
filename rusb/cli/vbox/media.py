"""Images of disks, CDs and floppies: ``showmediuminfo``, ``closemedium``, lists."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rusb.cli._vbox_options import Given, Option, UsageError
from rusb.errors import SettingsError
from rusb.server.machine.drives import is_image
from rusb.server.machine.media import Medium, capacity, find_medium, known_media
from rusb.server.machine.qemu_command import disk_format
from rusb.server.machine.registry import CodedError, Entry

from ._common import given, is_running, registry, show

__all__ = ["COMMANDS", "print_media"]

KINDS = ("disk", "dvd", "floppy")
FORMATS = {"vdi": "VDI", "vmdk": "VMDK", "vpc": "VHD", "qcow2": "QCOW", "raw": "RAW"}
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


def closemedium(words: Sequence[str]) -> int:
    """``closemedium [disk|dvd|floppy] UUID|FILE [--delete]``: forget an image.

    Only one that no machine has; ``--delete`` deletes the file, if it is an image.
    """
    found = given(words, (Option("delete", values=0),))
    medium = _named(found)
    if owners := _owners(medium):
        raise CodedError(
            f"{medium.path} is a medium of {', '.join(owners)}; storageattach --medium"
            " none detaches it",
            IN_USE,
        )
    if found.has("delete"):
        if not is_image(medium.path):
            raise SettingsError(
                f"{medium.path} is not an image of a disk; it was not deleted"
            )
        medium.path.unlink()
        show(f"Deleted: {medium.path}")
    return 0


def _owners(medium: Medium) -> list[str]:
    """The machines that have a medium, in a drive or below another disk."""
    return [
        repr(entry.name)
        for entry in registry().machines()
        for other in known_media([entry])
        if Path(other.path).resolve() == medium.path.resolve()
    ]


COMMANDS = {
    "showmediuminfo": showmediuminfo,
    "showhdinfo": showmediuminfo,
    "closemedium": closemedium,
}
