"""Read the settings of a machine: ``.vbox`` files of version 1.3 and later.

filters.md part 2. Unknown elements and attributes are ignored; a version that is newer
than 1.20 is read like 1.20, with a note for whoever names the machine.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rusb.errors import FilterError, SettingsError
from rusb.filters.model import Filter

from .document import Document, Node
from .engine import Engine, find_engine
from .files import read_file
from .filter_attributes import INTERFACE_CLASS
from .filter_list import FilterList
from .grace import check_grace, find_hold, find_resume
from .own_keys import filter_key
from .storage_mode import Storage, check_storage, find_storage
from .teleporter import Teleporter
from .values import read_boolean, read_number

__all__ = [
    "CLIPBOARD_MODES",
    "FEATURES",
    "LIVE_PROPERTIES",
    "Machine",
    "RemoteDisplay",
    "load_machine",
    "machine_node",
    "old_usb",
    "parse_version",
    "read_display",
    "read_machine",
    "read_pairs",
    "usb_controllers",
]

MAX_MONITORS = 64
"""Screens of a machine (VirtualBox's limit)."""

NAMESPACES = (
    "http://www.virtualbox.org/",
    "http://www.innotek.de/VirtualBox-settings",
)
"""Of the root element; the second one is that of VirtualBox 5.0 and before (2.1)."""

OLDEST, NEWEST = (1, 3), (1, 20)
PROPERTIES_SINCE = (1, 11)
USB_SINCE = (1, 14)
"""Version with ``USB/Controllers``, and the last that reads ``USBController``, too."""

DISABLED_SINCE = (1, 16)
"""Version from which on the remote display is off where nothing is said."""

FEATURES = ("Display", "Input", "Audio", "USB", "Clipboard")
"""Features with switches in the extra data, too (vrdp-server.md 4.4)."""

LIVE_PROPERTIES = ("Client/Disable", "VideoChannel/")
"""What VRDE properties begin with that count at once, in sessions that run, too."""

CLIPBOARD_MODES = ("disabled", "hosttoguest", "guesttohost", "bidirectional")
"""Words of ``--clipboard-mode``; the file has them with capitals."""

CONTROLLERS = ("OHCI", "EHCI", "XHCI")
OLD_CONTROLLERS = {"OHCI": "enabled", "EHCI": "enabledEhci"}
"""Type of controller, and its attribute of ``USBController``."""

AUTH_TYPES = ("Null", "External", "Guest")
DEFAULT_AUTH_TIMEOUT = 5000


@dataclass(slots=True)
class RemoteDisplay:
    """The machine's remote display (filters.md 2.5).

    Attributes:
        auth_timeout: milliseconds.
        auth_library: empty: the installation's.
        properties: VRDE properties, by name; unset ones are not in it.
    """

    enabled: bool = False
    auth_type: str = "Null"
    auth_timeout: int = DEFAULT_AUTH_TIMEOUT
    allow_multi_connection: bool = False
    reuse_single_connection: bool = False
    auth_library: str = ""
    properties: dict[str, str] = field(default_factory=dict)

    def property(self, name: str) -> str:
        """Return a VRDE property, empty if unset; ``TCP/Ports`` then is 3389."""
        default = "3389" if name == "TCP/Ports" else ""
        return self.properties.get(name, default)

    def video_quality(self) -> int | None:
        """Of the video channel, 10 to 100; None: it is off (2.5)."""
        if self.property("VideoChannel/Enabled").lower() not in ("true", "1"):
            return None
        number = read_number(self.property("VideoChannel/Quality")) or 75
        return min(max(number, 10), 100)


@dataclass(slots=True)
class Machine:
    """What rusb knows of a virtual machine.

    Attributes:
        usb_controllers: their types; without any, no device is attached.
        storage: how far disks are read and written ahead, as an option of the command
            says; None: as the extra data say.
        resume: seconds for which the devices of a client that may come back stay in the
            guest, as an option of the command says; None: as the extra data say.
        hold: the same of other clients.
        monitors: screens that ``@N`` can choose from, 1 to 64.
        has_sound: may viewers hear the guest?
        clipboard: which way texts go between the guest and its viewers: a word of
            CLIPBOARD_MODES.
        teleporter: whether it waits for another host to send it.
        note: what a user who names the machine wants to know about its file.
    """

    name: str
    uuid: str = ""
    os_type: str = ""
    version: tuple[int, int] = NEWEST
    path: Path | None = None
    filters: tuple[Filter, ...] = ()
    usb_controllers: tuple[str, ...] = ()
    remote_display: RemoteDisplay = field(default_factory=RemoteDisplay)
    extra_data: dict[str, str] = field(default_factory=dict)
    storage: Storage | None = None
    resume: float | None = None
    hold: float | None = None
    monitors: int = 1
    has_sound: bool = True
    clipboard: str = CLIPBOARD_MODES[0]
    teleporter: Teleporter = Teleporter()
    note: str = field(default="", compare=False)

    @property
    def operand(self) -> str:
        """What a command that changes it calls it, for a shell: its file, if it has
        one, because its name is known only while it runs or if it is registered."""
        return shlex.quote(str(self.path.absolute()) if self.path else self.name)

    def storage_of(self, filter_name: str) -> Storage:
        """How much of storage commands is done ahead for what a filter admits?"""
        if self.storage is not None:
            return self.storage
        return find_storage(self.extra_data, filter_name)

    @property
    def engine(self) -> Engine:
        """What runs the machine?"""
        return find_engine(self.extra_data)

    @property
    def resume_seconds(self) -> float:
        """How long is a client waited for that may come back?"""
        return find_resume(self.extra_data) if self.resume is None else self.resume

    def hold_seconds(self, filter_name: str) -> float:
        """How long is any other client waited for, of what a filter admits?"""
        if self.hold is not None:
            return self.hold
        return find_hold(self.extra_data, filter_name)

    def feature_disabled(self, feature: str) -> bool:
        """Is a feature switched off for clients (vrdp-server.md 4.4)?

        The property wins, even with the value 0; then the new key of the extra data,
        then the old one. Exactly ``1`` disables.
        """
        values = [self.remote_display.property(f"Client/Disable{feature}")]
        if feature in FEATURES:
            for family in ("VRDE", "VRDP"):
                key = f"{family}/Feature/Client/Disable{feature}"
                values.append(self.extra_data.get(key, ""))
        return next((value for value in values if value), "") == "1"


def load_machine(path: str | Path) -> Machine:
    """Read a ``.vbox`` file.

    Raises:
        SettingsError: there is no such file, it is not XML, not a machine, of a
            version that is too old, or a value in it is wrong; the message says
            where, and what to do.
    """
    path = Path(path)
    try:
        data = read_file(path, "the machine's settings")
    except SettingsError as error:
        raise SettingsError(f"{error}; name a .vbox file") from error
    return read_machine(Document(data, str(path)), path)


def read_machine(document: Document, path: Path) -> Machine:
    """Read a machine out of its settings.

    Raises:
        SettingsError: as :func:`load_machine`.
    """
    try:
        return _read(document, path)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def machine_node(document: Document) -> Node:
    """Return the element of the machine.

    Raises:
        SettingsError: there is none.
    """
    if document.root.name != "VirtualBox" or document.namespace not in NAMESPACES:
        raise SettingsError(
            f"the root element is <{document.root.name}> of"
            f" {document.namespace or 'no namespace'}, not <VirtualBox> of"
            f" {NAMESPACES[0]}: this is not a machine's .vbox file"
        )
    found = document.find("Machine")
    if found is None:
        if document.find("Global") is not None:
            raise SettingsError(
                "these are the global settings; name the .vbox file of a machine"
            )
        raise SettingsError(
            "there is no <Machine> in it (an encrypted machine?); rusb cannot use it"
        )
    return found


def _read(document: Document, path: Path) -> Machine:
    node = machine_node(document)
    given = node.attributes
    version = parse_version(document.root.attributes.get("version", ""))
    hardware = node.find("Hardware")
    usb = hardware.find("USB", "DeviceFilters") if hardware else None
    filters = FilterList(document, (usb, old_usb(hardware, version))).filters
    extra_data = read_pairs(node.find("ExtraData"), "ExtraDataItem")
    check_storage(extra_data)
    check_grace(extra_data)
    find_engine(extra_data)
    return Machine(
        name=given.get("name") or path.stem,
        uuid=given.get("uuid", "").strip("{}").lower(),
        os_type=given.get("OSType", ""),
        version=version,
        path=path,
        filters=_with_classes(filters, extra_data),
        usb_controllers=usb_controllers(hardware, version),
        remote_display=read_display(hardware, version),
        extra_data=extra_data,
        monitors=_monitors(hardware.find("Display") if hardware else None),
        has_sound=_has_sound(hardware.find("AudioAdapter") if hardware else None),
        clipboard=_clipboard(hardware.find("Clipboard") if hardware else None),
        teleporter=Teleporter.of(node.find("Teleporter")),
        note=_note(path, version),
    )


def _with_classes(
    filters: Sequence[Filter], extra_data: Mapping[str, str]
) -> tuple[Filter, ...]:
    """Add what filters ask of interfaces; VirtualBox has no attribute for it."""
    found = []
    for given in filters:
        key = filter_key(given.name, INTERFACE_CLASS)
        try:
            found.append(replace(given, interface_class=extra_data.get(key, "")))
        except FilterError as error:
            raise SettingsError(f"extra data {key}: {error}") from None
    return tuple(found)


def _note(path: Path, version: tuple[int, int]) -> str:
    if version <= NEWEST:
        return ""
    found, newest = (f"{major}.{minor}" for major, minor in (version, NEWEST))
    return (
        f"{path}: settings version {found} is newer than {newest}; new parts of it are"
        " ignored and kept"
    )


def parse_version(text: str) -> tuple[int, int]:
    """Read the version of a settings file: ``1.18-linux`` is (1, 18).

    Raises:
        SettingsError: it is none, or older than 1.3.
    """
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?:-|$)", text)
    if match is None:
        raise SettingsError(f"settings version {text!r} is not MAJOR.MINOR-platform")
    version = int(match[1]), int(match[2])
    if version < OLDEST:
        raise SettingsError(
            f"settings version {match[1]}.{match[2]} is too old; rusb reads 1.3 and"
            " later"
        )
    return version


