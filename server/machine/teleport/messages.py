"""What two hosts say to each other while a machine moves (teleport.md 4)."""

import enum
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from rusb.errors import ParseError

__all__ = [
    "MAX_BODY",
    "MAX_HOSTS",
    "MAX_REASON",
    "MAX_REFUSED",
    "TOKEN",
    "VERSION",
    "Accept",
    "Alive",
    "Answer",
    "Client",
    "Costs",
    "Data",
    "Device",
    "DeviceBytes",
    "Display",
    "End",
    "Failed",
    "Gone",
    "Hello",
    "Image",
    "Kind",
    "Loaded",
    "Logon",
    "Message",
    "NotTaken",
    "Offer",
    "Progress",
    "Reads",
    "Run",
    "Running",
    "Take",
    "Taken",
    "Welcome",
    "What",
    "parse",
    "serialize",
]

VERSION: Final = 1

MAX_BODY: Final = 1 << 20
"""Bytes of a body; a profile takes a few KiB, of QEMU's stream we send less (4.1)."""

MAX_REASON: Final = 2000
MAX_REFUSED: Final = 200
MAX_PAIRS: Final = 400
MAX_TEXT: Final = 16_000
MAX_IMAGES: Final = 100
MAX_DEVICES: Final = 128
MAX_HOSTS: Final = 4
"""Hosts over which a device may come (7.7)."""

MAX_NAME: Final = 200
MAX_COUNT: Final = 1 << 62
MAX_HOST: Final = 253
NONCE: Final = 32
DIGEST: Final = 32
PROOF: Final = 32
SALT: Final = 16
TOKEN: Final = 16

_NUMBER = struct.Struct(">H")


class Kind(enum.IntEnum):
    """The type of a message; DATA, DEVICE and GONE have no body of JSON."""

    FAILED = 0
    HELLO = 1
    LOGON = 2
    WELCOME = 3
    OFFER = 4
    ACCEPT = 5
    PROGRESS = 6
    END = 7
    LOADED = 8
    RUN = 9
    RUNNING = 10
    ALIVE = 11
    DISPLAY = 12
    TAKE = 13
    CLIENT = 14
    TAKEN = 15
    DATA = 16
    DEVICE = 17
    GONE = 18
    NOT_TAKEN = 19
    READS = 20
    ANSWER = 21


class Message:
    """One of the messages below; *readers* of what its JSON has."""

    kind: ClassVar[Kind]
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    __slots__ = ()


# ------------------------------------------------------------ values of JSON ----


def _text(limit: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise ValueError(f"a text of at most {limit} characters")
        return value

    return read


def _count(limit: int = MAX_COUNT) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise ValueError(f"a number from 0 to {limit}")
        return value

    return read


def _hex(*sizes: int) -> Callable[[Any], bytes]:
    def read(value: Any) -> bytes:
        try:
            data = bytes.fromhex(value)
        except (TypeError, ValueError):
            data = None
        if data is None or len(data) not in sizes:
            raise ValueError(
                f"hexadecimal digits of {' or '.join(map(str, sizes))} bytes"
            )
        return data

    return read


def _list(limit: int, read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > limit:
            raise ValueError(f"a list of at most {limit}")
        return tuple(read(item) for item in value)

    return read_all


def _object(kind: Any) -> Callable[[Any], Any]:
    return lambda value: _read(kind, value)


def _pair(value: Any) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a pair")
    label, text = map(_text(MAX_TEXT), value)
    return label, text


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object")
    return value


# ---------------------------------------------------------------- messages ----


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """It is over.

    Attributes:
        reason: a sentence.
        refused: what differs, a sentence each.
    """

    reason: str
    refused: tuple[str, ...] = ()

    kind: ClassVar[Kind] = Kind.FAILED
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "reason": _text(MAX_REASON),
        "refused": _list(MAX_REFUSED, _text(MAX_REASON)),
    }


@dataclass(frozen=True, slots=True)
class Costs:
    """How the key is made of the password (3.2)."""

    ln: int
    r: int
    p: int
    salt: bytes

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "ln": _count(63),
        "r": _count(63),
        "p": _count(63),
        "salt": _hex(SALT),
    }


