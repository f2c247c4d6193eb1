"""The USB buses of a QEMU machine, and which of them a device fits on.

Every speed fits on an xHCI. An EHCI takes high speed, and the slower ones only through
companions (UHCI or OHCI controllers that share its bus); UHCI and OHCI take full and
low speed (docs/spec/usbredir.md 14, docs/spec/qemu-lab.md 6).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rusb.errors import GuestError
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed

from ._qmp import Monitor, Refused, entries_of

__all__ = [
    "XHCI",
    "Bus",
    "advice_for_qemu",
    "best_first",
    "choose_bus",
    "find_buses",
    "kind_of",
]

XHCI = "qemu-xhci,p2=15,p3=15,streams=off"
"""The controller to give a QEMU: fifteen ports of each kind, where it has four when
not told; no bulk streams, which usb-redir cannot carry for us (usbredir.md 11)."""

_SLOW = frozenset((Speed.LOW, Speed.FULL))
_TAKES = {
    "xhci": frozenset((*_SLOW, Speed.HIGH, Speed.SUPER)),
    "ehci": frozenset((Speed.HIGH,)),
    "uhci": _SLOW,
    "ohci": _SLOW,
}
"""Kinds of USB controllers by preference, and the speeds they take."""

_OPTION = {Speed.SUPER: "--usbxhci", Speed.HIGH: "--usbehci"}
"""What modifyvm needs for a speed; the slower ones need ``--usbohci``."""

STORAGE = ("usbdisks.", "ua-usbdisks.")
"""How the bus of our own machines' USB disks begins; no remote device goes there."""


@dataclass(frozen=True, slots=True)
class Bus:
    """A USB bus.

    Attributes:
        name: in QEMU, ``xhci.0``.
        kind: of its controller, ``xhci``, ``ehci``, ``uhci`` or ``ohci``.
        has_companions: an EHCI whose ports take slower devices, too.
    """

    name: str
    kind: str
    has_companions: bool = False

    def takes(self, speed: Speed) -> bool:
        """Does a device of that speed work there?"""
        if speed is Speed.UNKNOWN or speed in _TAKES[self.kind]:
            return True
        return self.has_companions and speed in _SLOW

    def __str__(self) -> str:
        kind = "xHCI" if self.kind == "xhci" else self.kind.upper()
        return f"{self.name} ({kind})"


def choose_bus(buses: Sequence[Bus], info: DeviceInfo, advice: str) -> Bus:
    """Return the bus for a device.

    Args:
        buses: that may be used, the best first.
        info: the device.
        advice: what to do where none takes it.

    Raises:
        GuestError: none does.
    """
    for bus in buses:
        if bus.takes(info.speed):
            return bus
    raise GuestError(
        f"no USB controller of the machine supports a {info.speed.label}Speed device;"
        f" it has {', '.join(map(str, buses))}: {advice}"
    )


def advice_for_qemu(speed: Speed, *, machine: str, has_wish: bool) -> str:
    """Say which controller to give a machine for a speed.

    Args:
        speed: of the device.
        machine: the name of a machine of ours; empty for a QEMU of somebody else's.
        has_wish: a bus was named.
    """
    if machine:
        option = _OPTION.get(speed, "--usbohci")
        return (
            f"power the machine off and run: VBoxManage modifyvm"
            f' "{machine}" {option} on'
        )
    if has_wish:
        return f"name another bus with bus=, or none; {XHCI} supports every speed"
    return f"start QEMU with -device {XHCI}"


def kind_of(model: str) -> str | None:
    """Return which kind of controller a model of QEMU's is; None: it is none."""
    return next((kind for kind in _TAKES if kind in model), None)


def best_first(buses: Iterable[Bus]) -> list[Bus]:
    """Sort buses by preference."""
    return sorted(buses, key=lambda bus: list(_TAKES).index(bus.kind))


async def find_buses(monitor: Monitor) -> list[Bus]:
    """Return the machine's USB buses, the best first.

    Raises:
        GuestError: QEMU is gone.
    """
    found: list[tuple[str, str]] = []
    shared = set()
    for folder in ("peripheral", "peripheral-anon", "unattached"):
        for name, type in await _children(monitor, f"/machine/{folder}"):
            kind = kind_of(type)
            if kind is None:
                continue
            path = f"/machine/{folder}/{name}"
            own = [b for b, t in await _children(monitor, path) if t == "usb-bus"]
            found += [(kind, bus) for bus in own if not bus.startswith(STORAGE)]
            if not own and kind in ("uhci", "ohci"):
                shared.add(await _master_of(monitor, path))
    return best_first(Bus(name, kind, name in shared) for kind, name in found)


async def _master_of(monitor: Monitor, path: str) -> str:
    """The bus that a companion controller shares."""
    try:
        question = {"path": path, "property": "masterbus"}
        return str(await monitor.execute("qom-get", question))
    except Refused:
        return ""


async def _children(monitor: Monitor, path: str) -> list[tuple[str, str]]:
    """Name and type of the QOM children at *path*."""
    listed = await monitor.execute("qom-list", {"path": path})
    children = []
    for entry in entries_of(listed):
        name, kind = entry.get("name"), entry.get("type")
        if isinstance(name, str) and isinstance(kind, str) and kind[:6] == "child<":
            children.append((name, kind[6:-1]))
    return children
