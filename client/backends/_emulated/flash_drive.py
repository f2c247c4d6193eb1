"""A USB flash drive: SCSI over bulk-only transport (Mass Storage Class BOT 1.0)."""

import enum
from pathlib import Path

from rusb.errors import BackendError
from rusb.usb.bulk_only import COMMAND_WRAPPER, STATUS_WRAPPER
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.setup import SetupPacket
from rusb.usb.types import ClassCode, Direction, Speed

from .core import Data, EmulatedDevice
from .describe import bulk, describe
from .fat import make_fat_image
from .scsi import ScsiDisk, Transfer
from .storage import FileStorage, MemoryStorage, Storage

__all__ = ["FlashDrive"]

DEFAULT_SIZE = 16 << 20
MIN_SIZE, MAX_SIZE = 4 << 20, 4 << 30
"""Bytes of an image made in memory."""

_PASSED, _FAILED, _PHASE_ERROR = 0, 1, 2

_README = b"""\
This flash drive does not exist. It is a Python class of rusb's, and what you write\r
to it is gone when the program ends.\r
"""


class _Phase(enum.Enum):
    """What the transport waits for."""

    COMMAND = enum.auto()
    DATA_IN = enum.auto()
    DATA_OUT = enum.auto()
    STATUS = enum.auto()
    BROKEN = enum.auto()  # by an invalid command block; until reset recovery (5.3.1)


