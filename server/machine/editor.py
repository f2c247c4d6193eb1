"""Change the settings of a machine, in the form of the file's version (filters.md 2).

A version is only raised where it cannot express a change (2.8); the caller then keeps a
copy of the old file (:attr:`Editor.raised_from`).
"""

import uuid
from pathlib import Path

from rusb.errors import SettingsError
from rusb.filters.model import Filter
from rusb.filters.store import from_attributes, to_attributes

from .document import Document, Node
from .settings import AUTH_TYPES, MAX_FILTERS, parse_version

__all__ = ["BOOT_DEVICES", "BUSES", "NIC_MODES", "Editor", "new_machine"]

PROPERTIES_SINCE = (1, 11)
USB_SINCE = (1, 14)
XHCI_SINCE = (1, 15)
STORAGE_IN_HARDWARE_SINCE = (1, 17)
DISABLED_SINCE = (1, 16)

NEW_VERSION = "1.18-linux"

_OLD_PROPERTIES = {"TCP/Ports": "port", "TCP/Address": "netAddress"}
"""Properties that were attributes before PROPERTIES_SINCE."""

BOOT_DEVICES = {
    "none": "None",
    "floppy": "Floppy",
    "dvd": "DVD",
    "disk": "HardDisk",
    "net": "Network",
}

NIC_MODES = {"none": "", "null": "", "nat": "NAT"}
"""Words of ``--nicN`` that rusb can carry out, and their element."""

BUSES = {
    "ide": ("PIIX4", 2),
    "sata": ("AHCI", 30),
    "scsi": ("LsiLogic", 16),
    "floppy": ("I82078", 1),
    "usb": ("USB", 8),
    "virtio": ("VirtioSCSI", 16),
}
"""Storage controllers: the default chip and the number of ports."""

_CHIPS = {
    "PIIX3": "ide",
    "PIIX4": "ide",
    "ICH6": "ide",
    "AHCI": "sata",
    "IntelAhci": "sata",
    "LsiLogic": "scsi",
    "BusLogic": "scsi",
    "LsiLogicSas": "scsi",
    "I82078": "floppy",
    "USB": "usb",
    "VirtioSCSI": "virtio",
}

_MEDIA = {
    "hdd": ("HardDisk", "HardDisks", "HardDisk"),
    "dvd": ("DVD", "DVDImages", "Image"),
    "floppy": ("Floppy", "FloppyImages", "Image"),
}
"""Kinds: type of AttachedDevice, list in the registry, element in it."""

_NEW = """<?xml version="1.0"?>
<!-- Settings of a virtual machine, made by rusb. -->
<VirtualBox xmlns="http://www.virtualbox.org/" version="{version}">
  <Machine uuid="{{{uuid}}}" name="{name}" OSType="{os_type}">
    <Hardware>
      <CPU count="1"/>
      <Memory RAMSize="128"/>
      <RemoteDisplay enabled="false"/>
      <BIOS>
        <ACPI enabled="true"/>
      </BIOS>
      <Network>
        <Adapter slot="0" enabled="true" MACAddress="{mac}" type="82540EM">
          <NAT/>
        </Adapter>
      </Network>
    </Hardware>
  </Machine>
</VirtualBox>
"""


def new_machine(name: str, os_type: str = "Other") -> tuple[str, bytes]:
    """Return the UUID and the settings of a new machine."""
    number = uuid.uuid4()
    mac = f"080027{number.bytes[:3].hex().upper()}"
    blank = _NEW.format(
        version=NEW_VERSION, uuid=number, name="", os_type="", mac=mac
    ).encode()
    editor = Editor(Document(blank))
    editor.set_attribute("name", name)
    editor.set_attribute("OSType", os_type)
    return str(number), editor.document.data


