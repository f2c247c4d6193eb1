"""Change the settings of a machine, in the form of the file's version (filters.md 2).

A version is only raised where it cannot express a change (2.8); the caller then keeps a
copy of the old file (:attr:`Editor.raised_from`). What is set to what it already is
changes nothing.
"""

import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from rusb.errors import SettingsError
from rusb.filters.model import Filter

from .document import Document, Node
from .drives import DrivesEditor
from .filter_list import FilterList
from .kept import Kept
from .network import NetworkEditor
from .ports import check_ports
from .serialport import SerialPort
from .settings import (
    AUTH_TYPES,
    DISABLED_SINCE,
    OLD_CONTROLLERS,
    PROPERTIES_SINCE,
    USB_SINCE,
    RemoteDisplay,
    old_usb,
    read_display,
    usb_controllers,
)
from .values import boolean

__all__ = ["BOOT_DEVICES", "Editor", "new_machine", "set_extra"]

VIDEO_SINCE = (1, 10)
XHCI_SINCE = TCP_SERIAL_SINCE = (1, 15)

NEW_VERSION = "1.18-linux"

_OLD_PROPERTIES = {
    "TCP/Ports": ((), "port"),
    "TCP/Address": ((), "netAddress"),
    "VideoChannel/Enabled": (("VideoChannel",), "enabled"),
    "VideoChannel/Quality": (("VideoChannel",), "quality"),
}
"""Properties that were attributes before PROPERTIES_SINCE: of which element (2.5)."""

BOOT_DEVICES = {
    "none": "None",
    "floppy": "Floppy",
    "dvd": "DVD",
    "disk": "HardDisk",
    "net": "Network",
}

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


def set_extra(document: Document, owner: str, key: str, value: str) -> None:
    """Set a key of the extra data of ``Machine`` or ``Global``; empty removes it.

    Raises:
        SettingsError: the key is empty or has control characters (2.7).
    """
    if value and (not key or any(ord(c) < 32 for c in key)):
        raise SettingsError(f"invalid extra data key {key!r}")
    document.set_pair((owner, "ExtraData"), "ExtraDataItem", key, value)


