"""Read what a machine is made of from its settings."""

from collections.abc import Sequence
from pathlib import Path

from rusb.errors import SettingsError

from .document import Document, Node
from .drives import media
from .editor import BOOT_DEVICES
from .files import read_file
from .forwards import forwards_of
from .kept import ADAPTER, KEPT
from .model import SOUND_CARDS, Adapter, Audio, Controller, Drive, Hardware
from .network import nic_modes
from .notrun import parts_not_run
from .serialport import SerialPort, serial_port_of
from .values import read_boolean, read_number

__all__ = ["MAX_CPUS", "MAX_MEMORY", "load_hardware", "read_hardware"]

MAX_MEMORY = 4 << 20
"""MiB."""

MAX_CPUS = 64

MAX_PORTS = 256
"""Of a storage controller; more than any of VirtualBox's has."""

_KIND_OF = {"HardDisk": "hdd", "DVD": "dvd", "Floppy": "floppy"}


def load_hardware(path: Path, usb: Sequence[str] = ()) -> Hardware:
    """Read the hardware of a machine from its file; see :func:`read_hardware`."""
    document = Document(read_file(path), str(path))
    try:
        return read_hardware(document, path.parent, usb)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def read_hardware(
    document: Document, folder: Path, usb: Sequence[str] = ()
) -> Hardware:
    """Read the hardware of a machine.

    Args:
        document: its settings.
        folder: where the file is; locations of media may be relative to it.
        usb: types of its USB controllers, as ``load_machine`` found them.

    Raises:
        SettingsError: a number is beyond what a machine can have.
    """
    machine = document.find("Machine")
    hardware = document.find("Machine", "Hardware")
    if machine is None or hardware is None:
        return Hardware(usb=usb)
    described = machine.find("Description")
    acpi = hardware.find("BIOS", "ACPI")  # newer files leave out the defaults
    firmware, clock = hardware.find("Firmware"), hardware.find("RTC")
    local = clock.attributes.get("localOrUTC", "").lower() if clock else ""
    groups = (
        g.attributes.get("name") for g in _children(machine.find("Groups"), "Group")
    )
    return Hardware(
        description=described.text if described else "",
        memory=_number(hardware.find("Memory"), "RAMSize", 128, MAX_MEMORY),
        cpus=_number(hardware.find("CPU"), "count", 1, MAX_CPUS),
        acpi=not acpi or read_boolean(acpi.attributes.get("enabled")) is not False,
        boot=_boot(hardware),
        firmware=firmware.attributes.get("type", "BIOS") if firmware else "BIOS",
        is_local_time=local == "local",
        serial=_serial(hardware, folder),
        audio=_audio(hardware.find("AudioAdapter")),
        usb=usb,
        controllers=_controllers(machine, hardware, folder),
        adapters=_adapters(hardware),
        groups=tuple(name for name in groups if name) or ("/",),
        uuid=hardware.attributes.get("uuid", "").strip("{}").lower(),
        changed=machine.attributes.get("lastStateChange", ""),
        snapshots=machine.attributes.get("snapshotFolder", ""),
        kept={name: kept.to_word(hardware) for name, kept in KEPT.items()},
        not_run=parts_not_run(document),
    )


def _boot(hardware: Node) -> list[str]:
    found = list(Hardware().boot)
    words = {element: word for word, element in BOOT_DEVICES.items()}
    for order in _children(hardware.find("Boot"), "Order"):
        position = read_number(order.attributes.get("position")) or 0
        if 1 <= position <= 4:
            word = words.get(order.attributes.get("device", ""), "none")
            found[position - 1] = word
    return found


def _serial(hardware: Node, folder: Path) -> SerialPort | None:
    found = None
    for port in _children(hardware.find("UART"), "Port"):
        if port.attributes.get("slot") == "0":
            found = serial_port_of(port, folder)
    return found


def _audio(node: Node | None) -> Audio | None:
    """Read the sound card, which a file has to ask for."""
    given = node.attributes if node else {}
    if not read_boolean(given.get("enabled")):
        return None
    found, usual = given.get("controller", ""), Audio()
    return Audio(
        controller=found if found in SOUND_CARDS else usual.controller,
        driver=given.get("driver", usual.driver),
        codec=given.get("codec", usual.codec),
        has_input=read_boolean(given.get("enabledIn")) or False,
    )


def _controllers(machine: Node, hardware: Node, folder: Path) -> list[Controller]:
    images = {node.attributes["uuid"].lower(): node for node in media(machine)}
    return [
        _controller(node, images, folder)
        for parent in (hardware, machine)
        for node in _children(parent.find("StorageControllers"), "StorageController")
    ]


def _adapters(hardware: Node) -> dict[int, Adapter]:
    found = {}
    for adapter in _children(hardware.find("Network"), "Adapter"):
        slot = read_number(adapter.attributes.get("slot"))
        is_on = read_boolean(adapter.attributes.get("enabled"))
        if is_on and slot is not None and slot < 36:
            found[slot] = _adapter(adapter)
    return found


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
    mode = modes[0] if modes else None
    nat = node.find("NAT")
    mac = node.attributes.get("MACAddress", "")
    is_mac = len(mac) == 12 and all(c in "0123456789abcdefABCDEF" for c in mac)
    return Adapter(
        mode=mode.name if mode else "",
        card=node.attributes.get("type", "82540EM"),
        mac=mac if is_mac else "",
        is_linked=read_boolean(node.attributes.get("cable")) is not False,
        forwards=forwards_of(nat) if nat else (),
        network=mode.attributes.get("name", "") if mode else "",
        nat=(nat.attributes.get("network") if nat else "") or "nat",
        kept={name: kept.to_word(node) for name, kept in ADAPTER.items()},
    )


def _controller(node: Node, images: dict[str, Node], folder: Path) -> Controller:
    drives = []
    for attached in node.all("AttachedDevice"):
        image = attached.find("Image")
        number = image.attributes.get("uuid", "") if image else ""
        entry = images.get(number.lower())
        drives.append(
            Drive(
                read_number(attached.attributes.get("port")) or 0,
                read_number(attached.attributes.get("device")) or 0,
                _KIND_OF.get(attached.attributes.get("type", ""), "hdd"),
                folder / entry.attributes["location"] if entry else None,
                number.strip("{}"),
                _problem(entry) if entry else "",
            )
        )
    return Controller(
        node.attributes.get("name", ""),
        node.attributes.get("type", ""),
        min(read_number(node.attributes.get("PortCount")) or 1, MAX_PORTS),
        drives,
    )


def _problem(image: Node) -> str:
    """Why QEMU cannot use an image: it would show the guest what is not its disk."""
    if image.parent is not None and image.parent.name == image.name:
        return (
            "it belongs to a snapshot and only holds the changes since then; delete the"
            " machine's snapshots in VirtualBox, or clone the machine there"
        )
    if any(p.attributes.get("name", "")[:6] == "CRYPT/" for p in image.all("Property")):
        return "it is encrypted; remove the encryption in VirtualBox"
    return ""
