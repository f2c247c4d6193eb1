"""``showvminfo``: what a machine is, and how it runs (filters.md 3.7)."""

import datetime
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rusb.cli._vbox_options import Option, unsigned
from rusb.errors import ControlError
from rusb.server.state import (
    ClientState,
    DeviceState,
    DisplayState,
    MachineState,
    StreamState,
)
from rusb.server.vbox.filter_attributes import to_attributes
from rusb.server.vbox.hardware import load_hardware
from rusb.server.vbox.model import Controller, Hardware
from rusb.server.vbox.registry import Entry
from rusb.server.vbox.settings import Machine

from ._common import given, live_state, machine_of, registry, show, warn
from ._lists import filter_lines, revision
from ._settings import (
    MODES,
    Row,
    adapter_rows,
    device_rows,
    drive_rows,
    machine_rows,
    quoted,
)
from ._vrde import PROPERTIES

__all__ = ["COMMANDS"]

MAX_LINE = 64 << 10
"""Characters of a log that are printed at once."""

_AVAILABLE = "Available remote USB devices:"
_ATTACHED = "Currently Attached USB Devices:"

_DEVICE_TEXTS = {
    "Manufacturer": "manufacturer",
    "Product": "product",
    "SerialNumber": "serial",
    "Address": "address",
}

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
    """``showvminfo VM [--details] [--machinereadable] [--json] [--log NUMBER]``.

    ``--log 0`` prints the log instead, ``--log 1`` the one before it.
    """
    options = (
        Option("details", values=0),
        Option("machinereadable", values=0),
        Option("json", values=0),
        Option("log"),
    )
    found = given(words, options, count=1)
    entry = registry().find(found.words[0])
    if number := found.last("log"):
        return _print_log(entry, unsigned("--log", number))
    machine = machine_of(entry)
    hardware = load_hardware(entry.path, machine.usb_controllers)
    try:
        live = live_state(entry.uuid)
    except ControlError as error:
        warn(f"{error}; the following comes from its settings")
        live = MachineState("stuck", DisplayState(machine.remote_display))
    if live is not None:  # its command line may have other settings
        machine.remote_display = live.display.settings
        machine.clipboard = live.clipboard or machine.clipboard
        if live.has_sound is not None:
            machine.has_sound = live.has_sound
    if found.has("json"):
        print(json.dumps(_object(entry, machine, hardware, live), indent=2))
    elif found.has("machinereadable"):
        for key, value in _pairs(entry, machine, hardware, live):
            show(f"{key}={value}")
    else:
        for line in _lines(entry, machine, hardware, live):
            show(line)
    return 0


def _print_log(entry: Entry, number: int) -> int:
    """Print a log of the machine; what it says of devices is cleaned (T42)."""
    name = f"VBox.log.{number}" if number else "VBox.log"
    path = entry.path.parent / "Logs" / name
    try:
        with path.open(errors="replace", newline="\n") as file:
            while line := file.readline(MAX_LINE):
                show(line.removesuffix("\n"))
    except FileNotFoundError:
        warn(f"there is no log {path}: the machine has not run that often")
    return 0


def _row(label: str, value: object) -> str:
    return f"{label + ':':<28} {value}".rstrip()


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _enabled(value: bool) -> str:
    return "enabled" if value else "disabled"


def _rows(
    entry: Entry, machine: Machine, hardware: Hardware, live: MachineState | None
) -> Iterator[Row]:
    """The settings that both forms show in the same order."""
    yield from machine_rows(entry, machine, hardware, live)
    yield from drive_rows(hardware)
    yield from adapter_rows(hardware, live)
    yield from device_rows(machine, hardware)


def _lines(
    entry: Entry, machine: Machine, hardware: Hardware, live: MachineState | None
) -> Iterator[str]:
    """The form for people."""
    for row in _rows(entry, machine, hardware, live):
        if row.label:
            line = f"{row.label}: {row.text}" if row.is_drive else None
            yield line or _row(row.label, row.text)
    yield from _display_lines(machine, live)
    for kind, label in (("OHCI", "OHCI"), ("EHCI", "EHCI"), ("XHCI", "xHCI")):
        yield _row(f"{label} USB", _enabled(kind in machine.usb_controllers))
    yield ""
    yield "USB Device Filters:"
    yield ""
    yield from filter_lines(machine.filters)
    if live is not None:
        yield from _device_lines(live)
    if hardware.description:
        yield "Description:"
        yield from hardware.description.splitlines()


def _display_lines(machine: Machine, live: MachineState | None) -> Iterator[str]:
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
    if live is not None and live.display.port > 0:
        yield _row("VRDE port", live.display.port)
    video = display.video_quality()
    text = "disabled" if video is None else f"enabled (Quality {video})"
    yield _row("Video redirection", text)
    for name in PROPERTIES:
        value = display.properties.get(name)
        text = f'"{value}"' if value else "<not set>"
        yield f"{'VRDE property':<28}: {name:<10} = {text}"


