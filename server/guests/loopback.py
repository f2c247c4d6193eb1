"""A guest in this process: it enumerates like a host controller.

For Python programs, tests and ``rusb bench``: no kernel, no other process.
"""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, TypeAlias

from rusb.errors import GuestError, ParseError
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import parse_languages, parse_string
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from .base import AttachedDevice, GuestBackend

__all__ = ["LoopbackDevice", "LoopbackGuest"]

MAX_DEVICES = 127
"""Device addresses of one bus."""

_Running: TypeAlias = Coroutine[Any, Any, UrbResult]


class LoopbackDevice:
    """One device as programs of the loopback guest see it, configured and ready.

    Attributes:
        attached: what the server attached.
        strings: manufacturer, product and serial, as the device itself reports them.
    """

    def __init__(self, attached: AttachedDevice) -> None:
        self.attached = attached
        self.strings: dict[str, str] = {}
        self._ids = itertools.count(1)
        self._loop = asyncio.get_running_loop()  # to ask takes a system call

    def submit(
        self,
        urb_type: TransferType,
        endpoint: int,
        length: int,
        data: bytes,
        complete: Completion,
    ) -> int:
        """Start a transfer and return its URB id; *complete* gets the result."""
        urb = Urb(next(self._ids), urb_type, endpoint, length, data)
        self.attached.submit(urb, complete)
        return urb.id

    async def run(self, urb: Urb) -> UrbResult:
        """Run one transfer to its end; cancelling this cancels the transfer."""
        done: asyncio.Future[UrbResult] = self._loop.create_future()

        def complete(result: UrbResult) -> None:
            if not done.done():
                done.set_result(result)

        self.attached.submit(urb, complete)
        try:
            return await done
        except asyncio.CancelledError:
            self.attached.cancel(urb.id)
            raise

    def control(self, setup: SetupPacket, data: bytes = b"") -> _Running:
        """A control transfer; *data* is the OUT data stage."""
        return self.run(Urb.control(next(self._ids), setup, data))

    def read(
        self, endpoint: int, length: int, urb_type: TransferType = TransferType.BULK
    ) -> _Running:
        """An IN transfer of up to *length* bytes."""
        return self.run(Urb(next(self._ids), urb_type, endpoint | 0x80, length))

    def write(
        self, endpoint: int, data: bytes, urb_type: TransferType = TransferType.BULK
    ) -> _Running:
        """An OUT transfer."""
        number, length = next(self._ids), len(data)
        return self.run(Urb(number, urb_type, endpoint & 0x7F, length, data))

    async def string(self, index: int) -> str:
        """Read a string descriptor in the device's first language; "" if none."""
        if not index:
            return ""
        kind = DescriptorType.STRING
        try:
            result = await self.control(SetupPacket.get_descriptor(kind))
            languages = parse_languages(bytes(result.data))
            if not languages:
                return ""
            setup = SetupPacket.get_descriptor(kind, index, language=languages[0])
            return parse_string(bytes((await self.control(setup)).data))
        except ParseError:
            return ""


class LoopbackGuest(GuestBackend):
    """Keeps its devices in :attr:`devices`, by :attr:`AttachedDevice.name`."""

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self.devices: dict[str, LoopbackDevice] = {}
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """Do nothing: this guest is always ready."""

    async def attach(self, device: AttachedDevice) -> str:
        """Reset, read the strings, select the first configuration."""
        if len(self.devices) >= MAX_DEVICES:
            raise GuestError(f"all {MAX_DEVICES} addresses of the bus are taken")
        ours = LoopbackDevice(device)
        device.reset()
        descriptor = device.descriptors.device
        for name in ("manufacturer", "product", "serial"):
            ours.strings[name] = await ours.string(getattr(descriptor, name))
        if device.descriptors.configurations:
            value = device.descriptors.configurations[0].value
            result = await ours.control(SetupPacket.set_configuration(value))
            if result.status is not UrbStatus.OK:
                raise GuestError(f"{device.info}: SET_CONFIGURATION {result.status!r}")
        async with self._changed:
            self.devices[device.name] = ours
            self._changed.notify_all()
        return f"address {len(self.devices)} of the loopback bus"

    async def detach(self, device: AttachedDevice) -> None:
        """Forget it."""
        async with self._changed:
            self.devices.pop(device.name, None)
            self._changed.notify_all()

    async def aclose(self) -> None:
        """Forget everything."""
        self.devices.clear()

    async def wait_for(self, count: int) -> list[LoopbackDevice]:
        """Wait until exactly *count* devices are there and return them."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.devices) == count)
        return list(self.devices.values())


PLUGIN = LoopbackGuest
