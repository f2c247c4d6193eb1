"""Read-ahead: what a guest reads next is there before it asks (docs/spec/storage.md).

:class:`ReadAhead` stands in front of a device whose client runs storage commands by
itself. It watches the guest's commands, and after three reads each beginning where the
one before ended it has the client read on. It is sans-IO.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rusb.usb.bulk_only import BulkOnly, Command, Status, needs_quiet
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Request, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire._commands import MAX_DATA, CommandResult, DeviceCommands, Stage

from ..guests.base import AttachedDevice
from .pipeline import RESET_PERIOD, StorageTarget
from .scsi import HARMLESS, Block
from .stream import Piece, Stream
from .units import Answer, Unit

__all__ = ["ReadAhead"]

READS = 3
"""Reads in a row after which more are expected."""

LIMIT, REMOVABLE_LIMIT = 10.0, 1.0
"""Seconds for which what was read counts: the medium of a card reader may be changed
without anybody being told before the next command."""

UNKNOWN = 0.1
"""Seconds that a round trip counts until it is known."""

KEPT = 64
"""Bytes of the data of a command that are looked at."""

FIRST_TAG = 0x80000000
"""Our commands' tags count from here; those of kernels count from 1."""

_CANCELLED = UrbResult(UrbStatus.CANCELLED)
_INVALID = UrbResult(UrbStatus.INVALID)
_TOO_MUCH = UrbResult(UrbStatus.OVERFLOW)


@dataclass(slots=True)
class _Watched:
    """A command of the guest's that the device executes."""

    of: Block
    data: bytes = b""


