"""The property ``TCP/Ports``: lists of ports and ranges (5.1)."""

from rusb.errors import SettingsError

__all__ = ["DEFAULT_PORT", "check_ports", "parse_ports"]

DEFAULT_PORT = 3389
MAX_DIGITS = 5


def parse_ports(text: str) -> list[int]:
    """Return the ports in the order to try them, as lenient as the original server.

    Bad items are skipped, descending ranges are walked downwards, an empty list means
    :data:`DEFAULT_PORT`.
    """
    ports: dict[int, None] = {}
    for item in text.split(","):
        first, dash, last = item.partition("-")
        low, high = _port(first), _port(last if dash else first)
        if low and high:
            step = 1 if low <= high else -1
            ports.update(dict.fromkeys(range(low, high + step, step)))
    return list(ports) or [DEFAULT_PORT]


def check_ports(text: str) -> str:
    """Return what to store of a list that a user typed; ``0`` is the default port.

    One trailing comma is tolerated, blanks and empty items are not.

    Raises:
        SettingsError: an item is neither a port nor a range of ports.
    """
    if text == "0":
        return str(DEFAULT_PORT)
    for item in text.removesuffix(",").split(","):
        first, dash, last = item.partition("-")
        if not (_port(first) and _port(last if dash else first)):
            raise SettingsError(
                f"{text!r} is not a list of ports such as 5000,5010-5012: {item!r} is"
                " not a port or a range of ports (1 to 65535)"
            )
    return text


def _port(text: str) -> int:
    """Return a port, 0 if *text* is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    number = int(text) if is_number else 0
    return number if number <= 0xFFFF else 0
