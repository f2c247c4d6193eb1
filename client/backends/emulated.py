"""Devices that are written in Python, plugged in by name.

Your own device is a subclass of :class:`EmulatedDevice`; this one counts the bytes that
are written to it, and reports the number::

    class Counter(EmulatedDevice):
        def __init__(self) -> None:
            endpoints = (bulk(0x81, Speed.HIGH), bulk(0x01, Speed.HIGH))
            interface = InterfaceDescriptor(0, 0, 0xFF, 0, 0, endpoints=endpoints)
            descriptors = describe(Speed.HIGH, 0x0010, interface)
            super().__init__(descriptors, ("Acme", "Counter", "1"))

        def data_out(self, endpoint: int, data: Data) -> bool:
            self.send(0x81, b"%d bytes" % len(data))
            return True

    EmulatedBackend(devices=[Counter()])
"""

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rusb.errors import BackendError, DeviceBusy, DeviceGone
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.urb import Completion, Urb, UrbResult, UrbStatus

from ._emulated.camera import Camera
from ._emulated.cdc_acm import SerialLoopback
from ._emulated.core import Data, EmulatedDevice
from ._emulated.describe import bulk, describe, interrupt, isochronous
from ._emulated.endpoints import FRAME
from ._emulated.flash_drive import FlashDrive
from ._emulated.keyboard import Keyboard
from ._emulated.loopback import Loopback
from ._emulated.microphone import Microphone

__all__ = [
    "PLUGIN",
    "Camera",
    "Data",
    "EmulatedBackend",
    "EmulatedDevice",
    "FlashDrive",
    "Keyboard",
    "Loopback",
    "Microphone",
    "SerialLoopback",
    "bulk",
    "describe",
    "interrupt",
    "isochronous",
]

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "flash-drive,keyboard,serial,loopback"

MAX_PORTS = 127
"""As many devices as a USB bus has addresses."""

POLL_SECONDS = 0.25
"""How often to look whether the image file of a drive was renamed."""