def read_pairs(parent: Node | None, name: str) -> dict[str, str]:
    """Read name and value of each child; later ones win.

    Raises:
        SettingsError: one of them has not both.
    """
    found = {}
    for item in parent.all(name) if parent else ():
        key, value = item.attributes.get("name"), item.attributes.get("value")
        if key is None or value is None:
            raise SettingsError(f"line {item.line}: <{name}> needs both name and value")
        found[key] = value
    return found


def _monitors(node: Node | None) -> int:
    """Read how many screens there are; the attribute is called either way."""
    for name in ("monitorCount", "MonitorCount"):
        if node and (count := read_number(node.attributes.get(name))):
            return min(count, MAX_MONITORS)
    return 1


def _has_sound(node: Node | None) -> bool:
    """Read whether what the guest plays is heard: only where it says no, it is not."""
    given = node.attributes.get("enabledOut") if node else None
    return read_boolean(given) is not False


def _clipboard(node: Node | None) -> str:
    """Read which way texts go; what is not known is none."""
    word = node.attributes.get("mode", "").lower() if node else ""
    return word if word in CLIPBOARD_MODES else CLIPBOARD_MODES[0]


# --------------------------------------------------------------------- USB ----


def old_usb(hardware: Node | None, version: tuple[int, int]) -> Node | None:
    """Return the element of USB before 1.14, if it is there and counts (2.3)."""
    is_read = hardware is not None and version <= USB_SINCE
    return hardware.find("USBController") if hardware and is_read else None


