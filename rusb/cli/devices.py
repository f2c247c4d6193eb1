"""``rusb devices``: what is plugged in here, as ``lsusb`` shows it."""

import argparse
import json
from dataclasses import asdict

from rusb.client.devices import load_backend
from rusb.usb.backend import LocalDevice

from ._advice import advised
from ._common import add_verbose, run_async, set_up_logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add = parser.add_argument
    add("--json", action="store_true", help="print a JSON array")
    add(
        "--backend",
        action="append",
        metavar="NAME[:ADDRESS]|FILE.py:CLASS",
        help="where devices come from: libusb (default), usbip:HOST[:PORT],"
        " usbredir:HOST:PORT, replay:FILE, emulated, another one that 'rusb plugins'"
        " lists, or a class in a file; may be given several times",
    )
    add("--force", action="store_true", help="as with 'rusb connect --force'")
    add_verbose(parser)


def run(args: argparse.Namespace) -> int:
    """List them."""
    set_up_logging(args.verbose)
    devices, limits = run_async(_list(args.backend or ["libusb"], args.force))
    if args.json:
        print(json.dumps([_as_object(d) for d in devices], indent=2))
        return 0
    for device in devices:
        print(_as_text(device))
    if not devices:
        print("No USB devices are plugged in, except hubs.")
    if args.verbose:
        for limit in limits:
            print(f"Limit: {limit}")
    return 0


async def _list(names: list[str], force: bool) -> tuple[list[LocalDevice], list[str]]:
    """Return the devices, and what bounds their transfers."""
    found, limits = list[LocalDevice](), list[str]()
    for name in names:
        backend = load_backend(name, force=force)
        try:
            found += await backend.list_devices()
        finally:
            await backend.aclose()
        if (limit := backend.limits()) is not None:
            limits.append(limit)
    return found, limits


def _as_object(device: LocalDevice) -> dict[str, object]:
    fields = asdict(device.info)
    del fields["id"]
    fields["speed"] = device.info.speed.name.lower()
    return fields | {
        "key": device.key,
        "problem": None if device.problem is None else str(device.problem),
        "kept": device.kept,
        "isochronous": device.has_isochronous,
    }


def _as_text(device: LocalDevice) -> str:
    info = device.info
    text = (
        f"Bus {info.bus:03} Device {info.address:03}: ID {info.vendor_id:04x}:"
        f"{info.product_id:04x} {info.manufacturer or ''} {info.product or ''}"
    ).rstrip()
    details = [f"{info.speed.label} speed"]
    if info.port_path:
        details.append(f"port {'.'.join(map(str, info.port_path))}")
    if info.serial:
        details.append(f"serial {info.serial}")
    text += f"\n    {', '.join(details)}"
    if device.problem is not None:
        text += f"\n    cannot be used: {advised(device.problem)}"
    if device.kept:
        text += f"\n    left out by 'rusb connect' without --all: {device.kept}"
    return text
