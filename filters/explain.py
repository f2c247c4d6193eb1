"""What would have to change for the filters to admit a device."""

import shlex
from collections.abc import Iterator, Sequence

from rusb.usb.device import DeviceInfo

from .engine import attributes_of
from .model import ATTRIBUTES, Filter

__all__ = ["admitting"]


def admitting(
    target: str, info: DeviceInfo, filters: Sequence[Filter]
) -> Iterator[str]:
    """Yield commands, each of which admits a device that the filters refuse.

    They are the smallest change of the filter that is nearest, if one option is enough,
    and a new filter; without the name of the program.

    Args:
        target: the machine, as ``usbfilter --target`` finds it.
        info: of the device.
        filters: as they are.
    """
    if info.remote and info.vendor_id == 0:
        return  # no filter can
    name = shlex.quote(info.product or f"{info.vendor_id:04x}:{info.product_id:04x}")
    where = f"--target {shlex.quote(target)}"
    changes = [(_differences(f, info), i) for i, f in enumerate(filters)]
    if changes:
        nearest, index = min(changes, key=lambda change: len(change[0]))
        options = " ".join(f"--{n} {shlex.quote(v)}" for n, v in nearest.items())
        if len(nearest) == 1:
            yield f"usbfilter modify {index} {where} {options}"
    yield (
        f"usbfilter add {len(filters)} {where} --name {name}"
        f" --vendorid {info.vendor_id:04x} --productid {info.product_id:04x}"
        f" --remote {'yes' if info.remote else 'no'}"
    )


def _differences(candidate: Filter, info: DeviceInfo) -> dict[str, str]:
    """Return each option that keeps a filter from admitting a device, as it should
    be."""
    found = {} if candidate.active else {"active": "yes"}
    if candidate.wants_remote not in (None, info.remote):
        found["remote"] = "yes" if info.remote else "no"
    attributes = attributes_of(info)
    for name, criterion in candidate.criteria.items():
        value = attributes.get(name)
        if not criterion.matches(value):
            text = f"{value:04x}" if isinstance(value, int) else value or ""
            found[ATTRIBUTES[name].lower()] = text
    return found