def usb_controllers(hardware: Node | None, version: tuple[int, int]) -> tuple[str, ...]:
    """Return the types of the USB controllers, each once.

    Raises:
        SettingsError: there is no such type.
    """
    found = []
    new = hardware.find("USB", "Controllers") if hardware else None
    for controller in new.all("Controller") if new else ():
        kind = controller.attributes.get("type", "")
        if kind not in CONTROLLERS:
            raise SettingsError(
                f"line {controller.line}: unknown USB controller type {kind!r}; choose"
                f" one of {', '.join(CONTROLLERS)}"
            )
        found.append(kind)
    old = old_usb(hardware, version)
    if old is not None:
        enabled = read_boolean(old.attributes.get("enabled")) or False
        ehci = read_boolean(old.attributes.get("enabledEhci"))
        found += ["OHCI"] if enabled else []
        found += ["EHCI"] if (enabled if ehci is None else ehci) else []  # D5
    return tuple(dict.fromkeys(found))


# ---------------------------------------------------------- remote display ----


def read_display(hardware: Node | None, version: tuple[int, int]) -> RemoteDisplay:
    """Read the settings of the remote display.

    Raises:
        SettingsError: a value is wrong.
    """
    default = version < DISABLED_SINCE
    node = hardware.find("RemoteDisplay") if hardware else None
    if node is None:
        return RemoteDisplay(enabled=default)
    given = node.attributes
    return RemoteDisplay(
        enabled=_boolean(given, "enabled", default),
        auth_type=_auth_type(given.get("authType", "Null")),
        auth_timeout=read_number(given.get("authTimeout")) or DEFAULT_AUTH_TIMEOUT,
        allow_multi_connection=_boolean(given, "allowMultiConnection", False),
        reuse_single_connection=_boolean(given, "reuseSingleConnection", False),
        auth_library=given.get("authLibrary", ""),
        properties=_properties(node),
    )


def _boolean(attributes: Mapping[str, str], name: str, default: bool) -> bool:
    found = read_boolean(attributes.get(name))
    return default if found is None else found


def _auth_type(text: str) -> str:
    for known in AUTH_TYPES:
        if text.lower() == known.lower():
            return known
    raise SettingsError(
        f"unknown authType {text!r}; choose one of {', '.join(AUTH_TYPES)}"
    )


def _properties(display: Node) -> dict[str, str]:
    """Collect the VRDE properties; old attributes first, real properties win."""
    given = display.attributes
    found: dict[str, str] = {}
    if given.get("port"):
        found["TCP/Ports"] = "3389" if given["port"] == "0" else given["port"]
    if given.get("netAddress"):
        found["TCP/Address"] = given["netAddress"]
    video = display.find("VideoChannel")
    if video is not None:
        enabled = read_boolean(video.attributes.get("enabled")) or False
        found["VideoChannel/Enabled"] = "true" if enabled else "false"
        quality = read_number(video.attributes.get("quality")) or 75
        found["VideoChannel/Quality"] = str(min(max(quality, 10), 100))
    found |= read_pairs(display.find("VRDEProperties"), "Property")
    return {name: value for name, value in found.items() if value}
