"""What a settings file asks for and a machine of rusb does not have.

Files of VirtualBox have more than QEMU is told. Nothing of it is an error: whoever
starts such a machine learns what its guest does without.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .document import Document, Node
from .model import NETWORK_CARDS
from .serialport import SERIAL_MODES
from .values import read_number

__all__ = ["parts_not_run"]


@dataclass(frozen=True, slots=True)
class _Part:
    """An attribute that asks for something.

    Attributes:
        path: of its element, in ``Hardware``.
        harmless: values, in lower case, that ask for nothing.
        text: what is missing; ``{}`` is the value.
    """

    path: str
    attribute: str
    harmless: str
    text: str


_OFF = "false 0"

_PARTS = (
    _Part(
        *("AudioAdapter", "enabledIn", _OFF),
        "microphone: QEMU's VNC server offers none",
    ),
    _Part("Chipset", "type", "piix3", "chipset {}: the guest has an i440FX and PIIX3"),
    _Part("Clipboard", "fileTransfersEnabled", _OFF, "files on the shared clipboard"),
    _Part("DragAndDrop", "mode", "disabled", "drag and drop ({})"),
    _Part("TrustedPlatformModule", "type", "none", "TPM ({}): machines have none"),
    _Part("Display", "accelerate3D", _OFF, "3D acceleration"),
    _Part("Display", "accelerate2DVideo", _OFF, "2D video acceleration"),
    _Part("Recording", "enabled", _OFF, "recording of the screen"),
    _Part("Display/VideoCapture", "enabled", _OFF, "recording of the screen"),
    _Part("VideoCapture", "enabled", _OFF, "recording of the screen"),
    _Part("CPU", "hotplug", _OFF, "adding and removing processors while it runs"),
    _Part("CPU", "executionCap", "100", "limit of {} % of a processor"),
    _Part("Guest", "memoryBalloonSize", "0", "memory balloon of {} MiB"),
    _Part("EmulatedUSB/CardReader", "enabled", _OFF, "emulated card reader"),
    _Part("BIOS/NVRAM/SecureBoot", "enabled", _OFF, "secure boot"),
    _Part(
        "Autostart",
        "enabled",
        _OFF,
        "start with the host: use the systemd unit rusb-vm@.service",
    ),
)

_KNOWN = frozenset(
    (
        *("AudioAdapter", "Autostart", "BIOS", "Boot", "CPU", "Chipset", "Clipboard"),
        *("Debugging", "Display", "DragAndDrop", "EmulatedUSB", "Firmware", "Guest"),
        *("GuestProperties", "HID", "HPET", "HardwareVirtEx", "HostPci", "IO", "LPT"),
        *("Memory", "Network", "Paravirt", "RTC", "Recording", "RemoteDisplay"),
        *("SharedFolders", "StorageControllers", "Tracing", "UART", "USB"),
        *("TrustedPlatformModule", "USBController", "VideoCapture"),
    )
)
"""Elements in ``Hardware`` that are run, judged here, or make no difference."""


def parts_not_run(document: Document) -> list[str]:
    """Name each part of a machine's settings that a guest would miss."""
    machine = document.find("Machine")
    hardware = machine.find("Hardware") if machine else None
    if machine is None or hardware is None:
        return []
    return [
        *_states(machine),
        *_attributes(hardware),
        *_folders(hardware),
        *_ports(hardware),
        *_networks(hardware),
        *_drives(machine, hardware),
        *_rest(machine, hardware),
    ]


def _is_on(node: Node) -> bool:
    return node.attributes.get("enabled", "false").lower() not in _OFF.split()


def _states(machine: Node) -> Iterator[str]:
    if machine.attributes.get("stateFile"):
        yield "saved state: the guest starts as if after a power cut"
    if snapshots := list(machine.all("Snapshot")):
        names = ", ".join(node.attributes.get("name", "") for node in snapshots)
        yield f"snapshots ({names}): the machine runs in its current state"