def _costs(value: Any) -> Costs | None:
    found: Costs | None = None if value is None else _read(Costs, value)
    return found


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The target; *password* None: it has none."""

    nonce: bytes
    password: Costs | None = None
    version: int = VERSION

    kind: ClassVar[Kind] = Kind.HELLO
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "nonce": _hex(NONCE),
        "password": _costs,
        "version": _count(),
    }


@dataclass(frozen=True, slots=True)
class Logon(Message):
    """The source; *proof* is empty without a password."""

    nonce: bytes
    proof: bytes = b""
    version: int = VERSION

    kind: ClassVar[Kind] = Kind.LOGON
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "nonce": _hex(NONCE),
        "proof": _hex(0, PROOF),
        "version": _count(),
    }


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The target lets the source in; it knows the password, too."""

    proof: bytes = b""

    kind: ClassVar[Kind] = Kind.WELCOME
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"proof": _hex(0, PROOF)}


@dataclass(frozen=True, slots=True)
class Image:
    """What a drive of the source has in it (5.3).

    Attributes:
        place: ``bus port device``.
        sort: ``file``, ``device`` or ``content``: what *identity* is.
        name: of the file, without directories.
        format: QEMU's name.
        size: bytes of the file or device.
        token: name of a file beside it that holds *identity*, for ``file``.
    """

    place: str
    sort: str
    name: str
    format: str
    size: int
    identity: str
    token: str = ""

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        **{n: _text(MAX_TEXT) for n in ("place", "sort", "name", "format")},
        "size": _count(),
        **{n: _text(MAX_TEXT) for n in ("identity", "token")},
    }


@dataclass(frozen=True, slots=True)
class Device:
    """A remote device in the guest (7.2): its usb-redir in QEMU.

    Attributes:
        way: a token of each host that it comes over, the one of its client first.
        name: what people call it.
    """

    number: int
    id: str
    bus: str
    port: str
    way: tuple[bytes, ...] = ()
    name: str = ""

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "number": _count(0xFFFF),
        **{n: _text(100) for n in ("id", "bus", "port")},
        "way": _list(MAX_HOSTS, _hex(TOKEN)),
        "name": _text(MAX_NAME),
    }


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """What the source has (5)."""

    profile: tuple[tuple[str, str], ...]
    images: tuple[Image, ...] = ()
    devices: tuple[Device, ...] = ()

    kind: ClassVar[Kind] = Kind.OFFER
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "profile": _list(MAX_PAIRS, _pair),
        "images": _list(MAX_IMAGES, _object(Image)),
        "devices": _list(MAX_DEVICES, _object(Device)),
    }


@dataclass(frozen=True, slots=True)
class Accept(Message):
    """The target is equal, and ready for the stream."""

    kind: ClassVar[Kind] = Kind.ACCEPT


@dataclass(frozen=True, slots=True)
class Progress(Message):
    """How far the source is, in bytes."""

    transferred: int
    remaining: int
    total: int

    kind: ClassVar[Kind] = Kind.PROGRESS
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        n: _count() for n in ("transferred", "remaining", "total")
    }


@dataclass(frozen=True, slots=True)
class End(Message):
    """The stream is complete and has *size* bytes."""

    size: int

    kind: ClassVar[Kind] = Kind.END
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"size": _count()}


@dataclass(frozen=True, slots=True)
class Loaded(Message):
    """The target has all of it, and waits for RUN."""

    kind: ClassVar[Kind] = Kind.LOADED


@dataclass(frozen=True, slots=True)
class Run(Message):
    """The machine belongs to the target from now on."""

    kind: ClassVar[Kind] = Kind.RUN


@dataclass(frozen=True, slots=True)
class Running(Message):
    """It runs at the target."""

    kind: ClassVar[Kind] = Kind.RUNNING


@dataclass(frozen=True, slots=True)
class Display(Message):
    """Where the target serves the machine's remote display (8).

    Attributes:
        host: its address, if it listens on one only; else empty.
        port: 0: it has none.
        certificate: SHA-256 of what it shows; empty: it does no TLS.
    """

    host: str
    port: int
    certificate: bytes

    kind: ClassVar[Kind] = Kind.DISPLAY
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "host": _text(MAX_HOST),
        "port": _count(0xFFFF),
        "certificate": _hex(0, DIGEST),
    }


@dataclass(frozen=True, slots=True)
class Take(Message):
    """The source is about to hand devices over: the target is to take them (7.11)."""

    numbers: tuple[int, ...]

    kind: ClassVar[Kind] = Kind.TAKE
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "numbers": _list(MAX_DEVICES, _count(0xFFFF))
    }