_GONE = UrbResult(UrbStatus.NO_DEVICE)
_SPEC = re.compile(r"(?P<kind>[a-z-]+)(=(?P<value>.*?))?(@(?P<port>\d{1,3}))?", re.S)
_SIZE = re.compile(r"(\d{1,6})([KMG])")
_MAKERS = {  # in the order of their product ids
    "flash-drive": FlashDrive,
    "keyboard": Keyboard,
    "serial": SerialLoopback,
    "loopback": Loopback,
    "microphone": Microphone,
    "camera": Camera,
}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Open(OpenDevice):
    """A device in use, until it is closed or unplugged."""

    def __init__(self, device: EmulatedDevice, closed: Callable[[], None]) -> None:
        self._device: EmulatedDevice | None = device
        self._closed = closed

    def submit(self, urb: Urb, complete: Completion) -> None:
        if self._device is None:
            complete(_GONE)
        else:
            self._device.submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        if self._device is not None:
            self._device.cancel(urb_id)

    def _here(self) -> EmulatedDevice:
        if self._device is None:
            raise DeviceGone("the emulated device was unplugged")
        return self._device

    async def set_configuration(self, value: int) -> None:
        if not self._here().set_configuration(value):
            raise BackendError(f"there is no configuration {value}")

    async def claim_interface(self, interface: int) -> None:
        if interface not in self._here().state.alternates:
            raise BackendError(f"there is no interface {interface} to claim")

    async def release_interface(self, interface: int) -> None:
        if interface not in self._here().state.alternates:
            raise BackendError(f"there is no interface {interface} to release")

    async def set_interface(self, interface: int, alternate: int) -> None:
        if not self._here().set_interface(interface, alternate):
            raise BackendError(f"interface {interface} has no setting {alternate}")

    async def clear_halt(self, endpoint: int) -> None:
        if not self._here().clear_halt(endpoint):
            raise BackendError(f"there is no endpoint {endpoint:#04x}")

    async def frame_number(self) -> int:
        self._here()
        return int(asyncio.get_running_loop().time() / FRAME)

    async def reset(self) -> None:
        self._here().reset_port()

    async def aclose(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.power_on()
            self._closed()

    def unplugged(self) -> None:
        """Answer NO_DEVICE from now on."""
        self._device = None


@dataclass(slots=True)
class _Plugged:
    """A device on the bus, and who uses it."""

    device: EmulatedDevice
    local: LocalDevice
    user: _Open | None = None

    def release(self) -> None:
        self.user = None


class _Image:
    """A flash drive that is plugged in while its image file is where it should be."""

    def __init__(self, path: Path, drive: FlashDrive) -> None:
        self.path = path
        self.drive = drive
        self.file: tuple[int, int] | None = None
        self.complaint = ""

    def look(self) -> tuple[int, int] | None:
        """Return which file is there now, None if none."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


class EmulatedBackend(DeviceBackend):
    """A bus of emulated devices; :meth:`plug` and ``unplug`` add and remove them.

    Args:
        address: ``KIND[=VALUE][@PORT]``, separated by commas; None: the first four of
            ``flash-drive`` (VALUE: an image file, or the size of a fresh image in
            memory such as 64M), ``keyboard``, ``serial``, ``loopback``, ``microphone``,
            ``camera``. A drive is unplugged when its image file is renamed or removed,
            and plugged in when it is back.
        devices: plug in these instead.

    Raises:
        BackendError: *address* cannot be understood, or an image is unusable.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        devices: Iterable[EmulatedDevice] | None = None,
    ) -> None:
        super().__init__(address)
        self._plugged: dict[EmulatedDevice, _Plugged] = {}
        self._images: list[_Image] = []
        self._kinds: list[str] = []
        self._count = 0
        self._changed: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        if devices is None:
            devices = map(self._make, (address or DEFAULT_ADDRESS).split(","))
        try:
            for device in list(devices):
                self.plug(device)
        except BackendError:
            for device in self.devices:
                self.unplug(device)
            raise
        for image in self._images:
            image.file = image.look()

    # ------------------------------------------------------------- plugging ----

    @property
    def devices(self) -> list[EmulatedDevice]:
        """The devices that are plugged in, in the order of plugging."""
        return list(self._plugged)

    def plug(self, device: EmulatedDevice) -> None:
        """Plug a device in; call it on the loop's thread.

        Raises:
            BackendError: it is plugged in already, its port or all ports are taken,
                or its image file cannot be used.
        """
        if device in self._plugged:
            raise BackendError("the device is plugged in already")
        taken = {p.local.info.port for p in self._plugged.values()}
        port = device.port or min(set(range(1, MAX_PORTS + 1)) - taken, default=0)
        if port in taken or not 1 <= port <= MAX_PORTS:
            raise BackendError(f"port {port} is taken, or not one of 1 to {MAX_PORTS}")
        device.attached()
        device.power_on()
        self._count += 1
        info = device.info(port, self._count % MAX_PORTS + 1)
        local = LocalDevice(
            f"{port}-{self._count}",
            info,
            has_isochronous=device.descriptors.has_isochronous,
        )
        self._plugged[device] = _Plugged(device, local)
        self._changed()

    def unplug(self, device: EmulatedDevice) -> None:
        """Unplug a device; its open URBs complete with NO_DEVICE. Idempotent."""
        plugged = self._plugged.pop(device, None)
        if plugged is None:
            return
        if plugged.user is not None:
            plugged.user.unplugged()
        device.power_off()
        device.detached()
        self._changed()

    # ---------------------------------------------------------- the contract ----

    async def list_devices(self) -> list[LocalDevice]:
        self._look_at_images()
        return [p.local for p in self._plugged.values()]

    async def open(self, device: LocalDevice) -> OpenDevice:
        for plugged in self._plugged.values():
            if plugged.local.key == device.key:
                break
        else:
            raise DeviceGone(f"{device.info} was unplugged")
        if plugged.user is not None:
            raise DeviceBusy(f"{device.info} is open already")
        plugged.user = _Open(plugged.device, plugged.release)
        return plugged.user

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        if self._images and self._timer is None:
            self._poll()

    async def aclose(self) -> None:
        self._changed = lambda: None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._images.clear()
        for device in self.devices:
            self.unplug(device)

    # ---------------------------------------------------------- image files ----

    def _poll(self) -> None:
        self._look_at_images()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(POLL_SECONDS, self._poll)

    def _look_at_images(self) -> None:
        """Unplug drives whose file has gone, plug in those that have one again."""
        for image in self._images:
            file = image.look()
            if file == image.file:
                continue
            self.unplug(image.drive)
            image.file = None
            if file is None:
                continue
            try:
                self.plug(image.drive)
            except BackendError as error:  # perhaps it is still being copied
                if str(error) != image.complaint:
                    log.warning("%s", error)
                image.complaint = str(error)
            else:
                image.file, image.complaint = file, ""

    # -------------------------------------------------------------- address ----

    def _make(self, spec: str) -> EmulatedDevice:
        match = _SPEC.fullmatch(spec.strip())
        if match is None:
            raise BackendError(f"emulated device {spec!r} is not KIND[=VALUE][@PORT]")
        kind, value, port = match["kind"], match["value"], int(match["port"] or 0)
        if kind not in _MAKERS:
            kinds = ", ".join(_MAKERS)
            raise BackendError(
                f"unknown emulated device {kind!r}; choose one of {kinds}"
            )
        same = self._kinds.count(kind)
        self._kinds.append(kind)
        # each kind's own default, unless there are several
        serial = f"52555342{same:02X}{list(_MAKERS).index(kind) + 1:02X}"
        if kind == "flash-drive" and value is not None:
            return self._make_drive(value, port, serial)
        if value is not None:
            raise BackendError(f"emulated device {kind!r} accepts no value")
        device: EmulatedDevice = _MAKERS[kind](port=port, serial=serial)
        return device

    def _make_drive(self, value: str, port: int, serial: str) -> FlashDrive:
        if size := _SIZE.fullmatch(value):
            count = int(size[1]) * _UNITS[size[2]]
            return FlashDrive(size=count, port=port, serial=serial)
        path = Path(value)
        drive = FlashDrive(path, port=port, serial=serial)
        self._images.append(_Image(path, drive))
        return drive


PLUGIN = EmulatedBackend
