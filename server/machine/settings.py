"""Read the settings of a machine: ``.vbox`` files, versions 1.3 to 1.19.

filters.md part 2. Unknown elements and attributes are ignored; entities, document types
and files of unreasonable size are refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from rusb.errors import FilterError, SettingsError
from rusb.filters.model import Filter
from rusb.filters.store import from_attributes, read_boolean, read_number

__all__ = ["FEATURES", "Machine", "RemoteDisplay", "load_machine", "parse_version"]

MAX_SIZE = 4 << 20
"""Bytes of a settings file; a large one with snapshots has some hundred KiB."""

MAX_FILTERS = 1024
"""Filters of one machine."""

MAX_MONITORS = 64
"""Screens of a machine (VirtualBox's limit)."""

NAMESPACE = "{http://www.virtualbox.org/}"
OLDEST, NEWEST = (1, 3), (1, 19)

FEATURES = ("Display", "Input", "Audio", "USB", "Clipboard")
"""Features with switches in the extra data, too (vrdp-server.md 4.4)."""

CONTROLLERS = ("OHCI", "EHCI", "XHCI")
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


@dataclass(slots=True)
class Machine:
    """What rusb knows of a virtual machine.

    Attributes:
        usb_controllers: their types; without any, no device is attached.
        monitors: screens that ``@N`` can choose from, 1 to 64.
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
    monitors: int = 1

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
            version that is not known, or a value in it is wrong; the message says
            where, and what to do.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise SettingsError(
            f"cannot read the machine's settings {path}: {error.strerror};"
            " name a .vbox file"
        ) from error
    if len(data) > MAX_SIZE:
        raise SettingsError(
            f"{path} is larger than {MAX_SIZE >> 20} MiB: not a machine"
        )
    root = _parse(path, data)
    try:
        return _read(path, root)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _parse(path: Path, data: bytes) -> etree._Element:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise SettingsError(
            f"{path} is not XML: {error.msg}; is it really a machine's .vbox file?"
        ) from error
    if root.getroottree().docinfo.doctype:
        raise SettingsError(
            f"{path} has a DOCTYPE, which no settings file has; remove that line"
        )
    return root


def _children(parent: etree._Element | None, name: str) -> Iterator[etree._Element]:
    if parent is not None:
        yield from parent.iterchildren(NAMESPACE + name)


def _child(parent: etree._Element | None, *names: str) -> etree._Element | None:
    for name in names:
        parent = next(_children(parent, name), None)
    return parent


def _attributes(element: etree._Element) -> dict[str, str]:
    return {str(k): str(v) for k, v in element.attrib.items()}


def _read(path: Path, root: etree._Element) -> Machine:
    if root.tag != NAMESPACE + "VirtualBox":
        raise SettingsError(
            f"the root element is <{etree.QName(root).localname}>, not <VirtualBox> of"
            " http://www.virtualbox.org/: this is not a machine's .vbox file"
        )
    version = parse_version(root.get("version", ""))
    element = _child(root, "Machine")
    if element is None:
        if _child(root, "Global") is not None:
            raise SettingsError(
                "these are the global settings; name the .vbox file of a machine"
            )
        raise SettingsError(
            "there is no <Machine> in it (an encrypted machine?); rusb cannot use it"
        )
    hardware = _child(element, "Hardware")
    return Machine(
        name=element.get("name") or path.stem,
        uuid=(element.get("uuid") or "").strip("{}"),
        os_type=element.get("OSType") or "",
        version=version,
        path=path,
        filters=_filters(hardware, version),
        usb_controllers=_controllers(hardware, version),
        remote_display=_display(_child(hardware, "RemoteDisplay"), version),
        extra_data=_pairs(_child(element, "ExtraData"), "ExtraDataItem"),
        monitors=_monitors(_child(hardware, "Display")),
    )


def parse_version(text: str) -> tuple[int, int]:
    """Read the version of a settings file: ``1.18-linux`` is (1, 18).

    Raises:
        SettingsError: it is none, or not known.
    """
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:-|$)", text)
    if match is None:
        raise SettingsError(f"settings version {text!r} is not MAJOR.MINOR-platform")
    version = int(match[1]), int(match[2])
    if not OLDEST <= version <= NEWEST:
        raise SettingsError(
            f"settings version {match[1]}.{match[2]} is not known (1.3 to 1.19 are)"
        )
    return version


def _pairs(parent: etree._Element | None, name: str) -> dict[str, str]:
    """Read name and value of each child; later ones win."""
    found = {}
    for item in _children(parent, name):
        key, value = item.get("name"), item.get("value")
        if key is None or value is None:
            raise SettingsError(
                f"line {item.sourceline}: <{name}> needs both name and value"
            )
        found[key] = value
    return found


def _monitors(element: etree._Element | None) -> int:
    """Read how many screens there are; the attribute is called either way."""
    for name in ("monitorCount", "MonitorCount"):
        if element is not None and (count := read_number(element.get(name))):
            return min(count, MAX_MONITORS)
    return 1


# --------------------------------------------------------------------- USB ----


def _has_old_form(hardware: etree._Element | None, version: tuple[int, int]) -> bool:
    return version <= (1, 14) and _child(hardware, "USBController") is not None


def _controllers(
    hardware: etree._Element | None, version: tuple[int, int]
) -> tuple[str, ...]:
    found = []
    for controller in _children(_child(hardware, "USB", "Controllers"), "Controller"):
        kind = controller.get("type", "")
        if kind not in CONTROLLERS:
            raise SettingsError(
                f"line {controller.sourceline}: USB controller type {kind!r}; there are"
                f" {', '.join(CONTROLLERS)}"
            )
        found.append(kind)
    if _has_old_form(hardware, version):
        old = _child(hardware, "USBController")
        assert old is not None
        enabled = read_boolean(old.get("enabled")) or False
        ehci = read_boolean(old.get("enabledEhci"))
        found += ["OHCI"] if enabled else []
        found += ["EHCI"] if (enabled if ehci is None else ehci) else []  # D5
    return tuple(dict.fromkeys(found))


def _filters(
    hardware: etree._Element | None, version: tuple[int, int]
) -> tuple[Filter, ...]:
    elements = list(_children(_child(hardware, "USB", "DeviceFilters"), "DeviceFilter"))
    if _has_old_form(hardware, version):
        elements += _children(_child(hardware, "USBController"), "DeviceFilter")
    if len(elements) > MAX_FILTERS:
        raise SettingsError(f"{len(elements)} USB filters; {MAX_FILTERS} are allowed")
    found = []
    for number, element in enumerate(elements):
        attributes = _attributes(element)
        try:
            made = from_attributes(attributes)
        except FilterError as error:
            name = attributes.get("name", "")
            raise SettingsError(
                f'line {element.sourceline}: USB filter {number} "{name}": {error}'
            ) from error
        if made is not None:
            found.append(made)
    return tuple(found)


# ---------------------------------------------------------- remote display ----


def _display(element: etree._Element | None, version: tuple[int, int]) -> RemoteDisplay:
    default = version < (1, 16)
    if element is None:
        return RemoteDisplay(enabled=default)
    attributes = _attributes(element)
    return RemoteDisplay(
        enabled=_boolean(attributes, "enabled", default),
        auth_type=_auth_type(attributes.get("authType", "Null")),
        auth_timeout=read_number(attributes.get("authTimeout")) or DEFAULT_AUTH_TIMEOUT,
        allow_multi_connection=_boolean(attributes, "allowMultiConnection", False),
        reuse_single_connection=_boolean(attributes, "reuseSingleConnection", False),
        auth_library=attributes.get("authLibrary", ""),
        properties=_properties(element, attributes),
    )


def _boolean(attributes: Mapping[str, str], name: str, default: bool) -> bool:
    found = read_boolean(attributes.get(name))
    return default if found is None else found


def _auth_type(text: str) -> str:
    for known in AUTH_TYPES:
        if text.lower() == known.lower():
            return known
    raise SettingsError(f"authType {text!r}; there are {', '.join(AUTH_TYPES)}")


def _properties(
    element: etree._Element, attributes: Mapping[str, str]
) -> dict[str, str]:
    """Collect the VRDE properties; old attributes first, real properties win."""
    found: dict[str, str] = {}
    if attributes.get("port"):
        found["TCP/Ports"] = "3389" if attributes["port"] == "0" else attributes["port"]
    if attributes.get("netAddress"):
        found["TCP/Address"] = attributes["netAddress"]
    video = _child(element, "VideoChannel")
    if video is not None:
        enabled = read_boolean(video.get("enabled")) or False
        found["VideoChannel/Enabled"] = "true" if enabled else "false"
        quality = read_number(video.get("quality")) or 75
        found["VideoChannel/Quality"] = str(min(max(quality, 10), 100))
    found |= _pairs(_child(element, "VRDEProperties"), "Property")
    return {name: value for name, value in found.items() if value}
