"""Read a device before the guest sees it: descriptors, and strings that filters use.

Devices get lengths and counts wrong and work with every host, so what can be read is
read; what is odd is noted (T33).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from rusb.errors import GuestError, ParseError
from rusb.usb.descriptors import (
    MAX_CONFIGURATION_SIZE,
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import parse_languages, parse_string
from rusb.usb.text import clean_text
from rusb.usb.types import DescriptorType
from rusb.usb.urb import UrbResult, UrbStatus

from .policy import Reading, why_different

__all__ = ["DEVICE_SIZE", "DescriptorReader"]

DESCRIPTOR_ATTEMPTS = 6
DESCRIPTOR_PAUSE = 0.1
"""As VirtualBox reads descriptors at attach (vrdpusb.md 2.1); seconds."""

MAX_CONFIGURATIONS = 8
"""As many as Linux takes; each costs two round trips at attach."""

DEVICE_SIZE, HEAD_SIZE, STRING_SIZE = 18, 9, 255


class DescriptorReader:
    """Reads one device.

    Args:
        info: what it was listed as.
        control_in: runs a control transfer.
    """

    def __init__(
        self,
        info: DeviceInfo,
        control_in: Callable[[SetupPacket], Awaitable[UrbResult]],
    ) -> None:
        self._info = info
        self._control_in = control_in
        self._notes: list[str] = []

    async def read(self) -> Reading:
        """Read the descriptors.

        Raises:
            GuestError: it does not answer, is not what it was listed as, or has no
                configuration.
        """
        kind = DescriptorType.DEVICE
        data = await self._descriptor(kind, 0, DEVICE_SIZE, DEVICE_SIZE)
        try:
            device = DeviceDescriptor.parse(data, self._notes)
        except ParseError as error:
            raise GuestError(f"{self._info}: {error}") from error
        why = why_different(self._info, device)
        if why is not None:
            raise GuestError(why)
        configurations = await self._configurations(device.num_configurations)
        descriptors = DeviceDescriptors(device, configurations)
        return Reading(self._info, descriptors, notes=tuple(self._notes))

    async def add_strings(self, reading: Reading, names: Iterable[str]) -> Reading:
        """Read those strings that are not known yet, by the names filters use."""
        info, device = reading.info, reading.descriptors.device
        missing = frozenset(names) - reading.strings
        if "manufacturer" in missing:
            info = replace(info, manufacturer=await self._string(device.manufacturer))
        if "product" in missing:
            info = replace(info, product=await self._string(device.product))
        if "serial_number" in missing:
            info = replace(info, serial=await self._string(device.serial))
        return replace(reading, info=info, strings=reading.strings | missing)

    async def _configurations(self, count: int) -> tuple[ConfigurationDescriptor, ...]:
        """Read what there is; the count of the device descriptor may be wrong."""
        if not count:
            raise GuestError(f"{self._info} has no configuration")
        if count > MAX_CONFIGURATIONS:
            self._notes.append(
                f"it claims {count} configurations; only {MAX_CONFIGURATIONS} are read"
            )
        found: list[ConfigurationDescriptor] = []
        for index in range(min(count, MAX_CONFIGURATIONS)):
            try:
                found.append(await self._configuration(index))
            except GuestError as error:
                if not found:
                    raise
                self._notes.append(f"it claims {count} configurations, but {error}")
                break
        return tuple(found)

    async def _configuration(self, index: int) -> ConfigurationDescriptor:
        kind = DescriptorType.CONFIGURATION
        attempts = 2 if index else DESCRIPTOR_ATTEMPTS
        data = await self._descriptor(kind, index, HEAD_SIZE, HEAD_SIZE, attempts)
        total = int.from_bytes(data[2:4], "little")
        if total > HEAD_SIZE:
            size = min(total, MAX_CONFIGURATION_SIZE)
            data = await self._descriptor(kind, index, size, HEAD_SIZE, attempts)
        if total > MAX_CONFIGURATION_SIZE <= len(data):
            raise GuestError(
                f"{self._info}: configuration {index} claims {total} bytes; the maximum"
                f" is {MAX_CONFIGURATION_SIZE}"
            )
        try:
            return ConfigurationDescriptor.parse(data, self._notes)
        except ParseError as error:
            raise GuestError(f"{self._info}: configuration {index}: {error}") from error

    async def _descriptor(
        self,
        kind: int,
        index: int,
        length: int,
        least: int,
        attempts: int = DESCRIPTOR_ATTEMPTS,
    ) -> bytes:
        """Read one descriptor, in several attempts.

        Args:
            kind: of descriptor.
            index: of it.
            length: what to ask for.
            least: fewer bytes are useless. A device that twice gives the same, fewer
                than asked for, has no more.
            attempts: how often to ask.
        """
        setup = SetupPacket.get_descriptor(kind, index, length)
        trouble, before = "", b""
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(DESCRIPTOR_PAUSE)
            result = await self._control_in(setup)
            data = bytes(result.data)
            if result.status is UrbStatus.OK and len(data) >= least:
                if len(data) >= length or data == before:
                    return data
                before = data
            trouble = f"{result.status.name}, {len(data)} of {length} bytes"
            if result.status is UrbStatus.NO_DEVICE:
                break
        if before:
            return before
        raise GuestError(
            f"{self._info}: cannot read descriptor {kind}/{index}: {trouble}"
        )

    async def _string(self, index: int) -> str | None:
        """Read a string in the device's first language; None if there is none."""
        if not index:
            return None
        kind = DescriptorType.STRING
        try:
            setup = SetupPacket.get_descriptor(kind, 0, STRING_SIZE)
            languages = parse_languages(bytes((await self._control_in(setup)).data))
            if not languages:
                return None
            setup = SetupPacket.get_descriptor(kind, index, STRING_SIZE, languages[0])
            text = parse_string(bytes((await self._control_in(setup)).data))
        except ParseError:
            return None
        return clean_text(text) or None
