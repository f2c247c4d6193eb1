"""Run a device side for one attached device over a socket: usbredir, USB/IP."""

import asyncio
import fcntl
import logging
import socket
import struct
import termios
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias, cast, runtime_checkable

from rusb.aio.link import WireLink
from rusb.errors import ConnectionLost, RusbError
from rusb.usb.device import DeviceInfo
from rusb.usb.urb import UrbResult
from rusb.wire import base as wire
from rusb.wire.usbip import UsbipDeviceSide
from rusb.wire.usbredir import StreamState, UsbredirDeviceSide

from ..serial.chips import find_ports
from .base import AttachedDevice

__all__ = ["DeviceStream", "MovableGuest", "StreamCore", "usbredir_core", "waiting"]

log = logging.getLogger(__name__)

WRITE_HIGH = 8 << 20
"""Bytes waiting for the guest above which nothing is taken from it, interrupt
endpoints are not polled and isochronous input is dropped."""

BLOCK = 64 << 10
"""Bytes in which what waits is given to the transport: each block that it keeps has a
price, and for a report of 8 bytes that is seven times its packet."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the guest gets to read the last words."""

FEWER = 1.0
"""Seconds without a further read after which those that have come back from a serial
port are all that the guest keeps there: a driver whose program takes nothing leaves out
some, and so may a program. One that goes on reads again within milliseconds."""

_INT = struct.Struct("i")


StreamCore: TypeAlias = UsbredirDeviceSide | UsbipDeviceSide
"""Speaks to a guest over a stream."""


def usbredir_core(device: AttachedDevice, configuration: int = 0) -> UsbredirDeviceSide:
    """Return the core for a guest that speaks usbredir.

    Args:
        device: what is attached.
        configuration: value of the one that is selected already; 0 for none.
    """
    return UsbredirDeviceSide(configuration, round_trip=lambda: device.round_trip)


@runtime_checkable
class MovableGuest(Protocol):
    """A guest whose devices may come from another server, and go to one."""

    def stream_of(self, device: AttachedDevice) -> "tuple[str, DeviceStream] | None":
        """Return what an attached device is called in the machine, and its stream."""

    async def adopt(
        self, device: AttachedDevice, place: str, state: StreamState, unsent: bytes
    ) -> str:
        """Go on with a device that another server had attached.

        Args:
            device: what it is from now on.
            place: what it is called in the machine.
            state: of its stream.
            unsent: what goes to the guest first.

        Returns:
            Where it is, for the log.

        Raises:
            GuestError: the machine has none of that name.
            ParseError: *state* does not fit it.
        """

    async def refuse(self, place: str) -> None:
        """Take a device out of the machine that another server had attached."""

    def forget(self, device: AttachedDevice) -> None:
        """Another server goes on with a device; the guest does not notice."""


