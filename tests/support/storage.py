"""A disk at a distance, in simulated time: driver, wire, host controller, drive.

Everything between the driver and the drive is what users run: the pipeline, the
attachment, both cores of ``vrdpusb``. Only the network, the host controller, whose
endpoints do not wait for each other, and the clock are made up.
"""

import asyncio
import heapq
import itertools
import random
import struct
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from rusb.client.backends._emulated.scsi import Transfer
from rusb.client.backends.emulated import Data, FlashDrive
from rusb.client.commands import CommandRunner
from rusb.server.attachments import Attachment
from rusb.server.guests.base import AttachedDevice
from rusb.server.policy import Policy
from rusb.server.storage import PipelinedStorage, ReadAhead
from rusb.server.vbox.storage_mode import StorageMode
from rusb.usb.setup import SetupPacket
from rusb.usb.types import Feature, TransferType
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire
from rusb.wire._commands import CancelCommands, CommandResult, Commands, parse_request
from rusb.wire.vrdpusb import VrdpUsbDeviceSide, VrdpUsbGuestSide

__all__ = [
    "BLOCK",
    "BLOCKS",
    "CAPACITY",
    "HARMLESS",
    "INQUIRY",
    "ROUND_TRIP",
    "Card",
    "Disk",
    "Driver",
    "Outcome",
    "Worn",
    "cdb10",
    "fuzz",
]

BLOCK = 512
BLOCKS = 2048
ID = 7
ROUND_TRIP = 0.02

_CBW = struct.Struct("<4sIIBBB16s")
_CSW = struct.Struct("<4sIIB")


