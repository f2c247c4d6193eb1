"""Serial ports over the network as the guest, by RFC 2217: pyserial's ``rfc2217://``.

Each port of a device listens at a TCP port of its own, for one program at a time.
"""

import asyncio
import logging
import select
import socket
from collections import deque
from collections.abc import Iterator
from typing import cast

from rusb.errors import GuestError, Hint, RemoteProtocolError

from ..serial.driver import LineErrors
from ..serial.port import SerialPort
from ..serial.rfc2217 import (
    Asked,
    BreakSet,
    Event,
    FlowSet,
    LineSet,
    OutputsSet,
    Purged,
    Received,
    Rfc2217Server,
    StateAsked,
    Suspended,
)
from ._listening import listen, parse_place
from ._serial import SerialGuest, SerialPlace
from .base import AttachedDevice

__all__ = ["Rfc2217Guest"]

log = logging.getLogger(__name__)

MAX_PLACES = 64
"""TCP ports, one after the other."""

MAX_ASKED = 32
"""Requests of a client that are not answered, above which nothing is taken from it."""

WRITE_HIGH = 64 << 10
"""Bytes that wait for a client here, or in the kernel, above which the device waits."""

LOOK = 1.0
"""Seconds between two looks whether a client is there that is not read from."""

_GONE = getattr(select, "POLLRDHUP", 0)

POLL = 0.1
"""Seconds between two questions to a chip that does not tell its modem lines."""


class _Client(asyncio.Protocol):
    """A program at the other end."""

    def __init__(self, place: "_Place") -> None:
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[bytes] = deque()
        self._events: Iterator[Event] = iter(())
        self._asked = 0
        self._is_congested = self._is_suspended = self._is_busy = False
        self._is_stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self._port: SerialPort | None = None
        self._core: Rfc2217Server | None = None

    # ------------------------------------------- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the port, unless somebody has it."""
        self.transport = cast(asyncio.Transport, transport)
        port = self._place.take(self)
        if port is None:
            log.info("%s has no port that is free", self._place)
            self.transport.abort()
            return
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_HIGH)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        port.on_data, port.on_status, port.on_room = self._came, self._told, self._go_on
        self._port = port
        port.open(port.line, port.flow)
        self._core = Rfc2217Server(port.line, port.flow)
        self._flush()
        if not port.driver.tells_modem:
            self._poll()

    def data_received(self, data: bytes) -> None:
        """Take what it says, as far as there is room."""
        self._inbox.append(data)
        self._go_on()

    def pause_writing(self) -> None:
        """It does not read: neither do we."""
        self._is_congested = True
        self._hold()
        self._go_on()

    def resume_writing(self) -> None:
        """It reads."""
        self._is_congested = False
        self._hold()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went."""
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        port, self._port, self._core = self._port, None, None
        self._place.free(self)
        if port is not None:
            port.close()

    # ------------------------------------------------------- from the program ----

    def _go_on(self) -> None:
        """Do what it wants, one after the other."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while not self._is_full() and self._core is not None:
                event = next(self._events, None)
                if event is not None:
                    self._do(event)
                elif self._inbox:
                    self._events = self._core.receive(self._inbox.popleft())
                else:
                    break
        except RemoteProtocolError as error:
            log.info("%s: %s", self._place, error)
            self._abort()
            return
        finally:
            self._is_busy = False
        if self._core is not None and self._port is not None:
            self._core.notify(self._port.modem, LineErrors.NONE, is_asked=False)
        self._flush()
        self._stop_or_read()

    def _is_full(self) -> bool:
        port = self._port
        is_full = port is not None and port.is_full
        return is_full or self._is_congested or self._asked >= MAX_ASKED

    def _stop_or_read(self) -> None:
        want, transport = self._is_full(), self.transport
        assert transport is not None
        if want == self._is_stopped or transport.is_closing():
            return
        self._is_stopped = want
        if want:
            transport.pause_reading()
            self._look()
        else:
            transport.resume_reading()
            if self._looking is not None:
                self._looking.cancel()

    def _look(self) -> None:
        """Nothing is read, so that it may go unseen: do not keep a port for it that
        sends nothing."""
        if self._port is None or self.transport is None:
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), _GONE)
        if poll.poll(0) and (self._port.is_stuck or self._is_congested):
            self._abort()
        else:
            self._looking = self._loop.call_later(LOOK, self._look)

    def _do(self, event: Event) -> None:
        port, core = self._port, self._core
        assert port is not None
        assert core is not None
        match event:
            case Received():
                port.write(event.data)
                return
            case StateAsked():
                core.notify(port.modem, LineErrors.NONE, is_asked=True)
                return
            case Suspended():
                self._is_suspended = event.is_on
                self._hold()
                return
        self._asked += 1

        def done(is_done: bool) -> None:
            self._answer(event, is_done)

        match event:
            case LineSet():
                port.set_line(event.line, done)
            case OutputsSet():
                dtr = port.dtr if event.dtr is None else event.dtr
                rts = port.rts if event.rts is None else event.rts
                port.set_outputs(dtr=dtr, rts=rts, done=done)
            case BreakSet():
                port.set_break(is_on=event.is_on, done=done)
            case FlowSet():
                port.set_flow(event.flow, done)
            case Purged():
                port.purge(received=event.received, sent=event.sent, done=done)

    def _answer(self, asked: Asked, is_done: bool) -> None:
        self._asked -= 1
        if self._core is not None:
            self._core.answer(asked, is_done=is_done)
            self._go_on()

    # --------------------------------------------------------- to the program ----

    def _came(self, data: bytes) -> None:
        if self._core is not None:
            self._core.send(data)
            self._flush()

    def _told(self, errors: LineErrors) -> None:
        if self._core is not None and self._port is not None:
            self._core.notify(self._port.modem, errors, is_asked=False)
            self._flush()

    def _hold(self) -> None:
        """Is the device to wait?"""
        if self._port is None:
            return
        if self._is_congested or self._is_suspended:
            self._port.pause()
        else:
            self._port.resume()

    def _flush(self) -> None:
        if self._core is not None and self.transport is not None:
            out = self._core.take_output()
            if out:
                self.transport.write(out)

    def _poll(self) -> None:
        if self._port is not None:
            self._port.ask_status()
            self._timer = self._loop.call_later(POLL, self._poll)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Place(SerialPlace):
    """A TCP port, and the serial port that is behind it at present."""

    def __init__(self, address: str, number: int) -> None:
        self._address, self.number = address, number
        self._server: asyncio.Server | None = None
        self._client: _Client | None = None
        self._port: SerialPort | None = None

    def __str__(self) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"rfc2217://{host}:{self.number}"

    def describe(self) -> str:
        """Say where it is, for the log."""
        return str(self)

    @property
    def is_free(self) -> bool:
        """Is there no serial port behind it?"""
        return self._port is None

    async def listen(self) -> None:
        """Listen.

        Raises:
            GuestError: the port is taken.
        """
        self._server = await listen(self._address, self.number, lambda: _Client(self))
        self.number = self._server.sockets[0].getsockname()[1]

    def fill(self, port: SerialPort) -> None:
        """Put a serial port behind it."""
        self._port = self.port = port

    def take(self, client: _Client) -> SerialPort | None:
        """Return the serial port, which this client then has; None: there is none."""
        if self._client is not None or self._port is None:
            return None
        self._client = client
        return self._port

    def free(self, client: _Client) -> None:
        """A client has gone."""
        if self._client is client:
            self._client = None

    def close(self) -> None:
        """The device goes: the program sees a hang-up. Idempotent."""
        self._port = None
        client, self._client = self._client, None
        if client is not None and client.transport is not None:
            client.transport.abort()

    def stop(self) -> None:
        """Listen no more."""
        self.close()
        if self._server is not None:
            self._server.close()
            self._server = None


