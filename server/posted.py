"""Reads over distance: what a device has to say does not wait for a round trip.

A guest that reads once at a time gets one answer in a round trip, and what a serial
chip has meanwhile is lost. :class:`PostedReads` stands between a guest and a device and
keeps reads of its own there: the guest's get what those bring, in order. It is sans-IO.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from .read_pipe import READS, Pipe, PostedRead, Run
from .storage import StorageTarget

__all__ = ["Brought", "PostedReads", "is_read_ahead"]

CLASSES = frozenset(
    (ClassCode.COMMUNICATIONS, ClassCode.CDC_DATA, ClassCode.VENDOR_SPECIFIC)
)
"""Interfaces of which bulk data are read ahead: serial chips, and what is like them. At
others a reader may rely on asking first."""

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

EARLY = 0.005
"""Seconds that a timer may be early: uvloop's count whole milliseconds."""

_OK = UrbStatus.OK
_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_INVALID = UrbResult(UrbStatus.INVALID)


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
        self._pipes: dict[int, Pipe] = {}
        self._held: deque[tuple[Urb, Completion]] = deque()  # requests behind that
        self._is_recalled = self._is_passing = False
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
                if urb.id in pipe.ids:
                    complete(_INVALID)
                    return
                if pipe.unjudged and pipe.is_like_before(urb.length):
                    pipe.unjudged -= 1  # as nearly always
                    pipe.has_completed = False
                    if pipe.is_shallow or pipe.needs_ours:
                        self._claim(pipe, urb, complete)
                        return
                elif self._claims(pipe, urb, complete):
                    return
                pipe.direct += 1
                complete = partial(self._read_done, pipe, complete)
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

    def _give_up(self, pipe: Pipe, entry: tuple[Urb, Completion]) -> None:
        is_first = entry is pipe.claims[0]
        if is_first and entry[0].length > pipe.of.packet_size:
            # some of its packets may have come
            pipe.is_ending = True
            self._stop(pipe, pipe.posted)
            self._serve(pipe)
            return
        pipe.claims.remove(entry)
        pipe.ids.remove(entry[0].id)
        self._stop(pipe, pipe.misfits())
        self._watch(pipe)
        entry[1](_CANCELLED)
        self._post(pipe)

    def reset(self) -> None:
        """Reset the port; what is ours ends with it."""
        waiting = [*self._held]
        self._held.clear()
        for pipe in list(self._pipes.values()):
            waiting += pipe.take_claims()
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
        for pipe in list(self._pipes.values()):
            self._stop(pipe, pipe.posted)

    @property
    def is_back(self) -> bool:
        """Is nothing of ours at the device? Then no request waits for that, either."""
        return not any(p.posted for p in self._pipes.values())

    def go_on(self) -> None:
        """Keep reads at the device again."""
        self._is_recalled = False
        for pipe in list(self._pipes.values()):
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
                pipe.add(Run(data, is_end, status))
            pipe.last = self._now()
            self._watch(pipe)

    # ------------------------------------------------------- from the guest ----

    def _claims(self, pipe: Pipe, urb: Urb, complete: Completion) -> bool:
        """Does a read of the guest's get what ours bring? One that keeps enough reads
        at the device needs none of ours."""
        size, before = urb.length, pipe.size
        pipe.note(size)
        if pipe.has_completed:
            pipe.judge(self._enough(pipe))
        pipe.settle_down()
        if not pipe.needs_ours:
            return False
        self._claim(pipe, urb, complete)
        if size != before:
            self._stop(pipe, pipe.misfits())
        return True

    def _claim(self, pipe: Pipe, urb: Urb, complete: Completion) -> None:
        """A read of the guest's gets what ours bring."""
        pipe.claims.append((urb, complete))
        pipe.ids.add(urb.id)
        self._serve(pipe)

    def _read_done(self, pipe: Pipe, complete: Completion, result: UrbResult) -> None:
        """A read of the guest's own has ended."""
        pipe.direct -= 1
        pipe.has_completed = True
        if result.length:
            pipe.moments.append(self._now())
        if result.status is not _OK and result.status is not UrbStatus.CANCELLED:
            pipe.begin_again()
        complete(result)

    def _concerned(self, setup: SetupPacket) -> list[Pipe]:
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
        if self._is_passing:
            return  # the call further out goes on with it
        self._is_passing = True
        try:
            while self._held and self._pass_first():
                pass
        finally:
            self._is_passing = False
        for pipe in list(self._pipes.values()):
            self._post(pipe)

    def _pass_first(self) -> bool:
        """Pass one on, unless what is ours is in its way: then that is told to go."""
        entry = urb, complete = self._held[0]
        assert urb.setup is not None
        concerned = self._concerned(urb.setup)
        is_halt = urb.setup.request == Request.CLEAR_FEATURE
        for pipe in concerned:
            if not is_halt:
                pipe.forget()
            self._stop(pipe, pipe.posted)
        if not (self._held and self._held[0] is entry):
            return True  # who was completed meanwhile has given it up
        if any(pipe.posted for pipe in concerned):
            return False
        self._held.popleft()
        for pipe in concerned:
            pipe.begin_again()
        self.device.submit(urb, complete)
        self._look()
        return True

    # ------------------------------------------------------ from the device ----

    def _post(self, pipe: Pipe) -> None:
        """Keep as many reads at the device as there should be."""
        if self._held or pipe.is_ending or self._is_recalled:
            return
        if pipe.is_posting or pipe.is_serving:
            return  # the call further out goes on with it
        pipe.is_posting = True
        kind = TransferType.BULK if pipe.interval is None else TransferType.INTERRUPT
        depth = 0
        try:
            while True:
                size = pipe.unposted
                if size is None:
                    at_device = len(pipe.posted)  # also what is on its way back
                    if depth and at_device >= depth:  # as nearly always by now
                        return
                    if not self._is_ahead(pipe):
                        return
                    depth = depth or self._depth(pipe)
                    if at_device >= depth or len(pipe.waiting) >= depth:
                        return
                    size = pipe.size
                urb = Urb(next(self.own_ids), kind, pipe.of.address, size)
                posted = PostedRead(urb)
                pipe.posted.append(posted)
                pipe.there += 1
                self.device.submit(urb, partial(self._done, pipe, posted))
        finally:
            pipe.is_posting = False

    def _is_ahead(self, pipe: Pipe) -> bool:
        """Is more to be asked for than the guest has?"""
        if pipe.asked < READS or not pipe.is_shallow or pipe.kept >= MAX_WAITING:
            return False
        return bool(pipe.claims) or self._now() - pipe.last < IDLE

    @property
    def _is_near(self) -> bool:
        """Is the way to the device short?"""
        way = self.round_trip
        return way is not None and way < NEAR

    def _enough(self, pipe: Pipe) -> int:
        """Return how many reads of the guest's make ours superfluous."""
        if pipe.interval is None and self._is_near:
            return NEAR_READS
        return self._depth(pipe)

    def _depth(self, pipe: Pipe) -> int:
        """Return how many reads there should be at the device."""
        if pipe.depth:
            return pipe.depth
        is_near = self._is_near
        if is_near and pipe.interval is None:
            depth = MIN_DEPTH
        else:
            depth = interrupt_depth(pipe.pace(), self.round_trip)
            if pipe.has_more:
                depth = min(max(depth, 2 * pipe.there), MAX_DEPTH)
        depth = min(depth, max(MAX_ASKED // max(pipe.size, 1), 1))
        if depth > MIN_DEPTH:
            others = sum(len(p.posted) for p in self._pipes.values() if p is not pipe)
            depth = min(depth, max(MAX_READS - others, MIN_DEPTH))
        elif is_near:
            pipe.depth = depth
        return depth

    def _done(self, pipe: Pipe, posted: PostedRead, result: UrbResult) -> None:
        """A read of ours has ended; those behind it wait for it."""
        posted.result = result
        now = self._now()
        complete = pipe.pass_on(posted, result, now)
        if complete is not None:
            pipe.is_serving = True
            complete(result)
            pipe.is_serving = False
        pipe.settle(now)
        self._serve(pipe)
        if self._held:
            self._go_on()

    def _serve(self, pipe: Pipe) -> None:
        """Give the guest's reads what has come, and ask for more."""
        if pipe.is_serving:
            return  # the call further out goes on with it
        if pipe.claims:
            pipe.last = self._now()
        pipe.is_serving = True
        while pipe.claims and pipe.waiting:
            found = pipe.next(pipe.claims[0][0].length)
            if found is None:
                break
            _, complete = pipe.take_claim()
            pipe.has_completed = True
            pipe.is_ending = False
            if found.status is not UrbStatus.OK:
                pipe.begin_again()
            complete(found)
        pipe.is_serving = False
        if pipe.has_misfit:
            self._stop(pipe, pipe.misfits())
        if pipe.is_ending and not pipe.posted:
            pipe.is_ending = False
            urb, complete = pipe.take_claim()
            complete(pipe.rest(urb.length))
        self._post(pipe)
        if not pipe.claims:
            self._watch(pipe)

    def _watch(self, pipe: Pipe) -> None:
        """Forget the reports of an endpoint that nobody reads, after a time."""
        is_idle = pipe.interval is not None and not pipe.claims
        if is_idle and not pipe.is_timed and (pipe.posted or pipe.waiting):
            pipe.is_timed = True
            left = pipe.last + IDLE - self._now()
            self._later(max(left, 0) + EARLY, partial(self._expire, pipe))

    def _expire(self, pipe: Pipe) -> None:
        pipe.is_timed = False
        if not pipe.claims and self._now() - pipe.last >= IDLE:
            pipe.forget()
            self._stop(pipe, pipe.posted)
        else:
            self._watch(pipe)

    def _stop(self, pipe: Pipe, which: Iterable[PostedRead]) -> None:
        """Cancel some of ours, the last first: what comes meanwhile comes with the
        first of them."""
        for posted in reversed(list(which)):
            if posted.result is None and not posted.is_stopping:
                pipe.there -= posted.counts
                posted.is_stopping, posted.counts = True, False
                self.device.cancel(posted.urb.id)

    def _look(self) -> None:
        """What is selected may have changed; who reads where nothing is, is told so."""
        before, self._pipes = self._pipes, {}
        found = {
            endpoint.address: (endpoint, setting.number)
            for setting in self.device.interfaces
            for endpoint in _pipes_of(setting)
        }
        for address, (endpoint, number) in found.items():
            interval = None
            if endpoint.transfer_type is TransferType.INTERRUPT:
                interval = interrupt_interval(endpoint, self.info.speed)
            pipe = before.pop(address, None)
            if pipe is None:
                pipe = Pipe(endpoint, number, interval)
            elif (pipe.of, pipe.interface) != (endpoint, number):
                pipe.become(endpoint, number, interval)
            self._pipes[address] = pipe
        for pipe in before.values():
            for _, complete in pipe.take_claims():
                complete(_CANCELLED)
