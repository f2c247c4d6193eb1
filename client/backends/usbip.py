"""Devices of any USB/IP server: Linux's usbipd, usbipd-win, ours (docs/spec/usbip.md).

The server tells nothing of itself, so it is asked for its list again and again.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from rusb.aio.tasks import TaskSet
from rusb.errors import BackendError, DeviceBusy, DeviceGone, RemoteProtocolError
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.types import ClassCode
from rusb.wire.usbip import DeviceList, Record, UsbipGuestSide, list_request

from ._stream import CONNECT_TIMEOUT, Connection, Place, StreamDevice

__all__ = ["UsbipBackend"]

log = logging.getLogger(__name__)

PORT = 3240
"""USB/IP's own."""

POLL_SECONDS = 3.0
"""How often the server is asked what it has; VirtualBox asks as often."""

IMPORT_SECONDS, IMPORT_PAUSE = 3.0, 0.2
"""How long an import is tried that the server refuses, and how often: Linux resets a
device that was given back, and does not export it until then."""

LOOK_SECONDS, LOOKS_AT_ONCE = 10.0, 8
"""For all devices of a list that have to be imported to see what they are."""

_ISOCHRONOUS = {ClassCode.AUDIO, ClassCode.VIDEO}
"""Classes of interfaces that have isochronous endpoints; lists have no endpoints."""