def _live_devices(live: MachineState) -> Iterator[tuple[str, str, DeviceState]]:
    """Yield heading, key and device for those that are available or attached."""
    for device in live.devices:
        if not device.attached:
            yield _AVAILABLE, "USBRemote", device
    for device in live.devices:
        if device.attached:
            yield _ATTACHED, "USBAttach", device


def _device_lines(live: MachineState) -> Iterator[str]:
    rows = list(_live_devices(live))
    for title in (_AVAILABLE, _ATTACHED):
        yield title
        yield ""
        devices = [device for heading, _, device in rows if heading == title]
        for device in devices:
            vendor, product = device.vendor_id, device.product_id
            yield _row("UUID", device.uuid)
            yield _row("VendorId", f"0x{vendor:04x} ({vendor:04X})")
            yield _row("ProductId", f"0x{product:04x} ({product:04X})")
            yield _row("Revision", revision(device.revision))
            for label, key in _DEVICE_TEXTS.items():
                if text := getattr(device, key):
                    yield _row(label, text)
            if device.grace is not None:
                yield _row("Waits for its client", f"{device.grace:g} s")
            for stream in device.streams:
                yield _row(f"Stream 0x{stream.endpoint:02x}", _stream_text(stream))
            yield ""
        if not devices:
            yield "<none>"
            yield ""
    display = live.display
    for screen, (width, height) in _video_modes(live):
        label = f"Video mode {screen}" if screen else "Video mode"
        yield _row(label, f"{width}x{height}x32 at 0,0 enabled")
    yield _row("VRDE Connection", "active" if display.clients else "not active")
    yield _row("Clients so far", display.clients_so_far)
    for client in display.clients or filter(None, [display.last]):
        yield ""
        for label, _, value in _client_rows(client, display):
            yield _row(label, value)
    yield ""


def _stream_text(stream: StreamState) -> str:
    buffer = f"{stream.fill * 1000:.0f} of {stream.target * 1000:.0f} ms"
    waits = f"{stream.underruns} underruns, {stream.late} late, drift {stream.drift}"
    return (
        f"{_on_off(stream.is_running)}, {stream.packets} packets, {stream.bad} bad,"
        f" {waits}, buffer {buffer}, jitter {stream.jitter * 1000:.1f} ms"
    )


def _client_rows(
    client: ClientState, display: DisplayState
) -> Iterator[tuple[str, str, str]]:
    """Yield label, key and value of what is known of a client (filters.md 3.7)."""
    if client.ended is None:
        yield "Start time", "VRDEStartTime", _time(client.since)
    else:
        yield "Last started", "VRDELastStartTime", _time(client.since)
        yield "Last ended", "VRDELastEndTime", _time(client.ended)
    seconds = max((client.ended or time.time()) - client.since, 1)
    sent, received = client.sent, client.received
    yield "Sent", "VRDEBytesSent", f"{sent}Bytes"
    yield "Average speed", "VRDEThroughputSend", f"{sent / seconds:.0f}B/s"
    yield "Sent total", "VRDEBytesSentTotal", f"{display.sent_total}Bytes"
    yield "Received", "VRDEBytesReceived", f"{received}Bytes"
    yield "Speed", "VRDEThroughputReceive", f"{received / seconds:.0f}B/s"
    total = display.received_total
    yield "Received total", "VRDEBytesReceivedTotal", f"{total}Bytes"
    if client.ended is None:
        yield "User name", "VRDEUserName", client.user
        yield "Domain", "VRDEDomain", client.domain
        yield "Client name", "VRDEClientName", client.name
        yield "Client IP", "VRDEClientIP", client.address
        yield "Client version", "VRDEClientVersion", str(client.build)
        kind = "RDP5 (X.509)" if client.is_tls else "RDP4"
        yield "Encryption", "VRDEEncryption", kind
    if (view := client.view) is not None:
        shown = f"{view.width}x{view.height}, {view.depth} bit, {view.form}"
        yield "Screen", "VRDEClientScreen", f"{view.screen}: {shown}"
        yield "Pictures", "VRDEPictures", str(view.frames)
        yield "Bytes of pictures", "VRDEPictureBytes", str(view.bytes)
    if (sound := client.sound) is not None:
        heard = f"{sound.rate} Hz, {sound.blocks} blocks, {sound.dropped} dropped"
        yield "Sound", "VRDEClientSound", heard
    yield "Clipboard", "VRDEClientClipboard", client.clipboard


