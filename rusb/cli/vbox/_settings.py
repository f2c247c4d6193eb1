"""The settings of a machine as ``showvminfo`` shows them, to people and to programs."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rusb.server.state import MachineState
from rusb.server.vbox.kept import KEPT
from rusb.server.vbox.model import (
    BUS_OF,
    Audio,
    Controller,
    Drive,
    Hardware,
    ports_of,
)
from rusb.server.vbox.registry import Entry
from rusb.server.vbox.serialport import SERIAL_MODES, SerialPort
from rusb.server.vbox.settings import Machine
from rusb.server.vbox.teleporter import Teleporter
from rusb.server.vbox.values import read_number

from . import _ostypes
from ._media import DRIVERS

__all__ = [
    "MODES",
    "Row",
    "adapter_rows",
    "device_rows",
    "drive_rows",
    "machine_rows",
    "quoted",
]


@dataclass(frozen=True, slots=True)
class Row:
    """A setting in both forms.

    Attributes:
        label: for people; empty: they do not see it.
        text: for people; it may be another one than the value.
        key: for programs; empty: they do not see it.
        value: a number stands without quotes.
        is_drive: people see it without a column for labels.
    """

    label: str
    text: str
    key: str = ""
    value: str | int = ""
    is_drive: bool = False


def quoted(value: object) -> str:
    """Return a value, or a key, as programs read it (3.7)."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


_BOOT = {
    "none": "Not Assigned",
    "floppy": "Floppy",
    "dvd": "DVD",
    "disk": "HardDisk",
    "net": "Network",
}
_MENU = {
    "disabled": "disabled",
    "menuonly": "menu only",
    "messageandmenu": "message and menu",
}
_TYPES = {"AHCI": "IntelAhci", "VirtioSCSI": "VirtIO"}
"""Chips whose name in files is another one than that of VBoxManage."""

MODES = {
    "": "null",
    "NAT": "nat",
    "BridgedInterface": "bridged",
    "HostOnlyInterface": "hostonly",
    "HostOnlyNetwork": "hostonlynetwork",
    "InternalNetwork": "intnet",
    "NATNetwork": "natnetwork",
    "GenericInterface": "generic",
}
"""Element of a network adapter that says how it is attached; VBoxManage's word."""

_NAMED = {
    "BridgedInterface": "bridgeadapter",
    "HostOnlyInterface": "hostonlyadapter",
    "HostOnlyNetwork": "hostonly-network",
    "InternalNetwork": "intnet",
    "NATNetwork": "nat-network",
}
"""Those with a name, and its key."""

_POINTING = {
    "ps2": ("PS/2 Mouse", "ps2mouse"),
    "usb": ("USB Mouse", "usbmouse"),
    "usbtablet": ("USB Tablet", "usbtablet"),
    "usbmultitouch": ("USB Multi-Touch", "usbmultitouch"),
}
_KEYBOARD = {"ps2": ("PS/2 Keyboard", "ps2kbd"), "usb": ("USB Keyboard", "usbkbd")}


def _switch(label: str, key: str, word: str) -> Row:
    text = {"on": "enabled", "off": "disabled"}.get(word, word)
    return Row(label, text, key, word)


def _same(label: str, key: str, value: str | int) -> Row:
    return Row(label, str(value), key, value)


def _size(label: str, key: str, value: int) -> Row:
    return Row(label, f"{value}MB", key, value)


