"""The server's end of RFC 2217: serial ports over Telnet (RFC 854, 855, 856, 858).

Sans-IO: bytes go in, events come out, and what is to be sent gathers in between.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from rusb.errors import RemoteProtocolError

from .driver import Flow, Line, LineErrors, Modem, Parity, StopBits

__all__ = [
    "Asked",
    "Await",
    "BreakSet",
    "Event",
    "FlowSet",
    "LineSet",
    "OutputsSet",
    "Purged",
    "Received",
    "Rfc2217Server",
    "StateAsked",
    "Suspended",
]

MAX_SUBNEGOTIATION = 256
"""Bytes; only a signature is longer than five, and nobody sends a long one."""

_SE, _SB, _WILL, _WONT, _DO, _DONT, _IAC = 240, 250, 251, 252, 253, 254, 255
_BINARY, _SUPPRESS_GO_AHEAD, _COM_PORT = 0, 3, 44
_OPTIONS = (_BINARY, _SUPPRESS_GO_AHEAD, _COM_PORT)
"""Options that both ends may have; all others are refused."""

_SIGNATURE, _BAUD, _SIZE, _PARITY, _STOP, _CONTROL = range(6)
_LINE_STATE, _MODEM_STATE, _SUSPEND, _RESUME = 6, 7, 8, 9
_LINE_MASK, _MODEM_MASK, _PURGE = 10, 11, 12
_SERVER = 100
"""What is added to a command in the answer."""

_STOPS = {1: StopBits.ONE, 2: StopBits.TWO, 3: StopBits.ONE_AND_HALF}
_STOP_CODES = {stop: code for code, stop in _STOPS.items()}
_DELTAS = {Modem.CTS: 0x01, Modem.DSR: 0x02, Modem.RI: 0x04, Modem.CD: 0x08}
_IN_FLOW = 13
"""What is added to a flow control where only what comes in is meant."""


@dataclass(frozen=True, slots=True)
class Received:
    """Data for the line."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Await:
    """Something whose result :meth:`Rfc2217Server.answer` wants, in order.

    Attributes:
        command: it.
        value: of the control, or what is purged.
    """

    command: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class LineSet(Await):
    """The line gets other settings."""

    line: Line = Line()


@dataclass(frozen=True, slots=True)
class OutputsSet(Await):
    """DTR or RTS is set; None: the other one."""

    dtr: bool | None = None
    rts: bool | None = None


@dataclass(frozen=True, slots=True)
class BreakSet(Await):
    """A break begins or ends."""

    is_on: bool = False


@dataclass(frozen=True, slots=True)
class FlowSet(Await):
    """Another flow control."""

    flow: Flow = Flow.NONE


@dataclass(frozen=True, slots=True)
class Purged(Await):
    """Data that wait are dropped."""

    received: bool = False
    sent: bool = False


@dataclass(frozen=True, slots=True)
class StateAsked:
    """The client wants the modem lines now."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The client takes no data for a time, or takes them again."""

    is_on: bool


Asked: TypeAlias = LineSet | OutputsSet | BreakSet | FlowSet | Purged
Event: TypeAlias = Received | Asked | StateAsked | Suspended


class _Mode(enum.Enum):
    DATA = enum.auto()
    COMMAND = enum.auto()
    OPTION = enum.auto()
    INSIDE = enum.auto()
    INSIDE_COMMAND = enum.auto()


