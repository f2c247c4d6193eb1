"""A small USB host for tests: enumerates, moves data, speaks bulk-only transport."""

import asyncio
import contextlib
import itertools
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from rusb.client.backends._emulated.core import EmulatedDevice
from rusb.client.backends.emulated import EmulatedBackend
from rusb.usb.backend import OpenDevice
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import parse_languages, parse_string
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus

__all__ = ["BulkOnly", "Host", "Pending", "plugged"]


@contextlib.asynccontextmanager
async def plugged(device: EmulatedDevice) -> AsyncIterator["Host"]:
    """Plug a device into a backend of its own and open it, for a while."""
    backend = EmulatedBackend(devices=[device])
    try:
        async with asyncio.timeout(20):
            (local,) = await backend.list_devices()
            yield Host(await backend.open(local), backend)
    finally:
        await backend.aclose()


@dataclass
class Pending:
    """A submitted URB and the results that came for it."""

    urb: Urb
    results: list[UrbResult] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def result(self) -> UrbResult:
        """The one completion."""
        (result,) = self.results
        return result


class Host:
    """Submits to an open device; remembers the order of completions.

    Attributes:
        opened: what it drives.
        backend: where that came from.
        completed: URB ids in the order of completion.
    """

    def __init__(self, opened: OpenDevice, backend: EmulatedBackend) -> None:
        self.opened = opened
        self.backend = backend
        self.completed: list[int] = []
        self._ids = itertools.count(1)

    def submit(
        self,
        urb_type: TransferType,
        endpoint: int,
        data: bytes | int,
        packets: tuple[int, ...] = (),
        then: Callable[[UrbResult], None] = lambda result: None,
        *,
        start_frame: int | None = None,
    ) -> Pending:
        """Start a transfer; *data* is how much to read or what to write."""
        is_in = isinstance(data, int)
        length = data if isinstance(data, int) else len(data)
        body = b"" if isinstance(data, int) else data
        assert is_in == bool(endpoint & 0x80)
        urb = Urb(next(self._ids), urb_type, endpoint, length, body, packets=packets)
        urb.start_frame = start_frame
        return self.start(urb, then)

    def start(
        self, urb: Urb, then: Callable[[UrbResult], None] = lambda result: None
    ) -> Pending:
        """Submit a URB as it is."""
        pending = Pending(urb)

        def complete(result: UrbResult) -> None:
            pending.results.append(result)
            pending.done.set()
            self.completed.append(urb.id)
            then(result)

        self.opened.submit(urb, complete)
        return pending

    def bulk(self, endpoint: int, data: bytes | int) -> Pending:
        """A bulk transfer."""
        return self.submit(TransferType.BULK, endpoint, data)

    def interrupt(self, endpoint: int, data: bytes | int) -> Pending:
        """An interrupt transfer."""
        return self.submit(TransferType.INTERRUPT, endpoint, data)

    def control(self, setup: SetupPacket, data: bytes = b"") -> UrbResult:
        """A control transfer, which emulated devices complete at once."""
        return self.start(Urb.control(next(self._ids), setup, data)).result

    def request(
        self, kind: int, code: int, value: int = 0, index: int = 0, length: int = 0
    ) -> bytes | None:
        """A control transfer without OUT data; None: it stalled."""
        result = self.control(SetupPacket(kind, code, value, index, length))
        assert result.status in (UrbStatus.OK, UrbStatus.STALL)
        return bytes(result.data) if result.status is UrbStatus.OK else None

    def descriptor(
        self, kind: int, index: int = 0, length: int = 255, language: int = 0
    ) -> bytes:
        """GET_DESCRIPTOR, which must work."""
        setup = SetupPacket.get_descriptor(kind, index, length, language)
        result = self.control(setup)
        assert result.status is UrbStatus.OK
        return bytes(result.data)

    def enumerate(self) -> DeviceDescriptors:
        """Read all descriptors as an operating system does, and select one."""
        head = self.descriptor(DescriptorType.DEVICE, length=8)
        device = DeviceDescriptor.parse(
            self.descriptor(DescriptorType.DEVICE, length=head[0])
        )
        configurations = []
        for index in range(device.num_configurations):
            head = self.descriptor(DescriptorType.CONFIGURATION, index, 9)
            total = int.from_bytes(head[2:4], "little")
            whole = self.descriptor(DescriptorType.CONFIGURATION, index, total)
            assert len(whole) == total
            configurations.append(ConfigurationDescriptor.parse(whole))
        first = SetupPacket.set_configuration(configurations[0].value)
        assert self.control(first).status is UrbStatus.OK
        return DeviceDescriptors(device, tuple(configurations))

    def string(self, index: int) -> str:
        """Read a string in the device's first language."""
        kind = DescriptorType.STRING
        (language, *_) = parse_languages(self.descriptor(kind))
        return parse_string(self.descriptor(kind, index, 255, language))

    async def until(self, pending: Pending) -> UrbResult:
        """Wait for a completion."""
        await pending.done.wait()
        return pending.result


