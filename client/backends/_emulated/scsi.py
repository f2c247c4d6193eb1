"""The SCSI commands of a flash drive (SPC-2, SBC-2, MMC for one of them), sans-IO.

A command is executed in two steps: :meth:`ScsiDisk.execute` looks at it and says what
is to move in which direction; whoever carries the data then calls ``take`` or ``put``
until it has moved, and looks at ``is_good``.
"""

import struct
from collections.abc import Callable
from typing import Final

from rusb.usb.types import Direction

from .storage import BLOCK, Storage

__all__ = ["ScsiDisk", "Transfer"]

# sense key, additional sense code and qualifier (SPC-2, 7.20)
_NO_SENSE: Final = 0x00, 0x00, 0x00
_NO_MEDIUM: Final = 0x02, 0x3A, 0x00
_READ_ERROR: Final = 0x03, 0x11, 0x00
_WRITE_ERROR: Final = 0x03, 0x0C, 0x00
_BAD_COMMAND: Final = 0x05, 0x20, 0x00
_BAD_ADDRESS: Final = 0x05, 0x21, 0x00
_BAD_FIELD: Final = 0x05, 0x24, 0x00
_BAD_LUN: Final = 0x05, 0x25, 0x00
_REMOVAL_PREVENTED: Final = 0x05, 0x53, 0x02
_PROTECTED: Final = 0x07, 0x27, 0x00
_MISCOMPARE: Final = 0x0E, 0x1D, 0x00

_LENGTHS = (6, 10, 10, 0, 16, 12, 0, 0)  # of a command, by group (SPC-2, 4.3.3)

_ALL_PAGES = 0x3F
_CACHING_PAGE = bytes((0x08, 18, 0x04)) + bytes(17)  # write cache enabled
_EXCEPTIONS_PAGE = bytes((0x1C, 10)) + bytes(10)


class Transfer:
    """What a command moves.

    Attributes:
        direction: where to; None if it moves nothing.
        left: bytes still to be moved.
        is_good: the command has not failed so far.
    """

    __slots__ = ("_move", "direction", "is_good", "left")

    def __init__(
        self,
        direction: Direction | None = None,
        length: int = 0,
        move: Callable[[int, bytes | bytearray | memoryview], bytes | None]
        | None = None,
        *,
        is_good: bool = True,
    ) -> None:
        self.direction = direction if length else None
        self.left = length
        self.is_good = is_good
        self._move = move

    def take(self, room: int) -> bytes:
        """Return the next bytes, at most *room*; IN only. None left: the end.

        A read error ends the data early; ``is_good`` is False then.
        """
        return self._next(min(room, self.left), b"")

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """Accept the next bytes; OUT only. What is too much is ignored."""
        count = min(len(data), self.left)
        self._next(count, data[:count])

    def _next(self, count: int, data: bytes | bytearray | memoryview) -> bytes:
        assert self._move is not None
        if not count:
            return b""
        moved = self._move(count, data)
        if moved is None:
            self.left, self.is_good = 0, False
            return b""
        self.left -= count
        return moved


_FAILED = Transfer(is_good=False)
_NOTHING = Transfer()


