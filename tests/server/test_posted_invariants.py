"""Whatever a guest and a device do: each byte comes once and in order, each read
completes once, and no more is asked for than may be."""

import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from rusb.client.backends.emulated import SerialLoopback
from rusb.server.posted import MAX_ASKED, MAX_READS, MAX_WAITING, PostedReads
from rusb.usb.polling import MAX_DEPTH, MIN_DEPTH
from rusb.usb.setup import SetupPacket
from rusb.usb.types import TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from tests.support.amount import chance, seeds
from tests.support.byhand import ByHand
from tests.support.posting import CANCELLED, IN, NOTIFY, OK, STALL, Device
from tests.support.storage import Clock, Line

KINDS = {IN: TransferType.BULK, NOTIFY: TransferType.INTERRUPT}
PACKETS = {IN: 512, NOTIFY: 16}
SIZES = {IN: (1, 64, 512, 512, 4096), NOTIFY: (1, 8, 16, 16, 64)}
WAYS = (None, 0.0001, 0.005)
BYTES = random.Random(0).randbytes(1 << 18)
"""What the device says: so much of it is nowhere else in it."""


@dataclass(eq=False)
class Transfer:
    """One at the device."""

    urb: Urb
    complete: Completion
    data: bytearray = field(default_factory=bytearray)
    is_cancelled: bool = False
    result: UrbResult | None = None


