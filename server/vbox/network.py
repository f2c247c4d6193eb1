"""Change the network adapters of a machine (filters.md 2.8)."""

import abc
import uuid

from rusb.errors import SettingsError

from .document import Document, Node
from .forwards import Forward, add_forward, remove_forward
from .values import boolean

__all__ = ["NIC_MODES", "NetworkEditor", "new_mac", "nic_modes"]

FORWARDS_SINCE = (1, 10)

NIC_MODES = {"none": "", "null": "", "nat": "NAT"}
"""Words of ``--nicN`` that rusb can carry out, and their element."""


class NetworkEditor(abc.ABC):
    """Changes the network adapters of a machine."""

    document: Document

    @abc.abstractmethod
    def _raise_to(self, version: tuple[int, int]) -> None: ...

    def set_nic(self, number: int, mode: str) -> None:
        """Set what network adapter *number*, from 1, is attached to: NIC_MODES."""
        if mode == "none" and self._adapter(str(number - 1)) is None:
            return
        adapter = self.adapter(number)
        self.document.set(adapter, "enabled", boolean(mode != "none"))
        element = NIC_MODES[mode]
        modes = nic_modes(adapter)
        if [node.name for node in modes] == ([element] if element else []):
            return
        for node in modes:
            self.document.remove(node)
        if element:
            self.document.add(adapter, element)

    def adapter(self, number: int) -> Node:
        """Return a network adapter, from 1; one that was not there is switched off."""
        slot = str(number - 1)
        found = self._adapter(slot)
        if found is None:
            mac = new_mac()
            attributes = {"slot": slot, "enabled": "false"}
            attributes |= {"MACAddress": mac, "type": "82540EM"}
            found = self.document.add(
                self.document.ensure("Machine", "Hardware", "Network"),
                "Adapter",
                attributes,
            )
        return found

    def _adapter(self, slot: str) -> Node | None:
        network = self.document.find("Machine", "Hardware", "Network")
        adapters = network.all("Adapter") if network else ()
        return next((a for a in adapters if a.attributes.get("slot") == slot), None)

    def add_forward(self, number: int, rule: Forward) -> None:
        """Let the host forward a port to network adapter *number*, from 1.

        Raises:
            SettingsError: the adapter is not on NAT, or the rule's name or port of the
                host is taken.
        """
        nat = self._nat(number)
        self._raise_to(FORWARDS_SINCE)
        add_forward(self.document, nat, rule)

    def remove_forward(self, number: int, name: str) -> None:
        """Remove a rule of network adapter *number*, from 1.

        Raises:
            SettingsError: the adapter is not on NAT, or there is none of that name.
        """
        remove_forward(self.document, self._nat(number), name)

    def _nat(self, number: int) -> Node:
        adapter = self._adapter(str(number - 1))
        nat = adapter.find("NAT") if adapter else None
        if nat is None:
            raise SettingsError(
                f"network adapter {number} is not attached to NAT; attach it with"
                f" --nic{number} nat"
            )
        return nat

    def set_adapter(self, number: int, attribute: str, value: str) -> None:
        """Set an attribute of network adapter *number*, from 1."""
        self.document.set(self.adapter(number), attribute, value)


def nic_modes(adapter: Node) -> list[Node]:
    """Return the elements that say what an adapter is attached to."""
    other = ("DisabledModes",)
    return [n for n in adapter.children if n.name not in other and n.name[0] != "{"]


def new_mac() -> str:
    """Return the address of a new network adapter; the first half is VirtualBox's."""
    return f"080027{uuid.uuid4().bytes[:3].hex().upper()}"
