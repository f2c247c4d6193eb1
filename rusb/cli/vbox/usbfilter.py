"""``usbfilter``: filters of a machine or of all, and why they decide as they do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rusb.cli._hints import did_you_mean
from rusb.cli._vbox_options import (
    MAX_UNSIGNED,
    Given,
    Option,
    UsageError,
    unsigned,
    yes_no,
)
from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.own_keys import filter_key
from rusb.server.vbox.values import read_number

from ._common import given, live_state, machine_of, registry, say_changed, warn
from ._explain import candidates, explain

__all__ = ["COMMANDS"]

_OPTIONS = (
    Option("target", short="t"),
    Option("name", short="n"),
    Option("active", short="a"),
    Option("vendorid", short="v"),
    Option("productid", short="p"),
    Option("revision", short="r"),
    Option("manufacturer", short="m"),
    Option("product", short="P"),
    Option("serialnumber", short="s"),
    Option("port", short="o"),
    Option("remote", short="R"),
    Option("maskedinterfaces", short="M"),
    Option("action", short="A"),
)
_VALUES = {option.name for option in _OPTIONS[1:]}
_DRY = (Option("dry-run", values=0), Option("json", values=0))
_TEXTS = {
    "vendorid": "vendor_id",
    "productid": "product_id",
    "revision": "revision",
    "manufacturer": "manufacturer",
    "product": "product",
    "serialnumber": "serial_number",
    "port": "port",
}


def usbfilter(words: Sequence[str]) -> int:
    """Change filters, or say how they decide.

    ``usbfilter add INDEX --target VM|global --name TEXT [OPTION VALUE ...]``
    ``usbfilter modify INDEX --target VM|global OPTION VALUE ...``
    ``usbfilter remove INDEX --target VM|global``
    ``usbfilter explain VM [DEVICE]``

    ``--dry-run`` only tells what would be decided then; ``--json`` is its form for
    programs.
    """
    verb = words[0] if words else ""
    if verb == "explain":
        return _explain(words[1:])
    if verb not in ("add", "modify", "remove"):
        given(words[:1], (*_OPTIONS, *_DRY))
        hint = did_you_mean(verb, ("add", "modify", "remove", "explain"))
        raise UsageError(f"choose one of add, modify, remove, explain{hint}")
    options = _OPTIONS if verb != "remove" else _OPTIONS[:1]
    _change(verb, given(words[1:], (*options, *_DRY), count=1))
    return 0


def _change(verb: str, found: Given) -> None:
    """Change a list; what is wrong with the words is said before a machine is sought.

    All or nothing holds for global filters, too, where the original saves option by
    option (3.1).
    """
    index = unsigned("INDEX", found.words[0])
    target = found.need("target", "a machine, or the word global")
    if verb == "add" and not found.has("name"):
        raise UsageError("missing --name: what the filter is called")
    if verb == "modify" and not any(n in _VALUES for n, _ in found.options):
        raise UsageError("nothing to change: give at least one option")
    if found.has("json") and not found.has("dry-run"):
        raise UsageError("--json needs --dry-run")
    if target == "global":
        _check_global(verb, found)
        changes = _changes(found)
        registry().change_filters(lambda f: _apply(f, verb, index, changes))
        return
    changes = _changes(found)
    if changes.pop("action", None):
        warn("--action is for global filters; ignored")
    known = registry()
    entry = known.find(target)
    machine = machine_of(entry)
    if found.has("dry-run"):
        planned = list(machine.filters)
        _apply(planned, verb, index, changes)
        devices = candidates(live_state(entry.uuid), None)
        explain(machine, devices, planned=planned, is_json=found.has("json"))
        return

    def change(editor: Editor) -> None:
        if verb == "add":
            editor.add_filter(index, _made(None, changes))
        elif verb == "remove":
            # its extra data stay: who adds it again elsewhere in the list means it
            editor.remove_filter(index)
        else:
            filters = editor.filters()
            _check_index(index, len(filters))
            before = filters[index]
            editor.replace_filter(index, after := _made(before, changes))
            if after.name != before.name:  # its extra data are found by the name
                is_last = [f.name for f in filters].count(before.name) == 1
                head = filter_key(before.name, "")
                for key, value in machine.extra_data.items():
                    word = key.removeprefix(head)
                    if value and word != key and "/" not in word:
                        editor.set_extra(filter_key(after.name, word), value)
                        if is_last:
                            editor.set_extra(key, "")

    known.edit(entry, change)
    say_changed(entry.uuid)


def _check_global(verb: str, found: Given) -> None:
    for name in ("remote", "maskedinterfaces", "dry-run"):
        if found.has(name):
            raise UsageError(f"--{name} is not supported for global filters")
    if verb == "add" and not found.has("action"):
        raise UsageError("missing --action: use ignore or hold")


def _apply(
    filters: list[Filter], verb: str, index: int, changes: dict[str, Any]
) -> None:
    if verb == "add":
        filters.insert(index, _made(None, changes))
        return
    _check_index(index, len(filters))
    if verb == "remove":
        del filters[index]
    else:
        filters[index] = _made(filters[index], changes)


def _check_index(index: int, count: int) -> None:
    if index >= count:
        allowed = f"the last one is {count - 1}" if count else "there are none"
        raise SettingsError(f"there is no USB filter {index}; {allowed}")


def _made(before: Filter | None, changes: dict[str, Any]) -> Filter:
    return replace(before, **changes) if before else Filter(**changes)


def _changes(found: Given) -> dict[str, Any]:
    """Read the options; the last one counts, an empty value means any (D4)."""
    changes: dict[str, Any] = {}
    for name, values in found.options:
        value = "".join(values)
        match name:
            case "name":
                changes["name"] = value
            case "active":
                changes["active"] = yes_no("active", value)
            case "remote":  # a word of the manual's, not of files (D9)
                changes["remote"] = "" if value == "any" else value
            case "maskedinterfaces":
                mask = read_number(value) if value else 0
                if mask is None or mask > MAX_UNSIGNED:
                    raise UsageError(
                        f"--maskedinterfaces {value!r}: it must be a 32-bit number"
                    )
                changes["masked_interfaces"] = mask
            case "action":
                if value not in ("ignore", "hold"):
                    raise UsageError(
                        f"invalid value {value!r} for --action; use ignore or hold"
                    )
                changes["action"] = value.capitalize()
            case _ if name in _TEXTS:
                changes[_TEXTS[name]] = value
    return changes


# ------------------------------------------------------------------ explain ----


def _explain(words: Sequence[str]) -> int:
    """``usbfilter explain VM [DEVICE] [--json]``."""
    found = given(words, (Option("json", values=0),))
    if not 1 <= len(found.words) <= 2:
        raise UsageError("explain VM [VENDOR:PRODUCT|UUID|ADDRESS]")
    entry = registry().find(found.words[0])
    machine = machine_of(entry)
    devices = candidates(live_state(entry.uuid), (*found.words[1:], None)[0])
    explain(machine, devices, is_json=found.has("json"))
    return 0


COMMANDS = {"usbfilter": usbfilter}
