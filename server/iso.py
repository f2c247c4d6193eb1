"""Isochronous streams over distance: a jitter buffer for each endpoint.

Between a guest, whose controller wants a packet in each interval, and a device behind a
network that is late at times. It is sans-IO: time and timers are given to it
(docs/spec/isochronous.md).
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from rusb.usb.descriptors import EndpointDescriptor, InterfaceDescriptor
from rusb.usb.polling import UNKNOWN_ROUND_TRIP, isochronous_interval
from rusb.usb.types import Request, Speed, TransferType
from rusb.usb.urb import Completion, IsoPacket, Urb, UrbResult, UrbStatus

from .guests.base import AttachedDevice
from .state import StreamState
from .storage import StorageTarget

__all__ = ["IsoStreams"]

URB_SECONDS: Final = 0.008
"""What one transfer of ours carries."""

MIN_URBS, MAX_URBS = 16, 32
"""Transfers of ours in flight at an IN endpoint. They cost no time, and 128 ms is what
either program may be kept from its work until the device has nothing to do."""

FIRST_JITTER: Final = 0.01
"""Seconds that count until arrivals have been measured."""

SETTLED: Final = 8
"""Arrivals that are measured before the guest gets the first packet."""

MEASURED: Final = 64
"""Arrivals that count."""

MAX_TARGET: Final = 0.2
"""Seconds in the buffer, at most: a network that needs more is too bad for this."""

LATE: Final = 0.04
"""Seconds above the target from which on the oldest packets are dropped."""

BAND, BAND_SECONDS = 0.25, 0.02
"""How far the level may be above the target: a quarter of it, or twice what a guest
takes at once. Clocks differ by up to 500 ppm: beyond this a packet goes."""

PATIENCE, STEP = 2.0, 0.001
"""For how long it must be that far, and the seconds that go then."""

IDLE: Final = 1.0
"""Seconds without a transfer of the guest's after which a stream ends."""

MAX_QUEUED: Final = 1024
"""Transfers of the guest that wait in a stream. QEMU has 16."""

MAX_FAILURES: Final = 16
"""Transfers that may fail in a row, until the stream does."""

_ENDS = (
    *(UrbStatus.NO_DEVICE, UrbStatus.INVALID, UrbStatus.STALL),
    *(UrbStatus.CANCELLED, UrbStatus.DENIED),
)


