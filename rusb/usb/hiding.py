"""Descriptors without what a guest is not to see: pure functions.

Masked interfaces (filters.md 1.1, vrdpusb.md S32) and, for guests that carry no bulk
streams, UAS. Whatever is hidden keeps its number: what is left is not renumbered.
"""

from collections.abc import Iterator
from dataclasses import replace

from .descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptors,
    InterfaceAssociation,
    InterfaceDescriptor,
)
from .types import ClassCode, DescriptorType

__all__ = [
    "hide_interfaces",
    "hide_uas",
    "is_masked",
    "is_of_device",
    "numbers_of",
    "uas_interfaces",
    "with_configurations",
]

UAS = 0x62
"""bInterfaceProtocol of USB Attached SCSI."""


_OF_DEVICE = {
    *(DescriptorType.DEVICE, DescriptorType.CONFIGURATION, DescriptorType.STRING),
    *(DescriptorType.DEVICE_QUALIFIER, DescriptorType.OTHER_SPEED_CONFIGURATION),
    DescriptorType.BOS,
}


def is_of_device(kind: int) -> bool:
    """Does a descriptor type tell of the device as a whole?

    Those of interfaces (the report of a HID interface) are asked of an interface; many
    devices give them to whoever asks the device, whichever interface they are of.
    """
    return kind in _OF_DEVICE


def is_masked(mask: int, number: int) -> bool:
    """Does bit *number* of a mask hide the interface? Numbers above 31 have no bit."""
    return mask >> number & 1 != 0


def numbers_of(descriptors: DeviceDescriptors) -> tuple[int, ...]:
    """Return the interface numbers of all configurations, ascending."""
    found = {n for c in descriptors.configurations for n in c.interface_numbers}
    return tuple(sorted(found))


def with_configurations(
    descriptors: DeviceDescriptors, configurations: tuple[ConfigurationDescriptor, ...]
) -> DeviceDescriptors:
    """Return descriptors of a device that has just these configurations."""
    count = len(configurations)
    device = replace(descriptors.device, num_configurations=count)
    return DeviceDescriptors(device, configurations)


def hide_interfaces(descriptors: DeviceDescriptors, mask: int) -> DeviceDescriptors:
    """Take out the interfaces of *mask*, and configurations that have no other.

    Interface associations shrink to what is left of them.
    """
    left = []
    for configuration in descriptors.configurations:
        members = tuple(_unmasked(configuration, mask))
        if any(isinstance(m, InterfaceDescriptor) for m in members) or not (
            configuration.interfaces
        ):
            left.append(replace(configuration, members=members))
    return with_configurations(descriptors, tuple(left))


def _unmasked(
    configuration: ConfigurationDescriptor, mask: int
) -> Iterator[InterfaceDescriptor | InterfaceAssociation]:
    for member in configuration.members:
        if isinstance(member, InterfaceDescriptor):
            if not is_masked(mask, member.number):
                yield member
            continue
        first, end = member.first_interface, member.first_interface + member.count
        covered = [n for n in configuration.interface_numbers if first <= n < end]
        seen = [n for n in covered if not is_masked(mask, n)]
        if seen == covered:
            yield member
        elif seen:
            count = seen[-1] - seen[0] + 1
            yield replace(member, first_interface=seen[0], count=count)


def _is_uas(setting: InterfaceDescriptor) -> bool:
    return (
        setting.interface_class == ClassCode.MASS_STORAGE
        and setting.interface_protocol == UAS
    )


def hide_uas(descriptors: DeviceDescriptors) -> DeviceDescriptors:
    """Take out the UAS settings of interfaces whose setting 0 is something else."""

    def is_kept(
        configuration: ConfigurationDescriptor,
        member: InterfaceDescriptor | InterfaceAssociation,
    ) -> bool:
        if isinstance(member, InterfaceAssociation) or not _is_uas(member):
            return True
        default = configuration.interface(member.number)
        return default is None or _is_uas(default)

    return with_configurations(
        descriptors,
        tuple(
            replace(c, members=tuple(m for m in c.members if is_kept(c, m)))
            for c in descriptors.configurations
        ),
    )


def uas_interfaces(descriptors: DeviceDescriptors) -> tuple[int, ...]:
    """Return the interfaces that have a UAS setting, ascending."""
    found = {
        i.number for c in descriptors.configurations for i in c.interfaces if _is_uas(i)
    }
    return tuple(sorted(found))