class Rfc2217Server:
    """One connection of a client.

    Args:
        line, flow, dtr, rts: as the port has them.

    Attributes:
        is_com_port: the client has agreed to RFC 2217.
    """

    def __init__(
        self,
        line: Line,
        flow: Flow = Flow.NONE,
        *,
        dtr: bool = True,
        rts: bool = True,
    ) -> None:
        self.is_com_port = False
        self._line, self._flow, self._dtr, self._rts = line, flow, dtr, rts
        self._wanted = line  # once all that was asked is done
        self._is_break = False
        self._mode = _Mode.DATA
        self._verb = 0
        self._inside = bytearray()
        self._out = bytearray()
        self._ours: dict[int, bool] = {}  # by option: is it on? absent: never said
        self._theirs: dict[int, bool] = {}
        self._line_mask, self._modem_mask = 0, 0xFF
        self._modem: Modem | None = None  # as the client knows it
        self._is_failed = False
        for option in (_BINARY, _SUPPRESS_GO_AHEAD):
            self._say(_WILL, option)
            self._ours[option] = True
        for option in (_BINARY, _COM_PORT):
            self._say(_DO, option)

    def take_output(self) -> bytes:
        """Return what is to be sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    # ---------------------------------------------------------- from the port ----

    def send(self, data: bytes) -> None:
        """Send what the line brought."""
        self._out += data.replace(b"\xff", b"\xff\xff")

    def answer(self, asked: Asked, *, is_done: bool) -> None:
        """Answer something that was asked: with what holds now."""
        if is_done:
            self._took(asked)
        elif isinstance(asked, LineSet):
            self._wanted = self._line
        command, value = asked.command, asked.value
        match asked:
            case LineSet():
                self._reply(command, self._line_value(command))
                return
            case FlowSet() if not is_done:
                value = self._flow + (_IN_FLOW if value >= _IN_FLOW else 0)
            case OutputsSet() if not is_done:
                value = self._output_value(value)
            case BreakSet() if not is_done:
                value = 5 if self._is_break else 6
        self._reply(command, bytes((value,)))

    def notify(self, modem: Modem, errors: LineErrors, *, is_asked: bool) -> None:
        """Tell the modem lines if they are others than before, or were asked for; and
        what went wrong on the line, if the client wants to know."""
        if not self.is_com_port:
            return
        found = errors & self._line_mask
        if found:
            self._reply(_LINE_STATE, bytes((found,)))
        before = modem if self._modem is None else self._modem
        changed = modem ^ before
        wanted = changed & self._modem_mask
        if not wanted and self._modem is not None and not is_asked:
            return
        if modem & Modem.RI:  # only its end is told
            changed &= ~Modem.RI
        deltas = sum(bit for line, bit in _DELTAS.items() if changed & line)
        mask = self._modem_mask if self._modem is not None else 0xFF
        self._modem = modem
        state = (modem | deltas) & (0xFF if is_asked else mask)
        self._reply(_MODEM_STATE, bytes((state,)))

    # -------------------------------------------------------- from the client ----

    def receive(self, data: bytes) -> Iterator[Event]:
        """Read what the client says; take each event before the next.

        Raises:
            RemoteProtocolError: a subnegotiation without end.
        """
        if self._is_failed:
            raise RemoteProtocolError("the connection has failed before")
        at = 0
        while at < len(data):
            if self._mode is _Mode.DATA:
                end = data.find(_IAC, at)
                end = len(data) if end < 0 else end
                if end > at:
                    yield Received(data[at:end])
                if end < len(data):
                    self._mode = _Mode.COMMAND
                at = end + 1
            else:
                yield from self._control(data[at])
                at += 1

    def _control(self, byte: int) -> Iterator[Event]:
        match self._mode:
            case _Mode.COMMAND:
                yield from self._command(byte)
            case _Mode.OPTION:
                self._mode = _Mode.DATA
                self._negotiate(self._verb, byte)
            case _Mode.INSIDE:
                if byte == _IAC:
                    self._mode = _Mode.INSIDE_COMMAND
                else:
                    self._keep(byte)
            case _:
                self._mode = _Mode.INSIDE
                if byte == _IAC:
                    self._keep(byte)
                elif byte == _SE:
                    self._mode = _Mode.DATA
                    inside, self._inside = bytes(self._inside), bytearray()
                    yield from self._subnegotiated(inside)

    def _command(self, byte: int) -> Iterator[Event]:
        self._mode = _Mode.DATA
        if byte == _IAC:
            yield Received(b"\xff")
        elif byte == _SB:
            self._mode = _Mode.INSIDE
            self._inside.clear()
        elif byte in (_WILL, _WONT, _DO, _DONT):
            self._mode, self._verb = _Mode.OPTION, byte

    def _keep(self, byte: int) -> None:
        self._inside.append(byte)
        if len(self._inside) > MAX_SUBNEGOTIATION:
            self._is_failed = True
            raise RemoteProtocolError(
                f"a subnegotiation of more than {MAX_SUBNEGOTIATION} bytes"
            )

    def _negotiate(self, verb: int, option: int) -> None:
        """Answer only what changes something, so that no two ends go on for ever."""
        is_ours = verb in (_DO, _DONT)
        sides = self._ours if is_ours else self._theirs
        yes, no = (_WILL, _WONT) if is_ours else (_DO, _DONT)
        is_wanted = verb in (_DO, _WILL)
        if option not in _OPTIONS:
            if is_wanted:
                self._say(no, option)
            return
        was = sides.get(option)
        sides[option] = is_wanted
        is_ack = not is_ours and was is None and option in (_BINARY, _COM_PORT)
        if was is not is_wanted and not is_ack and (is_wanted or was):
            self._say(yes if is_wanted else no, option)
        if option == _COM_PORT and is_wanted:
            self.is_com_port = True

    # ------------------------------------------------------- the port's option ----

    def _subnegotiated(self, inside: bytes) -> Iterator[Event]:
        if len(inside) < 2 or inside[0] != _COM_PORT:
            return
        command, value = inside[1], inside[2:]
        match command:
            case 0 if not value:
                self._reply(_SIGNATURE, b"rusb")
            case 1 | 2 | 3 | 4:
                yield from self._line_asked(command, value)
            case 5 if len(value) == 1:
                yield from self._control_asked(value[0])
            case 7:
                yield StateAsked()
            case 8 | 9:
                yield Suspended(command == _SUSPEND)
            case 10 if len(value) == 1:
                self._line_mask = value[0]
                self._reply(command, value)
            case 11 if len(value) == 1:
                self._modem_mask = value[0]
                self._reply(command, value)
            case 12 if value in (b"\1", b"\2", b"\3"):
                what = value[0]
                yield Purged(command, what, bool(what & 1), bool(what & 2))

    def _line_asked(self, command: int, value: bytes) -> Iterator[Event]:
        """What cannot be, and a question, are answered with what holds."""
        number, line = int.from_bytes(value, "big"), self._wanted
        if command == _BAUD and len(value) == 4 and number:
            line = replace(line, baud=number)
        elif command == _SIZE and 5 <= number <= 8:
            line = replace(line, bits=number)
        elif command == _PARITY and 1 <= number <= 5:
            line = replace(line, parity=Parity(number - 1))
        elif command == _STOP and number in _STOPS:
            line = replace(line, stop=_STOPS[number])
        self._wanted = line
        yield LineSet(command, line=line)

    def _line_value(self, command: int) -> bytes:
        line = self._line
        if command == _BAUD:
            return line.baud.to_bytes(4, "big")
        return bytes(
            ({2: line.bits, 3: line.parity + 1, 4: _STOP_CODES[line.stop]}[command],)
        )

    def _control_asked(self, value: int) -> Iterator[Event]:
        match value:
            case 0:
                self._reply(_CONTROL, bytes((self._flow,)))
            case 1 | 2 | 3:
                yield FlowSet(_CONTROL, value, Flow(value))
            case 4:
                self._reply(_CONTROL, b"\5" if self._is_break else b"\6")
            case 5 | 6:
                yield BreakSet(_CONTROL, value, value == 5)
            case 7 | 10:
                self._reply(_CONTROL, bytes((self._output_value(value),)))
            case 8 | 9:
                yield OutputsSet(_CONTROL, value, dtr=value == 8)
            case 11 | 12:
                yield OutputsSet(_CONTROL, value, rts=value == 11)
            case 13:
                self._reply(_CONTROL, bytes((self._flow + _IN_FLOW,)))
            case 14 | 15 | 16:
                yield FlowSet(_CONTROL, value, Flow(value - _IN_FLOW))
            case 17 | 18 | 19:  # by DCD, DTR, DSR: no chip has that
                self._reply(_CONTROL, bytes((self._flow,)))

    def _output_value(self, value: int) -> int:
        if value < 10:
            return 8 if self._dtr else 9
        return 11 if self._rts else 12

    def _took(self, asked: Asked) -> None:
        match asked:
            case LineSet():
                self._line = asked.line
            case OutputsSet():
                if asked.dtr is not None:
                    self._dtr = asked.dtr
                if asked.rts is not None:
                    self._rts = asked.rts
            case BreakSet():
                self._is_break = asked.is_on
            case FlowSet():
                self._flow = asked.flow

    def _say(self, verb: int, option: int) -> None:
        self._out += bytes((_IAC, verb, option))

    def _reply(self, command: int, value: bytes) -> None:
        body = bytes((_COM_PORT, _SERVER + command)) + value
        body = body.replace(b"\xff", b"\xff\xff")
        self._out += b"\xff\xfa" + body + b"\xff\xf0"
