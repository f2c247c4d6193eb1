"""The property ``TCP/Ports``: lists of ports and ranges (5.1)."""

__all__ = ["DEFAULT_PORT", "parse_ports"]

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


def _port(text: str) -> int:
    """Return a port, 0 if *text* is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    number = int(text) if is_number else 0
    return number if number <= 0xFFFF else 0
