"""One connection of a client: the wire's device side joined to opened devices."""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from rusb.aio.link import WireLink
from rusb.aio.protocols import load_protocol
from rusb.aio.stream import RdpStream
from rusb.aio.tasks import TaskSet
from rusb.errors import (
    AuthenticationError,
    BackendError,
    CertificateError,
    ConnectionLost,
    DeviceGone,
    NegotiationError,
    RusbError,
)
from rusb.rdp import events as rdp
from rusb.rdp.client import ClientConnection
from rusb.usb.urb import Urb, UrbResult, UrbStatus
from rusb.wire import base as wire

from .backends.base import DeviceBackend, OpenDevice
from .config import ClientConfig
from .devices import DeviceCatalog, Offer, load_backend
from .dial import dial, rdp_settings

__all__ = ["ClientSession", "connect"]

log = logging.getLogger(__name__)

CHANNEL = "vrdpusb"

MAX_BYTES_IN_FLIGHT = 64 << 20
"""Buffers of all URBs in flight; above it we stop reading the server's requests."""

MAX_REQUESTS_WAITING = 4096
"""Requests waiting behind one that blocks (a reset takes a second on real devices);
a server that sends more is not serious."""

_WEAKER = {
    "rdp": "standard RDP security, which is weak",
    "none": "without any encryption: password and data travel in clear",
}

_GONE = UrbResult(UrbStatus.NO_DEVICE)
_CANCELLED = UrbResult(UrbStatus.CANCELLED)


@contextlib.asynccontextmanager
async def connect(
    config: ClientConfig,
    *,
    backends: Sequence[DeviceBackend] | None = None,
    report: Callable[[str], None] = log.info,
) -> AsyncIterator["ClientSession"]:
    """Offer devices to a server while the ``async with`` block runs.

    Args:
        config: whom to call, and which devices to offer.
        backends: where devices come from, closed at the end; None: those that
            ``config.backends`` names.
        report: gets a line for everything a user wants to know.

    Raises:
        NoPermission, DeviceBusy: none of the devices can be used, and why.
        RusbError: what :meth:`ClientSession.start` raises.
    """
    if backends is None:
        names = config.backends if config.usb else ()
        backends = [load_backend(name, force=config.force) for name in names]
    catalog = DeviceCatalog(backends, config.filters)
    try:
        await catalog.refresh()
        if (problem := catalog.why_nothing()) is not None:
            raise problem
        session = await _start(config, catalog, report)
        try:
            yield session
        finally:
            await session.aclose()
    finally:
        await catalog.aclose()


async def _start(
    config: ClientConfig, catalog: DeviceCatalog, report: Callable[[str], None]
) -> "ClientSession":
    """Start a session with the first kind of security that the server takes."""
    while True:
        session = ClientSession(config, catalog, report=report)
        try:
            await session.start()
            return session
        except BaseException as error:
            await session.aclose()
            if not _may_do_with_less(error, config):
                raise
            report(f"{error}; trying {_WEAKER[config.security[1]]}")
            config = dataclasses.replace(config, security=config.security[1:])


def _may_do_with_less(error: BaseException, config: ClientConfig) -> bool:
    """Is it TLS that failed, other than by a wrong certificate?"""
    return (
        isinstance(error, NegotiationError)
        and error.stage == "tls"
        and not isinstance(error, CertificateError)
        and len(config.security) > 1
    )


class _Slot:
    """One device the server has opened, or is opening.

    Requests that block run one at a time; what arrives meanwhile waits in ``queue``.
    """

    __slots__ = ("device", "is_busy", "is_closed", "name", "queue")

    def __init__(self, name: str) -> None:
        self.name = name
        self.device: OpenDevice | None = None
        self.queue: deque[wire.DeviceRequest | wire.UrbSubmitted] = deque()
        self.is_busy = True
        self.is_closed = False


