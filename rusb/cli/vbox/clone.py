"""``clonevm``: a copy of a machine, with disks, a UUID and MAC addresses of its own."""

import signal
import sys
import uuid
from collections.abc import Sequence

from rusb.cli._vbox_options import Option, UsageError, one_of
from rusb.errors import SettingsError
from rusb.server.vbox.clone import Wish, cloned
from rusb.server.vbox.registry import check_free

from . import _refused
from ._common import given, registry, show, stopped
from .modify import OPTIONS

__all__ = ["CLONE", "COMMANDS"]

_MODES = ("machine", "machineandchildren", "all")
"""They differ by the snapshots that are copied, too."""

_KEEP = {
    "keepallmacs": "keeps_macs",
    "keepnatmacs": "keeps_nat_macs",
    "keepdisknames": "keeps_disk_names",
}
"""Words of ``--options``."""

_NOT = {
    "link": "linked clones are not supported; without it, a full copy is made",
    "keephwuuids": "the guest sees the machine's own UUID",
}

CLONE = (
    Option("name"),
    Option("mode"),
    Option("options"),
    Option("basefolder"),
    Option("groups"),
    Option("uuid"),
    Option("register", values=0),
    *_refused.refused("rusb has no snapshots", "snapshot"),
)


def clonevm(words: Sequence[str]) -> int:
    """``clonevm VM [--name NAME] [--basefolder DIR] [--register] [OPTION VALUE ...]``.

    Its hard disks are copied. A machine that runs is not copied.
    """
    found = given(words, CLONE, count=1)
    one_of("mode", found.last("mode") or _MODES[0], _MODES)
    keeps = _keeps([values[0] for name, values in found.options if name == "options"])
    known = registry()
    source = known.find(found.words[0])
    name = found.last("name") or f"{source.name} Clone"
    is_registered = found.has("register")
    machines = known.machines()
    if is_registered:
        check_free(name, machines)
    number = _number(found.last("uuid"), [entry.uuid for entry in machines])
    groups = found.last("groups")
    wish = Wish(
        name,
        number,
        **keeps,
        change=lambda editor: OPTIONS["groups"](editor, groups) if groups else None,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with stopped(source):
        entry = known.make(
            name,
            found.last("basefolder") or "",
            lambda home: cloned(source, wish, home),
            is_registered=is_registered,
        )
    show(f'Machine has been successfully cloned as "{name}"')
    print(f"UUID: {entry.uuid}")
    show(f"Settings file: '{entry.path}'")
    return 0


def _keeps(texts: Sequence[str]) -> dict[str, bool]:
    """Read ``--options``: what the copy has like the original."""
    found = {}
    for word in (word for text in texts for word in text.split(",")):
        if sentence := _NOT.get(word.lower()):
            raise SettingsError(f"--options {word}: {sentence}")
        found[_KEEP[one_of("options", word, _KEEP)]] = True
    return found


def _number(text: str | None, taken: Sequence[str]) -> str:
    """Read ``--uuid``; empty: the copy gets a new one."""
    if text is None:
        return ""
    try:
        number = str(uuid.UUID(text))
    except ValueError:
        raise UsageError(
            f"invalid value {text!r} for --uuid: it is not a UUID"
        ) from None
    if number in taken:
        raise SettingsError(f"a machine with UUID {{{number}}} is registered already")
    return number


COMMANDS = {"clonevm": clonevm}
