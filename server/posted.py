"""Reads over distance: what a device has to say does not wait for a round trip.

A guest that reads once at a time gets one answer in a round trip, and what a serial
chip has meanwhile is lost. :class:`PostedReads` stands between a guest and a device and
keeps reads of its own there: the guest's get what those bring, in order. It is sans-IO.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from rusb.errors import ParseError
from rusb.usb.descriptors import (
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.polling import (
    MAX_DEPTH,
    MIN_DEPTH,
    interrupt_depth,
    interrupt_interval,
)
from rusb.usb.setup import SetupPacket
from rusb.usb.types import ClassCode, Feature, Request, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from .guests.base import AttachedDevice
from .storage import StorageTarget

__all__ = ["Brought", "PostedReads", "is_read_ahead"]

CLASSES = frozenset(
    (ClassCode.COMMUNICATIONS, ClassCode.CDC_DATA, ClassCode.VENDOR_SPECIFIC)
)
"""Interfaces of which bulk data are read ahead: serial chips, and what is like them. At
others a reader may rely on asking first."""

READS = 3
"""With so many of the guest's, more than it asks for are kept at the device, if it does
not keep enough there itself."""

NEAR, NEAR_READS = 0.001, 2
"""With a round trip of less seconds, a guest that keeps so many at a bulk endpoint
needs none of ours: while one is on its way, the device has the other, and what it has
within a frame of the bus it keeps for a computer that it is plugged into, too."""

MAX_READS = 128
"""What a device may have more of at all its endpoints together, but for the five that
each may have at any time."""

MAX_ASKED = 1 << 20
"""Bytes that may be asked for at an endpoint beyond what the guest has asked for."""

MAX_WAITING = 64 << 10
"""Bytes that may wait for the guest; above it the device has to."""

IDLE = 1.0
"""Seconds without a read of the guest's after which nothing is asked for ahead any
more. Reports of interrupt endpoints are then forgotten: nobody wants to see a key that
was pressed before he looked. Bytes of a serial chip stay, lost ones are worse."""

LOOKS = 8
"""Reads of the guest's own that are counted before it is looked again how many there
should be: what that follows from changes slowly."""

FREE = 32
"""The same of a guest that keeps enough at the device itself."""

FIRST_INTERVAL, SAMPLES = 0.001, 16
"""Seconds between two results of a bulk endpoint, until so many have been seen."""

_ALL = (1 << SAMPLES) - 1

_OK = UrbStatus.OK
_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_INVALID = UrbResult(UrbStatus.INVALID)


@dataclass(slots=True, eq=False)
class _Posted:
    """A read of ours.

    Attributes:
        result: it has come, but not yet those before it.
        is_stopping: it is being cancelled.
        is_stale: one before it has failed: if it fails as well, that is no news.
        is_dropped: what it brings is not for the guest.
    """

    urb: Urb
    result: UrbResult | None = None
    is_stopping: bool = False
    is_stale: bool = False
    is_dropped: bool = False

    @property
    def counts(self) -> bool:
        """Will it bring something for the guest?"""
        return not (self.is_stopping or self.is_stale or self.is_dropped)


@dataclass(slots=True, eq=False)
class _Run:
    """What a read of ours has brought.

    Attributes:
        data: not empty, unless it ends there.
        is_end: the device ended its transfer with it, or it failed.
    """

    data: bytes | memoryview
    is_end: bool
    status: UrbStatus = UrbStatus.OK


@dataclass(slots=True, eq=False)
class _Pipe:
    """An endpoint that is read ahead.

    Attributes:
        of: its descriptor.
        interface: whose it is.
        interval: of an interrupt endpoint, seconds between two results; None: a bulk
            endpoint, where it is measured.
        claims: the guest's reads.
        direct: how many of its reads are at the device as they are.
        posted: ours, in order.
        there: how many of those will bring something for the guest.
        waiting: what they have brought and the guest has not got.
        kept: bytes of that.
        asked: reads of the guest's in a row, none smaller than before.
        shallow: how often in a row it has read again with too few at the device.
        has_completed: one of its reads has, since it read last.
        enough: with so many at the device it needs none of ours; counts for *looks*
            more of its reads.
        last: when the guest was seen to read last.
        size: bytes of each of ours that the guest has not asked for.
        moments: when the latest results came.
        full: a bit for each of those of ours, 1 if it brought all that it asked for.
        is_ending: the guest has given its oldest read up, and gets what has come of it.
        is_serving: its reads get what has come; it may read again meanwhile.
        free: so many of its next reads need not be judged, while it has enough at the
            device.
    """

    of: EndpointDescriptor
    interface: int
    interval: float | None
    claims: deque[tuple[Urb, Completion]] = field(default_factory=deque)
    ids: set[int] = field(default_factory=set)
    direct: int = 0
    posted: deque[_Posted] = field(default_factory=deque)
    there: int = 0
    waiting: deque[_Run] = field(default_factory=deque)
    kept: int = 0
    asked: int = 0
    shallow: int = READS - 1
    has_completed: bool = False
    enough: int = 0
    looks: int = 0
    free: int = 0
    last: float = 0.0
    size: int = 0
    moments: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    full: int = 0
    is_ending: bool = False
    is_posting: bool = False
    is_serving: bool = False
    is_timed: bool = False

    @property
    def is_ours(self) -> bool:
        """Have we something to do with what the guest reads next?"""
        is_needed = self.shallow >= READS - 1
        return is_needed or bool(self.posted or self.waiting or self.claims)

    def pace(self) -> float:
        """Seconds between two results."""
        if self.interval is not None:
            return self.interval
        if len(self.moments) < SAMPLES:
            return FIRST_INTERVAL
        return max((self.moments[-1] - self.moments[0]) / (SAMPLES - 1), 1e-6)

    def next(self, length: int) -> UrbResult | None:
        """Return what a read of so many bytes gets; None: nothing, or not all yet.

        Runs are joined up to where the device ended its transfer, as a host controller
        does with packets.
        """
        missing = length
        for run in self.waiting:
            missing -= len(run.data)
            if run.is_end or missing <= 0:
                return self._take(length)
        return None

    def _take(self, length: int) -> UrbResult:
        parts: list[bytes | memoryview] = []
        missing, status = length, UrbStatus.OK
        while True:
            run = self.waiting[0]
            if len(run.data) > missing:
                parts.append(run.data[:missing])
                run.data = run.data[missing:]
                break
            self.waiting.popleft()
            parts.append(run.data)
            missing -= len(run.data)
            if run.is_end or not missing or not self.waiting:
                status = run.status
                break
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.kept -= len(data)
        return UrbResult(status, data, len(data))

    def rest(self, length: int) -> UrbResult:
        """Return what has come of a read that the guest gives up."""
        if not self.waiting:
            return _CANCELLED
        found = self._take(length)
        return UrbResult(UrbStatus.CANCELLED, found.data, found.length)

    def forget(self) -> None:
        """What has come, or comes of what is asked for, is not for the guest."""
        self.waiting.clear()
        self.asked = self.there = self.kept = 0
        for posted in self.posted:
            posted.is_dropped = True


Brought: TypeAlias = tuple[bytes, bool, UrbStatus]
"""Data that a read of ours has brought and the guest has not got; whether the device
ended its transfer with it, or failed; how."""


def _pipes_of(setting: InterfaceDescriptor) -> Iterator[EndpointDescriptor]:
    is_serial = setting.interface_class in CLASSES
    for endpoint in setting.endpoints:
        kind = endpoint.transfer_type
        is_bulk = kind is TransferType.BULK and is_serial
        if endpoint.is_in and (is_bulk or kind is TransferType.INTERRUPT):
            yield endpoint


def _is_special(setup: SetupPacket) -> bool:
    """Is a request one before which reads of ours may have to be gone?"""
    if setup.request_type > 0x02:  # as nearly always
        return False
    match setup.request_type, setup.request:
        case (0x00, Request.SET_CONFIGURATION) | (0x01, Request.SET_INTERFACE):
            return True
        case 0x02, Request.CLEAR_FEATURE:
            return setup.value == Feature.ENDPOINT_HALT
    return False


def is_read_ahead(descriptors: DeviceDescriptors) -> bool:
    """Has a device an endpoint that is read ahead?"""
    return any(
        True
        for configuration in descriptors.configurations
        for setting in configuration.interfaces
        for _ in _pipes_of(setting)
    )


class PostedReads(AttachedDevice):
    """A device as the guest has it, with reads of ours at it; see AttachedDevice.

    Args:
        device: the same without.
        now: monotonic seconds.
        later: has something done after so many seconds.

    Attributes:
        device: the same without.
        own_ids: gives numbers of URBs that no guest uses.
    """

    def __init__(
        self,
        device: StorageTarget,
        *,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.info = device.info
        self.name = device.name
        self.descriptors = device.descriptors
        self.own_ids = device.own_ids
        self.device = device
        self._now = now
        self._later = later
        self._pipes: dict[int, _Pipe] = {}
        self._held: deque[tuple[Urb, Completion]] = deque()  # requests behind that
        self._is_recalled = False
        self._look()

    # ------------------------------------------------------ AttachedDevice ----

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """The selected alternate setting of each interface."""
        return self.device.interfaces

    @property
    def round_trip(self) -> float | None:
        """Seconds to the device and back."""
        return self.device.round_trip

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """See :class:`AttachedDevice`."""
        self.device.watch_pressure(changed)

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer, as the guest sees it."""
        setup = urb.setup
        if setup is None:
            pipe = self._pipes.get(urb.endpoint)
            if pipe is not None and urb.length > 0:
                if pipe.free and urb.length == pipe.size:
                    if pipe.direct + 1 >= pipe.enough:  # as nearly always
                        pipe.free -= 1
                        pipe.direct += 1
                        done = partial(self._read_done, pipe, complete)
                        self.device.submit(urb, done)
                        return
                self._read(pipe, urb, complete)
                return
        elif self._held or _is_special(setup):
            self._held.append((urb, complete))
            self._go_on()
            return
        self.device.submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer; what a read would have got is for the next one."""
        for entry in self._held:
            if entry[0].id == urb_id:
                self._held.remove(entry)
                entry[1](_CANCELLED)
                self._go_on()
                return
        for pipe in self._pipes.values():
            for entry in pipe.claims:
                if entry[0].id == urb_id:
                    self._give_up(pipe, entry)
                    return
        self.device.cancel(urb_id)

    def _give_up(self, pipe: _Pipe, entry: tuple[Urb, Completion]) -> None:
        is_first = entry is pipe.claims[0]
        if is_first and entry[0].length > pipe.of.packet_size:
            # some of its packets may have come
            pipe.is_ending = True
            self._stop(pipe, pipe.posted)
            self._serve(pipe)
            return
        pipe.claims.remove(entry)
        pipe.ids.remove(entry[0].id)
        self._fit(pipe)
        self._watch(pipe)
        entry[1](_CANCELLED)
        self._post(pipe)

    def reset(self) -> None:
        """Reset the port; what is ours ends with it."""
        waiting = [*self._held]
        self._held.clear()
        for pipe in self._pipes.values():
            waiting += pipe.claims
            pipe.claims.clear()
            pipe.ids.clear()
            pipe.is_ending = False
            pipe.forget()
            self._stop(pipe, pipe.posted)
        self.device.reset()
        self._look()
        for _, complete in waiting:
            complete(_CANCELLED)

    # -------------------------------------------------- to another server ----

    def recall(self) -> None:
        """Have all reads of ours come back, with what they have brought so far."""
        self._is_recalled = True
        for pipe in self._pipes.values():
            self._stop(pipe, pipe.posted)

    @property
    def is_back(self) -> bool:
        """Is nothing of ours at the device? Then no request waits for that, either."""
        return not any(p.posted for p in self._pipes.values())

    def go_on(self) -> None:
        """Keep reads at the device again."""
        self._is_recalled = False
        for pipe in self._pipes.values():
            self._serve(pipe)

    def brought(self) -> dict[int, tuple[Brought, ...]]:
        """Return by endpoint what waits for the guest."""
        return {
            address: tuple((bytes(r.data), r.is_end, r.status) for r in pipe.waiting)
            for address, pipe in self._pipes.items()
            if pipe.waiting
        }

    def adopt(self, brought: Mapping[int, Sequence[Brought]]) -> None:
        """Have for the guest what was read elsewhere; before all else.

        Raises:
            ParseError: the device has no such endpoint.
        """
        for address, runs in brought.items():
            pipe = self._pipes.get(address)
            if pipe is None:
                raise ParseError(f"nothing is read ahead at endpoint 0x{address:02x}")
            for data, is_end, status in runs:
                pipe.waiting.append(_Run(data, is_end, status))
                pipe.kept += len(data)
            pipe.last = self._now()
            self._watch(pipe)

    # ------------------------------------------------------- from the guest ----

    def _read(self, pipe: _Pipe, urb: Urb, complete: Completion) -> None:
        """The guest reads. One that keeps enough at the device needs none of ours."""
        size, before = urb.length, pipe.size
        pipe.asked = 1 if size < before else pipe.asked + 1
        pipe.size = size
        if pipe.has_completed:
            pipe.has_completed = False
            if size != before or not pipe.looks:
                pipe.enough, pipe.looks = self._enough(pipe), LOOKS
            pipe.looks -= 1
            is_shallow = len(pipe.claims) + pipe.direct + 1 < pipe.enough
            pipe.shallow = pipe.shallow + 1 if is_shallow else 0
        pipe.free = 0
        if not pipe.is_ours:
            if not pipe.shallow:
                pipe.free, pipe.looks = FREE, 0
            pipe.direct += 1
            self.device.submit(urb, partial(self._read_done, pipe, complete))
        elif urb.id in pipe.ids:
            complete(_INVALID)
        else:
            pipe.claims.append((urb, complete))
            pipe.ids.add(urb.id)
            self._serve(pipe)
            if size != before:
                self._fit(pipe)

    def _read_done(self, pipe: _Pipe, complete: Completion, result: UrbResult) -> None:
        """A read of the guest's own has ended."""
        pipe.direct -= 1
        pipe.has_completed = True
        if result.length:
            pipe.moments.append(self._now())
        if result.status is not _OK and result.status is not UrbStatus.CANCELLED:
            pipe.asked = 0
        complete(result)

    def _fit(self, pipe: _Pipe) -> None:
        """Cancel those of ours that would wait for more than the guest does."""
        asked = [urb.length for urb, _ in pipe.claims]
        ours = [posted for posted in pipe.posted if posted.counts]
        for n, posted in enumerate(ours):
            most = asked[n] if n < len(asked) else pipe.size
            if asked and not n:  # it has some of it already
                most -= pipe.kept
            if posted.urb.length > most and posted.result is None:
                self._stop(pipe, ours[n:])
                return

    def _concerned(self, setup: SetupPacket) -> list[_Pipe]:
        """Return what has to be empty before a request."""
        pipes, index = self._pipes.values(), setup.index & 0xFF
        match setup.request_type, setup.request:
            case 0x00, Request.SET_CONFIGURATION:
                return list(pipes)
            case 0x01, Request.SET_INTERFACE:
                return [pipe for pipe in pipes if pipe.interface == index]
            case 0x02, Request.CLEAR_FEATURE:
                return [pipe for pipe in pipes if pipe.of.address == index]
        return []

    def _go_on(self) -> None:
        """Pass requests on once what is ours is out of their way."""
        while self._held:
            urb, complete = self._held[0]
            assert urb.setup is not None
            concerned = self._concerned(urb.setup)
            is_halt = urb.setup.request == Request.CLEAR_FEATURE
            for pipe in concerned:
                if not is_halt:
                    pipe.forget()
                self._stop(pipe, pipe.posted)
            if any(pipe.posted for pipe in concerned):
                return
            self._held.popleft()
            for pipe in concerned:
                pipe.asked = 0
            self.device.submit(urb, complete)
            self._look()
        for pipe in list(self._pipes.values()):
            self._post(pipe)

    # ------------------------------------------------------ from the device ----

    def _post(self, pipe: _Pipe) -> None:
        """Keep as many reads at the device as there should be."""
        is_busy = self._held or pipe.is_posting or pipe.is_ending
        if is_busy or self._is_recalled:
            return
        pipe.is_posting = True
        kind = TransferType.BULK if pipe.interval is None else TransferType.INTERRUPT
        depth = 0
        try:
            while True:
                there = pipe.there
                if there < len(pipe.claims):
                    size = pipe.claims[there][0].length
                    if not there:
                        size -= pipe.kept
                elif self._is_ahead(pipe):
                    depth = depth or self._depth(pipe)
                    if there >= depth or len(pipe.waiting) >= depth:
                        return
                    size = pipe.size
                else:
                    return
                urb = Urb(next(self.own_ids), kind, pipe.of.address, size)
                posted = _Posted(urb)
                pipe.posted.append(posted)
                pipe.there += 1
                self.device.submit(urb, partial(self._done, pipe, posted))
        finally:
            pipe.is_posting = False

    def _is_ahead(self, pipe: _Pipe) -> bool:
        """Is more to be asked for than the guest has?"""
        if pipe.asked < READS or pipe.shallow < READS - 1 or pipe.kept >= MAX_WAITING:
            return False
        return bool(pipe.claims) or self._now() - pipe.last < IDLE

    @property
    def _is_near(self) -> bool:
        """Is the way to the device short?"""
        way = self.round_trip
        return way is not None and way < NEAR

    def _enough(self, pipe: _Pipe) -> int:
        """Return how many reads of the guest's make ours superfluous."""
        if pipe.interval is None and self._is_near:
            return NEAR_READS
        return self._depth(pipe)

    def _depth(self, pipe: _Pipe) -> int:
        """Return how many reads there should be at the device."""
        depth = interrupt_depth(pipe.pace(), self.round_trip)
        if pipe.full.bit_count() >= SAMPLES // 2 and not self._is_near:
            # it has more than is asked for: results come as fast as we ask, and their
            # pace says nothing
            depth = min(max(depth, 2 * pipe.there), MAX_DEPTH)
        depth = min(depth, max(MAX_ASKED // max(pipe.size, 1), 1))
        others = sum(len(p.posted) for p in self._pipes.values() if p is not pipe)
        return min(depth, max(MAX_READS - others, MIN_DEPTH))

    def _done(self, pipe: _Pipe, posted: _Posted, result: UrbResult) -> None:
        """A read of ours has ended; those behind it wait for it."""
        posted.result = result
        while pipe.posted and (found := pipe.posted[0].result) is not None:
            first = pipe.posted.popleft()
            pipe.there -= first.counts
            if not first.is_dropped:
                self._take(pipe, first, found)
        self._serve(pipe)
        if self._held:
            self._go_on()

    def _take(self, pipe: _Pipe, posted: _Posted, result: UrbResult) -> None:
        """Add what a read has brought to what waits for the guest."""
        is_good = result.status is UrbStatus.OK
        is_ours = posted.is_stopping and result.status is UrbStatus.CANCELLED
        if is_good or is_ours:
            is_end = is_good and result.length < posted.urb.length
            is_end = is_end or len(result.data) % (pipe.of.packet_size or 1) != 0
            if result.data or is_end:
                pipe.waiting.append(_Run(result.data, is_end))
                pipe.kept += len(result.data)
                pipe.moments.append(self._now())
                is_full = pipe.interval is None and result.length >= posted.urb.length
                pipe.full = (pipe.full << 1 | is_full) & _ALL
        elif not posted.is_stale:
            pipe.waiting.append(_Run(result.data, True, result.status))
            pipe.kept += len(result.data)
            pipe.asked = 0
            for other in pipe.posted:
                other.is_stale = True
            pipe.there = 0

    def _serve(self, pipe: _Pipe) -> None:
        """Give the guest's reads what has come, and ask for more."""
        if pipe.is_serving:
            return  # the call further out goes on with it
        if pipe.claims:
            pipe.last = self._now()
        pipe.is_serving = True
        while pipe.claims and (found := pipe.next(pipe.claims[0][0].length)):
            urb, complete = pipe.claims.popleft()
            pipe.ids.remove(urb.id)
            pipe.has_completed = True
            pipe.is_ending = False
            if found.status is not UrbStatus.OK:
                pipe.asked = 0
            complete(found)
        pipe.is_serving = False
        if pipe.claims and pipe.posted:
            missing = pipe.claims[0][0].length - pipe.kept
            if pipe.posted[0].urb.length > missing:
                self._fit(pipe)
        if pipe.is_ending and not pipe.posted:
            pipe.is_ending = False
            urb, complete = pipe.claims.popleft()
            pipe.ids.remove(urb.id)
            complete(pipe.rest(urb.length))
        self._post(pipe)
        self._watch(pipe)

    def _watch(self, pipe: _Pipe) -> None:
        """Forget the reports of an endpoint that nobody reads, after a time."""
        is_idle = pipe.interval is not None and not pipe.claims
        if is_idle and not pipe.is_timed and (pipe.posted or pipe.waiting):
            pipe.is_timed = True
            left = pipe.last + IDLE - self._now()
            self._later(max(left, 0), partial(self._expire, pipe))

    def _expire(self, pipe: _Pipe) -> None:
        pipe.is_timed = False
        if not pipe.claims and self._now() - pipe.last >= IDLE:
            pipe.forget()
            self._stop(pipe, pipe.posted)
        else:
            self._watch(pipe)

    def _stop(self, pipe: _Pipe, which: Iterable[_Posted]) -> None:
        """Cancel some of ours, the last first: what comes meanwhile comes with the
        first of them."""
        for posted in reversed(list(which)):
            if posted.result is None and not posted.is_stopping:
                pipe.there -= posted.counts
                posted.is_stopping = True
                self.device.cancel(posted.urb.id)

    def _look(self) -> None:
        """What is selected may have changed."""
        before, self._pipes = self._pipes, {}
        for setting in self.device.interfaces:
            for endpoint in _pipes_of(setting):
                address, number = endpoint.address, setting.number
                old = before.get(address)
                if old is not None and (old.of, old.interface) == (endpoint, number):
                    self._pipes[address] = old
                    continue
                interval = None
                if endpoint.transfer_type is TransferType.INTERRUPT:
                    interval = interrupt_interval(endpoint, self.info.speed)
                pipe = _Pipe(endpoint, number, interval)
                if old is not None:  # what is being cancelled is still before ours
                    pipe.posted, pipe.claims = old.posted, old.claims
                    pipe.ids, pipe.there = old.ids, old.there
                self._pipes[address] = pipe
