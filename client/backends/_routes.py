"""Which network interfaces lead to a peer: the kernel's routing tables, as text."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path

__all__ = ["interfaces_to"]

_REJECT = 0x0200  # RTF_REJECT: unreachable
_LOOPBACK = "lo"

_Route = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int, str]


def interfaces_to(peer: str, routes: Path, routes_v6: Path) -> list[str]:
    """Return the interface of the best route to *peer*, then those of the default.

    A tunnel is an interface of its own; what carries it is most likely the default
    route's, so that counts as well.

    Args:
        peer: an address; nothing is found for anything else.
        routes, routes_v6: ``/proc/net/route`` and ``/proc/net/ipv6_route``.
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return []
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return []
    table = [*_read_v4(routes), *_read_v6(routes_v6)]
    fitting = [route for route in table if address in route[0]]
    fitting.sort(key=lambda route: (-route[0].prefixlen, route[1]))
    others = sorted((r for r in table if not r[0].prefixlen), key=lambda r: r[1])
    return list(dict.fromkeys(r[2] for r in (*fitting[:1], *others)))


def _read_v4(path: Path) -> Iterator[_Route]:
    for words in _rows(path, 8):
        try:
            target, mask = (
                int.from_bytes(bytes.fromhex(words[n]), "little") for n in (1, 7)
            )
            if not int(words[3], 16) & _REJECT:
                network = ipaddress.IPv4Network((target, mask.bit_count()))
                yield network, int(words[6]), words[0]
        except ValueError:  # the heading
            continue


def _read_v6(path: Path) -> Iterator[_Route]:
    for words in _rows(path, 10):
        try:
            if words[9] != _LOOPBACK and not int(words[8], 16) & _REJECT:
                target = bytes.fromhex(words[0]), int(words[1], 16)
                yield ipaddress.IPv6Network(target), int(words[5], 16), words[9]
        except ValueError:
            continue


def _rows(path: Path, count: int) -> Iterator[list[str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) >= count:
            yield words
