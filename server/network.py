"""Addresses: which limits count as one, and binding ports on them."""

import errno
import ipaddress
import socket

from rusb.errors import SettingsError
from rusb.oserrors import reason

__all__ = ["BACKLOG", "bind", "network_of", "site_of"]

BACKLOG = 128


def network_of(address: str) -> str:
    """Return the key of an address: of IPv6 its network of 64 bits, for one host has
    that many addresses; a mapped IPv4 address is an IPv4 address."""
    return _prefix(address, 64)


def site_of(address: str) -> str:
    """Return the same with 48 bits: what one customer can get, 65536 networks."""
    return _prefix(address, 48)


def _prefix(address: str, bits: int) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, bits), strict=False))
    return str(parsed)


def bind(address: str | None, port: int) -> list[socket.socket]:
    """Bind one port on every address that is ours; none if one of them is in use.

    The original is content with one socket (5.2); a port that half belongs to another
    program would then look free.

    Raises:
        SettingsError: no address is ours. The caller says which setting that is.
    """
    try:
        found = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"cannot listen on {address!r}: {reason(error)}") from error
    bound: list[socket.socket] = []
    problem = ""
    for family, kind, protocol, _, where in found:
        if port == 0 and bound:  # the same free port for both families
            where = (where[0], bound[0].getsockname()[1], *where[2:])
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:  # a machine without IPv6
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                for other in bound:
                    other.close()
                return []
            problem = f"{where[0]} port {port}: {reason(error)}"
            continue
        bound.append(sock)
    if not bound:
        raise SettingsError(f"cannot listen on {problem or address}")
    return bound