class _Asking(asyncio.Protocol):
    """Asks a server for its list."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._list = DeviceList()
        self._transport: asyncio.Transport | None = None
        self.records: asyncio.Future[tuple[Record, ...]] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(list_request())

    def data_received(self, data: bytes) -> None:
        if self.records.done():
            return
        try:
            records = self._list.receive(data)
        except RemoteProtocolError as error:
            self._fail(str(error))
        else:
            if records is not None:
                self.records.set_result(records)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("it hung up before the end of its list")

    def _fail(self, why: str) -> None:
        if not self.records.done():
            self.records.set_exception(
                BackendError(f"USB/IP server {self._peer}: {why}")
            )

    def close(self) -> None:
        """Hang up."""
        self.records.cancel()
        if self._transport is not None:
            self._transport.abort()


class UsbipBackend(DeviceBackend):
    """What a USB/IP server exports.

    Linux's server lists a device without its interfaces, and not at all while somebody
    has it. So such a device is imported for a moment when it is seen first, to read
    what it is; and what is in use here is there, whatever the server says.

    Args:
        address: ``HOST[:PORT]``; the port is 3240.
    """

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._place = Place(address, "usbip", PORT)
        self._known: dict[str, LocalDevice] = {}  # what the server has, by key
        self._open: dict[str, tuple[LocalDevice, Connection]] = {}
        self._listed: list[str] | None = None  # keys, as they were listed last
        self._listing = asyncio.Lock()
        self._changed: Callable[[], None] = lambda: None
        self._tasks = TaskSet()

    async def list_devices(self) -> list[LocalDevice]:
        """Ask the server."""
        async with self._listing:
            records = {
                _key(record): record
                for record in await self._ask()
                if record.info.device_class != ClassCode.HUB
            }
            new = {k: record for k, record in records.items() if k not in self._known}
            looked = self._known | await self._look_at_all(new)
            found = {key: looked[key] for key in records}
            found |= {key: local for key, (local, _) in self._open.items()}
            self._known, self._listed = found, sorted(found)
            return [found[key] for key in self._listed]

    async def open(self, device: LocalDevice) -> OpenDevice:
        """Import it: nobody else has it until it is closed."""
        if device.key not in self._known:
            raise DeviceGone(f"{device.info} is not exported by {self._place} any more")
        if device.key in self._open:
            raise DeviceBusy(f"{device.info} is open already")
        connection = await self._import(device.key, device.info)
        self._open[device.key] = device, connection

        async def closed() -> None:
            connection.hang_up()
            if self._open.get(device.key, (None, None))[1] is connection:
                del self._open[device.key]

        return StreamDevice(connection, closed)

    def watch(self, changed: Callable[[], None]) -> None:
        """Ask the server now and then."""
        self._changed = changed
        self._tasks.start(self._poll(), "poll a USB/IP server")

    async def aclose(self) -> None:
        """Hang up."""
        self._changed = lambda: None
        await self._tasks.aclose()
        for _, connection in self._open.values():
            connection.complete_all()
            connection.hang_up()
        self._open.clear()

    # --------------------------------------------------------------- our own ----

    async def _ask(self) -> tuple[Record, ...]:
        asking = _Asking(str(self._place))
        try:
            await self._place.connect(lambda: asking)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await asking.records
        except TimeoutError:
            raise BackendError(f"{self._place} does not answer") from None
        finally:
            asking.close()

    async def _look_at_all(self, records: dict[str, Record]) -> dict[str, LocalDevice]:
        """See what devices are, by what is listed or by the devices themselves."""
        found = {key: _listed(key, record) for key, record in records.items()}
        late = {key for key, record in records.items() if not record.interfaces}
        places = asyncio.Semaphore(LOOKS_AT_ONCE)
        looks = TaskSet()

        async def look(key: str) -> None:
            async with places:
                found[key] = await self._look(found[key])
            late.discard(key)

        for key in sorted(late):
            looks.start(look(key), f"look at {key}")
        try:
            await looks.drain(LOOK_SECONDS)
        finally:
            await looks.aclose()
        if late:
            log.warning(
                "%d of the devices of %s did not say within %g s what they are; they"
                " are listed without names",
                *(len(late), self._place, LOOK_SECONDS),
            )
        return found

    async def _look(self, local: LocalDevice) -> LocalDevice:
        """See what a device is by importing it for a moment."""
        try:
            connection = await self._import(local.key, local.info)
        except BackendError as error:
            log.debug("%s", error)
            return local
        try:
            info, has_isochronous = await connection.describe(local.info)
        finally:
            connection.hang_up()
        return replace(local, info=info, has_isochronous=has_isochronous)

    async def _import(self, key: str, info: DeviceInfo) -> Connection:
        """Import a device; one that was just given back takes a moment."""
        busid = key.rpartition("@")[0]
        peer = f"device {busid} of {self._place}"
        end = asyncio.get_running_loop().time() + IMPORT_SECONDS
        while True:
            connection = Connection(
                UsbipGuestSide(busid), peer, on_lost=lambda: self._lost(key)
            )
            try:
                await self._place.connect(lambda: connection)  # noqa: B023
                found = await connection.found()
                same = found.vendor_id, found.product_id
                if same != (info.vendor_id, info.product_id):
                    raise DeviceGone(f"{peer} is another device now: {found}")
                return connection
            except BaseException as error:
                connection.hang_up()
                now = asyncio.get_running_loop().time()
                may_help = isinstance(error, BackendError) and connection.was_refused
                if not may_help or now > end:
                    raise
                log.debug("%s", error)
            await asyncio.sleep(IMPORT_PAUSE)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            before = self._listed
            try:
                await self.list_devices()
            except BackendError as error:
                log.debug("%s", error)
                self._listed = None
            if self._listed != before:
                self._changed()

    def _lost(self, key: str) -> None:
        if self._open.pop(key, None) is not None:
            self._changed()


def _key(record: Record) -> str:
    """A device that is plugged in again has another number."""
    info = record.info
    place = f"{record.busid}@{record.bus}.{record.address}"
    return f"{place} {info.vendor_id:04x}:{info.product_id:04x}"


def _listed(key: str, record: Record) -> LocalDevice:
    """What a list says of a device."""
    ports = _ports(record.busid)
    info = replace(record.info, port_path=ports, port=ports[-1] if ports else 0)
    classes = {code for code, _, _ in record.interfaces}
    return LocalDevice(key, info, has_isochronous=not classes.isdisjoint(_ISOCHRONOUS))


def _ports(busid: str) -> tuple[int, ...]:
    """The ports that a device's name says: ``2-1.3``."""
    path = busid.partition("-")[2].split(".")
    return tuple(int(p) for p in path if p.isascii() and p.isdigit() and len(p) < 4)


PLUGIN = UsbipBackend
