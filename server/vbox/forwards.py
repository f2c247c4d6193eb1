"""Port forwarding of a NAT network: rules as VirtualBox writes and QEMU takes them.

The host's part may be reached by others: an empty address of the host means all of its
addresses, as in VirtualBox.
"""

import ipaddress
from dataclasses import dataclass
from typing import Self

from rusb.errors import SettingsError

from .document import Document, Node
from .values import read_number

__all__ = ["Forward", "add_forward", "check_forward", "forwards_of", "remove_forward"]

PROTOCOLS = ("udp", "tcp")
"""What the number of a protocol in a settings file stands for."""

MAX_FORWARDS = 256
"""Rules of an adapter; each is a socket of QEMU's."""

MAX_NAME = 256

_FORM = "NAME,tcp|udp,HOSTIP,HOSTPORT,GUESTIP,GUESTPORT"


@dataclass(frozen=True, slots=True)
class Forward:
    """A rule: connections to the host's part go to the guest's.

    Attributes:
        protocol: ``tcp`` or ``udp``.
        host_ip: an IPv4 address; empty: every address of the host.
        guest_ip: an IPv4 address; empty: what QEMU's DHCP server gives the guest.
    """

    name: str
    protocol: str
    host_ip: str
    host_port: int
    guest_ip: str
    guest_port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule as it is typed, and printed by showvminfo.

        Raises:
            SettingsError: it is none; the message says what is wrong with it.
        """
        words = text.split(",")
        if len(words) != 6:
            raise SettingsError(f"{text!r} is not {_FORM}; the addresses may be empty")
        name, protocol, host_ip, host_port, guest_ip, guest_port = words
        numbers = [
            int(n) if n.isascii() and n.isdigit() and len(n) < 6 else 0
            for n in (host_port, guest_port)
        ]
        protocol = protocol.lower()
        name = name or f"{protocol}_{host_port}_{guest_port}"  # as VirtualBox does
        found = cls(name, protocol, host_ip, numbers[0], guest_ip, numbers[1])
        if problem := found.problem:
            raise SettingsError(f"{text!r} is not {_FORM}: {problem}")
        return found

    @property
    def problem(self) -> str:
        """What is wrong with it; empty: nothing."""
        if self.protocol not in PROTOCOLS:
            return f"the protocol must be tcp or udp, not {self.protocol!r}"
        for what, port in (("host", self.host_port), ("guest", self.guest_port)):
            if not 0 < port < 65536:
                return f"the port of the {what} is not a number from 1 to 65535"
        for address in filter(None, (self.host_ip, self.guest_ip)):
            try:
                ipaddress.IPv4Address(address)
            except ValueError:
                return f"{address!r} is not an IPv4 address"
        if len(self.name) > MAX_NAME or any(ord(c) < 32 for c in self.name):
            return f"the name is longer than {MAX_NAME} or has control characters"
        return ""

    @property
    def host(self) -> str:
        """The host's part, as QEMU's monitor wants it."""
        return f"{self.protocol}:{self.host_ip}:{self.host_port}"

    @property
    def rule(self) -> str:
        """Both parts, as QEMU's monitor wants them."""
        return f"{self.host}-{self.guest_ip}:{self.guest_port}"

    def __str__(self) -> str:
        host = f"{self.host_ip},{self.host_port}"
        return f"{self.name},{self.protocol},{host},{self.guest_ip},{self.guest_port}"


def forwards_of(nat: Node) -> tuple[Forward, ...]:
    """Return the rules in an element ``NAT``; :attr:`Forward.problem` is not judged."""
    found = []
    for node in nat.all("Forwarding"):
        given = node.attributes
        number = read_number(given.get("proto", "1"))
        is_known = number is not None and 0 <= number < len(PROTOCOLS)
        found.append(
            Forward(
                given.get("name", ""),
                PROTOCOLS[number or 0] if is_known else given["proto"],
                given.get("hostip", ""),
                read_number(given.get("hostport")) or 0,
                given.get("guestip", ""),
                read_number(given.get("guestport")) or 0,
            )
        )
    return tuple(found)


def check_forward(new: Forward, others: tuple[Forward, ...]) -> None:
    """Refuse a rule that cannot stand beside others.

    Raises:
        SettingsError: its name or its port of the host is taken, or there are too many.
    """
    for other in others:
        if other.name == new.name:
            raise SettingsError(
                f"there is already a rule named {new.name!r}: {other}; 'delete"
                f" {new.name}' removes it"
            )
        if other.host == new.host:
            raise SettingsError(
                f"the rule {other.name!r} already forwards this port: {other}; 'delete"
                f" {other.name}' removes it"
            )
    if len(others) >= MAX_FORWARDS:
        raise SettingsError(f"an adapter has at most {MAX_FORWARDS} rules")


def add_forward(document: Document, nat: Node, new: Forward) -> None:
    """Add a rule to an element ``NAT``.

    Raises:
        SettingsError: as :func:`check_forward`.
    """
    check_forward(new, forwards_of(nat))
    attributes = {"name": new.name, "proto": str(PROTOCOLS.index(new.protocol))}
    attributes |= {"hostip": new.host_ip} if new.host_ip else {}
    attributes["hostport"] = str(new.host_port)
    attributes |= {"guestip": new.guest_ip} if new.guest_ip else {}
    attributes["guestport"] = str(new.guest_port)
    document.add(nat, "Forwarding", attributes)


def remove_forward(document: Document, nat: Node, name: str) -> None:
    """Remove a rule from an element ``NAT``.

    Raises:
        SettingsError: there is none of that name.
    """
    for node in nat.all("Forwarding"):
        if node.attributes.get("name", "") == name:
            document.remove(node)
            return
    raise SettingsError(no_forward(name, forwards_of(nat)))


def no_forward(name: str, others: tuple[Forward, ...]) -> str:
    """Say that there is no rule of a name, and which there are."""
    names = ", ".join(repr(other.name) for other in others) or "none"
    return f"there is no forwarding rule named {name!r}; the adapter has: {names}"
