"""Filters as people type them: ``1209:0001``, ``vendorId=1209,product=Blink*``."""

import re
from typing import Any

from rusb.errors import FilterError

from .model import ATTRIBUTES, Filter

__all__ = ["parse_offer"]

_SHORT = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})?")
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"([^"]*)"|([^",]*))\s*(,|$)')
_NAMES = {documented.lower(): field for field, documented in ATTRIBUTES.items()}
_NAMES |= {"vid": "vendor_id", "pid": "product_id", "serial": "serial_number"}
_NAMES |= {"interfaceclass": "interface_class"}


def parse_offer(text: str, *, reads_devices: bool = False) -> Filter:
    """Read a rule of the options ``--filter`` and ``--allow``.

    ``VVVV:PPPP`` or ``VVVV:`` names vendor and product; otherwise ``name=value``
    pairs, separated by commas, where a value with a comma, or with blanks around it,
    stands in double quotes. The names are those of a settings file (in any case), or
    vid, pid, serial, interfaceClass.

    Args:
        text: the rule.
        reads_devices: devices are read before the guest has them, so that
            interfaceClass can be asked for; without it that is refused, for nobody
            would look.

    Raises:
        FilterError: with the column of the trouble.
    """
    short = _SHORT.fullmatch(text)
    if short is not None:
        return Filter(text, vendor_id=short[1], product_id=short[2] or "")
    texts: dict[str, Any] = {}  # every attribute is a text
    position = 0
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            raise FilterError(
                f"filter {text!r}: column {position + 1}: expected name=value, such as"
                " vendorId=1209,product=Blink*, or VVVV:PPPP",
                position,
            )
        field = _NAMES.get(pair[1].lower())
        if field is None:
            known = ", ".join(
                [*ATTRIBUTES.values(), "vid", "pid", "serial", "interfaceClass"]
            )
            raise FilterError(
                f"filter {text!r}: unknown attribute {pair[1]!r}; choose one of"
                f" {known}",
                position,
            )
        if field == "interface_class" and not reads_devices:
            raise FilterError(
                f"filter {text!r}: only the server can check {pair[1]}; use rusb serve"
                " --allow, or the extra data rusb/Filter/NAME/InterfaceClass of a"
                " machine",
                position,
            )
        texts[field] = pair[3].rstrip() if pair[2] is None else pair[2]
        position = pair.end()
    if not texts:
        raise FilterError("the filter is empty; omit --filter to offer everything")
    return Filter(text, **texts)
