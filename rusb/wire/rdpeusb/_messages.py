"""Messages that come once per channel or device (rdpeusb.md 3 to 5).

Every one begins with an interface, whose upper two bits are a mask, and a number; what
asks has a function, too. All integers are little-endian.
"""

import enum
import io
import struct
from dataclasses import dataclass
from typing import Any, Final, Self

from construct import (
    Bytes,
    Const,
    ConstructError,
    ExprValidator,
    FocusedSeq,
    GreedyBytes,
    If,
    Int32ul,
    Rebuild,
    Struct,
    Terminated,
    this,
)

from rusb.errors import ParseError

__all__ = [
    *("CANCEL", "CAPABILITIES", "CREATED", "HEADER", "HEADER_SIZE", "MAX_TEXT"),
    *("PROXY", "SINK", "STUB"),
    *("TO_CLIENT", "TO_SERVER", "VERSION", "AddDevice", "Call", "ChannelCreated"),
    *("Done", "Function", "IoCode", "IoCompletion", "IoControl", "Message"),
    *("Registration", "Sink", "TextRequest", "TextResponse", "at_most"),
    "parse_layout",
]

MAX_TEXT: Final = 4096
"""Characters of a text; the longest lists of ids have some hundreds."""

MAX_INPUT: Final = 4096
"""Bytes that go with an IO_CONTROL; none that is known has any."""

PROXY, STUB = 0x40000000, 0x80000000
"""Masks: a request, a response."""

_INTERFACE: Final = 0x3FFFFFFF
_SHORT, HEADER = struct.Struct("<II"), struct.Struct("<III")
"""What a response begins with, and what all else does: an interface with its mask, a
MessageId, a function."""

_SHORT_SIZE = _SHORT.size
HEADER_SIZE: Final = HEADER.size

CANCEL = struct.Struct("<I")
"""RequestId of CANCEL_REQUEST; Reason of RETRACT_DEVICE."""

VERSION = 1

CAPABILITIES, SINK, TO_CLIENT, TO_SERVER = 0, 1, 2, 3
"""Interfaces that everybody knows (3)."""


class Function(enum.IntEnum):
    """FunctionId; what it means depends on the interface (3)."""

    RELEASE = 1  # of any
    QUERY_INTERFACE = 2  # of any
    CAPABILITY = 0x100  # of CAPABILITIES


class Sink(enum.IntEnum):
    """Functions of SINK, which the client calls."""

    ADD_VIRTUAL_CHANNEL = 0x100
    ADD_DEVICE = 0x101


class Call(enum.IntEnum):
    """Functions of a device, which the server calls."""

    CANCEL = 0x100
    REGISTER = 0x101
    IO_CONTROL = 0x102
    INTERNAL_IO_CONTROL = 0x103
    QUERY_TEXT = 0x104
    TRANSFER_IN = 0x105
    TRANSFER_OUT = 0x106
    RETRACT = 0x107


class Done(enum.IntEnum):
    """Functions of the interface for completions, which the client calls."""

    IO_CONTROL = 0x100
    URB = 0x101
    URB_NO_DATA = 0x102


CREATED = 0x100
"""CHANNEL_CREATED, of TO_CLIENT and TO_SERVER."""


class IoCode(enum.IntEnum):
    """IoControlCode (5.4)."""

    RESET_PORT = 0x220007
    GET_PORT_STATUS = 0x220013
    CYCLE_PORT = 0x22001F
    QUERY_BUS_TIME = 0x224000