class Editor:
    """Changes a document; the document's text is what to write.

    Attributes:
        raised_from: the version that the file had before it was raised.

    Raises:
        SettingsError: the document is not a machine's.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.raised_from: str | None = None
        if document.root.name != "VirtualBox" or document.find("Machine") is None:
            raise SettingsError("this is not the .vbox file of a machine")
        self.version = parse_version(document.root.attributes.get("version", ""))

    # -------------------------------------------------------------- simple ----

    def set_attribute(self, name: str, value: str) -> None:
        """Set ``name`` or ``OSType`` of the machine."""
        self.document.set(self._ensure(), name, value)

    def set_description(self, text: str) -> None:
        """Set the text that describes the machine; empty: none."""
        document = self.document
        found = document.find("Machine", "Description")
        if found is not None:
            if text:
                document.set_text(found, text)
            else:
                document.remove(found)
        elif text:
            machine = self._ensure()
            first = machine.children[0] if machine.children else None
            document.add(machine, "Description", before=first, text=text)

    def set_memory(self, mebibytes: int) -> None:
        """Set the size of the memory."""
        self.document.set(self._hardware("Memory"), "RAMSize", str(mebibytes))

    def set_cpus(self, count: int) -> None:
        """Set the number of processors."""
        self.document.set(self._hardware("CPU"), "count", str(count))

    def set_acpi(self, is_on: bool) -> None:
        """Switch ACPI on or off."""
        self.document.set(self._hardware("BIOS", "ACPI"), "enabled", _boolean(is_on))

    def set_firmware(self, kind: str) -> None:
        """Set ``BIOS`` or ``EFI``."""
        self.document.set(self._hardware("Firmware"), "type", kind)

    def set_boot(self, position: int, device: str) -> None:
        """Set what is tried at a position, from 1, by a word of BOOT_DEVICES."""
        boot = self._hardware("Boot")
        for order in boot.all("Order"):
            if order.attributes.get("position") == str(position):
                self.document.set(order, "device", BOOT_DEVICES[device])
                return
        attributes = {"position": str(position), "device": BOOT_DEVICES[device]}
        self.document.add(boot, "Order", attributes)

    def set_nic(self, number: int, mode: str) -> None:
        """Set what network adapter *number*, from 1, is attached to: NIC_MODES."""
        slot = str(number - 1)
        if self._adapter(slot) is None:
            if mode == "none":
                return
            mac = f"080027{uuid.uuid4().bytes[:3].hex().upper()}"
            attributes = {"slot": slot, "enabled": "true"}
            attributes |= {"MACAddress": mac, "type": "82540EM"}
            self.document.add(self._hardware("Network"), "Adapter", attributes)
        self.document.set(
            self._must(self._adapter(slot)), "enabled", _boolean(mode != "none")
        )
        while (adapter := self._must(self._adapter(slot))).children:
            self.document.remove(adapter.children[0])
        if element := NIC_MODES[mode]:
            self.document.add(adapter, element)

    def _adapter(self, slot: str) -> Node | None:
        network = self.document.find("Machine", "Hardware", "Network")
        adapters = network.all("Adapter") if network else ()
        return next((a for a in adapters if a.attributes.get("slot") == slot), None)

    def set_serial_file(self, path: str) -> None:
        """Let the first serial port write to a file; empty: there is none."""
        ports = self._children(("Machine", "Hardware", "UART"))
        for port in ports:
            if port.attributes.get("slot") == "0":
                self.document.remove(port)
                break
        if path:
            attributes = {"slot": "0", "enabled": "true", "IOBase": "0x3f8"}
            attributes |= {"IRQ": "4", "hostMode": "RawFile", "path": path}
            self.document.add(self._hardware("UART"), "Port", attributes)

    # ------------------------------------------------------- remote display ----

    def set_display(self, name: str, value: str | None) -> None:
        """Set an attribute of RemoteDisplay (2.5); None: the default."""
        self.document.set(self._hardware("RemoteDisplay"), name, value)

    def set_vrde(self, is_on: bool) -> None:
        """Switch the remote display on or off."""
        self.set_display("enabled", _boolean(is_on))

    def set_auth_type(self, text: str) -> None:
        """Set the type of authentication, in any case.

        Raises:
            SettingsError: there is no such type.
        """
        for known in AUTH_TYPES:
            if text.lower() == known.lower():
                self.set_display("authType", None if known == "Null" else known)
                return
        words = ", ".join(known.lower() for known in AUTH_TYPES)
        raise SettingsError(f"invalid authentication type {text!r}: {words}")

    def set_auth_library(self, name: str) -> None:
        """Set the machine's library; empty: that of the installation."""
        if name:
            self._raise_to(PROPERTIES_SINCE)
        self.set_display("authLibrary", name or None)

    def set_property(self, name: str, value: str) -> None:
        """Set a VRDE property; empty removes it.

        Raises:
            SettingsError: an empty ``TCP/Ports``.
        """
        if name == "TCP/Ports" and not value:
            raise SettingsError("the property TCP/Ports cannot be empty")
        if self.version < PROPERTIES_SINCE:
            if name in _OLD_PROPERTIES:
                self.set_display(_OLD_PROPERTIES[name], value or None)
                return
            self._raise_to(PROPERTIES_SINCE)
        display = self._hardware("RemoteDisplay")
        if name in _OLD_PROPERTIES and _OLD_PROPERTIES[name] in display.attributes:
            self.document.set(display, _OLD_PROPERTIES[name], None)
        path = ("Machine", "Hardware", "RemoteDisplay", "VRDEProperties")
        self._set_pair(path, "Property", name, value)

    # ------------------------------------------------------------ extra data ----

    def set_extra(self, key: str, value: str) -> None:
        """Set a key of the extra data; empty removes it.

        Raises:
            SettingsError: the key is empty or has control characters.
        """
        if value and (not key or any(ord(c) < 32 for c in key)):
            raise SettingsError(f"invalid extra data key {key!r}")
        self._set_pair(("Machine", "ExtraData"), "ExtraDataItem", key, value)

    def _set_pair(
        self, path: tuple[str, ...], element: str, name: str, value: str
    ) -> None:
        """Set or remove an element with name and value, in byte order; no doubles."""
        document = self.document

        def matching() -> list[Node]:
            parent = document.find(*path)
            found = parent.all(element) if parent else ()
            return [node for node in found if node.attributes.get("name") == name]

        while len(found := matching()) > (1 if value else 0):
            document.remove(found[0])
        if found:
            document.set(found[0], "value", value)
        elif value:
            parent = document.ensure(*path)
            key = name.encode()
            later = (
                node
                for node in parent.all(element)
                if node.attributes.get("name", "").encode() > key
            )
            attributes = {"name": name, "value": value}
            document.add(parent, element, attributes, before=next(later, None))

    # ------------------------------------------------------------------- USB ----

    def set_usb(self, kind: str, is_on: bool) -> None:
        """Add or remove the USB controllers of a type: OHCI, EHCI or XHCI."""
        if kind == "XHCI" and is_on:
            self._raise_to(XHCI_SINCE)
        old = self._old_usb()
        if old is not None and kind != "XHCI":
            name = "enabled" if kind == "OHCI" else "enabledEhci"
            was_on = {
                "enabled": old.attributes.get("enabled") == "true",
                "enabledEhci": old.attributes.get(
                    "enabledEhci", old.attributes.get("enabled")
                )
                == "true",  # D5
            }
            for key, was in was_on.items():
                value = _boolean(is_on if key == name else was)
                self.document.set(self._must(self._old_usb()), key, value)
            return
        path = ("Machine", "Hardware", "USB", "Controllers")
        found = [c for c in self._children(path) if c.attributes.get("type") == kind]
        if is_on and not found:
            name = "xHCI" if kind == "XHCI" else kind
            controllers = self.document.ensure(*path)
            self.document.add(controllers, "Controller", {"name": name, "type": kind})
        while not is_on and found:
            self.document.remove(found[0])
            found = [
                c for c in self._children(path) if c.attributes.get("type") == kind
            ]

    def rename_usb(self, old: str, new: str) -> None:
        """Rename a USB controller.

        Raises:
            SettingsError: there is none of that name.
        """
        for controller in self._children(("Machine", "Hardware", "USB", "Controllers")):
            if controller.attributes.get("name") == old:
                self.document.set(controller, "name", new)
                return
        raise SettingsError(f"there is no USB controller named {old!r}")

    def filters(self) -> list[Filter]:
        """Return the machine's filters, in order."""
        found = (from_attributes(node.attributes) for node in self._filter_nodes())
        return [f for f in found if f is not None]

    def add_filter(self, index: int, given: Filter) -> None:
        """Insert a filter before the one at *index*, or at the end.

        Raises:
            SettingsError: there are too many.
        """
        nodes = self._filter_nodes()
        if len(nodes) >= MAX_FILTERS:
            raise SettingsError(f"a machine has at most {MAX_FILTERS} USB filters")
        before = nodes[index] if index < len(nodes) else None
        parent = self._filter_parent()
        if before is not None:
            before = self._filter_nodes()[index]
        self.document.add(parent, "DeviceFilter", to_attributes(given), before=before)

    def replace_filter(self, index: int, given: Filter) -> None:
        """Put another filter in the place of one; unknown attributes stay.

        Raises:
            SettingsError: there is none at *index*.
        """
        node = self._filter_at(index)
        ours = to_attributes(given)
        known = {"vendorId", "productId", "revision", "manufacturer", "product"}
        known |= {"serialNumber", "port", "remote", "maskedInterfaces"}
        known |= {"vendorid", "productid", "serialnumber"}
        for name in known & node.attributes.keys() - ours.keys():
            self.document.set(self._filter_at(index), name, None)
        for name, value in ours.items():
            self.document.set(self._filter_at(index), name, value)

    def remove_filter(self, index: int) -> None:
        """Remove the filter at *index*; those after it move up.

        Raises:
            SettingsError: there is none.
        """
        self.document.remove(self._filter_at(index))

    def _filter_at(self, index: int) -> Node:
        nodes = self._filter_nodes()
        if index >= len(nodes):
            allowed = f"0 to {len(nodes) - 1}" if nodes else "there are no filters"
            raise SettingsError(f"there is no USB filter {index}: {allowed}")
        return nodes[index]

    def _filter_nodes(self) -> list[Node]:
        """The elements that count, in order."""
        nodes = self._children(("Machine", "Hardware", "USB", "DeviceFilters"))
        old = self._old_usb()
        if old is not None:
            nodes += old.children
        nodes = [node for node in nodes if node.name == "DeviceFilter"]
        return [node for node in nodes if from_attributes(node.attributes) is not None]

    def _filter_parent(self) -> Node:
        old = self._old_usb()
        if old is not None:
            return old
        return self.document.ensure("Machine", "Hardware", "USB", "DeviceFilters")

    def _old_usb(self) -> Node | None:
        """The element before 1.14; it is made where the version has no other."""
        if self.version > USB_SINCE:
            return None
        found = self.document.find("Machine", "Hardware", "USBController")
        if found is None and self.version < USB_SINCE:
            hardware = self._hardware()
            attributes = {"enabled": "false", "enabledEhci": "false"}
            self.document.add(hardware, "USBController", attributes)
            return self.document.find("Machine", "Hardware", "USBController")
        return found

    # -------------------------------------------------------------- storage ----

    def add_controller(
        self, name: str, bus: str, chip: str = "", ports: int = 0
    ) -> None:
        """Add a storage controller.

        Raises:
            SettingsError: there is one of that name.
        """
        if self._controller(name) is not None:
            raise SettingsError(f"there is already a storage controller named {name!r}")
        default, most = BUSES[bus]
        if chip and _CHIPS.get(chip) != bus:
            chips = ", ".join(c for c, b in _CHIPS.items() if b == bus)
            raise SettingsError(f"{chip!r} is no {bus} controller: {chips}")
        attributes = {"name": name, "type": chip or default}
        attributes |= {"PortCount": str(ports or min(most, 4)), "Bootable": "true"}
        parent = self.document.ensure(*self._storage())
        self.document.add(parent, "StorageController", attributes)

    def remove_controller(self, name: str) -> None:
        """Remove a storage controller and what is attached to it.

        Raises:
            SettingsError: there is none of that name.
        """
        self.document.remove(self._need_controller(name))
        self._forget_unused_media()

    def rename_controller(self, name: str, new: str) -> None:
        """Rename a storage controller."""
        self.document.set(self._need_controller(name), "name", new)

    def attach(
        self, name: str, port: int, device: int, kind: str, medium: Path | None
    ) -> None:
        """Put a medium, or an empty drive, into a place; what was there goes.

        Args:
            name: of the storage controller.
            kind: ``hdd``, ``dvd`` or ``floppy``.
            medium: an image; None: the drive is empty.

        Raises:
            SettingsError: no such controller, or an empty hard disk.
        """
        if medium is None and kind == "hdd":
            raise SettingsError("a hard disk cannot be empty; give it a medium")
        self._need_controller(name)
        self.detach(name, port, device, must=False)
        attributes = {"type": _MEDIA[kind][0], "hotpluggable": "false"}
        attributes |= {"port": str(port), "device": str(device)}
        self.document.add(self._need_controller(name), "AttachedDevice", attributes)
        if medium is not None:
            number = self._register(kind, medium)
            node = self._must(self._attached(name, port, device))
            self.document.add(node, "Image", {"uuid": f"{{{number}}}"})
        self._forget_unused_media()

    def detach(self, name: str, port: int, device: int, *, must: bool = True) -> None:
        """Take the drive in a place away.

        Raises:
            SettingsError: there is no such controller, or no drive there.
        """
        self._need_controller(name)
        node = self._attached(name, port, device)
        if node is not None:
            self.document.remove(node)
            self._forget_unused_media()
        elif must:
            raise SettingsError(
                f"nothing is attached to port {port}, device {device} of {name!r}"
            )

    def _storage(self) -> tuple[str, ...]:
        if self.version >= STORAGE_IN_HARDWARE_SINCE:
            return ("Machine", "Hardware", "StorageControllers")
        return ("Machine", "StorageControllers")

    def _controller(self, name: str) -> Node | None:
        nodes = self._children(self._storage())
        return next((n for n in nodes if n.attributes.get("name") == name), None)

    def _need_controller(self, name: str) -> Node:
        found = self._controller(name)
        if found is None:
            raise SettingsError(f"there is no storage controller named {name!r}")
        return found

    def _attached(self, name: str, port: int, device: int) -> Node | None:
        for node in self._need_controller(name).all("AttachedDevice"):
            place = node.attributes.get("port", "0"), node.attributes.get("device", "0")
            if place == (str(port), str(device)):
                return node
        return None

    def _register(self, kind: str, medium: Path) -> str:
        """Return the UUID of a medium in the machine's registry; make an entry."""
        _, group, element = _MEDIA[kind]
        path = ("Machine", "MediaRegistry", group)
        for node in self._children(path):
            if node.attributes.get("location") == str(medium):
                return node.attributes.get("uuid", "").strip("{}")
        number = str(uuid.uuid4())
        attributes = {"uuid": f"{{{number}}}", "location": str(medium)}
        if kind == "hdd":
            formats = {".vdi": "VDI", ".vmdk": "VMDK", ".vhd": "VHD"}
            attributes["format"] = formats.get(medium.suffix.lower(), "RAW")
            attributes["type"] = "Normal"
        self.document.add(self.document.ensure(*path), element, attributes)
        return number

    def _forget_unused_media(self) -> None:
        """Remove entries of the registry that no drive of the machine refers to."""
        while (unused := self._unused_medium()) is not None:
            self.document.remove(unused)

    def _unused_medium(self) -> Node | None:
        used = set()
        stack = [self._ensure()]
        while stack:  # snapshots too
            node = stack.pop()
            stack += node.children
            if node.name == "Image" and node.parent is not None:
                if node.parent.name == "AttachedDevice":
                    used.add(node.attributes.get("uuid", "").lower())
        for _, group, element in _MEDIA.values():
            for node in self._children(("Machine", "MediaRegistry", group)):
                is_plain = node.name == element and not node.children
                if is_plain and node.attributes.get("uuid", "").lower() not in used:
                    return node
        return None

    # ------------------------------------------------------------- our own ----

    def _ensure(self, *names: str) -> Node:
        return self.document.ensure("Machine", *names)

    def _hardware(self, *names: str) -> Node:
        return self._ensure("Hardware", *names)

    def _children(self, path: tuple[str, ...]) -> list[Node]:
        found = self.document.find(*path)
        return list(found.children) if found else []

    @staticmethod
    def _must(node: Node | None) -> Node:
        assert node is not None
        return node

    def _raise_to(self, version: tuple[int, int]) -> None:
        """Raise the version of the file, unless it is high enough."""
        if self.version >= version:
            return
        text = self.document.root.attributes["version"]
        self.raised_from = self.raised_from or text
        platform = text.partition("-")[2] or "linux"
        if self.version <= USB_SINCE < version:
            self._convert_usb()
        new = f"{version[0]}.{version[1]}-{platform}"
        self.document.set(self.document.root, "version", new)
        self.version = version

    def _convert_usb(self) -> None:
        """Write controllers and filters in the form since 1.14."""
        old = self.document.find("Machine", "Hardware", "USBController")
        if old is None:
            return
        filters = [dict(node.attributes) for node in old.all("DeviceFilter")]
        enabled = old.attributes.get("enabled") == "true"
        ehci = old.attributes.get("enabledEhci")
        self.document.remove(old)
        self.version = USB_SINCE
        if enabled:
            self.set_usb("OHCI", True)
        if enabled if ehci is None else ehci == "true":
            self.set_usb("EHCI", True)
        path = ("Machine", "Hardware", "USB", "DeviceFilters")
        for attributes in filters:
            self.document.add(self.document.ensure(*path), "DeviceFilter", attributes)


def _boolean(value: bool) -> str:
    return "true" if value else "false"