def machine_rows(
    entry: Entry,
    machine: Machine,
    hardware: Hardware,
    live: MachineState | None,
) -> Iterator[Row]:
    """Yield what comes before the storage controllers."""
    folder = entry.path.parent
    yield _same("Name", "name", machine.name)
    yield _same("Groups", "groups", ",".join(hardware.groups))
    yield _same("Guest OS", "ostype", _ostypes.describe(machine.os_type))
    yield _same("UUID", "UUID", entry.uuid)
    yield _same("Config file", "CfgFile", str(entry.path))
    place = folder / (hardware.snapshots or "Snapshots")
    yield _same("Snapshot folder", "SnapFldr", str(place))
    yield _same("Log folder", "LogFldr", str(folder / "Logs"))
    yield _same("Hardware UUID", "hardwareuuid", hardware.uuid or entry.uuid)
    yield _size("Memory size", "memory", hardware.memory)
    yield _switch("Page Fusion", "pagefusion", "off")
    memory = read_number(hardware.kept["vram"]) or 0
    yield _size("VRAM size", "vram", memory)
    yield Row("CPU exec cap", "100%", "cpuexecutioncap", 100)
    yield from _processor_rows(hardware)
    yield from _firmware_rows(hardware)
    yield _virtual("Hardware Virtualization", "hwvirtex", hardware)
    yield _virtual("Nested Paging", "nested-paging", hardware)
    yield _virtual("Large Pages", "large-pages", hardware)
    yield _virtual("VT-x VPID", "vtx-vpid", hardware)
    yield _virtual("VT-x Unrestricted Exec.", "vtx-ux", hardware)
    word = hardware.kept["paravirt-provider"]
    yield Row("Paravirt. Provider", word.capitalize(), "paravirtprovider", word)
    yield from _state_rows(entry, hardware, live)
    word = hardware.kept["graphicscontroller"]
    names = KEPT["graphicscontroller"].words
    text = names.get(word, word) if isinstance(names, dict) else word
    yield Row("Graphics Controller", text, "graphicscontroller", word)
    yield _same("Monitor count", "monitorcount", machine.monitors)
    yield _switch("3D Acceleration", "accelerate3d", "off")
    yield _switch("2D Video Acceleration", "accelerate2dvideo", "off")
    yield from _teleporter_rows(machine.teleporter)
    yield _switch("Autostart Enabled", "autostart-enabled", "off")
    yield _same("Default Frontend", "defaultfrontend", "headless")


def _teleporter_rows(found: Teleporter) -> Iterator[Row]:
    """Of the password they only see whether there is one."""
    yield _switch(
        "Teleporter Enabled", "teleporterenabled", "on" if found.enabled else "off"
    )
    if found == Teleporter():
        return
    yield _same("Teleporter Port", "teleporterport", found.port)
    yield _same("Teleporter Address", "teleporteraddress", found.address)
    is_set = "set" if found.password else "not set"
    yield _same("Teleporter Password", "teleporterpassword", is_set)


def _virtual(label: str, name: str, hardware: Hardware) -> Row:
    return _switch(label, name.replace("-", ""), hardware.kept[name])


def _processor_rows(hardware: Hardware) -> Iterator[Row]:
    yield _virtual("HPET", "hpet", hardware)
    yield _same("CPUProfile", "cpu-profile", "host")
    yield _same("Chipset", "chipset", "piix3")
    yield _same("Firmware", "firmware", hardware.firmware)
    yield _same("Number of CPUs", "cpus", hardware.cpus)
    yield _virtual("PAE", "pae", hardware)
    yield _virtual("Long Mode", "long-mode", hardware)
    yield _virtual("Triple Fault Reset", "triple-fault-reset", hardware)
    yield _virtual("APIC", "apic", hardware)
    yield _virtual("X2APIC", "x2apic", hardware)
    word = hardware.kept["nested-hw-virt"]
    yield _switch("Nested VT-x/AMD-V", "nested-hw-virt", word)
    yield _same("CPUID Portability Level", "cpuid-portability-level", 0)


def _firmware_rows(hardware: Hardware) -> Iterator[Row]:
    word = hardware.kept["bios-boot-menu"]
    yield Row("Boot menu mode", _MENU.get(word, word), "bootmenu", word)
    for position, device in enumerate(hardware.boot, 1):
        key = f"boot{position}"
        yield Row(f"Boot Device {position}", _BOOT[device], key, device)
    yield _switch("ACPI", "acpi", "on" if hardware.acpi else "off")
    yield _switch("IOAPIC", "ioapic", "on")
    yield Row("BIOS APIC mode", "APIC", "biosapic", "apic")
    yield Row("Time offset", "0ms", "biossystemtimeoffset", 0)
    clock = ("local time", "off") if hardware.is_local_time else ("UTC", "on")
    yield Row("RTC", clock[0], "rtcuseutc", clock[1])


