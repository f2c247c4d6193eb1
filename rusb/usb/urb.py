"""URBs: a request for one USB transfer, and its result."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .setup import SetupPacket
from .types import TransferType

__all__ = ["Completion", "IsoPacket", "Urb", "UrbResult", "UrbStatus", "cut_payload"]


_CONTROL = TransferType.CONTROL

MAX_COPIED = 1024
"""Bytes of a payload that is copied rather than kept with its message."""


class UrbStatus(enum.IntEnum):
    """The outcome of a transfer. The values are ours; each wire has its own.

    A short IN transfer is OK (its length says so). UNDERRUN is only for peers that
    insist on calling it an error.
    """

    OK = 0
    STALL = 1
    TIMEOUT = 2
    CANCELLED = 3
    NO_DEVICE = 4  # unplugged, not answering, connection lost
    CRC = 5
    OVERFLOW = 6  # babble: the device sent more than was asked for
    UNDERRUN = 7
    INVALID = 8  # the request makes no sense: no such endpoint, wrong type
    IO_ERROR = 9
    DENIED = 10  # a rule forbids it


@dataclass(slots=True)
class IsoPacket:
    """One packet of an isochronous URB.

    Attributes:
        length: bytes wanted (IN) or carried (OUT) when submitted; bytes moved when
            completed.
        status: outcome; meaningful in a completion only.
    """

    length: int
    status: UrbStatus = UrbStatus.OK


@dataclass(slots=True)
class Urb:
    """A transfer that a guest requests from a device.

    Attributes:
        id: chosen by the asking side, unique per device among URBs in flight.
        type: transfer type.
        endpoint: endpoint address, bit 7 set for IN; 0x00 or 0x80 for control, in
            accordance with bmRequestType.
        length: IN: bytes wanted at most; OUT: ``len(data)``. Control: the data
            stage only, the SETUP packet does not count.
        data: what an OUT transfer carries; empty for IN.
        setup: the SETUP packet of a control transfer, else None.
        packets: lengths of the packets of an isochronous transfer, in order; their
            sum is ``length`` and packet data lie back to back.
        interval: polling interval hint for periodic transfers, in frames; 0: that
            of the endpoint descriptor.
        start_frame: isochronous only: the frame of the bus to begin in; None: as soon
            as possible, which is also what a device does that cannot choose.
    """

    id: int
    type: TransferType
    endpoint: int
    length: int
    data: bytes | memoryview = b""
    setup: SetupPacket | None = None
    packets: tuple[int, ...] = ()
    interval: int = 0
    start_frame: int | None = None

    @property
    def is_in(self) -> bool:
        """Does data flow from the device to the guest?"""
        return self.endpoint & 0x80 != 0

    @classmethod
    def control(cls, id: int, setup: SetupPacket, data: bytes = b"") -> "Urb":
        """A control transfer; *data* is the OUT data stage."""
        endpoint = setup.request_type & 0x80
        length = setup.length if endpoint else len(data)
        return cls(id, _CONTROL, endpoint, length, data, setup)


@dataclass(slots=True)
class UrbResult:
    """The one completion of a URB.

    Attributes:
        status: outcome.
        data: what an IN transfer brought, never longer than asked for; empty for
            OUT. Isochronous IN: the data of all packets back to back, each with
            its actual length.
        length: bytes moved; IN: ``len(data)``.
        packets: isochronous only: actual length and status of each packet.
        start_frame: isochronous only: the frame it began in; 0 if unknown.
    """

    status: UrbStatus
    data: bytes | memoryview = b""
    length: int = 0
    packets: tuple[IsoPacket, ...] = ()
    start_frame: int = 0

    @property
    def error_count(self) -> int:
        """How many isochronous packets were not transferred correctly."""
        return sum(packet.status is not UrbStatus.OK for packet in self.packets)

    @classmethod
    def dropped(cls, urb: Urb) -> "UrbResult":
        """The completion of an isochronous URB that came too late to be started."""
        lost = (IsoPacket(0, UrbStatus.IO_ERROR),)
        return cls(UrbStatus.OK, packets=lost * len(urb.packets))


def cut_payload(
    message: bytes | memoryview, start: int, stop: int
) -> bytes | memoryview:
    """Cut the data of a URB out of the message that brought it.

    A slice keeps the whole message alive for as long as the URB waits, and only the
    slice is counted: one that is less than half of its message becomes a copy. So does
    a short one, which takes less time than the slice.
    """
    size = stop - start
    if size <= MAX_COPIED or 2 * size < len(message):
        return bytes(message[start:stop])
    return memoryview(message)[start:stop]


Completion: TypeAlias = Callable[[UrbResult], None]
"""Called exactly once per URB, on the event loop's thread; it must not raise. It may
be called before the submitting call returns."""