@dataclass(frozen=True, slots=True)
class Client(Message):
    """The client whose devices they are; see ``clients.py``."""

    client: Mapping[str, Any]

    kind: ClassVar[Kind] = Kind.CLIENT
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"client": _mapping}


@dataclass(frozen=True, slots=True)
class Taken(Message):
    """The client may go on at the target."""

    kind: ClassVar[Kind] = Kind.TAKEN


@dataclass(frozen=True, slots=True)
class NotTaken(Message):
    """It may not: its devices leave the guest.

    Attributes:
        reason: a sentence.
    """

    reason: str

    kind: ClassVar[Kind] = Kind.NOT_TAKEN
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "reason": _text(MAX_REASON)
    }


class What(enum.StrEnum):
    """What is to be done about reads that wait at devices (7.9)."""

    LOOK = "look"
    SUSPEND = "suspend"
    STILL = "still"
    RESUME = "resume"


def _what(value: Any) -> What:
    if not isinstance(value, str) or value not in list(What):
        raise ValueError(f"one of {', '.join(What)}")
    return What(value)


@dataclass(frozen=True, slots=True)
class Reads(Message):
    """The machine is about to go on from the target, or has gone on, or stays."""

    what: What

    kind: ClassVar[Kind] = Kind.READS
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"what": _what}


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """To READS.

    Attributes:
        reason: why the machine cannot go on, a sentence; empty: it can.
    """

    reason: str = ""

    kind: ClassVar[Kind] = Kind.ANSWER
    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "reason": _text(MAX_REASON)
    }


@dataclass(frozen=True, slots=True)
class Alive(Message):
    """A sign of life."""

    kind: ClassVar[Kind] = Kind.ALIVE


@dataclass(frozen=True, slots=True)
class Data(Message):
    """A piece of QEMU's stream."""

    data: bytes

    kind: ClassVar[Kind] = Kind.DATA


@dataclass(frozen=True, slots=True)
class DeviceBytes(Message):
    """A piece of a device's usbredir stream."""

    number: int
    data: bytes

    kind: ClassVar[Kind] = Kind.DEVICE


@dataclass(frozen=True, slots=True)
class Gone(Message):
    """A device has left, or its guest does not want it any more."""

    number: int

    kind: ClassVar[Kind] = Kind.GONE


_SPOKEN: dict[int, Any] = {
    found.kind: found
    for found in (
        *(Failed, Hello, Logon, Welcome, Offer, Accept, Progress, End, Loaded),
        *(Run, Running, Display, Take, Client, Taken, NotTaken, Reads, Answer, Alive),
    )
}


# ------------------------------------------------------------------- bodies ----


def serialize(message: Message) -> bytes:
    """Return the body of a message."""
    match message:
        case Data(data):
            return data
        case DeviceBytes(number, data):
            return _NUMBER.pack(number) + data
        case Gone(number):
            return _NUMBER.pack(number)
    return json.dumps(_plain(message)).encode()


def parse(kind: int, body: bytes) -> Message:
    """Read the body of a message.

    Raises:
        ParseError: an unknown kind, or a body that is not one of its kind.
    """
    if kind == Kind.DATA:
        return Data(body)
    if kind in (Kind.DEVICE, Kind.GONE):
        if len(body) < _NUMBER.size:
            raise ParseError(f"{Kind(kind).name} of {len(body)} bytes, not 2 or more")
        (number,) = _NUMBER.unpack_from(body)
        if kind == Kind.DEVICE:
            return DeviceBytes(number, body[_NUMBER.size :])
        if len(body) > _NUMBER.size:
            raise ParseError(f"GONE of {len(body)} bytes, not 2")
        return Gone(number)
    found = _SPOKEN.get(kind)
    if found is None:
        raise ParseError(f"unknown message {kind}")
    try:
        message: Message = _read(found, json.loads(body))
    except (ValueError, RecursionError) as error:
        raise ParseError(f"{Kind(kind).name}: {error}"[:MAX_REASON]) from None
    return message


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "readers"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value


def _read(kind: Any, value: Any) -> Any:
    """Return the object that JSON gave.

    Raises:
        ValueError: it is not one, or has other keys.
    """
    if not isinstance(value, dict) or set(value) != set(kind.readers):
        wanted = ", ".join(kind.readers) or "no keys"
        raise ValueError(f"{kind.__name__} is not an object with {wanted}")
    found = {}
    for name, read in kind.readers.items():
        try:
            found[name] = read(value[name])
        except ValueError as error:
            raise ValueError(f"{name}: not {error}") from None
    return kind(**found)
