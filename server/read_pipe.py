"""One endpoint that is read ahead: how the guest reads it, and what ours have brought.

It reads nothing itself: :mod:`.posted` does, and tells it what comes.
"""

from collections import deque
from dataclasses import dataclass, field

from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

__all__ = ["READS", "Pipe", "PostedRead", "Run"]

READS = 3
"""With so many of the guest's, more than it asks for are kept at the device, if it does
not keep enough there itself."""

UNJUDGED = 32
"""Reads until it is looked again whether a guest keeps enough at the device itself, or
how many of ours there should be: what that follows from changes slowly."""

FIRST_INTERVAL, SAMPLES = 0.001, 16
"""Seconds between two results of a bulk endpoint, until so many have been seen."""

_ALL = (1 << SAMPLES) - 1

_OK = UrbStatus.OK
_CANCELLED = UrbResult(UrbStatus.CANCELLED)


@dataclass(slots=True, eq=False)
class PostedRead:
    """A read of ours.

    Attributes:
        result: it has come, but not yet those before it.
        counts: it will bring something for the guest; none of these is true:
        is_stopping: it is being cancelled.
        is_stale: one before it has failed: if it fails as well, that is no news.
        is_dropped: what it brings is not for the guest.
    """

    urb: Urb
    result: UrbResult | None = None
    counts: bool = True
    is_stopping: bool = False
    is_stale: bool = False
    is_dropped: bool = False


@dataclass(slots=True, eq=False)
class Run:
    """What a read of ours has brought.

    Attributes:
        data: not empty, unless it ends there.
        is_end: the device ended its transfer with it, or it failed.
    """

    data: bytes | memoryview
    is_end: bool
    status: UrbStatus = UrbStatus.OK


