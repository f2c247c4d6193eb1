"""The policy is what the guest gets: filters against what a device says of itself.

Filters first decide on what a client lists. Before the guest sees anything the device
is read, and what it says must be the same; the winner's mask, and what the guest cannot
use, is taken out of its descriptors (filters.md 1.1, 1.8; bad-inputs T33, T40).
"""

from dataclasses import dataclass

from rusb.errors import GuestError
from rusb.filters.engine import Interfaces, decide
from rusb.filters.model import Filter
from rusb.usb.descriptors import DeviceDescriptor, DeviceDescriptors
from rusb.usb.device import DeviceInfo
from rusb.usb.hiding import (
    hide_interfaces,
    hide_uas,
    numbers_of,
    uas_interfaces,
    with_configurations,
)
from rusb.usb.types import ClassCode, Speed

__all__ = [
    "SHOWS_ELSE",
    "Policy",
    "Reading",
    "View",
    "describe_identity",
    "why_different",
]

SHOWS_ELSE = "the filters now show the guest a different part of it"
"""Why a device that stays leaves the guest and comes again."""

_STRINGS = frozenset(("manufacturer", "product", "serial_number"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device says of itself.

    Attributes:
        info: as it was listed, but strings as they were read.
        descriptors: as they were read.
        strings: names of the strings that were read, as filters name them.
        notes: what was odd.
    """

    info: DeviceInfo
    descriptors: DeviceDescriptors
    strings: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def interfaces(self) -> Interfaces:
        """The classes of each interface, for filters that ask for them."""
        found: dict[int, set[int]] = {}
        for configuration in self.descriptors.configurations:
            for setting in configuration.interfaces:
                found.setdefault(setting.number, set()).add(setting.interface_class)
        return found


@dataclass(frozen=True, slots=True)
class View:
    """What the guest sees of a device.

    Attributes:
        mask: interfaces that are hidden, a bit each; with any the device also ignores
            bus resets.
        notes: what whoever reads the log should know, a sentence each.
    """

    descriptors: DeviceDescriptors
    mask: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides on a device once it is read.

    Attributes:
        filters: of the machine.
        is_by_hand: somebody asked for just this device: no filter must admit it, but
            the mask of one that would still applies.
        carries_streams: the guest's devices can have bulk streams.
        carries_isochronous: the wire has isochronous transfers.
    """

    filters: tuple[Filter, ...] = ()
    is_by_hand: bool = False
    carries_streams: bool = False
    carries_isochronous: bool = True

    @property
    def strings(self) -> frozenset[str]:
        """Names of the strings that any filter compares: those must be read."""
        wanted = (f.criteria.keys() & _STRINGS for f in self.filters if f.active)
        return frozenset().union(*wanted)

    def judge(self, reading: Reading) -> View:
        """Return what the guest is to see of a device.

        Raises:
            GuestError: it is to see nothing of it; the message says why.
        """
        decision = decide(self.filters, reading.info, interfaces=reading.interfaces)
        if not decision.matched and not self.is_by_hand:
            raise GuestError(f"what the device says of itself is {decision}")
        if _is_hub(reading):
            raise GuestError(
                "it is a hub, which cannot be attached itself; the devices that are"
                " plugged into it are listed one by one"
            )
        notes = [f"odd descriptors: {note}" for note in reading.notes]
        found = reading.descriptors
        found = with_configurations(found, found.configurations)
        mask = decision.masked_interfaces
        if mask:
            found = hide_interfaces(found, mask)
            numbers = numbers_of(reading.descriptors)
            if numbers and not numbers_of(found):
                raise GuestError(
                    f"maskedInterfaces 0x{mask:x} of filter {decision.index} hides all"
                    f" its interfaces ({', '.join(map(str, numbers))}), so nothing is"
                    " left for the guest; hide fewer of them"
                )
            notes.append(_say_hidden(mask, numbers, set(numbers_of(found))))
        if reading.info.speed >= Speed.SUPER and not self.carries_streams:
            before, found = uas_interfaces(found), hide_uas(found)
            notes += _say_uas(before, uas_interfaces(found))
        if found.has_isochronous and not self.carries_isochronous:
            notes.append(
                "its isochronous endpoints (sound, video) will not work: VirtualBox's"
                " remote USB does not carry them, MS-RDPEUSB does"
            )
        return View(found, mask, tuple(notes))


def _is_hub(reading: Reading) -> bool:
    """Is it a hub? Nobody's client lists one in good faith (T40, vrdpusb.md 4.5)."""
    return reading.descriptors.device.device_class == ClassCode.HUB or any(
        ClassCode.HUB in classes for classes in reading.interfaces.values()
    )


def _say_hidden(mask: int, numbers: tuple[int, ...], left: set[int]) -> str:
    hidden = [str(n) for n in numbers if n not in left]
    seen = ", ".join(map(str, sorted(left)))
    if not hidden:
        return f"maskedInterfaces 0x{mask:x} hides nothing: its interfaces are {seen}"
    return (
        f"hidden from the guest: interface {', '.join(hidden)} (maskedInterfaces"
        f" 0x{mask:x}); it sees interface {seen}"
    )


def _say_uas(before: tuple[int, ...], after: tuple[int, ...]) -> list[str]:
    notes = []
    if hidden := [str(n) for n in before if n not in after]:
        notes.append(
            f"UAS of interface {', '.join(hidden)} is hidden: it needs bulk streams,"
            " which this guest does not get; Bulk-Only works"
        )
    if after:
        notes.append(
            f"interface {', '.join(map(str, after))} has nothing but UAS, which needs"
            " bulk streams; this guest does not get them, so the disk may not work"
        )
    return notes


# ------------------------------------------------------------------ identity ----


def describe_identity(device: DeviceDescriptor | DeviceInfo) -> str:
    """Name what must not change."""
    return (
        f"{device.vendor_id:04x}:{device.product_id:04x} revision"
        f" {device.bcd_device:04x} class {device.device_class:02x}"
    )


def why_different(listed: DeviceInfo, device: DeviceDescriptor) -> str | None:
    """Say how a device descriptor contradicts the list, with both; None if not.

    Old clients (vrdpusb.md 3.3, G1) read hexadecimal fields as decimal ones.
    """
    ids = device.vendor_id, device.product_id
    revision, code = device.bcd_device, device.device_class
    old = _decimal(revision >> 8) << 8 | _decimal(revision & 0xFF)
    if (
        (listed.vendor_id, listed.product_id) == ids
        and listed.bcd_device in (revision, old)
        and listed.device_class in (code, _decimal(code))
    ):
        return None
    return (
        f"it was listed as {describe_identity(listed)}, but its device descriptor says"
        f" {describe_identity(device)}: it is not the device that the filters decided"
        " on. Plug it in again; if that does not help, do not trust the device or its"
        " client"
    )


def _decimal(byte: int) -> int:
    """Read the two hexadecimal digits of a byte as C's ``atoi`` does."""
    high, low = byte >> 4, byte & 0x0F
    if high > 9:
        return 0
    return high * 10 + low if low <= 9 else high
