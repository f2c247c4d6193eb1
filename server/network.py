"""Which addresses limits count as one."""

import ipaddress

__all__ = ["network_of"]


def network_of(address: str) -> str:
    """Return the key of an address: of IPv6 its network of 64 bits, for one host has
    that many addresses; a mapped IPv4 address is an IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
