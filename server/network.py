"""Which addresses limits count as one."""

import ipaddress

__all__ = ["network_of", "site_of"]


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
