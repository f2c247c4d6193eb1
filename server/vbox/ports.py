"""``TCP/Ports``, a list of ports and ranges of them, and ``TCP/Address`` (5.1)."""

import re

from rusb.errors import SettingsError

__all__ = ["DEFAULT_PORT", "check_address", "check_ports", "parse_ports"]

DEFAULT_PORT = 3389
MAX_DIGITS = 5

MAX_HOST = 253
"""Characters of the name of a host (RFC 1123, 2.1)."""

_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?")


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


def check_address(text: str) -> str:
    """Return what to store of an address to listen on; empty: every address.

    Whether it is one of this host is not asked: it may be one later.

    Raises:
        SettingsError: it can be neither an address nor the name of a host.
    """
    import ipaddress  # only who changes an address needs it
    import socket

    is_right = text in ("", "*") or (
        len(text) <= MAX_HOST and _HOST.fullmatch(text) is not None
    )
    try:
        if ":" in text:
            ipaddress.IPv6Address(text)
            is_right = True
        elif is_right and re.fullmatch("[0-9.]+", text):
            socket.inet_aton(text)
    except (ValueError, OSError):
        is_right = False
    if not is_right:
        raise SettingsError(
            f"{text!r} is no address to listen on; give one such as 192.0.2.10 or ::1,"
            " without a port, or the name of a host"
        )
    return text


def _port(text: str) -> int:
    """Return a port, 0 if *text* is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    number = int(text) if is_number else 0
    return number if number <= 0xFFFF else 0
