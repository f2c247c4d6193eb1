"""How people and other RDP clients write where to connect to."""

import ipaddress
from argparse import ArgumentTypeError
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = ["Address", "parse_address"]

DEFAULT_PORT = 3389

_SCHEME = "rdp://"
_NAMES = ("full address", "server port", "username", "domain")
"""What we take of the attributes of an RDP URI; the others are for windows."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and perhaps who is to log on there."""

    host: str
    port: int = DEFAULT_PORT
    user: str = ""
    domain: str = ""


def parse_address(text: str) -> Address:
    """Read ``[USER@]HOST[:PORT]``, ``rdp://`` before it, or the URI of RDP files.

    An IPv6 address is in brackets if a port follows. The URI is
    ``rdp://full%20address=s:HOST:PORT&username=s:USER&domain=s:DOMAIN``.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    if text[: len(_SCHEME)].lower() != _SCHEME:
        return _parse_plain(text, text)
    rest = text[len(_SCHEME) :]
    if "=" in rest:
        return _parse_attributes(rest.lstrip("/?"), text)
    return _parse_plain(unquote(rest.partition("/")[0]), text)


def _parse_plain(place: str, text: str) -> Address:
    user, _, server = place.rpartition("@")
    if ":" in user:
        raise ArgumentTypeError(
            "do not put the password into the address, where other users can see it;"
            " use -p - to be asked for it"
        )
    host, port = _split(server)
    if not host or not port.isascii() or not port.isdigit():
        raise ArgumentTypeError(
            f"{text!r} is not [user@]host[:port]; write an IPv6 address with a port as"
            " [address]:port"
        )
    number = int(port[:6])  # int() refuses thousands of digits
    if not 0 < number < 65536:
        raise ArgumentTypeError(f"{port[:6]} is not a port; ports are 1 to 65535")
    return Address(host, number, user)


def _split(server: str) -> tuple[str, str]:
    """Return host and port; either is empty where the text has no such form."""
    if server.startswith("["):
        host, bracket, rest = server[1:].partition("]")
        if not bracket or not _is_ipv6(host) or rest[:1] not in ("", ":"):
            return "", ""
        return host, rest[1:] if rest else str(DEFAULT_PORT)
    if server.count(":") == 1:
        host, _, port = server.partition(":")
        return host, port
    if ":" in server and not _is_ipv6(server):
        return "", ""
    return server, str(DEFAULT_PORT)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _parse_attributes(query: str, text: str) -> Address:
    """Read ``name=type:value`` pairs; the type, a letter, is s or i."""
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        name = unquote(name).lower()
        if name in _NAMES:
            found[name] = unquote(value).partition(":")[2]
    address = _parse_plain(found.get("full address", ""), text)
    if port := found.get("server port"):
        address = _parse_plain(f"{_bracketed(address.host)}:{port}", text)
    user, domain = found.get("username", ""), found.get("domain", "")
    return Address(address.host, address.port, user, domain)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