def _state_rows(
    entry: Entry, hardware: Hardware, live: MachineState | None
) -> Iterator[Row]:
    state = "powered off" if live is None else live.state
    since = _since(entry, hardware, live)
    word = "poweroff" if live is None else state
    yield Row("State", f"{state} (since {since})", "VMState", word)
    yield Row("", "", "VMStateChangeTime", since)


def _since(entry: Entry, hardware: Hardware, live: MachineState | None) -> str:
    """When the state changed last: as the file says, or what we did later.

    A machine that was running has its log closed when it goes off.
    """
    if live is not None and live.started is not None:
        return _time(live.started)
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z?", hardware.changed)
    noted = f"{found[1]}.000000000" if found else ""
    for path in (entry.path.parent / "Logs" / "VBox.log", entry.path):
        if path.exists() and (path != entry.path or not noted):
            return max(noted, _time(path.stat().st_mtime))
    return noted


def _time(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.000000000")


# ----------------------------------------------------------------- storage ----


def drive_rows(hardware: Hardware) -> Iterator[Row]:
    """Yield storage controllers, then drives."""
    for number, controller in enumerate(hardware.controllers):
        kind = _TYPES.get(controller.type, controller.type)
        most, _ = _ports(controller)
        for label, key, value in (
            ("Name", "name", controller.name),
            ("Type", "type", kind),
            ("Instance Number", "instance", str(number)),
            ("Max Port Count", "maxportcount", str(max(most, controller.ports))),
            ("Port Count", "portcount", str(controller.ports)),
            ("Bootable", "bootable", "on"),
        ):
            place = f"storagecontroller{key}{number}"
            yield Row(f"Storage Controller {label} ({number})", value, place, value)
    for controller in hardware.controllers:
        yield from _places(controller)


def _ports(controller: Controller) -> tuple[int, int]:
    bus = BUS_OF.get(controller.type)
    return ports_of(bus) if bus else (controller.ports, 1)


def _places(controller: Controller) -> Iterator[Row]:
    """Yield each place of a controller; people see those with a drive."""
    _, devices = _ports(controller)
    there = {(drive.port, drive.device): drive for drive in controller.drives}
    free = {(p, d) for p in range(controller.ports) for d in range(devices)}
    for port, device in sorted(there.keys() | free):
        drive = there.get((port, device))
        key = quoted(f"{controller.name}-{port}-{device}")
        if drive is None:
            yield Row("", "", key, "none")
        else:
            yield from _drive(controller, drive, key)


def _drive(controller: Controller, drive: Drive, key: str) -> Iterator[Row]:
    place = f"{drive.port}-{drive.device}"
    medium = str(drive.medium) if drive.medium else ""
    uuid = f" (UUID: {drive.uuid})" if drive.uuid else ""
    label = f"{controller.name} ({drive.port}, {drive.device})"
    text = f"{medium or 'Empty'}{uuid}"
    yield Row(label, text, key, medium or "emptydrive", is_drive=True)
    if drive.uuid:
        key = quoted(f"{controller.name}-ImageUUID-{place}")
        yield Row("", "", key, drive.uuid)
    if drive.kind != "hdd":
        key = quoted(f"{controller.name}-IsEjected-{place}")
        yield Row("", "", key, "off")


# ----------------------------------------------------------------- network ----


def adapter_rows(hardware: Hardware, live: MachineState | None) -> Iterator[Row]:
    """Yield the network adapters, each followed by the ports that are forwarded."""
    for slot in range(8):
        number, adapter = slot + 1, hardware.adapters.get(slot)
        if adapter is None:
            yield Row(f"NIC {number}", "disabled", f"nic{number}", "none")
            continue
        kept, name = adapter.kept, adapter.network
        speed = kept["nic-speed"]
        if key := _NAMED.get(adapter.mode):
            yield Row("", "", f"{key}{number}", name)
        if adapter.mode == "NAT":
            yield Row("", "", f"natnet{number}", adapter.nat)
        links = (live and live.links) or {}
        cable = "on" if links.get(str(slot), adapter.is_linked) else "off"
        yield Row("", "", f"macaddress{number}", adapter.mac.upper())
        yield Row("", "", f"cableconnected{number}", cable)
        mode = MODES.get(adapter.mode, adapter.mode.lower())
        attachment = adapter.mode or "none"
        yield Row(
            f"NIC {number}",
            f"MAC: {adapter.mac.upper()}, Attachment: {attachment}"
            f"{f' {name!r}' if name else ''}, Cable connected: {cable}, Trace: off"
            f" (file: none), Type: {adapter.card}, Reported speed:"
            f" {int(read_number(speed) or 0) // 1000} Mbps, Boot priority:"
            f" {kept['nic-boot-prio']}, Promisc Policy:"
            f" {kept['nic-promisc']}, Bandwidth group: none",
            f"nic{number}",
            mode,
        )
        yield Row("", "", f"nictype{number}", adapter.card)
        yield Row("", "", f"nicspeed{number}", speed)
        rules = [str(rule) for rule in adapter.forwards]
        if live is not None and live.forwards is not None:
            rules = list(live.forwards.get(str(slot), ()))
        for index, rule in enumerate(rules):  # Vagrant reads it after the adapter
            yield _forward_row(number, index, rule)


def _forward_row(number: int, index: int, rule: str) -> Row:
    names = ("name", "protocol", "host ip", "host port", "guest ip", "guest port")
    pairs = zip(names, rule.split(","), strict=False)
    text = ", ".join(f"{name} = {word}" for name, word in pairs)
    return Row(f"NIC {number} Rule({index})", text, f"Forwarding({index})", rule)


# ------------------------------------------------------------------ devices ----


def device_rows(machine: Machine, hardware: Hardware) -> Iterator[Row]:
    """Yield what comes after the network adapters."""
    for label, key, name, words in (
        ("Pointing Device", "hidpointing", "mouse", _POINTING),
        ("Keyboard Device", "hidkeyboard", "keyboard", _KEYBOARD),
    ):
        word = hardware.kept[name]
        text, value = words.get(word, (word, word))
        yield Row(label, text, key, value)
    if hardware.serial is None:
        yield Row("UART 1", "disabled", "uart1", "off")
    else:
        mode, path = _mode(hardware.serial), hardware.serial.path
        text = f"I/O base: 0x03f8, IRQ: 4, attached to {mode} '{path}', 16550A"
        yield Row("UART 1", text, "uart1", "0x03f8,4")
        yield Row("", "", "uartmode1", f"{mode},{path}")
        yield Row("", "", "uarttype1", "16550A")
    for number in (2, 3, 4):
        yield _switch(f"UART {number}", f"uart{number}", "off")
    for number in (1, 2):
        yield _switch(f"LPT {number}", f"lpt{number}", "off")
    yield from _audio_rows(machine, hardware.audio)
    text = _CLIPBOARD.get(machine.clipboard, machine.clipboard)
    yield Row("Clipboard Mode", text, "clipboard", machine.clipboard)
    yield Row("Drag and drop Mode", "disabled", "draganddrop", "disabled")


_CLIPBOARD = {
    "hosttoguest": "HostToGuest",
    "guesttohost": "GuestToHost",
    "bidirectional": "Bidirectional",
}


def _audio_rows(machine: Machine, audio: Audio | None) -> Iterator[Row]:
    if audio is None:
        yield Row("Audio", "disabled", "audio", "none")
        return
    words = {stored: word for word, stored in DRIVERS.items()}
    parts = f"Driver: {audio.driver}, Controller: {audio.controller}"
    text = f"enabled ({parts}, Codec: {audio.codec})"
    yield Row("Audio", text, "audio", words.get(audio.driver, audio.driver.lower()))
    output = "on" if machine.has_sound else "off"
    yield _switch("Audio playback", "audio_out", output)
    yield _switch("Audio capture", "audio_in", "on" if audio.has_input else "off")


def _mode(port: SerialPort) -> str:
    """Return the word of ``--uartmode1``."""
    known = {mode: word for word, mode in SERIAL_MODES.items()}
    return known[port.mode, port.is_server and port.mode != "RawFile"]
