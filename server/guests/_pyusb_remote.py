"""One device of the guest ``pyusb``, as a program in another process has it.

It is synchronous, as pyusb is, and has no threads.
"""

import errno
import itertools
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from math import ceil
from pathlib import Path

import usb.core

from rusb.errors import RemoteProtocolError
from rusb.usb.descriptors import ConfigurationDescriptor, DeviceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import DescriptorType, Speed, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire.base import DeviceFailed, DevicesListed, Send, UrbCompleted
from rusb.wire.usbredir import UsbredirGuestSide

__all__ = ["Remote", "usb_error"]

CONNECT_SECONDS = 3.0
"""Until a device must have announced itself; one that another program has does not."""

DESCRIPTOR_MS = 5000
READ_SIZE = 1 << 18

CANCEL_SECONDS = 5.0
"""Until a cancelled transfer must have come back with what it had moved."""

GONE_SECONDS = 1.0
"""From a failed transfer to the end of the device that may be its cause."""

_ERRORS = {
    UrbStatus.STALL: (-9, errno.EPIPE, "Pipe error"),
    UrbStatus.NO_DEVICE: (
        *(-4, errno.ENODEV),
        "No such device (it may have been disconnected)",
    ),
    UrbStatus.OVERFLOW: (-8, errno.EOVERFLOW, "Overflow"),
    UrbStatus.INVALID: (-2, errno.EINVAL, "Invalid parameter"),
    UrbStatus.DENIED: (-3, errno.EACCES, "Access denied (insufficient permissions)"),
}
"""libusb's number (``backend_error_code``), that of the system, and libusb's text."""


