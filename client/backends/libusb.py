"""Real devices, through libusb's asynchronous API (package libusb1).

Everything happens on the event loop: libusb's file descriptors are watched by it, and
completions are handed out from there. Only calls that block in the kernel (opening,
claiming, resetting) run in a worker thread, one at a time per device.
"""

import asyncio
import ctypes
import logging
import os
import select
from collections.abc import Callable, Sequence
from pathlib import Path

import libusb_package
import usb1

from rusb.errors import BackendError, DeviceBusy, DeviceGone, Hint, NoPermission
from rusb.oserrors import reason
from rusb.paths import state_folder
from rusb.usb.backend import DeviceBackend, LocalDevice, OpenDevice
from rusb.usb.device import DeviceInfo
from rusb.usb.types import ClassCode, DescriptorType, Speed, TransferType

from ._journal import Journal
from ._kernel_memory import KernelMemory, usable
from ._libusb_device import OpenUsbDevice
from ._sysfs import Sysfs, udev_rule
from ._transfers import EventHandler

__all__ = ["LibusbBackend"]

log = logging.getLogger(__name__)

RESCAN_SECONDS = 2.0
"""How often to look for new devices where libusb cannot tell of them."""

UDEV_SECONDS = 3.0
"""How long a new device without permission waits for udev, which gives it to its users
after the kernel has told of it."""

LOOK_AGAIN = (0.1, 0.4, 1.0, UDEV_SECONDS + 0.1)
"""Seconds after a plug event: the kernel binds drivers, udev applies its rules."""

_SPEEDS = {
    usb1.SPEED_LOW: Speed.LOW,
    usb1.SPEED_FULL: Speed.FULL,
    usb1.SPEED_HIGH: Speed.HIGH,
    usb1.SPEED_SUPER: Speed.SUPER,
    usb1.SPEED_SUPER + 1: Speed.SUPER,
}


def _load() -> None:
    """Load libusb once.

    usb1 does not list a device if libusb cannot parse one of its configurations; here
    such a configuration counts as one that is not there. Nobody here asks for it.
    """
    if not usb1.loadLibrary(ctypes.CDLL(str(libusb_package.get_library_path()))):
        return
    get = usb1.libusb1.libusb_get_config_descriptor

    def get_parsable(device: object, index: int, found: object) -> int:
        result: int = get(device, index, found)
        return min(result, 0) and usb1.ERROR_NOT_FOUND

    usb1.libusb1.libusb_get_config_descriptor = get_parsable