class DeviceStream(asyncio.Protocol):
    """The protocol of one connection to a guest.

    Attributes:
        was_used: the guest did more than look at descriptors.

    Args:
        device: what is attached.
        core: speaks to the guest.
        on_refused: the guest refused the device; the connection stays open.
        on_ended: the guest ended the connection; called once, and not after
            :meth:`aclose`.
        unsent: what goes to the guest first.
    """

    def __init__(
        self,
        device: AttachedDevice,
        core: StreamCore,
        *,
        on_refused: Callable[[], None] = lambda: None,
        on_ended: Callable[[], None] = lambda: None,
        unsent: bytes = b"",
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.was_used = False
        self._core = core
        self._device = device
        self._on_refused = on_refused
        self._on_ended = on_ended
        self._in_flight: set[int] = set()
        self._out: list[bytes] = [unsent]
        self._block = bytearray()  # waits with what the transport has
        self._is_write_due = False
        self._is_full = False  # more than one block waits there
        self._is_congested = False
        self._is_paused = False
        self._is_over = False
        self._is_closing = False
        self._is_quiet: Callable[[], bool] | None = None  # it is to be recalled then
        self._is_gathering = False
        self._ports: frozenset[int] | None = None  # endpoints of serial ones
        self._held: int | None = None  # reads that have come back
        self._held_since = 0.0
        self._gathered = asyncio.Event()
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()  # to ask takes a system call
        self._link = WireLink(
            core,
            send=self._collect,
            flush=self._flush,
            on_event=self._dispatch,
            close_channel=self._close,
        )

    @classmethod
    async def over(
        cls,
        sock: socket.socket,
        device: AttachedDevice,
        core: StreamCore,
        *,
        on_refused: Callable[[], None] = lambda: None,
        on_ended: Callable[[], None] = lambda: None,
        unsent: bytes = b"",
    ) -> "DeviceStream":
        """Serve the guest at the other end of a connected stream socket.

        It is closed with the stream, and if there is none after all.
        """
        try:
            _, stream = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: cls(
                    *(device, core),
                    on_refused=on_refused,
                    on_ended=on_ended,
                    unsent=unsent,
                ),
                sock,
            )
        except BaseException:
            sock.close()
            raise
        return stream

    # ------------------------------------------- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello and announce the device."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BLOCK)
        self._device.watch_pressure(self._on_pressure)
        if isinstance(self._core, UsbredirDeviceSide) and self._core.is_adopted:
            self._link.adopt(0)
            self._flush()  # what was unsent
            self._go_on(self._core)
            return
        info = self._device.info
        self._link.opened(0, "")
        self._core.announce([info], {info.id: self._device.descriptors})
        self._link.flush()

    def data_received(self, data: bytes) -> None:
        """Take what the guest says, as far as there is room."""
        try:
            self._link.received(0, data)
            self._link.finished()
        except RusbError as error:
            log.warning("%s: the guest's stream: %s", self._device.name, error)
            self.abort()
        except Exception:
            log.exception("%s: bug while serving the guest", self._device.name)
            self.abort()
        self._pause_or_go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what the guest left behind."""
        if self._is_over:
            return
        self._is_over = True
        self._link.close()
        for urb_id in list(self._in_flight):
            self._device.cancel(urb_id)
        self._gathered.set()
        self._closed.set()
        if not self._is_closing:
            self._on_ended()

    def eof_received(self) -> bool:
        """The guest has ended, or all that it said has come; see :meth:`gather`."""
        self._gathered.set()
        return self._is_gathering

    def pause_writing(self) -> None:
        """The guest reads more slowly than its device answers."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It caught up."""
        self._is_full = False
        self._write()
        if self._is_congested:
            self._congest(False)

    # ------------------------------------------------- called by the owner ----

    async def aclose(self) -> None:
        """Unplug the device from the guest, close, wait for the end. Idempotent."""
        self._is_closing = True
        if self.transport is None or self._is_over:
            return
        self._core.announce([])
        self._link.flush()
        self._is_full = False  # these are the last words
        self._write()
        self.transport.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._closed.wait()
        except TimeoutError:  # a guest that reads nothing
            self.abort()
            await self._closed.wait()

    def abort(self) -> None:
        """Close at once. Idempotent."""
        if self.transport is not None:
            self.transport.abort()

    # ------------------------------------ to another QEMU (teleport.md 7.9) ----

    @property
    def info(self) -> DeviceInfo:
        """What is attached."""
        return self._device.info

    def keeps_reads_waiting(self, *, but_serial: bool = False) -> bool:
        """Does the guest have several bulk reads waiting at one endpoint?

        Args:
            but_serial: not to count serial ports.
        """
        core = self._core
        but = self._serial_inputs() if but_serial else ()
        return isinstance(core, UsbredirDeviceSide) and core.waiting_reads(but) > 1

    def suspend_reads(self) -> bool:
        """Leave no read of the guest's waiting at the device's serial ports.

        Returns:
            It has some; call :meth:`settle_reads` then until :attr:`is_read`.
        """
        core, ports = self._core, self._serial_inputs()
        if not ports or not isinstance(core, UsbredirDeviceSide):
            return False
        self._held = None
        core.suspend_reads(ports)
        self._link.flush()
        return True

    def settle_reads(self) -> None:
        """Do not wait for a guest that keeps fewer reads than it did."""
        core, now = self._core, self._loop.time()
        assert isinstance(core, UsbredirDeviceSide)
        if core.held_reads is None or core.held_reads != self._held:
            self._held, self._held_since = core.held_reads, now
        elif now - self._held_since >= FEWER:
            core.expect_no_reads()
            self._link.flush()

    def resume_reads(self) -> None:
        """Take them again."""
        core = self._core
        if isinstance(core, UsbredirDeviceSide) and not self._is_over:
            core.resume_reads()
            self._link.flush()

    @property
    def is_read(self) -> bool:
        """Has the guest read all that we said, and have we what it said, with no read
        left waiting?"""
        core, transport = self._core, self.transport
        if transport is None or self._is_over:
            return True
        assert isinstance(core, UsbredirDeviceSide)
        is_written = not (self._out or self._block)
        if not is_written or transport.get_write_buffer_size() or core.is_suspending:
            return False
        sock = transport.get_extra_info("socket")
        asked = termios.TIOCOUTQ, termios.FIONREAD
        return not any(waiting(sock, one) for one in asked)

    def _serial_inputs(self) -> frozenset[int]:
        """The addresses at which its serial ports, if it has some, are read."""
        if self._ports is None:
            ports = find_ports(self._device.descriptors)
            self._ports = frozenset(port.interface.data_in.address for port in ports)
        return self._ports

    # -------------------------------------------------- to another server ----

    @property
    def may_move(self) -> bool:
        """Could another server go on with it?"""
        core = self._core
        return isinstance(core, UsbredirDeviceSide) and core.may_move

    def recall(self, is_quiet: Callable[[], bool]) -> None:
        """Take nothing more from the guest, and have what waits at the device come
        back.

        Args:
            is_quiet: is the device between two commands? It begins when it is.
        """
        self._is_quiet = is_quiet
        self._look()

    @property
    def is_back(self) -> bool:
        """Is nothing in flight any more, since :meth:`recall`?"""
        core = self._core
        return isinstance(core, UsbredirDeviceSide) and core.is_back

    def go_on(self) -> None:
        """Serve the guest again."""
        self._is_quiet = None
        if isinstance(self._core, UsbredirDeviceSide) and not self._is_over:
            self._go_on(self._core)

    async def gather(self) -> StreamState:
        """Take all that the guest has said until it shuts its end down, and end ours.

        Once :attr:`is_back` is true.

        Raises:
            ConnectionLost: it has left the guest meanwhile.
        """
        core, transport = self._core, self.transport
        assert isinstance(core, UsbredirDeviceSide)
        assert transport is not None
        self._is_full = False
        self._write()
        transport.write_eof()
        self._is_gathering = True
        self._pause_or_go_on()
        await self._gathered.wait()
        if self._is_over:
            raise ConnectionLost("the device has left the guest")
        return core.state()

    def let_go(self) -> None:
        """Another server goes on with it: close, and say nothing."""
        self._is_over = True
        self._link.close()
        self.abort()

    def _go_on(self, core: UsbredirDeviceSide) -> None:
        core.go_on()
        self._link.flush()
        self.data_received(b"")

    def _look(self) -> None:
        is_quiet, core = self._is_quiet, self._core
        if is_quiet is None or not isinstance(core, UsbredirDeviceSide):
            return
        if is_quiet():
            self._is_quiet = None
            core.recall()
            self._link.flush()
            self._pause_or_go_on()

    # ------------------------------------------------------------- our own ----

    def _dispatch(self, event: wire.Event) -> None:
        match event:
            case wire.UrbSubmitted():
                urb = event.urb
                self._in_flight.add(urb.id)
                setup = urb.setup
                if setup is None or setup.request_type != 0x80:
                    self.was_used = True
                self._device.submit(urb, partial(self._completed, urb.id))
            case wire.CancelRequested():
                self._device.cancel(event.urb_id)
            case wire.ResetRequested():
                self._device.reset()
            case wire.CloseRequested():
                self._on_refused()
            case wire.Ignored():
                log.debug("%s: ! %s", self._device.name, event.reason)
            case _:
                log.debug("%s: = %s", self._device.name, event)

    def _completed(self, urb_id: int, result: UrbResult) -> None:
        self._in_flight.discard(urb_id)
        if not self._is_over:
            self._core.complete_urb(self._device.info.id, urb_id, result)
            self._link.flush()
            if self._is_paused:
                self._pause_or_go_on()
            if self._is_quiet is not None:
                self._look()

    def _collect(
        self,
        channel: int,
        data: bytes,
        *,
        flow: int,
        is_urgent: bool,
        is_fence: bool,
    ) -> None:
        self._out.append(data)

    def _close(self, channel: int) -> None:
        """The core ends the stream; what it has said before goes out."""
        self._is_full = False
        self._loop.call_soon(self._hang_up)

    def _hang_up(self) -> None:
        self._write()
        if self.transport is not None:
            self.transport.close()

    def _flush(self) -> None:
        """Write once for all that this turn of the loop brings."""
        if not self._is_write_due:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_write_due = False
        data, self._out = b"".join(self._out), []
        transport = self.transport
        if transport is None or self._is_over or self._is_gathering:
            return
        if self._is_full and len(self._block) + len(data) < BLOCK:
            self._block += data
        elif data or self._block:
            if self._block:
                data = bytes(self._block) + data
                self._block.clear()
            transport.write(data)
        waiting = transport.get_write_buffer_size() + len(self._block)
        if waiting > WRITE_HIGH and not self._is_congested:
            self._congest(True)

    def _on_pressure(self, is_high: bool) -> None:
        """The network is slow: let the guest wait, as a device that NAKs."""
        (self._core.pause if is_high else self._core.resume)()
        self._pause_or_go_on()

    def _congest(self, is_congested: bool) -> None:
        self._is_congested = is_congested
        self._core.congest(is_congested)
        self._link.flush()
        self._pause_or_go_on()

    def _pause_or_go_on(self) -> None:
        """Read from the guest only while there is room for what it asks."""
        want = self._core.is_full() and not self._is_gathering
        transport = self.transport
        if want == self._is_paused or transport is None or transport.is_closing():
            return
        self._is_paused = want
        if want:
            transport.pause_reading()
        else:
            transport.resume_reading()
            self.data_received(b"")


def waiting(sock: socket.socket, request: int) -> int:
    """Return how many bytes wait in a socket, 0 if it is closed.

    Args:
        sock: a stream, of the Unix domain.
        request: FIONREAD: for us; TIOCOUTQ: for its peer, but more than there are.
    """
    if sock.fileno() < 0:
        return 0
    answer = fcntl.ioctl(sock.fileno(), request, bytes(_INT.size))
    return int(_INT.unpack(answer)[0])
