"""``showvminfo``: what a machine is, and how it runs (filters.md 3.7)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rusb.cli._vbox_options import Option
from rusb.errors import ControlError
from rusb.filters.store import to_attributes
from rusb.server.machine.document import Document
from rusb.server.machine.hardware import Parts, read_parts
from rusb.server.machine.registry import Entry
from rusb.server.machine.settings import Machine

from ._common import ask_running, given, machine_of, registry
from ._lists import filter_lines

__all__ = ["COMMANDS"]

PROPERTIES = (
    *("TCP/Ports", "TCP/Address"),
    *("VideoChannel/Enabled", "VideoChannel/Quality"),
    "VideoChannel/DownscaleProtection",
    *(f"Client/Disable{f}" for f in ("Display", "Input", "Audio", "USB", "Clipboard")),
    *("Client/DisableUpstreamAudio", "Client/DisableRDPDR", "H3DRedirect/Enabled"),
    *("Security/Method", "Security/ServerCertificate", "Security/ServerPrivateKey"),
    *("Security/CACertificate", "Audio/RateCorrectionMode", "Audio/LogPath"),
)
"""VRDE properties that are shown, set or not (vrdp-server.md 4.5)."""

_FILTER_KEYS = {
    "Name": "name",
    "VendorId": "vendor_id",
    "ProductId": "product_id",
    "Revision": "revision",
    "Manufacturer": "manufacturer",
    "Product": "product",
    "Remote": "remote",
    "SerialNumber": "serial_number",
}


def showvminfo(words: Sequence[str]) -> int:
    """``showvminfo VM [--details] [--machinereadable] [--json]``."""
    options = (
        Option("details", values=0),
        Option("machinereadable", values=0),
        Option("json", values=0),
    )
    found = given(words, options, count=1)
    entry = registry().find(found.words[0])
    machine = machine_of(entry)
    document = Document(entry.path.read_bytes(), str(entry.path))
    parts = read_parts(document, entry.path.parent, machine.usb_controllers)
    try:
        live = ask_running(entry.uuid, "info")
    except ControlError:
        live = None
    if found.has("json"):
        print(json.dumps(_object(entry, machine, parts, live), indent=2))
    elif found.has("machinereadable"):
        for key, value in _pairs(entry, machine, parts, live):
            print(f"{key}={value}")
    else:
        for line in _lines(entry, machine, parts, live):
            print(line)
    return 0


def _row(label: str, value: object) -> str:
    return f"{label + ':':<28} {value}".rstrip()


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _enabled(value: bool) -> str:
    return "enabled" if value else "disabled"


def _state(live: dict[str, Any] | None) -> str:
    return "powered off" if live is None else str(live["state"])


def _lines(
    entry: Entry, machine: Machine, parts: Parts, live: dict[str, Any] | None
) -> Iterator[str]:
    """The form for people."""
    yield _row("Name", machine.name)
    yield _row("Guest OS", machine.os_type)
    yield _row("UUID", entry.uuid)
    yield _row("Config file", entry.path)
    yield _row("Memory size", f"{parts.memory}MB")
    yield _row("Number of CPUs", parts.cpus)
    yield _row("Firmware", parts.firmware)
    for position, device in enumerate(parts.boot, 1):
        yield _row(f"Boot Device {position}", device)
    yield _row("ACPI", _on_off(parts.acpi))
    yield _row("State", _state(live))
    for number, controller in enumerate(parts.controllers):
        yield _row(f"Storage Controller Name ({number})", controller.name)
        yield _row(f"Storage Controller Type ({number})", controller.type)
        for drive in controller.drives:
            place = f"{controller.name} ({drive.port}, {drive.device})"
            medium = drive.medium or "Empty"
            uuid = f" (UUID: {drive.uuid})" if drive.uuid else ""
            yield f"{place}: {medium}{uuid}"
    for slot in range(8):
        adapter = parts.adapters.get(slot)
        text = "disabled"
        if adapter is not None:
            mode = adapter.mode or "none"
            text = f"MAC: {adapter.mac}, Attachment: {mode}, Type: {adapter.card}"
        yield _row(f"NIC {slot + 1}", text)
    yield from _display_lines(machine, live)
    for kind, label in (("OHCI", "OHCI"), ("EHCI", "EHCI"), ("XHCI", "xHCI")):
        yield _row(f"{label} USB", _enabled(kind in machine.usb_controllers))
    yield ""
    yield "USB Device Filters:"
    yield ""
    yield from filter_lines(machine.filters)
    if live is not None:
        yield from _device_lines(live)
    if parts.description:
        yield "Description:"
        yield parts.description


def _display_lines(machine: Machine, live: dict[str, Any] | None) -> Iterator[str]:
    display = machine.remote_display
    if not display.enabled:
        yield _row("VRDE", "disabled")
        return
    address = display.property("TCP/Address") or "0.0.0.0"
    yield _row(
        "VRDE",
        f"enabled (Address {address}, Ports {display.property('TCP/Ports')},"
        f" MultiConn: {_on_off(display.allow_multi_connection)},"
        f" ReuseSingleConn: {_on_off(display.reuse_single_connection)},"
        f" Authentication type: {display.auth_type.lower()})",
    )
    if live is not None and live["vrdeport"] > 0:
        yield _row("VRDE port", live["vrdeport"])
    video = display.property("VideoChannel/Enabled").lower() in ("true", "1")
    quality = display.property("VideoChannel/Quality") or "75"
    yield _row(
        "Video redirection", f"enabled (Quality {quality})" if video else "disabled"
    )
    for name in PROPERTIES:
        value = display.properties.get(name)
        text = f'"{value}"' if value else "<not set>"
        yield f"{'VRDE property':<28}: {name:<10} = {text}"


def _device_lines(live: dict[str, Any]) -> Iterator[str]:
    for title, key in (
        ("Available remote USB devices:", "remote"),
        ("Currently Attached USB Devices:", "attached"),
    ):
        yield title
        yield ""
        for device in live[key]:
            for label, value in device.items():
                yield _row(label, value)
            yield ""
        if not live[key]:
            yield "<none>"
            yield ""
    clients = live["clients"]
    yield _row("VRDE Connection", "active" if clients else "not active")
    yield _row("Clients so far", live["clients_so_far"])
    for client in clients:
        for label, value in client.items():
            yield _row(label, value)
    yield ""


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _pairs(
    entry: Entry, machine: Machine, parts: Parts, live: dict[str, Any] | None
) -> Iterator[tuple[str, str]]:
    """The form for programs."""
    yield "name", _quoted(machine.name)
    yield "ostype", _quoted(machine.os_type)
    yield "UUID", _quoted(entry.uuid)
    yield "CfgFile", _quoted(entry.path)
    yield "memory", str(parts.memory)
    yield "cpus", str(parts.cpus)
    yield "firmware", _quoted(parts.firmware)
    for position, device in enumerate(parts.boot, 1):
        yield f"boot{position}", _quoted(device)
    yield "acpi", _quoted(_on_off(parts.acpi))
    yield "VMState", _quoted(_state(live).replace(" ", ""))
    for number, controller in enumerate(parts.controllers):
        yield f"storagecontrollername{number}", _quoted(controller.name)
        yield f"storagecontrollertype{number}", _quoted(controller.type)
        for drive in controller.drives:
            key = f"{controller.name}-{drive.port}-{drive.device}"
            yield _quoted(key), _quoted(drive.medium or "emptydrive")
    for slot in range(8):
        adapter = parts.adapters.get(slot)
        mode = "none" if adapter is None else (adapter.mode or "null").lower()
        yield f"nic{slot + 1}", _quoted(mode)
    display = machine.remote_display
    yield "vrde", _quoted(_on_off(display.enabled))
    if display.enabled:
        yield "vrdeport", str(live["vrdeport"] if live else -1)
        yield "vrdeports", _quoted(display.property("TCP/Ports"))
        yield "vrdeaddress", _quoted(display.property("TCP/Address"))
        yield "vrdeauthtype", _quoted(display.auth_type.lower())
        yield "vrdemulticon", _quoted(_on_off(display.allow_multi_connection))
        yield "vrdereusecon", _quoted(_on_off(display.reuse_single_connection))
        for name in PROPERTIES:
            value = display.properties.get(name)
            yield f"vrdeproperty[{name}]", _quoted(value) if value else "<not set>"
    for key, kind in (("usb", "OHCI"), ("ehci", "EHCI"), ("xhci", "XHCI")):
        yield key, _quoted(_on_off(kind in machine.usb_controllers))
    for number, found in enumerate(machine.filters, 1):
        yield f"USBFilterActive{number}", _quoted(_on_off(found.active))
        for key, attribute in _FILTER_KEYS.items():
            yield f"USBFilter{key}{number}", _quoted(getattr(found, attribute))
    if live is not None:
        yield "VRDEActiveConnection", _quoted(_on_off(bool(live["clients"])))
        yield "VRDEClients", str(live["clients_so_far"])


def _object(
    entry: Entry, machine: Machine, parts: Parts, live: dict[str, Any] | None
) -> dict[str, Any]:
    display = machine.remote_display
    return {
        "name": machine.name,
        "uuid": entry.uuid,
        "file": str(entry.path),
        "ostype": machine.os_type,
        "state": _state(live),
        "memory": parts.memory,
        "cpus": parts.cpus,
        "usb": list(machine.usb_controllers),
        "filters": [to_attributes(f) for f in machine.filters],
        "vrde": {
            "enabled": display.enabled,
            "authtype": display.auth_type.lower(),
            "properties": display.properties,
        },
        "live": live,
    }


COMMANDS = {"showvminfo": showvminfo}
