"""USB/IP clients as guests: what RDP clients bring is exported (docs/spec/usbip.md).

``usbip attach`` of any Linux, and the clients of Windows and VirtualBox, take a device
from here; each has it alone. The protocol knows neither passwords nor encryption.
"""

import asyncio
import logging
from typing import cast

from rusb.errors import GuestError, RemoteProtocolError
from rusb.usb.types import Speed
from rusb.wire.usbip import Export, Place, Record, UsbipDeviceSide

from ._listening import listen, parse_place
from ._stream import DeviceStream
from .base import AttachedDevice, GuestBackend

__all__ = ["UsbipGuest"]

log = logging.getLogger(__name__)

PORT = 3240
"""USB/IP's own."""

REQUEST_TIMEOUT = 10.0
"""Seconds until a client must have said what it wants (11)."""

MAX_CALLERS = 64
"""Clients that have not said yet what they want; further ones are hung up on."""

MAX_PORT = 255
"""Devices of one bus (2.1)."""


class _Exported:
    """A device, and the client that has imported it."""

    def __init__(self, device: AttachedDevice, place: Place) -> None:
        self.device = device
        self.place = place
        self.stream: DeviceStream | None = None

    def ended(self) -> None:
        """The client has detached it: the next one finds it as it was."""
        stream, self.stream = self.stream, None
        if stream is not None and stream.was_used:
            self.device.reset()


class _Caller(asyncio.Protocol):
    """A client that has not said yet what it wants."""

    def __init__(self, guest: "UsbipGuest") -> None:
        self._guest = guest
        self._request = Export()
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give it some time."""
        self.transport = cast(asyncio.Transport, transport)
        if len(self._guest.callers) >= MAX_CALLERS:
            self.transport.abort()
            return
        self._guest.callers.add(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(REQUEST_TIMEOUT, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answer, or hand the connection over to the device."""
        assert self.transport is not None
        try:
            wanted = self._request.receive(data)
        except RemoteProtocolError as error:
            log.info("a USB/IP client: %s", error)
            self.transport.abort()
            return
        if wanted is None:
            return
        if wanted.busid is None:
            self.transport.write(self._request.list_reply(self._guest.records()))
            self.transport.close()
        else:
            self._import(wanted.busid)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went, or has what it wanted."""
        self._leave()

    def _leave(self) -> None:
        self._guest.callers.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _import(self, busid: str) -> None:
        transport = self.transport
        assert transport is not None
        found = self._guest.exported(busid)
        if found is None or found.stream is not None:
            status = Export.NO_DEVICE if found is None else Export.BUSY
            transport.write(self._request.refusal(status))
            transport.close()
            return
        self._leave()
        core = UsbipDeviceSide(found.place)
        found.stream = stream = DeviceStream(found.device, core, on_ended=found.ended)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        stream.data_received(self._request.received)


class UsbipGuest(GuestBackend):
    """Exports devices at a TCP port.

    Args:
        address: ``[ADDRESS:]PORT``; None: 127.0.0.1:3240.

    Attributes:
        callers: clients that have not said yet what they want.
    """

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self._address, self._port = parse_place(address or "", PORT)
        self._server: asyncio.Server | None = None
        self._exported: dict[str, _Exported] = {}
        self.callers: set[_Caller] = set()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return self._port

    async def start(self) -> None:
        """Listen."""
        self._server = await listen(self._address, self._port, lambda: _Caller(self))
        self._port = self._server.sockets[0].getsockname()[1]

    async def attach(self, device: AttachedDevice) -> str:
        """Export the device; a client imports it when it wants to."""
        bus = 2 if device.info.speed is Speed.SUPER else 1
        taken = {e.place for e in self._exported.values()}
        free = (Place(bus, port) for port in range(1, MAX_PORT + 1))
        place = next((place for place in free if place not in taken), None)
        if place is None:
            raise GuestError(f"{MAX_PORT} devices are exported already")
        self._exported[place.busid] = _Exported(device, place)
        return f"busid {place.busid} at {self._address} port {self._port}"

    async def detach(self, device: AttachedDevice) -> None:
        """Take it away from the client that has it."""
        for busid, exported in list(self._exported.items()):
            if exported.device is device:
                del self._exported[busid]
                if exported.stream is not None:
                    await exported.stream.aclose()

    async def aclose(self) -> None:
        """Take everything away."""
        if self._server is not None:
            self._server.close()
        for caller in list(self.callers):
            if caller.transport is not None:
                caller.transport.abort()
        await asyncio.sleep(0)  # they end in the loop's next turn
        for exported in list(self._exported.values()):
            await self.detach(exported.device)

    def exported(self, busid: str) -> _Exported | None:
        """The device of that busid."""
        return self._exported.get(busid)

    def records(self) -> list[Record]:
        """What is exported, as clients are told of it."""
        return [
            Record.of(e.place, e.device.info, e.device.descriptors)
            for e in self._exported.values()
        ]


PLUGIN = UsbipGuest