@dataclass(slots=True, eq=False)
class Pipe:
    """An endpoint that is read ahead.

    Attributes:
        of: its descriptor.
        interface: whose it is.
        interval: of an interrupt endpoint, seconds between two results; None: a bulk
            endpoint, where it is measured.
        claims: the guest's reads.
        ids: their numbers.
        direct: how many of its reads are at the device as they are.
        size: bytes of its latest read.
        asked: its reads in a row, none smaller than the one before.
        has_completed: one of its reads has, since it read last.
        enough: with so many at the device it needs none of ours, as judged last.
        shallow: how often in a row it has read again with too few at the device.
        is_shallow: it has done so often enough to need ours.
        unjudged: so many of its next reads need not be judged, while they are like
            those before.
        depth: how many of ours there should be, while that is few, the way is short,
            and its reads need not be judged; 0: that is to be found out.
        last: when it was seen to read last.
        posted: ours, in order.
        there: how many of those will bring something for the guest.
        waiting: what they have brought and the guest has not got.
        kept: bytes of that.
        moments: when the latest results came.
        full: a bit for each of those of ours, 1 if it brought all that it asked for.
        is_ending: the guest has given its oldest read up, and gets what has come of it.
        is_serving: its reads get what has come; it may read again meanwhile.
    """

    of: EndpointDescriptor
    interface: int
    interval: float | None
    claims: deque[tuple[Urb, Completion]] = field(default_factory=deque)
    ids: set[int] = field(default_factory=set)
    direct: int = 0
    size: int = 0
    asked: int = 0
    has_completed: bool = False
    enough: int = 0
    shallow: int = READS - 1
    is_shallow: bool = True
    unjudged: int = 0
    depth: int = 0
    last: float = 0.0
    posted: deque[PostedRead] = field(default_factory=deque)
    there: int = 0
    waiting: deque[Run] = field(default_factory=deque)
    kept: int = 0
    moments: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    full: int = 0
    is_ending: bool = False
    is_posting: bool = False
    is_serving: bool = False
    is_timed: bool = False

    def become(
        self, of: EndpointDescriptor, interface: int, interval: float | None
    ) -> None:
        """Another endpoint has its address now; what is under way stays in order."""
        self.of, self.interface, self.interval = of, interface, interval
        self.shallow, self.is_shallow, self.full = READS - 1, True, 0
        self.moments.clear()

    # ----------------------------------------------------------- the guest ----

    @property
    def needs_ours(self) -> bool:
        """Have we something to do with what the guest reads next?"""
        return self.is_shallow or bool(self.posted or self.waiting or self.claims)

    def note(self, size: int) -> None:
        """The guest reads so many bytes."""
        self.asked = 1 if size < self.size else self.asked + 1
        self.size, self.depth = size, 0

    def judge(self, enough: int) -> None:
        """It reads again, after one of its reads has completed: does it keep as many at
        the device as make ours superfluous?"""
        self.has_completed, self.enough = False, enough
        is_shallow = len(self.claims) + self.direct + 1 < enough
        self.shallow = self.shallow + 1 if is_shallow else 0
        self.is_shallow = self.shallow >= READS - 1

    def settle_down(self) -> None:
        """Is it clear by now how it reads? Then its next reads need not be judged."""
        is_clear = self.asked >= READS if self.is_shallow else not self.shallow
        self.unjudged = UNJUDGED if is_clear else 0

    def is_like_before(self, size: int) -> bool:
        """Does it read again as it was judged last?"""
        is_short = len(self.claims) + self.direct + 1 < self.enough
        return size == self.size and is_short is self.is_shallow

    def begin_again(self) -> None:
        """What it has read so far says no more how it goes on."""
        self.asked = self.unjudged = 0

    def take_claim(self) -> tuple[Urb, Completion]:
        """Return the oldest of those, which is about to complete."""
        entry = self.claims.popleft()
        self.ids.remove(entry[0].id)
        return entry

    def take_claims(self) -> list[tuple[Urb, Completion]]:
        """Return all of those: they get nothing any more."""
        taken = list(self.claims)
        self.claims.clear()
        self.ids.clear()
        self.is_ending = False
        return taken

    # ---------------------------------------------------------------- ours ----

    @property
    def unposted(self) -> int | None:
        """Bytes that the first read of the guest's wants for which none of ours is
        under way; None: there is one for each."""
        there = self.there
        if there >= len(self.claims):
            return None
        size = self.claims[there][0].length
        return size if there else size - self.kept

    def misfits(self) -> list[PostedRead]:
        """Return those of ours that would wait for more than the guest does, and those
        behind them."""
        asked = [urb.length for urb, _ in self.claims]
        ours = [posted for posted in self.posted if posted.counts]
        for n, posted in enumerate(ours):
            most = asked[n] if n < len(asked) else self.size
            if not n:  # it has some of it already
                most -= self.kept
            if posted.urb.length > most:
                return ours[n:]
        return []

    @property
    def has_misfit(self) -> bool:
        """Would the first of ours wait for more than the guest's first does?"""
        if not (self.claims and self.posted):
            return False
        return self.posted[0].urb.length > self.claims[0][0].length - self.kept

    def pace(self) -> float:
        """Seconds between two results."""
        if self.interval is not None:
            return self.interval
        if len(self.moments) < SAMPLES:
            return FIRST_INTERVAL
        return max((self.moments[-1] - self.moments[0]) / (SAMPLES - 1), 1e-6)

    @property
    def has_more(self) -> bool:
        """Has the device more than is asked for? Then results come as fast as we ask,
        and their pace says nothing."""
        return self.full.bit_count() >= SAMPLES // 2

    def pass_on(
        self, posted: PostedRead, result: UrbResult, now: float
    ) -> Completion | None:
        """Take a read of ours and the guest's off, if one is just what the other waits
        for, as nearly always; return what completes that."""
        if not self.claims or self.waiting or self.is_serving or self.is_ending:
            return None
        asked, complete = self.claims[0]
        is_next = posted is self.posted[0] and posted.counts
        if not is_next or result.status is not _OK or asked.length != posted.urb.length:
            return None
        self.posted.popleft()
        self.there -= 1
        self.take_claim()
        self._note(posted, result, now)
        self.has_completed, self.last = True, now
        return complete

    def _note(self, posted: PostedRead, result: UrbResult, now: float) -> None:
        """A read of ours has brought something."""
        self.moments.append(now)
        is_full = self.interval is None and result.length >= posted.urb.length
        self.full = (self.full << 1 | is_full) & _ALL

    def settle(self, now: float) -> None:
        """A read of ours has its result: take those of which none before is missing."""
        while self.posted and (result := self.posted[0].result) is not None:
            first = self.posted.popleft()
            self.there -= first.counts
            if not first.is_dropped:
                self._bring(first, result, now)

    def _bring(self, posted: PostedRead, result: UrbResult, now: float) -> None:
        """Add what a read has brought to what waits for the guest."""
        is_good = result.status is _OK
        is_ours = posted.is_stopping and result.status is UrbStatus.CANCELLED
        if is_good or is_ours:
            is_end = is_good and result.length < posted.urb.length
            is_end = is_end or len(result.data) % (self.of.packet_size or 1) != 0
            if result.data or is_end:
                self.add(Run(result.data, is_end))
                self._note(posted, result, now)
        elif result.data or not posted.is_stale:
            self.add(Run(result.data, True, result.status))
            self.begin_again()
            self.there = 0
            for other in self.posted:
                other.is_stale, other.counts = True, False

    # ------------------------------------------------- what waits for the guest ----

    def add(self, run: Run) -> None:
        """It waits behind the rest."""
        self.waiting.append(run)
        self.kept += len(run.data)

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

    def rest(self, length: int) -> UrbResult:
        """Return what has come of a read that the guest gives up."""
        if not self.waiting:
            return _CANCELLED
        found = self._take(length)
        return UrbResult(UrbStatus.CANCELLED, found.data, found.length)

    def _take(self, length: int) -> UrbResult:
        parts: list[bytes | memoryview] = []
        missing, status = length, _OK
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

    def forget(self) -> None:
        """What has come, or comes of what is asked for, is not for the guest."""
        self.waiting.clear()
        self.begin_again()
        self.there = self.kept = 0
        for posted in self.posted:
            posted.is_dropped, posted.counts = True, False