@dataclass(slots=True)
class Message:
    """A message, taken apart as far as all are alike.

    Attributes:
        interface: without its mask.
        mask: PROXY, STUB or 0.
        id: MessageId.
        function: 0 in a response, which has none.
        body: what follows.
    """

    interface: int
    mask: int
    id: int
    function: int
    body: bytes | memoryview = b""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a message.

        Raises:
            ParseError: it is too short, or has both masks.
        """
        view = memoryview(data)
        size = len(view)
        if size >= _SHORT_SIZE and data[3] >= STUB >> 24:
            word, number = _SHORT.unpack_from(data)
            if word & PROXY:
                raise ParseError(f"message with both masks: {word:#010x}")
            return cls(word & _INTERFACE, STUB, number, 0, view[_SHORT_SIZE:])
        if size < HEADER_SIZE:
            raise ParseError(f"message of {size} bytes, not {HEADER_SIZE}")
        word, number, function = HEADER.unpack_from(data)
        body = view[HEADER_SIZE:]
        return cls(word & _INTERFACE, word & PROXY, number, function, body)

    def serialize(self) -> bytes:
        """Return the bytes."""
        word = self.interface | self.mask
        if self.mask == STUB:
            return _SHORT.pack(word, self.id) + self.body
        return HEADER.pack(word, self.id, self.function) + self.body


# ------------------------------------------------------------- layouts ----


def parse_layout(layout: Any, data: bytes | memoryview, what: str) -> Any:
    """Read what a layout describes, which is called *what* in errors.

    Raises:
        ParseError: it is not there.
    """
    stream = io.BytesIO(data)
    try:
        return layout.parse_stream(stream)
    except ConstructError as error:
        why = str(error).splitlines()[-1]
        raise ParseError(
            f"{what} of {len(data)} bytes: {why}", stream.tell()
        ) from error


def at_most(most: int, of: Any = Int32ul) -> Any:
    """A number that has a limit."""
    return ExprValidator(of, lambda number, c: number <= most)


def _counted(unit: int, most: int) -> Any:
    """Bytes behind their number, which counts *unit* of them."""
    return FocusedSeq(
        "raw",
        "count" / Rebuild(at_most(most), lambda c: len(c.raw) // unit),
        "raw" / Bytes(lambda c: c.count * unit),
    )


_TEXT = _counted(2, MAX_TEXT)
_CREATED = Struct("major" / Int32ul, "minor" / Int32ul, "flags" / Int32ul, Terminated)
_ADD_DEVICE = Struct(
    Const(1, Int32ul),
    "device" / at_most(_INTERFACE),
    "instance" / _TEXT,
    "hardware" / _TEXT,
    "compatible" / _TEXT,
    "container" / _TEXT,
    Const(28, Int32ul),
    "bus_version" / Int32ul,
    "usbdi_version" / Int32ul,
    "bcd_usb" / Int32ul,
    "hcd" / Int32ul,
    "is_high_speed" / Int32ul,
    "jitter" / Int32ul,
    Terminated,
)
_REGISTER = Struct(
    "count" / at_most(1),
    "completion" / If(this.count, at_most(_INTERFACE)),
    Terminated,
)
_TEXT_REQUEST = Struct("kind" / Int32ul, "locale" / Int32ul, Terminated)
_TEXT_RESPONSE = Struct("text" / _TEXT, "result" / Int32ul, Terminated)
_IO_CONTROL = Struct(
    "code" / Int32ul,
    "input" / _counted(1, MAX_INPUT),
    "size" / Int32ul,
    "request" / Int32ul,
    Terminated,
)
_IO_COMPLETION = Struct(
    "request" / Int32ul,
    "result" / Int32ul,
    "information" / Int32ul,
    "size" / Int32ul,
    "output" / GreedyBytes,
)


def _text(raw: bytes) -> str:
    return raw.decode("utf-16-le", "replace").rstrip("\0")


def _texts(raw: bytes) -> tuple[str, ...]:
    return tuple(t for t in raw.decode("utf-16-le", "replace").split("\0") if t)


def _raw(*texts: str, is_list: bool = False) -> bytes:
    if is_list and not texts:
        return b""
    ends = "\0" if is_list else ""
    return ("".join(text + "\0" for text in texts) + ends).encode("utf-16-le")


# ------------------------------------------------------------ messages ----


@dataclass(frozen=True, slots=True)
class ChannelCreated:
    """CHANNEL_CREATED: what the versions are is nothing to anybody (4)."""

    major: int = 1
    minor: int = 0
    flags: int = 0

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        found = parse_layout(_CREATED, body, "CHANNEL_CREATED")
        return cls(found.major, found.minor, found.flags)

    def serialize(self) -> bytes:
        """Return what follows the header."""
        return bytes(
            _CREATED.build(
                {"major": self.major, "minor": self.minor, "flags": self.flags}
            )
        )


@dataclass(frozen=True, slots=True)
class AddDevice:
    """ADD_DEVICE (5.1).

    Attributes:
        device: UsbDevice: the interface to call; 0 for mstsc.
        instance: DeviceInstanceId.
        hardware, compatible: ids.
        container: a GUID in braces.
        bcd_usb: Supported_USB_Version; not to be relied on, nor is the next.
        is_high_speed: DeviceIsHighSpeed.
        jitter: milliseconds that isochronous output may be buffered; 0: each transfer
            is to be acknowledged.
    """

    device: int
    instance: str
    hardware: tuple[str, ...]
    compatible: tuple[str, ...]
    container: str
    bcd_usb: int
    is_high_speed: bool
    jitter: int

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        found = parse_layout(_ADD_DEVICE, body, "ADD_DEVICE")
        return cls(
            found.device,
            _text(found.instance),
            _texts(found.hardware),
            _texts(found.compatible),
            _text(found.container),
            found.bcd_usb,
            bool(found.is_high_speed),
            found.jitter,
        )

    def serialize(self) -> bytes:
        """Return what follows the header."""
        return bytes(
            _ADD_DEVICE.build(
                {
                    "device": self.device,
                    "instance": _raw(self.instance),
                    "hardware": _raw(*self.hardware, is_list=True),
                    "compatible": _raw(*self.compatible, is_list=True),
                    "container": _raw(self.container),
                    "bus_version": 2,
                    "usbdi_version": 0x600,
                    "bcd_usb": self.bcd_usb,
                    "hcd": 0,
                    "is_high_speed": self.is_high_speed,
                    "jitter": self.jitter,
                }
            )
        )


@dataclass(frozen=True, slots=True)
class Registration:
    """REGISTER_REQUEST_CALLBACK: the interface for completions; None: none."""

    completion: int | None

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        return cls(
            parse_layout(_REGISTER, body, "REGISTER_REQUEST_CALLBACK").completion
        )

    def serialize(self) -> bytes:
        """Return what follows the header."""
        count = self.completion is not None
        return bytes(_REGISTER.build({"count": count, "completion": self.completion}))


@dataclass(frozen=True, slots=True)
class TextRequest:
    """QUERY_DEVICE_TEXT: 0 for the description, 1 for the location."""

    kind: int
    locale: int = 0x409

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        found = parse_layout(_TEXT_REQUEST, body, "QUERY_DEVICE_TEXT")
        return cls(found.kind, found.locale)

    def serialize(self) -> bytes:
        """Return what follows the header."""
        return bytes(_TEXT_REQUEST.build({"kind": self.kind, "locale": self.locale}))


@dataclass(frozen=True, slots=True)
class TextResponse:
    """The answer; FreeRDP 3 leaves the zero of a description out (5.3)."""

    text: str
    result: int = 0

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        found = parse_layout(_TEXT_RESPONSE, body, "answer to QUERY_DEVICE_TEXT")
        return cls(_text(found.text), found.result)

    def serialize(self) -> bytes:
        """Return what follows the header."""
        text = _raw(self.text)
        return bytes(_TEXT_RESPONSE.build({"text": text, "result": self.result}))


@dataclass(frozen=True, slots=True)
class IoControl:
    """IO_CONTROL, INTERNAL_IO_CONTROL (5.4).

    Attributes:
        code: see IoCode.
        request: RequestId.
        size: bytes wanted.
        input: what goes with it.
    """

    code: int
    request: int
    size: int = 0
    input: bytes = b""

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        found = parse_layout(_IO_CONTROL, body, "IO_CONTROL")
        return cls(found.code, found.request, found.size, found.input)

    def serialize(self) -> bytes:
        """Return what follows the header."""
        return bytes(
            _IO_CONTROL.build(
                {
                    "code": self.code,
                    "input": self.input,
                    "size": self.size,
                    "request": self.request,
                }
            )
        )


@dataclass(frozen=True, slots=True)
class IoCompletion:
    """IOCONTROL_COMPLETION. FreeRDP 2.11 announces output that is not there (5.4)."""

    request: int
    result: int = 0
    output: bytes = b""

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header."""
        found = parse_layout(_IO_COMPLETION, body, "IOCONTROL_COMPLETION")
        return cls(found.request, found.result, found.output[: found.size])

    def serialize(self) -> bytes:
        """Return what follows the header."""
        return bytes(
            _IO_COMPLETION.build(
                {
                    "request": self.request,
                    "result": self.result,
                    "information": len(self.output),
                    "size": len(self.output),
                    "output": self.output,
                }
            )
        )
