"""Which filter decides on a device, why, and what would have to change."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rusb.cli._vbox_options import UsageError
from rusb.errors import NoPermission
from rusb.filters.engine import Interfaces
from rusb.filters.explain import Explanation
from rusb.filters.explain import explain as why
from rusb.filters.model import Filter
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
            f"{text!r} is not a device; use VENDOR:PRODUCT in hexadecimal, or a UUID"
            " or address that list usbhost or showvminfo shows"
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
    rows = [_explained(machine, device, machine.filters) for device in devices]
    after = None
    if planned is not None:
        after = [_explained(machine, device, planned) for device in devices]
    if is_json:
        print(json.dumps(_objects(devices, rows, after), indent=2))
        return
    for number, device in enumerate(devices):
        show(f"{device.info} ({device.where})")
        for line in _lines(device, (rows if after is None else after)[number]):
            show(f"    {line}")
        if after is not None:
            is_same = rows[number].admitted == after[number].admitted
            was = "admitted" if rows[number].admitted else "refused"
            print(f"    {'as before' if is_same else 'currently it is ' + was}")
    if not devices:
        print(
            "No USB devices are plugged in, here or at a client; to ask about one by"
            " its ids: rusb usbfilter explain VM 1209:0001"
        )


def _explained(
    machine: Machine, device: Candidate, filters: Sequence[Filter]
) -> Explanation:
    return why(
        *(machine.name, filters, device.info),
        has_controller=bool(machine.usb_controllers),
        busy=device.is_busy,
        interfaces=device.interfaces,
    )


def _lines(device: Candidate, found: Explanation) -> Iterator[str]:
    yield "admitted" if found.admitted else "refused"
    yield from found.reasons
    if found.change:
        yield "to keep it out:" if found.admitted else "to admit it, use one of:"
        yield from (f"  rusb {line}" for line in found.change)
    if note := _note(device, admitted=found.admitted):
        yield note


def _objects(
    devices: Sequence[Candidate],
    now: Sequence[Explanation],
    then: Sequence[Explanation] | None,
) -> list[object]:
    """What JSON has of each device."""
    rows: list[object] = list(map(_object, devices, now))
    if then is None:
        return rows
    later = map(_object, devices, then)
    return [{"now": a, "then": b} for a, b in zip(rows, later, strict=True)]


def _object(device: Candidate, found: Explanation) -> dict[str, object]:
    return {
        "device": str(device.info),
        "origin": device.where,
        "admitted": found.admitted,
        "attached": device.is_attached,
        "filter": found.filter,
        "maskedInterfaces": found.masked_interfaces,
        "reasons": list(found.reasons),
        "change": list(found.change),
        "note": _note(device, admitted=found.admitted),
    }


def _note(device: Candidate, *, admitted: bool) -> str:
    if device.where == "local" and not device.is_attached:
        return (
            f"to attach this device by hand: controlvm VM usbattach {device.names[1]}"
        )
    if device.where == "remote" and admitted and not device.is_attached:
        why = device.problem or "the machine's VBox.log says why"
        return f"it is admitted, but not attached: {why}"
    return ""
