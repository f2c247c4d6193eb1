"""What ``list`` prints: devices of this host, filters (filters.md 3.7, 3.8)."""

import contextlib
import json
from collections.abc import Collection, Iterable, Sequence

from rusb.errors import ControlError, NoPermission
from rusb.filters.model import Filter
from rusb.server.machine.host_devices import HostDevice
from rusb.server.vbox.filter_attributes import to_attributes
from rusb.usb.backend import LocalDevice

from ._common import live_state, registry, show
from ._host import host_devices

__all__ = [
    "filter_lines",
    "print_global_filters",
    "print_host_devices",
    "revision",
]


def revision(number: int) -> str:
    """The two bytes in decimal, twice, as the original shows them (3.7, D8)."""
    high, low = number >> 8, number & 0xFF
    return f"{high}.{low} ({high:02}{low:02})"


def print_host_devices(is_json: bool) -> None:
    """Print ``list usbhost``."""
    devices, captured = host_devices(), _captured()
    if is_json:
        rows = [
            _host_row(device, captured) | {"Problem": str(device.problem or "")}
            for device in devices
        ]
        print(json.dumps(rows, indent=2))
        return
    print("Host USB Devices:\n")
    if not devices:
        print("<none>\n")
    for device in devices:
        for label, value in _host_row(device, captured).items():
            show(f"{label + ':':<20}{value}")
        print()


def _captured() -> set[str]:
    """The UUIDs of the devices that running machines have."""
    found: set[str] = set()
    for entry in registry().machines():
        with contextlib.suppress(ControlError):  # it is starting, or going off
            if live := live_state(entry.uuid):
                found.update(d.uuid for d in live.devices if d.client is None)
    return found


def _host_row(device: LocalDevice, captured: Collection[str]) -> dict[str, str]:
    info = device.info
    called = HostDevice.of(device)
    row = {
        "UUID": called.uuid,
        "VendorId": f"0x{info.vendor_id:04x} ({info.vendor_id:04X})",
        "ProductId": f"0x{info.product_id:04x} ({info.product_id:04X})",
        "Revision": revision(info.bcd_device),
        "Port": str(info.port),
        "USB version/speed": f"{info.bcd_usb >> 8}/{info.speed.label}",
        "Manufacturer": info.manufacturer or "",
        "Product": info.product or "",
        "SerialNumber": info.serial or "",
        "Address": called.address,
        "Port path": "/".join(map(str, (info.bus, *info.port_path)))
        if info.port_path
        else "",
        "Current State": "Captured" if called.uuid in captured else _state(device),
    }
    return {label: text for label, text in row.items() if text}


def _state(device: LocalDevice) -> str:
    if device.problem is None:
        return "Available"
    return "Unavailable" if isinstance(device.problem, NoPermission) else "Busy"


def print_global_filters(filters: Sequence[Filter], is_json: bool) -> None:
    """Print ``list usbfilters``."""
    if is_json:
        rows = [to_attributes(f, is_global=True) for f in filters]
        print(json.dumps(rows, indent=2))
        return
    print("Global USB Device Filters:\n")
    if not filters:
        print("<none>\n")
    for index, found in enumerate(filters):
        for label, value in (
            ("Index", index),
            ("Active", "yes" if found.active else "no"),
            ("Action", found.action),
            *_texts(found),
        ):
            show(f"{f'{label}:':<18}{value}".rstrip())
        print()


def filter_lines(filters: Sequence[Filter]) -> Iterable[str]:
    """Yield the part of ``showvminfo`` about a machine's filters."""
    if not filters:
        yield "<none>"
        yield ""
    for index, found in enumerate(filters):
        texts = dict(_texts(found))
        serial = texts.pop("Serial Number")
        rows: list[tuple[str, object]] = [
            ("Index", index),
            ("Active", "yes" if found.active else "no"),
            *texts.items(),
            ("Remote", found.remote),
            ("Serial Number", serial),
        ]
        if found.masked_interfaces:
            rows.append(("Masked Interfaces", f"0x{found.masked_interfaces:08x}"))
        for label, value in rows:
            yield f"{f'{label}:':<28} {value}"
        yield ""


def _texts(found: Filter) -> list[tuple[str, str]]:
    return [
        ("Name", found.name),
        ("VendorId", found.vendor_id),
        ("ProductId", found.product_id),
        ("Revision", found.revision),
        ("Manufacturer", found.manufacturer),
        ("Product", found.product),
        ("Serial Number", found.serial_number),
    ]
