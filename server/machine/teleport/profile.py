"""What both ends of a move must have in common (teleport.md 5.1, 5.2)."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from ...vbox.model import Audio, Hardware, disk_format
from ...vbox.past import read_snapshots
from ...vbox.settings import Machine

__all__ = ["Ask", "Profile", "blocked", "differences", "profile_of"]

from collections.abc import Awaitable, Callable

Ask: TypeAlias = Callable[[str, Mapping[str, object] | None], Awaitable[object]]
"""Runs a command of the hypervisor's monitor, see ``Hypervisor.execute``."""

Profile: TypeAlias = tuple[tuple[str, str], ...]
"""Labels and values."""

FEATURES = "Processor features"

MACHINE = "pc"
"""The machine type that ``command_line.py`` asks for."""


async def profile_of(machine: Machine, hardware: Hardware, ask: Ask) -> Profile:
    """Return the profile of a machine whose QEMU is there.

    Raises:
        GuestError: QEMU does not answer.
    """
    return (*_of_settings(machine, hardware), *await _of_qemu(ask))


def _of_settings(machine: Machine, hardware: Hardware) -> Iterator[tuple[str, str]]:
    major, minor = machine.version
    yield "Settings version", f"{major}.{minor}"
    yield "Memory size", f"{hardware.memory} MB"
    yield "Number of CPUs", str(hardware.cpus)
    firmware = "EFI" if hardware.firmware.upper().startswith("EFI") else "BIOS"
    yield "Firmware", firmware
    yield "ACPI", _switch(hardware.acpi)
    yield "Clock", "local time" if hardware.is_local_time else "UTC"
    yield "Monitor count", str(machine.monitors)
    yield "Sound card", _sound(hardware.audio)
    yield "First serial port", _switch(hardware.serial is not None)
    yield "USB controllers", ", ".join(dict.fromkeys(hardware.usb)) or "none"
    for number, controller in enumerate(hardware.controllers):
        yield f"Storage controller {number}", controller.type
    for bus, drive in hardware.drives():
        text = f"{drive.kind}, empty"
        if drive.medium is not None:
            text = f"{drive.kind}, {disk_format(drive.medium)}"
        yield f"Drive {bus} {drive.port} {drive.device}", text
    for slot, adapter in sorted(hardware.adapters.items()):
        way = f"{adapter.card}, MAC {adapter.mac.upper() or 'of QEMU'}"
        yield f"Network adapter {slot + 1}", f"{way}, {adapter.mode or 'no cable'}"


def _switch(is_there: bool) -> str:
    return "on" if is_there else "off"


def _sound(audio: Audio | None) -> str:
    return "none" if audio is None else audio.controller


async def _of_qemu(ask: Ask) -> Iterator[tuple[str, str]]:
    """What the two QEMU programs must have in common.

    The chipset is in the machine type, of which each version of QEMU has its own.
    """
    found = [("QEMU machine type", await _machine_type(ask))]
    kvm = await ask("query-kvm", None)
    is_kvm = isinstance(kvm, dict) and kvm.get("enabled") is True
    found.append(("QEMU accelerator", "KVM" if is_kvm else "TCG"))
    model = {"type": "full", "model": {"name": "max"}}
    found.append((FEATURES, _features(await ask("query-cpu-model-expansion", model))))
    return iter(found)


async def _machine_type(ask: Ask) -> str:
    answer = await ask("query-machines", None)
    for entry in answer if isinstance(answer, list) else ():
        if isinstance(entry, dict) and entry.get("alias") == MACHINE:
            return str(entry.get("name"))
    return MACHINE


def _features(answer: object) -> str:
    model = answer.get("model") if isinstance(answer, dict) else None
    switches = model.get("props") if isinstance(model, dict) else None
    if not isinstance(switches, dict):
        return ""
    return " ".join(sorted(str(k) for k, is_on in switches.items() if is_on is True))


def differences(source: Profile, target: Profile) -> list[str]:
    """Return a sentence for each difference that matters."""
    theirs, ours = dict(source), dict(target)
    found = []
    for label in dict.fromkeys((*theirs, *ours)):
        there, here = theirs.get(label, "none"), ours.get(label, "none")
        if label == FEATURES:
            missing = sorted(set(there.split()) - set(here.split()))
            if missing:
                found.append(
                    "the target's processor, or its QEMU, does not have"
                    f" {', '.join(missing)}"
                )
        elif there != here:
            found.append(f"{label}: {there} at the source, {here} at the target")
    return found


def blocked(machine: Machine, where: str) -> list[str]:
    """Return why a machine cannot move at all, whatever is at the other end.

    Args:
        where: ``source`` or ``target``.
    """
    snapshots = read_snapshots(machine.path) if machine.path else []
    if not snapshots:
        return []
    names = ", ".join(snapshot.name for snapshot in snapshots)
    return [
        f"the machine at the {where} has snapshots ({names}), and a machine with"
        " snapshots cannot be teleported: delete them in VirtualBox"
    ]
