"""A device that a program offers by usbredir, such as Debian's ``usbredirect --as``.

A connection has one device, and the device is there as long as the connection is.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from rusb.aio.tasks import TaskSet
from rusb.errors import BackendError, DeviceBusy, DeviceGone
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.wire.usbredir import UsbredirGuestSide

from ._stream import Connection, Place, StreamDevice

__all__ = ["UsbredirBackend"]

log = logging.getLogger(__name__)

REDIAL_SECONDS = 3.0
"""How often it is tried whether there is a device again."""


class UsbredirBackend(DeviceBackend):
    """The device at the other end of one connection.

    Args:
        address: ``HOST:PORT``.
    """

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._place = Place(address, "usbredir")
        self._connection: Connection | None = None
        self._is_lent = False
        self._local: LocalDevice | None = None
        self._count = 0
        self._dialling = asyncio.Lock()
        self._changed: Callable[[], None] = lambda: None
        self._tasks = TaskSet()
        self._is_closed = False

    async def list_devices(self) -> list[LocalDevice]:
        """Connect, for the first time.

        Raises:
            BackendError: there has never been a device: this is why.
        """
        if not self._count:  # later on, dialling is done behind our back
            await self._connect()
        return [self._local] if self._local is not None else []

    async def open(self, device: LocalDevice) -> OpenDevice:
        """Use the device at the other end."""
        local, connection = self._local, self._connection
        if connection is None or local is None or local.key != device.key:
            raise DeviceGone(f"{device.info} is not offered by {self._place} any more")
        if self._is_lent:
            raise DeviceBusy(f"{device.info} is open already")
        self._is_lent = True
        return StreamDevice(connection, partial(self._closed, connection))

    def watch(self, changed: Callable[[], None]) -> None:
        """Dial again when the device has gone."""
        self._changed = changed
        self._tasks.start(self._redial(), "dial a usbredir program")

    async def aclose(self) -> None:
        """Hang up."""
        self._is_closed = True
        self._changed = lambda: None
        await self._tasks.aclose()
        if self._connection is not None:
            self._connection.complete_all()
            self._connection.hang_up()
            self._connection = self._local = None

    # --------------------------------------------------------------- our own ----

    async def _connect(self) -> None:
        async with self._dialling:
            if self._connection is not None or self._is_closed:
                return
            connection = Connection(
                UsbredirGuestSide(),
                f"usbredir at {self._place}",
                on_lost=lambda: self._lost(connection),
            )
            try:
                await self._place.connect(lambda: connection)
                info, has_isochronous = await connection.describe(
                    await connection.found()
                )
            except BaseException:
                connection.hang_up()
                raise
            if connection.is_over:
                raise BackendError(f"usbredir at {self._place}: it hung up")
            self._count += 1
            self._connection, self._is_lent = connection, False
            self._local = LocalDevice(
                f"{self._place}#{self._count}", info, has_isochronous=has_isochronous
            )

    async def _redial(self) -> None:
        while True:
            await asyncio.sleep(REDIAL_SECONDS)
            if self._connection is None:
                try:
                    await self._connect()
                except BackendError as error:
                    log.debug("%s", error)
                else:
                    self._changed()

    async def _closed(self, connection: Connection) -> None:
        """Leave the device as the next one expects it: the other end keeps it."""
        try:
            await connection.ask("reset the device", connection.core.reset_device)
        except BackendError as error:
            log.debug("%s", error)
        if connection is self._connection:
            self._is_lent = False

    def _lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = self._local = None
            self._changed()


PLUGIN = UsbredirBackend
