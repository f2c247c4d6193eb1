"""Filters as the attributes of a ``DeviceFilter`` element (filters.md 2.4)."""

from collections.abc import Mapping

from rusb.errors import FilterError
from rusb.filters.criteria import parse_number
from rusb.filters.model import ATTRIBUTES, NUMERIC, Filter

from .values import read_boolean, read_number

__all__ = ["INTERFACE_CLASS", "from_attributes", "to_attributes"]

INTERFACE_CLASS = "InterfaceClass"
"""The end of the key of the extra data with a filter's ``interface_class``."""

_OLD_NAMES = ("vendorid", "productid", "serialnumber")  # before settings 1.3


def from_attributes(
    attributes: Mapping[str, str], *, is_global: bool = False
) -> Filter | None:
    """Make a filter of an element's attributes; None if the element does not count.

    Args:
        is_global: ``remote`` and ``maskedInterfaces`` are ignored (1.1).

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
    mask = read_number(attributes.get("maskedInterfaces"))
    return Filter(
        attributes["name"],
        active,
        **texts,
        remote="" if is_global else attributes.get("remote", ""),
        masked_interfaces=0 if is_global else mask or 0,
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
        if text:
            found[documented] = _shorter(text) if field in NUMERIC else text
    if is_global:
        found["action"] = given.action
        return found
    if given.remote:
        found["remote"] = given.remote
    if given.masked_interfaces:
        found["maskedInterfaces"] = str(given.masked_interfaces)
    return found


def _shorter(text: str) -> str:
    """Drop leading bars and blanks of an expression where it stays one."""
    shorter = text.lstrip("| \t")
    try:
        is_same = type(parse_number(shorter)) is type(parse_number(text))
    except FilterError:  # the rest is a lone number that is too big
        return text
    return shorter if shorter and is_same else text
