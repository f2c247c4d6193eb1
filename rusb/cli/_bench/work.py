"""What the guest's programs of ``rusb bench`` do with devices."""

import asyncio
import struct
from functools import partial

from rusb.client.backends.emulated import FlashDrive, Loopback
from rusb.errors import RusbError
from rusb.server.guests.loopback import LoopbackDevice
from rusb.usb.bulk_only import COMMAND_WRAPPER, STATUS_WRAPPER
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, Direction, TransferType
from rusb.usb.urb import UrbResult, UrbStatus

from .plan import Job

__all__ = ["Flood", "control", "interrupt", "storage", "transfer"]

US_ENGLISH = 0x0409

_READ_WRITE = struct.Struct(">BBIBHB6x")  # SBC-2, READ (10), WRITE (10)
_BLOCK = 512
_BLOCKS = 8 << 20 >> 9
"""Of the drive, those that are used: half of it."""


def _check(name: str, result: UrbResult, wanted: int) -> None:
    if result.status is not UrbStatus.OK or result.length != wanted:
        raise RusbError(
            f"the bench's own device failed: {name}: {result.status.name},"
            f" {result.length} bytes, not {wanted}"
        )


class Flood:
    """Keeps bulk transfers in flight on some devices.

    Args:
        job: direction, size and depth.
        devices: the transfers are spread over them.
        count: how many in all; None: until :meth:`stop`.

    Attributes:
        moved: bytes so far.
    """

    def __init__(
        self, job: Job, devices: list[LoopbackDevice], count: int | None = None
    ) -> None:
        self.moved = 0
        self._job = job
        self._left = count
        self._in_flight = 0
        self._finished = asyncio.Event()
        self._error: RusbError | None = None
        is_out = job.name.endswith("-out")
        self._endpoint = Loopback.SINK if is_out else Loopback.SOURCE
        self._data = bytes(job.size) if is_out else b""
        for n in range(job.depth):
            self._submit(devices[n % len(devices)])

    def _submit(self, device: LoopbackDevice) -> None:
        if self._left is not None:
            if not self._left:
                return
            self._left -= 1
        self._in_flight += 1
        device.submit(
            *(TransferType.BULK, self._endpoint, self._job.size, self._data),
            partial(self._completed, device),
        )

    def _completed(self, device: LoopbackDevice, result: UrbResult) -> None:
        self.moved += result.length
        try:
            _check(self._job.name, result, self._job.size)
        except RusbError as error:
            self._left, self._error = 0, error
        self._submit(device)
        self._in_flight -= 1
        if not self._in_flight:
            self._finished.set()

    async def finish(self) -> None:
        """Wait until all have completed."""
        await self._finished.wait()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Start no more, and wait for those in flight."""
        self._left = 0
        await self.finish()


async def transfer(job: Job, devices: list[LoopbackDevice], count: int) -> None:
    """Bulk transfers, ``job.depth`` in flight."""
    await Flood(job, devices, count).finish()


async def control(job: Job, devices: list[LoopbackDevice], count: int) -> None:
    """Requests for a string.

    The server answers those for device and configuration descriptors itself.
    """
    index = devices[0].attached.descriptors.device.product
    kind = DescriptorType.STRING
    setup = SetupPacket.get_descriptor(kind, index, job.size, US_ENGLISH)
    for n in range(count):
        result = await devices[n % len(devices)].control(setup)
        _check(job.name, result, job.size)


async def interrupt(job: Job, devices: list[LoopbackDevice], count: int) -> None:
    """Write a report and read it back: two transfers."""
    kind, report = TransferType.INTERRUPT, bytes(job.size)
    for n in range(count // 2):
        device = devices[n % len(devices)]
        result = await device.write(Loopback.INTERRUPT_OUT, report, kind)
        _check(job.name, result, job.size)
        result = await device.read(Loopback.INTERRUPT_IN, job.size, kind)
        _check(job.name, result, job.size)


async def storage(job: Job, devices: list[LoopbackDevice], count: int) -> None:
    """SCSI commands one after another: each a command, its data, its status."""
    device, is_read = devices[0], job.name == "storage-read"
    blocks = job.size // _BLOCK
    data = bytes(job.size)
    for n in range(count):
        block = n * blocks % (_BLOCKS - blocks)
        command = _READ_WRITE.pack(0x28 if is_read else 0x2A, 0, block, 0, blocks, 0)
        direction = Direction.IN if is_read else Direction.OUT
        wrapper = COMMAND_WRAPPER.pack(b"USBC", n, job.size, direction, 0, 10, command)
        result = await device.write(FlashDrive.OUT, wrapper)
        _check(job.name, result, len(wrapper))
        if is_read:
            result = await device.read(FlashDrive.IN, job.size)
        else:
            result = await device.write(FlashDrive.OUT, data)
        _check(job.name, result, job.size)
        result = await device.read(FlashDrive.IN, STATUS_WRAPPER.size)
        _check(job.name, result, STATUS_WRAPPER.size)
        _, tag, residue, status = STATUS_WRAPPER.unpack(result.data)
        if (tag, residue, status) != (n, 0, 0):
            raise RusbError(f"{job.name}: command {n} ended with status {status}")
