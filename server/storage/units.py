"""What is known of a disk behind the commands that a guest sends it."""

from collections import deque
from dataclasses import dataclass, field

from rusb.usb.bulk_only import STATUS_WRAPPER
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from .scsi import Block, Code, SenseKey, sense_key

__all__ = ["Answer", "Unit"]

AVOIDED = 64 << 20
"""Bytes behind a block that could not be read in which nothing is read ahead."""


@dataclass(slots=True, eq=False)
class Answer:
    """A command of the guest's that the device does not get.

    Attributes:
        of: the command.
        wrapper: as the guest sent it.
        data: for the guest; None: they are not there yet.
        code: of the status.
        moved: bytes of the data stage so far.
        is_over: the data stage to the guest is over.
        readers: the guest's transfers that wait.
    """

    of: Block
    wrapper: bytes = b""
    data: bytes | None = None
    code: int = 0
    moved: int = 0
    is_over: bool = False
    readers: deque[tuple[Urb, Completion]] = field(default_factory=deque)

    def wants(self, urb: Urb) -> bool:
        """Is a transfer one of this command?"""
        return urb.is_in or (not self.of.is_in and self.moved < self.of.length)

    def is_status(self, urb: Urb) -> bool:
        """Does a transfer of this command ask for the status?"""
        return urb.is_in and (
            not self.of.is_in or self.is_over or self.moved >= self.of.length
        )

    def move(self, urb: Urb) -> UrbResult:
        """Move some of the data stage."""
        if not urb.is_in:  # the command has failed: nobody wants them
            self.moved += urb.length
            return UrbResult(UrbStatus.OK, b"", urb.length)
        assert self.data is not None
        piece = self.data[self.moved : self.moved + urb.length]
        self.moved += len(piece)
        self.is_over = len(piece) < urb.length
        return UrbResult(UrbStatus.OK, piece, len(piece))

    @property
    def status(self) -> UrbResult:
        """The command status wrapper."""
        left = self.of.length - (0 if self.code else self.moved)
        data = STATUS_WRAPPER.pack(b"USBS", self.of.tag, left, self.code)
        return UrbResult(UrbStatus.OK, data, len(data))


@dataclass(slots=True)
class Unit:
    """A logical unit.

    Attributes:
        is_removable: its medium can be removed; None: it is no disk, or nobody asked.
        capacity: its last block, and bytes of a block.
        avoided: blocks in which nothing is read ahead.
        sense: sense data that we have read, and the guest has not.
        is_told: a command of the guest's has failed for them.
    """

    is_removable: bool | None = None
    capacity: tuple[int, int] | None = None
    avoided: range = range(0)
    sense: bytes | None = None
    is_told: bool = False

    def learn(self, block: Block, data: bytes) -> bool:
        """Look at what a good command has brought; is it another medium?"""
        removable, capacity = block.removable(data), block.capacity(data)
        if removable is not None:
            self.is_removable = removable
        if capacity is None or capacity == self.capacity:
            return False
        self.capacity = capacity
        return True

    def end(self, position: int, code: int) -> int:
        """Return the block before which to stop reading; *position*: do not begin."""
        if self.capacity is None or self.is_removable is None:
            return position
        avoided, end = self.avoided, self.capacity[0] + 1
        if code == Code.READ_10:
            end = min(end, 1 << 32)
        if position < avoided.stop:
            end = min(end, avoided.start)
        return max(end, position)

    def keep(self, data: bytes, first: int) -> bool:
        """Take the sense data of a command of ours; are they any?

        Args:
            data: what REQUEST SENSE has brought.
            first: the block that could not be read.
        """
        key = sense_key(data)
        if key in (SenseKey.NOT_READY, SenseKey.UNIT_ATTENTION):
            self.sense, self.is_told, self.capacity = data, False, None
        elif self.capacity is not None:
            self.avoided = range(first, first + AVOIDED // self.capacity[1])
        return key is not None

    def tell(self) -> bool:
        """Has a command of the guest's to fail for what we know? It does then."""
        has_to = self.sense is not None and not self.is_told
        self.is_told = self.is_told or has_to
        return has_to

    def answer(self, block: Block) -> Answer | None:
        """Answer for a device that has told us why, and not the guest.

        A device fails the first command that it may, and keeps the reason for the next.
        """
        if self.sense is None:
            return None
        if block.code == Code.REQUEST_SENSE:
            data, self.sense = self.sense[: min(block.cdb[4], block.length)], None
            return Answer(block, data=data)
        if block.code in (Code.INQUIRY, Code.REPORT_LUNS):
            return None
        if self.tell():
            return Answer(block, data=b"", code=1)
        self.sense = None  # nobody wants to know
        return None
