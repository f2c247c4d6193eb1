"""Storage commands that the client runs by itself (docs/spec/storage.md, 6).

Bulk-only transport is three transfers, one after the other. Here one message asks for a
whole command and one brings its outcome, so that several can be on their way. They
travel beside the wire's own messages, between two ends of ours that have agreed on it.
Numbers are little-endian and packed.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self, TypeAlias

from rusb.errors import ParseError, RemoteProtocolError
from rusb.usb.bulk_only import BulkOnly, Command, Status

__all__ = [
    "MAX_DATA",
    "CancelCommands",
    "CommandResult",
    "Commands",
    "DeviceCommands",
    "Finished",
    "RunCommand",
    "Stage",
    "parse_request",
]

RUN, RESULT, CANCEL = 16, 17, 18
"""Types of the messages."""

MAX_DATA = 1 << 20
"""Bytes of the data stage of one command: what Linux asks for at most."""

_HEAD = struct.Struct("<BBH")
_RUN = struct.Struct(f"<IIBBH{Command.SIZE}s")
_RESULT = struct.Struct(f"<IIBBHI{Status.SIZE}s")
_CANCEL = struct.Struct("<IH")

_IS_FIRST, _IS_ABORT = 2, 1

_NO_STATUS = bytes(Status.SIZE)


class Stage(IntEnum):
    """How far a command came."""

    DONE = 0  # there is a status
    COMMAND = 1
    DATA = 2
    STATUS = 3
    NOT_BEGUN = 4
    GONE = 5  # not on the wire: device or connection are no longer there


def _message(kind: int, body: bytes, data: bytes | memoryview = b"") -> bytes:
    size = _HEAD.size + len(body) + len(data)
    return b"".join((_HEAD.pack(kind, 0, size if size <= 0xFFFF else 0), body, data))


def _body(message: bytes | memoryview, layout: struct.Struct) -> memoryview:
    """Return what is behind the head of a whole message; check its size."""
    size = int.from_bytes(message[2:4], "little")
    end = size or len(message)
    if end != len(message) or end < _HEAD.size + layout.size:
        raise ParseError(f"message of {len(message)} bytes, says {size}")
    return memoryview(message)[_HEAD.size :]


@dataclass(frozen=True, slots=True)
class RunCommand:
    """Server: run a command without data or with a data stage to the host.

    Attributes:
        device: as the wire numbers it.
        handle: of this command, unique among those of the device that wait.
        outgoing, incoming: addresses of the endpoints.
        is_first: nothing of the device was under way when this was asked for, so that
            the sender knows of every failure before it.
        wrapper: the command block wrapper.
    """

    device: int
    handle: int
    outgoing: int
    incoming: int
    is_first: bool
    wrapper: bytes

    def serialize(self) -> bytes:
        """Return the whole message."""
        flags = _IS_FIRST if self.is_first else 0
        fields = self.device, self.handle, self.outgoing, self.incoming, flags
        return _message(RUN, _RUN.pack(*fields, self.wrapper))

    @classmethod
    def parse(cls, message: bytes | memoryview) -> Self:
        """Read a whole message.

        Raises:
            ParseError: it has another size than its fields.
        """
        body = _body(message, _RUN)
        device, handle, out, in_, flags, wrapper = _RUN.unpack_from(body)
        return cls(device, handle, out, in_, bool(flags & _IS_FIRST), wrapper)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Client: the outcome of a command.

    Attributes:
        device, handle: as RunCommand names it.
        stage: the one that failed; DONE: none did.
        error: how, a :class:`~rusb.usb.urb.UrbStatus`; 0: it did not fail.
        moved: bytes of the data stage.
        status: the command status wrapper; zeros without one.
        data: what the data stage brought.
    """

    device: int
    handle: int
    stage: Stage
    error: int = 0
    moved: int = 0
    status: bytes = _NO_STATUS
    data: bytes | memoryview = b""

    def serialize(self) -> bytes:
        """Return the whole message."""
        head = self.device, self.handle, self.stage, self.error, 0, self.moved
        return _message(RESULT, _RESULT.pack(*head, self.status), self.data)

    @classmethod
    def parse(cls, message: bytes | memoryview) -> Self:
        """Read a whole message; ``data`` is part of it.

        Raises:
            ParseError: it has another size than its fields, or an unknown stage.
        """
        body = _body(message, _RESULT)
        device, handle, stage, error, _, moved, status = _RESULT.unpack_from(body)
        data = body[_RESULT.size :]
        if stage >= Stage.GONE or moved != len(data):
            raise ParseError(f"stage {stage}, {len(data)} of {moved} bytes")
        return cls(device, handle, Stage(stage), error, moved, status, data)


