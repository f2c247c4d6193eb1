"""Port lists: ``5000,5010-5012`` (vrdp-server.md 5.1)."""

import re

from rusb.errors import SettingsError

__all__ = ["DEFAULT_PORT", "parse_ports"]

DEFAULT_PORT = 3389

_ITEM = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_MAX_TEXT = 1024


def parse_ports(text: str) -> list[int]:
    """Return the ports in the order to try them; a range may descend.

    ``0`` alone is the default port; one trailing comma is tolerated.

    Raises:
        SettingsError: the text is not a port list.
    """
    if text == "0":
        return [DEFAULT_PORT]
    found: list[int] = []
    for item in text[:_MAX_TEXT].removesuffix(",").split(","):
        match = _ITEM.fullmatch(item)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        if not (0 < first < 65536 and 0 < last < 65536):
            raise SettingsError(
                f"{text!r} is not a list of ports such as 5000,5010-5012:"
                f" {item!r} is not a port or a range of ports (1 to 65535)"
            )
        step = 1 if last >= first else -1
        found.extend(range(first, last + step, step))
    return list(dict.fromkeys(found))