class ScsiDisk:
    """A removable direct-access device with one logical unit.

    Args:
        storage: its medium.
        vendor, product, revision: texts of 8, 16 and 4 characters at most.
        serial: its serial number, ASCII.
        is_protected: writing fails with DATA PROTECT.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        vendor: str = "rusb",
        product: str = "Flash Drive",
        revision: str = "1.00",
        serial: str = "",
        is_protected: bool = False,
    ) -> None:
        self._storage = storage
        self._names = f"{vendor:8.8}{product:16.16}{revision:4.4}".encode("ascii")
        self._serial = serial.encode("ascii")
        self._is_protected = is_protected or storage.is_read_only
        self._blocks = storage.size // BLOCK
        self._sense = _NO_SENSE
        self._is_loaded = True
        self._is_removal_prevented = False

    def execute(self, command: bytes, lun: int = 0) -> Transfer:
        """Start a command.

        Args:
            command: the command block, 1 to 16 bytes.
            lun: the logical unit that is meant; only 0 is there.
        """
        code = command[0]
        if len(command) < _LENGTHS[code >> 5]:
            return self._fail(_BAD_FIELD)
        command = command.ljust(16, b"\0")
        if code == 0x03:
            return self._request_sense(command, lun)
        self._sense = _NO_SENSE
        if code == 0x12:
            return self._inquiry(command, lun)
        if lun:
            return self._fail(_BAD_LUN)
        handler = _HANDLERS.get(code)
        if handler is None:
            return self._fail(_BAD_COMMAND)
        if not self._is_loaded and code not in _WITHOUT_MEDIUM:
            return self._fail(_NO_MEDIUM)
        return handler(self, command)

    def reset(self) -> None:
        """Power on, or a reset of the device."""
        self._sense = _NO_SENSE
        self._is_loaded = True
        self._is_removal_prevented = False

    # ------------------------------------------------------------- outcomes ----

    def _fail(self, sense: tuple[int, int, int]) -> Transfer:
        self._sense = sense
        return _FAILED

    @staticmethod
    def _answer(data: bytes, allocated: int) -> Transfer:
        """Return parameter data, at most as many as the host has room for."""
        rest = data[:allocated]

        def move(count: int, _: object) -> bytes:
            nonlocal rest
            piece, rest = rest[:count], rest[count:]
            return piece

        return Transfer(Direction.IN, len(rest), move)

    # ----------------------------------------------------------- about itself ----

    def _request_sense(self, command: bytes, lun: int) -> Transfer:
        key, code, qualifier = _BAD_LUN if lun else self._sense
        self._sense = _NO_SENSE
        if command[1] & 1:  # descriptor format
            data = struct.pack(">BBBB4x", 0x72, key, code, qualifier)
        else:
            data = struct.pack(">BxB4xB4xBB4x", 0x70, key, 10, code, qualifier)
        return self._answer(data, command[4])

    def _inquiry(self, command: bytes, lun: int) -> Transfer:
        allocated = int.from_bytes(command[3:5], "big")
        kind = 0x7F if lun else 0x00  # direct access; 0x7F: no such unit
        if not command[1] & 1:
            if command[2]:
                return self._fail(_BAD_FIELD)
            # removable, SPC-2, response format 2
            head = bytes((kind, 0x80, 0x04, 0x02, 31, 0, 0, 0))
            return self._answer(head + self._names, allocated)
        pages = {
            0x00: bytes((0x00, 0x80, 0x83)),
            0x80: self._serial,
            # a T10 vendor id: ASCII, of the logical unit
            0x83: bytes((2, 1, 0, 24 + len(self._serial)))
            + self._names[:24]
            + self._serial,
        }
        page = pages.get(command[2])
        if page is None:
            return self._fail(_BAD_FIELD)
        head = struct.pack(">BBH", kind, command[2], len(page))
        return self._answer(head + page, allocated)

    def _report_luns(self, command: bytes) -> Transfer:
        data = struct.pack(">I4x8x", 8)
        return self._answer(data, int.from_bytes(command[6:10], "big"))

    def _mode_sense(self, command: bytes) -> Transfer:
        is_long = command[0] == 0x5A
        pages = {0x08: _CACHING_PAGE, 0x1C: _EXCEPTIONS_PAGE}
        control, wanted = command[2] >> 6, command[2] & 0x3F
        if control == 3:  # saved values
            return self._fail((0x05, 0x39, 0x00))
        if wanted != _ALL_PAGES and wanted not in pages or command[3]:
            return self._fail(_BAD_FIELD)
        if control == 1:  # which bits can be changed: none
            pages = {n: p[:2] + bytes(len(p) - 2) for n, p in pages.items()}
        body = pages.get(wanted) or b"".join(pages.values())
        block = b""
        if not command[1] & 0x08:
            block = struct.pack(">II", min(self._blocks, 0xFFFFFFFF), BLOCK)
        protected = 0x80 if self._is_protected else 0
        size = len(block) + len(body)
        if is_long:
            head = struct.pack(">HBB2xH", 6 + size, 0, protected, len(block))
            return self._answer(head + block + body, _number(command, 7, 2))
        head = bytes((3 + size, 0, protected, len(block)))
        return self._answer(head + block + body, command[4])

    def _read_capacity_10(self, command: bytes) -> Transfer:
        last = min(self._blocks - 1, 0xFFFFFFFF)
        return self._answer(struct.pack(">II", last, BLOCK), 8)

    def _service_action_in(self, command: bytes) -> Transfer:
        if command[1] & 0x1F != 0x10:  # READ CAPACITY(16)
            return self._fail(_BAD_FIELD)
        data = struct.pack(">QI20x", self._blocks - 1, BLOCK)
        return self._answer(data, _number(command, 10, 4))

    def _read_format_capacities(self, command: bytes) -> Transfer:
        count = min(self._blocks, 0xFFFFFFFF)
        size = (2 << 24) | BLOCK  # formatted medium
        data = struct.pack(">3xBII", 8, count, size)
        return self._answer(data, _number(command, 7, 2))

    # ---------------------------------------------------------------- medium ----

    def _nothing(self, command: bytes) -> Transfer:
        return _NOTHING

    def _start_stop(self, command: bytes) -> Transfer:
        is_start, is_load = command[4] & 1, command[4] & 2
        if command[4] >> 4:  # power conditions
            return self._fail(_BAD_FIELD)
        if is_load and not is_start and self._is_removal_prevented:
            return self._fail(_REMOVAL_PREVENTED)
        if is_load:
            self._is_loaded = bool(is_start)
        return self._synchronize(command) if not is_start else _NOTHING

    def _prevent_removal(self, command: bytes) -> Transfer:
        self._is_removal_prevented = bool(command[4] & 1)
        return _NOTHING

    def _synchronize(self, command: bytes) -> Transfer:
        try:
            self._storage.flush()
        except OSError:
            return self._fail(_WRITE_ERROR)
        return _NOTHING

    def _extent(self, command: bytes) -> tuple[int, int] | None:
        """Return offset and length in bytes; None: not on the medium."""
        match command[0] >> 5:
            case 0:
                address = _number(command, 1, 3) & 0x1FFFFF
                count = command[4] or 256
            case 1:
                address, count = _number(command, 2, 4), _number(command, 7, 2)
            case 5:
                address, count = _number(command, 2, 4), _number(command, 6, 4)
            case _:
                address, count = _number(command, 2, 8), _number(command, 10, 4)
        if address + count > self._blocks:
            return None
        return address * BLOCK, count * BLOCK

    def _read(self, command: bytes) -> Transfer:
        extent = self._extent(command)
        if extent is None:
            return self._fail(_BAD_ADDRESS)
        offset, length = extent
        storage = self._storage

        def move(count: int, _: object) -> bytes | None:
            nonlocal offset
            try:
                data = storage.read(offset, count)
            except OSError:
                self._sense = _READ_ERROR
                return None
            offset += count
            return data

        return Transfer(Direction.IN, length, move)

    def _write(self, command: bytes) -> Transfer:
        extent = self._extent(command)
        if extent is None:
            return self._fail(_BAD_ADDRESS)
        if self._is_protected:
            return self._fail(_PROTECTED)
        offset, length = extent
        storage = self._storage

        def move(count: int, data: bytes | bytearray | memoryview) -> bytes | None:
            nonlocal offset
            try:
                storage.write(offset, data)
            except OSError:
                self._sense = _WRITE_ERROR
                return None
            offset += count
            return b""

        return Transfer(Direction.OUT, length, move)

    def _verify(self, command: bytes) -> Transfer:
        extent = self._extent(command)
        if extent is None:
            return self._fail(_BAD_ADDRESS)
        if not command[1] & 0x02:  # the medium is fine as it is
            return _NOTHING
        offset, length = extent
        storage = self._storage

        def move(count: int, data: bytes | bytearray | memoryview) -> bytes | None:
            nonlocal offset
            try:
                is_equal = storage.read(offset, count) == data
            except OSError:
                self._sense = _READ_ERROR
                return None
            offset += count
            if not is_equal:
                self._sense = _MISCOMPARE
            return b"" if is_equal else None

        return Transfer(Direction.OUT, length, move)


def _number(command: bytes, offset: int, size: int) -> int:
    return int.from_bytes(command[offset : offset + size], "big")


_HANDLERS: Final[dict[int, Callable[[ScsiDisk, bytes], Transfer]]] = {
    0x00: ScsiDisk._nothing,  # TEST UNIT READY
    0x08: ScsiDisk._read,
    0x0A: ScsiDisk._write,
    0x1A: ScsiDisk._mode_sense,
    0x1B: ScsiDisk._start_stop,
    0x1D: ScsiDisk._nothing,  # SEND DIAGNOSTIC
    0x1E: ScsiDisk._prevent_removal,
    0x23: ScsiDisk._read_format_capacities,
    0x25: ScsiDisk._read_capacity_10,
    0x28: ScsiDisk._read,
    0x2A: ScsiDisk._write,
    0x2F: ScsiDisk._verify,
    0x35: ScsiDisk._synchronize,
    0x5A: ScsiDisk._mode_sense,
    0x88: ScsiDisk._read,
    0x8A: ScsiDisk._write,
    0x8F: ScsiDisk._verify,
    0x91: ScsiDisk._synchronize,
    0x9E: ScsiDisk._service_action_in,
    0xA0: ScsiDisk._report_luns,
    0xA8: ScsiDisk._read,
    0xAA: ScsiDisk._write,
    0xAF: ScsiDisk._verify,
}
_WITHOUT_MEDIUM = {0x1A, 0x1B, 0x1D, 0x1E, 0x5A, 0xA0}