@dataclass(frozen=True, slots=True)
class CancelCommands:
    """Server: do not begin what waits of a device.

    Attributes:
        is_abort: end the one that runs, too; only a reset makes the device usable then.
    """

    device: int
    is_abort: bool

    def serialize(self) -> bytes:
        """Return the whole message."""
        return _message(CANCEL, _CANCEL.pack(self.device, int(self.is_abort)))

    @classmethod
    def parse(cls, message: bytes | memoryview) -> Self:
        """Read a whole message.

        Raises:
            ParseError: it has another size than its fields.
        """
        device, flags = _CANCEL.unpack_from(_body(message, _CANCEL))
        return cls(device, bool(flags & _IS_ABORT))


def parse_request(message: bytes | memoryview) -> RunCommand | CancelCommands | None:
    """Read what a server asks for; None: of a later version.

    Raises:
        ParseError: it has another size than its fields.
    """
    if len(message) < _HEAD.size:
        raise ParseError(f"message of {len(message)} bytes")
    if message[0] == RUN:
        return RunCommand.parse(message)
    return CancelCommands.parse(message) if message[0] == CANCEL else None


Finished: TypeAlias = Callable[[CommandResult], None]
"""Called exactly once per command; it must not raise."""


class Commands:
    """The server's end: what is asked of all devices of a client.

    Args:
        send: takes whole messages, with the number of the device.
    """

    def __init__(self, send: Callable[[int, bytes], None]) -> None:
        self.send = send
        self._last = 0
        self._devices: dict[int, DeviceCommands] = {}

    def of(self, device: int) -> "DeviceCommands":
        """Begin with a device, as the wire numbers it; it is in use until closed."""
        found = self._devices[device] = DeviceCommands(self, device)
        return found

    def received(self, message: bytes | memoryview) -> None:
        """Take a whole message of the client.

        Raises:
            RemoteProtocolError: it is none.
        """
        if len(message) < _HEAD.size:
            raise RemoteProtocolError(f"message of {len(message)} bytes")
        if message[0] != RESULT:
            return  # of a later version
        try:
            result = CommandResult.parse(message)
        except ParseError as error:
            raise RemoteProtocolError(f"outcome of a command: {error}") from error
        device = self._devices.get(result.device)
        if device is not None:  # else it was closed meanwhile
            device.finished(result)

    def close(self) -> None:
        """The client is gone. Idempotent."""
        self.send = lambda device, message: None
        for device in list(self._devices.values()):
            device.close()

    def next_handle(self) -> int:
        """Return a number for a command, which is in no use."""
        self._last = self._last % 0xFFFFFFFF + 1
        return self._last

    def forget(self, device: "DeviceCommands") -> None:
        """A device is closed."""
        if self._devices.get(device.number) is device:
            del self._devices[device.number]


class DeviceCommands:
    """Commands for one device, and who waits for them.

    Attributes:
        number: of the device on the wire.
        is_open: neither the device nor its client is gone.
    """

    def __init__(self, client: Commands, number: int) -> None:
        self.number = number
        self.is_open = True
        self._client = client
        self._open: dict[int, Finished] = {}

    def run(self, pipes: BulkOnly, wrapper: bytes, done: Finished) -> None:
        """Have a command run behind those before it.

        Args:
            pipes: where.
            wrapper: the command block wrapper.
            done: gets the outcome, exactly once; GONE if there is nobody to run it.
        """
        handle = self._client.next_handle()
        if not self.is_open:
            done(CommandResult(self.number, handle, Stage.GONE))
            return
        is_first = not self._open
        self._open[handle] = done
        ends = pipes.outgoing, pipes.incoming
        request = RunCommand(self.number, handle, *ends, is_first, wrapper)
        self._client.send(self.number, request.serialize())

    def cancel(self, *, is_abort: bool) -> None:
        """See :class:`CancelCommands`; each command still has its outcome."""
        if self._open:
            message = CancelCommands(self.number, is_abort).serialize()
            self._client.send(self.number, message)

    def finished(self, result: CommandResult) -> None:
        """The client has answered."""
        done = self._open.pop(result.handle, None)
        if done is not None:
            done(result)

    def close(self) -> None:
        """Nothing comes of its commands any more. Idempotent."""
        self.is_open = False
        self._client.forget(self)
        while self._open:
            handle, done = self._open.popitem()
            done(CommandResult(self.number, handle, Stage.GONE))