class _Clock:
    """Time as it is given to us."""

    def __init__(
        self,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.now = now
        self.later = later


class _Stream(ABC):
    """One endpoint that streams, from the guest's first transfer to the end.

    Args:
        device: what has the endpoint.
        endpoint: its descriptor.
        speed: of the device.
        clock: time.
        ended: called when it ends, with how it went.

    Attributes:
        guest: the guest's transfers, in order.
        clock: when the last packet that the guest had was due; None: not begun.
    """

    def __init__(
        self,
        device: StorageTarget,
        endpoint: EndpointDescriptor,
        speed: Speed,
        clock: _Clock,
        ended: Callable[[StreamState], None],
    ) -> None:
        self.endpoint = endpoint
        self.guest: deque[tuple[Urb, Completion]] = deque()
        self._device = device
        self._time = clock
        self._ended = ended
        self._period = isochronous_interval(endpoint, speed)
        self._count = max(1, round(URB_SECONDS / self._period))
        self._ours: set[int] = set()
        self._is_on = False
        self._is_serving = self._is_posting = self._is_idle = False
        self._timer = 0  # which one counts
        self._begin()

    def _begin(self) -> None:
        """Forget what was."""
        self._clock: float | None = None
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=MEASURED)
        self._jitter = FIRST_JITTER
        self._failures = 0
        self._packets = self._bad = self._underruns = self._late = self._drift = 0

    # ------------------------------------------------------------ for others ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Take a transfer of the guest's."""
        if len(self.guest) >= MAX_QUEUED or sum(urb.packets) != urb.length:
            complete(UrbResult(UrbStatus.INVALID))
            return
        now = self._time.now()
        if not self.guest and self._clock is not None and now - self._clock > LATE:
            self._clock = now  # it has let intervals pass
        self.guest.append((urb, complete))
        self._is_idle = False
        if not self._is_on:
            self._begin()
            self._is_on = True
            self._start()
        self._serve()

    def cancel(self, urb_id: int) -> bool:
        """Abort a transfer of the guest's, if it is here."""
        for entry in self.guest:
            if entry[0].id == urb_id:
                self.guest.remove(entry)
                entry[1](UrbResult(UrbStatus.CANCELLED))
                return True
        return False

    def stop(self, status: UrbStatus = UrbStatus.CANCELLED) -> None:
        """End: what is ours is cancelled, what is the guest's completes. Idempotent."""
        self._timer += 1
        if self._is_on:
            self._is_on = False
            ours, self._ours = self._ours, set()
            for urb_id in ours:
                self._device.cancel(urb_id)
            self._ended(self.state())
        while self.guest:
            urb, complete = self.guest.popleft()
            packets = (IsoPacket(0, status),) * len(urb.packets)
            complete(UrbResult(status, packets=packets))

    def state(self) -> StreamState:
        """How it goes."""
        return StreamState(
            self.endpoint.address,
            is_running=self._is_on,
            packets=self._packets,
            bad=self._bad,
            underruns=self._underruns,
            late=self._late,
            drift=self._drift,
            fill=round(self._fill(), 4),
            target=round(self._target(), 4),
            jitter=round(self._jitter, 4),
        )

    # --------------------------------------------------------------- figures ----

    def _target(self) -> float:
        """Seconds that the buffer should hold."""
        return min(2 * self._jitter + URB_SECONDS, MAX_TARGET)

    def _way(self) -> float:
        round_trip = self._device.round_trip
        return UNKNOWN_ROUND_TRIP if round_trip is None else round_trip

    def _depth(self) -> int:
        """Transfers to keep in flight: a round trip, and what is late of it."""
        seconds = self._way() + 2 * self._jitter
        wanted = math.ceil(seconds / (self._count * self._period)) + 2
        return min(max(wanted, MIN_URBS), MAX_URBS)

    def _measure(self) -> None:
        """Note when a transfer of ours has come back."""
        now = self._time.now()
        if self._last is not None:
            self._gaps.append(abs(now - self._last - self._count * self._period))
            ordered = sorted(self._gaps)
            self._jitter = ordered[len(ordered) * 95 // 100]
        self._last = now

    # ------------------------------------------------------------- transfers ----

    def _post(self, data: bytes, packets: tuple[int, ...]) -> None:
        urb_id, address = next(self._device.own_ids), self.endpoint.address
        length = sum(packets)
        urb = Urb(
            urb_id, TransferType.ISOCHRONOUS, address, length, data, packets=packets
        )
        self._ours.add(urb_id)
        self._device.submit(urb, partial(self._returned, urb))

    def _returned(self, urb: Urb, result: UrbResult) -> None:
        if urb.id not in self._ours:
            return  # of a stream that has ended
        self._ours.remove(urb.id)
        is_ok = result.status is UrbStatus.OK
        self._failures = 0 if is_ok else self._failures + 1
        if result.status in _ENDS or self._failures >= MAX_FAILURES:
            self.stop(result.status)
            return
        self._measure()
        self._take(urb, result)
        self._serve()

    def _serve(self) -> None:
        """Complete the guest's transfers whose time has come."""
        if self._is_serving:
            return  # the call further out goes on with it
        self._is_serving = True
        try:
            while self._is_on and self.guest and self._is_ready():
                now = self._time.now()
                assert self._clock is not None
                urb, complete = self.guest[0]
                due = self._clock + len(urb.packets) * self._period
                if due > now:
                    self._wake(due - now, self._serve)
                    return
                self._clock = due
                self.guest.popleft()
                complete(self._move(urb))
            if self._is_on and not self.guest and not self._is_idle:
                self._is_idle = True
                self._wake(IDLE, self.stop)
        finally:
            self._is_serving = False

    def _wake(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something later, unless there is something else to call."""
        self._timer += 1
        number = self._timer

        def due() -> None:
            if number == self._timer:
                call()

        self._time.later(seconds, due)

    @abstractmethod
    def _start(self) -> None:
        """The guest's first transfer is there."""

    @abstractmethod
    def _take(self, urb: Urb, result: UrbResult) -> None:
        """A transfer of ours has come back."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """May the guest's transfers complete? Then there is a clock."""

    @abstractmethod
    def _move(self, urb: Urb) -> UrbResult:
        """Complete a transfer of the guest's: its intervals are over."""

    @abstractmethod
    def _fill(self) -> float:
        """Seconds in the buffer."""


class _Input(_Stream):
    """Packets of the device, which wait for their interval."""

    def _begin(self) -> None:
        super()._begin()
        self._buffer: deque[tuple[UrbStatus, bytes | memoryview]] = deque()
        self._level = 0.0
        self._off_since: float | None = None

    def _start(self) -> None:
        self._fill_up()

    def _fill(self) -> float:
        return len(self._buffer) * self._period

    def _fill_up(self) -> None:
        """Keep transfers in flight."""
        if self._is_posting:
            return
        self._is_posting = True
        size = self.endpoint.bytes_per_interval
        while self._is_on and len(self._ours) < self._depth():
            self._post(b"", (size,) * self._count)
        self._is_posting = False

    def _take(self, urb: Urb, result: UrbResult) -> None:
        if result.packets:
            data, start = memoryview(result.data), 0
            for packet in result.packets:
                stop = start + packet.length
                self._buffer.append((packet.status, data[start:stop]))
                start = stop
        else:
            self._buffer.extend([(result.status, b"")] * self._count)
        most = self._target() + LATE
        while self._clock is not None and self._fill() > most:
            for _ in range(min(self._count, len(self._buffer))):
                self._buffer.popleft()
                self._late += 1
        self._fill_up()

    def _is_ready(self) -> bool:
        if self._clock is None:
            target = self._target()
            if len(self._gaps) < SETTLED or self._fill() < target:
                return False
            while self._fill() > target + URB_SECONDS:
                self._buffer.popleft()  # the stream begins here
            self._clock, self._level = self._time.now(), target
        return True

    def _move(self, urb: Urb) -> UrbResult:
        packets, pieces = [], []
        for wanted in urb.packets:
            status: UrbStatus = UrbStatus.OK
            data: bytes | memoryview = b""
            self._packets += 1
            if self._buffer:
                status, data = self._buffer.popleft()
            else:
                self._underruns += 1  # drivers take silence better than errors
            if len(data) > wanted:
                status = UrbStatus.OVERFLOW
            if status is not UrbStatus.OK:
                self._bad += 1
                data = b""
            packets.append(IsoPacket(len(data), status))
            pieces.append(data)
        self._watch_level(len(urb.packets) * self._period)
        moved = b"".join(pieces)
        return UrbResult(UrbStatus.OK, moved, len(moved), tuple(packets))

    def _watch_level(self, seconds: float) -> None:
        """Let packets go when the device's clock is faster than the guest's.

        If it is slower, underruns fill the buffer.
        """
        now, target = self._time.now(), self._target()
        self._level += (self._fill() - self._level) * min(1.0, seconds)
        if self._level - target <= max(BAND * target, BAND_SECONDS):
            self._off_since = None
        elif self._off_since is None:
            self._off_since = now
        elif now - self._off_since >= PATIENCE:
            self._off_since = now
            for _ in range(max(1, round(STEP / self._period))):
                self._let_go()

    def _let_go(self) -> None:
        """Drop a packet: an empty one, if there is one."""
        if self._buffer:
            empty = (n for n, (_, data) in enumerate(self._buffer) if not len(data))
            del self._buffer[next(empty, 0)]
            self._drift += 1


class _Output(_Stream):
    """Packets of the guest, which go to the device ahead of their time."""

    def _begin(self) -> None:
        super()._begin()
        self._gathered: list[memoryview] = []
        self._is_flowing = False

    def _start(self) -> None:
        self._clock = self._time.now()

    def _fill(self) -> float:
        return len(self._gathered) * self._period + (
            len(self._ours) * self._count * self._period
        )

    def _is_ready(self) -> bool:
        return True

    def _move(self, urb: Urb) -> UrbResult:
        data, start = memoryview(bytes(urb.data)), 0
        for length in urb.packets:
            self._gathered.append(data[start : start + length])
            start += length
        self._packets += len(urb.packets)
        self._send()
        packets = tuple(map(IsoPacket, urb.packets))
        return UrbResult(UrbStatus.OK, b"", urb.length, packets)

    def _send(self) -> None:
        """Send what is whole, once there is as much as the network may be late."""
        if not self._is_flowing and self._fill() < self._target() + URB_SECONDS:
            return
        self._is_flowing = True
        most = self._target() + self._way() + LATE
        while self._is_on and len(self._gathered) >= self._count:
            packets = self._gathered[: self._count]
            del self._gathered[: self._count]
            if len(self._ours) * self._count * self._period > most:
                self._late += len(packets)
            else:
                self._post(b"".join(packets), tuple(map(len, packets)))

    def _take(self, urb: Urb, result: UrbResult) -> None:
        lost = 0 if result.status is UrbStatus.OK else len(urb.packets)
        self._bad += result.error_count or lost
        if not self._ours and self._is_flowing:
            self._is_flowing = False  # fill again
            self._underruns += 1


class IsoStreams(AttachedDevice):
    """A device as the guest has it, its isochronous endpoints buffered.

    What is not isochronous passes through untouched.

    Args:
        device: the same without.
        now: monotonic seconds.
        later: has something done after so many seconds.
        ended: gets how a stream went that has ended.

    Attributes:
        own_ids: gives numbers of URBs that no guest uses.
    """

    def __init__(
        self,
        device: StorageTarget,
        *,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        ended: Callable[[StreamState], None] = lambda state: None,
    ) -> None:
        self.info = device.info
        self.name = device.name
        self.descriptors = device.descriptors
        self.own_ids = device.own_ids
        self._device = device
        self._clock = _Clock(now, later)
        self._ended = ended
        self._streams: dict[int, _Stream] = {}

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """The selected alternate setting of each interface."""
        return self._device.interfaces

    @property
    def round_trip(self) -> float | None:
        """Seconds to the device and back."""
        return self._device.round_trip

    def streams(self) -> tuple[StreamState, ...]:
        """How the streams go that there are, or were."""
        return tuple(stream.state() for stream in self._streams.values())

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """See :class:`AttachedDevice`."""
        self._device.watch_pressure(changed)

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer, as the guest sees it."""
        if urb.type is TransferType.ISOCHRONOUS and urb.packets:
            stream = self._stream(urb.endpoint)
            if stream is not None:
                stream.submit(urb, complete)
                return
        elif urb.setup is not None and urb.setup.is_standard:
            match urb.setup.request_type, urb.setup.request:
                case 0x00, Request.SET_CONFIGURATION:
                    self._stop(None)
                case 0x01, Request.SET_INTERFACE:
                    self._stop(urb.setup.index & 0xFF)
        self._device.submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer of the guest's."""
        if not any(stream.cancel(urb_id) for stream in self._streams.values()):
            self._device.cancel(urb_id)

    def reset(self) -> None:
        """Reset the port; what streams ends with it."""
        self._stop(None)
        self._device.reset()

    def _stop(self, interface: int | None) -> None:
        """End the streams of an interface, or all: its endpoints change."""
        for address, stream in list(self._streams.items()):
            if interface is None or self._interface_of(address) in (None, interface):
                stream.stop()
                self._streams.pop(address, None)

    def _interface_of(self, address: int) -> int | None:
        for setting in self._device.interfaces:
            if any(endpoint.address == address for endpoint in setting.endpoints):
                return setting.number
        return None

    def _stream(self, address: int) -> _Stream | None:
        """Return the stream of an endpoint; None: it has no such one now."""
        if address not in self._streams:
            for setting in self._device.interfaces:
                for endpoint in setting.endpoints:
                    is_iso = endpoint.transfer_type is TransferType.ISOCHRONOUS
                    if endpoint.address == address and is_iso:
                        made = _Input if endpoint.is_in else _Output
                        speed = self.info.speed
                        device, clock, ended = self._device, self._clock, self._ended
                        self._streams[address] = made(
                            device, endpoint, speed, clock, ended
                        )
        return self._streams.get(address)
