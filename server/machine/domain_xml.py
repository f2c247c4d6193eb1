"""The domain of libvirt that is the same machine as a QEMU command line.

What rusb asks of the machine while it runs goes to monitors and screens of its own,
which libvirt passes on to QEMU as arguments. Devices that rusb names while it runs have
aliases of ours (``ua-…``), which are QEMU's names of them, too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from ..vbox.model import (
    NETWORK_CARDS,
    Adapter,
    Drive,
    Hardware,
    disk_format,
    place_of,
)
from ..vbox.serialport import SerialPort
from .command_line import (
    boot_order,
    check_adapter,
    check_drive,
    emulator,
    find_firmware,
    mac_of,
    serial_address,
)

__all__ = ["card_of", "domain_xml", "netdev_of"]

BOOT = {"floppy": "fd", "disk": "hd", "dvd": "cdrom", "net": "network"}

USB = {
    "OHCI": ("pci-ohci", ("num-ports", "unsigned", "15")),
    "EHCI": ("ehci", None),
    "XHCI": ("qemu-xhci", ("streams", "bool", "false")),
}
"""Model of a controller, and the property of it that libvirt does not know."""

SOUND = {"AC97": "ac97", "HDA": "ich6", "SB16": "sb16"}

BUSES = {"floppy": "fdc"}
"""libvirt's names of buses that are not ours."""

LETTERS = {"ide": "hd", "floppy": "fd", "virtio": "vd"}
"""How the names of disks begin; those of other buses share ``sd``."""

DEVICES = {"dvd": "cdrom", "hdd": "disk", "floppy": "floppy"}

STORAGE = "ua-usbdisks"
"""The controller of USB disks of the machine's own."""


def netdev_of(slot: int) -> str:
    """QEMU's name of the network of an adapter."""
    return f"host{card_of(slot)}"


def card_of(slot: int) -> str:
    """QEMU's name of the card of an adapter."""
    return f"ua-nic{slot}"


def domain_xml(
    name: str,
    uuid: str,
    hardware: Hardware,
    monitors: Sequence[Path],
    *,
    screens: Sequence[Path] = (),
    accelerator: str = "tcg",
    incoming: str = "",
) -> str:
    """Return the domain of a machine; the arguments are those of ``qemu_command``.

    Raises:
        SettingsError: the machine cannot be that; the message says what to do.
    """
    type = "kvm" if accelerator == "kvm" else "qemu"
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    root = Element("domain", {"type": type, "xmlns:qemu": namespace})
    _add(root, "name", name)
    _add(root, "uuid", uuid.strip("{}"))
    _add(root, "memory", str(hardware.memory), unit="MiB")
    _add(root, "vcpu", str(hardware.cpus))
    system = _add(root, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="pc")
    if hardware.firmware.upper().startswith("EFI"):
        kind = {"type": "pflash", "readonly": "yes", "stateless": "yes"}
        _add(system, "loader", find_firmware(), **kind)
    for word in boot_order(hardware):
        _add(system, "boot", dev=BOOT[word])
    features = _add(root, "features")
    if hardware.acpi:
        _add(features, "acpi")
    _add(root, "cpu", mode="maximum")
    _add(root, "clock", offset="localtime" if hardware.is_local_time else "utc")
    devices = _add(root, "devices")
    _add(devices, "emulator", emulator())
    usb = list(dict.fromkeys(hardware.usb))
    _add_controllers(devices, usb, hardware)
    _add_drives(devices, hardware.drives(), usb_index=len(usb))
    for slot, adapter in sorted(hardware.adapters.items()):
        _add_adapter(devices, slot, adapter)
    if hardware.serial is not None:
        _add_serial(devices, hardware.serial)
    _add_screens(devices, len(screens), has_usb=bool(usb))
    if hardware.audio is not None:
        _add(devices, "sound", model=SOUND.get(hardware.audio.controller, "ac97"))
    _add(devices, "audio", id="1", type="none")
    _add(devices, "memballoon", model="none")
    command = _add(root, "qemu:commandline")
    has_sound = hardware.audio is not None
    for argument in _arguments(monitors, screens, usb=bool(usb), has_sound=has_sound):
        _add(command, "qemu:arg", value=argument)
    for argument in ("-incoming", incoming) if incoming else ():
        _add(command, "qemu:arg", value=argument)
    properties = {f"ua-usb{n}": USB[kind][1] for n, kind in enumerate(usb)}
    _add_overrides(root, properties)
    return tostring(root, encoding="unicode")


def _add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    made = SubElement(parent, tag, attributes)
    made.text = text or None
    return made


