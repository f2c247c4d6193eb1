"""Which filter decides on a device, why, and what would have to change."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rusb.cli._vbox_options import UsageError
from rusb.errors import NoPermission
from rusb.filters.engine import Interfaces, decide
from rusb.filters.explain import admitting
from rusb.filters.model import Decision, Filter, describe_mask
from rusb.server.machine.host_devices import HostDevice
from rusb.server.state import MachineState
from rusb.server.vbox.settings import Machine
from rusb.usb.device import DeviceInfo

from ._common import show
from ._host import host_devices

__all__ = ["Candidate", "candidates", "explain"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device in question.

    Attributes:
        where: ``local``, ``remote`` (at a client that is connected) or
            ``hypothetical`` (named by its ids only).
        is_busy: this machine uses it (filters.md 1.7).
        is_attached: the guest has it.
        names: what it can be called on the command line, besides its ids.
        interfaces: what they are, if the server has read them.
        problem: why the guest does not have what the filters admit.
    """

    info: DeviceInfo
    where: str
    is_busy: bool = False
    is_attached: bool = False
    names: tuple[str, ...] = ()
    interfaces: Interfaces | None = None
    problem: str = ""


def candidates(live: MachineState | None, wanted: str | None) -> list[Candidate]:
    """Return the devices of this machine and of clients, or those that are *wanted*.

    Args:
        live: the state of the machine, if it runs.
        wanted: a UUID, an address, or VENDOR:PRODUCT; None: all.

    Raises:
        UsageError: *wanted* is none of these.
        BackendError: the devices of this machine cannot be enumerated.
    """
    found = [*_local(live), *_remote(live)]
    if wanted is None:
        return found
    named = [c for c in found if wanted.strip("{}").lower() in c.names]
    if named:
        return named
    rule = _ids(wanted)
    same = [
        c for c in found if (c.info.vendor_id, c.info.product_id) == (rule[0], rule[1])
    ]
    if same:
        return same
    info = DeviceInfo(0, *rule)
    return [
        Candidate(replace(info, remote=remote), "hypothetical")
        for remote in (True, False)
    ]


def _ids(text: str) -> tuple[int, int]:
    vendor, _, product = text.partition(":")
    try:
        vendor_id, product_id = int(vendor, 16), int(product, 16)
    except ValueError:
        vendor_id = product_id = -1
    if not (0 <= vendor_id <= 0xFFFF and 0 <= product_id <= 0xFFFF):
        raise UsageError(
            f"{text!r} is no device: give VENDOR:PRODUCT in hexadecimal, or a UUID or"
            " address that list usbhost or showvminfo shows"
        )
    return vendor_id, product_id


def _local(live: MachineState | None) -> Iterator[Candidate]:
    attached = {d.uuid for d in live.devices if d.client is None} if live else set()
    for device in host_devices():
        host = HostDevice.of(device)
        is_busy = not isinstance(device.problem, NoPermission | None)
        names = host.uuid, host.address
        yield Candidate(host.info, "local", is_busy, host.uuid in attached, names)


def _remote(live: MachineState | None) -> Iterator[Candidate]:
    for device in live.devices if live else ():
        if device.client is not None:
            read = device.interfaces
            yield Candidate(
                device.info,
                "remote",
                is_attached=device.attached,
                names=(device.uuid, device.address.lower()),
                interfaces=None
                if read is None
                else {i.number: i.classes for i in read},
                problem=device.problem,
            )


def explain(
    machine: Machine,
    devices: Sequence[Candidate],
    *,
    planned: Sequence[Filter] | None = None,
    is_json: bool = False,
) -> None:
    """Print the decision on each device.

    Args:
        machine: with the filters as they are.
        devices: in question.
        planned: filters as they would be; each decision is told as it is and as it
            would be.
        is_json: for programs.
    """
    rows = [_row(machine, device, machine.filters) for device in devices]
    after = None
    if planned is not None:
        after = [_row(machine, device, planned) for device in devices]
    if is_json:
        whole: object = rows
        if after is not None:
            whole = [
                {"now": row, "then": then}
                for row, then in zip(rows, after, strict=True)
            ]
        print(json.dumps(whole, indent=2))
        return
    for number, row in enumerate(rows):
        show(f"{row['device']} ({row['origin']})")
        for line in _lines(row if after is None else after[number]):
            show(f"    {line}")
        if after is not None:
            is_same = row["admitted"] == after[number]["admitted"]
            was = "admitted" if row["admitted"] else "refused"
            print(f"    {'as before' if is_same else 'until now it is ' + was}")
    if not rows:
        print(
            "No USB devices are here or at a client; name one that might come:"
            " rusb usbfilter explain VM 1209:0001"
        )


def _lines(row: dict[str, Any]) -> Iterator[str]:
    yield "admitted" if row["admitted"] else "refused"
    yield from row["reasons"]
    if row["change"]:
        yield "to keep it out:" if row["admitted"] else "to admit it, one of:"
        yield from (f"  rusb {line}" for line in row["change"])
    if row["note"]:
        yield row["note"]


def _decide(filters: Sequence[Filter], device: Candidate) -> Decision:
    return decide(
        *(filters, device.info), busy=device.is_busy, interfaces=device.interfaces
    )


def _row(
    machine: Machine, device: Candidate, filters: Sequence[Filter]
) -> dict[str, Any]:
    decision = _decide(filters, device)
    admitted = decision.matched and bool(machine.usb_controllers)
    reasons = list(decision.reasons)
    if decision.filter is not None:
        reasons.append(f"filter {decision.index} {decision.filter} admits it")
        if mask := decision.masked_interfaces:
            reasons.append(describe_mask(mask))
        if decision.filter.interface_criterion and device.interfaces is None:
            reasons.append(
                "its interfaces are not known yet; they decide when it is plugged in"
            )
    elif not filters:
        reasons.append("there are no filters")
    if not machine.usb_controllers:
        reasons.insert(0, "the machine has no USB controller: filters do not count")
    return {
        "device": str(device.info),
        "origin": device.where,
        "admitted": admitted,
        "attached": device.is_attached,
        "filter": decision.index,
        "maskedInterfaces": decision.masked_interfaces,
        "reasons": reasons,
        "change": _change(machine, device, filters, decision),
        "note": _note(device, admitted=admitted),
    }


def _note(device: Candidate, *, admitted: bool) -> str:
    if device.where == "local" and not device.is_attached:
        return (
            "a device of this machine comes in by hand: controlvm VM usbattach"
            f" {device.names[1]}"
        )
    if device.where == "remote" and admitted and not device.is_attached:
        why = device.problem or "the machine's VBox.log says why"
        return f"it is not attached all the same: {why}"
    return ""


def _change(
    machine: Machine,
    device: Candidate,
    filters: Sequence[Filter],
    decision: Decision,
) -> list[str]:
    """Return the commands that would turn the decision round."""
    target = shlex.quote(machine.name)
    if not machine.usb_controllers:
        return [f"modifyvm {target} --usb-xhci on"]
    if not decision.matched:
        return list(admitting(machine.name, device.info, filters))
    left, commands = list(filters), []
    while (now := _decide(left, device)).matched:
        assert now.index is not None
        commands.append(f"usbfilter modify {now.index} --target {target} --active no")
        left[now.index] = replace(left[now.index], active=False)
    return commands