class ReadAhead(AttachedDevice):
    """A disk as the guest has it, with what it reads next at hand; see AttachedDevice.

    Args:
        device: the same without.
        runner: has the client run commands.
        ahead: bytes to read ahead at most.
        now: monotonic seconds.
        later: has something done after so many seconds.
        degraded: gets the reason when read-ahead ends, because the device is odd or
            about to leave.
    """

    def __init__(
        self,
        device: StorageTarget,
        runner: DeviceCommands,
        ahead: int,
        *,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        degraded: Callable[[str], object] = lambda why: None,
    ) -> None:
        self.info = device.info
        self.name = device.name
        self.descriptors = device.descriptors
        self._device = device
        self._runner = runner
        self._ahead = ahead
        self._now = now
        self._later = later
        self._degraded = degraded
        self._is_off = False
        self._pipes: BulkOnly | None = None
        self._is_in_order = True
        self._watched: _Watched | None = None
        self._answered: Answer | None = None
        self._stream: Stream | None = None
        self._own = 0  # commands of ours under way
        self._is_aborting = False
        self._last_hang = -RESET_PERIOD
        self._failed: tuple[int, int] | None = (
            None  # unit and block; what is its sense?
        )
        self._tag = FIRST_TAG
        self._units: dict[int, Unit] = {}
        self._run = 0  # reads in a row
        self._expected = (0, 0)  # unit and block with which the next one would begin
        self._largest = 0  # blocks of the largest of them
        self._below: set[int] = set()  # the guest's transfers that the device has
        self._held: deque[tuple[Urb, Completion]] = deque()  # until ours are done
        self._is_taking = False
        self._is_blocked = False  # what is held first waits
        self._is_timed = False
        self._look()

    def stop(self) -> None:
        """Read nothing ahead from now on."""
        self._is_off = True
        self._drop()

    # ------------------------------------------------------ AttachedDevice ----

    @property
    def round_trip(self) -> float | None:
        """Seconds to the device and back."""
        return self._device.round_trip

    def watch_pressure(self, changed: Callable[[bool], None]) -> None:
        """See :class:`AttachedDevice`."""
        self._device.watch_pressure(changed)

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer, as the guest sees it."""
        pipes, answered = self._pipes, self._answered
        if urb.setup is not None:
            if not needs_quiet(urb.setup):
                self._device.submit(urb, complete)
                return
        elif pipes is None or urb.endpoint not in (pipes.incoming, pipes.outgoing):
            self._device.submit(urb, complete)
            return
        if urb.id in self._below or any(u.id == urb.id for u, _ in self._waiting()):
            complete(_INVALID)
        elif answered is not None and urb.setup is None and answered.wants(urb):
            answered.readers.append((urb, complete))
            self._serve()
        else:
            self._held.append((urb, complete))
            self._go_on()

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer of the guest's."""
        entry = next((e for e in self._waiting() if e[0].id == urb_id), None)
        if entry is None:
            if urb_id in self._below:
                self._pass()
            self._device.cancel(urb_id)
            return
        if entry in self._held:
            self._held.remove(entry)
        elif self._answered is not None:
            self._answered.readers.remove(entry)
            if self._answered.data is None:
                self._count_hang()
            self._give_up()
        entry[1](_CANCELLED)
        self._go_on()

    def reset(self) -> None:
        """Reset the port; what is ours ends with it."""
        waiting = self._waiting()
        self._held.clear()
        self._answered = None
        self._drop(is_abort=True)
        self._forget()
        self._device.reset()
        self._look()
        for _, complete in waiting:
            complete(_CANCELLED)

    def _waiting(self) -> list[tuple[Urb, Completion]]:
        """The guest's transfers that are kept here."""
        return [*(self._answered.readers if self._answered else ()), *self._held]

    # ------------------------------------------------------- from the guest ----

    def _go_on(self) -> None:
        """Take what was held, in order, until something has to wait."""
        if self._is_taking:  # further down the stack
            return
        self._is_taking, self._is_blocked = True, False
        try:
            while self._held and not self._is_blocked:
                entry = self._held.popleft()
                if not self._take(*entry):
                    self._held.appendleft(entry)
                    self._is_blocked = True
        finally:
            self._is_taking = False

    def _take(self, urb: Urb, complete: Completion) -> bool:
        """Take a transfer of the guest's, unless it has to wait."""
        if urb.setup is not None:
            return self._take_request(urb, urb.setup, complete)
        if self._answered is not None:
            if not self._answered.wants(urb):
                return False  # a device takes no command before its status was read
            self._answered.readers.append((urb, complete))
            self._serve()
            return True
        is_next = self._watched is None and self._is_in_order and not self._below
        if is_next and not urb.is_in and Command.of(urb) is not None:
            return self._begin(urb, complete)
        if self._own:
            return False
        if urb.is_in:
            self._forward(urb, partial(self._brought, complete))
            return True
        if self._watched is None or self._watched.of.is_in:
            self._pass()
        self._forward(urb, complete)
        return True

    def _take_request(self, urb: Urb, setup: SetupPacket, complete: Completion) -> bool:
        """Pass on what needs quiet endpoints."""
        is_halt = setup.request == Request.CLEAR_FEATURE and setup.request_type == 0x02
        self._drop(is_abort=not is_halt)
        if self._answered is not None and not is_halt:
            readers = self._answered.readers
            self._answered = None
            for _, waits in readers:
                waits(_CANCELLED)
        if self._own:
            return False
        if not is_halt:
            self._forget()
        self._settle()
        self._device.submit(urb, complete)
        self._look()
        return True

    def _begin(self, urb: Urb, complete: Completion) -> bool:
        """A command: answer it, or let the device execute it once ours are done."""
        now, wrapper = self._now(), bytes(urb.data)  # the guest's may be gone soon
        block = Block.parse(wrapper)
        stream, answer = self._stream, self._unit(block.lun).answer(block)
        if stream is not None and stream.reads(block, now):
            answer = Answer(block, wrapper)
            stream.use(block, now)
        elif stream is not None:
            is_old = now - stream.used >= REMOVABLE_LIMIT
            if block.code not in HARMLESS or is_old:
                self._drop()
        if answer is None and self._own:
            return False
        if answer is None:
            self._watched = _Watched(block)
            self._forward(urb, complete)
            return True
        self._answered = answer
        self._read_on()
        complete(UrbResult(UrbStatus.OK, b"", urb.length))
        self._serve()
        return True

    def _serve(self) -> None:
        """Give a command that is answered here what it waits for."""
        answered = self._answered
        if answered is None:
            return
        if answered.data is None:
            extent = answered.of.extent
            assert extent is not None
            stream = self._stream
            answered.data = None if stream is None else stream.take(*extent)
            if answered.data is None:
                return
            self._read_on()
        while answered.readers and answered is self._answered:
            urb, complete = answered.readers.popleft()
            if not answered.is_status(urb):
                complete(answered.move(urb))
            elif urb.length < Status.SIZE:
                self._give_up()
                complete(_TOO_MUCH)
            else:
                self._answered = None
                self._held.extendleft(reversed(answered.readers))
                answered.readers.clear()
                complete(answered.status)
        self._go_on()

    def _forward(self, urb: Urb, complete: Completion) -> None:
        """Let a transfer of the guest's go to the device."""
        self._below.add(urb.id)

        def done(result: UrbResult) -> None:
            self._below.discard(urb.id)
            complete(result)

        self._device.submit(urb, done)

    def _give_up(self) -> None:
        """The guest breaks off a command that is answered here."""
        if self._answered is not None:
            readers, self._answered = self._answered.readers, None
            self._held.extendleft(reversed(readers))
        self._pass()

    def _pass(self) -> None:
        """Watch nothing until there is order again."""
        self._watched, self._is_in_order = None, False
        self._drop()

    # ------------------------------------------------------ from the device ----

    def _brought(self, complete: Completion, result: UrbResult) -> None:
        """An IN transfer of the guest's is done: data of a command, or its status."""
        watched, found = self._watched, Status.of(result)
        if watched is None:
            if found is not None:
                self._is_in_order = found.code < Status.PHASE_ERROR
        elif found is None:
            if result.status is UrbStatus.OK and len(watched.data) < KEPT:
                watched.data += bytes(result.data[:KEPT])
        elif found.tag != watched.of.tag:
            self._pass()
        else:
            self._watched = None
            self._ended(watched, found.code)
        complete(result)

    def _ended(self, watched: _Watched, code: int) -> None:
        """The device has executed a command of the guest's."""
        block, unit = watched.of, self._unit(watched.of.lun)
        if code:
            self._is_in_order = code < Status.PHASE_ERROR
            self._drop()
            return
        if unit.learn(block, watched.data):
            self._drop()
        self._count(block, unit)
        self._read_on()

    def _count(self, block: Block, unit: Unit) -> None:
        """Count reads in a row; enough of them begin a stream."""
        extent = block.extent
        if extent is None:
            if block.code not in HARMLESS:
                self._run = 0
            return
        first, count = extent
        if not self._run or (block.lun, first) != self._expected:
            self._run = self._largest = 0
        self._run += 1
        self._largest = max(self._largest, count)
        position = first + count
        self._expected = block.lun, position
        end = unit.end(position, block.code)
        is_possible = self._runner.is_open and not self._is_off
        if self._run < READS or not is_possible or end == position:
            return
        assert unit.capacity is not None
        size = unit.capacity[1]
        most = min(self._largest, MAX_DATA // size)
        if not most or block.length != count * size:
            return
        self._stream = Stream(
            block,
            position=position,
            count=most,
            block=size,
            end=end,
            ahead=self._ahead,
            limit=REMOVABLE_LIMIT if unit.is_removable else LIMIT,
            now=self._now(),
        )
        self._watch()

    # ------------------------------------------------------------------ ours ----

    def _read_on(self) -> None:
        """Have the client read what the stream wants next."""
        stream = self._stream
        way = self._device.round_trip
        while (
            stream is not None
            and stream is self._stream
            and self._watched is None
            and not self._is_blocked
            and (piece := stream.more(UNKNOWN if way is None else way, self._now()))
        ):
            block = stream.command(piece, self._next_tag())
            self._start(block, partial(self._fetched, stream, piece))

    def _next_tag(self) -> int:
        self._tag = FIRST_TAG | self._tag + 1
        return self._tag

    def _start(
        self, block: Block, done: Callable[[Block, CommandResult], None]
    ) -> None:
        assert self._pipes is not None
        self._own += 1
        self._runner.run(
            self._pipes, block.serialize(), partial(self._done, block, done)
        )

    def _done(
        self,
        block: Block,
        done: Callable[[Block, CommandResult], None],
        result: CommandResult,
    ) -> None:
        """A command of ours is over, one way or the other."""
        self._own -= 1
        if result.stage is Stage.GONE:
            self.stop()
        elif not self._is_aborting:
            done(block, result)
        if not self._own:
            self._is_aborting = False
            if self._failed is not None:
                sense = Block.sense(self._next_tag(), self._failed[0])
                self._start(sense, self._sensed)
        self._settle()
        self._serve()
        self._read_on()
        self._go_on()

    def _fetched(
        self, stream: Stream, piece: Piece, block: Block, result: CommandResult
    ) -> None:
        code = _code_of(block, result)
        if code == 0 and result.moved == block.length:
            stream.came(piece, result.data, self._now())
            return
        self._drop()
        if code == 1:
            self._failed = block.lun, piece.first
        elif result.stage is not Stage.NOT_BEGUN:
            self._give_in(block, result)

    def _sensed(self, block: Block, result: CommandResult) -> None:
        """The device has said why: what must not be lost is kept for the guest."""
        assert self._failed is not None
        (_, first), self._failed = self._failed, None
        is_good = _code_of(block, result) == 0
        if not is_good or not self._unit(block.lun).keep(bytes(result.data), first):
            self._give_in(block, result)

    def _give_in(self, block: Block, result: CommandResult) -> None:
        """The device cannot stand this: no more of it."""
        code, stage = f"{block.code:02x}", result.stage.name
        self._end(f"a command of ours ({code}) ended so: {stage}, {result.moved} bytes")

    def _count_hang(self) -> None:
        """The guest has given up waiting for a command of ours."""
        now = self._now()
        if now - self._last_hang < RESET_PERIOD:
            self._end("the guest gave up waiting for commands of ours twice")
        self._last_hang = now

    def _end(self, why: str) -> None:
        if not self._is_off:
            self.stop()
            self._degraded(why)

    def _drop(self, *, is_abort: bool = False) -> None:
        """Forget the stream, and begin nothing of it that has not begun."""
        had_stream, self._stream, self._run = self._stream is not None, None, 0
        if is_abort:
            self._failed = None
        is_news = is_abort and not self._is_aborting
        if self._own and (had_stream or is_news):
            self._is_aborting = self._is_aborting or is_abort
            self._runner.cancel(is_abort=is_abort)

    def _settle(self) -> None:
        """A command that was to be answered here and cannot: the device executes it."""
        answered = self._answered
        if answered is None or answered.data is not None or self._stream is not None:
            return
        if self._own:
            return
        if self._unit(answered.of.lun).tell():
            answered.data, answered.code = b"", 1
            self._serve()
            return
        assert self._pipes is not None
        self._answered, self._watched = None, _Watched(answered.of)
        number, wrapper = next(self._device.own_ids), answered.wrapper
        ends = TransferType.BULK, self._pipes.outgoing
        self._device.submit(
            Urb(number, *ends, len(wrapper), wrapper), lambda result: None
        )
        for urb, complete in answered.readers:
            self._forward(urb, partial(self._brought, complete))

    def _watch(self) -> None:
        """Let go of what nobody reads."""
        if not self._is_timed:
            self._is_timed = True
            self._later(REMOVABLE_LIMIT, self._expire)

    def _expire(self) -> None:
        self._is_timed = False
        stream = self._stream
        if stream is not None and self._answered is None and stream.is_old(self._now()):
            self._drop()
        if self._stream is not None:
            self._watch()

    def _forget(self) -> None:
        """Everything starts anew."""
        self._watched, self._is_in_order, self._failed = None, True, None
        for unit in self._units.values():
            unit.is_told = False

    def _look(self) -> None:
        """What is selected may have changed."""
        found = [p for i in self._device.interfaces if (p := BulkOnly.of(i))]
        self._pipes = found[0] if len(found) == 1 else None

    def _unit(self, lun: int) -> Unit:
        return self._units.setdefault(lun, Unit())


def _code_of(block: Block, result: CommandResult) -> int | None:
    """Return the status of a command of ours; None: it has none, or a wrong one."""
    if result.stage is not Stage.DONE:
        return None
    data = bytes(result.status)
    found = Status.of(UrbResult(UrbStatus.OK, data, len(data)))
    if found is None or found.tag != block.tag or found.code >= Status.PHASE_ERROR:
        return None
    return found.code
