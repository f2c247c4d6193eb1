"""A serial port in use: what a program wants of it becomes transfers of its chip."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rusb.usb.descriptors import EndpointDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.urb import Urb, UrbResult, UrbStatus

from ..guests.base import AttachedDevice
from .driver import Flow, Line, LineErrors, Modem, Request, SerialDriver

__all__ = ["MAX_WAITING", "SerialPort"]

log = logging.getLogger(__name__)

READS, READ_SIZE = 4, 4096
"""Reads that are kept at the chip. Over a slow network the server keeps more."""

PACKETS = 16
"""The same where each is for one packet."""

WRITES = 32
"""Pieces that are under way to the chip, which may be far away."""

PIECE = 0.25
"""Seconds of the line that a piece takes, so that a change need not wait long."""

MIN_PIECE, MAX_PIECE = 64, 4096

MAX_WAITING, MAX_CHANGES = 64 << 10, 64
"""Bytes that wait to be sent, or changes, above which no more should be given to the
port."""

STUCK = 2.0
"""Seconds in which nothing has been sent (the other end's CTS forbids it), after which
what waits for that is done nevertheless."""

AGAIN = 0.2
"""Seconds after a failed read until the next."""

_NOT_AGAIN = (UrbStatus.NO_DEVICE, UrbStatus.DENIED, UrbStatus.INVALID)

Done: TypeAlias = Callable[[bool], None]
"""Told once whether the chip took it all."""


def _nobody(is_done: bool) -> None:
    """Nobody asks."""


@dataclass(slots=True, eq=False)
class _Change:
    """Requests that keep their place among what is sent."""

    requests: Sequence[Request]
    done: Done
    left: int = 0
    is_fine: bool = True


@dataclass(slots=True, eq=False)
class _Read:
    """An IN endpoint that is read.

    Attributes:
        length: of each read.
        count: how many are kept there.
    """

    endpoint: EndpointDescriptor
    take: Callable[[bytes], None]
    length: int
    count: int
    ids: set[int] = field(default_factory=set)


class SerialPort:
    """One port of an attached device, on the event loop's thread.

    Changes of settings and data stay in order: a bit rate is changed when what was
    written before is with the chip.

    Args:
        device: the device.
        driver: of the port.
        ids: gives numbers of URBs that no other port of the device uses.

    Attributes:
        on_data: gets what the line brought.
        on_status: modem lines have changed, or something went wrong on the line.
        on_room: so much was sent that :attr:`is_full` has ended.
        is_open: a program uses it.
        line, flow, dtr, rts, is_break: as they were set last.
    """

    def __init__(
        self, device: AttachedDevice, driver: SerialDriver, ids: Iterator[int]
    ) -> None:
        self.driver = driver
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_status: Callable[[LineErrors], None] = lambda errors: None
        self.on_room: Callable[[], None] = lambda: None
        self.is_open = False
        self.line, self.flow = Line(), Flow.NONE
        self.dtr = self.rts = self.is_break = False
        self._device = device
        self._ids = ids
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[bytearray | _Change] = deque()
        self._waiting = 0
        self._writing: dict[int, int] = {}  # bytes of each
        self._changing = 0  # requests under way
        self._stuck: asyncio.TimerHandle | None = None
        self._is_stuck = self._was_full = False
        self._is_paused = self._is_pressed = self._is_gone = False
        interface = driver.interface
        endpoint, notify = interface.data_in, interface.notify
        length, count = endpoint.packet_size, PACKETS
        if driver.ends_reads:
            length, count = max(READ_SIZE // length, 1) * length, READS
        self._reads = [_Read(endpoint, self._took_data, length, count)]
        if notify is not None:
            length = notify.packet_size
            self._reads.append(_Read(notify, driver.notified, length, READS))
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self._device.name} ({self.driver.name})"

    @property
    def modem(self) -> Modem:
        """Lines from the other end, as the chip has last told them."""
        return self.driver.modem

    @property
    def is_full(self) -> bool:
        """Should nothing more be written?"""
        changes = len(self._jobs) + self._changing
        return self._waiting >= MAX_WAITING or changes >= MAX_CHANGES

    @property
    def is_stuck(self) -> bool:
        """Has nothing been sent for a while of what waits?"""
        return self._is_stuck

    # --------------------------------------------------------- for programs ----

    def open(self, line: Line, flow: Flow = Flow.NONE) -> None:
        """Begin: settings, DTR and RTS, reading."""
        if self.is_open or self._is_gone:
            return
        self.is_open, self._is_paused = True, False
        self.line, self.flow = line, flow
        self.dtr = self.rts = True
        self._start()
        self._read()

    def close(self, *, keeps_outputs: bool = False) -> None:
        """End: what was written is sent first; DTR and RTS go down behind it."""
        if not self.is_open:
            return
        self.is_open = False
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for read in self._reads:
            for urb_id in list(read.ids):
                self._device.cancel(urb_id)
        requests: list[Request] = []
        if self.is_break:
            requests += self.driver.set_break(is_on=False)
        if not keeps_outputs:
            self.dtr = self.rts = False
            requests += self.driver.set_outputs(dtr=False, rts=False)
        self.is_break = False
        if self._is_stuck:
            self._drop()
        self._change([*requests, *self.driver.closing()])

    def gone(self) -> None:
        """The device is being detached: nothing more happens."""
        self.is_open, self._is_gone = False, True
        self._jobs.clear()
        for timer in self._timers:
            timer.cancel()
        if self._stuck is not None:
            self._stuck.cancel()

    def write(self, data: bytes) -> None:
        """Send; more than :attr:`is_full` allows is taken, too."""
        if data and not self._is_gone:
            if self._jobs and isinstance(self._jobs[-1], bytearray):
                self._jobs[-1] += data
            else:
                self._jobs.append(bytearray(data))
            self._waiting += len(data)
            self._pump()
            self._tell_room()

    def set_line(self, line: Line, done: Done = _nobody) -> None:
        """Change bit rate and format behind what was written."""
        before, self.line = self.line, line

        def took(is_done: bool) -> None:
            if not is_done and self.line is line:
                self.line = before
            done(is_done)

        self._change(() if line == before else self.driver.set_line(line), took)

    def set_outputs(self, *, dtr: bool, rts: bool, done: Done = _nobody) -> None:
        """Change DTR and RTS behind what was written."""
        self.dtr, self.rts = dtr, rts
        self._change(self.driver.set_outputs(dtr=dtr, rts=rts), done)

    def set_break(self, *, is_on: bool, done: Done = _nobody) -> None:
        """Begin or end a break behind what was written."""
        self.is_break = is_on
        self._change(self.driver.set_break(is_on=is_on), done)

    def set_flow(self, flow: Flow, done: Done = _nobody) -> None:
        """Change the flow control; one that the chip does not have is refused."""
        if flow not in self.driver.flows:
            done(False)
            return
        self.flow = flow
        self._change(self.driver.set_flow(flow), done)

    def purge(self, *, received: bool, sent: bool, done: Done = _nobody) -> None:
        """Drop what the chip has received, or what waits to be sent, at once."""
        if sent:
            self._drop()
        self._submit(_Change(self.driver.purge(received=received, sent=sent), done))
        self._pump()
        self._tell_room()

    def ask_status(self) -> None:
        """Ask a chip for its modem lines that does not tell them by itself."""
        asking = self.driver.asking()
        if asking is None or not self.is_open:
            return

        def answered(result: UrbResult) -> None:
            if result.status is UrbStatus.OK and self.is_open:
                before = self.modem
                self.driver.answered(bytes(result.data))
                self._tell(before)

        setup, data = asking
        self._device.submit(Urb.control(next(self._ids), setup, data), answered)

    def pause(self) -> None:
        """Read no more: the program does not take what comes."""
        self._is_paused = True

    def resume(self) -> None:
        """Read on."""
        if self._is_paused:
            self._is_paused = False
            self._read()

    def press(self, *, is_high: bool) -> None:
        """The network is slow: begin no more writes, or go on."""
        self._is_pressed = is_high
        self._pump()

    # ------------------------------------------------------------- reading ----

    def _read(self) -> None:
        for read in self._reads:
            is_held = self._is_paused and read is self._reads[0]
            for _ in range(len(read.ids), 0 if is_held else read.count):
                if self.is_open:
                    self._submit_read(read)

    def _submit_read(self, read: _Read) -> None:
        """Keep one more read there."""
        endpoint, urb_id = read.endpoint, next(self._ids)
        kind = endpoint.transfer_type
        urb = Urb(urb_id, kind, endpoint.address, read.length)
        read.ids.add(urb_id)
        is_within = True

        def completed(result: UrbResult) -> None:
            read.ids.discard(urb_id)
            self._read_ended(read, result)
            if result.status is not UrbStatus.OK:
                return
            if is_within:  # the stack must not grow
                self._loop.call_soon(self._read)
            else:
                self._read()

        self._device.submit(urb, completed)
        is_within = False

    def _read_ended(self, read: _Read, result: UrbResult) -> None:
        if not self.is_open:
            return
        before = self.modem
        if result.data:
            read.take(bytes(result.data))
        self._tell(before)
        if result.status is UrbStatus.OK or not self.is_open:
            return
        if result.status in _NOT_AGAIN:
            log.info("%s: reading ended: %s", self.name, result.status.name)
            return
        if not read.ids:
            self._later(lambda: self._recover(read, result.status))

    def _later(self, call: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            if self.is_open:
                call()

        timer = self._loop.call_later(AGAIN, run)
        self._timers.add(timer)

    def _recover(self, read: _Read, status: UrbStatus) -> None:
        """A read has failed. A chip that was away does not know its settings."""
        if status is UrbStatus.STALL:
            setup = SetupPacket.clear_halt(read.endpoint.address)
            self._change([(setup, b"")])
        else:
            self._start()
        self._read()

    def _took_data(self, data: bytes) -> None:
        taken = self.driver.take(data)
        if taken:
            self.on_data(taken)

    def _tell(self, before: Modem) -> None:
        errors = self.driver.take_errors()
        if errors or self.modem != before:
            self.on_status(errors)

    # ------------------------------------------------------------- changing ----

    def _start(self) -> None:
        driver = self.driver
        requests = [*driver.opening(), *driver.set_line(self.line)]
        requests += driver.set_flow(self.flow)
        requests += driver.set_outputs(dtr=self.dtr, rts=self.rts)
        self._change(requests, self._started)
        self.ask_status()

    def _started(self, is_done: bool) -> None:
        if not is_done and self.is_open:
            log.warning("%s: the chip did not take its settings", self.name)

    def _change(self, requests: Sequence[Request], done: Done = _nobody) -> None:
        if self._is_gone:
            done(False)
            return
        self._jobs.append(_Change(requests, done))
        self._pump()
        self._tell_room()

    def _submit(self, change: _Change) -> None:
        """Requests of one device stay in order."""
        change.left = len(change.requests)
        if not change.left:
            change.done(True)
        self._changing += change.left
        for setup, data in change.requests:
            urb = Urb.control(next(self._ids), setup, data)
            self._device.submit(urb, lambda result: self._changed(change, result))

    def _changed(self, change: _Change, result: UrbResult) -> None:
        self._changing -= 1
        change.left -= 1
        is_read = bool(change.requests[-1 - change.left][0].request_type & 0x80)
        if result.status is not UrbStatus.OK and not is_read:
            change.is_fine = False
        if not change.left:
            change.done(change.is_fine)
            self._pump()
            self._tell_room()

    # -------------------------------------------------------------- sending ----

    def _pump(self) -> None:
        """Do what may be done now, in order."""
        while self._jobs and not self._is_gone:
            job = self._jobs[0]
            if isinstance(job, _Change):
                if self._writing and not self._is_stuck:
                    return
                self._jobs.popleft()
                self._submit(job)
            else:
                if self._changing or self._is_pressed or len(self._writing) >= WRITES:
                    return
                self._send(job)

    def _became_stuck(self) -> None:
        self._stuck, self._is_stuck = None, True
        if not self.is_open:
            self._drop()
        self._pump()

    def _drop(self) -> None:
        """What waits to be sent is not sent."""
        kept = [job for job in self._jobs if isinstance(job, _Change)]
        self._jobs, self._waiting = deque(kept), sum(self._writing.values())
        for urb_id in list(self._writing):
            self._device.cancel(urb_id)

    def _send(self, data: bytearray) -> None:
        size = min(max(int(self.line.baud / 10 * PIECE), MIN_PIECE), MAX_PIECE)
        piece = bytes(data[:size])
        del data[:size]
        if not data:
            self._jobs.popleft()
        endpoint, urb_id = self.driver.interface.data_out, next(self._ids)
        self._writing[urb_id] = len(piece)
        if self._stuck is None:
            self._stuck = self._loop.call_later(STUCK, self._became_stuck)

        def completed(result: UrbResult) -> None:
            self._written(urb_id, result)

        kind = endpoint.transfer_type
        urb = Urb(urb_id, kind, endpoint.address, len(piece), piece)
        self._device.submit(urb, completed)

    def _written(self, urb_id: int, result: UrbResult) -> None:
        length = self._writing.pop(urb_id)
        self._waiting -= length
        self._is_stuck = False
        if self._is_gone:
            return
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if self._writing:
            self._stuck = self._loop.call_later(STUCK, self._became_stuck)
        if result.status is UrbStatus.STALL:
            setup = SetupPacket.clear_halt(self.driver.interface.data_out.address)
            self._jobs.appendleft(_Change([(setup, b"")], _nobody))
        elif result.status not in (UrbStatus.OK, UrbStatus.CANCELLED, *_NOT_AGAIN):
            log.warning(
                "%s: %d bytes were perhaps not sent: %s",
                *(self.name, length, result.status.name),
            )
        self._pump()
        self._tell_room()

    def _tell_room(self) -> None:
        was_full, self._was_full = self._was_full, self.is_full
        if was_full and not self._was_full:
            self.on_room()