class Bench(ByHand):
    """A guest, a serial port of which a host controller fills the reads, and what is
    between them.

    Args:
        what: all chance.
        may_drop: the guest also does that after which data are dropped.
    """

    def __init__(self, what: random.Random, *, may_drop: bool) -> None:
        super().__init__(SerialLoopback())
        self.what, self.may_drop = what, may_drop
        self.round_trip = what.choice(WAYS)
        self.clock = Clock()
        self.reads = self._between()
        self.at: dict[int, deque[Transfer]] = {endpoint: deque() for endpoint in KINDS}
        self.requests: deque[Completion] = deque()
        self.packets: dict[int, deque[bytes | UrbStatus]]
        self.packets = {endpoint: deque() for endpoint in KINDS}
        self.said = dict.fromkeys(KINDS, 0)
        self.halted: set[int] = set()
        self.is_hasty = self.is_away = False
        self.asked: dict[int, int] = {}  # reads of the guest's, and where
        self.ended: set[int] = set()
        self.got = {endpoint: list[bytes]() for endpoint in KINDS}
        self.size = {endpoint: what.choice(SIZES[endpoint]) for endpoint in KINDS}
        self.keeps = what.choice((1, 1, 2, 3, 8, 30))
        self.is_quiet, self._nested = False, 0

    def _between(self) -> PostedReads:
        return PostedReads(
            self,
            now=lambda: self.clock.now,
            later=lambda s, what: self.clock.at(self.clock.now + s, what),
        )

    # ---------------------------------------------------------- the device ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        if urb.setup is not None:
            self.requests.append(complete)
            return
        assert urb.length > 0
        self.at[urb.endpoint].append(Transfer(urb, complete))
        self._fill(urb.endpoint)
        if self.is_hasty:
            self.deliver()

    def cancel(self, urb_id: int) -> None:
        for transfer in itertools.chain(*self.at.values()):
            if transfer.urb.id == urb_id:
                transfer.is_cancelled = True
        if self.is_away:
            self.end_cancelled()

    def reset(self) -> None:
        for transfer in itertools.chain(*self.at.values()):
            transfer.is_cancelled = True
        self.halted.clear()

    def _fill(self, endpoint: int) -> None:
        """Give the reads there what the device says."""
        for one in self.at[endpoint]:
            while one.result is None:
                if endpoint in self.halted:
                    one.result = UrbResult(STALL, bytes(one.data), len(one.data))
                    break
                if not self.packets[endpoint]:
                    return
                packet = self.packets[endpoint].popleft()
                if isinstance(packet, UrbStatus):
                    if packet is STALL:
                        self.halted.add(endpoint)
                    one.result = UrbResult(packet, bytes(one.data), len(one.data))
                    break
                room = one.urb.length - len(one.data)
                one.data += packet[:room]
                if len(packet) > room:
                    self.packets[endpoint].appendleft(packet[room:])
                is_short = len(packet) < PACKETS[endpoint]
                if is_short or len(one.data) == one.urb.length:
                    one.result = UrbResult(OK, bytes(one.data), len(one.data))

    def say(self, endpoint: int, count: int) -> None:
        first = self.said[endpoint]
        self.said[endpoint] += count
        self.packets[endpoint].append(BYTES[first : first + count])
        self._fill(endpoint)

    def end_cancelled(self) -> None:
        for endpoint, transfers in self.at.items():
            for one in transfers:
                if one.is_cancelled and one.result is None:
                    one.result = UrbResult(CANCELLED, bytes(one.data), len(one.data))
            self._fill(endpoint)
        if self.is_away:
            self.deliver()

    def deliver(self, *, most: int = 1 << 30, is_orderly: bool = True) -> None:
        """Tell who waits; reads of ours perhaps not in order."""
        while most and (done := self._done()):
            one = done[0]
            if not is_orderly and all(d.urb.id < 0 for d in done):
                one = self.what.choice(done)
            self.at[one.urb.endpoint].remove(one)
            assert one.result is not None
            one.complete(one.result)
            most -= 1

    def _done(self) -> list[Transfer]:
        every = itertools.chain(*self.at.values())
        return [one for one in every if one.result is not None]

    # ----------------------------------------------------------- the guest ----

    def read(self, endpoint: int, size: int) -> int:
        number = next(self._ids)
        self.asked[number] = endpoint

        def ended(result: UrbResult) -> None:
            assert number not in self.ended
            self.ended.add(number)
            del self.asked[number]
            assert result.length == len(result.data) <= size
            self.got[endpoint].append(bytes(result.data))
            self._goes_on(endpoint)

        urb = Urb(number, KINDS[endpoint], endpoint, size)
        self.reads.submit(urb, ended)
        return number

    def _goes_on(self, endpoint: int) -> None:
        """What it does at once, when one of its reads has ended."""
        if self.is_quiet or self._nested > 20:
            return
        self._nested += 1
        match self.what.random():
            case x if x < 0.5:
                self.read(endpoint, self.size[endpoint])
            case x if x < 0.54 and self.asked:
                self.reads.cancel(min(self.asked))
            case x if x < 0.56 and self.asked:
                self.reads.cancel(max(self.asked))
            case x if x < 0.57:
                self.request(SetupPacket.clear_halt(endpoint))
            case x if x < 0.58 and self.may_drop:
                self.reads.reset()
        self._nested -= 1

    def request(self, setup: SetupPacket) -> None:
        number = next(self._ids)
        self.asked[number] = 0

        def ended(result: UrbResult) -> None:
            assert number not in self.ended
            self.ended.add(number)
            del self.asked[number]

        self.reads.submit(Urb.control(number, setup), ended)

    def move(self) -> None:
        """To another server, if nothing of the guest's waits."""
        self.reads.recall()
        self.end_cancelled()
        self.deliver()
        if self.reads.is_back and not self.asked:
            brought = self.reads.brought()
            self.reads = self._between()
            self.reads.adopt(brought)
        self.reads.go_on()

    def cancel_one(self) -> None:
        if self.asked:
            self.reads.cancel(self.what.choice(sorted(self.asked)))

    def again(self) -> None:
        """A number that waits already is refused, and changes nothing."""
        for pipe in self.reads._pipes.values():
            for number in list(pipe.ids)[:1]:
                found: list[UrbResult] = []
                urb = Urb(number, TransferType.BULK, pipe.of.address, 1)
                self.reads.submit(urb, found.append)
                assert [r.status for r in found] == [UrbStatus.INVALID]

    def happen(self) -> None:
        """Let something usual happen."""
        what = self.what
        endpoint = what.choice((IN, IN, NOTIFY))
        packet = PACKETS[endpoint]
        match what.random():
            case x if x < 0.3:
                if list(self.asked.values()).count(endpoint) < self.keeps:
                    self.read(endpoint, self.size[endpoint])
            case x if x < 0.6:
                self.say(
                    endpoint, what.choice((packet, packet, what.randrange(packet)))
                )
            case x if x < 0.7:
                self.deliver()
            case x if x < 0.88:
                self.deliver(most=1, is_orderly=what.random() < 0.8)
            case x if x < 0.92:
                self.clock.sleep(0.0003)
            case x if x < 0.96:
                self.end_cancelled()
            case _ if self.requests:
                self.halted.clear()
                self.requests.popleft()(UrbResult(OK))

    def happen_rarely(self) -> None:
        """Let something else happen."""
        what = self.what
        endpoint = what.choice((IN, NOTIFY))
        choices: list[Callable[[], None]] = [
            *(self.cancel_one, self.cancel_one, self.again, self.move),
            *(self.reads.recall, self.reads.go_on, self.reads.go_on),
            lambda: self.request(SetupPacket.clear_halt(endpoint)),
            lambda: self.packets[endpoint].append(STALL),
            lambda: self.packets[endpoint].append(UrbStatus.IO_ERROR),
            lambda: self.size.update({endpoint: what.choice(SIZES[endpoint])}),
            lambda: setattr(self, "keeps", what.choice((1, 2, 3, 4, 8, 30))),
            lambda: setattr(self, "is_hasty", not self.is_hasty),
            lambda: setattr(self, "is_away", not self.is_away),
            lambda: setattr(self, "round_trip", what.choice(WAYS)),
        ]
        if self.may_drop:
            choices += [
                self.reads.reset,
                lambda: self.clock.sleep(what.random() * 2),
                lambda: self.request(SetupPacket.set_interface(1, 0)),
                lambda: self.request(SetupPacket.set_configuration(1)),
            ]
        what.choice(choices)()

    def check(self) -> None:
        """Is what the pipes say of themselves true, and are bounds kept?"""
        pipes = self.reads._pipes.values()
        for pipe in pipes:
            assert pipe.kept == sum(len(run.data) for run in pipe.waiting)
            assert pipe.there == sum(posted.counts for posted in pipe.posted)
            assert pipe.ids == {urb.id for urb, _ in pipe.claims}
            assert not pipe.is_serving
            assert not pipe.is_posting
            for posted in pipe.posted:
                odd = posted.is_stopping, posted.is_stale, posted.is_dropped
                assert posted.counts is not any(odd)
            wanted = sum(urb.length for urb, _ in pipe.claims)
            asked = sum(p.urb.length for p in pipe.posted if p.counts)
            assert asked <= MAX_ASKED + wanted
            assert pipe.there <= MAX_DEPTH + len(pipe.claims)
            assert pipe.kept <= MAX_WAITING + MAX_ASKED
        ours = sum(pipe.there for pipe in pipes)
        claims = sum(len(pipe.claims) for pipe in pipes)
        assert ours <= MAX_READS + MIN_DEPTH * len(pipes) + claims

    def finish(self) -> None:
        """All that is under way ends, and the guest takes what is left."""
        self.is_quiet, self.is_hasty, self.is_away = True, False, False
        self.reads.go_on()
        self._settle()
        for number in list(self.asked):
            if number in self.asked:
                self.reads.cancel(number)
                self._settle()
        assert not self.asked
        for endpoint, got in self.got.items():
            while True:
                self.halted.clear()
                number = self.read(endpoint, PACKETS[endpoint] * 4)
                self.deliver()
                if number not in self.asked:
                    continue
                self.reads.cancel(number)
                self._settle()
                assert number not in self.asked
                if not got[-1]:
                    break

    def _settle(self) -> None:
        for _ in range(3):
            self.end_cancelled()
            self.deliver()
            while self.requests:
                self.requests.popleft()(UrbResult(OK))