class ClientSession:
    """Offers the devices of a catalog to one server until the connection ends.

    Args:
        config: whom to call.
        catalog: the devices; it is watched, and not closed.
        report: gets a line for everything a user wants to know.
    """

    def __init__(
        self,
        config: ClientConfig,
        catalog: DeviceCatalog,
        *,
        report: Callable[[str], None] = log.info,
    ) -> None:
        self.config = config
        self.reason: int | None = None
        self._catalog = catalog
        self._report = report
        self._tasks = TaskSet()
        self._slots: dict[int, _Slot] = {}
        self._listed: dict[int, Offer] = {}
        self._bytes = 0
        self._is_paused = False
        self._is_pressed = False
        self._refresh_due = asyncio.Event()
        self._list_task: asyncio.Task[None] | None = None
        self._link: WireLink | None = None
        self._core: wire.DeviceSide | None = None
        self._has_channel = False
        loop = asyncio.get_running_loop()
        self._silence: asyncio.TimerHandle | None = None
        self._active: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[RusbError | None] = loop.create_future()
        self._rdp = ClientConnection(
            rdp_settings(config, (CHANNEL,) if config.usb else ()),
            random_bytes=secrets.token_bytes,
        )
        self._stream: RdpStream | None = None

    # --------------------------------------------------------- life cycle ----

    async def start(self) -> None:
        """Connect and return once the connection is active.

        Raises:
            ConnectionLost: nobody answers, or the connection broke.
            NegotiationError: no common ground; CertificateError: wrong certificate.
            AuthenticationError: the server closed after the logon.
        """
        try:
            async with asyncio.timeout(self.config.timeout):
                self._stream = await dial(
                    self.config,
                    self._rdp,
                    on_event=self._handle,
                    on_lost=self._lost,
                    on_pressure=self._pressed,
                    report=self._report,
                )
                await self._active
        except TimeoutError:
            raise ConnectionLost(
                f"{self.config.server} did not finish the connection within"
                f" {self.config.timeout:g} s"
            ) from None
        if self.config.usb and not self._has_channel:
            raise self._no_usb("it does not open the channel vrdpusb")
        self._catalog.watch(self._refresh_due.set)
        self._list_task = self._tasks.start(self._keep_list(), "device list")

    @property
    def security(self) -> str:
        """What secures the connection: ``TLS 1.3``, ``RC4, 128 bit`` or little else."""
        transport = None if self._stream is None else self._stream.transport
        found = transport and transport.get_extra_info("ssl_object")
        if not found:
            return self._rdp.encryption
        name: str = found.version().replace("TLSv", "TLS ")
        return name if "." in name else f"{name}.0"

    async def wait_closed(self) -> None:
        """Wait for the end of the connection.

        Raises:
            RusbError: why it ended, unless in an orderly way; ``reason`` then has
                the server's code (vrdp-server.md 8.5), if it gave one.
        """
        error = await asyncio.shield(self._over)
        if error is not None:
            raise error

    async def aclose(self) -> None:
        """Say goodbye, close every device and give it back. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is not None:
            if not self._over.done():
                self._rdp.disconnect()
            stream.close()
            try:
                async with asyncio.timeout(3):
                    await asyncio.shield(self._over)
            except TimeoutError:
                stream.abort()
        if self._list_task is not None:
            self._list_task.cancel()
        await self._close_devices()

    async def _close_devices(self) -> None:
        slots, self._slots = list(self._slots.values()), {}
        for slot in slots:
            slot.is_closed = True
            slot.queue.clear()
        await self._tasks.drain(10)
        for slot in slots:
            if slot.device is not None:
                await slot.device.aclose()
                slot.device = None

    # ------------------------------------------------- from the connection ----

    def _handle(self, event: rdp.Event) -> None:
        match event:
            case rdp.ChannelData():
                if self._link is not None:
                    self._link.received(event.channel, event.data)
            case rdp.ChannelOpened():
                if event.name.lower() == CHANNEL:
                    self._open_channel(event)
            case rdp.Activated():
                if not self._active.done():
                    self._wait_for_usb()
                    self._active.set_result(None)
            case rdp.Disconnected():
                self.reason = event.reason
                if self._stream is not None:
                    self._stream.close()
            case _:
                log.debug("= %s", event)

    def _wait_for_usb(self) -> None:
        """The server should say something about USB soon, else it has none."""
        if self.config.usb:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(self.config.usb_timeout, self._is_silent)

    @property
    def _has_heard(self) -> bool:
        """Has the server said something about USB?"""
        return self._link is not None and self._link.has_heard

    def _is_silent(self) -> None:
        if self._stream is not None and not self._has_heard:
            seconds = f"{self.config.usb_timeout:g} s"
            self._stream.fail(self._no_usb(f"nothing came in {seconds}"))

    def _no_usb(self, why: str) -> NegotiationError:
        return NegotiationError(
            f"{self.config.server} has no remote USB: {why}. That needs a VRDP server"
            " (rusb serve, or VirtualBox with its extension pack) whose property"
            " Client/DisableUSB is not set"
        )

    def _open_channel(self, event: rdp.ChannelOpened) -> None:
        core = load_protocol(CHANNEL).device_side()
        stream = self._stream
        assert stream is not None
        self._core = core
        self._link = WireLink(
            core,
            send=self._rdp.send_channel,
            flush=stream.flush,
            on_event=self._dispatch,
        )
        self._has_channel = True
        self._link.opened(event.channel, event.name)

    def _lost(self, error: RusbError | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
            if error is None and self.reason is None and not self._has_heard:
                # FreeRDP's server does so when we answer what it never asked
                error = self._no_usb("it hung up without a word about it")
        if not self._active.done():
            self._active.set_exception(self._why_refused(error))
        if self._link is not None:
            self._link.closed(0)
        if not self._over.done():
            self._over.set_result(error)

    def _why_refused(self, error: RusbError | None) -> RusbError:
        """Explain an end before the session began (vrdp-server.md 3.7)."""
        if error is not None and not isinstance(error, ConnectionLost):
            return error
        if not self._rdp.is_logged_on:
            return error or ConnectionLost(
                f"{self.config.server} closed the connection before the logon; is it"
                " an RDP server that allows TLS?"
            )
        return AuthenticationError(
            f"{self.config.server} closed the connection after the logon: user or"
            " password are wrong, the screen does not exist, or it serves only one"
            " client and has one. The machine's VBox.log says which"
        )

    def _pressed(self, is_high: bool) -> None:
        self._is_pressed = is_high
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Stop reading requests while the server reads slowly or asks too much."""
        want = self._is_pressed or self._bytes >= MAX_BYTES_IN_FLIGHT
        transport = self._stream.transport if self._stream else None
        if want == self._is_paused or transport is None or transport.is_closing():
            return
        self._is_paused = want
        (transport.pause_reading if want else transport.resume_reading)()

    # --------------------------------------------------------- device list ----

    async def _keep_list(self) -> None:
        """Announce the list when the server asks and when something changes."""
        while True:
            await self._refresh_due.wait()
            self._refresh_due.clear()
            before = self._listed
            offered = await self._catalog.refresh()
            after = self._listed = self._catalog.offers
            for info in offered:
                if info.id not in before:
                    problem = after[info.id].device.problem
                    note = f"; it cannot be used now: {problem}" if problem else ""
                    self._report(f"offering {info}{note}")
            for number, offer in before.items():
                if number not in after:
                    self._report(f"{offer.info} was unplugged")
                    if self._core is not None:
                        self._core.device_lost(number)
            if self._core is not None and self._link is not None:
                self._core.announce(offered)
                self._link.move()

    # ------------------------------------------------------- from the wire ----

    def _dispatch(self, event: wire.Event) -> None:
        match event:
            case wire.UrbSubmitted():
                slot = self._slots.get(event.device)
                if slot is None:
                    self._answer(event.device, event.urb.id, _GONE)
                elif slot.is_busy:
                    self._wait(slot, event)
                else:
                    self._submit(slot, event.device, event.urb)
            case wire.UrbCancelled():
                self._cancel(event)
            case wire.DeviceOpened():
                self._open(event.device)
            case wire.DeviceClosed():
                self._close(event.device)
            case wire.DevicesRequested():
                self._refresh_due.set()
            case wire.Negotiated():
                log.info("remote USB protocol version %d", event.version)
            case wire.Ignored():
                log.debug("! %s", event.reason)
            case wire.DevicesListed() | wire.DeviceFailed() | wire.UrbCompleted():
                raise AssertionError(f"not an event of the device side: {event}")
            case _:
                self._request(event)

    def _request(self, event: wire.DeviceRequest) -> None:
        """A request that may block: run it after those before it."""
        slot = self._slots.get(event.device)
        if slot is None:
            return
        if slot.is_busy:
            self._wait(slot, event)
            return
        slot.is_busy = True
        slot.queue.append(event)
        self._tasks.start(self._work(event.device, slot), f"requests to {slot.name}")

    def _wait(self, slot: _Slot, event: wire.DeviceRequest | wire.UrbSubmitted) -> None:
        if len(slot.queue) < MAX_REQUESTS_WAITING:
            slot.queue.append(event)
        elif isinstance(event, wire.UrbSubmitted):
            self._answer(event.device, event.urb.id, _GONE)

    def _open(self, number: int) -> None:
        offer = self._catalog.offers.get(number)
        slot = _Slot(str(offer.info) if offer else f"device {number}")
        self._slots[number] = slot
        self._tasks.start(self._work_open(number, slot), f"open {slot.name}")

    async def _work_open(self, number: int, slot: _Slot) -> None:
        try:
            slot.device = await self._catalog.open(number)
        except BackendError as error:
            self._report(f"cannot open {slot.name}: {error}")
            if self._slots.get(number) is slot:
                self._refuse(number, slot)
            return
        if not slot.is_closed:
            self._report(f"{slot.name} is in use by {self.config.server}")
        await self._work(number, slot)

    def _refuse(self, number: int, slot: _Slot) -> None:
        del self._slots[number]
        assert self._core is not None
        assert self._link is not None
        self._core.open_failed(number)
        for event in slot.queue:
            if isinstance(event, wire.UrbSubmitted):
                self._core.complete_urb(number, event.urb.id, _GONE)
        self._link.move()

    def _close(self, number: int) -> None:
        slot = self._slots.pop(number, None)
        if slot is None:
            return
        slot.is_closed = True
        slot.queue.clear()
        if not slot.is_busy:
            slot.is_busy = True
            self._tasks.start(self._work(number, slot), f"close {slot.name}")

    async def _work(self, number: int, slot: _Slot) -> None:
        """Run what waits, in order; a closed slot ends with the device given back."""
        device = slot.device
        assert device is not None
        while slot.queue and not slot.is_closed:
            event = slot.queue.popleft()
            if isinstance(event, wire.UrbSubmitted):
                self._submit(slot, number, event.urb)
                continue
            try:
                await self._execute(device, event)
            except DeviceGone as error:
                self._report(f"{slot.name} is gone: {error}")
                if self._core is not None and self._link is not None:
                    self._core.device_lost(number)
                    self._link.move()
            except BackendError as error:
                # vrdpusb.md C2: an answer would end the device for the session
                log.warning("%s: %s: %s", slot.name, event, error)
        if slot.is_closed:
            slot.device = None
            await device.aclose()
            self._report(f"{slot.name} was given back")
        else:
            slot.is_busy = False

    @staticmethod
    async def _execute(device: OpenDevice, event: wire.DeviceRequest) -> None:
        match event:
            case wire.DeviceReset():
                await device.reset()
            case wire.ConfigurationSet():
                await device.set_configuration(event.value)
            case wire.InterfaceClaimed():
                await device.claim_interface(event.interface)
            case wire.InterfaceReleased():
                await device.release_interface(event.interface)
            case wire.InterfaceSet():
                await device.set_interface(event.interface, event.alternate)
            case wire.HaltCleared():
                await device.clear_halt(event.endpoint)

    # ------------------------------------------------------------ URB path ----

    def _submit(self, slot: _Slot, number: int, urb: Urb) -> None:
        device = slot.device
        assert device is not None
        self._bytes += urb.length
        if self._bytes >= MAX_BYTES_IN_FLIGHT:
            self._pause_or_resume()
        device.submit(urb, partial(self._completed, number, urb.id, urb.length))

    def _completed(
        self, number: int, urb_id: int, length: int, result: UrbResult
    ) -> None:
        self._bytes -= length
        if self._is_paused:
            self._pause_or_resume()
        self._answer(number, urb_id, result)

    def _answer(self, number: int, urb_id: int, result: UrbResult) -> None:
        assert self._core is not None
        assert self._link is not None
        self._core.complete_urb(number, urb_id, result)
        self._link.move()

    def _cancel(self, event: wire.UrbCancelled) -> None:
        slot = self._slots.get(event.device)
        if slot is None:
            return
        for waiting in slot.queue:
            if isinstance(waiting, wire.UrbSubmitted) and (
                waiting.urb.id == event.urb_id
            ):
                slot.queue.remove(waiting)
                self._answer(event.device, event.urb_id, _CANCELLED)
                return
        if slot.device is not None:
            slot.device.cancel(event.urb_id)