class Clock:
    """Simulated time, and what happens in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._numbers), what))

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.step(end):
            pass
        self.now = end

    def step(self, until: float = float("inf")) -> bool:
        """Let the next thing happen; False: nothing will, or not so soon."""
        if not self._queue or self._queue[0][0] > until:
            return False
        self.now, _, what = heapq.heappop(self._queue)
        what()
        return True


class Line:
    """One direction of the network, or one endpoint of a host controller: in order."""

    def __init__(self, clock: Clock, delay: Callable[[], float]) -> None:
        self._clock, self._delay, self._last = clock, delay, 0.0

    def carry(self, what: Callable[[], None]) -> None:
        self._last = max(self._last, self._clock.now + self._delay())
        self._clock.at(self._last, what)


class HostController:
    """Runs the transfers of each endpoint in order, and endpoints side by side."""

    def __init__(
        self, clock: Clock, drive: FlashDrive, delay: Callable[[], float]
    ) -> None:
        self._clock, self._drive, self._delay = clock, drive, delay
        self._lines: dict[int, Line] = {}
        self.waiting: dict[int, tuple[Urb, Callable[[UrbResult], None]]] = {}
        self.running: dict[int, int] = {}
        self.is_forgetful = False  # of an IN that comes before the one before is done
        self._forgotten: dict[int, Callable[[UrbResult], None]] = {}

    def submit(self, urb: Urb, complete: Callable[[UrbResult], None]) -> None:
        line = self._lines.setdefault(urb.endpoint, Line(self._clock, self._delay))
        self.waiting[urb.id] = urb, complete
        line.carry(partial(self._start, urb.id))

    def _start(self, number: int) -> None:
        if number in self.waiting:
            urb, complete = self.waiting.pop(number)
            if self.is_forgetful and urb.endpoint in self.running.values():
                self._forgotten[number] = complete
                return
            self.running[number] = urb.endpoint

            def done(result: UrbResult) -> None:
                del self.running[number]
                data = bytes(result.data)
                complete(UrbResult(result.status, data, result.length))

            self._drive.submit(urb, done)

    def cancel(self, number: int) -> None:
        if number in self._forgotten:
            self._forgotten.pop(number)(UrbResult(UrbStatus.CANCELLED))
        elif number in self.waiting:
            _, complete = self.waiting.pop(number)
            complete(UrbResult(UrbStatus.CANCELLED))
        else:
            self._drive.cancel(number)

    def clear_halt(self, endpoint: int) -> None:
        """A kernel wants the pipe of a halted endpoint empty before (rule 6)."""
        waiting = [urb.endpoint for urb, _ in self.waiting.values()]
        assert endpoint not in waiting
        assert endpoint not in self.running.values()
        self._drive.clear_halt(endpoint)

    def reset(self) -> None:
        for number in list(self.waiting):
            self.cancel(number)
        self._drive.reset_port()


class Disk:
    """What the guest has: an attached device, far away.

    Args:
        drive: the drive.
        mode: how it is pipelined.
        delay: seconds one way, asked for each message.
        ahead: bytes to read ahead.
        bus_delay: seconds until a transfer runs, asked for each.

    Attributes:
        degraded: what was said of an odd device.
    """

    def __init__(
        self,
        drive: FlashDrive,
        mode: StorageMode,
        delay: Callable[[], float] = lambda: 0.01,
        bus_delay: Callable[[], float] = lambda: 0.0,
        ahead: int = 1 << 20,
    ) -> None:
        self.clock = clock = Clock()
        self.drive = drive
        drive.attached()
        drive.power_on()
        self.degraded: list[tuple[StorageMode, str]] = []
        self._is_far = False
        self._there, self._back = Line(clock, delay), Line(clock, delay)
        self.bus = HostController(clock, drive, bus_delay)
        self._guest, self._client = VrdpUsbGuestSide(), VrdpUsbDeviceSide()
        self._client.channel_opened(1, "vrdpusb", now=0)
        self._guest.channel_opened(1, "vrdpusb", now=0)
        info = drive.info(1, 1)
        info = type(info)(**{f: getattr(info, f) for f in info.__slots__} | {"id": ID})
        self.attachment = Attachment(
            info,
            name="usb-1",
            number=1,
            core=self._guest,
            flush=self._flush,
            now=lambda: clock.now,
        )
        self._client.announce([info])
        self._flush()
        self._client.announce([info])
        self._flush_back()
        asyncio.run(self.attachment.open(Policy(is_by_hand=True)))
        self._is_far = True

        def later(seconds: float, what: Callable[[], None]) -> None:
            clock.at(clock.now + seconds, what)

        self.pipeline = PipelinedStorage(
            self.attachment,
            min(mode, StorageMode.EARLY),
            now=lambda: clock.now,
            later=later,
            degraded=lambda mode, why: self.degraded.append((mode, why)),
        )
        self.device: AttachedDevice = self.pipeline
        self._run_ids = itertools.count(-1, -1)
        self._running = 0
        self.asked: list[bytes] = []  # command blocks that the server had us run
        self.runner = CommandRunner(
            submit=self._run,
            cancel=lambda: self.bus.cancel(self._running),
            clear_halt=self._clear,
            answer=self._answer,
        )
        self._commands = Commands(
            lambda _, m: self._there.carry(partial(self._asked_to_run, m))
        )
        self.commands = self._commands.of(ID)
        if mode is StorageMode.AHEAD:
            self.device = self.ahead = ReadAhead(
                self.pipeline,
                self.commands,
                ahead,
                now=lambda: clock.now,
                later=later,
                degraded=lambda why: self.degraded.append((StorageMode.EARLY, why)),
            )

    def unplug(self) -> None:
        """As when the client takes it back."""
        self.attachment.close()
        self.commands.close()

    def _asked_to_run(self, message: bytes) -> None:
        request = parse_request(message)
        if isinstance(request, CancelCommands):
            self.runner.cancel(is_abort=request.is_abort)
        elif request is not None:
            self.asked.append(request.wrapper[15:])
            self.runner.run(request)

    def _run(
        self,
        endpoint: int,
        length: int,
        data: bytes,
        complete: Callable[[UrbResult], None],
    ) -> None:
        self._running = number = next(self._run_ids)
        self.bus.submit(
            Urb(number, TransferType.BULK, endpoint, length, data), complete
        )

    def _clear(self, endpoint: int, done: Callable[[], None]) -> None:
        self.bus.clear_halt(endpoint)
        done()

    def _answer(self, result: CommandResult) -> None:
        message = result.serialize()
        self._back.carry(partial(self._commands.received, message))

    def _flush(self) -> None:
        for output in self._guest.outputs():
            assert isinstance(output, wire.Send)
            arrive = partial(self._arrive, output.data)
            self._there.carry(arrive) if self._is_far else arrive()
        for event in self._guest.events():
            if isinstance(event, wire.UrbCompleted):
                self.attachment.completed(event.urb_id, event.result)
            elif isinstance(event, wire.RequestCompleted):
                self.attachment.request_completed(event.request, event.status)

    def _flush_back(self) -> None:
        for output in self._client.outputs():
            assert isinstance(output, wire.Send)
            return_ = partial(self._return, output.data)
            self._back.carry(return_) if self._is_far else return_()

    def _return(self, data: bytes) -> None:
        self._guest.receive_data(1, data, now=self.clock.now)
        self._flush()

    def _arrive(self, data: bytes) -> None:
        self._client.receive_data(1, data, now=self.clock.now)
        for event in self._client.events():
            self._do(event)
        self._flush_back()

    def _do(self, event: wire.Event) -> None:
        match event:
            case wire.UrbSubmitted():
                complete = partial(self._complete, event.urb.id)
                if event.urb.setup is None:
                    self.bus.submit(event.urb, complete)
                else:
                    self.drive.submit(event.urb, complete)
            case wire.CancelRequested():
                self.bus.cancel(event.urb_id)
            case wire.ResetRequested():
                self.runner.cancel(is_abort=True)
                self.bus.reset()
            case wire.ConfigurationRequested():
                self.drive.set_configuration(event.value)
            case wire.ClearHaltRequested():
                self.bus.clear_halt(event.endpoint)

    def _complete(self, number: int, result: UrbResult) -> None:
        self._client.complete_urb(ID, number, result)
        self._flush_back()


@dataclass
class Outcome:
    """What a driver knows of a command: data, residue, status; or that it recovered."""

    data: bytes = b""
    residue: int = 0
    status: int = -1
    is_recovered: bool = False


@dataclass
class _Transfer:
    urb: Urb
    results: list[UrbResult] = field(default_factory=list)


class Driver:
    """A guest's driver of a disk, as kernels have it: one command at a time."""

    PATIENCE = 30.0

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.tag = 0
        self._ids = itertools.count(1)
        self._order: dict[int, deque[_Transfer]] = {0x81: deque(), 0x02: deque()}
        self.transfers: list[_Transfer] = []
        self.configure()

    # ------------------------------------------------------------ transfers ----

    def start(self, urb: Urb) -> _Transfer:
        transfer = _Transfer(urb)
        self.transfers.append(transfer)
        if urb.setup is None:
            self._order[urb.endpoint].append(transfer)

        def complete(result: UrbResult) -> None:
            assert not transfer.results, "completed twice"
            transfer.results.append(result)
            assert len(result.data) <= urb.length
            if urb.setup is None:
                order = self._order[urb.endpoint]
                if result.status is not UrbStatus.CANCELLED:
                    assert order[0] is transfer, "out of order"
                order.remove(transfer)

        self.disk.device.submit(urb, complete)
        return transfer

    def wait(self, transfer: _Transfer) -> UrbResult:
        """Wait for the end of a transfer; after a time it is cancelled."""
        clock = self.disk.clock
        end = clock.now + self.PATIENCE
        while not transfer.results and clock.step(end):
            pass
        if not transfer.results:
            clock.now = end
            self.disk.device.cancel(transfer.urb.id)
            while not transfer.results and clock.step():
                pass
        assert transfer.results, "never completed"
        return transfer.results[0]

    def bulk(self, endpoint: int, length: int, data: bytes = b"") -> _Transfer:
        number = next(self._ids)
        return self.start(Urb(number, TransferType.BULK, endpoint, length, data))

    def control(self, setup: SetupPacket) -> UrbResult:
        return self.wait(self.start(Urb.control(next(self._ids), setup)))

    def clear_halt(self, endpoint: int) -> None:
        request = SetupPacket(0x02, 1, Feature.ENDPOINT_HALT, endpoint, 0)
        assert self.control(request).status is UrbStatus.OK

    def configure(self) -> None:
        assert self.control(SetupPacket.set_configuration(1)).status is UrbStatus.OK

    def reset(self) -> None:
        self.disk.device.reset()
        self.configure()

    def recover(self) -> None:
        """Reset recovery (BOT 1.0, 5.3.4)."""
        result = self.control(SetupPacket(0x21, 0xFF, 0, 0, 0))
        assert result.status is UrbStatus.OK
        self.clear_halt(0x81)
        self.clear_halt(0x02)

    # ------------------------------------------------------------- commands ----

    def command(
        self,
        cdb: bytes,
        length: int = 0,
        data: bytes | None = None,
        *,
        piece: int = 1 << 20,
        lun: int = 0,
        is_queued: bool = False,
        has_status_queued: bool = False,
    ) -> Outcome:
        """Run a command as Linux does.

        Args:
            cdb: the command block.
            length: bytes wanted, if *data* is None.
            data: what to write.
            piece: bytes of one transfer of the data stage.
            lun: the logical unit.
            is_queued: all transfers of the data stage are under way at once.
            has_status_queued: that of the status, too.
        """
        self.tag += 1
        is_in = data is None
        if data is not None:
            length = len(data)
        flags = 0x80 if is_in else 0
        head = (b"USBC", self.tag, length, flags, lun, len(cdb), cdb)
        result = self.wait(self.bulk(0x02, 31, _CBW.pack(*head)))
        if result.status is not UrbStatus.OK:
            return self._give_up()
        sizes = [min(piece, length - at) for at in range(0, length, piece)]
        starts = []
        for n, size in enumerate(sizes):
            if data is None:
                starts.append(partial(self.bulk, 0x81, size))
            else:
                part = data[n * piece : n * piece + size]
                starts.append(partial(self.bulk, 0x02, size, part))
        under_way = [start() for start in starts] if is_queued else []
        status = self.bulk(0x81, 13) if has_status_queued else None
        found = []
        for n, size in enumerate(sizes):
            result = self.wait(under_way[n] if is_queued else starts[n]())
            found.append(bytes(result.data))
            if result.status is UrbStatus.STALL:
                self.clear_halt(0x81 if is_in else 0x02)
                break
            if result.status is not UrbStatus.OK:
                return self._give_up()
            if result.length < size:
                break
        return self._status(b"".join(found), status)

    def _status(self, found: bytes, status: _Transfer | None) -> Outcome:
        result = self.wait(status or self.bulk(0x81, 13))
        if result.status is UrbStatus.STALL:  # once more (BOT 1.0, 5.3.3)
            self.clear_halt(0x81)
            result = self.wait(self.bulk(0x81, 13))
        if result.status is not UrbStatus.OK or result.length != 13:
            return self._give_up()
        signature, tag, residue, code = _CSW.unpack(result.data)
        if (signature, tag) != (b"USBS", self.tag) or code > 1:
            return self._give_up()
        return Outcome(found, residue, code)

    def _give_up(self) -> Outcome:
        self.recover()
        return Outcome(is_recovered=True)

    def sense(self) -> bytes:
        return self.command(bytes((3, 0, 0, 0, 18, 0)), 18).data

    def abort(self, cdb: bytes, length: int, data: bytes | None, steps: int) -> None:
        """Begin a command, and end it somewhere with a reset."""
        self.tag += 1
        flags = 0x80 if data is None else 0
        head = (b"USBC", self.tag, length, flags, 0, len(cdb), cdb)
        transfer = self.bulk(0x02, 31, _CBW.pack(*head))
        stages = [
            partial(self.bulk, 0x02, length, data)
            if data is not None
            else partial(self.bulk, 0x81, length),
            partial(self.bulk, 0x81, 13),
        ]
        for _ in range(steps):
            while transfer.results and stages:
                transfer = stages.pop(0)()
            if not self.disk.clock.step():
                break
        if not transfer.results:
            self.disk.device.cancel(transfer.urb.id)
        self.wait(transfer)

    def finish(self) -> None:
        """Nothing is under way any more, and all have completed once."""
        while self.disk.clock.step():
            pass
        assert all(len(t.results) == 1 for t in self.transfers)
        assert not any(self._order.values())
        assert not self.disk.bus.running
        assert not self.disk.bus.waiting
        assert not self.disk.pipeline._ours
        assert not self.disk.pipeline._held
        if isinstance(self.disk.device, ReadAhead):
            ahead = self.disk.device
            assert not ahead._own
            assert not ahead._waiting()
            assert not ahead._below
        assert not self.disk.attachment._open


