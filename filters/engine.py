"""Decide on a device with filters, and give the reason (filters.md 1.8)."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from rusb.usb.device import DeviceInfo
from rusb.usb.text import clean_text

from .criteria import Criterion, Value
from .model import ATTRIBUTES, BUDGET, Decision, Filter

__all__ = [
    "Interfaces",
    "decide",
    "first_difference",
]

Interfaces: TypeAlias = Mapping[int, Collection[int]]
"""bInterfaceNumber to the classes of its alternate settings, of all configurations."""

MAX_SHOWN = 64
"""Characters of a device's text in a sentence (T42)."""


def attributes_of(device: DeviceInfo) -> dict[str, Value]:
    """Return what filters compare, by field name (1.7).

    The strings of a remote device share a budget; one that no longer fits is absent.
    """
    found: dict[str, Value] = {
        "vendor_id": device.vendor_id,
        "product_id": device.product_id,
        "revision": device.bcd_device,
        "port": device.port,
    }
    left = BUDGET
    for name in ("manufacturer", "product", "serial_number"):
        text = device.serial if name == "serial_number" else getattr(device, name)
        if device.remote:
            size = len(text.encode("utf-8", "replace")) + 1 if text else 0
            if not text or size > left:
                text = None
            else:
                left -= size
        found[name] = text
    return found


def first_difference(
    criteria: Mapping[str, Criterion], attributes: Mapping[str, Value]
) -> str | None:
    """Return the first attribute that does not satisfy its criterion, if any."""
    for name, criterion in criteria.items():
        if not criterion.matches(attributes.get(name)):
            return name
    return None


def _why_not(
    candidate: Filter,
    device: DeviceInfo,
    attributes: Mapping[str, Value],
    interfaces: Interfaces,
    busy: bool,
) -> str | None:
    """Say why *candidate* does not admit the device; None if it does."""
    if not candidate.active:
        return "it is inactive"
    if candidate.wants_remote not in (None, device.remote):
        wanted, found = (
            ("remote", "local") if not device.remote else ("local", "remote")
        )
        return f"it is for {wanted} devices, this one is {found}"
    if busy and not device.remote and not candidate.is_substantial:
        return "the host uses the device, and the filter does not name it"
    if device.remote and device.vendor_id == 0:
        return "a vendor id of 0 never matches"
    name = first_difference(candidate.criteria, attributes)
    if name is None:
        return _why_not_interfaces(candidate, interfaces)
    documented = ATTRIBUTES.get(name, name)
    criterion = candidate.criteria[name]
    return f"{documented} wanted {criterion}, found {_show(attributes.get(name))}"


def _why_not_interfaces(candidate: Filter, interfaces: Interfaces) -> str | None:
    criterion = candidate.interface_criterion
    if criterion is None:
        return None
    for number, classes in sorted(interfaces.items()):
        if candidate.masked_interfaces >> number & 1:
            continue
        for found in sorted(classes):
            if not criterion.matches(found):
                return (
                    f"interfaceClass wanted {criterion}, interface {number} has"
                    f" {found:04X}"
                )
    return None


def _show(value: Value) -> str:
    if value is None:
        return "none"
    return f"{value:04X}" if isinstance(value, int) else clean_text(value)[:MAX_SHOWN]


def decide(
    filters: Sequence[Filter],
    device: DeviceInfo,
    *,
    busy: bool = False,
    interfaces: Interfaces | None = None,
) -> Decision:
    """Decide on a device: the first filter that admits it wins.

    Args:
        filters: in their order.
        device: ``remote`` says where it comes from.
        busy: the host uses the device (local devices only).
        interfaces: what its descriptors say; None while nobody has read them, and
            then filters that ask for interface classes do not get in the way: ask
            again.
    """
    attributes = attributes_of(device)
    reasons: list[str] = []
    for index, candidate in enumerate(filters):
        why_not = _why_not(candidate, device, attributes, interfaces or {}, busy)
        if why_not is None:
            return Decision(candidate, index, tuple(reasons))
        reasons.append(f'filter {index} "{candidate.name}": {why_not}')
    return Decision(None, None, tuple(reasons))
