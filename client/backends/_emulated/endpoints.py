"""The URBs of an emulated device: queues, packets, halts, timing of frames."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Speed, TransferType
from rusb.usb.urb import Completion, IsoPacket, Urb, UrbResult, UrbStatus

__all__ = ["Data", "Hooks", "Endpoints"]

log = logging.getLogger(__name__)

MAX_TRANSFER = 64 << 20
"""Bytes of one URB; what a guest's driver asks for is 1 MiB at most."""

MAX_PENDING = 4096
"""URBs waiting in one device; more than any host controller driver queues."""

MAX_ISO_PACKETS = 1024
"""Packets of one isochronous URB, 128 ms at high speed."""

FRAME = 0.001
"""Seconds of a frame; frames are counted by the clock of the loop."""

MAX_FRAMES_AHEAD = 1024
"""How far ahead an isochronous transfer may name its first frame; one that names
another starts as soon as possible."""

ISO_SLACK = 0.01
"""Seconds for which an isochronous stream may have nothing to do before it starts anew:
on a bus, intervals pass. What is queued lags behind only since this program does."""

Data: TypeAlias = bytes | memoryview

_CONTROL, _ISOCHRONOUS = TransferType.CONTROL, TransferType.ISOCHRONOUS
_OK = UrbStatus.OK
_STALL = UrbResult(UrbStatus.STALL)
_INVALID = UrbResult(UrbStatus.INVALID)