def cdb10(code: int, block: int, count: int) -> bytes:
    """READ (10) or WRITE (10)."""
    return struct.pack(">BBIBHB", code, 0, block, 0, count, 0)


INQUIRY, CAPACITY = bytes((0x12, 0, 0, 0, 36, 0)), b"\x25" + bytes(9)
HARMLESS = [
    (bytes(6), 0),
    (INQUIRY, 36),
    (CAPACITY, 8),
    (b"\x9e\x10" + bytes(11) + b"\x20\0\0", 32),
    (b"\x1a\0\x3f\0\x2c\0", 44),
]
"""Commands, and how many bytes they bring."""

BAD = frozenset(random.Random(5).sample(range(BLOCKS), 40))
"""Blocks that cannot be read."""


class Worn(FlashDrive):
    """A drive with bad blocks; what is before one still comes."""

    def __init__(self, image: bytearray, bad: Collection[int] = BAD) -> None:
        super().__init__(image)
        self._bad = frozenset(bad)

    def attached(self) -> None:
        super().attached()
        storage = self._storage
        assert storage is not None
        read = storage.read

        def read_some(offset: int, length: int) -> bytes:
            if not self._bad.isdisjoint(
                range(offset // BLOCK, -(-(offset + length) // BLOCK))
            ):
                raise OSError("bad block")
            return read(offset, length)

        storage.read = read_some  # type: ignore[method-assign]

    def data_in(self, endpoint: int, room: int) -> Data | None:
        return super().data_in(endpoint, min(room, BLOCK))


class Card(Worn):
    """A card that can be changed; each block has its number and that of the card."""

    def __init__(self, bad: Collection[int] = ()) -> None:
        self.generation = 0
        self._content = bytearray(BLOCKS * BLOCK)
        self._fill()
        super().__init__(self._content, bad)

    def _fill(self) -> None:
        for block in range(BLOCKS):
            numbers = struct.pack("<II", block, self.generation)
            self._content[block * BLOCK : (block + 1) * BLOCK] = numbers * 64

    def change(self) -> None:
        """It is another one for the next command, which fails for that."""
        self._is_changed = True

    def attached(self) -> None:
        super().attached()
        disk, self._is_changed = self._disk, False
        assert disk is not None
        execute = disk.execute

        def attend(command: bytes, lun: int = 0) -> Transfer:
            if self._is_changed and command[0] not in (0x03, 0x12):
                self._is_changed = False
                self.generation += 1
                self._fill()
                return disk._fail((6, 0x28, 0))
            return execute(command, lun)

        disk.execute = attend  # type: ignore[method-assign]

    def generations(self, data: bytes, block: int) -> set[int]:
        """Of which cards are these blocks, which begin with *block*?"""
        found = list(struct.iter_unpack("<II", data))
        expected = [block + n // 64 for n in range(len(found))]
        assert [number for number, _ in found] == expected
        return {card for _, card in found}


def fuzz(seed: int, mode: StorageMode, count: int = 150) -> tuple[list[Outcome], bytes]:
    """Run random commands; return what the driver and the medium then have.

    The commands are the same in every mode, delays are not.
    """
    what, when = random.Random(seed), random.Random(f"{seed} {mode}")
    image = bytearray(random.Random(seed).randbytes(BLOCKS * BLOCK))
    disk = Disk(
        (Worn if seed % 2 else FlashDrive)(image),
        mode,
        delay=lambda: when.choice((0.0, 0.001, 0.02)) + when.random() / 100,
        bus_delay=lambda: when.choice((0.0, 0.0, 0.001, 0.03)),
    )
    driver = Driver(disk)
    outcomes: list[Outcome] = [driver.command(INQUIRY, 36), driver.command(CAPACITY, 8)]
    position = 0
    for _ in range(count):
        # resets are no sign of an odd device, and what was read counts for a while
        disk.clock.sleep(what.choice((0, 0, 0, 0.5, 5)))
        piece = what.choice((1 << 20, 20480, 4096, 512))
        blocks = what.choice((1, 7, 8, 41, 128, 240))
        block = what.randrange(BLOCKS - blocks)
        data = what.randbytes(blocks * BLOCK)
        steps, dice = what.randrange(14), what.random()
        size = what.choice((5, 36, 96, 255, 512, 1024))
        is_queued, is_both = what.random() < 0.3, what.random() < 0.3
        if seed % 2:  # after an error only kernels know how to sort it out
            is_queued = False
        kind = what.choice(
            (
                "read",
                "next",
                "next",
                "next",
                "next",
                "write",
                "inquiry",
                "unknown",
                "nothing",
            )
            + ("beyond", "sense", "cases", "lun", "abort", "reset", "clear", "bad")
        )
        one = partial(
            driver.command,
            piece=piece,
            is_queued=is_queued,
            has_status_queued=is_queued and is_both,
        )
        match kind:
            case "read":
                found = one(cdb10(0x28, block, blocks), blocks * BLOCK)
            case "next":  # again and again, as copying does
                for _ in range(what.randrange(1, 14)):
                    if what.random() < 0.1:
                        cdb, length = what.choice(HARMLESS)
                        outcomes.append(driver.command(cdb, length))
                    if position + blocks > BLOCKS:
                        position = 0
                    found = one(cdb10(0x28, position, blocks), blocks * BLOCK)
                    position += blocks
                    outcomes.append(found)
                    if found.status == 1:
                        outcomes.append(Outcome(driver.sense()))
            case "write":
                found = one(cdb10(0x2A, block, blocks), data=data)
            case "inquiry":  # with a residue, and a stall for what is missing
                found = driver.command(bytes((0x12, 0, 0, 0, min(size, 255), 0)), size)
            case "unknown" if dice < 0.5:
                found = driver.command(b"\xe7" + bytes(9), size, piece=piece)
            case "unknown":
                found = driver.command(b"\xe7" + bytes(9), data=data, piece=piece)
            case "nothing":
                found = driver.command(bytes(6))
            case "beyond" if dice < 0.5:
                cdb = cdb10(0x28, BLOCKS - 1, blocks + 1)
                found = driver.command(cdb, (blocks + 1) * BLOCK, piece=piece)
            case "beyond":
                found = driver.command(cdb10(0x2A, BLOCKS, blocks), data=data)
            case "sense":
                found = Outcome(driver.sense())
            case "cases" if dice < 0.3:  # the host wants less, or another direction
                found = driver.command(cdb10(0x28, block, blocks + 1), blocks * BLOCK)
            case "cases" if dice < 0.5:
                found = driver.command(cdb10(0x28, block, 1), data=data)
            case "cases" if dice < 0.7:
                found = driver.command(cdb10(0x28, block, 1), 0)
            case "cases":  # the host wants more
                found = driver.command(cdb10(0x28, block, blocks), 256 * BLOCK)
            case "lun":
                found = driver.command(bytes(6), lun=1)
            case "abort":
                disk.clock.sleep(101)
                is_write = dice < 0.5
                driver.abort(
                    cdb10(0x2A if is_write else 0x28, block, blocks),
                    len(data),
                    data if is_write else None,
                    steps,
                )
                driver.recover() if dice < 0.25 or dice > 0.75 else driver.reset()
                if is_write:  # nobody knows how far it came
                    found = driver.command(cdb10(0x2A, block, blocks), data=data)
                else:
                    found = driver.command(bytes(6))
            case "reset":
                driver.reset()
                found = driver.command(bytes(6))
            case "clear":
                driver.clear_halt(what.choice((0x81, 0x02)))
                found = driver.command(cdb10(0x28, block, 1), BLOCK)
            case _:  # a command block that is none
                wrapper = bytes(31) if dice < 0.5 else bytes(20)
                result = driver.wait(driver.bulk(0x02, len(wrapper), wrapper))
                found = Outcome(status=result.status)
                driver.recover()
        outcomes.append(found)
        if found.status == 1:
            outcomes.append(Outcome(driver.sense()))
    driver.finish()
    assert not disk.degraded, disk.degraded
    assert mode is not StorageMode.AHEAD or seed % 2 or len(disk.asked) > 20
    return outcomes, bytes(image)
