"""Whether a machine waits for another host to send it, as settings say it."""

from dataclasses import dataclass

from .document import Node
from .values import read_boolean, read_number

__all__ = ["MAX_PORT", "Teleporter"]

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Teleporter:
    """The element ``Teleporter`` of a machine.

    Attributes:
        enabled: a start does not boot the machine but waits for it.
        port: where; 0: any that is free.
        address: of this host; empty: all.
        password: its hash; empty: there is none.
    """

    enabled: bool = False
    port: int = 0
    address: str = ""
    password: str = ""

    @classmethod
    def of(cls, node: Node | None) -> "Teleporter":
        """Read the element; None: the machine has none."""
        given = node.attributes if node else {}
        return cls(
            enabled=read_boolean(given.get("enabled")) or False,
            port=min(read_number(given.get("port")) or 0, MAX_PORT),
            address=given.get("address", ""),
            password=given.get("password", ""),
        )
