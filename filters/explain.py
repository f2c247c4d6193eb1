"""Why filters admit or refuse a device, and what would reverse the decision."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rusb.usb.device import DeviceInfo

from .engine import Interfaces, attributes_of, decide
from .model import ATTRIBUTES, Filter, describe_mask

__all__ = ["Explanation", "admitting", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a machine does with a device, and why.

    Attributes:
        filter: place of the one that admits it; None: none does.
        masked_interfaces: what the guest is not to see, a bit each.
        reasons: sentences.
        change: commands, without the name of the program: all of them together keep
            the device out, any of them admits it.
    """

    admitted: bool
    filter: int | None
    masked_interfaces: int
    reasons: tuple[str, ...]
    change: tuple[str, ...]


def explain(
    target: str,
    filters: Sequence[Filter],
    info: DeviceInfo,
    *,
    has_controller: bool,
    busy: bool = False,
    interfaces: Interfaces | None = None,
) -> Explanation:
    """Explain the decision on a device.

    Args:
        target: the machine, as commands find it.
        filters: its filters.
        info: of the device.
        has_controller: the machine has a USB controller.
        busy: the server's machine uses the device (1.7).
        interfaces: None: they are not known yet.
    """
    decision = decide(filters, info, busy=busy, interfaces=interfaces)
    reasons = list(decision.reasons)
    if decision.filter is not None:
        reasons.append(f"filter {decision.index} {decision.filter} admits it")
        if mask := decision.masked_interfaces:
            reasons.append(describe_mask(mask))
        if decision.filter.interface_criterion and interfaces is None:
            reasons.append(
                "its interfaces are not known yet; the filter checks them when it is"
                " plugged in"
            )
    elif not filters:
        reasons.append("the machine has no filters")
    if not has_controller:
        reasons.insert(
            0, "the machine has no USB controller, so filters have no effect"
        )
        change = [f"modifyvm {shlex.quote(target)} --usb-xhci on"]
    elif decision.matched:
        change = list(_refusing(target, filters, info, busy, interfaces))
    else:
        change = list(admitting(target, info, filters))
    return Explanation(
        decision.matched and has_controller,
        decision.index,
        decision.masked_interfaces,
        tuple(reasons),
        tuple(change),
    )


def _refusing(
    target: str,
    filters: Sequence[Filter],
    info: DeviceInfo,
    busy: bool,
    interfaces: Interfaces | None,
) -> Iterator[str]:
    """Yield commands that together keep out a device that the filters admit."""
    left = list(filters)
    while (now := decide(left, info, busy=busy, interfaces=interfaces)).matched:
        assert now.index is not None
        where = f"--target {shlex.quote(target)}"
        yield f"usbfilter modify {now.index} {where} --active no"
        left[now.index] = replace(left[now.index], active=False)


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