class Rfc2217Guest(SerialGuest):
    """Listens for each serial port.

    Args:
        address: ``[ADDRESS:]PORT`` of the first; the others follow it.
    """

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        if not address:
            raise GuestError("rfc2217 needs [ADDRESS:]PORT to listen at").hinting(
                Hint.OTHER_GUEST_ADDRESS
            )
        self._address, self._first = parse_place(address)
        self._slots: list[_Place] = []
        self._opening = asyncio.Lock()  # devices come at once; each port has its number

    @property
    def port(self) -> int:
        """The TCP port of the first serial port."""
        return self._slots[0].number

    async def start(self) -> None:
        """Listen for the first."""
        self._slots.append(_Place(self._address, self._first))
        await self._slots[0].listen()

    async def open_place(self, device: AttachedDevice, port: SerialPort) -> SerialPlace:
        """Listen for another one.

        Raises:
            GuestError: its TCP port is taken.
        """
        async with self._opening:
            place = next((place for place in self._slots if place.is_free), None)
            if place is None:
                place = await self._add_place()
            place.fill(port)
        return place

    async def _add_place(self) -> _Place:
        number = self._first + len(self._slots) if self._first else 0
        if len(self._slots) >= MAX_PLACES or number > 0xFFFF:
            raise GuestError(f"{len(self._slots)} serial ports are in use already")
        place = _Place(self._address, number)
        await place.listen()
        self._slots.append(place)
        return place

    async def aclose(self) -> None:
        """Hang up on all."""
        await super().aclose()
        for place in self._slots:
            place.stop()
        await asyncio.sleep(0)  # they end in the loop's next turn
        self._slots.clear()


PLUGIN = Rfc2217Guest
