"""The contract of a chip's driver: which requests it takes, and what its data mean.

A driver is sans-IO: it makes requests and reads answers, :class:`.port.SerialPort` has
them transferred.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from rusb.usb.descriptors import DeviceDescriptor, EndpointDescriptor
from rusb.usb.setup import SetupPacket

__all__ = [
    "Flow",
    "Line",
    "LineErrors",
    "Modem",
    "Parity",
    "Request",
    "SerialDriver",
    "SerialInterface",
    "StopBits",
    "serial_state",
]

Request: TypeAlias = tuple[SetupPacket, bytes]
"""A control request, and the data that it carries to the device."""


class Parity(enum.IntEnum):
    """As every chip but the CH340 numbers them (PSTN 1.2, table 17)."""

    NONE = 0
    ODD = 1
    EVEN = 2
    MARK = 3
    SPACE = 4


class StopBits(enum.IntEnum):
    """As every chip but the CH340 numbers them (PSTN 1.2, table 17)."""

    ONE = 0
    ONE_AND_HALF = 1
    TWO = 2


class Flow(enum.IntEnum):
    """Flow control, in both directions; the values are those of RFC 2217."""

    NONE = 1
    SOFTWARE = 2
    HARDWARE = 3


class Modem(enum.IntFlag):
    """Lines from the other end, as a 16550 and RFC 2217 number them."""

    NONE = 0
    CTS = 0x10
    DSR = 0x20
    RI = 0x40
    CD = 0x80


class LineErrors(enum.IntFlag):
    """What went wrong on the line, as a 16550 and RFC 2217 number it."""

    NONE = 0
    OVERRUN = 0x02
    PARITY = 0x04
    FRAMING = 0x08
    BREAK = 0x10


@dataclass(frozen=True, slots=True)
class Line:
    """Settings of the line.

    Attributes:
        baud: bits a second.
        bits: of a character, 5 to 8.
    """

    baud: int = 9600
    bits: int = 8
    parity: Parity = Parity.NONE
    stop: StopBits = StopBits.ONE


@dataclass(frozen=True, slots=True)
class SerialInterface:
    """Where the port of a chip is.

    Attributes:
        device: its device descriptor.
        number: the interface that requests name.
        count: how many ports the device has.
        data_in, data_out: its bulk endpoints.
        notify: its interrupt endpoint, if it has one.
    """

    device: DeviceDescriptor
    number: int
    count: int
    data_in: EndpointDescriptor
    data_out: EndpointDescriptor
    notify: EndpointDescriptor | None = None


class SerialDriver(ABC):
    """One port of a chip.

    Attributes:
        name: of the kind of chip.
        flows: which flow control it has.
        tells_modem: the chip tells its modem lines by itself.
        ends_reads: it ends what it has to say with a short packet.
        modem: lines as the chip has last told them; of some that is never.
    """

    name: ClassVar[str]
    flows: ClassVar[frozenset[Flow]] = frozenset((Flow.NONE,))
    tells_modem: ClassVar[bool] = True
    ends_reads: ClassVar[bool] = True

    def __init__(self, interface: SerialInterface) -> None:
        self.interface = interface
        self.modem = Modem.NONE
        self._errors = LineErrors.NONE

    def take_errors(self) -> LineErrors:
        """Return what went wrong since this was asked last."""
        errors, self._errors = self._errors, LineErrors.NONE
        return errors

    def opening(self) -> Sequence[Request]:
        """Return what starts the port; the line, its lines and flow follow."""
        return ()

    def closing(self) -> Sequence[Request]:
        """Return what stops it."""
        return ()

    @abstractmethod
    def set_line(self, line: Line) -> Sequence[Request]:
        """Return what sets bit rate, bits, parity and stop bits."""

    @abstractmethod
    def set_outputs(self, *, dtr: bool, rts: bool) -> Sequence[Request]:
        """Return what sets DTR and RTS."""

    @abstractmethod
    def set_break(self, *, is_on: bool) -> Sequence[Request]:
        """Return what begins or ends a break."""

    def set_flow(self, flow: Flow) -> Sequence[Request]:
        """Return what sets a flow control, one of :attr:`flows`."""
        return ()

    def purge(self, *, received: bool, sent: bool) -> Sequence[Request]:
        """Return what drops what the chip has received, or has to send."""
        return ()

    def asking(self) -> Request | None:
        """Return what asks for the modem lines, of a chip that can be asked."""
        return None

    def answered(self, data: bytes) -> None:
        """The answer to that has come."""
        return

    def take(self, data: bytes) -> bytes:
        """Return what the line brought, from what a bulk transfer brought."""
        return data

    def notified(self, data: bytes) -> None:
        """The interrupt endpoint has brought something."""
        return


def serial_state(state: int) -> tuple[Modem, LineErrors]:
    """Read the bits of SERIAL_STATE (PSTN 1.2, table 31), which have no CTS."""
    modem, errors = Modem.NONE, LineErrors.NONE
    for bit, line in ((0, Modem.CD), (1, Modem.DSR), (3, Modem.RI)):
        if state >> bit & 1:
            modem |= line
    for bit, error in (
        *((2, LineErrors.BREAK), (4, LineErrors.FRAMING)),
        *((5, LineErrors.PARITY), (6, LineErrors.OVERRUN)),
    ):
        if state >> bit & 1:
            errors |= error
    return modem, errors