def _attributes(hardware: Node) -> Iterator[str]:
    for part in _PARTS:
        node = hardware.find(*part.path.split("/"))
        value = node.attributes.get(part.attribute) if node else None
        if value and value.lower() not in part.harmless.split():
            yield part.text.format(value)
    firmware = hardware.find("Firmware")
    is_efi = firmware is not None and firmware.attributes.get("type", "")[:3] == "EFI"
    if is_efi and hardware.find("BIOS", "NVRAM") is not None:
        yield "NVRAM: the firmware forgets its boot entries when the machine is off"


def _folders(hardware: Node) -> Iterator[str]:
    shared = hardware.find("SharedFolders")
    if names := [n.attributes.get("name", "") for n in _all(shared, "SharedFolder")]:
        yield f"shared folders ({', '.join(names)}): rusb has no Guest Additions"


def _ports(hardware: Node) -> Iterator[str]:
    for port in filter(_is_on, _all(hardware.find("UART"), "Port")):
        given = port.attributes
        slot, mode = given.get("slot", ""), given.get("hostMode", "")
        number = (read_number(slot) or 0) + 1
        if slot != "0":
            yield f"serial port {number}: machines only have the first one"
        elif mode not in ("", "Disconnected", *(m for m, _ in SERIAL_MODES.values())):
            place = given.get("path", mode)
            yield f"serial port 1 on {place}: devices of the host are not supported"
        elif read_number(given.get("IOBase", "0x3f8")) != 0x3F8:
            yield f"serial port 1 at {given['IOBase']}: it is always at 0x3f8"
    for port in filter(_is_on, _all(hardware.find("LPT"), "Port")):
        number = (read_number(port.attributes.get("slot")) or 0) + 1
        yield f"parallel port {number}"


def _networks(hardware: Node) -> Iterator[str]:
    for adapter in filter(_is_on, _all(hardware.find("Network"), "Adapter")):
        given = adapter.attributes
        where = f"network adapter {(read_number(given.get('slot')) or 0) + 1}"
        if (card := given.get("type", "82540EM")) not in NETWORK_CARDS:
            yield f"{where}: card {card}: the guest has an Intel 82540EM"
        if given.get("trace", "false").lower() not in _OFF.split():
            yield f"{where}: tracing of its traffic"
        if given.get("bandwidthGroup"):
            yield f"{where}: limit of its bandwidth"
        nat = adapter.find("NAT")
        if nat is None:
            continue
        if network := nat.attributes.get("network"):
            yield f"{where}: network {network}: it is always 10.0.2.0/24"
        if nat.find("TFTP") is not None:
            yield f"{where}: TFTP server"


def _drives(machine: Node, hardware: Node) -> Iterator[str]:
    for parent in (hardware, machine):
        controllers = parent.find("StorageControllers")
        for controller in _all(controllers, "StorageController"):
            for drive in _all(controller, "AttachedDevice"):
                host = drive.find("HostDrive")
                if host is not None:
                    path = host.attributes.get("src", "")
                    yield f"drive of the host ({path}): the guest has an empty drive"


def _rest(machine: Node, hardware: Node) -> Iterator[str]:
    for device in _all(hardware.find("HostPci", "Devices"), "Device"):
        yield f"PCI device of the host ({device.attributes.get('host', '')})"
    keys = [
        node.attributes.get("name", "")
        for node in _all(machine.find("ExtraData"), "ExtraDataItem")
    ]
    if mine := [key for key in keys if key.startswith("VBoxInternal")]:
        yield f"extra data for the internals of VirtualBox ({', '.join(mine)})"
    for node in hardware.children:
        if node.name not in _KNOWN:
            yield f"<{node.name}>, which rusb does not know"


def _all(node: Node | None, name: str) -> Iterator[Node]:
    return node.all(name) if node else iter(())
