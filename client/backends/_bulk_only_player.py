"""A disk out of a capture: its commands, and a sparse disk of all sectors seen."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from rusb.usb.bulk_only import COMMAND_WRAPPER, STATUS_WRAPPER, BulkOnly

from ._capture import CapturedTransfer

__all__ = ["BulkOnlyPlayer"]

_READS = {0x08: "6", 0x28: "10", 0xA8: "12", 0x88: "16"}
_WRITES = {0x0A: "6", 0x2A: "10", 0xAA: "12", 0x8A: "16"}
_REQUEST_SENSE, _CAPACITY, _TEST_READY = 0x03, 0x25, 0x00
_UNREADABLE, _UNKNOWN = (0x03, 0x11, 0x00), (0x05, 0x20, 0x00)
"""Sense key, code and qualifier of what fails here."""

_MAX_STAGE = 16 << 20
"""Bytes of a data stage that are taken; drivers send 1 MiB at most."""


class _Command:
    """A command of the capture.

    Attributes:
        data: its data stage, either way.
        status: 0 if it was good.
        is_done: its status was seen.
    """

    def __init__(self, cdb: bytes, is_in: bool) -> None:
        self.cdb, self.is_in = cdb, is_in
        self.data = bytearray()
        self.status = 0
        self.is_done = False


class BulkOnlyPlayer:
    """Answers the commands of a bulk-only device.

    Args:
        function: the interface and its endpoints.
        transfers: of the device.
        send: puts data into the way to the host.
        complain: is told what was asked and is not known.
    """

    def __init__(
        self,
        function: BulkOnly,
        transfers: Iterable[CapturedTransfer],
        send: Callable[[bytes], object],
        complain: Callable[[str], None],
    ) -> None:
        self._function, self._send, self._complain = function, send, complain
        self._answers: dict[bytes, list[_Command]] = defaultdict(list)
        self._sectors: dict[int, bytes] = {}
        self._block = 512
        self._sense: tuple[int, int, int] | None = None
        self._expects = 0  # bytes of the data stage that the host is sending
        self._stage = bytearray()
        self._command = (0, 0, b"")  # tag, length, block of the command in that stage
        self._learn(list(transfers))

    def was_reset(self) -> None:
        """The host begins anew."""
        self._expects = 0
        self._stage.clear()

    # ------------------------------------------------------------- the capture ----

    def _learn(self, transfers: list[CapturedTransfer]) -> None:
        commands: list[_Command] = []
        for transfer in transfers:
            if transfer.endpoint == self._function.outgoing:
                self._learn_out(commands, transfer.sent)
            elif transfer.endpoint == self._function.incoming and commands:
                self._learn_in(commands[-1], transfer.received)
        for command in commands:
            if not command.is_done:
                continue
            self._answers[command.cdb].append(command)
            if command.cdb[0] == _CAPACITY and len(command.data) == 8:
                size = int.from_bytes(command.data[4:], "big")
                self._block = size if 0 < size <= 65536 else 512
        done = [c for c in commands if c.is_done and not c.status]
        for kinds in (
            _READS,
            _WRITES,
        ):  # what was written is kept where nothing was read
            for command in done:
                if command.cdb[0] in kinds:
                    self._learn_sectors(command)

    @staticmethod
    def _learn_out(commands: list[_Command], data: bytes) -> None:
        if len(data) == COMMAND_WRAPPER.size and data[:4] == b"USBC":
            _, _, _, flags, _, size, block = COMMAND_WRAPPER.unpack(data)
            if 1 <= size <= 16:
                commands.append(_Command(block[:size], flags & 0x80 != 0))
        elif commands and not commands[-1].is_done:
            commands[-1].data += data

    @staticmethod
    def _learn_in(command: _Command, data: bytes) -> None:
        if command.is_done:
            return
        if len(data) == STATUS_WRAPPER.size and data[:4] == b"USBS":
            command.status, command.is_done = data[12], True
        else:
            command.data += data

    def _learn_sectors(self, command: _Command) -> None:
        first, count = _blocks(command.cdb)
        if len(command.data) == count * self._block:
            for n in range(count):
                data = bytes(command.data[n * self._block : (n + 1) * self._block])
                self._sectors.setdefault(first + n, data)

    # ---------------------------------------------------------------- the host ----

    def take(self, data: bytes) -> None:
        """The host sends a command, or data of one."""
        if self._expects:
            self._stage += data
            if len(self._stage) >= self._expects:
                self._written()
            return
        if len(data) != COMMAND_WRAPPER.size or data[:4] != b"USBC":
            self._complain(f"{len(data)} bytes that are no command")
            return
        _, tag, length, flags, _, size, block = COMMAND_WRAPPER.unpack(data)
        cdb = block[: min(max(size, 1), 16)]
        self._command = tag, length, cdb
        if flags & 0x80 or not length:
            self._answer(tag, length, cdb, is_in=flags & 0x80 != 0)
        elif length <= _MAX_STAGE:
            self._expects = length
        else:
            self._end(tag, length, 1)

    def _written(self) -> None:
        tag, length, cdb = self._command
        data, self._expects = bytes(self._stage), 0
        self._stage.clear()
        if cdb[0] in _WRITES:
            first, count = _blocks(cdb)
            if count * self._block == len(data):
                for n in range(count):
                    piece = data[n * self._block : (n + 1) * self._block]
                    self._sectors[first + n] = piece
                self._end(tag, 0, 0)
                return
        self._answer(tag, length, cdb, is_in=False)

    def _answer(self, tag: int, length: int, cdb: bytes, *, is_in: bool) -> None:
        found = self._find(cdb)
        if found is None:
            self._complain(f"the SCSI command {cdb.hex()}")
            self._sense = _UNREADABLE if cdb[0] in _READS else _UNKNOWN
            found = b"", 1
        data, status = found
        moved = 0 if not is_in else min(len(data), length)
        if is_in and length:
            piece = data[:length]
            self._send(piece)
            if piece and len(piece) < length and len(piece) % self._packet == 0:
                self._send(b"")
        elif not is_in and not status:
            moved = length
        self._end(tag, length - moved, status)

    @property
    def _packet(self) -> int:
        return self._function.packet

    def _end(self, tag: int, residue: int, status: int) -> None:
        self._send(STATUS_WRAPPER.pack(b"USBS", tag, residue, status))

    def _find(self, cdb: bytes) -> tuple[bytes, int] | None:
        """What a command brings, and its status; None: nobody knows."""
        if cdb[0] == _REQUEST_SENSE and self._sense is not None:
            key, code, qualifier = self._sense
            self._sense = None
            fixed = bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier))
            return fixed + bytes(4), 0
        if cdb[0] in _READS:
            first, count = _blocks(cdb)
            if count * self._block <= _MAX_STAGE:
                found = [self._sectors.get(first + n) for n in range(count)]
                known = [piece for piece in found if piece is not None]
                if len(known) == count:
                    return b"".join(known), 0
        answers = self._answers.get(cdb)
        if answers:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return bytes(answer.data) if answer.is_in else b"", answer.status
        return (b"", 0) if cdb[0] == _TEST_READY else None


def _blocks(cdb: bytes) -> tuple[int, int]:
    """First block and count of a READ or WRITE."""
    cdb = cdb.ljust(16, b"\0")
    match _READS.get(cdb[0]) or _WRITES.get(cdb[0]):
        case "6":
            return int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
        case "10":
            return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")
        case "12":
            return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[6:10], "big")
    return int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