def _add_controllers(devices: Element, usb: Sequence[str], hardware: Hardware) -> None:
    for number, kind in enumerate(usb):
        model = USB[kind][0]
        ports = {"ports": "15"} if kind == "XHCI" else {}
        made = _add(
            devices, "controller", type="usb", index=str(number), model=model, **ports
        )
        _add(made, "alias", name=f"ua-usb{number}")
    buses = {bus for bus, _ in hardware.drives()}
    if "usb" in buses:
        index = str(len(usb))
        made = _add(
            devices, "controller", type="usb", index=index, model="qemu-xhci", ports="8"
        )
        _add(made, "alias", name=STORAGE)
    elif not usb:
        _add(devices, "controller", type="usb", model="none")
    if "scsi" in buses:
        _add(devices, "controller", type="scsi", index="0", model="lsilogic")


def _add_drives(
    devices: Element, drives: Sequence[tuple[str, Drive]], *, usb_index: int
) -> None:
    used: dict[str, int] = {}
    for bus, drive in drives:
        check_drive(drive)
        place = place_of(bus, drive.port, drive.device)
        disk = _add(devices, "disk", type="file", device=DEVICES[drive.kind])
        if drive.medium is not None:
            _add(disk, "driver", name="qemu", type=disk_format(drive.medium))
            _add(disk, "source", file=str(drive.medium.absolute()))
        letters = LETTERS.get(bus, "sd")
        number = used.get(letters, 0)
        used[letters] = number + 1
        name = letters + chr(ord("a") + number)
        _add(disk, "target", dev=name, bus=BUSES.get(bus, bus))
        if drive.kind == "dvd":
            _add(disk, "readonly")
        if bus == "usb":
            where = {"bus": str(usb_index), "port": str(place + 1)}
            _add(disk, "address", type="usb", **where)
        elif bus != "virtio":
            if bus == "ide":
                where = {"bus": str(drive.port), "unit": str(drive.device)}
            else:
                where = {"bus": "0", "unit": str(place)}
            _add(disk, "address", type="drive", controller="0", target="0", **where)


def _add_adapter(devices: Element, slot: int, adapter: Adapter) -> None:
    check_adapter(slot, adapter)
    made = _add(devices, "interface", type="user")
    if adapter.mac:
        _add(made, "mac", address=mac_of(adapter))
    model = NETWORK_CARDS.get(adapter.card, "e1000").removesuffix("-net-pci")
    _add(made, "model", type=model)
    if not adapter.mode:
        _add(made, "link", state="down")
    _add(made, "alias", name=card_of(slot))


def _add_serial(devices: Element, serial: SerialPort) -> None:
    host, port = serial_address(serial)
    mode = "bind" if serial.is_server else "connect"
    if serial.mode == "RawFile":
        _add(_add(devices, "serial", type="file"), "source", path=serial.path)
    elif port:
        made = _add(devices, "serial", type="tcp")
        _add(made, "source", mode=mode, host=host, service=str(port))
        _add(made, "protocol", type="raw")
    else:
        made = _add(devices, "serial", type="unix")
        _add(made, "source", mode=mode, path=serial.path)


def _add_screens(devices: Element, heads: int, *, has_usb: bool) -> None:
    """Add the card, the tablet and where spice-vdagent finds the clipboard."""
    card = {"type": "virtio", "heads": str(heads)} if heads > 1 else {"type": "vga"}
    _add(_add(devices, "video"), "model", **card)
    if has_usb and heads < 2:
        tablet = _add(devices, "input", type="tablet", bus="usb")
        _add(tablet, "address", type="usb", bus="0")
    if heads:
        agent = _add(devices, "channel", type="qemu-vdagent")
        source = _add(agent, "source")
        _add(source, "clipboard", copypaste="yes")
        _add(source, "mouse", mode="server")
        _add(agent, "target", type="virtio", name="com.redhat.spice.0")


def _arguments(
    monitors: Sequence[Path], screens: Sequence[Path], *, usb: bool, has_sound: bool
) -> Iterator[str]:
    """Yield what libvirt has no words for: monitors and screens of ours."""
    for path in monitors:
        yield from ("-qmp", f"unix:{_escaped(path)},server=on,wait=off")
    for head, path in enumerate(screens):
        place = f"unix:{_escaped(path)},id=screen{head},display=video0"
        if len(screens) > 1:
            place += f",head={head}"
        if has_sound and not head:
            place += ",audiodev=audio1"
        yield from ("-vnc", place)
    if usb and len(screens) > 1:  # JSON, as libvirt says its own: made in this order
        for head in range(len(screens)):
            tablet = {"driver": "usb-tablet", "bus": "ua-usb0.0", "head": head}
            yield from ("-device", json.dumps(tablet | {"display": "video0"}))


def _add_overrides(
    root: Element, properties: Mapping[str, tuple[str, str, str] | None]
) -> None:
    override = _add(root, "qemu:override")
    for alias, found in properties.items():
        if found is not None:
            name, type, value = found
            device = _add(override, "qemu:device", alias=alias)
            place = _add(device, "qemu:frontend")
            _add(place, "qemu:property", name=name, type=type, value=value)
    if not len(override):
        root.remove(override)


def _escaped(path: Path) -> str:
    """Double the commas, which separate QEMU's options."""
    return str(path).replace(",", ",,")