def is_in_order(pieces: list[bytes], said: bytes) -> bool:
    """Is what came what was said, but for some that is missing?"""
    at = 0
    for piece in pieces:
        if len(piece) >= 4:  # a shorter one may be anywhere
            found = said.find(piece[:4], at)
            if found < 0:
                return False
            at = found + 4
    return True


@pytest.mark.fuzz
@pytest.mark.parametrize("may_drop", [False, True])
@pytest.mark.parametrize("seed", seeds(40, 300))
def test_each_byte_comes_once_and_each_read_ends_once(
    seed: int, *, may_drop: bool
) -> None:
    what = chance(seed)
    bench = Bench(what, may_drop=may_drop)
    oddness = what.choice((0.0, 0.02, 0.1))
    for _ in range(what.choice((50, 200, 300))):
        if what.random() < oddness:
            bench.happen_rarely()
        else:
            bench.happen()
        bench.check()
    bench.finish()
    bench.check()
    for endpoint, said in bench.said.items():
        got = bench.got[endpoint]
        if not may_drop:
            assert b"".join(got) == BYTES[:said]
        assert is_in_order(got, BYTES[:said])


class Chip:
    """A serial chip at a distance: what its memory has no room for is lost.

    Args:
        rate: bytes a second.
        memory: bytes.
        delay: seconds one way, asked for each message.
    """

    PACKET = 512

    def __init__(
        self, rate: float, memory: int, delay: Callable[[], float], clock: Clock
    ) -> None:
        self.sent = self.lost = 0
        self._memory = memory
        self._rate = rate
        self._clock = clock
        self._count = 0  # bytes in its memory, the latest of those that were sent
        self._then = 0.0
        self._reads: deque[tuple[Urb, bytearray, Completion]] = deque()
        self._there, self._back = Line(clock, delay), Line(clock, delay)
        clock.at(0.001, self._tick)
        self.is_silent = False

    def submit(self, urb: Urb, complete: Completion) -> None:
        entry = urb, bytearray(), complete
        self._there.carry(lambda: self._reads.append(entry))

    def cancel(self, number: int) -> None:
        self._there.carry(lambda: self._cancel(number))

    def _cancel(self, number: int) -> None:
        for entry in self._reads:
            if entry[0].id == number:
                self._reads.remove(entry)
                self._answer(entry, CANCELLED)
                return

    def _answer(
        self, entry: tuple[Urb, bytearray, Completion], status: UrbStatus
    ) -> None:
        _, data, complete = entry
        result = UrbResult(status, bytes(data), len(data))
        self._back.carry(lambda: complete(result))

    def _tick(self) -> None:
        """Every millisecond the host controller reads what there is."""
        if self.is_silent and not self._count:
            return
        self._clock.at(self._clock.now + 0.001, self._tick)
        elapsed, self._then = self._clock.now - self._then, self._clock.now
        new = 0 if self.is_silent else round(elapsed * self._rate)
        self.sent += new
        self._count += new
        if self._count > self._memory:
            self.lost += self._count - self._memory
            self._count = self._memory
        while self._reads and self._count:
            urb, data, _ = self._reads[0]
            piece = min(self._count, self.PACKET, urb.length - len(data))
            first = self.sent - self._count
            data += bytes((first + n) & 0xFF for n in range(piece))
            self._count -= piece
            if len(data) == urb.length or piece < self.PACKET:
                self._answer(self._reads.popleft(), OK)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", seeds(10, 300))