def _time(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y/%m/%d %H:%M:%S UTC")


def _video_modes(live: MachineState) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the screens that the guest shows, and their size."""
    for screen, mode in enumerate(live.display.screens):
        if mode[0]:
            yield screen, mode


def _live_pairs(live: MachineState) -> Iterator[tuple[str, str]]:
    """What a running machine adds to the form for programs."""
    numbers = {"USBRemote": 0, "USBAttach": 0}
    for _, prefix, device in _live_devices(live):
        numbers[prefix] += 1
        number = numbers[prefix]
        yield f"{prefix}Active{number}", quoted(device.uuid)
        yield f"{prefix}VendorId{number}", f"0x{device.vendor_id:04x}"
        yield f"{prefix}ProductId{number}", f"0x{device.product_id:04x}"
        yield f"{prefix}Revision{number}", quoted(f"0x{device.revision:04x}")
        for label, key in _DEVICE_TEXTS.items():
            yield f"{prefix}{label}{number}", quoted(getattr(device, key))
        if device.grace is not None:
            yield f"{prefix}Grace{number}", f"{device.grace:g}"
    for screen, mode in _video_modes(live):
        width, height = mode
        yield f"VideoMode{screen or ''}", f'"{width},{height},32"@0,0 1'
    yield "VRDEActiveConnection", quoted(_on_off(bool(live.display.clients)))
    yield "VRDEClients", str(live.display.clients_so_far)
    client = live.display.clients[-1] if live.display.clients else live.display.last
    if client is not None:
        for _, key, value in _client_rows(client, live.display):
            is_number = key == "VRDEClientVersion"
            yield key, value if is_number else quoted(value)


def _pairs(
    entry: Entry, machine: Machine, hardware: Hardware, live: MachineState | None
) -> Iterator[tuple[str, str]]:
    """The form for programs."""
    for row in _rows(entry, machine, hardware, live):
        if row.key:
            is_text = isinstance(row.value, str)
            yield row.key, quoted(row.value) if is_text else str(row.value)
    display = machine.remote_display
    yield "vrde", quoted(_on_off(display.enabled))
    if display.enabled:
        yield "vrdeport", str(live.display.port if live else -1)
        yield "vrdeports", quoted(display.property("TCP/Ports"))
        yield "vrdeaddress", quoted(display.property("TCP/Address"))
        yield "vrdeauthtype", quoted(display.auth_type.lower())
        yield "vrdemulticon", quoted(_on_off(display.allow_multi_connection))
        yield "vrdereusecon", quoted(_on_off(display.reuse_single_connection))
        video = display.video_quality()
        yield "vrdevideochannel", quoted(_on_off(video is not None))
        if video is not None:
            yield "vrdevideochannelquality", quoted(str(video))
        for name in PROPERTIES:
            value = display.properties.get(name)
            yield f"vrdeproperty[{name}]", quoted(value) if value else "<not set>"
    for key, kind in (("usb", "OHCI"), ("ehci", "EHCI"), ("xhci", "XHCI")):
        yield key, quoted(_on_off(kind in machine.usb_controllers))
    for number, found in enumerate(machine.filters, 1):
        yield f"USBFilterActive{number}", quoted(_on_off(found.active))
        for key, attribute in _FILTER_KEYS.items():
            yield f"USBFilter{key}{number}", quoted(getattr(found, attribute))
    if hardware.description:
        lines = hardware.description.splitlines()
        text = "\\n".join(quoted(line)[1:-1] for line in lines)
        yield "description", f'"{text}"'
    if live is not None:
        yield from _live_pairs(live)


def _controller_object(controller: Controller) -> dict[str, Any]:
    return {
        "name": controller.name,
        "type": controller.type,
        "ports": controller.ports,
        "drives": [
            {
                "port": drive.port,
                "device": drive.device,
                "kind": drive.kind,
                "medium": str(drive.medium) if drive.medium else None,
                "uuid": drive.uuid,
            }
            for drive in controller.drives
        ],
    }


def _object(
    entry: Entry, machine: Machine, hardware: Hardware, live: MachineState | None
) -> dict[str, Any]:
    display = machine.remote_display
    return {
        "name": machine.name,
        "uuid": entry.uuid,
        "file": str(entry.path),
        "ostype": machine.os_type,
        "state": "powered off" if live is None else live.state,
        "memory": hardware.memory,
        "cpus": hardware.cpus,
        "description": hardware.description,
        "groups": list(hardware.groups),
        "hardwareuuid": hardware.uuid or entry.uuid,
        "storage": [_controller_object(c) for c in hardware.controllers],
        "adapters": [
            {
                "number": slot + 1,
                "mode": MODES.get(a.mode, a.mode.lower()),
                "type": a.card,
            }
            | {"mac": a.mac.upper()}
            for slot, a in sorted(hardware.adapters.items())
        ],
        "usb": list(machine.usb_controllers),
        "filters": [to_attributes(f) for f in machine.filters],
        "vrde": {
            "enabled": display.enabled,
            "authtype": display.auth_type.lower(),
            "properties": display.properties,
        },
        "live": live and live.to_json(),
    }


COMMANDS = {"showvminfo": showvminfo}
