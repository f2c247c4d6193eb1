"""Read what a machine is made of from its settings, for QEMU and for showvminfo."""

from dataclasses import dataclass, field
from pathlib import Path

from rusb.errors import SettingsError
from rusb.filters.store import read_boolean, read_number

from .document import Document, Node
from .drives import BUS_OF, BUSES, media
from .editor import BOOT_DEVICES, nic_modes
from .forwards import forwards_of
from .model import Adapter, Disk, Hardware
from .serialport import SerialPort, serial_port_of

__all__ = ["Controller", "Drive", "Parts", "read_parts", "to_hardware"]

MAX_MEMORY = 4 << 20
"""MiB."""

MAX_CPUS = 64

_KIND_OF = {"HardDisk": "hdd", "DVD": "dvd", "Floppy": "floppy"}


@dataclass(slots=True)
class Drive:
    """A drive in its place.

    Attributes:
        medium: the image; None: it is empty.
        problem: why QEMU cannot use the image; empty: it can.
    """

    port: int
    device: int
    kind: str
    medium: Path | None = None
    uuid: str = ""
    problem: str = ""


@dataclass(slots=True)
class Controller:
    """A storage controller; *type* is VirtualBox's name of the chip."""

    name: str
    type: str
    ports: int
    drives: list[Drive] = field(default_factory=list)


@dataclass(slots=True)
class Parts:
    """A machine's hardware as the settings have it.

    Attributes:
        is_local_time: the clock has the host's time zone; else UTC.
        boot: four words of BOOT_DEVICES.
        adapters: by slot; those that are switched off are not there.
        uuid: what the guest sees; empty: that of the machine.
        changed: when the state changed last, as the file has it; mostly empty.
    """

    description: str = ""
    memory: int = 128
    cpus: int = 1
    acpi: bool = True
    firmware: str = "BIOS"
    is_local_time: bool = False
    boot: list[str] = field(default_factory=lambda: ["floppy", "dvd", "disk", "none"])
    controllers: list[Controller] = field(default_factory=list)
    adapters: dict[int, Adapter] = field(default_factory=dict)
    usb: tuple[str, ...] = ()
    serial: SerialPort | None = None
    groups: tuple[str, ...] = ("/",)
    uuid: str = ""
    changed: str = ""


def read_parts(document: Document, folder: Path, usb: tuple[str, ...] = ()) -> Parts:
    """Read the hardware of a machine.

    Args:
        document: its settings.
        folder: where the file is; locations of media may be relative to it.
        usb: types of its USB controllers, as ``load_machine`` found them.

    Raises:
        SettingsError: a number is beyond what a machine can have.
    """
    found = Parts(usb=usb)
    machine = document.find("Machine")
    hardware = document.find("Machine", "Hardware")
    if machine is None or hardware is None:
        return found
    described = machine.find("Description")
    found.description = described.text if described else ""
    found.memory = _number(hardware.find("Memory"), "RAMSize", 128, MAX_MEMORY)
    found.cpus = _number(hardware.find("CPU"), "count", 1, MAX_CPUS)
    acpi = hardware.find("BIOS", "ACPI")  # newer files leave out what is so anyhow
    is_on = read_boolean(acpi.attributes.get("enabled")) if acpi else None
    found.acpi = is_on is not False
    firmware = hardware.find("Firmware")
    clock = hardware.find("RTC")
    found.is_local_time = clock is not None and (
        clock.attributes.get("localOrUTC", "").lower() == "local"
    )
    found.firmware = firmware.attributes.get("type", "BIOS") if firmware else "BIOS"
    words = {element: word for word, element in BOOT_DEVICES.items()}
    for order in _children(hardware.find("Boot"), "Order"):
        position = read_number(order.attributes.get("position")) or 0
        if 1 <= position <= 4:
            word = words.get(order.attributes.get("device", ""), "none")
            found.boot[position - 1] = word
    for adapter in _children(hardware.find("Network"), "Adapter"):
        slot = read_number(adapter.attributes.get("slot"))
        is_on = read_boolean(adapter.attributes.get("enabled"))
        if is_on and slot is not None and slot < 36:
            found.adapters[slot] = _adapter(adapter)
    images = {node.attributes["uuid"].lower(): node for node in media(machine)}
    for parent in (hardware, machine):
        for node in _children(parent.find("StorageControllers"), "StorageController"):
            found.controllers.append(_controller(node, images, folder))
    for port in _children(hardware.find("UART"), "Port"):
        if port.attributes.get("slot") == "0":
            found.serial = serial_port_of(port, folder)
    groups = (
        g.attributes.get("name") for g in _children(machine.find("Groups"), "Group")
    )
    found.groups = tuple(name for name in groups if name) or ("/",)
    found.uuid = hardware.attributes.get("uuid", "").strip("{}").lower()
    found.changed = machine.attributes.get("lastStateChange", "")
    return found