class LibusbBackend(DeviceBackend):
    """All devices of this machine that libusb sees, hubs left out.

    Args:
        address: not used; libusb needs none.
        sysfs: where to look for what libusb does not tell; other places in tests.
        state: folder of the journal of detached drivers.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        sysfs: Sysfs | None = None,
        state: Path | None = None,
    ) -> None:
        super().__init__(address)
        if address:
            raise BackendError(f"libusb accepts no address, but {address!r} was given")
        self._sysfs = sysfs or Sysfs()
        self._journal = Journal((state or state_folder()) / "detached", self._sysfs)
        self._context: usb1.USBContext | None = None
        self._devices: dict[str, usb1.USBDevice] = {}
        self._since: dict[str, float] | None = None  # when a device was seen first
        self._memory = KernelMemory(self._sysfs.usbfs_memory())
        self._open: set[OpenUsbDevice] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: Callable[[], None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._poll: select.epoll | None = None

    # ---------------------------------------------------------- event loop ----

    def _get_context(self) -> usb1.USBContext:
        """Open libusb and let the loop watch its file descriptors, once."""
        if self._context is not None:
            return self._context
        _load()
        self._loop = asyncio.get_running_loop()
        context = usb1.USBContext()
        try:
            context.open()
        except usb1.USBError as error:
            raise BackendError(
                f"libusb cannot be started: {error}; check that /dev/bus/usb exists"
            ) from error
        self._context = context
        self._poll = poll = select.epoll()
        context.setPollFDNotifiers(self._fd_added, self._fd_removed)
        for fd, events in context.getPollFDList():
            poll.register(fd, events)
        self._loop.add_reader(poll.fileno(), EventHandler(context))
        try:
            for line in self._journal.recover():
                log.warning("%s", line)
        except OSError as error:
            log.warning(
                "%s: %s: drivers that a killed client detached may be missing; plug"
                " their devices in again",
                *(self._journal.path, reason(error)),
            )
        return context

    def _fd_added(self, fd: int, events: int, user_data: object) -> None:
        """A device was opened, in whatever thread: one descriptor stands for all, so
        that events are handled once per turn of the loop."""
        assert self._poll is not None
        self._poll.register(fd, events)

    def _fd_removed(self, fd: int, user_data: object) -> None:
        assert self._poll is not None
        self._poll.unregister(fd)

    # -------------------------------------------------------------- devices ----

    async def list_devices(self) -> list[LocalDevice]:
        context = self._get_context()
        try:
            found = context.getDeviceList(skip_on_error=True)
        except usb1.USBError as error:
            raise BackendError(f"libusb cannot list devices: {error}") from error
        devices, listed, since = {}, [], {}
        known, now = self._since or {}, asyncio.get_running_loop().time()
        new = now if self._since is not None else now - UDEV_SECONDS  # there before us
        for device in found:
            if device.getDeviceClass() == ClassCode.HUB:
                continue
            local = self._describe(device)
            seen = since[local.key] = known.get(local.key, new)
            if now < seen + UDEV_SECONDS and self._is_denied(local.info):
                continue  # udev has not given it to its users yet
            devices[local.key] = device
            listed.append(local)
        self._devices, self._since = devices, since
        return sorted(listed, key=lambda d: (d.info.bus, d.info.address))

    def _describe(self, device: usb1.USBDevice) -> LocalDevice:
        bus, address = device.getBusNumber(), device.getDeviceAddress()
        path = tuple(device.getPortNumberList())
        name = _name_of(bus, path)
        info = DeviceInfo(
            id=0,
            vendor_id=device.getVendorID(),
            product_id=device.getProductID(),
            bcd_device=device.getbcdDevice(),
            bcd_usb=device.getbcdUSB(),
            device_class=device.getDeviceClass(),
            device_subclass=device.getDeviceSubClass(),
            device_protocol=device.getDeviceProtocol(),
            manufacturer=self._sysfs.text(name, "manufacturer"),
            product=self._sysfs.text(name, "product"),
            serial=self._sysfs.text(name, "serial"),
            speed=_SPEEDS.get(device.getDeviceSpeed(), Speed.UNKNOWN),
            port=path[-1] if path else 0,
            bus=bus,
            address=address,
            port_path=path,
        )
        descriptors = list(self._sysfs.descriptors(name))
        return LocalDevice(
            f"{name}@{address}",
            info,
            self._problem(name, info),
            self._kept(name, descriptors),
            any(map(is_isochronous, descriptors)),
        )

    def _kept(self, name: str, descriptors: Sequence[bytes]) -> str | None:
        """What this machine, or the connection, would lose with a device."""
        if any(map(is_boot_input, descriptors)):
            return "it is a keyboard or mouse of this machine"
        if (disk := self._sysfs.root_disk(name)) is not None:
            return f"the root file system is on it, {disk}"
        if self.peer and (found := self._sysfs.network(name, self.peer)) is not None:
            return f"it is the network adapter of this connection, {found}"
        return None

    def _is_denied(self, info: DeviceInfo) -> bool:
        node = self._sysfs.node(info.bus, info.address)
        return os.path.exists(node) and not os.access(node, os.R_OK | os.W_OK)

    def _problem(self, name: str, info: DeviceInfo) -> BackendError | None:
        if self._is_denied(info):
            rule = udev_rule(info.vendor_id, info.product_id)
            node = self._sysfs.node(info.bus, info.address)
            return NoPermission(f"no permission for {node}: {rule}")
        return self._busy(name)

    def _busy(self, name: str, before: str = "") -> DeviceBusy | None:
        in_use = None if self.force else self._sysfs.in_use(name)
        if in_use is None:
            return None
        busy = DeviceBusy(before + in_use)
        return busy.hinting(Hint.TAKE_FROM_SYSTEM)

    async def open(self, device: LocalDevice) -> OpenDevice:
        found = self._devices.get(device.key)
        if found is None:
            raise DeviceGone(f"{device.info} was unplugged")
        info = device.info
        name = _name_of(info.bus, info.port_path)
        if (busy := self._busy(name, f"{info}: ")) is not None:
            raise busy
        try:
            handle = await asyncio.to_thread(found.open)
        except usb1.USBErrorAccess as error:
            raise NoPermission(
                f"no permission to open {info}:"
                f" {udev_rule(info.vendor_id, info.product_id)}"
            ) from error
        except (usb1.USBErrorNoDevice, usb1.USBErrorNotFound) as error:
            raise DeviceGone(f"{info} was unplugged") from error
        except usb1.USBError as error:
            raise BackendError(f"cannot open {info}: {error}") from error
        opened = OpenUsbDevice(
            *(name, info.address, handle, self._sysfs, self._journal, self._memory),
            self._open.discard,
        )
        self._open.add(opened)
        return opened

    def limits(self) -> str | None:
        limit = self._sysfs.usbfs_memory()
        if not limit:
            return "usbfs does not limit the memory of transfers (usbfs_memory_mb is 0)"
        return (
            f"usbfs lends {limit >> 20} MiB to the transfers of all programs"
            f" (usbfs_memory_mb); rusb uses at most {usable(limit) >> 20} MiB of it,"
            " and further transfers wait"
        )

    # ------------------------------------------------------------- hot-plug ----

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        context = self._get_context()
        try:
            if context.hasCapability(usb1.CAP_HAS_HOTPLUG):
                context.hotplugRegisterCallback(self._plugged, flags=0)
                return
        except usb1.USBError as error:
            log.warning("libusb cannot report new devices: %s; polling instead", error)
        self._rescan()

    def _plugged(
        self, context: usb1.USBContext, device: usb1.USBDevice, event: int
    ) -> bool:
        """Tell at once, and again when kernel and udev have done their part."""
        assert self._loop is not None
        if self._changed is not None:
            self._loop.call_soon(self._changed)
            for timer in self._timers:  # those of this event come later
                timer.cancel()
            self._timers = [self._loop.call_later(s, self._changed) for s in LOOK_AGAIN]
        return False

    def _rescan(self) -> None:
        assert self._loop is not None
        if self._changed is not None:
            self._changed()
            self._timers = [self._loop.call_later(RESCAN_SECONDS, self._rescan)]

    async def aclose(self) -> None:
        self._changed = None
        for timer in self._timers:
            timer.cancel()
        for opened in list(self._open):
            await opened.aclose()
        context, self._context = self._context, None
        if context is not None:
            self._devices.clear()
            assert self._loop is not None
            assert self._poll is not None
            self._loop.remove_reader(self._poll.fileno())
            context.close()
            self._poll.close()


def is_boot_input(descriptor: bytes) -> bool:
    """Is it the interface of a boot keyboard or mouse (HID 1.11, 4.2, 4.3)?"""
    return (
        len(descriptor) > 7
        and descriptor[1] == DescriptorType.INTERFACE
        and tuple(descriptor[5:8]) in ((ClassCode.HID, 1, 1), (ClassCode.HID, 1, 2))
    )


def is_isochronous(descriptor: bytes) -> bool:
    """Is it that of an isochronous endpoint?"""
    return (
        len(descriptor) > 3
        and descriptor[1] == DescriptorType.ENDPOINT
        and descriptor[3] & 3 == TransferType.ISOCHRONOUS
    )


def _name_of(bus: int, path: tuple[int, ...]) -> str:
    """The kernel's name of a device: ``1-2.4``."""
    return f"{bus}-{'.'.join(map(str, path)) or '0'}"


PLUGIN = LibusbBackend
