"""``usbfilter``: filters of a machine or of all, and why they decide as they do."""

from collections.abc import Sequence
from dataclasses import replace

from rusb.cli._vbox_options import Given, Option, UsageError, unsigned, yes_no
from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.filters.store import read_number

from ._common import given, live_state, machine_of, registry, say_changed
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
    """``usbfilter add|modify|remove INDEX --target VM|global …`` or ``explain``."""
    if not words:
        raise UsageError("add, modify, remove or explain")
    match words[0]:
        case "add" | "modify" | "remove":
            return _change(words[0], given(words[1:], _OPTIONS, count=1))
        case "explain":
            return _explain(words[1:])
    raise UsageError(f"unknown subcommand {words[0]!r}: add, modify, remove, explain")


def _change(verb: str, found: Given) -> int:
    index = unsigned("INDEX", found.words[0])
    target = found.need("target", "a machine, or the word global")
    if verb == "add" and not found.has("name"):
        raise UsageError("missing --name: what the filter is called")
    if target == "global":
        _change_global(verb, index, found)
        return 0
    known = registry()
    entry = known.find(target)
    machine_of(entry)
    if verb == "remove":
        known.edit(entry, lambda e: e.remove_filter(index))
    elif verb == "add":
        made = _changed(Filter(name=found.need("name", "")), found)
        known.edit(entry, lambda e: e.add_filter(index, made))
    else:

        def change(editor: object) -> None:
            filters = editor.filters()  # type: ignore[attr-defined]
            _check(index, len(filters))
            made = _changed(filters[index], found)
            editor.replace_filter(index, made)  # type: ignore[attr-defined]

        known.edit(entry, change)
    say_changed(entry.uuid)
    return 0


def _change_global(verb: str, index: int, found: Given) -> None:
    for name in ("remote", "maskedinterfaces"):
        if found.has(name):
            raise UsageError(f"--{name} is not for global filters")
    if verb == "add" and not found.has("action"):
        raise UsageError("missing --action: ignore or hold")

    def change(filters: list[Filter]) -> None:
        if verb == "add":
            made = _changed(Filter(name=found.need("name", "")), found)
            filters.insert(index, made)
            return
        _check(index, len(filters))
        if verb == "remove":
            del filters[index]
        else:
            filters[index] = _changed(filters[index], found)

    registry().change_filters(change)


def _check(index: int, count: int) -> None:
    if index >= count:
        allowed = f"0 to {count - 1}" if count else "there are none"
        raise SettingsError(f"there is no USB filter {index}: {allowed}")


def _changed(before: Filter, found: Given) -> Filter:
    """Apply the options in order; an empty value means any (D4)."""
    changes: dict[str, object] = {}
    for name, (value, *_) in found.options:
        match name:
            case "name":
                changes["name"] = value
            case "active":
                changes["active"] = yes_no("active", value)
            case "remote":
                changes["remote"] = "" if value == "any" else value
            case "maskedinterfaces":
                number = read_number(value) if value else 0
                if number is None or number > 0xFFFFFFFF:
                    raise UsageError(f"--maskedinterfaces {value!r}: a 32-bit number")
                changes["masked_interfaces"] = number
            case "action":
                if value.lower() not in ("ignore", "hold"):
                    raise UsageError(f"invalid action {value!r}: ignore or hold")
                changes["action"] = value.capitalize()
            case _ if name in _TEXTS:
                changes[_TEXTS[name]] = value
    return replace(before, **changes)  # type: ignore[arg-type]


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