class Remote:
    """One device: its socket and its usbredir core.

    Whoever waits for something reads the socket, so that a program with one thread
    never changes threads. Of several threads one reads, for all of them; when it has
    what it waits for, another one goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.speed = Speed.UNKNOWN
        digits = "".join(c for c in path.stem if c.isdigit())
        self.address = int(digits or 1) % 128
        self._turn = threading.Condition(threading.Lock())
        self._is_read = False  # a thread reads, and waits for data without the lock
        self._is_connected = self._is_gone = self._is_over = False
        self._out = deque[bytes | memoryview]()
        self._core = UsbredirGuestSide()
        self._ids = itertools.count(1)
        self._results: dict[int, UrbResult | None] = {}  # of the URBs in flight
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT_SECONDS)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        try:
            self._socket.connect(str(path))
            self._socket.setblocking(False)
            with self._turn:
                self._core.channel_opened(0, "", now=time.monotonic())
                self._move()
                self._wait(lambda: self._is_connected or self._is_gone, CONNECT_SECONDS)
            if not self._is_connected or self._is_gone:
                raise OSError(errno.EBUSY, f"{path} is in use by another program")
            kind = DescriptorType.DEVICE
            self.device = DeviceDescriptor.parse(self._descriptor(kind, 0))
            self.configurations = [
                self._configuration(n) for n in range(self.device.num_configurations)
            ]
        except BaseException:
            self.close()
            raise

    def is_gone(self) -> bool:
        """Is it unplugged, or the connection over? Reads what has been said of it."""
        with self._turn:
            if not self._is_read:
                self._receive()
            return self._is_gone

    def close(self) -> None:
        """Hang up; whoever waits gets NO_DEVICE. Idempotent."""
        with self._turn:
            self._end()
            if self._wake >= 0 and not self._is_read:
                self._free()
            elif self._wake >= 0:
                os.eventfd_write(self._wake, 1)  # its reader frees it

    # ----------------------------------------------- reading, under the lock ----

    def _wait(self, is_done: Callable[[], bool], seconds: float | None) -> bool:
        """Read until *is_done*, or let another thread; False: the time is over."""
        until = None if seconds is None else time.monotonic() + seconds
        try:
            while not (is_done() or self._is_over):
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    break
                if self._is_read:
                    self._turn.wait(left)
                else:
                    self._read(left)
        finally:
            self._turn.notify()  # whoever also waits reads from now on
        return is_done()

    def _read(self, seconds: float | None) -> None:
        """Wait for data without the lock, and take it; send what could not be sent."""
        wanted = select.POLLIN | (select.POLLOUT if self._out else 0)
        self._poll.register(self._socket, wanted)
        self._is_read = True
        self._turn.release()
        try:
            ready = self._poll.poll(None if seconds is None else ceil(1000 * seconds))
        finally:
            self._turn.acquire()
            self._is_read = False
        if any(fd == self._wake for fd, _ in ready):
            os.eventfd_read(self._wake)
        if ready:
            self._receive()
            self._flush()
        if self._is_over:
            self._free()

    def _receive(self) -> None:
        """Feed the core with what there is."""
        while not self._is_over:
            try:
                count = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self._end()
                return
            data = bytes(self._buffer[:count])
            try:
                self._core.receive_data(0, data, now=time.monotonic())
            except RemoteProtocolError:
                self._end()
            self._move()
            if count < READ_SIZE:
                return

    def _end(self) -> None:
        """The stream is over: everything completes."""
        if not self._is_over:
            self._is_gone = self._is_over = True
            self._core.channel_closed(0)
            self._move()
            self._turn.notify_all()

    def _free(self) -> None:
        """Close the descriptors, once nobody waits for them."""
        if self._wake >= 0:
            self._socket.close()
            os.close(self._wake)
            self._wake = -1

    def _move(self) -> None:
        """Take what the core says, and send."""
        for event in self._core.events():
            if isinstance(event, UrbCompleted):
                if event.urb_id in self._results:
                    self._results[event.urb_id] = event.result
                    self._turn.notify_all()
            elif isinstance(event, DevicesListed) and event.devices:
                self.speed = event.devices[0].speed
                self._is_connected = True
            elif isinstance(event, DeviceFailed):
                self._is_gone = True
        self._out += [o.data for o in self._core.outputs() if isinstance(o, Send)]
        self._flush()

    def _flush(self) -> None:
        """Send what the socket takes; whoever reads sends the rest when it can.

        A thread that only sent could wait for ever: a server that has much to say
        reads no more until somebody listens.
        """
        while self._out and not self._is_over:
            piece = self._out[0]
            try:
                count = self._socket.send(piece)
            except BlockingIOError:
                if self._is_read:
                    os.eventfd_write(self._wake, 1)
                return
            except OSError:  # the end of the stream follows, after what was sent to us
                self._out.clear()
                return
            if count < len(piece):
                self._out[0] = memoryview(piece)[count:]
            else:
                self._out.popleft()

    # ------------------------------------------------------------ transfers ----

    def run(self, urb: Urb, timeout_ms: int) -> UrbResult:
        """Run a transfer to its end; 0 ms means no limit.

        What was moved before the limit is a result, as libusb has it, not a failure.

        Raises:
            usb.core.USBError: any outcome but OK.
        """
        results, id = self._results, urb.id

        def is_done() -> bool:
            return results[id] is not None

        with self._turn:
            if self._is_gone:
                raise usb_error(UrbStatus.NO_DEVICE)
            results[id] = None
            try:
                self._core.submit_urb(1, urb, now=time.monotonic())
                self._move()
                is_late = not self._wait(
                    is_done, timeout_ms / 1000 if timeout_ms else None
                )
                if is_late:
                    self._core.cancel_urb(1, id)
                    self._move()
                    self._wait(is_done, CANCEL_SECONDS)
            finally:
                result = results.pop(id)
            if result is None:
                raise usb_error(UrbStatus.TIMEOUT)
            if result.status is UrbStatus.OK or (
                is_late and result.length and not urb.setup
            ):
                return result
            if is_late and not self._is_gone:
                raise usb_error(UrbStatus.TIMEOUT)
            if result.status in (UrbStatus.CANCELLED, UrbStatus.IO_ERROR):
                # What is in flight during an unplug ends a moment before the device.
                self._wait(lambda: self._is_gone, GONE_SECONDS)
            status = UrbStatus.NO_DEVICE if self._is_gone else result.status
            raise usb_error(status)

    def control(
        self, setup: SetupPacket, data: bytes = b"", timeout_ms: int = DESCRIPTOR_MS
    ) -> UrbResult:
        """Run a control transfer."""
        return self.run(Urb.control(next(self._ids), setup, data), timeout_ms)

    def transfer(
        self, kind: TransferType, endpoint: int, length: int, data: bytes, timeout: int
    ) -> UrbResult:
        """Run any other transfer; isochronous ones in packets of the endpoint."""
        packets: tuple[int, ...] = ()
        if kind is TransferType.ISOCHRONOUS:
            size = max(1, self._packet_size(endpoint))
            packets = tuple(
                min(size, length - start) for start in range(0, length, size)
            )
        urb = Urb(next(self._ids), kind, endpoint, length, data, packets=packets)
        return self.run(urb, timeout)

    def reset(self) -> None:
        """Reset the device."""
        with self._turn:
            self._core.reset_device(1)
            self._move()
            self._wait(lambda: not self._out, CANCEL_SECONDS)

    def _packet_size(self, endpoint: int) -> int:
        for configuration in self.configurations:
            for interface in configuration.interfaces:
                for found in interface.endpoints:
                    if found.address == endpoint:
                        return found.bytes_per_interval
        return 0

    def _descriptor(self, kind: int, index: int, length: int = 255) -> bytes:
        setup = SetupPacket.get_descriptor(kind, index, length)
        return bytes(self.control(setup).data)

    def _configuration(self, index: int) -> ConfigurationDescriptor:
        kind = DescriptorType.CONFIGURATION
        total = int.from_bytes(self._descriptor(kind, index, 9)[2:4], "little")
        return ConfigurationDescriptor.parse(self._descriptor(kind, index, total))


def usb_error(status: UrbStatus) -> usb.core.USBError:
    """Return what libusb would have pyusb raise."""
    if status is UrbStatus.TIMEOUT:
        return usb.core.USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT)
    code, number, text = _ERRORS.get(status, (-1, errno.EIO, "Input/Output Error"))
    return usb.core.USBError(text, code, number)