def to_hardware(parts: Parts) -> Hardware:
    """Translate for QEMU.

    Raises:
        SettingsError: a storage controller that rusb does not know, or an image that
            QEMU cannot use.
    """
    disks = []
    for controller in parts.controllers:
        bus = BUS_OF.get(controller.type)
        if bus is None:
            raise SettingsError(
                f"storage controller {controller.name!r} is a {controller.type}, which"
                f" rusb does not know; there are {', '.join(BUSES)}"
            )
        for drive in controller.drives:
            place = drive.port, drive.device
            if drive.problem:
                raise SettingsError(f"{drive.medium} cannot be used: {drive.problem}")
            disks.append(Disk(bus, *place, drive.kind, drive.medium))
    return Hardware(
        memory=parts.memory,
        cpus=parts.cpus,
        acpi=parts.acpi,
        boot=parts.boot,
        firmware=parts.firmware,
        is_local_time=parts.is_local_time,
        serial=parts.serial,
        usb=parts.usb,
        disks=disks,
        adapters=parts.adapters,
    )


def _children(node: Node | None, name: str) -> list[Node]:
    return list(node.all(name)) if node else []


def _number(node: Node | None, name: str, default: int, limit: int) -> int:
    found = read_number(node.attributes.get(name)) if node else None
    if found is None:
        return default
    if not 0 < found <= limit:
        raise SettingsError(f"{name} is {found}, not 1 to {limit}")
    return found


def _adapter(node: Node) -> Adapter:
    modes = nic_modes(node)
    nat = node.find("NAT")
    mac = node.attributes.get("MACAddress", "")
    is_mac = len(mac) == 12 and all(c in "0123456789abcdefABCDEF" for c in mac)
    return Adapter(
        mode=modes[0].name if modes else "",
        card=node.attributes.get("type", "82540EM"),
        mac=mac if is_mac else "",
        is_linked=read_boolean(node.attributes.get("cable")) is not False,
        forwards=forwards_of(nat) if nat else (),
    )


def _controller(node: Node, images: dict[str, Node], folder: Path) -> Controller:
    found = Controller(
        node.attributes.get("name", ""),
        node.attributes.get("type", ""),
        read_number(node.attributes.get("PortCount")) or 1,
    )
    for attached in node.all("AttachedDevice"):
        image = attached.find("Image")
        number = image.attributes.get("uuid", "") if image else ""
        entry = images.get(number.lower())
        found.drives.append(
            Drive(
                read_number(attached.attributes.get("port")) or 0,
                read_number(attached.attributes.get("device")) or 0,
                _KIND_OF.get(attached.attributes.get("type", ""), "hdd"),
                folder / entry.attributes["location"] if entry else None,
                number.strip("{}"),
                _problem(entry) if entry else "",
            )
        )
    return found


def _problem(image: Node) -> str:
    """Why QEMU cannot use an image: it would show the guest what is not its disk."""
    if image.parent is not None and image.parent.name == image.name:
        return (
            "it belongs to a snapshot and holds what changed since then only; delete"
            " the machine's snapshots in VirtualBox, or clone the machine there"
        )
    if any(p.attributes.get("name", "")[:6] == "CRYPT/" for p in image.all("Property")):
        return "it is encrypted; take the encryption off in VirtualBox"
    return ""