class FlashDrive(EmulatedDevice):
    """A removable disk, 1209:0001.

    Args:
        image: what it holds: a file (opened while it is plugged in, written through)
            or a bytearray (used in place); of a multiple of 512 bytes. None: a fresh
            FAT file system in memory with a file README.TXT.
        size: bytes of the fresh file system, 4 MiB to 4 GiB.
        is_protected: writing fails; so it does if the file may not be written.
        speed: full, high or super.
        port: see :class:`EmulatedDevice`.
        serial: serial number, at least 12 digits of 0-9 and A-F (4.1.1).

    Raises:
        BackendError: image or size cannot be used.
    """

    IN, OUT = 0x81, 0x02
    """Its endpoints."""

    def __init__(
        self,
        image: Path | str | bytearray | None = None,
        *,
        size: int = DEFAULT_SIZE,
        is_protected: bool = False,
        speed: Speed = Speed.HIGH,
        port: int = 0,
        serial: str = "525553420001",
    ) -> None:
        endpoints = (bulk(self.IN, speed), bulk(self.OUT, speed))
        descriptors = describe(
            speed,
            0x0001,
            InterfaceDescriptor(  # SCSI transparent commands, bulk-only
                0, 0, ClassCode.MASS_STORAGE, 0x06, 0x50, endpoints=endpoints
            ),
            max_power_ma=200,
        )
        strings = ("rusb", "Flash Drive", serial)
        super().__init__(descriptors, strings, speed=speed, port=port)
        if image is None:
            if not MIN_SIZE <= size <= MAX_SIZE or size % 512:
                raise BackendError(
                    f"a flash drive of {size} bytes: {MIN_SIZE >> 20} MiB to"
                    f" {MAX_SIZE >> 30} GiB in steps of 512 bytes are possible"
                )
            image = make_fat_image(size, {"README.TXT": _README}, "RUSB")
        self._image = image
        self._serial = serial
        self._is_protected = is_protected
        self._storage: Storage | None = None
        self._disk: ScsiDisk | None = None
        self._begin()

    # ----------------------------------------------------------------- hooks ----

    def attached(self) -> None:
        """Open the image."""
        if isinstance(self._image, bytearray):
            self._storage = MemoryStorage(self._image)
        else:
            self._storage = FileStorage(Path(self._image))
        self._disk = ScsiDisk(
            self._storage, serial=self._serial, is_protected=self._is_protected
        )

    def detached(self) -> None:
        """Close the image."""
        if self._storage is not None:
            self._storage.close()
        self._storage = self._disk = None

    def was_reset(self) -> None:
        """Wait for a command."""
        self._begin()
        if self._disk is not None:
            self._disk.reset()

    def halt_cleared(self, endpoint: int) -> None:
        """Stay halted after an invalid command until the class's reset (6.6.1)."""
        if self._phase is _Phase.BROKEN:
            self.halt(endpoint)

    def control(self, setup: SetupPacket, data: Data) -> Data | None:
        """Answer the two class requests (3.1, 3.2)."""
        if setup.value or setup.index:
            return None
        match setup.request_type, setup.request, setup.length:
            case 0x21, 0xFF, 0:  # Bulk-Only Mass Storage Reset
                self._begin()
                self.kick(self.OUT)
                return b""
            case 0xA1, 0xFE, 1:  # Get Max LUN
                return b"\0"
        return None

    def data_out(self, endpoint: int, data: Data) -> bool:
        """Take a command block, or data of a command."""
        if self._phase is _Phase.COMMAND:
            self._take_command(bytes(data))
            return True
        if self._phase is _Phase.DATA_OUT:
            self._take_data(memoryview(data))
            return True
        return False  # the host must read what is there first

    def data_in(self, endpoint: int, room: int) -> Data | None:
        """Give data of a command, or its status."""
        if self._phase is _Phase.DATA_IN:
            return self._give_data(room)
        if self._phase is _Phase.STATUS:
            status = STATUS_WRAPPER.pack(
                b"USBS", self._tag, self._residue, self._status
            )
            self._begin()
            self.kick(self.OUT)
            return status
        return None

    # ------------------------------------------------------------- transport ----

    def _begin(self) -> None:
        self._phase = _Phase.COMMAND
        self._tag = self._residue = self._left = 0
        self._status = _PASSED
        self._host = Direction.OUT
        self._transfer = Transfer()

    def _take_command(self, data: bytes) -> None:
        """Look at a command block wrapper (5.1) and start the command."""
        command = self._parse(data)
        if command is None:
            self._phase = _Phase.BROKEN
            self.halt(self.IN)
            self.halt(self.OUT)
            return
        assert self._disk is not None
        self._tag, length, host, lun, block = command
        self._residue = self._left = length
        self._host = host
        transfer = self._transfer = self._disk.execute(block, lun)
        self._status = _PASSED if transfer.is_good else _FAILED
        # the thirteen cases of 6.7, host's expectation against device's intention
        if transfer.direction is None:
            self._end_data()  # 1, 4, 9
        elif transfer.left > length or transfer.direction is not host:
            self._status = _PHASE_ERROR  # 2, 3, 7, 8, 10, 13
            self._end_data()
        elif host is Direction.IN:
            self._phase = _Phase.DATA_IN  # 5, 6
        else:
            self._phase = _Phase.DATA_OUT  # 11, 12
        self.kick(self.IN)

    @staticmethod
    def _parse(data: bytes) -> tuple[int, int, Direction, int, bytes] | None:
        """Return tag, length, direction, LUN, command; None: invalid (6.2)."""
        if len(data) != COMMAND_WRAPPER.size:
            return None
        signature, tag, length, flags, lun, size, block = COMMAND_WRAPPER.unpack(data)
        if signature != b"USBC" or flags & 0x7F or lun > 15 or not 1 <= size <= 16:
            return None
        return tag, length, Direction(flags), lun, block[:size]

    def _end_data(self) -> None:
        """Go to the status; what the host still wants to move stalls."""
        self._phase = _Phase.STATUS
        if self._residue:
            self.halt(self.IN if self._host is Direction.IN else self.OUT)

    def _take_data(self, data: memoryview) -> None:
        """Take OUT data; what the command does not want is discarded (case 11)."""
        count = min(len(data), self._left)
        before = self._transfer.left
        self._transfer.put(data[:count])
        self._left -= count
        if self._transfer.is_good:
            self._residue -= before - self._transfer.left
        if not self._left:
            if not self._transfer.is_good:
                self._status = _FAILED
            self._phase = _Phase.STATUS
            self.kick(self.IN)

    def _give_data(self, room: int) -> Data | None:
        """Return IN data in whole packets, unless they are the last."""
        packet = self.state.endpoints[self.IN].packet_size
        piece = self._transfer.take(-(-room // packet) * packet or packet)
        self._residue -= len(piece)
        if not self._transfer.left:
            if not self._transfer.is_good:
                self._status = _FAILED
            self._end_data()
        return piece or None
