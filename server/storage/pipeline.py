"""Storage over distance: SCSI commands of one round trip instead of three.

Bulk-only transport is three transfers, one after the other: command, data, status.
:class:`PipelinedStorage` stands between a guest and a device and asks for what must
follow before the guest does, by the rules of docs/spec/storage.md. It is sans-IO.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from rusb.usb.bulk_only import BulkOnly, Command, Status, needs_quiet
from rusb.usb.descriptors import DeviceDescriptors, InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Request, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from ..guests.base import AttachedDevice
from ..vbox.storage_mode import StorageMode

__all__ = ["PipelinedStorage", "StorageTarget", "is_storage"]

MAX_POSTED = 1 << 20
"""Bytes of a data stage that are asked for ahead: what Linux asks for at most. The
guest asks for a larger one by itself."""

RESET_PERIOD = 100.0
"""Two resets of the guest within so many seconds, each amid a command, are too many.
Kernels wait 30 s for a command."""

PATIENCE = 1.0
"""Seconds that the guest waits for a status that was asked for ahead, until it is asked
for again."""

_FORGOT = "it forgets to answer what it is asked too soon"
_TOO_SOON = "it stalls before it has the command"

_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_INVALID = UrbResult(UrbStatus.INVALID)


class StorageTarget(AttachedDevice, Protocol):
    """What is pipelined.

    Attributes:
        own_ids: gives numbers of URBs that no guest uses.
    """

    own_ids: Iterator[int]

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """The selected alternate setting of each interface."""


class _Phase(enum.Enum):
    COMMAND = enum.auto()
    DATA_IN = enum.auto()
    DATA_OUT = enum.auto()
    STATUS = enum.auto()
    FAILED = enum.auto()  # the device refused a command that the guest thinks it took
    PASS = enum.auto()  # nothing is done ahead until there is order again


class _Kind(enum.Enum):
    COMMAND = enum.auto()
    DATA = enum.auto()
    STATUS = enum.auto()


@dataclass(slots=True, eq=False)
class _Running:
    """One of the guest's commands, from its first to its last stage.

    Attributes:
        asked: bytes of the data stage that the guest has asked for.
        is_taken: the device has the command.
        data: the data stage that was asked for ahead, until the guest has it all.
        status: the status that was asked for ahead, until the guest has it.
    """

    of: Command
    asked: int = 0
    is_taken: bool = False
    data: "_Posted | None" = None
    status: "_Posted | None" = None


@dataclass(slots=True, eq=False)
class _Posted:
    """A transfer of ours.

    Attributes:
        result: it has come, and the guest has not asked for it.
        readers: the guest's transfers that get it.
        is_dropped: the guest is not to have it.
        is_late: it was cancelled to be asked for again.
    """

    kind: _Kind
    command: _Running
    urb: Urb
    result: UrbResult | None = None
    readers: deque[tuple[Urb, Completion]] = field(default_factory=deque)
    offset: int = 0
    is_dropped: bool = False
    is_late: bool = False


def is_storage(descriptors: DeviceDescriptors) -> bool:
    """Has a device an interface that can be pipelined?"""
    return any(
        BulkOnly.of(setting) is not None
        for configuration in descriptors.configurations
        for setting in configuration.interfaces
    )


class PipelinedStorage(AttachedDevice):
    """A device as the guest has it, with storage pipelined; see AttachedDevice.

    What is no bulk-only interface passes through untouched.

    Args:
        device: the same without.
        mode: how much to do ahead; OFF passes everything through.
        now: monotonic seconds.
        later: has something done after so many seconds.
        degraded: gets the lesser mode, and why, when the device turns out to be odd.
    """

    def __init__(
        self,
        device: StorageTarget,
        mode: StorageMode,
        *,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        degraded: Callable[[StorageMode, str], None] = lambda mode, why: None,
    ) -> None:
        self.info = device.info
        self.name = device.name
        self.descriptors = device.descriptors
        self.own_ids = device.own_ids
        self._device = device
        self._mode = mode
        self._now = now
        self._later = later
        self._degraded = degraded
        self._pipes: BulkOnly | None = None
        self._phase = _Phase.COMMAND
        self._is_in_order = True  # PASS: the last status was one
        self._command: _Running | None = None  # one that has not ended as it should
        self._failure = _CANCELLED
        self._ours: dict[int, _Posted] = {}  # under way, by number
        self._stopping: set[int] = set()  # of those, what is being cancelled
        self._guest: dict[int, int] = {}  # the guest's under way: number below or ours
        self._held: deque[tuple[Urb, Completion]] = deque()  # behind what is cancelled
        self._is_taking = False
        self._last_reset = -RESET_PERIOD
        self._waiting: tuple[_Posted, float] | None = None  # the guest, and since when
        self._is_watched = False
        self._look()

    # ------------------------------------------------------ AttachedDevice ----

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """The selected alternate setting of each interface."""
        return self._device.interfaces

    @property
    def round_trip(self) -> float | None:
        """Seconds to the device and back."""
        return self._device.round_trip

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """See :class:`AttachedDevice`."""
        self._device.watch_pressure(changed)

    @property
    def is_between(self) -> bool:
        """Is the device between two commands, with nothing of ours under way?"""
        is_idle = not (self._ours or self._guest or self._held)
        is_passed = self._phase is _Phase.PASS and self._is_in_order
        return is_idle and (self._phase is _Phase.COMMAND or is_passed)

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer, as the guest sees it."""
        pipes = self._pipes
        if urb.setup is not None:
            if not needs_quiet(urb.setup):
                self._device.submit(urb, complete)
                return
        elif pipes is None or urb.endpoint not in (pipes.incoming, pipes.outgoing):
            self._device.submit(urb, complete)
            return
        if urb.id in self._guest or any(u.id == urb.id for u, _ in self._held):
            complete(_INVALID)
        else:
            self._held.append((urb, complete))
            self._go_on()

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer of the guest's."""
        for entry in self._held:
            if entry[0].id == urb_id:
                self._held.remove(entry)
                entry[1](_CANCELLED)
                return
        below = self._guest.get(urb_id)
        if below is None:
            self._device.cancel(urb_id)
            return
        self._phase, self._is_in_order = _Phase.PASS, False
        self._stop(lambda posted: True, is_dropped=True)
        self._device.cancel(below)

    def reset(self) -> None:
        """Reset the port; what is ours ends with it."""
        self._count_reset()
        held, self._held = self._held, deque()
        self._phase = _Phase.PASS
        self._stop(lambda posted: True, is_dropped=True)
        self._device.reset()
        for _, complete in held:
            complete(_CANCELLED)
        self._look()

    # ------------------------------------------------------- from the guest ----

    def _take(self, urb: Urb, complete: Completion) -> None:
        """Take what nothing is in the way of."""
        if urb.setup is not None:
            self._take_request(urb, urb.setup, complete)
        elif urb.endpoint & 0x80:
            self._take_in(urb, complete)
        else:
            self._take_out(urb, complete)

    def _take_request(self, urb: Urb, setup: SetupPacket, complete: Completion) -> None:
        """Pass a request on once what is ours is out of its way (rules 6 and 7)."""
        pipes = self._pipes
        match setup.request_type, setup.request:
            case 0x02, Request.CLEAR_FEATURE:
                endpoint = setup.index & 0xFF
                # A halted pipe has to be empty before it is cleared.
                if self._stop(lambda posted: posted.urb.endpoint == endpoint):
                    self._held.appendleft((urb, complete))
                    return
                self._device.submit(urb, complete)
                return
            case ((0x21 | 0x01), _) if pipes and setup.index & 0xFF != pipes.number:
                self._device.submit(urb, complete)
                return
        if self._stop(lambda posted: True, is_dropped=True):
            self._held.appendleft((urb, complete))
            return
        if setup.request_type == 0x21:
            self._count_reset()
        self._device.submit(urb, complete)
        self._look()

    def _take_out(self, urb: Urb, complete: Completion) -> None:
        command = self._command
        match self._phase:
            case _Phase.COMMAND | _Phase.PASS | _Phase.FAILED:
                is_ready = self._phase is _Phase.COMMAND or self._is_in_order
                found = Command.of(urb)
                if self._phase is _Phase.FAILED and found is None:
                    complete(self._failure)  # data of the command that was refused
                    return
                if found and is_ready and self._mode and not self._is_busy():
                    self._begin(urb, complete, found)
                    return
                self._phase, self._is_in_order = _Phase.PASS, False
                self._forward(urb, complete)
            case _Phase.DATA_OUT:
                assert command is not None
                command.asked += urb.length
                self._forward(urb, complete)
                if command.asked >= command.of.length and self._is_now(command):
                    self._post_status(command)
            case _:  # a command before the status of the last one
                self._phase, self._is_in_order = _Phase.PASS, False
                if self._stop(lambda posted: True, is_dropped=True):
                    self._held.appendleft((urb, complete))
                else:
                    self._forward(urb, complete)

    def _take_in(self, urb: Urb, complete: Completion) -> None:
        command = self._command
        match self._phase:
            case _Phase.FAILED:
                complete(self._failure)
            case _Phase.DATA_IN if command is not None and command.data is not None:
                command.data.readers.append((urb, complete))
                self._guest[urb.id] = command.data.urb.id
                self._serve(command.data)
            case _Phase.DATA_IN:
                assert command is not None
                command.asked += urb.length
                self._forward(urb, partial(self._data_done, command, urb, complete))
                if command.asked >= command.of.length and self._is_now(command):
                    self._post_status(command)
            case _Phase.DATA_OUT | _Phase.STATUS:
                assert command is not None
                self._phase = _Phase.STATUS
                self._claim(command, urb, complete)
            case _:
                self._phase = _Phase.PASS
                self._forward(urb, partial(self._passed, complete))

    def _begin(self, urb: Urb, complete: Completion, found: Command) -> None:
        """A command: ask for what follows."""
        command = self._command = _Running(found)
        self._phase = _Phase.DATA_IN if found.is_in else _Phase.DATA_OUT
        is_early = self._mode is StorageMode.EARLY
        if is_early:
            wrapper = bytes(urb.data)  # the guest's may be gone soon
            self._post(_Kind.COMMAND, command, urb.endpoint, len(wrapper), wrapper)
        else:
            self._forward(urb, partial(self._taken, command, complete))
        if not self._is_now(command):
            pass  # it has failed already
        elif not found.length:
            self._post_status(command)
        elif found.is_in and not is_early and found.length <= MAX_POSTED:
            assert self._pipes is not None
            incoming = self._pipes.incoming
            self._post(_Kind.DATA, command, incoming, found.length)
            self._post(_Kind.STATUS, command, incoming, Status.SIZE)
        if is_early:
            complete(UrbResult(UrbStatus.OK, b"", urb.length))

    def _claim(self, command: _Running, urb: Urb, complete: Completion) -> None:
        """The guest wants the status: what was asked for ahead, if anything."""
        done = partial(self._status_done, command, complete)
        posted, command.status = command.status, None
        if posted is None:
            self._forward(urb, done)
        elif urb.length < Status.SIZE:
            command.status = posted
            self._phase, self._is_in_order = _Phase.PASS, False
            if self._stop(lambda posted: True, is_dropped=True):
                self._held.appendleft((urb, complete))
            else:
                self._forward(urb, done)
        elif posted.result is not None:
            done(posted.result)
        else:
            self._guest[urb.id] = posted.urb.id
            posted.readers.append((urb, done))
            self._waiting = posted, self._now()
            self._watch()

    def _forward(self, urb: Urb, complete: Completion) -> None:
        """Let a transfer of the guest's go to the device."""
        self._guest[urb.id] = urb.id

        def done(result: UrbResult) -> None:
            self._guest.pop(urb.id, None)
            complete(self._explain(result))

        self._device.submit(urb, done)

    # ------------------------------------------------------ from the device ----

    def _taken(
        self, command: _Running, complete: Completion, result: UrbResult
    ) -> None:
        """Strict: the device has, or has not, taken a command."""
        command.is_taken = True
        if (result.status, result.length) != (UrbStatus.OK, Command.SIZE):
            if command is self._command:
                self._phase, self._is_in_order = _Phase.PASS, False
                self._stop(lambda posted: True, is_dropped=True)
        complete(result)

    def _data_done(
        self, command: _Running, urb: Urb, complete: Completion, result: UrbResult
    ) -> None:
        """Data of the guest's own transfer; a short one ends the stage."""
        if not command.is_taken and result.status is UrbStatus.STALL:
            self._degrade(_TOO_SOON)
        is_short = result.status is not UrbStatus.OK or result.length < urb.length
        if is_short and self._is_now(command) and self._phase is _Phase.DATA_IN:
            self._phase = _Phase.STATUS
        complete(result)

    def _status_done(
        self, command: _Running, complete: Completion, result: UrbResult
    ) -> None:
        """The guest has a status: what comes next? It goes through unread (rule 8)."""
        if command is self._command and self._phase is _Phase.STATUS:
            if result.status is UrbStatus.STALL or (
                result.status is UrbStatus.OK and not result.length
            ):
                pass  # the guest asks again
            elif (found := Status.of(result)) is None:
                self._phase, self._is_in_order = _Phase.PASS, False
            elif found.tag != command.of.tag:
                self._phase, self._is_in_order = _Phase.PASS, False
                self._degrade("a status is that of another command")
            else:
                self._phase, self._command = _Phase.COMMAND, None
                if found.code >= Status.PHASE_ERROR:  # the device wants a reset
                    self._phase, self._is_in_order = _Phase.PASS, False
        complete(result)

    def _passed(self, complete: Completion, result: UrbResult) -> None:
        """Look for the end of a command that was not pipelined."""
        found = Status.of(result)
        self._is_in_order = found is not None and found.code < Status.PHASE_ERROR
        if self._is_in_order and self._phase is _Phase.PASS:
            self._command = None
        complete(result)

    def _explain(self, result: UrbResult) -> UrbResult:
        """What was cancelled because its command was refused says so."""
        is_cancelled = result.status is UrbStatus.CANCELLED
        if is_cancelled and self._phase is _Phase.FAILED:
            return self._failure
        return result

    def _post_status(self, command: _Running) -> None:
        assert self._pipes is not None
        self._phase = _Phase.STATUS
        self._post(_Kind.STATUS, command, self._pipes.incoming, Status.SIZE)

    def _post(
        self,
        kind: _Kind,
        command: _Running,
        endpoint: int,
        length: int,
        data: bytes = b"",
    ) -> None:
        """Start a transfer of ours."""
        number = next(self._device.own_ids)
        urb = Urb(number, TransferType.BULK, endpoint, length, data)
        posted = self._ours[number] = _Posted(kind, command, urb)
        if kind is _Kind.DATA:
            command.data = posted
        elif kind is _Kind.STATUS:
            command.status = posted
        self._device.submit(urb, partial(self._posted_done, posted))

    def _posted_done(self, posted: _Posted, result: UrbResult) -> None:
        """A transfer of ours has completed."""
        command, number = posted.command, posted.urb.id
        del self._ours[number]
        self._stopping.discard(number)
        if posted.kind is _Kind.COMMAND:
            command.is_taken = True
            if (result.status, result.length) != (UrbStatus.OK, Command.SIZE):
                if command is self._command and not posted.is_dropped:
                    self._fail(result)
        elif result.status is UrbStatus.STALL and not command.is_taken:
            if not posted.is_dropped:
                self._degrade(_TOO_SOON)
        if posted.kind is _Kind.DATA:
            posted.result = result
            is_empty = result.status is UrbStatus.CANCELLED and not result.length
            if is_empty and not posted.readers and command.data is posted:
                command.data = None  # the guest asks by itself
            self._serve(posted)
        elif posted.kind is _Kind.STATUS:
            if posted.readers:
                urb, complete = posted.readers.popleft()
                self._guest.pop(urb.id, None)
                is_empty = result.status is UrbStatus.CANCELLED and not result.length
                if posted.is_late and is_empty and self._is_now(command):
                    self._forward(urb, partial(self._came, self._now(), complete))
                else:
                    complete(self._explain(result))
            elif result.status is UrbStatus.OK and not posted.is_dropped:
                posted.result = result
            elif command.status is posted:
                command.status = None  # the guest asks by itself (rule 5)
        self._go_on()

    def _watch(self) -> None:
        """Ask again for a status that the guest waits for too long.

        An IN transfer that waits at the device, cancelled before anything has come, is
        asked for again as if nothing had been. Some devices forget one that came while
        they were busy with the data (rule 9).
        """
        waiting = self._waiting
        if self._is_watched or waiting is None or waiting[0].urb.id not in self._ours:
            return
        posted, since = waiting
        left = since + PATIENCE - self._now()
        if left > 0:
            self._is_watched = True
            self._later(left, self._watch_again)
        elif not posted.is_late:
            posted.is_late = True
            self._device.cancel(posted.urb.id)

    def _watch_again(self) -> None:
        self._is_watched = False
        self._watch()

    def _came(self, since: float, complete: Completion, result: UrbResult) -> None:
        """A status has come that was asked for again."""
        if Status.of(result) is not None and self._now() - since < PATIENCE:
            self._degrade(_FORGOT, StorageMode.OFF)
        complete(result)

    def _serve(self, posted: _Posted) -> None:
        """Hand data that were asked for ahead to the guest, in its pieces (rule 4)."""
        command, result = posted.command, posted.result
        while result is not None and posted.readers:
            urb, complete = posted.readers.popleft()
            self._guest.pop(urb.id, None)
            if command.data is not posted:  # it has ended: this asks for the status
                rest_of = [(urb, complete), *posted.readers]
                posted.readers.clear()
                for reader, _ in rest_of:
                    self._guest.pop(reader.id, None)
                self._held.extendleft(reversed(rest_of))
                return
            offset, end = posted.offset, posted.offset + urb.length
            rest, is_good = len(result.data) - offset, result.status is UrbStatus.OK
            status = result.status
            is_full = rest > urb.length or (
                rest == urb.length and (is_good or end < command.of.length)
            )
            if is_full:
                posted.offset, status = end, UrbStatus.OK
            piece = result.data[offset : offset + min(rest, urb.length)]
            assert self._pipes is not None
            is_over = rest <= urb.length and is_good and rest % self._pipes.packet
            if not is_full or end >= command.of.length or is_over:
                command.data = None
                if self._is_now(command) and self._phase is _Phase.DATA_IN:
                    self._phase = _Phase.STATUS
            complete(UrbResult(status, piece, len(piece)))

    # -------------------------------------------------------------- trouble ----

    def _fail(self, result: UrbResult) -> None:
        """The device refused a command of which the guest thinks that it is there.

        What the guest asks of it now fails as the command did, until it recovers.
        """
        is_failed = result.status is not UrbStatus.OK
        self._failure = UrbResult(result.status if is_failed else UrbStatus.IO_ERROR)
        self._phase, self._is_in_order = _Phase.FAILED, False
        self._stop(lambda posted: True, is_dropped=True)
        assert self._pipes is not None
        for urb_id, below in list(self._guest.items()):
            if self._guest.get(urb_id) == below:
                self._device.cancel(below)

    def _stop(
        self, which: Callable[[_Posted], bool], *, is_dropped: bool = False
    ) -> bool:
        """Cancel transfers of ours that the guest has not asked for; are there any?

        Args:
            which: is asked for each.
            is_dropped: what they bring, or have brought, is not for the guest.
        """
        command = self._command
        if is_dropped and command is not None:
            for posted in (command.data, command.status):
                if posted is not None and not posted.readers:
                    posted.is_dropped = True
            command.status = None
            if command.data is not None and not command.data.readers:
                command.data = None
        wanted = [p for p in self._ours.values() if which(p) and not p.readers]
        for posted in wanted:
            posted.is_dropped = posted.is_dropped or is_dropped
        for posted in reversed(wanted):
            number = posted.urb.id
            if number not in self._stopping and number in self._ours:
                self._stopping.add(number)
                self._device.cancel(number)
        return any(p.urb.id in self._ours for p in wanted)

    def _go_on(self) -> None:
        """Take what was held once everything that was cancelled is out of the way."""
        if self._is_taking:  # further down the stack
            return
        self._is_taking = True
        try:
            while self._held and not self._stopping:
                self._take(*self._held.popleft())
        finally:
            self._is_taking = False

    def _look(self) -> None:
        """What is selected has changed, or everything starts anew."""
        found = [p for i in self._device.interfaces if (p := BulkOnly.of(i))]
        self._pipes = found[0] if len(found) == 1 else None
        self._phase, self._is_in_order, self._command = _Phase.COMMAND, True, None

    def _count_reset(self) -> None:
        """Two resets soon after each other, amid commands: we may be the cause."""
        if self._command is None:
            return
        now = self._now()
        if now - self._last_reset < RESET_PERIOD:
            self._degrade(f"the guest reset it twice within {RESET_PERIOD:g} s")
            now = -RESET_PERIOD
        self._last_reset = now

    def _degrade(self, why: str, mode: StorageMode | None = None) -> None:
        """The device is odd: do less ahead from now on (rule 9)."""
        if self._mode is not StorageMode.OFF:
            self._mode = StorageMode(self._mode - 1) if mode is None else mode
            self._degraded(self._mode, why)

    def _is_busy(self) -> bool:
        """Is anything under way on the two endpoints?"""
        return bool(self._guest or self._ours)

    def _is_now(self, command: _Running) -> bool:
        """Is a command the present one, and has nothing gone wrong?"""
        is_good = self._phase not in (_Phase.PASS, _Phase.FAILED)
        return command is self._command and is_good
