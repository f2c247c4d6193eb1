"""A device at the other end of a stream: usbredir, USB/IP."""

import asyncio
import itertools
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast

from rusb.aio.link import WireLink
from rusb.errors import BackendError, DeviceGone, ParseError, RusbError
from rusb.oserrors import reason
from rusb.usb.backend import OpenDevice
from rusb.usb.descriptors import ConfigurationDescriptor, DeviceDescriptor
from rusb.usb.device import DeviceInfo
from rusb.usb.setup import SetupPacket
from rusb.usb.strings import parse_languages, parse_string
from rusb.usb.types import DescriptorType, TransferType
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus
from rusb.wire import base as wire

__all__ = ["Connection", "Place", "StreamDevice"]

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection, and until the device is there."""

REQUEST_TIMEOUT = 10.0
"""Seconds for a request; a reset of a real device takes one."""

MAX_CONFIGURATION = 4096
"""Bytes of a configuration that are read to see what the device has."""

_GONE = UrbResult(UrbStatus.NO_DEVICE)
_PLACE = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]/]+))(?::([0-9]{1,5}))?")


class Place:
    """A host and a port, ``HOST[:PORT]``; an IPv6 address has brackets.

    Args:
        text: as it was typed.
        kind: the backend's name, for messages.
        port: where none is given; None: one has to be.

    Raises:
        BackendError: that is no such place.
    """

    def __init__(self, text: str | None, kind: str, port: int | None = None) -> None:
        found = _PLACE.fullmatch(text or "")
        number = int(found[3]) if found and found[3] else port
        if found is None or number is None or not 1 <= number <= 65535:
            form = "HOST:PORT" if port is None else "HOST[:PORT]"
            given = f", not {text!r}" if text else ""
            raise BackendError(f"the backend {kind} needs {kind}:{form}{given}")
        self.host: str = found[1] or found[2]
        self.port: int = number

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def connect(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Connect.

        Raises:
            BackendError: nobody answers there.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.create_connection(make, self.host, self.port)
        except TimeoutError:
            raise BackendError(f"{self} does not answer") from None
        except (OSError, UnicodeError) as error:
            raise BackendError(f"cannot connect to {self}: {reason(error)}") from error


class Connection(asyncio.Protocol):
    """A connection with one device, and a core of its guest side.

    Attributes:
        core: speaks to the other end.
        was_refused: the other end does not want us to have the device.

    Args:
        core: see above.
        peer: who that is, for messages.
        on_lost: called once when the device or the connection is gone, not after
            :meth:`hang_up`.
    """

    def __init__(
        self,
        core: wire.GuestSide,
        peer: str,
        *,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.core = core
        self._peer = peer
        self._on_lost = on_lost
        self._number = 0  # of the device, at this core
        self.was_refused = False
        self._is_over = False
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, Completion] = {}
        self._numbers = itertools.count(1)
        self._own_ids = itertools.count(-1_000_000, -1)
        self._requests: dict[int, asyncio.Future[UrbStatus]] = {}
        self._found: asyncio.Future[DeviceInfo] = (
            asyncio.get_running_loop().create_future()
        )
        self._link = WireLink(
            core, send=self._write, flush=lambda: None, on_event=self._dispatch
        )

    # ------------------------------------------- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what the protocol begins with."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._is_over:
            self._transport.abort()
        else:
            self._link.opened(0, "")

    def data_received(self, data: bytes) -> None:
        """Take what the other end says."""
        try:
            self._link.received(0, data)
            self._link.finished()
        except RusbError as error:
            log.warning("%s: %s", self._peer, error)
            self._lose(str(error))
        except Exception:
            log.exception("%s: bug while reading what it said", self._peer)
            self._lose("internal error")

    def connection_lost(self, exc: Exception | None) -> None:
        """It hung up."""
        self._lose("it hung up")

    # ------------------------------------------------- called by the owner ----

    async def found(self) -> DeviceInfo:
        """Wait until the other end has told which device it has.

        Raises:
            BackendError: it refused, or has none.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await asyncio.shield(self._found)
        except TimeoutError:
            raise BackendError(f"{self._peer} offers no device") from None

    @property
    def is_over(self) -> bool:
        """Is the device gone, or the connection?"""
        return self._is_over

    def hang_up(self) -> None:
        """End the connection. Idempotent."""
        self._on_lost = lambda: None
        self._lose("closed")

    async def control_in(self, setup: SetupPacket) -> UrbResult:
        """Run a control transfer of our own."""
        done: asyncio.Future[UrbResult] = asyncio.get_running_loop().create_future()

        def complete(result: UrbResult) -> None:
            if not done.done():
                done.set_result(result)

        self.submit(Urb.control(next(self._own_ids), setup), complete)
        return await done

    async def describe(self, info: DeviceInfo) -> tuple[DeviceInfo, bool]:
        """Read what the list of devices is to show.

        Returns:
            *info* with strings, and whether there are isochronous endpoints. A device
            that cannot be read is as it was announced.
        """
        has_isochronous = False
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                head = DeviceDescriptor.parse(await self._read(DescriptorType.DEVICE))
                info = replace(info, bcd_usb=head.bcd_usb)
                raw = await self._read(DescriptorType.CONFIGURATION)
                found = ConfigurationDescriptor.parse(raw)
                has_isochronous = any(
                    e.transfer_type is TransferType.ISOCHRONOUS
                    for interface in found.interfaces
                    for e in interface.endpoints
                )
                languages = parse_languages(await self._read(DescriptorType.STRING))
                texts = [
                    parse_string(
                        await self._read(DescriptorType.STRING, n, languages[0])
                    )
                    if n and languages
                    else None
                    for n in (head.manufacturer, head.product, head.serial)
                ]
                info = replace(
                    info, manufacturer=texts[0], product=texts[1], serial=texts[2]
                )
        except (ParseError, TimeoutError) as error:
            log.debug("%s: %s cannot be read: %s", self._peer, info, error)
        return info, has_isochronous

    async def _read(self, kind: int, index: int = 0, language: int = 0) -> bytes:
        length = 255 if kind == DescriptorType.STRING else MAX_CONFIGURATION
        setup = SetupPacket.get_descriptor(kind, index, length, language)
        return bytes((await self.control_in(setup)).data)

    # --------------------------------------------------------- for the device ----

    def submit(self, urb: Urb, complete: Completion) -> None:
        """Start a transfer; see :class:`~rusb.usb.backend.UrbTarget`."""
        if self._is_over or not self._number:
            complete(_GONE)
        elif urb.id in self._pending:
            complete(UrbResult(UrbStatus.INVALID))
        else:
            self._pending[urb.id] = complete
            self.core.submit_urb(self._number, urb, now=self._link.now())
            self._link.flush()

    def cancel(self, urb_id: int) -> None:
        """Abort a transfer."""
        if urb_id in self._pending:
            self.core.cancel_urb(self._number, urb_id)
            self._link.flush()

    def complete_all(self) -> None:
        """Whoever used the device is done with it."""
        if not self._is_over and self._number:
            self.core.close_device(self._number)
            self._link.flush()

    async def ask(self, what: str, call: Callable[..., None], *fields: int) -> None:
        """Have the core make a request, and wait until it is done.

        Args:
            what: the request, for messages.
            call: of the core.
            fields: what it takes after the device.

        Raises:
            DeviceGone: there is no device any more.
            BackendError: it did not work, or took too long.
        """
        if self._is_over:
            raise DeviceGone(f"{self._peer}: the device is gone")
        number = next(self._numbers)
        done: asyncio.Future[UrbStatus] = asyncio.get_running_loop().create_future()
        self._requests[number] = done
        try:
            call(self._number, *fields, request=number)
            self._link.flush()
            async with asyncio.timeout(REQUEST_TIMEOUT):
                status = await done
        except TimeoutError:
            raise BackendError(f"{self._peer} did not {what} in time") from None
        finally:
            self._requests.pop(number, None)
        if status is UrbStatus.NO_DEVICE:
            raise DeviceGone(f"{self._peer}: the device is gone")
        if status is not UrbStatus.OK:
            raise BackendError(f"{self._peer} cannot {what} ({status.name})")

    # --------------------------------------------------------------- our own ----

    def _dispatch(self, event: wire.Event) -> None:
        match event:
            case wire.UrbCompleted():
                complete = self._pending.pop(event.urb_id, None)
                if complete is not None:
                    complete(event.result)
            case wire.RequestCompleted():
                done = self._requests.get(event.request)
                if done is not None and not done.done():
                    done.set_result(event.status)
            case wire.DevicesListed(devices=(info, *_)):
                self._number = info.id
                if not self._found.done():
                    self._found.set_result(replace(info, id=0, remote=False))
            case wire.DevicesListed() | wire.DeviceFailed():
                asyncio.get_running_loop().call_soon(self._lose, "the device is gone")
            case wire.Negotiated(error=str(error)):
                self.was_refused = True
                asyncio.get_running_loop().call_soon(self._lose, error)
            case wire.Ignored():
                log.debug("%s: ! %s", self._peer, event.reason)
            case _:
                log.debug("%s: = %s", self._peer, event)

    def _lose(self, why: str) -> None:
        """It is over: the core completes whatever is open. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        self._link.close()
        if not self._found.done():
            self._found.set_exception(BackendError(f"{self._peer}: {why}"))
            self._found.exception()  # perhaps nobody waits
        if self._transport is not None:
            self._transport.abort() if why != "closed" else self._transport.close()
        self._on_lost()

    def _write(
        self, channel: int, data: bytes, *, flow: int, is_urgent: bool, is_fence: bool
    ) -> None:
        if self._transport is not None and not self._is_over:
            self._transport.write(data)


class StreamDevice(OpenDevice):
    """The device of a connection in use, until it is closed.

    Args:
        connection: to the device.
        closed: gives it back; called once.
    """

    def __init__(
        self, connection: Connection, closed: Callable[[], Awaitable[None]]
    ) -> None:
        self._connection: Connection | None = connection
        self._closed = closed

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self._connection is None:
            complete(_GONE)
        else:
            self._connection.submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        if self._connection is not None:
            self._connection.cancel(urb_id)

    def _here(self) -> Connection:
        if self._connection is None:
            raise DeviceGone("the device was closed")
        return self._connection

    async def set_configuration(self, value: int) -> None:
        here = self._here()
        what = f"select configuration {value}"
        await here.ask(what, here.core.set_configuration, value)

    async def claim_interface(self, interface: int) -> None:
        here = self._here()
        what = f"claim interface {interface}"
        await here.ask(what, here.core.claim_interface, interface)

    async def release_interface(self, interface: int) -> None:
        here = self._here()
        what = f"release interface {interface}"
        await here.ask(what, here.core.release_interface, interface)

    async def set_interface(self, interface: int, alternate: int) -> None:
        here = self._here()
        what = f"select setting {alternate} of interface {interface}"
        await here.ask(what, here.core.set_interface, interface, alternate)

    async def clear_halt(self, endpoint: int) -> None:
        here = self._here()
        what = f"clear the halt of endpoint {endpoint:#04x}"
        await here.ask(what, here.core.clear_halt, endpoint)

    async def reset(self) -> None:
        here = self._here()
        await here.ask("reset the device", here.core.reset_device)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.complete_all()
            await self._closed()
