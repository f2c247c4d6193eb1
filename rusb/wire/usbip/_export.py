"""What a client asks of a server before there are transfers (usbip.md 2, 11)."""

from collections.abc import Sequence
from dataclasses import dataclass

from . import _codec as codec
from ._codec import Record

__all__ = ["Export", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client wants: a device, or with None the list of all."""

    busid: str | None


class Export:
    """The one operation of a connection.

    Attributes:
        received: all that has come; a device side takes it from here.
    """

    BUSY, NO_DEVICE = 2, 4

    def __init__(self) -> None:
        self.received = b""

    def receive(self, data: bytes) -> Wanted | None:
        """Take a piece of the stream; None: it has not said all.

        Raises:
            RemoteProtocolError: it is not USB/IP 1.1.1.
        """
        self.received += data
        size = codec.OPERATION.size
        if len(self.received) < size:
            return None
        code, _ = codec.check_operation(self.received, codec.LIST, codec.IMPORT)
        if code == codec.LIST:
            return Wanted(None)
        if len(self.received) < size + codec.BUSID.size:
            return None
        (busid,) = codec.BUSID.unpack_from(self.received, size)
        return Wanted(busid.split(b"\0")[0].decode(errors="replace"))

    @staticmethod
    def list_reply(records: Sequence[Record]) -> bytes:
        """The answer with what there is; hang up after it (9)."""
        return codec.device_list(records)

    @staticmethod
    def refusal(status: int) -> bytes:
        """The answer to an import that is refused; hang up after it."""
        return codec.import_reply(None, status)
