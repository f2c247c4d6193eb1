"""Create and register machines."""

from collections.abc import Sequence
from pathlib import Path

from rusb.cli._vbox_options import Option

from . import _refused
from ._common import given, registry, say_note, show, stopped
from ._ostypes import identify

__all__ = ["COMMANDS", "CREATE"]

CREATE = (
    Option("name", short="n"),
    Option("os-type"),
    Option("register", values=0),
    Option("basefolder"),
    Option("machine-folder", instead="basefolder"),
    *_refused.refused("modifyvm VM --groups sets them", "groups"),
    *_refused.refused("a new machine gets a UUID of its own", "uuid"),
    *_refused.refused("storagectl and storageattach give it drives", "default"),
    *_refused.refused("rusb has no snapshots", "snapshot-folder"),
    *_refused.refused("machines have an x86 processor", "platform-architecture", "x86"),
    *_refused.refused("rusb does not encrypt settings", "cipher password-id password"),
)


def createvm(words: Sequence[str]) -> int:
    """``createvm --name NAME [--ostype TYPE] [--register] [--basefolder PATH]``."""
    found = given(words, CREATE, count=0)
    name = found.need("name", "what the machine is called")
    known = registry()
    folder = found.last("basefolder") or ""
    make = known.create_registered if found.has("register") else known.create
    entry = make(name, identify(found.last("os-type") or "Other"), folder)
    registered = " and registered" if found.has("register") else ""
    show(f"Virtual machine '{name}' is created{registered}.")
    print(f"UUID: {entry.uuid}")
    show(f"Settings file: '{entry.path}'")
    return 0


def registervm(words: Sequence[str]) -> int:
    """``registervm FILE``: put a machine on the list."""
    refused = _refused.refused("rusb does not decrypt settings", "password")
    found = given(words, refused, count=1)
    say_note(registry().register(Path(found.words[0])))
    return 0


def unregistervm(words: Sequence[str]) -> int:
    """``unregistervm VM [--delete]``: take it off the list.

    ``--delete`` removes its settings, its logs and the disks in its own folder that no
    other machine has; what goes and which disks stay is printed.
    """
    sentence = "disks outside of the machine's directory are never deleted: --delete"
    refused = _refused.refused(sentence, "delete-all")
    found = given(words, (Option("delete", values=0), *refused), count=1)
    known = registry()
    entry = known.find(found.words[0])
    is_delete = found.has("delete")
    with stopped(entry) as lock:
        removal = known.unregister(entry.uuid, delete=is_delete, disks=is_delete)
        lock.drop(forget=True)
    for path in removal.deleted:
        show(f"Deleted: {path}")
    for path in removal.kept:
        show(
            "Kept, because it is in another directory or another machine uses it:"
            f" {path}"
        )
    for path in removal.strange:
        show(f"Kept, because it is not a disk image: {path}")
    return 0


COMMANDS = {
    "createvm": createvm,
    "registervm": registervm,
    "unregistervm": unregistervm,
}
