"""What guests get in tests of them, and the programs that use it there."""

import asyncio
import contextlib
import itertools
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from rusb.server.guests.base import AttachedDevice
from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.device import DeviceInfo
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire.base import DevicesListed, Send, UrbCompleted
from rusb.wire.usbip import UsbipGuestSide
from rusb.wire.usbredir import UsbredirGuestSide

__all__ = [
    "DESCRIPTORS",
    "IN",
    "OTHER_IN",
    "OUT",
    "Device",
    "Program",
    "Redirected",
    "until",
]

IN, OTHER_IN, OUT = 0x81, 0x83, 0x02
ENDPOINTS = tuple(EndpointDescriptor(a, 2, 512, 0) for a in (IN, OTHER_IN, OUT))
DESCRIPTORS = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0xFF, 0, 0, 64, 0x1209, 1, 0x0100),
    (
        ConfigurationDescriptor(
            1, 0x80, 50, (InterfaceDescriptor(0, 0, 0xFF, 0, 0, 0, ENDPOINTS),)
        ),
    ),
)


# ------------------------------------------------------- what is attached ----


class Device(AttachedDevice):
    """A device that answers control requests and keeps what else it is asked."""

    def __init__(self, number: int = 1) -> None:
        self.info = DeviceInfo(number, 0x1209, number, speed=Speed.HIGH)
        self.descriptors = DESCRIPTORS
        self.name = f"usb-{number}"
        self.resets = 0
        self.open: dict[int, tuple[Urb, Completion]] = {}
        self.seen: list[Urb] = []
        self.cancelled: list[int] = []

    def submit(self, urb: Urb, complete: Completion) -> None:
        if urb.setup is not None:
            assert not urb.is_in, "a request that was not expected"
            complete(UrbResult(UrbStatus.OK))
            return
        assert urb.id not in self.open, "two URBs in flight have the same id"
        self.seen.append(urb)
        self.open[urb.id] = urb, complete

    def cancel(self, urb_id: int) -> None:
        if urb_id in self.open:
            self.cancelled.append(urb_id)

    def reset(self) -> None:
        self.resets += 1
        self.complete_all(UrbStatus.CANCELLED)

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        pass

    def complete(self, urb: Urb, status: UrbStatus = UrbStatus.OK) -> None:
        """Answer with as many bytes as were wanted, or with a failure."""
        _, complete = self.open.pop(urb.id)
        length = urb.length if status is UrbStatus.OK else 0
        complete(UrbResult(status, bytes(length) if urb.is_in else b"", length))

    def complete_all(self, status: UrbStatus) -> None:
        for urb, _ in list(self.open.values()):
            self.complete(urb, status)


# ------------------------------------------------------ programs in guests ----


class Program(ABC):
    """Uses one device in the guest.

    Attributes:
        results: of each transfer, by a number of the program's own.
    """

    def __init__(self) -> None:
        self.results: dict[int, list[UrbResult]] = {}
        self._numbers = itertools.count(1)

    def start(self, endpoint: int, length: int) -> int:
        """Start a bulk transfer and return its number."""
        number = next(self._numbers)
        self.results[number] = []
        data = b"" if endpoint & 0x80 else bytes(length)
        self._submit(Urb(number, TransferType.BULK, endpoint, length, data))
        return number

    @abstractmethod
    def _submit(self, urb: Urb) -> None: ...

    @abstractmethod
    def cancel(self, number: int) -> None:
        """Abort a transfer."""

    @property
    @abstractmethod
    def has_device(self) -> bool:
        """Is the device still plugged in, as the program sees it?"""

    @property
    def statuses(self) -> list[UrbStatus]:
        """Of what has ended, by number; nothing ends twice."""
        assert all(len(found) <= 1 for found in self.results.values())
        return [found[0].status for found in self.results.values() if found]


class Redirected(Program):
    """At the other end of a socket that speaks usbredir, as QEMU and pyusb are, or
    USB/IP."""

    def __init__(
        self,
        sock: socket.socket,
        core: UsbredirGuestSide | UsbipGuestSide | None = None,
    ) -> None:
        super().__init__()
        self.is_attached = False
        self._socket = sock
        self._core = core or UsbredirGuestSide()
        self._lock = threading.Lock()
        with self._lock:
            self._core.channel_opened(0, "", now=0)
            self._move()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def has_device(self) -> bool:
        return self.is_attached

    @property
    def is_ready(self) -> bool:
        """Is the device there, and have its endpoints been described?"""
        is_described = bool(getattr(self._core, "types", True))
        return self.is_attached and is_described

    def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                data = self._socket.recv(1 << 16)
                if data:
                    with self._lock:
                        self._core.receive_data(0, data, now=0)
                        self._move()
                    continue
            break
        with self._lock:
            self._core.channel_closed(0)
            self._move()
        self.is_attached = False

    def _move(self) -> None:
        for event in self._core.events():
            if isinstance(event, UrbCompleted):
                self.results[event.urb_id].append(event.result)
            elif isinstance(event, DevicesListed):
                self.is_attached = bool(event.devices)
                if event.devices:
                    self._core.reset_device(1)
                    self._core.set_configuration(1, 1)
        data = b"".join(o.data for o in self._core.outputs() if isinstance(o, Send))
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def _submit(self, urb: Urb) -> None:
        with self._lock:
            self._core.submit_urb(1, urb, now=0)
            self._move()

    def cancel(self, number: int) -> None:
        with self._lock:
            self._core.cancel_urb(1, number)
            self._move()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - programs run in threads
            await asyncio.sleep(0.002)
