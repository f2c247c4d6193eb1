"""The Linux kernel of this machine as the guest, by vhci_hcd (docs/spec/usbip.md 8).

A remote device appears as one that is plugged in here: in ``lsusb``, as ``/dev/sda`` or
``/dev/ttyUSB0``. The kernel speaks USB/IP with one end of a socket pair.
"""

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import GuestError
from rusb.oserrors import reason
from rusb.usb.types import Speed
from rusb.wire.usbip import Place, UsbipDeviceSide

from ._stream import DeviceStream
from .base import AttachedDevice, GuestBackend

__all__ = ["Vhci", "VhciGuest", "VhciPort", "parse_status"]

log = logging.getLogger(__name__)

DRIVER = Path("/sys/devices/platform/vhci_hcd.0")

FREE, IN_USE = 4, 6
"""States of a port."""

ATTACH_TIMEOUT = 10.0
"""Seconds until the kernel must have given the device an address."""

DETACH_TIMEOUT = 3.0

POLL = 0.05

SPEEDS = {Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 5}


@dataclass(frozen=True, slots=True)
class VhciPort:
    """A port of vhci_hcd, as its status tells.

    Attributes:
        number: over all controllers.
        state: 4 free, 5 not addressed yet, 6 in use, 7 error.
        is_super: it is one of the SuperSpeed hub.
    """

    number: int
    state: int
    is_super: bool


def parse_status(text: str) -> list[VhciPort]:
    """Read the ports of one status file; lines of another form are skipped."""
    ports = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["hs"], ["ss"]) and len(words) > 2:
            with contextlib.suppress(ValueError):
                is_super = words[0] == "ss"
                ports.append(VhciPort(int(words[1]), int(words[2]), is_super))
    return ports


class Vhci:
    """The files of the driver.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path = DRIVER) -> None:
        self._folder = folder

    def ports(self) -> list[VhciPort]:
        """All ports of all controllers; none where there is no driver."""
        files = sorted(self._folder.glob("status*"))
        return [port for file in files for port in parse_status(file.read_text())]

    def check_access(self) -> None:
        """Raise OSError where we may not plug anything in."""
        with (self._folder / "attach").open("w"):
            pass

    def attach(self, port: int, sock: socket.socket, devid: int, speed: int) -> None:
        """Give the kernel its end of a connection."""
        line = f"{port} {sock.fileno()} {devid} {speed}"
        (self._folder / "attach").write_text(line)


class _Plugged:
    """A device at a port."""

    def __init__(self, device: AttachedDevice, port: int) -> None:
        self.device = device
        self.port = port
        self.stream: DeviceStream | None = None
        self.is_in = False


class VhciGuest(GuestBackend):
    """Plugs devices into this machine; that is root's business.

    Args:
        address: none.
        driver: its files.
    """

    def __init__(
        self, address: str | None = None, *, driver: Vhci | None = None
    ) -> None:
        super().__init__(address)
        if address:
            raise GuestError("the guest vhci has no address: it is this machine")
        self._driver = driver or Vhci()
        self._plugged: list[_Plugged] = []
        self._attaching = asyncio.Lock()

    async def start(self) -> None:
        """See whether the driver is there and ours to use.

        Raises:
            GuestError: it is not, and how to change that.
        """
        self._ports()
        try:
            self._driver.check_access()
        except OSError as error:
            raise GuestError(
                f"cannot use vhci_hcd of this machine: {reason(error)}; run the server"
                " as root"
            ) from error

    async def attach(self, device: AttachedDevice) -> str:
        """Plug the device into a free port and wait until the kernel has taken it.

        Raises:
            GuestError: no port is free, or the kernel does not take it.
        """
        try:
            async with self._attaching:  # ports are chosen by us
                plugged = await self._plug_in(device)
            await self._wait_until_in(plugged)
        except BaseException:
            await self.detach(device)
            raise
        plugged.is_in = True
        return f"port {plugged.port} of vhci_hcd"

    async def detach(self, device: AttachedDevice) -> None:
        """Unplug it, and wait until its port is free."""
        for plugged in [p for p in self._plugged if p.device is device]:
            self._plugged.remove(plugged)
            if plugged.stream is not None:
                await plugged.stream.aclose()
            await self._free(plugged.port)

    async def aclose(self) -> None:
        """Unplug everything."""
        for plugged in list(self._plugged):
            await self.detach(plugged.device)

    # ------------------------------------------------------------- our own ----

    def _ports(self) -> list[VhciPort]:
        """All ports of all controllers."""
        try:
            ports = self._driver.ports()
        except OSError as error:
            raise GuestError(f"vhci_hcd: {reason(error)}") from error
        if not ports:
            raise GuestError(
                "the kernel of this machine has no vhci_hcd: load it with 'modprobe"
                " vhci-hcd' (a part of Linux; Debian's cloud kernels lack it)"
            )
        return ports

    async def _plug_in(self, device: AttachedDevice) -> _Plugged:
        speed = SPEEDS.get(device.info.speed, SPEEDS[Speed.HIGH])
        is_super = device.info.speed is Speed.SUPER
        free = [p for p in self._ports() if p.state == FREE and p.is_super == is_super]
        why = "all of its ports for this speed are in use"
        for port in free[:4]:  # another program may take one meanwhile
            place = Place(1, port.number % 255 + 1)
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    self._driver.attach(port.number, theirs, place.devid, speed)
            except OSError as error:
                ours.close()
                why = reason(error)
                continue
            self._plugged.append(plugged := _Plugged(device, port.number))
            ours.setblocking(False)
            plugged.stream = await DeviceStream.over(
                ours,
                device,
                UsbipDeviceSide(place, is_imported=True),
                on_ended=lambda: self._hung_up(plugged),
            )
            return plugged
        raise GuestError(f"vhci_hcd does not take {device.info}: {why}")

    def _state(self, number: int) -> int:
        return next((p.state for p in self._ports() if p.number == number), FREE)

    async def _wait_until_in(self, plugged: _Plugged) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + ATTACH_TIMEOUT
        while self._state(plugged.port) != IN_USE:
            if plugged not in self._plugged or loop.time() > end:
                raise GuestError(
                    f"the kernel of this machine did not take {plugged.device.info};"
                    " its log (dmesg) says why"
                )
            await asyncio.sleep(POLL)

    async def _free(self, number: int) -> None:
        """The kernel unplugs when the connection ends; see that it does."""
        end = asyncio.get_running_loop().time() + DETACH_TIMEOUT
        with contextlib.suppress(GuestError):
            while self._state(number) != FREE:
                if asyncio.get_running_loop().time() > end:
                    break
                await asyncio.sleep(POLL)
            else:
                return
        log.warning(
            "port %d of vhci_hcd stays in use: 'usbip detach -p %d' frees it",
            number,
            number,
        )

    def _hung_up(self, plugged: _Plugged) -> None:
        """The kernel hung up: somebody has detached it."""
        if plugged in self._plugged:
            self._plugged.remove(plugged)
            if plugged.is_in:
                self._lost(plugged.device, "detached from vhci_hcd of this machine")


PLUGIN = VhciGuest
