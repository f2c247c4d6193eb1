"""The list of devices as a server knows of it: what is offered, over which wire."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial

from rusb.aio.link import WireLink
from rusb.usb.backend import LocalDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.types import TransferType
from rusb.wire import base as wire

from .devices import DeviceCatalog, KnownDevice, Standing
from .events import (
    DeviceLeftOut,
    DeviceNotOpened,
    DeviceOffered,
    DeviceWithdrawn,
    SessionEvent,
)
from .slots import DeviceSlots

__all__ = ["Offers"]

log = logging.getLogger(__name__)

OPEN_SECONDS = 15.0
"""After it was offered, a device that the server has not opened is named."""

FURTHER_SECONDS = 5.0
"""After the first wire, seconds for one that carries more to open: isochronous devices
wait for it."""


@dataclasses.dataclass(slots=True, eq=False)
class _Wire:
    """A wire that is taken, and what the server has opened over it."""

    protocol: wire.WireProtocol
    core: wire.DeviceSide
    link: WireLink
    slots: DeviceSlots
    is_full: bool = False  # the server asks too much of it

    @property
    def is_isochronous(self) -> bool:
        return TransferType.ISOCHRONOUS in self.protocol.transfer_types


class Offers:
    """Offers the devices of a catalog over the wires that a server has.

    Args:
        catalog: the devices; it is watched, and not closed.
        server: its name, for messages.
        on_event: gets what happens to devices.
        on_full: called when :attr:`is_full` may have changed.
        may_take_more: may the server yet turn out to have a further wire?
    """

    def __init__(
        self,
        catalog: DeviceCatalog,
        *,
        server: str,
        on_event: Callable[[SessionEvent], None],
        on_full: Callable[[], None],
        may_take_more: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._server = server
        self._on_event = on_event
        self._on_full = on_full
        self._may_take_more = may_take_more
        self._taken: list[_Wire] = []
        self._way: dict[int, _Wire] = {}  # of each device that is offered
        self._may_wait = True  # for a wire that carries isochronous devices
        self._known: dict[int, KnownDevice] = {}  # as the server knows of them
        self._reminders: set[asyncio.TimerHandle] = set()
        self._further: asyncio.TimerHandle | None = None
        self._refresh_due = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Does the server ask too much?"""
        return any(one.is_full for one in self._taken)

    def is_open(self, device: int) -> bool:
        """Does the server have it in use?"""
        return any(one.slots.is_open(device) for one in self._taken)

    def find(self, device: int) -> DeviceInfo | None:
        """Return what the server knows by an id."""
        known = self._known.get(device)
        return None if known is None else known.info

    def refresh(self) -> None:
        """Look at the devices soon, and offer what is new."""
        self._refresh_due.set()

    async def keep(self) -> None:
        """Announce the list when the server asks and when something changes."""
        self._catalog.watch(self.refresh)
        while True:
            await self._refresh_due.wait()
            self._refresh_due.clear()
            await self._announce()

    def take(
        self, protocol: wire.WireProtocol, core: wire.DeviceSide, link: WireLink
    ) -> Callable[[wire.Event], None]:
        """It is known that the server has this wire."""

        def on_full(is_full: bool) -> None:
            taken.is_full = is_full
            self._on_full()

        slots = DeviceSlots(
            self._catalog,
            core,
            link.flush,
            send_beside=link.send_beside,
            on_full=on_full,
            on_event=self._on_event,
            server=self._server,
        )
        if protocol.channel.kind is wire.ChannelKind.STATIC:
            link.beside = slots.take_beside
        taken = _Wire(protocol, core, link, slots)
        self._taken.append(taken)
        if self._further is None:
            loop = asyncio.get_running_loop()
            self._further = loop.call_later(FURTHER_SECONDS, self._wait_no_more)
        return partial(self._dispatch, slots)

    async def drop(self, *, but: WireLink | None = None) -> None:
        """Wires are gone: their devices are given back, and may be offered anew.

        Args:
            but: of the wire that stays.
        """
        gone = [one for one in self._taken if one.link is not but]
        self._taken = [one for one in self._taken if one.link is but]
        for one in gone:
            await one.slots.aclose()
        self._way = {n: way for n, way in self._way.items() if way not in gone}
        self._may_wait = True
        if self._further is not None:
            self._further.cancel()
            self._further = None
        if self._taken:
            loop = asyncio.get_running_loop()
            self._further = loop.call_later(FURTHER_SECONDS, self._wait_no_more)
        self._on_full()

    def end(self) -> None:
        """The session is over: nothing is named any more. Idempotent."""
        for reminder in self._reminders:
            reminder.cancel()
        if self._further is not None:
            self._further.cancel()

    async def aclose(self) -> None:
        """Close every device and give it back. Idempotent."""
        self.end()
        async with contextlib.AsyncExitStack() as rest:
            for one in reversed(self._taken):
                rest.push_async_callback(one.slots.aclose)

    # -------------------------------------------------------------- our own ----

    def _wait_no_more(self) -> None:
        self._may_wait = False
        self._refresh_due.set()

    async def _announce(self) -> None:
        if not self._taken:
            return  # the wire asks for the list as soon as there is one
        before = self._known
        offered = await self._catalog.refresh()
        if not self._taken:
            return
        after = self._known = self._catalog.known
        new = self._choose_ways(offered)
        for number, known in after.items():
            was = before.get(number)
            if known.standing is Standing.LEFT_OUT and not (
                was is not None and was.standing is Standing.LEFT_OUT
            ):
                self._on_event(DeviceLeftOut(known.info, known.device.kept or ""))
        for number, way in list(self._way.items()):
            if not _is_offered(after.get(number)):
                del self._way[number]
                self._take_back(before[number].info, way, is_there=number in after)
        for taken in self._taken:
            taken.core.announce([i for i in offered if self._way.get(i.id) is taken])
            taken.link.flush()
        if new:
            loop = asyncio.get_running_loop()
            self._reminders = {r for r in self._reminders if r.when() > loop.time()}
            later = loop.call_later(OPEN_SECONDS, self._remind, new)
            self._reminders.add(later)

    def _choose_ways(self, offered: Sequence[DeviceInfo]) -> list[DeviceInfo]:
        """Give each device a wire, on which it stays; return those that are new."""
        new = [info for info in offered if info.id not in self._way]
        for info in list(new):
            device = self._known[info.id].device
            way = self._way_of(device)
            if way is None:
                new.remove(info)
                continue
            self._way[info.id] = way
            lacks = device.has_isochronous and not way.is_isochronous
            self._on_event(DeviceOffered(info, device.problem, lacks))
        return new

    def _way_of(self, device: LocalDevice) -> _Wire | None:
        """Return the wire for a device, None while a better one may come."""
        if device.has_isochronous:
            for one in self._taken:
                if one.is_isochronous:
                    return one
            if self._may_wait and self._may_take_more():
                return None
        return self._taken[0]

    def _take_back(self, info: DeviceInfo, way: _Wire, *, is_there: bool) -> None:
        """The server has had a device that is no longer offered."""
        if is_there:
            way.slots.withdraw(info.id)
            self._on_event(DeviceWithdrawn(info))
        else:
            way.slots.lose(info)
        way.core.device_lost(info.id)

    def _remind(self, offered: Sequence[DeviceInfo]) -> None:
        """Name what the server did not open: it has no message that says why."""
        for info in offered:
            way = self._way.get(info.id)
            if way is None or info.id not in self._catalog.offers:
                continue
            if not way.slots.was_opened(info.id):
                self._on_event(DeviceNotOpened(info, self._server))

    def _dispatch(self, slots: DeviceSlots, event: wire.Event) -> None:
        match event:
            case wire.UrbSubmitted():  # first: it comes with each transfer
                slots.start(event)
            case wire.DevicesRequested():
                self._refresh_due.set()
            case wire.Negotiated():
                log.info("remote USB protocol version %d", event.version)
            case wire.Ignored():
                log.debug("! %s", event.reason)
            case _:
                slots.handle(event)


def _is_offered(known: KnownDevice | None) -> bool:
    return known is not None and known.standing is Standing.OFFERED