class BulkOnly:
    """Mass storage bulk-only transport 1.0 with its error recovery (5.3)."""

    IN, OUT = 0x81, 0x02

    def __init__(self, host: Host) -> None:
        self.host = host
        self._tag = 0
        self.residue = 0
        self.data = b""
        self.data_status = UrbStatus.OK

    def wrap(self, command: bytes, length: int, *, is_in: bool, lun: int = 0) -> bytes:
        """Return a command block wrapper."""
        self._tag += 1
        return struct.pack(
            "<4sIIBBB16s",
            b"USBC",
            self._tag,
            length,
            0x80 if is_in else 0,
            lun,
            len(command),
            command,
        )

    def run(
        self, command: bytes, data: bytes | int = 0, *, lun: int = 0, urb: int = 65536
    ) -> int:
        """Run a command and return its status; *data* is how much in, or what out.

        ``data`` and ``residue`` are as the device left them, ``data_status`` is that
        of the data stage.
        """
        is_in = isinstance(data, int)
        length = data if isinstance(data, int) else len(data)
        block = self.wrap(command, length, is_in=is_in, lun=lun)
        assert self.host.bulk(self.OUT, block).result.status is UrbStatus.OK
        self.data, self.data_status = b"", UrbStatus.OK
        if isinstance(data, int):
            self._read(length, urb)
        else:
            self._write(data, urb)
        return self.status()

    def _read(self, length: int, urb: int) -> None:
        while len(self.data) < length:
            wanted = min(urb, length - len(self.data))
            result = self.host.bulk(self.IN, wanted).result
            self.data += bytes(result.data)
            self.data_status = result.status
            if result.status is not UrbStatus.OK:
                assert result.status is UrbStatus.STALL
                self.clear(self.IN)
            if len(result.data) < wanted:
                return

    def _write(self, data: bytes, urb: int) -> None:
        for offset in range(0, len(data), urb):
            result = self.host.bulk(self.OUT, data[offset : offset + urb]).result
            self.data_status = result.status
            if result.status is not UrbStatus.OK:
                assert result.status is UrbStatus.STALL
                self.clear(self.OUT)
                return

    def clear(self, endpoint: int) -> None:
        """Clear a halt."""
        setup = SetupPacket.clear_halt(endpoint)
        assert self.host.control(setup).status is UrbStatus.OK

    def status(self) -> int:
        """Read the command status wrapper, in two attempts."""
        result = self.host.bulk(self.IN, 13).result
        if result.status is UrbStatus.STALL:
            self.data_status = UrbStatus.STALL
            self.clear(self.IN)
            result = self.host.bulk(self.IN, 13).result
        assert (result.status, result.length) == (UrbStatus.OK, 13)
        signature, tag, self.residue, status = struct.unpack("<4sIIB", result.data)
        assert (signature, tag) == (b"USBS", self._tag)
        return int(status)

    def reset(self) -> None:
        """Reset recovery (5.3.4)."""
        assert self.host.request(0x21, 0xFF) == b""
        self.clear(self.IN)
        self.clear(self.OUT)

    def sense(self) -> tuple[int, int, int]:
        """Run REQUEST SENSE and return key, code and qualifier."""
        assert self.run(bytes((0x03, 0, 0, 0, 18, 0)), 18) == 0
        assert self.data[0] == 0x70
        return self.data[2], self.data[12], self.data[13]

    def read(self, first: int, count: int) -> bytes:
        """READ(10) of sectors; it must work."""
        command = struct.pack(">BBIBHB", 0x28, 0, first, 0, count, 0)
        assert self.run(command, count * 512) == 0
        assert self.residue == 0
        return self.data

    def write(self, first: int, data: bytes) -> None:
        """WRITE(10) of sectors; it must work."""
        count = len(data) // 512
        command = struct.pack(">BBIBHB", 0x2A, 0, first, 0, count, 0)
        assert self.run(command, data) == 0
        assert self.residue == 0