class Editor(NetworkEditor, DrivesEditor):
    """Changes a document; the document's text is what to write.

    Args:
        document: the settings of a machine.
        folder: where its file is; locations of media may be relative to it.

    Attributes:
        raised_from: the version that the file had before it was raised.

    Raises:
        SettingsError: the document is not a machine's.
    """

    def __init__(self, document: Document, folder: Path | None = None) -> None:
        super().__init__(document, folder)
        self.raised_from: str | None = None

    @property
    def uuid(self) -> str:
        """The machine's."""
        return self._machine.attributes.get("uuid", "").strip("{}").lower()

    # -------------------------------------------------------------- simple ----

    def set_attribute(self, name: str, value: str) -> None:
        """Set ``name`` or ``OSType`` of the machine.

        Raises:
            SettingsError: it is empty.
        """
        if not value:
            raise SettingsError(f"the {name} of a machine cannot be empty")
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

    def set_groups(self, names: Sequence[str]) -> None:
        """Set the groups that the machine is in, each ``/NAME``; none: the main one."""
        document = self.document
        old = document.find("Machine", "Groups")
        nodes = old.all("Group") if old else ()
        if [node.attributes.get("name") for node in nodes] == list(names):
            return
        if old is not None:
            document.remove(old)
        for name in names:
            document.add(self._ensure("Groups"), "Group", {"name": name})

    def set_monitors(self, count: int) -> None:
        """Set the number of screens."""
        self.document.set(self._hardware("Display"), "monitorCount", str(count))

    def set_teleporter(self, **attributes: str) -> None:
        """Set attributes of what waits for another host; empty removes one."""
        for name, value in attributes.items():
            self.document.set(self._ensure("Teleporter"), name, value or None)

    def set_hardware(self, path: Sequence[str], attribute: str, value: str) -> None:
        """Set an attribute of an element of Hardware that only VirtualBox uses."""
        self.document.set(self._hardware(*path), attribute, value)

    def keep(self, kept: Kept, word: str, stored: str, number: int = 0) -> None:
        """Keep a setting that only VirtualBox uses.

        Args:
            kept: which one.
            word: for it.
            stored: what the file has for the word.
            number: of its network adapter, from 1; 0: it is one of the machine.
        """
        owner = self.adapter(number) if number else self._hardware()
        if kept.to_word(owner) != word:
            node = self.document.ensure_in(owner, *kept.place(owner))
            self.document.set(node, kept.attribute, stored)

    def set_audio(self, **attributes: str) -> None:
        """Set attributes of the sound card."""
        for name, value in attributes.items():
            self.document.set(self._hardware("AudioAdapter"), name, value)

    def set_clipboard(self, mode: str) -> None:
        """Set which way texts go between the guest and its viewers."""
        self.document.set(self._hardware("Clipboard"), "mode", mode)

    def set_memory(self, mebibytes: int) -> None:
        """Set the size of the memory."""
        self.document.set(self._hardware("Memory"), "RAMSize", str(mebibytes))

    def set_cpus(self, count: int) -> None:
        """Set the number of processors."""
        self.document.set(self._hardware("CPU"), "count", str(count))

    def set_acpi(self, is_on: bool) -> None:
        """Switch ACPI on or off."""
        self.document.set(self._hardware("BIOS", "ACPI"), "enabled", boolean(is_on))

    def set_utc(self, is_on: bool) -> None:
        """Let the guest's clock run on UTC, or on the host's local time."""
        value = "UTC" if is_on else "local"
        self.document.set(self._hardware("RTC"), "localOrUTC", value)

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

    def set_serial(self, serial: SerialPort | None) -> None:
        """Connect the first serial port; None: there is none."""
        if serial is not None and serial.mode == "TCP":
            self._raise_to(TCP_SERIAL_SINCE)
        wanted = []
        if serial is not None:
            attributes = {"slot": "0", "enabled": "true", "IOBase": "0x3f8", "IRQ": "4"}
            wanted.append(attributes | serial.attributes())
        uart = self.document.find("Machine", "Hardware", "UART")
        nodes = uart.all("Port") if uart else ()
        ports = [port for port in nodes if port.attributes.get("slot") == "0"]
        if [port.attributes for port in ports] == wanted:
            return
        for port in ports:
            self.document.remove(port)
        for attributes in wanted:
            self.document.add(self._hardware("UART"), "Port", attributes)

    # ------------------------------------------------------- remote display ----

    def set_display(self, name: str, value: str | None) -> None:
        """Set an attribute of RemoteDisplay (2.5); None: the default."""
        if value and name in ("authLibrary", "VRDEExtPack"):
            self._raise_to(PROPERTIES_SINCE)
        display = self._hardware("RemoteDisplay")
        self.document.set(display, name, value or None)
        self.document.tidy(display)

    def set_vrde(self, is_on: bool) -> None:
        """Switch the remote display on or off."""
        if self._display().enabled is not is_on:
            default = self.version < DISABLED_SINCE
            self.set_display("enabled", None if is_on is default else boolean(is_on))

    def set_auth_type(self, text: str) -> None:
        """Set the type of authentication, in any case.

        Raises:
            SettingsError: there is no such type.
        """
        for known in AUTH_TYPES:
            if text.lower() == known.lower():
                if self._display().auth_type != known:
                    self.set_display("authType", None if known == "Null" else known)
                return
        words = ", ".join(known.lower() for known in AUTH_TYPES)
        raise SettingsError(
            f"invalid authentication type {text!r}; choose one of {words}"
        )

    def set_auth_library(self, name: str) -> None:
        """Set the machine's library; empty: that of the installation."""
        self.set_display("authLibrary", name or None)

    def set_property(self, name: str, value: str) -> None:
        """Set a VRDE property; empty removes it.

        Raises:
            SettingsError: ``TCP/Ports`` is no list of ports, or empty.
        """
        if name == "TCP/Ports":
            if not value:
                raise SettingsError("the property TCP/Ports cannot be empty")
            value = check_ports(value)
        if self._display().properties.get(name, "") == value:
            return
        is_old = name in _OLD_PROPERTIES
        if value and not is_old:
            self._raise_to(PROPERTIES_SINCE)
        elif value and name.startswith("VideoChannel/"):
            self._raise_to(VIDEO_SINCE)
        if is_old and self.version < PROPERTIES_SINCE:
            self._set_old_property(name, value)
            value = ""  # no real property may override it
        elif is_old:
            self._convert_display()
        self._set_pair(name, value)

    def _display(self) -> RemoteDisplay:
        return read_display(self.document.find("Machine", "Hardware"), self.version)

    def _set_pair(self, name: str, value: str) -> None:
        path = ("Machine", "Hardware", "RemoteDisplay", "VRDEProperties")
        self.document.set_pair(path, "Property", name, value)

    def _set_old_property(self, name: str, value: str) -> None:
        """Set a property in the form before 1.11; what cannot be said is normalised."""
        if value and name == "VideoChannel/Enabled":
            value = boolean(value.lower() == "true" or value == "1")
        elif value and name == "VideoChannel/Quality":
            quality = int(value) if re.fullmatch("[0-9]{1,9}", value) else 0
            value = str(min(max(quality or 75, 10), 100))
        path, attribute = _OLD_PROPERTIES[name]
        node = self._hardware("RemoteDisplay", *path)
        self.document.set(node, attribute, value or None)
        self.document.tidy(node)

    def _convert_display(self) -> None:
        """Write properties in the form since 1.11."""
        properties = self._display().properties
        for name, (path, attribute) in _OLD_PROPERTIES.items():
            display = self.document.find("Machine", "Hardware", "RemoteDisplay")
            node = display.find(*path) if display else None
            if node and (path or attribute in node.attributes):
                self._set_pair(name, properties.get(name, ""))
        for path, attribute in _OLD_PROPERTIES.values():
            display = self.document.find("Machine", "Hardware", "RemoteDisplay")
            node = display.find(*path) if display else None
            if node is not None:
                self.document.set(node, attribute, None)
                self.document.tidy(node)

    # ------------------------------------------------------------ extra data ----

    def set_extra(self, key: str, value: str) -> None:
        """Set a key of the extra data; empty removes it.

        Raises:
            SettingsError: the key is empty or has control characters.
        """
        set_extra(self.document, "Machine", key, value)

    # ------------------------------------------------------------------- USB ----

    def set_usb(self, kind: str, is_on: bool) -> None:
        """Add or remove the USB controllers of a type: OHCI, EHCI or XHCI."""
        if (kind in self._usb()) is is_on:
            return
        if kind == "XHCI" and is_on:
            self._raise_to(XHCI_SINCE)
        new = self.document.find("Machine", "Hardware", "USB", "Controllers")
        if not is_on:
            for node in list(new.all("Controller")) if new else ():
                if node.attributes.get("type") == kind:
                    self.document.remove(node)
        old = self._old_usb(make=is_on)
        if old is not None and kind in OLD_CONTROLLERS:
            wanted = {*usb_controllers(self._hardware(), self.version), kind}
            wanted -= set() if is_on else {kind}
            for known, attribute in OLD_CONTROLLERS.items():
                self.document.set(old, attribute, boolean(known in wanted))  # D5
        elif is_on:
            self._add_controller(kind)

    def _usb(self) -> tuple[str, ...]:
        return usb_controllers(self.document.find("Machine", "Hardware"), self.version)

    def _add_controller(self, kind: str) -> None:
        name = "xHCI" if kind == "XHCI" else kind
        parent = self._hardware("USB", "Controllers")
        self.document.add(parent, "Controller", {"name": name, "type": kind})

    def rename_usb(self, old: str, new: str) -> None:
        """Rename a USB controller.

        Raises:
            SettingsError: there is none of that name, or one of the new name.
        """
        names = self._usb_names()
        if old not in names:
            raise SettingsError(f"there is no USB controller named {old!r}")
        if old == new:
            return
        if not new or new in names:
            raise SettingsError(f"a USB controller cannot be renamed to {new!r}")
        self._raise_to(USB_SINCE)
        self._convert_usb()
        for node in self._hardware("USB", "Controllers").all("Controller"):
            if node.attributes.get("name") == old:
                self.document.set(node, "name", new)

    def _usb_names(self) -> set[str]:
        new = self.document.find("Machine", "Hardware", "USB", "Controllers")
        nodes = list(new.all("Controller")) if new else []
        named = {node.attributes.get("name", "") for node in nodes}
        types = {node.attributes.get("type") for node in nodes}
        return named | {kind for kind in self._usb() if kind not in types}

    def filters(self) -> list[Filter]:
        """Return the machine's filters, in order.

        Raises:
            SettingsError: one of them is wrong.
        """
        return self._filter_list().filters

    def add_filter(self, index: int, given: Filter) -> None:
        """Insert a filter before the one at *index*, or at the end.

        Raises:
            SettingsError: there are too many, or one of them is wrong.
        """
        self._filter_list().insert(index, given)

    def replace_filter(self, index: int, given: Filter) -> None:
        """Put another filter in the place of one; unknown attributes stay.

        Raises:
            SettingsError: there is none at *index*, or one of them is wrong.
        """
        self._filter_list().replace(index, given)

    def remove_filter(self, index: int) -> None:
        """Remove the filter at *index*; those after it move up.

        Raises:
            SettingsError: there is none, or one of them is wrong.
        """
        self._filter_list().remove(index)

    def _filter_list(self) -> FilterList:
        new = self.document.find("Machine", "Hardware", "USB", "DeviceFilters")
        parents = (new, self._old_usb(make=False))
        return FilterList(self.document, parents, self._filter_parent)

    def _filter_parent(self) -> Node:
        old = self._old_usb(make=True)
        return old or self._hardware("USB", "DeviceFilters")

    def _old_usb(self, *, make: bool) -> Node | None:
        """The element before 1.14; it can be made where the version has no other."""
        hardware = self._hardware()
        found = old_usb(hardware, self.version)
        if found is None and make and self.version < USB_SINCE:
            attributes = dict.fromkeys(OLD_CONTROLLERS.values(), "false")
            found = self.document.add(hardware, "USBController", attributes)
        return found

    # ------------------------------------------------------------- our own ----

    def _ensure(self, *names: str) -> Node:
        return self.document.ensure("Machine", *names)

    def _hardware(self, *names: str) -> Node:
        return self._ensure("Hardware", *names)

    def _raise_to(self, version: tuple[int, int]) -> None:
        """Raise the version of the file, unless it is high enough (2.8).

        What the machine means stays: forms that the version no longer has are
        converted.
        """
        if self.version >= version:
            return
        root = self.document.root
        platform = root.attributes["version"].partition("-")[2]
        platform = platform if re.fullmatch("[a-z0-9]{1,16}", platform) else "linux"
        number = f"{self.version[0]}.{self.version[1]}"
        self.raised_from = self.raised_from or f"{number}-{platform}"
        if self.version < PROPERTIES_SINCE <= version:
            self._convert_display()
        if version >= USB_SINCE:
            self._convert_usb()
        self.document.set(root, "version", f"{version[0]}.{version[1]}-{platform}")
        self.version = version

    def _convert_usb(self) -> None:
        """Write controllers and filters in the form since 1.14."""
        old = old_usb(self._hardware(), self.version)
        if old is None:
            return
        new = self.document.find("Machine", "Hardware", "USB", "Controllers")
        there = {n.attributes.get("type") for n in new.children} if new else set()
        for kind in self._usb():
            if kind not in there:
                self._add_controller(kind)
        if any(isinstance(piece, Node) or piece.strip() for piece in old.content):
            self.document.move(old, self._hardware("USB", "DeviceFilters"))
        for name in old.attributes.keys() - set(OLD_CONTROLLERS.values()):
            self.document.set(self._hardware("USB"), name, old.attributes[name])
        self.document.remove(old)