class Hooks(Protocol):
    """What endpoints ask of their device; see :class:`.core.EmulatedDevice`."""

    speed: Speed

    def request(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer a control request."""

    def data_out(self, endpoint: int, data: Data) -> bool:
        """Take data."""

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Supply data."""

    def halt_cleared(self, endpoint: int) -> None:
        """A halt was cleared."""

    def iso_out(self, endpoint: int, packets: list[Data]) -> None:
        """Take packets."""

    def iso_in(self, endpoint: int, lengths: Sequence[int]) -> Sequence[Data]:
        """Supply packets."""


class _Pipe:
    """An endpoint, from the device to the URBs that wait for it.

    Attributes:
        queue: URBs that the device has not answered (NAK), oldest first.
        fifo: data on its way to the host; an empty piece is a zero-length packet,
            any other ends with a short packet unless it fits the packet size.
        partial: what the oldest URB has received so far, whole packets only.
        is_busy: the queue is being worked on further up the stack.
        is_kicked: it changed meanwhile, look again.
        timer: isochronous: runs until the oldest URB is due.
        frame_time: isochronous: loop time at which the frames after the last
            completed URB begin.
        was_idle: isochronous: nothing was queued.
    """

    __slots__ = (
        "address",
        "descriptor",
        "fifo",
        "frame_time",
        "is_busy",
        "is_due",
        "is_halted",
        "is_in",
        "is_kicked",
        "packet_size",
        "partial",
        "period",
        "queue",
        "timer",
        "type",
        "was_idle",
    )

    def __init__(self, descriptor: EndpointDescriptor, speed: Speed) -> None:
        self.descriptor = descriptor
        self.address = descriptor.address
        self.type = descriptor.transfer_type
        self.is_in = descriptor.is_in
        self.packet_size = descriptor.packet_size or 1
        self.queue: deque[tuple[Urb, Completion]] = deque()
        self.fifo: deque[memoryview] = deque()
        self.partial: list[Data] = []
        self.is_halted = self.is_busy = self.is_kicked = self.is_due = False
        self.timer: asyncio.TimerHandle | None = None
        self.frame_time = 0.0
        self.was_idle = True
        frame = 125e-6 if speed >= Speed.HIGH else 1e-3
        self.period: float = frame * 2 ** (min(max(descriptor.interval, 1), 16) - 1)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.is_due = None, False

    def take_partial(self) -> bytes:
        pieces, self.partial = self.partial, []
        return b"".join(pieces)

    def stall(self) -> UrbResult:
        partial = self.take_partial()
        return UrbResult(UrbStatus.STALL, partial, len(partial))


class Endpoints:
    """The endpoints of a device, and the URBs that wait for them."""

    def __init__(self, device: Hooks) -> None:
        self._device = device
        self._pipes: dict[int, _Pipe] = {}
        self._ids: set[int] = set()
        self._is_taking = False  # the device is being given data
        self._later: list[_Pipe] = []  # what it kicked meanwhile

    # ------------------------------------------------------ for the device ----

    def replace(
        self,
        old: Iterable[int],
        new: Iterable[EndpointDescriptor],
        status: UrbStatus = UrbStatus.CANCELLED,
    ) -> None:
        """Put endpoints in the place of others, whose URBs complete with *status*."""
        dead = [pipe for a in old if (pipe := self._pipes.pop(a, None)) is not None]
        self._pipes |= {e.address: _Pipe(e, self._device.speed) for e in new}
        waiting = [entry for pipe in dead for entry in pipe.queue]
        for pipe in dead:
            pipe.stop_timer()
            pipe.queue.clear()
        self._ids.difference_update(urb.id for urb, _ in waiting)
        for _, complete in waiting:
            complete(UrbResult(status))

    def send(self, endpoint: int, data: Data) -> bool:
        """Queue data for an IN endpoint; False, and lost, while it does not exist."""
        pipe = self._pipes.get(endpoint)
        if pipe is None:
            return False
        pipe.fifo.append(memoryview(data))
        self._pump(pipe)
        return True

    def kick(self, endpoint: int) -> None:
        """Look again whether waiting transfers of the endpoint can go on."""
        pipe = self._pipes.get(endpoint)
        if pipe is not None:
            self._pump(pipe)

    def set_halt(self, endpoint: int, *, is_halted: bool) -> None:
        """Halt an endpoint, if it exists and can be halted, or let it go on."""
        pipe = self._pipes.get(endpoint)
        if pipe is not None and pipe.type is not TransferType.ISOCHRONOUS:
            pipe.is_halted = is_halted
            if not is_halted:
                self._device.halt_cleared(endpoint)
            self._pump(pipe)

    def is_halted(self, endpoint: int) -> bool:
        """Is the endpoint halted?"""
        pipe = self._pipes.get(endpoint)
        return pipe is not None and pipe.is_halted

    # -------------------------------------------------------- for the host ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer, as :meth:`OpenDevice.submit` says."""
        if urb.type is _CONTROL:
            complete(self._control(urb))
            return
        pipe = self._pipes.get(urb.endpoint)
        ids = self._ids
        if (
            pipe is None
            or pipe.type is not urb.type
            or urb.id in ids
            or len(ids) >= MAX_PENDING
            or not 0 <= urb.length <= MAX_TRANSFER
            or (pipe.type is _ISOCHRONOUS and not _fits(pipe, urb))
        ):
            complete(_INVALID)
            return
        ids.add(urb.id)
        pipe.was_idle |= not pipe.queue
        pipe.queue.append((urb, complete))
        if not pipe.is_busy:
            self._pump(pipe)

    def cancel(self, urb_id: int) -> None:
        """Complete a waiting URB with CANCELLED and what it has received."""
        if urb_id not in self._ids:
            return
        for pipe in self._pipes.values():
            for entry in pipe.queue:
                if entry[0].id == urb_id:
                    partial = b""
                    if entry is pipe.queue[0]:
                        partial = pipe.take_partial()
                        pipe.stop_timer()
                    pipe.queue.remove(entry)
                    self._ids.discard(urb_id)
                    entry[1](UrbResult(UrbStatus.CANCELLED, partial, len(partial)))
                    self._pump(pipe)
                    return

    # --------------------------------------------------------------- our own ----

    def _control(self, urb: Urb) -> UrbResult:
        setup = urb.setup
        if setup is None:
            return _INVALID
        is_in = setup.request_type & 0x80 != 0
        if not is_in and len(urb.data) != setup.length:
            return _INVALID
        try:
            answer = self._device.request(setup, urb.data)
        except Exception:
            log.exception("%s: bug in request %s", type(self._device).__name__, setup)
            return UrbResult(UrbStatus.IO_ERROR)
        if answer is None:
            return _STALL
        if not is_in:
            return UrbResult(_OK, b"", len(urb.data))
        data = bytes(answer[: min(setup.length, urb.length)])
        return UrbResult(_OK, data, len(data))

    def _pump(self, pipe: _Pipe) -> None:
        """Complete what can be completed, oldest first.

        A completion may submit again: it is queued and taken up here, so that the
        stack does not grow.
        """
        if pipe.is_busy:
            pipe.is_kicked = True
            return
        if self._is_taking:  # on a bus, data come before what answers them
            self._later.append(pipe)
            return
        pipe.is_busy = True
        queue = pipe.queue
        try:
            while queue:
                pipe.is_kicked = False
                urb, complete = queue[0]
                try:
                    result = self._transfer(pipe, urb)
                except Exception:
                    log.exception("%s: bug", type(self._device).__name__)
                    result = UrbResult(UrbStatus.IO_ERROR)
                    pipe.partial.clear()
                if result is None:
                    if pipe.is_kicked:
                        continue
                    break
                if queue and queue[0][0] is urb:  # else a hook let it be aborted
                    queue.popleft()
                    self._ids.discard(urb.id)
                    complete(result)
                if self._later:
                    self._pump_later()
        finally:
            pipe.is_busy = False
        if self._later:
            self._pump_later()

    def _pump_later(self) -> None:
        while self._later:
            self._pump(self._later.pop(0))

    def _transfer(self, pipe: _Pipe, urb: Urb) -> UrbResult | None:
        """Try the oldest URB of a pipe; None: it waits."""
        if pipe.is_halted:
            return pipe.stall()
        if pipe.type is _ISOCHRONOUS:
            return self._isochronous(pipe, urb)
        if pipe.is_in:
            return self._receive(pipe, urb.length)
        self._is_taking = True
        try:
            is_taken = self._device.data_out(pipe.address, urb.data)
        finally:
            self._is_taking = False
        if is_taken:
            return UrbResult(_OK, b"", len(urb.data))
        return _STALL if pipe.is_halted else None

    def _receive(self, pipe: _Pipe, wanted: int) -> UrbResult | None:
        """Move packets into an IN transfer (USB 2.0, 5.8.3)."""
        fifo, size = pipe.fifo, pipe.packet_size
        room = wanted
        if pipe.partial:
            room -= sum(map(len, pipe.partial))
        while True:
            if fifo:
                piece: Data = fifo.popleft()
            elif (found := self._device.data_in(pipe.address, room)) is not None:
                piece = found
            elif pipe.is_halted:
                return pipe.stall()
            else:
                return None
            count = len(piece)
            if count > room:
                return self._fill(pipe, memoryview(piece), room)
            room -= count
            if not room or not count or count % size:
                if pipe.partial:
                    pipe.partial.append(piece)
                    piece = pipe.take_partial()
                return UrbResult(_OK, piece, len(piece))
            pipe.partial.append(piece)
            if pipe.is_halted:
                return pipe.stall()

    def _fill(self, pipe: _Pipe, piece: memoryview, room: int) -> UrbResult:
        """Complete an IN transfer with more data than it has room for."""
        whole = room - room % pipe.packet_size
        data: Data = piece[:whole]
        if room and whole == room:
            status, rest = UrbStatus.OK, piece[whole:]
        else:  # the packet that does not fit is lost
            status, rest = UrbStatus.OVERFLOW, piece[whole + pipe.packet_size :]
        if rest:
            pipe.fifo.appendleft(rest)
        if pipe.partial:
            pipe.partial.append(data)
            data = pipe.take_partial()
        return UrbResult(status, data, len(data))

    def _isochronous(self, pipe: _Pipe, urb: Urb) -> UrbResult | None:
        """Complete a URB when its frames have passed."""
        if not pipe.is_due:
            if pipe.timer is None:
                loop = asyncio.get_running_loop()
                now = loop.time()
                if pipe.was_idle and now - pipe.frame_time > ISO_SLACK:
                    pipe.frame_time = now
                pipe.was_idle = False
                if urb.start_frame is not None:
                    wanted = urb.start_frame * FRAME
                    if pipe.frame_time < wanted < now + MAX_FRAMES_AHEAD * FRAME:
                        pipe.frame_time = wanted
                pipe.frame_time += pipe.period * len(urb.packets)
                pipe.timer = loop.call_at(pipe.frame_time, self._is_due, pipe)
            return None
        pipe.stop_timer()
        began = int((pipe.frame_time - pipe.period * len(urb.packets)) / FRAME + 0.5)
        if pipe.is_in:
            found = self._device.iso_in(pipe.address, urb.packets)
            packets = tuple(
                IsoPacket(len(p)) if len(p) <= n else IsoPacket(0, UrbStatus.OVERFLOW)
                for p, n in zip(found, urb.packets, strict=True)
            )
            kept = (
                p for p, packet in zip(found, packets, strict=True) if packet.length
            )
            data = b"".join(kept)
            return UrbResult(UrbStatus.OK, data, len(data), packets, began)
        view, pieces, offset = memoryview(urb.data), list[Data](), 0
        for length in urb.packets:
            pieces.append(view[offset : offset + length])
            offset += length
        self._device.iso_out(pipe.address, pieces)
        packets = tuple(map(IsoPacket, urb.packets))
        return UrbResult(UrbStatus.OK, b"", offset, packets, began)

    def _is_due(self, pipe: _Pipe) -> None:
        pipe.timer, pipe.is_due = None, True
        self._pump(pipe)


def _fits(pipe: _Pipe, urb: Urb) -> bool:
    """Are the packets of an isochronous URB in order?"""
    return (
        0 < len(urb.packets) <= MAX_ISO_PACKETS
        and sum(urb.packets) == urb.length
        and 0 <= min(urb.packets)
        and max(urb.packets) <= pipe.descriptor.bytes_per_interval
        and (pipe.is_in or len(urb.data) == urb.length)
    )
