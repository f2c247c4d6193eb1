"""Filters as the attributes of a ``DeviceFilter`` element (filters.md 2.4)."""

from collections.abc import Mapping

from .criteria import parse_number
from .model import ATTRIBUTES, NUMERIC, Filter

__all__ = ["from_attributes", "read_boolean", "read_number", "to_attributes"]

_OLD_NAMES = ("vendorid", "productid", "serialnumber")  # before settings 1.3

_BOOLEANS = {
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}


def read_boolean(text: str | None) -> bool | None:
    """Read a boolean of a settings file; any other text counts as absent (2.1)."""
    return None if text is None else _BOOLEANS.get(text)


def read_number(text: str | None) -> int | None:
    """Read an unsigned number: decimal, ``0x`` hex, leading-0 octal, else absent."""
    if text is None or len(text) > 24 or not text.isascii() or not text.isalnum():
        return None
    base = 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" else 10
    try:
        return int(text, base)
    except ValueError:
        return None


def from_attributes(attributes: Mapping[str, str]) -> Filter | None:
    """Make a filter of an element's attributes; None if the element does not count.

    Raises:
        FilterError: a text is wrong.
    """
    active = read_boolean(attributes.get("active"))
    if "name" not in attributes or active is None:
        return None
    texts = {}
    for field, documented in ATTRIBUTES.items():
        text = attributes.get(documented)
        if text is None and documented.lower() in _OLD_NAMES:
            text = attributes.get(documented.lower())
        texts[field] = text or ""
    return Filter(
        attributes["name"],
        active,
        **texts,
        remote=attributes.get("remote", ""),
        masked_interfaces=read_number(attributes.get("maskedInterfaces")) or 0,
        action=attributes.get("action", "Ignore"),
    )


def to_attributes(given: Filter, *, is_global: bool = False) -> dict[str, str]:
    """Return the attributes to write, in their order.

    An expression loses its leading bars and blanks unless the rest would read as a
    lone, hexadecimal number (D1: what is written means what was read).
    """
    found = {"name": given.name, "active": "true" if given.active else "false"}
    for field, documented in ATTRIBUTES.items():
        text: str = getattr(given, field)
        if field in NUMERIC and text:
            shorter = text.lstrip("| \t")
            if shorter and type(parse_number(shorter)) is type(given.criteria[field]):
                text = shorter
        if text:
            found[documented] = text
    if is_global:
        found["action"] = given.action
        return found
    if given.remote:
        found["remote"] = given.remote
    if given.masked_interfaces:
        found["maskedInterfaces"] = str(given.masked_interfaces)
    return found