def test_a_guest_that_polls_with_time_outs_gets_every_byte(seed: int) -> None:
    """At 20 ms, with reads of any size, given up at any time."""
    what = random.Random(seed)
    device = Device()
    clock = device.clock
    chip = Chip(100_000, 8192, lambda: 0.01 + what.random() / 1000, clock)
    device.submit = chip.submit  # type: ignore[method-assign]
    device.cancel = chip.cancel  # type: ignore[assignment, method-assign]
    got = bytearray()
    size = what.choice((64, 512, 4096))
    while len(got) < 30_000:
        if what.random() < 0.02:
            size = what.choice((1, 64, 512, 4096))
        number, found = device.read(size)
        end = clock.now + what.choice((0.1, 0.1, 0.005, 0.0))
        while not found and clock.step(end):
            pass
        if not found:
            device.reads.cancel(number)
        while not found:
            assert clock.step()
        got += found[0].data
    chip.is_silent = True
    for _ in range(10_000):
        number, found = device.read(size)
        end = clock.now + 0.2
        while not found and clock.step(end):
            pass
        if not found:
            device.reads.cancel(number)
            while not found:
                assert clock.step()
            if not found[0].data:
                break
        got += found[0].data
    assert not chip.lost
    assert len(got) == chip.sent
    assert got == bytes(n & 0xFF for n in range(chip.sent))
